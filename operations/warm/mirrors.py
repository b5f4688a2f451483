"""The mirrors of a deployed stack, and the mirror of each reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from components.configuration.fields import seconds
from components.configuration.settings import DOCKER_HUB
from operations.stack import DeployedMirrors
from operations.warm.references import Reference

#: Runs of `--keep` within one TTL. Content expires after a fixed time, also if clients pull it, so the interval is the
#: longest time for which expired content is absent.
RUNS_PER_TTL = 24
_SHORTEST_SECONDS = 60


@dataclass(frozen=True)
class Mirror:
    """A mirror of ``upstream`` at ``url``. Without an own address, the query ``ns`` names the upstream.

    ``ttl`` is in seconds; 0 keeps content for ever.
    """

    upstream: str
    url: str
    is_shared: bool
    ttl: int


@dataclass(frozen=True)
class Mirrors:
    """All mirrors by upstream. ``own`` has the names of the private registry in references."""

    mirrors: Mapping[str, Mirror]
    own: frozenset[str]

    def find(self, reference: Reference) -> tuple[Reference, Mirror] | str:
        """Return the reference at its upstream and the mirror, or the reason for which no mirror has the reference.

        A reference may name the mirror instead of the upstream, such as `mirror.example.com/alpine`.
        """
        if reference.registry in self.own:
            return "the private registry has this image; no mirror is involved"
        for mirror in self.mirrors.values():
            by_mirror = not mirror.is_shared and reference.registry == mirror.url.removeprefix("https://")
            if by_mirror or reference.registry == mirror.upstream:
                repository = reference.repository
                if mirror.upstream == DOCKER_HUB and "/" not in repository:
                    repository = f"library/{repository}"
                return replace(reference, registry=mirror.upstream, repository=repository), mirror
        return f"the stack has no mirror of {reference.registry}"


def from_deployed(deployed: DeployedMirrors) -> Mirrors:
    """Return the mirrors that clients can reach: at their own address, or at the shared address."""
    mirrors = {}
    for upstream, settings in deployed.mirrors.items():
        if address := deployed.address(upstream):
            is_shared = upstream not in deployed.mirror_urls
            mirrors[upstream] = Mirror(upstream, str(address), is_shared, seconds(settings.ttl))
    registries = (deployed.registry_url, deployed.anonymous_url)
    return Mirrors(mirrors, frozenset(url.netloc for url in registries if url))


def interval(ttls: list[int]) -> int | None:
    """Return the seconds between two runs of `--keep`, or None if nothing expires."""
    expiring = [ttl for ttl in ttls if ttl]
    return max(_SHORTEST_SECONDS, min(expiring) // RUNS_PER_TTL) if expiring else None
