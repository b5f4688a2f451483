"""Pull images on a machine, and see the counters of their mirrors move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.configuration.naming import mirror_alias
from components.configuration.problems import Failure
from components.configuration.settings import DOCKER_HUB
from operations.clients.files import Mirrors
from operations.clients.machine import Machine
from operations.clients.programs import Programs, pull
from operations.console import say
from operations.mirrors.reading import read_mirrors
from operations.stack import StackConfig
from operations.warm.references import Reference, parse


@dataclass(frozen=True)
class Trial:
    """An image, the program that pulls the image, and the container of the mirror on the Docker host of the stack."""

    image: Reference
    program: str
    docker_host: str
    container: str

    def run(self, machine: Machine) -> None:
        """Pull the image on the machine.

        Raises:
            Failure: if the pull fails, or if the mirror counted no request.
        """
        before = self._requests()
        pull(machine, self.program, str(self.image))
        after = self._requests()
        if after <= before:
            raise Failure(
                f"{machine.name} pulled {self.image} with {self.program}, but not through the mirror {self.container}",
                f"read the log of the program there, and of the mirror: docker --host {self.docker_host} logs"
                f" {self.container}",
            )
        say(f"{machine.name} pulled {self.image} through the mirror {self.container}: {after - before} requests")

    def _requests(self) -> int:
        (mirror,) = read_mirrors(self.docker_host, [self.container])
        if mirror.usage is None:
            raise Failure(f"the mirror {self.container} is {mirror.state} and has no counters", "pulumi up --refresh")
        return mirror.usage.total.requests


def trials(config: StackConfig, mirrors: Mirrors, programs: Programs, images: Sequence[str]) -> list[Trial]:
    """Return the pulls of these images.

    Raises:
        Failure: if no mirror has the image, or if no program of the machine can pull it through its mirror.
    """
    if not images:
        return []
    deployed, found = config.deployed(), []
    for text in images:
        try:
            image = parse(text)
        except ValueError as reason:
            raise Failure(f"--try {text} is not {reason}", "correct the name of the image") from None
        container = deployed.services.get(mirror_alias(image.registry))
        if container is None or image.registry not in {mirror.upstream for mirror in mirrors.every}:
            known = ", ".join(mirror.upstream for mirror in mirrors.every)
            raise Failure(f"the stack has no mirror of {image.registry}", f"choose an image of {known}")
        found.append(Trial(image, _program(mirrors, programs, image), str(deployed.docker_host), container))
    return found


def _program(mirrors: Mirrors, programs: Programs, image: Reference) -> str:
    if programs.docker and (image.registry == DOCKER_HUB or programs.has_containerd_store):
        return "docker"
    if "podman" in programs.names and image.registry in {mirror.upstream for mirror in mirrors.own}:
        return "podman"
    if "containerd" in programs.names:
        return "ctr"
    raise Failure(
        f"no program that runs on the machine can pull {image} through a mirror",
        "remove this --try, and see `clients check` for what each program uses",
    )
