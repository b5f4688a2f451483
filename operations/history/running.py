"""Where images run: the containers of Docker hosts, and the versions of a repository that their images are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from operations.docker_command import docker, is_complete, said, unreachable

#: What `docker inspect` prints of a container or an image: a JSON list on one line.
_CONTAINER = "[{{json .Name}},{{json .State.Status}},{{json .Image}},{{json .Config.Image}},{{json .Config.Labels}}]"
_IMAGE = "[{{json .Id}},{{json .RepoDigests}},{{json .RepoTags}}]"
_SWARM_SERVICE, _PROJECT, _SERVICE = (
    f"com.docker.{name}" for name in ("swarm.service.name", "compose.project", "compose.service")
)


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container on a Docker host, running or not.

    ``image`` is the ID of its image: the digest of the configuration in Docker's classic image store, the digest of the
    manifest in containerd's store. ``digests`` holds the digests under which the image was pulled or pushed. ``names``
    holds all names of the image, with tags and digests, also the name with which the container was created. ``service``
    is the service of Compose or Swarm, or the name of the container: it stays when a deployment replaces the container.
    """

    host: str
    name: str
    state: str
    image: str
    digests: frozenset[str]
    names: frozenset[str] = frozenset()
    service: str = ""

    def __str__(self) -> str:
        return f"{short_host(self.host)}: {self.name} ({self.state})"


def short_host(host: str) -> str:
    """Return the name of a Docker host without the user, or the path of its socket."""
    return urlsplit(host).netloc.rpartition("@")[2] or host


def containers(host: str) -> list[Container]:
    """Return all containers of a Docker host, sorted by name.

    Raises:
        Failure: if the host does not answer.
    """
    listed = docker(host, "ps", "--all", "--quiet", "--no-trunc")
    if listed.returncode:
        raise unreachable(host, said(listed))
    found = _inspect(host, "container", _CONTAINER, listed.stdout.decode().split())
    images = {
        image: (frozenset(digests or ()), frozenset(tags or ()))
        for image, digests, tags in _inspect(host, "image", _IMAGE, sorted({one[2] for one in found}))
    }
    result = []
    for name, state, image, created_with, labels in found:
        references, tags = images.get(image, (frozenset(), frozenset()))
        result.append(
            Container(
                host=host,
                name=name.removeprefix("/"),
                state=state,
                image=image,
                digests=frozenset(reference.rpartition("@")[2] for reference in references),
                names=references | tags | {created_with},
                service=_service(labels or {}) or name.removeprefix("/"),
            )
        )
    return sorted(result, key=lambda container: container.name)


def _service(labels: Mapping[str, str]) -> str:
    compose = [labels[key] for key in (_PROJECT, _SERVICE) if key in labels]
    return labels.get(_SWARM_SERVICE) or "/".join(compose)


def by_version(found: Iterable[Container], versions: Mapping[str, Collection[str]]) -> dict[str, tuple[Container, ...]]:
    """Return the containers of each version. ``versions`` holds the digests by which a host may know a version.

    Two versions may contain the same image, for example if only the provenance differs. So the digest that was pulled
    decides, if it is a version; otherwise a container belongs to every version that contains its image.
    """
    containing: defaultdict[str, set[str]] = defaultdict(set)
    for version, names in versions.items():
        for name in names:
            containing[name].add(version)
    result: defaultdict[str, list[Container]] = defaultdict(list)
    for container in found:
        names = {*container.digests, container.image}
        for version in names & versions.keys() or set[str]().union(*(containing.get(name, ()) for name in names)):
            result[version].append(container)
    return {version: tuple(containers) for version, containers in result.items()}


def _inspect(host: str, kind: str, template: str, names: Sequence[str]) -> list[Any]:
    """Describe containers or images. Those that are gone by now are left out."""
    if not names:
        return []
    answer = docker(host, kind, "inspect", f"--format={template}", *names)
    if not is_complete(answer):
        raise unreachable(host, said(answer))
    return [json.loads(line) for line in answer.stdout.splitlines() if line]
