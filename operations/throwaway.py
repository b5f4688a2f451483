"""Run a shell script on the data of a service, in a throwaway container on the Docker host.

The container has the image, the user and the data mount of the service, so it may do with the data what the service may
do. It has no network, no capabilities and no secrets.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.docker_command import docker, inspected
from operations.stack import Deployed, StackConfig

LABEL = "registry-stack.throwaway"
#: Removes the containers of commands that were killed before the container started. A started container removes itself.
#: The age spares the containers of commands that run at the same time.
_PRUNE = ("container", "prune", "--force", f"--filter=label={LABEL}", "--filter=until=10s")
#: Functions for a script that lists a store of distribution, for busybox. They start no process per file and open no
#: folder that holds a single file: a store may have 100,000 of both.
LISTING = r"""
append() { sed "s|\$|/$1|"; }
valid() { grep -v '[^a-zA-Z0-9/_.-]'; }
# Print the entries that lie $1 levels below the folders on standard input.
entries() { xargs -r sh -c 'exec find "$@" -mindepth "$0" -maxdepth "$0"' "$1" | valid; }
"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a service: a volume or a folder of the host, and the image and the user of the service."""

    image: str
    user: str
    kind: str
    source: str


def data_of(config: StackConfig, deployed: Deployed, role: str) -> Data:
    """Return the data of the service ``role``, and remove what killed commands left.

    Raises:
        Failure: if the host does not answer, or if the service or its data is gone.
    """
    host, restore = deployed.docker_host, config.command("pulumi", "up", "--refresh")
    if role not in deployed.services:
        raise Failure(f"the stack's output `services` has no {role}", restore)
    container = deployed.services[role]
    found = inspected(host, [container])
    if not found:
        raise Failure(f"the container {container} is gone from {host}", restore)
    mount = next((mount for mount in found[0]["Mounts"] if mount["Destination"] == DATA_DIRECTORY), None)
    if mount is None:
        raise Failure(f"the container {container} on {host} has no data in {DATA_DIRECTORY}", restore)
    docker(host, *_PRUNE)
    kind, image, user = mount["Type"], found[0]["Image"], found[0]["Config"]["User"]
    return Data(image=image, user=user, kind=kind, source=mount["Source"] if kind == "bind" else mount["Name"])


def on_data(data: Data, script: str, *arguments: str, writes: bool = False) -> list[str]:
    """Return the arguments of ``docker`` that run a script; the first of its ``arguments`` is $0.

    A script that ``writes`` gets standard input, and may change the data. The container keeps nothing: its temporary
    files are in memory, and no log of its output is written to the disk.
    """
    return [
        "run",
        "--rm",
        *(["--interactive"] if writes else []),
        f"--label={LABEL}",
        "--pull=never",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--log-driver=none",
        "--tmpfs=/tmp",
        f"--user={data.user}",
        f"--mount=type={data.kind},source={data.source},target={DATA_DIRECTORY}{'' if writes else ',readonly'}",
        "--entrypoint=",
        data.image,
        *("sh", "-c", script, *arguments),
    ]
