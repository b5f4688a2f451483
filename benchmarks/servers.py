"""The registries that are compared: the stack, the same without authentication, and a bare registry."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import docker
import httpx
import yaml
from docker.models.containers import Container
from docker.models.networks import Network

from components._docker import StackName
from components.render.proxy import ROOT_CERTIFICATE, RUN_DIRECTORY, caddyfile
from components.render.registry import DATA_DIRECTORY, registry_config
from components.settings import ROLES_OF, Process, Settings
from tests.engine import clients
from tests.engine.conftest import remove_everything
from tests.engine.stack import Stack, engine_address

NAMES = StackName(prefix="rs-bench", stack="bench")
STACK_PORT, OPEN_PORT, BARE_PORT = 26440, 26441, 26442
USER = "ci"


@dataclass(frozen=True)
class Server:
    """A registry at ``address`` (host:port); ``front`` is the container that clients talk to over ``network``.

    ``options`` of skopeo hold for the command, ``side_options`` for its source or destination.
    """

    name: str
    address: str
    front: Container
    network: str
    options: tuple[str, ...] = ()
    side_options: tuple[str, ...] = ()
    scheme: str = "https"
    login: tuple[str, str] | None = None

    def push(self, layout: Path, repository: str) -> float:
        """Push an OCI layout, whose layers travel as they are; seconds."""
        return self._copy("dest", f"oci:{layout}", f"docker://{self.address}/{repository}:1")

    def pull(self, repository: str, target: Path) -> float:
        """Pull into a new OCI layout; seconds."""
        return self._copy("src", f"docker://{self.address}/{repository}:1", f"oci:{target}")

    def client_bytes(self) -> int:
        """What its clients and it have sent to each other so far, by the counters of its network interface."""
        address = self.front.attrs["NetworkSettings"]["Networks"][self.network]["MacAddress"]
        find = f"cd $(dirname $(grep -l {address} /sys/class/net/*/address))/statistics"
        return sum(map(int, _output(self.front, "sh", "-c", f"{find} && cat rx_bytes tx_bytes").split()))

    def request(self, count: int) -> float:
        """Ask ``count`` times over one connection for a layer that is not there; the median in seconds."""
        path, times = f"{self.scheme}://{self.address}/v2/nothing/blobs/sha256:{64 * '0'}", []
        # The connection is set up once, so whether its certificate is verified makes no difference.
        with httpx.Client(verify=False, auth=self.login) as client:
            client.head(path)
            for _ in range(count):
                start = time.perf_counter()
                answer = client.head(path)
                times.append(time.perf_counter() - start)
        if answer.status_code != 404:
            raise RuntimeError(f"{self.name} answers {answer.status_code} to HEAD {path} instead of 404")
        return median(times)

    def _copy(self, side: str, source: str, target: str) -> float:
        with tempfile.TemporaryDirectory() as home:
            # skopeo remembers which repository holds a blob and mounts it from there instead of sending it. For root
            # that memory lies outside of its home, unless it takes itself for an ordinary user.
            variables = {"HOME": home, "XDG_DATA_HOME": home, "_CONTAINERS_ROOTLESS_UID": "65534"}
            options = [*self.options, *(f"--{side}-{option}" for option in self.side_options)]
            # What earlier copies left to be written would slow this one.
            os.sync()
            start = time.perf_counter()
            answer = clients.run("skopeo", "copy", "--quiet", *options, source, target, variables=variables)
            seconds = time.perf_counter() - start
        if answer.returncode:
            raise RuntimeError(f"skopeo cannot copy {source} to {target} ({self.name}): {answer.stderr.strip()}")
        return seconds


@dataclass(frozen=True)
class Servers:
    """All of them on one engine, and the declared stack with its login."""

    stack: Stack
    with_login: Server
    without_login: Server
    bare: Server

    def all(self) -> list[Server]:
        """The stack first."""
        return [self.with_login, self.without_login, self.bare]

    def order(self, number: int) -> list[Server]:
        """Their order in a round: A B C, B C A, C A B, …, so that nobody is always first."""
        first = number % 3
        return [*self.all()[first:], *self.all()[:first]]


@contextmanager
def running(api: docker.DockerClient, folder: Path) -> Iterator[Servers]:
    """Start the three, and remove them with their data at the end."""
    remove_everything(api, NAMES.prefix)
    try:
        (folder / "stack").mkdir()
        stack = Stack(folder / "stack", engine_address(), _values(STACK_PORT))
        stack.up()
        yield Servers(stack, _declared(api, stack, folder), _without_login(api, folder), _bare(api))
    finally:
        remove_everything(api, NAMES.prefix)


def memory(api: docker.DockerClient) -> dict[str, float]:
    """Megabytes that each container of the three holds now, page cache aside, by role."""
    held = {}
    for role, container in sorted(clients.containers(api, NAMES.prefix).items()):
        if container.status == "running":
            statistics = cast("dict[str, Any]", container.stats(stream=False, one_shot=True))["memory_stats"]
            # cgroup v1 counts a container's children only in the totals.
            version = "total_" if "total_active_file" in statistics["stats"] else ""
            cache = sum(statistics["stats"][f"{version}{kind}_file"] for kind in ("active", "inactive"))
            held[role] = (statistics["usage"] - cache) / 1e6
    return held


def _values(port: int) -> dict[str, object]:
    return {
        "name_prefix": NAMES.prefix,
        "registry": {"url": f"https://localhost:{port}", "users": {USER: {"role": "push"}}},
        "proxy": {"address": "127.0.0.1", "certificates": {"internal": {}}},
    }


def _declared(api: docker.DockerClient, stack: Stack, folder: Path) -> Server:
    login = base64.b64encode(f"{USER}:{stack.users[USER]}".encode()).decode()
    credentials = folder / "credentials.json"
    credentials.write_text(json.dumps({"auths": {stack.registry: {"auth": login}}}))
    return Server(
        "the stack",
        stack.registry,
        api.containers.get(stack.outputs()["services"]["proxy"]),
        f"{NAMES.prefix}-edge",
        options=(f"--authfile={credentials}",),
        side_options=(f"cert-dir={stack.certificate_file.parent}",),
        login=(USER, stack.users[USER]),
    )


def _without_login(api: docker.DockerClient, folder: Path) -> Server:
    """The stack's own Caddyfile and three processes, but these ask nobody for a password."""
    settings = Settings.model_validate({"docker_host": engine_address(), **_values(OPEN_PORT)})
    edge, backend = _network(api, "open-edge"), _network(api, "open-backend", internal=True)
    for process in ROLES_OF:
        _registry(api, backend, f"open-{process}", process, settings)
    front = _run(
        api,
        edge,
        "open-proxy",
        settings.images.caddy,
        'printf %s "$FILE" | exec caddy run --adapter=caddyfile --config=-',
        caddyfile(settings),
        port=OPEN_PORT,
    )
    backend.connect(front)
    _wait(f"https://localhost:{OPEN_PORT}")
    certificates = folder / "open"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(_output(front, "cat", ROOT_CERTIFICATE))
    return Server(
        "TLS without login",
        f"localhost:{OPEN_PORT}",
        front,
        str(edge.name),
        side_options=(f"cert-dir={certificates}",),
    )


