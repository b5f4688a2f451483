"""What a preview can know of a local Docker host before anything changes; one over ``ssh://`` is not connected to."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import docker
from docker.errors import DockerException

from components._docker import StackName
from components.problem import ConfigError, Problem, set_command
from components.render.proxy import endpoints, service_ports
from components.settings import ANY_ADDRESS, Settings


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
            meets = settings.proxy.address in (ANY_ADDRESS, port.get("IP")) or port.get("IP") in (ANY_ADDRESS, "::")
            if meets and port.get("PublicPort"):
                held[port["PublicPort"]] = "" if ours <= labels else container["Names"][0].lstrip("/")
    for port, (key, other) in _published(settings).items():
        holder = held.get(port)
        if holder is None and settings.docker_host.startswith("unix://") and _is_bound(settings.proxy.address, port):
            holder = "a process of this machine"
        if holder:
            yield Problem(
                key,
                f"port {port}, which {holder} holds",
                "a port that is free on the Docker host",
                f"stop it, or {set_command(key, other)}" if other else "stop it",
            )


def _published(settings: Settings) -> dict[int, tuple[str, str]]:
    """Ports that the stack publishes, each with its key and, if another place will do, an example for that key."""
    if settings.proxy.services_address:
        return dict.fromkeys(service_ports(settings).values(), ("proxy.address", "127.0.0.2"))
    challenges = {80: ("proxy.certificates.acme", "")} if settings.proxy.certificates.acme else {}
    urls = endpoints(settings.registry, settings.mirrors)
    metrics = {settings.proxy.metrics_port: ("proxy.metrics_port", "PORT")} if settings.proxy.metrics_port else {}
    return challenges | metrics | {url.port: (key, "https://HOST:PORT") for key, url in urls.items()}


def _is_bound(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
