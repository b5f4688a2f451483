"""Each kind of client pulls through the mirrors with the files that `clients` writes, else from the upstream itself.

Image names stay as they are: the mirrors are not in them. Each client runs with one address for all mirrors and with an
address for each.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import httpx
import pytest

from components.configuration.naming import COUNTERS_PORT, mirror_alias
from operations.mirrors.counters import Counters, usage
from tests.engine import pulling_clients
from tests.engine.pulling_clients import ClientMachine, Pull
from tests.harness import clients
from tests.harness.certificates import authority, certificate_pair
from tests.harness.configuration import ROOT
from tests.harness.images import push_layout, random_layer, write_layout
from tests.harness.processes import running
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    PUBLIC_PORT,
    UPSTREAM,
    UPSTREAM_PORT,
    DockerHost,
    running_stack,
)
from tests.harness.stack import Stack

pytestmark = pytest.mark.any_proxy

#: Ports of the mirrors with an address of their own, and of the address of all mirrors.
PORTS = {"docker.io": MIRROR_PORT, "ghcr.io": PUBLIC_PORT, "quay.io": PUBLIC_PORT + 1}
SHARED_PORT = PUBLIC_PORT + 2
REPOSITORIES = {"docker.io": "library/alpine", "ghcr.io": "team/tool", "quay.io": "team/other"}
ORIGINS = ["registry-1.docker.io", "ghcr.io", "quay.io"]
#: The host of the mirrors. BuildKit in Engine 20.10 speaks plain HTTP to a mirror at localhost.
HOST = "mirror.test"
HOSTS = f"127.0.0.1 localhost {HOST} {' '.join(ORIGINS)}\n"
#: The fixture of each client that pulls.
DOCKER = ["docker_pull", "docker_build"]
OTHERS = ["ctr_fetch", "podman_pull", "skopeo_copy", "buildkit_build"]
#: These clients send no ``?ns=``.
NAME_NO_UPSTREAM = ["podman_pull", "skopeo_copy"]


@dataclass
class Requests:
    """The requests for manifests and blobs in the access log of a registry."""

    log: Callable[[], str]
    seen: int = field(default=0, init=False)

    def new(self) -> list[tuple[str, str, str]]:
        """Method, repository and kind of each request since the last call."""
        found = re.findall(r'"(GET|HEAD) /v2/(\S+)/(manifests|blobs)/\S+ HTTP', self.log())
        new, self.seen = found[self.seen :], len(found)
        return new


@dataclass(frozen=True)
class Registries:
    """An upstream behind the mirrors, and an origin on port 443 that has the names of the public registries."""

    upstream: Requests
    origin: Requests
    folder: Path

    def put(self, tag: str) -> None:
        """Push a new image of each upstream to both. Later, ``new`` has only the requests of clients."""
        with httpx.Client(verify=False) as client:
            for repository in REPOSITORIES.values():
                layout = Path(tempfile.mkdtemp(dir=self.folder))
                write_layout(layout, [random_layer(10_000)])
                for registry in (f"http://localhost:{UPSTREAM_PORT}", "https://localhost"):
                    push_layout(client, layout, f"{registry}/v2/{repository}", tag)
        self.upstream.new()
        self.origin.new()


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with a mirror of each upstream, and one address for all."""
    folder, shared = tmp_path_factory.mktemp("stack"), f"https://{HOST}:{SHARED_PORT}"
    with running_stack(client, docker_host, folder, mirrors=mirrors("own"), mirror_url=shared) as running:
        yield running


def mirrors(addresses: str) -> dict[str, dict[str, str]]:
    """The mirrors, each with an address of its own or all with the shared one alone."""
    upstream = {"upstream": f"http://{UPSTREAM}:5000"}
    return {
        name: upstream | ({"url": f"https://{HOST}:{port}"} if addresses == "own" else {})
        for name, port in PORTS.items()
    }


@pytest.fixture(scope="module", params=["own", "shared"])
def addresses(request: pytest.FixtureRequest, stack: Stack) -> str:
    """Whether each mirror has an address of its own. Changing the addresses reloads the proxy."""
    if request.param == "shared":
        stack.write(mirrors=mirrors("shared"))
        stack.up()
    return str(request.param)


