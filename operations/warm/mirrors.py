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
    """All mirrors by upstream.

    ``names`` has the upstream for each address of a mirror in references, such as `mirror.example.com/alpine`. ``own``
    has the names of the private registry in references.
    """

    mirrors: Mapping[str, Mirror]
    names: Mapping[str, str]
    own: frozenset[str]

    def find(self, reference: Reference) -> tuple[Reference, Mirror] | str:
        """Return the reference at its upstream and the mirror, or the reason for which no mirror has the reference."""
        if reference.registry in self.own:
            return "the private registry has this image; no mirror is involved"
        upstream, repository = self.names.get(reference.registry, reference.registry), reference.repository
        if upstream not in self.mirrors:
            return f"the stack has no mirror of {upstream}"
        if upstream == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return replace(reference, registry=upstream, repository=repository), self.mirrors[upstream]


def from_deployed(deployed: DeployedMirrors) -> Mirrors:
    """Return the mirrors that clients can reach: at their own address, or at the shared address."""
    mirrors = {}
    for upstream, settings in deployed.mirrors.items():
        if address := deployed.address(upstream):
            is_shared = upstream not in deployed.mirror_urls
            mirrors[upstream] = Mirror(upstream, str(address), is_shared, seconds(settings.ttl))
    # Without the name of an upstream, the shared address is the mirror of Docker Hub.
    shared = {deployed.mirror_url.netloc: DOCKER_HUB} if deployed.mirror_url else {}
    names = shared | {url.netloc: upstream for upstream, url in deployed.mirror_urls.items()}
    registries = (deployed.registry_url, deployed.anonymous_url)
    return Mirrors(mirrors, names, frozenset(url.netloc for url in registries if url))


def interval(ttls: list[int]) -> int | None:
    """Return the seconds between two runs of `--keep`, or None if nothing expires."""
    expiring = [ttl for ttl in ttls if ttl]
    return max(_SHORTEST_SECONDS, min(expiring) // RUNS_PER_TTL) if expiring else None
