"""Containers beside a declared stack, with its images, files and limits. Most containers need no password."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import docker
import httpx
import yaml
from docker.models.containers import Container
from docker.models.networks import Network

from components._delivery import archive
from components.configuration.naming import StackName, quick_alias
from components.configuration.settings import ROLES_OF, Process, Settings
from components.render.proxy import certificate_files
from components.render.proxy_command import DATA_TMPFS, SERVERS, USER
from components.render.registry import DATA_DIRECTORY, environment, registry_config
from tests.harness.certificates import certificate_pair

NAMES = StackName(prefix="rs-bench", stack="bench")
#: A login for the stack's proxies, which refuse requests without a login. The processes behind them accept any login.
ANYONE = ("anyone", "x")


def network(api: docker.DockerClient, role: str, *, internal: bool = False) -> Network:
    """Create a bridge network. An internal network has no route to the outside."""
    return api.networks.create(f"{NAMES.prefix}-{role}", internal=internal, labels=NAMES.labels(role))


def registry(
    api: docker.DockerClient,
    network: Network,
    role: str,
    process: Process,
    settings: Settings,
    *,
    store: str,
    port: int | None = None,
    htpasswd: str = "",
    tls: bool = False,
) -> Container:
    """Start one process of the registry with its data in the volume ``store``. Publish ``port``, if given.

    The process asks for a password if ``htpasswd`` is given. With ``tls``, the process terminates TLS itself.
    """
    config, files = yaml.safe_load(registry_config(process, settings.registry)), {}
    if htpasswd:
        files[config["auth"]["htpasswd"]["path"]] = htpasswd
    else:
        del config["auth"]
    if port:
        config["http"]["addr"] = f":{port}"
    if tls:
        chain, key = certificate_files("localhost")
        config["http"]["tls"] = {"certificate": chain, "key": key}
        files |= certificates()
    file = "/etc/distribution/config.yml"
    return start(
        api,
        network,
        role,
        settings.images.registry,
        ["registry", "serve", file],
        {file: yaml.safe_dump(config)} | files,
        memory_mb=settings.registry.memory_mb,
        environment=environment(settings.registry.memory_mb),
        aliases=[process, quick_alias(process)],
        port=port,
        volumes=[f"{volume(api, store)}:{DATA_DIRECTORY}"],
        tmpfs={"/tmp": "size=1m"},
    )


def registries(
    api: docker.DockerClient, network: Network, settings: Settings, htpasswd: str = ""
) -> dict[Process, Container]:
    """Start every process of the stack's registry, all with the same data."""
    return {
        process: registry(api, network, f"open-{process}", process, settings, store="open-data", htpasswd=htpasswd)
        for process in ROLES_OF
    }


def proxy(api: docker.DockerClient, edge: Network, backend: Network, role: str, settings: Settings) -> Container:
    """Start the stack's proxy, with the stack's configuration and command, in front of ``registries``."""
    port = settings.registry.url.port
    given = {"localhost": 0} if settings.proxy.certificates.files else {}
    server = SERVERS[settings.proxy.server]
    return start(
        api,
        edge,
        role,
        dict(settings.images)[settings.proxy.server],
        server.run,
        {server.config: server.render(settings, given)} | (certificates() if given else {}),
        memory_mb=settings.proxy.memory_mb,
        port=port,
        tmpfs={**DATA_TMPFS, **server.tmpfs},
        user=USER,
        backend=backend,
    )


def certificates() -> dict[str, str]:
    """Chain and key for localhost, by the paths that proxies read. Clients must trust the tests' authority."""
    pair = certificate_pair("localhost")
    return dict(zip(certificate_files("localhost"), (pair["certificate"], pair["private_key"]), strict=True))


def start(
    api: docker.DockerClient,
    network: Network,
    role: str,
    image: str,
    command: Sequence[str],
    files: Mapping[str, str],
    *,
    memory_mb: int,
    environment: Sequence[str] = (),
    aliases: Sequence[str] = (),
    port: int | None = None,
    volumes: Sequence[str] = (),
    tmpfs: Mapping[str, str] | None = None,
    user: str | None = None,
    backend: Network | None = None,
) -> Container:
    """Start a container with ``files`` (text by path), without swap. The container also joins ``backend``, if given."""
    container = api.containers.create(
        image,
        entrypoint=list(command),
        environment=list(environment),
        name=f"{NAMES.prefix}-{role}",
        labels=NAMES.labels(role),
        network=network.name,
        networking_config={str(network.name): api.api.create_endpoint_config(aliases=list(aliases))},
        ports={f"{port}/tcp": ("127.0.0.1", port)} if port else None,
        volumes=list(volumes),
        tmpfs=dict(tmpfs or {}),
        user=user,
        mem_limit=f"{memory_mb}m",
        memswap_limit=f"{memory_mb}m",
    )
    if backend:
        backend.connect(container)
    container.put_archive("/", base64.b64decode(archive(files)))
    container.start()
    container.reload()
    return container


def memory(container: Container) -> float:
    """The memory of a container in megabytes, without page cache."""
    statistics = cast("dict[str, Any]", container.stats(stream=False, one_shot=True))["memory_stats"]
    # cgroup v1 counts a container's children only in the totals.
    version = "total_" if "total_active_file" in statistics["stats"] else ""
    cache = sum(statistics["stats"][f"{version}{kind}_file"] for kind in ("active", "inactive"))
    return float(statistics["usage"] - cache) / 1e6


def output(container: Container, *command: str) -> bytes:
    """The output of a command in a container. The output must not be empty."""
    for _ in range(5):
        # On a busy machine Engine 20.10 gives this client no output once in a hundred times.
        code, printed = container.exec_run(list(command))
        if code == 0 and printed:
            return cast("bytes", printed)
    raise RuntimeError(
        f"{' '.join(command)} in {container.name} ended with {code} without output; run the command by hand"
    )


def wait(origin: str, status: int = 200) -> None:
    """Wait until a registry answers with ``status``. Fail after 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            # The client does not know the certificate yet.
            if httpx.get(f"{origin}/v2/", auth=ANYONE, verify=False, timeout=5).status_code == status:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{origin} does not answer with {status} after 30 s; read `docker logs` of {NAMES.prefix}-…"
            )
        time.sleep(0.2)


def volume(api: docker.DockerClient, role: str) -> str:
    """The name of an existing or new volume."""
    return str(api.volumes.create(f"{NAMES.prefix}-{role}", labels=NAMES.labels(role)).name)
