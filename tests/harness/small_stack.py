"""A small stack with one of each part. Start the stack on the engine of the tests, and remove it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from tests.harness import clients
from tests.harness.stack import Stack

PREFIX = "rs-test"
REGISTRY_PORT, MIRROR_PORT, PUBLIC_PORT = 25443, 25444, 25445
#: Loopback port on which tests push to the registry behind a mirror.
UPSTREAM_PORT = 25500
UPSTREAM = "upstream.test"
PROXIES = {
    "caddy": {"server": "caddy", "address": "127.0.0.1", "certificates": {"internal": {}}},
    "nginx": {"server": "nginx", "address": "127.0.0.1", "certificates": {"files": {}}},
}


def small_stack(**changes: Any) -> dict[str, Any]:
    """A registry with one user per role and one mirror, on loopback, with certificates of an internal authority."""
    return {
        "name_prefix": PREFIX,
        "registry": {
            "url": f"https://localhost:{REGISTRY_PORT}",
            "users": {"ci": {"role": "push"}, "production": {"role": "pull"}, "boss": {"role": "admin"}},
            "drain_timeout": "30s",
        },
        "mirrors": {
            UPSTREAM: {"url": f"https://localhost:{MIRROR_PORT}", "upstream": f"http://{UPSTREAM}:5000"},
        },
        "proxy": PROXIES["caddy"],
    } | changes


def remove_everything(api: docker.DockerClient, prefix: str = PREFIX) -> None:
    """Remove all objects of a stack or of a killed run from the engine, including data."""
    for container in api.containers.list(all=True, filters={"name": f"{prefix}-"}, ignore_removed=True):
        container.remove(force=True, v=True)
    for container in clients.containers(api, prefix).values():
        container.remove(force=True, v=True)
    for network in api.networks.list(filters={"label": f"registry-stack.prefix={prefix}"}):
        network.remove()
    for volume in api.volumes.list(filters={"label": f"registry-stack.prefix={prefix}"}):
        volume.remove()


@dataclass(frozen=True)
class DockerHost:
    """How stacks reach the engine: by its socket or, with ``--over-ssh``, by an sshd. ``path`` comes first in PATH.

    ``proxy`` is the proxy configuration of the stacks. The option ``--proxy`` selects Caddy or nginx.
    """

    address: str
    proxy: Mapping[str, Any]
    path: str = ""

    @property
    def proxy_with_files(self) -> dict[str, Any]:
        """The same proxy with certificates from files, like certificates of public authorities."""
        return {**self.proxy, "certificates": {"files": {}}}


@contextlib.contextmanager
def running_stack(api: docker.DockerClient, host: DockerHost, folder: Path, **changes: Any) -> Iterator[Stack]:
    """Start a stack. At the end, print its logs (pytest shows the logs of a failed test) and remove the stack."""
    remove_everything(api)
    stack = Stack(folder, host.address, small_stack(**{"proxy": host.proxy} | changes), path=host.path)
    try:
        stack.up()
        yield stack
    finally:
        for role, container in clients.containers(api, PREFIX).items():
            if container.status != "created":
                # Separate limits, so that request lines do not displace error lines.
                requests, errors = (container.logs(tail=30, stdout=out, stderr=not out) for out in (True, False))
                print(f"--- {role} ({container.status})\n{requests.decode()}{errors.decode()}")
        remove_everything(api)
