"""Wait for a moment of a garbage collection."""

from __future__ import annotations

from pathlib import Path

from components.render.registry_command import PAUSE
from tests.harness.processes import until


def until_pause(store: Path, since: float) -> None:
    """Wait until a collection asks for a pause. The file also holds what a killed collection asked for before."""
    request = store / PAUSE
    until(lambda: request.exists() and request.stat().st_size > 0 and request.stat().st_mtime > since)