def _bare(api: docker.DockerClient) -> Server:
    network = _network(api, "bare")
    settings = Settings.model_validate({"docker_host": engine_address(), **_values(BARE_PORT)})
    front = _registry(api, network, "bare", "writer", settings, port=BARE_PORT)
    _wait(f"http://localhost:{BARE_PORT}")
    return Server(
        "bare registry",
        f"localhost:{BARE_PORT}",
        front,
        str(network.name),
        side_options=("tls-verify=false",),
        scheme="http",
    )


def _network(api: docker.DockerClient, role: str, *, internal: bool = False) -> Network:
    return api.networks.create(f"{NAMES.prefix}-{role}", internal=internal, labels=NAMES.labels(role))


def _registry(
    api: docker.DockerClient,
    network: Network,
    role: str,
    process: Process,
    settings: Settings,
    port: int | None = None,
) -> Container:
    """One registry process with the stack's configuration, but without its login."""
    config = yaml.safe_load(registry_config(process, settings.registry))
    del config["auth"]
    if port:
        config["http"]["addr"] = f":{port}"
    return _run(
        api,
        network,
        role,
        settings.images.registry,
        'printf %s "$FILE" > /tmp/config.yml && exec registry serve /tmp/config.yml',
        yaml.safe_dump(config),
        alias=process,
        port=port,
    )


def _run(
    api: docker.DockerClient,
    network: Network,
    role: str,
    image: str,
    command: str,
    file: str,
    alias: str | None = None,
    port: int | None = None,
) -> Container:
    """Start a container under the same limits as the stack's, with its configuration in the variable FILE."""
    store = f"{NAMES.prefix}-{'bare' if role == 'bare' else 'open'}-data"
    api.volumes.create(store, labels=NAMES.labels(store))
    container = api.containers.create(
        image,
        entrypoint=["/bin/sh", "-c", command],
        environment={"FILE": file, "OTEL_TRACES_EXPORTER": "none"},
        name=f"{NAMES.prefix}-{role}",
        labels=NAMES.labels(role),
        network=network.name,
        networking_config={str(network.name): api.api.create_endpoint_config(aliases=[alias] if alias else None)},
        ports={f"{port}/tcp": ("127.0.0.1", port)} if port else None,
        volumes=[f"{store}:{DATA_DIRECTORY}"] if alias else None,
        tmpfs={RUN_DIRECTORY: "size=1m", "/tmp": "size=1m"},
        mem_limit="256m",
        memswap_limit="256m",
    )
    container.start()
    container.reload()
    return container


def _output(container: Container, *command: str) -> bytes:
    """What a command in a container prints; it prints something."""
    for _ in range(5):
        # On a busy machine Engine 20.10 gives this client no output once in a hundred times.
        code, output = container.exec_run(list(command))
        if code == 0 and output:
            return cast("bytes", output)
    raise RuntimeError(f"{' '.join(command)} in {container.name} ends with {code} and prints nothing: try it by hand")


def _wait(address: str) -> None:
    """Until a registry answers; at most 30 seconds."""
    deadline = time.monotonic() + 30
    while True:
        try:
            # Its certificate is not known yet.
            if httpx.get(f"{address}/v2/", verify=False, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{address} does not answer after 30 s; look at `docker logs` of {NAMES.prefix}-…")
        time.sleep(0.2)
