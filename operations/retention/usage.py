"""Which manifests run: the containers of Docker hosts, and the images that their services ran before."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from pydantic import AwareDatetime, BaseModel

from components.configuration.fields import FROZEN
from operations.history.running import Container, short_host

#: Distinct images that a service ran last, the current one included. They stay, so that it can go back to them.
REMEMBERED = 3
#: A service is forgotten if plans find no container of it for this time.
FORGOTTEN_AFTER = datetime.timedelta(days=30)


class RememberedImage(BaseModel):
    """An image by its ID on the host and by its digests in registries."""

    model_config = FROZEN
    image: str
    digests: tuple[str, ...]


class Service(BaseModel):
    """The images of a service, the last one first. ``missed`` is the time of the first plan that found no container."""

    model_config = FROZEN
    images: tuple[RememberedImage, ...]
    missed: AwareDatetime | None = None


class Memory(BaseModel):
    """The services of each Docker host."""

    model_config = FROZEN
    version: Literal[1] = 1
    services: Mapping[str, Mapping[str, Service]] = {}


def in_use(
    known_as: Mapping[str, frozenset[str]], containers: Iterable[Container], memory: Memory, hosts: Iterable[str]
) -> dict[str, str]:
    """Return the manifests that containers of ``hosts`` use, or that their services used before, with the reason.

    ``known_as`` maps each digest by which a host may know an image to manifests. All manifests that a host may mean are
    in use: the digest of the pull, and those with the same configuration.
    """
    found: dict[str, str] = {}
    for container in sorted(containers, key=lambda one: one.state != "running"):
        state = "runs on" if container.state == "running" else f"{container.state} on"
        for digest in _manifests(known_as, container.image, container.digests):
            found.setdefault(digest, f"{state} {short_host(container.host)}: {container.name}")
    for host in hosts:
        for name, service in sorted(memory.services.get(host, {}).items()):
            for image in service.images:
                for digest in _manifests(known_as, image.image, image.digests):
                    found.setdefault(digest, f"ran before on {short_host(host)}: {name}")
    return found


def unmapped(
    known_as: Mapping[str, frozenset[str]], containers: Iterable[Container], registries: Sequence[str]
) -> list[tuple[Container, str]]:
    """Return the containers whose image has a name of ``registries`` and is no manifest of ours, with that name.

    Docker keeps the case in which somebody wrote the host.
    """
    ours = tuple(f"{one}/" for one in registries)
    return [
        (container, min(names))
        for container in containers
        if (names := [name for name in container.names if name.lower().startswith(ours)])
        and not _manifests(known_as, container.image, container.digests)
    ]


def remembered(
    memory: Memory,
    known_as: Mapping[str, frozenset[str]],
    containers: Iterable[Container],
    now: datetime.datetime,
    answered: Collection[str],
) -> Memory:
    """Return the memory with the containers of now, without services that had none for a long time.

    Services of hosts that did not answer stay as they are: they may have containers.
    """
    current: defaultdict[tuple[str, str], dict[str, RememberedImage]] = defaultdict(dict)
    for container in sorted(containers, key=lambda one: one.state != "running"):
        if _manifests(known_as, container.image, container.digests):
            image = RememberedImage(image=container.image, digests=tuple(sorted(container.digests)))
            current[container.host, container.service].setdefault(container.image, image)
    services: defaultdict[str, dict[str, Service]] = defaultdict(dict)
    for host, of_host in memory.services.items():
        for name, one in of_host.items():
            missed = one.missed or now
            if host not in answered:
                services[host][name] = one
            elif now - missed < FORGOTTEN_AFTER:
                services[host][name] = Service(images=one.images, missed=missed)
    for (host, name), images in current.items():
        before = memory.services[host][name].images if name in memory.services.get(host, {}) else ()
        every = images | {one.image: one for one in before if one.image not in images}
        # All current images stay anyway; the memory is for those before.
        kept = tuple(every.values())[: max(REMEMBERED, len(images))]
        services[host][name] = Service(images=kept)
    return Memory(services={host: of_host for host, of_host in services.items() if of_host})


def _manifests(known_as: Mapping[str, frozenset[str]], image: str, digests: Iterable[str]) -> frozenset[str]:
    return frozenset[str]().union(*(known_as.get(name, frozenset()) for name in (image, *digests)))
