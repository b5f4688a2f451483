"""Containers that run beside a declared stack, with its images, files and limits; most ask nobody for a password."""

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
#: For the stack's proxies, which pass on nothing without a login; the processes behind them take any, or none.
ANYONE = ("anyone", "x")


def network(api: docker.DockerClient, role: str, *, internal: bool = False) -> Network:
    """A bridge; an internal one has no way out."""
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
    """One process of the registry with its data in the volume ``store``; it is published if it has a ``port``.

    It asks for a password if there is an ``htpasswd``, and speaks ``tls`` by itself if wanted.
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
    """Every process of the stack's registry, all with the same data."""
    return {
        process: registry(api, network, f"open-{process}", process, settings, store="open-data", htpasswd=htpasswd)
        for process in ROLES_OF
    }


def proxy(api: docker.DockerClient, edge: Network, backend: Network, role: str, settings: Settings) -> Container:
    """The stack's proxy, as its server renders and runs it, in front of ``registries``."""
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
    """Chain and key for localhost by the paths where proxies read them; clients must trust the tests' authority."""
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
    """Start a container with its files by their paths, and no swap beside its memory; it joins ``backend``, too."""
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
    """Megabytes that it holds now, page cache aside."""
    statistics = cast("dict[str, Any]", container.stats(stream=False, one_shot=True))["memory_stats"]
    # cgroup v1 counts a container's children only in the totals.
    version = "total_" if "total_active_file" in statistics["stats"] else ""
    cache = sum(statistics["stats"][f"{version}{kind}_file"] for kind in ("active", "inactive"))
    return float(statistics["usage"] - cache) / 1e6


def output(container: Container, *command: str) -> bytes:
    """What a command in it prints; it prints something."""
    for _ in range(5):
        # On a busy machine Engine 20.10 gives this client no output once in a hundred times.
        code, printed = container.exec_run(list(command))
        if code == 0 and printed:
            return cast("bytes", printed)
    raise RuntimeError(f"{' '.join(command)} in {container.name} ends with {code} and prints nothing: try it by hand")


def wait(origin: str, status: int = 200) -> None:
    """Until a registry answers so; at most 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            # Its certificate is not known yet.
            if httpx.get(f"{origin}/v2/", auth=ANYONE, verify=False, timeout=5).status_code == status:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{origin} does not answer after 30 s; look at `docker logs` of {NAMES.prefix}-…")
        time.sleep(0.2)


def volume(api: docker.DockerClient, role: str) -> str:
    """One that is there, or a new one."""
    return str(api.volumes.create(f"{NAMES.prefix}-{role}", labels=NAMES.labels(role)).name)
