"""The status of a run: for people, for monitors, and for the file beside the data."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any, Literal

from rich.filesize import decimal

from components.configuration.problems import redacted

Result = Literal["running", "done", "failed"]
#: The name of the private registry's store.
REGISTRY = "registry"


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status of one run on one store. ``store`` is ``REGISTRY``, or the name of the upstream of a mirror.

    Sizes are in bytes, ``paused`` is in seconds. ``missing`` lists what manifests needed and the store lacked before.
    """

    store: str
    started: datetime.datetime
    ended: datetime.datetime | None = None
    result: Result = "running"
    reason: str | None = None
    freed: int = 0
    freed_blobs: int = 0
    size: int = 0
    blobs: int = 0
    paused: float = 0
    missing: tuple[str, ...] = ()

    def failed(self, reason: str) -> Status:
        """Return the status of the same run after a failure."""
        return dataclasses.replace(self, result="failed", reason=redacted(reason), ended=now())

    def as_json(self) -> dict[str, Any]:
        """The documented form; see docs/garbage-collection.md."""
        return {
            "store": self.store,
            "result": self.result,
            "reason": self.reason,
            "started": _text(self.started),
            "ended": _text(self.ended) if self.ended else None,
            "freed": self.freed,
            "freed_blobs": self.freed_blobs,
            "size": self.size,
            "blobs": self.blobs,
            "paused_seconds": round(self.paused, 1),
            "missing": list(self.missing),
        }

    def __str__(self) -> str:
        if self.result == "failed":
            return f"gc {self.store}: failed: {(self.reason or '').splitlines()[0]}"
        freed = f"freed {decimal(self.freed)} in {self.freed_blobs} blobs, {decimal(self.size)} left"
        missing = f", {len(self.missing)} parts are missing" if self.missing else ""
        return f"gc {self.store}: {self.result}, {freed}, writing paused for {self.paused:.1f} s{missing}"


def now() -> datetime.datetime:
    """The current time, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
