"""What a preview can know of a local Docker host before anything changes; one over ``ssh://`` is not connected to."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import docker
from docker.errors import DockerException

from components._docker import StackName
from components.problem import ConfigError, Problem, set_command
from components.render.proxy import endpoints
from components.settings import Settings


def check_local_engine(settings: Settings, names: StackName) -> None:
    """Refuse an engine that does not answer, and ports that something else holds.

    Raises:
        ConfigError: with every problem found; never for a host over ``ssh://``.
    """
    if settings.docker_host.startswith("ssh://"):
        return
    try:
        # The daemon's own, lowest API is negotiated; a short timeout keeps a preview from hanging on a dead socket.
        client = docker.DockerClient(base_url=settings.docker_host, version="auto", timeout=10)
    except DockerException as error:
        problem = Problem(
            "docker_host",
            f"{settings.docker_host}, which does not answer ({error})",
            "the address of a running Docker Engine that this user may use",
            "docker info, to see why; or pulumi config set registry-stack:docker_host ssh://user@host",
        )
        raise ConfigError([problem]) from None
    problems = list(_taken_ports(settings, names, client))
    client.close()
    if problems:
        raise ConfigError(problems)


def _taken_ports(settings: Settings, names: StackName, client: docker.DockerClient) -> Iterator[Problem]:
    ours = {f"registry-stack.stack={names.stack}", f"registry-stack.prefix={names.prefix}"}
    held: dict[int, str] = {}
    for container in client.api.containers():
        labels = {f"{key}={value}" for key, value in (container.get("Labels") or {}).items()}
        for port in container.get("Ports") or []:
            if port.get("PublicPort"):
                held[port["PublicPort"]] = "" if ours <= labels else container["Names"][0].lstrip("/")
    keys = {80: "proxy.certificates.acme"} if settings.proxy.certificates.acme else {}
    keys |= {url.port: key for key, url in endpoints(settings.registry, settings.mirrors).items()}
    for port, key in keys.items():
        holder = held.get(port)
        if holder is None and settings.docker_host.startswith("unix://") and _is_bound(settings.proxy.address, port):
            holder = "a process of this machine"
        if holder:
            yield Problem(
                key,
                f"port {port}, which {holder} holds",
                "a port that is free on the Docker host",
                f"stop it, or {set_command(key, 'https://HOST:PORT')}" if port != 80 else "stop it",
            )


def _is_bound(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
