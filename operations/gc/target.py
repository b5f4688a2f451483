"""The store of a container on the Docker host, and whether everything that writes to the store can pause."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import WRITING
from operations.docker_command import docker, said, unreachable
from operations.stack import StackConfig


@dataclass(frozen=True, kw_only=True)
class Target:
    """A store: its mount, which is a volume or a folder of the host, and the image and the user that write there."""

    image: str
    user: str
    kind: str
    source: str


def target(config: StackConfig, host: str, container: str) -> Target:
    """Return the store of a container.

    Raises:
        Failure: if the host does not answer, if the container is gone, or if a container that can write cannot pause.
    """
    found = _inspected(host, [container])
    restore = config.command("pulumi", "up", "--refresh")
    if not found:
        raise Failure(f"the container {container} is gone from {host}", restore)
    mount = next((mount for mount in found[0]["Mounts"] if mount["Destination"] == DATA_DIRECTORY), None)
    if mount is None:
        raise Failure(f"the container {container} on {host} has no data in {DATA_DIRECTORY}", restore)
    source = mount["Source"] if mount["Type"] == "bind" else mount["Name"]
    _check_writers(config, host, mount, source)
    return Target(image=found[0]["Image"], user=found[0]["Config"]["User"], kind=mount["Type"], source=source)


def _check_writers(config: StackConfig, host: str, mount: Mapping[str, Any], source: str) -> None:
    """Refuse if a running container can write to the data and does not pause."""
    listed = docker(host, "ps", "--quiet", "--no-trunc", f"--filter=volume={source}")
    if listed.returncode:
        raise unreachable(host, said(listed))
    for found in _inspected(host, listed.stdout.decode().split()):
        writes = any(one["RW"] and one["Source"] == mount["Source"] for one in found["Mounts"])
        pauses = any(WRITING in word for word in found["Config"]["Cmd"] or ())
        if not writes or pauses:
            continue
        name = found["Name"].removeprefix("/")
        if "registry-stack.role" in (found["Config"]["Labels"] or ()):
            raise Failure(
                f"the container {name} cannot pause: an older version of the program deployed it",
                config.command("pulumi", "up"),
            )
        raise Failure(f"the container {name} writes to {source} and cannot pause", f"docker --host {host} stop {name}")


def _inspected(host: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return containers as `docker inspect` shows them, without those that are gone."""
    if not names:
        return []
    answer = docker(host, "container", "inspect", *names)
    if answer.returncode and b"no such container" not in answer.stderr.lower():
        raise unreachable(host, said(answer))
    found: list[dict[str, Any]] = json.loads(answer.stdout or "[]")
    return found
