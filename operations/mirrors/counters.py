"""The counters of a mirror's process, from the text that distribution serves for Prometheus."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COUNTER = re.compile(r'^registry_proxy_(\w+)_total\{type="(manifest|blob)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What clients asked of a mirror since its process started. Sizes are in bytes.

    distribution counts a request when it has an answer, so failed requests are in no counter. Each ``HEAD`` and each
    part of a layer counts as a request, with the size of the whole manifest or blob.
    """

    requests: int = 0
    hits: int = 0
    misses: int = 0
    bytes_served: int = 0
    bytes_fetched: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            requests=self.requests + other.requests,
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            bytes_served=self.bytes_served + other.bytes_served,
            bytes_fetched=self.bytes_fetched + other.bytes_fetched,
        )

    @property
    def hit_ratio(self) -> float | None:
        """Share of the requests that the cache answered, from 0 to 1; None without requests."""
        return self.hits / self.requests if self.requests else None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The counters of manifests and of blobs."""

    manifests: Counters
    blobs: Counters

    @property
    def total(self) -> Counters:
        """Manifests and blobs together."""
        return self.manifests + self.blobs


def usage(text: str) -> Usage | None:
    """Return the counters in the text, or None if the process has no counters."""
    found = {(kind, name): int(float(value)) for name, kind, value in _COUNTER.findall(text)}
    if not found:
        return None
    manifests, blobs = (
        Counters(
            requests=found.get((kind, "requests"), 0),
            hits=found.get((kind, "hits"), 0),
            misses=found.get((kind, "misses"), 0),
            # distribution's view: it pulls from the upstream and pushes to the client.
            bytes_served=found.get((kind, "pushed_bytes"), 0),
            bytes_fetched=found.get((kind, "pulled_bytes"), 0),
        )
        for kind in ("manifest", "blob")
    )
    return Usage(manifests=manifests, blobs=blobs)