@pytest.fixture(scope="module")
def files(stack: Stack, addresses: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command writes for the stack. Docker has a daemon.json with other keys."""
    folder = tmp_path_factory.mktemp("clients")
    daemon = folder / "daemon.json"
    daemon.write_text('{"log-level": "debug", "labels": ["here=yes"]}')
    stack.operations("clients", "--output", str(folder / "etc"), "--merge", str(daemon))
    return folder / "etc"


@pytest.fixture(scope="module")
def registries(
    client: docker.DockerClient, stack: Stack, binary: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registries]:
    folder = tmp_path_factory.mktemp("origin")
    for name, text in certificate_pair("localhost", *ORIGINS).items():
        (folder / name).write_text(text)
    tls = {"certificate": str(folder / "certificate"), "key": str(folder / "private_key")}
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:443", "tls": tls},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    serve = [binary("registry"), "serve", str(folder / "config.yml")]
    with (
        clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT) as upstream,
        running(serve, 443, folder / "log", {"OTEL_TRACES_EXPORTER": "none"}),
    ):
        yield Registries(
            Requests(lambda: upstream.logs(stderr=False).decode()), Requests((folder / "log").read_text), folder
        )


# --- The clients ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority of the origin."""
    file = tmp_path_factory.mktemp("authority") / "public.pem"
    file.write_text(authority().pair()["certificate"])
    return file


@pytest.fixture(scope="module")
def machine(files: Path, trusted: Path, tmp_path_factory: pytest.TempPathFactory) -> ClientMachine:
    """A machine with all files in /etc."""
    etc = tmp_path_factory.mktemp("machine") / "etc"
    shutil.copytree(files, etc)
    (etc / "hosts").write_text(HOSTS)
    return ClientMachine(etc, trusted)


@pytest.fixture(scope="module")
def engine(machine: ClientMachine) -> Iterator[str]:
    """The address of an engine on the machine. It starts only if daemon.json is valid."""
    with pulling_clients.docker_engine(machine) as address:
        yield address


@pytest.fixture(scope="module")
def buildx(binary: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The docker command with the buildx plugin."""
    config = tmp_path_factory.mktemp("buildx")
    (config / "cli-plugins").mkdir()
    (config / "cli-plugins" / "docker-buildx").symlink_to(binary("docker-buildx"))
    return ("docker", "--config", str(config))


@pytest.fixture(scope="module")
def docker_pull(engine: str) -> Pull:
    return pulling_clients.docker_pull(engine)


@pytest.fixture(scope="module")
def docker_build(engine: str, buildx: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Pull:
    return pulling_clients.docker_build(engine, buildx, tmp_path_factory.mktemp("context"))


@pytest.fixture(scope="module")
def ctr_fetch(engine: str, machine: ClientMachine) -> Pull:
    return pulling_clients.ctr_fetch(engine, machine)


@pytest.fixture(scope="module")
def podman_pull(machine: ClientMachine, tmp_path_factory: pytest.TempPathFactory) -> Pull:
    return pulling_clients.podman_pull(machine, tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def skopeo_copy(machine: ClientMachine, tmp_path_factory: pytest.TempPathFactory) -> Pull:
    return pulling_clients.skopeo_copy(machine, tmp_path_factory.mktemp("skopeo"))


@pytest.fixture(scope="module")
def buildkit_build(
    machine: ClientMachine,
    binary: Callable[[str], str],
    buildx: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pull]:
    folder = tmp_path_factory.mktemp("buildkit")
    with pulling_clients.buildkit_build(machine, binary("buildkitd"), buildx, folder) as build:
        yield build


def through_mirrors(name: str, addresses: str, request: pytest.FixtureRequest) -> set[str]:
    """The upstreams for which a client uses a mirror."""
    if name in NAME_NO_UPSTREAM and addresses == "shared":
        return set()
    if name in DOCKER:
        engine = request.getfixturevalue("engine")
        store = clients.run("docker", "--host", engine, "info", "--format", "{{.DriverStatus}}").stdout
        return set(PORTS) if "io.containerd.snapshotter" in store else {"docker.io"}
    return set(PORTS)


# --- Tests ------------------------------------------------------------------------------------------------------------


def counted(client: docker.DockerClient) -> dict[str, Counters]:
    """The counters of each mirror."""
    containers, metrics = clients.containers(client, PREFIX), f"http://127.0.0.1:{COUNTERS_PORT}/metrics"
    found = {
        name: usage(clients.execute(containers[mirror_alias(name)], "wget", "-q", "-O-", metrics)) for name in PORTS
    }
    return {name: one.total if one else Counters() for name, one in found.items()}


@pytest.mark.parametrize("name", [*DOCKER, *(pytest.param(name, marks=pytest.mark.once) for name in OTHERS)])
def test_client_pulls_through_the_mirrors_with_unchanged_names(
    name: str, addresses: str, registries: Registries, client: docker.DockerClient, request: pytest.FixtureRequest
) -> None:
    pull: Pull = request.getfixturevalue(name)
    mirrored, tag = through_mirrors(name, addresses, request), f"{name}-{addresses}"
    registries.put(tag)
    images = [f"{upstream}/{repository}:{tag}" for upstream, repository in REPOSITORIES.items()]

    start = counted(client)
    for image in images:
        pull(image)
    cold, fetched = counted(client), registries.upstream.new()
    for image in images:
        pull(image)
    warm, revalidated = counted(client), registries.upstream.new()

    for upstream, repository in REPOSITORIES.items():
        if upstream in mirrored:
            assert ("GET", repository, "blobs") in fetched
            assert cold[upstream].misses > start[upstream].misses
            assert warm[upstream].hits - cold[upstream].hits >= 3, "a manifest, a configuration and a layer"
            assert warm[upstream].misses == cold[upstream].misses
        else:
            assert start[upstream] == cold[upstream] == warm[upstream]
    # A mirror asks whether the tag moved, and nothing else.
    assert {(method, kind) for method, _, kind in revalidated} <= {("HEAD", "manifests")}
    direct = {repository for upstream, repository in REPOSITORIES.items() if upstream not in mirrored}
    assert {repository for _, repository, _ in registries.origin.new()} == direct


@pytest.mark.parametrize("names", [DOCKER, pytest.param(OTHERS, marks=pytest.mark.once)], ids=["docker", "others"])
def test_clients_pull_from_the_origin_while_the_mirrors_are_down(
    names: list[str],
    addresses: str,
    registries: Registries,
    client: docker.DockerClient,
    request: pytest.FixtureRequest,
) -> None:
    pulls: dict[str, Pull] = {name: request.getfixturevalue(name) for name in names}
    tag = f"down-{addresses}"
    registries.put(tag)
    proxy = client.containers.get(f"{PREFIX}-proxy")
    proxy.stop()
    try:
        for name, pull in pulls.items():
            for upstream, repository in REPOSITORIES.items():
                pull(f"{upstream}/{repository}:{tag}")
                assert ("GET", repository, "blobs") in registries.origin.new(), (name, upstream)
    finally:
        proxy.start()
        clients.wait_until_healthy(client, proxy.name)


@pytest.mark.once
def test_both_ways_of_the_documentation_pull_through_the_mirror(
    addresses: str, registries: Registries, files: Path, trusted: Path, tmp_path: Path
) -> None:
    registries.put("latest")
    port = MIRROR_PORT if addresses == "own" else SHARED_PORT
    page = (ROOT / "docs/mirrors.md").read_text().replace("mirror.example.com", f"{HOST}:{port}")
    (daemon,) = re.findall(r"^ *(\{\"registry-mirrors\".*\})$", page, re.MULTILINE)
    shutil.copytree(files / f"docker/certs.d/{HOST}:{port}", tmp_path / f"docker/certs.d/{HOST}:{port}")
    (tmp_path / "docker" / "daemon.json").write_text(daemon)
    (tmp_path / "hosts").write_text(HOSTS)

    with pulling_clients.docker_engine(ClientMachine(tmp_path, trusted)) as engine:
        for command in re.findall(r"^ *(docker pull .*)$", page, re.MULTILINE):
            answer = clients.run(*command.split(), variables={"DOCKER_HOST": engine})
            assert answer.returncode == 0, answer.stderr
            assert registries.upstream.new(), command

    assert not registries.origin.new()
