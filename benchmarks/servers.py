"""The registries to compare: the stack, the stack without authentication, and a bare registry."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import docker
import httpx
from docker.models.containers import Container

from benchmarks.containers import ANYONE, NAMES, memory, network, output, proxy, registries, registry, wait
from benchmarks.report import rotated
from components.configuration.settings import Settings
from components.render.proxy import ROOT_CERTIFICATE
from tests.harness import clients
from tests.harness.small_stack import remove_everything
from tests.harness.stack import Stack, engine_address

STACK_PORT, OPEN_PORT, BARE_PORT = 26440, 26441, 26442
USER = "ci"


@dataclass(frozen=True)
class Server:
    """A registry at ``address`` (host:port). ``front`` is the container that clients reach over ``network``.

    skopeo gets ``options`` for the command and ``side_options`` for its source or destination.
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
        """Push an OCI layout without recompressing its layers. Return the seconds."""
        return self._copy("dest", f"oci:{layout}", f"docker://{self.address}/{repository}:1")

    def pull(self, repository: str, target: Path) -> float:
        """Pull into a new OCI layout. Return the seconds."""
        return self._copy("src", f"docker://{self.address}/{repository}:1", f"oci:{target}")

    def pull_at_once(self, repository: str, folder: Path, count: int) -> float:
        """Pull ``count`` times at once, each time into a new OCI layout. Return the seconds of all together."""
        source = f"docker://{self.address}/{repository}:1"
        os.sync()
        start = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            list(
                threads.map(
                    lambda number: self._skopeo_copy("src", source, f"oci:{folder / str(number)}"), range(count)
                )
            )
        return time.perf_counter() - start

    def client_bytes(self) -> int:
        """Bytes between the registry and its clients so far, from the counters of the network interface."""
        address = self.front.attrs["NetworkSettings"]["Networks"][self.network]["MacAddress"]
        find = f"cd $(dirname $(grep -l {address} /sys/class/net/*/address))/statistics"
        return sum(map(int, output(self.front, "sh", "-c", f"{find} && cat rx_bytes tx_bytes").split()))

    def request(self, count: int) -> float:
        """Request a missing layer ``count`` times over one connection. Return the median in seconds."""
        path, times = f"{self.scheme}://{self.address}/v2/nothing/blobs/sha256:{64 * '0'}", []
        # One handshake serves all requests, so a verified certificate makes no difference.
        with httpx.Client(verify=False, auth=self.login) as client:
            client.head(path)
            for _ in range(count):
                start = time.perf_counter()
                answer = client.head(path)
                times.append(time.perf_counter() - start)
        if answer.status_code != 404:
            raise RuntimeError(f"{self.name} answers HEAD {path} with {answer.status_code} instead of 404")
        return median(times)

    def _copy(self, side: str, source: str, target: str) -> float:
        # Pending disk writes of earlier copies would slow this copy.
        os.sync()
        start = time.perf_counter()
        self._skopeo_copy(side, source, target)
        return time.perf_counter() - start

    def _skopeo_copy(self, side: str, source: str, target: str) -> None:
        with tempfile.TemporaryDirectory() as home:
            # skopeo caches which repository has a blob and mounts the blob from there instead of sending it. For root,
            # the cache is outside its home, unless skopeo believes that it runs as an ordinary user.
            variables = {"HOME": home, "XDG_DATA_HOME": home, "_CONTAINERS_ROOTLESS_UID": "65534"}
            options = [*self.options, *(f"--{side}-{option}" for option in self.side_options)]
            answer = clients.run("skopeo", "copy", "--quiet", *options, source, target, variables=variables)
        if answer.returncode:
            raise RuntimeError(f"skopeo cannot copy {source} to {target} ({self.name}): {answer.stderr.strip()}")


@dataclass(frozen=True)
class Servers:
    """All servers, on one engine. ``stack`` is the declared stack behind ``with_login``."""

    stack: Stack
    with_login: Server
    without_login: Server
    bare: Server

    def all(self) -> list[Server]:
        """All servers, the stack first."""
        return [self.with_login, self.without_login, self.bare]

    def order(self, number: int) -> list[Server]:
        """The order in a round: A B C, B C A, C A B, …, so that no server is always first."""
        return rotated(self.all(), number)


@contextmanager
def running(api: docker.DockerClient, folder: Path) -> Iterator[Servers]:
    """Start the three servers, and remove them with their data at the end."""
    remove_everything(api, NAMES.prefix)
    try:
        (folder / "stack").mkdir()
        stack = Stack(folder / "stack", engine_address(), _values(STACK_PORT))
        stack.up()
        yield Servers(stack, declared(api, stack, folder), _without_login(api, folder), _bare(api))
    finally:
        remove_everything(api, NAMES.prefix)


def memory_by_role(api: docker.DockerClient) -> dict[str, float]:
    """The memory of each running container in megabytes, without page cache."""
    found = sorted(clients.containers(api, NAMES.prefix).items())
    return {role: memory(container) for role, container in found if container.status == "running"}


def _values(port: int) -> dict[str, object]:
    return {
        "name_prefix": NAMES.prefix,
        "registry": {"url": f"https://localhost:{port}", "users": {USER: {"role": "push"}}},
        "proxy": {"address": "127.0.0.1", "certificates": {"internal": {}}},
    }


def logged_in(address: str, login: tuple[str, str], folder: Path) -> str:
    """skopeo's option for a login at one registry. The command line does not show the password."""
    credentials = folder / f"credentials-{address}.json"
    auth = base64.b64encode(":".join(login).encode()).decode()
    credentials.write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    return f"--authfile={credentials}"


def declared(api: docker.DockerClient, stack: Stack, folder: Path) -> Server:
    """The registry of a declared stack."""
    login = (USER, stack.users[USER])
    return Server(
        "the stack",
        stack.registry,
        api.containers.get(stack.outputs()["services"]["proxy"]),
        f"{NAMES.prefix}-edge",
        options=(logged_in(stack.registry, login, folder),),
        side_options=(f"cert-dir={stack.certificate_file.parent}",),
        login=login,
    )


def _without_login(api: docker.DockerClient, folder: Path) -> Server:
    """Start the stack's Caddyfile and three processes that check no password."""
    settings = Settings.model_validate({"docker_host": engine_address(), **_values(OPEN_PORT)})
    edge, backend = network(api, "open-edge"), network(api, "open-backend", internal=True)
    registries(api, backend, settings)
    front = proxy(api, edge, backend, "open-proxy", settings)
    wait(f"https://localhost:{OPEN_PORT}")
    certificates = folder / "open"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(output(front, "cat", ROOT_CERTIFICATE))
    return Server(
        "TLS without login",
        f"localhost:{OPEN_PORT}",
        front,
        str(edge.name),
        options=(logged_in(f"localhost:{OPEN_PORT}", ANYONE, folder),),
        side_options=(f"cert-dir={certificates}",),
        login=ANYONE,
    )


def _bare(api: docker.DockerClient) -> Server:
    own = network(api, "bare")
    settings = Settings.model_validate({"docker_host": engine_address(), **_values(BARE_PORT)})
    front = registry(api, own, "bare", "writer", settings, store="bare-data", port=BARE_PORT)
    wait(f"http://localhost:{BARE_PORT}")
    return Server(
        "bare registry",
        f"localhost:{BARE_PORT}",
        front,
        str(own.name),
        side_options=("tls-verify=false",),
        scheme="http",
    )
