"""Wait for a moment of a garbage collection."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from components.render.registry_command import PAUSE


def until(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_pause(store: Path, since: float) -> None:
    """Wait until a collection asks for a pause. The file also holds what a killed collection asked for before."""
    request = store / PAUSE
    until(lambda: request.exists() and request.stat().st_size > 0 and request.stat().st_mtime > since)
