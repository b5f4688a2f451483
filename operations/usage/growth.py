"""Remember the sizes of the last run, so that the next run shows the growth."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from operations.files import replace_file
from operations.usage.sizes import Usage


class Run(BaseModel):
    """The sizes at the time of a run, in bytes."""

    model_config = ConfigDict(frozen=True)
    time: datetime.datetime
    size: int
    repositories: Mapping[str, int]


@dataclass(frozen=True)
class Growth:
    """The difference to an earlier run, in bytes. A removed repository has a negative number."""

    since: datetime.datetime
    size: int
    repositories: Mapping[str, int]


def file_of(registry: str) -> Path:
    """Return the file with the last run for a registry, below ``XDG_STATE_HOME``, else below ~/.local/state.

    Raises:
        RuntimeError: if the user has no home folder.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "registry-stack" / f"usage-{registry.replace(':', '-')}.json"


def last_run(file: Path) -> Run | None:
    """Return the last run, or None before the first run.

    Raises:
        ValueError: if the file is not one of ours.
        OSError: if the file cannot be read.
    """
    try:
        return Run.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise ValueError("it is no record of an earlier run") from None


def remember(file: Path, found: Usage, now: datetime.datetime) -> None:
    """Write this run in place of the last one.

    Raises:
        OSError: if the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    run = Run(time=now, size=found.size, repositories={one.name: one.size for one in found.repositories})
    replace_file(file, run.model_dump_json() + "\n")


def growth(last: Run, found: Usage) -> Growth:
    """Return what grew since the last run."""
    sizes = {one.name: one.size for one in found.repositories}
    return Growth(
        since=last.time,
        size=found.size - last.size,
        repositories={
            name: sizes.get(name, 0) - last.repositories.get(name, 0)
            for name in sizes.keys() | last.repositories.keys()
        },
    )
