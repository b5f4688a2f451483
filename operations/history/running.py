"""Where images run: the containers of Docker hosts, and the versions of a repository that their images are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from operations.docker_command import docker, said, unreachable

#: What `docker inspect` prints of a container or an image: a JSON list on one line.
_CONTAINER = "[{{json .Name}},{{json .State.Status}},{{json .Image}}]"
_IMAGE = "[{{json .Id}},{{json .RepoDigests}}]"


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container on a Docker host, running or not.

    ``image`` is the ID of its image: the digest of the configuration in Docker's classic image store, the digest of the
    manifest in containerd's store. ``digests`` holds the digests under which the image was pulled or pushed.
    """

    host: str
    name: str
    state: str
    image: str
    digests: frozenset[str]

    def __str__(self) -> str:
        where = urlsplit(self.host).netloc.rpartition("@")[2] or self.host
        return f"{where}: {self.name} ({self.state})"


def containers(host: str) -> list[Container]:
    """Return all containers of a Docker host, sorted by name.

    Raises:
        Failure: if the host does not answer.
    """
    listed = docker(host, "ps", "--all", "--quiet", "--no-trunc")
    if listed.returncode:
        raise unreachable(host, said(listed))
    found = _inspect(host, "container", _CONTAINER, listed.stdout.decode().split())
    digests = dict(_inspect(host, "image", _IMAGE, sorted({image for _, _, image in found})))
    return sorted(
        (
            Container(
                host=host,
                name=name.removeprefix("/"),
                state=state,
                image=image,
                digests=frozenset(reference.rpartition("@")[2] for reference in digests.get(image) or ()),
            )
            for name, state, image in found
        ),
        key=lambda container: container.name,
    )


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
    if answer.returncode and b"no such" not in answer.stderr.lower():
        raise unreachable(host, said(answer))
    return [json.loads(line) for line in answer.stdout.splitlines() if line]
