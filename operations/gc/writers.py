"""Check that everything that writes to a store can pause."""

from __future__ import annotations

from components.configuration.problems import Failure
from components.render.registry_command import WRITING
from operations.docker_command import docker, inspected, said, unreachable
from operations.stack import StackConfig
from operations.throwaway import LABEL, Data


def check_writers(config: StackConfig, host: str, data: Data) -> None:
    """Refuse if a running container can write to the data and does not pause.

    Raises:
        Failure: if there is such a container, or if the host does not answer.
    """
    listed = docker(host, "ps", "--quiet", "--no-trunc", f"--filter=volume={data.source}")
    if listed.returncode:
        raise unreachable(host, said(listed))
    for found in inspected(host, listed.stdout.decode().split()):
        mounts = [one for one in found["Mounts"] if data.source in (one.get("Name"), one["Source"])]
        labels = found["Config"]["Labels"] or ()
        pauses = any(WRITING in word for word in found["Config"]["Cmd"] or ())
        # Throwaway containers of commands write beside distribution's tree, or are collections, of which only one runs.
        if pauses or LABEL in labels or not any(one["RW"] for one in mounts):
            continue
        name = found["Name"].removeprefix("/")
        if "registry-stack.role" in labels:
            raise Failure(
                f"the container {name} cannot pause: an older version of the program deployed it",
                config.command("pulumi", "up"),
            )
        fix = f"docker --host {host} stop {name}"
        raise Failure(f"the container {name} writes to {data.source} and cannot pause", fix)
