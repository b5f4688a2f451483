"""Each kind of client pulls through the mirrors with the files of `clients`, else from the upstream itself.

Image names stay as they are: the mirrors are not in them. Each client runs with one address for all mirrors and with an
address for each.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from components.configuration.naming import COUNTERS_PORT, mirror_alias
from operations.mirrors.counters import Counters, usage
from tests.engine import pulling_clients
from tests.engine.pulled_registries import ORIGINS, REPOSITORIES, Registries, running_registries
from tests.engine.pulling_clients import ClientMachine, Pull
from tests.engine.second_engine import running_dockerd
from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.certificates import authority
from tests.harness.configuration import ROOT
from tests.harness.small_stack import MIRROR_PORT, PREFIX, PUBLIC_PORT, UPSTREAM, DockerHost, running_stack
from tests.harness.stack import Stack

pytestmark = pytest.mark.any_proxy

#: Ports of the mirrors with an address of their own, and of the address of all mirrors.
PORTS = {"docker.io": MIRROR_PORT, "ghcr.io": PUBLIC_PORT, "quay.io": PUBLIC_PORT + 1}
SHARED_PORT = PUBLIC_PORT + 2
#: The host of the mirrors. BuildKit in Engine 20.10 speaks plain HTTP to a mirror at localhost.
HOST = "mirror.test"
HOSTS = f"127.0.0.1 localhost {HOST} {' '.join(ORIGINS)}\n"
#: The fixture of each client that pulls.
DOCKER = ["docker_pull", "docker_build"]
OTHERS = ["ctr_fetch", "podman_pull", "skopeo_copy", "buildkit_build"]
#: These clients send no ``?ns=``.
NAME_NO_UPSTREAM = ["podman_pull", "skopeo_copy"]


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
    with running_registries(client, binary("registry"), tmp_path_factory.mktemp("origin")) as running:
        yield running


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
    with pulling_clients.docker_engine(machine) as (address, _):
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
    return mirrored_by_docker(request.getfixturevalue("engine")) if name in DOCKER else set(PORTS)


def mirrored_by_docker(engine: str) -> set[str]:
    """The upstreams for which this engine uses a mirror: Docker Hub alone without the containerd image store."""
    store = clients.run("docker", "--host", engine, "info", "--format", "{{.DriverStatus}}").stdout
    return set(PORTS) if "io.containerd.snapshotter" in store else {"docker.io"}


def address_of_docker_hub(addresses: str) -> str:
    """The address of the mirror of Docker Hub."""
    return f"https://{HOST}:{MIRROR_PORT if addresses == 'own' else SHARED_PORT}"


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
    host = address_of_docker_hub(addresses).removeprefix("https://")
    page = (ROOT / "docs/mirrors.md").read_text().replace("mirror.example.com", host)
    (daemon,) = re.findall(r"^ *(\{\"registry-mirrors\".*\})$", page, re.MULTILINE)
    shutil.copytree(files / f"docker/certs.d/{host}", tmp_path / f"docker/certs.d/{host}")
    (tmp_path / "docker" / "daemon.json").write_text(daemon)
    (tmp_path / "hosts").write_text(HOSTS)

    with pulling_clients.docker_engine(ClientMachine(tmp_path, trusted)) as (engine, _):
        for command in re.findall(r"^ *(docker pull .*)$", page, re.MULTILINE):
            answer = clients.run(*command.split(), variables={"DOCKER_HOST": engine})
            assert answer.returncode == 0, answer.stderr
            assert registries.upstream.new(), command

    assert not registries.origin.new()


def test_docker_accepts_its_daemon_json_with_the_other_keys(engine: str, addresses: str, files: Path) -> None:
    info = json.loads(clients.run("docker", "--host", engine, "info", "--format", "{{json .}}").stdout)

    assert info["Labels"] == ["here=yes"]
    assert info["RegistryConfig"]["Mirrors"] == [f"{address_of_docker_hub(addresses)}/"]
    if int(info["ServerVersion"].partition(".")[0]) >= 23:  # older engines have no --validate
        answer = clients.run(str(running_dockerd()), "--validate", "--config-file", str(files / "docker/daemon.json"))
        assert answer.stderr == "configuration OK\n"


@pytest.mark.once
def test_containerd_without_the_certificate_of_the_authority_does_not_fall_back(
    engine: str, addresses: str, registries: Registries, files: Path, tmp_path: Path
) -> None:
    registries.put("latest")
    shutil.copytree(files / "containerd/certs.d", tmp_path / "certs.d")
    host = address_of_docker_hub(addresses).removeprefix("https://")
    (tmp_path / f"certs.d/{host}/ca.crt").unlink()

    fetch = ("content", "fetch", "--hosts-dir", str(tmp_path / "certs.d"), "docker.io/library/alpine:latest")
    answer = clients.run(*pulling_clients.ctr(engine), *fetch)

    assert answer.returncode != 0
    assert "CA cert" in answer.stderr
    assert registries.origin.new() == []


def test_installation_over_ssh_makes_a_running_docker_use_the_mirrors_until_the_uninstallation(
    stack: Stack, addresses: str, registries: Registries, trusted: Path, tmp_path: Path
) -> None:
    registries.put("latest")
    before = '{ "labels": ["here=yes"] }'
    for name, text in {"etc/hosts": HOSTS, "etc/docker/daemon.json": before}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "ssh").mkdir()
    with (
        pulling_clients.docker_engine(ClientMachine(tmp_path / "etc", trusted)) as (engine, process),
        ssh_host(tmp_path / "ssh", "unix:///absent.sock", process) as (address, programs),
    ):
        etc_docker = Path(f"/proc/{process}/root/etc/docker")

        def operations(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            path = f"{programs}:{stack.environment['PATH']}"
            return stack.operations("clients", *words, "--host", address, check=check, PATH=path)

        def is_as_before() -> bool:
            names = {path.name for path in etc_docker.rglob("*")} - {"key.json"}  # of engine 20.10 itself
            return names == {"daemon.json"} and (etc_docker / "daemon.json").read_text() == before and not mirrors()

        def mirrors() -> list[str]:
            info = clients.run("docker", "--host", engine, "info", "--format", "{{json .RegistryConfig.Mirrors}}")
            return json.loads(info.stdout) or []

        def pulled(tag: str) -> tuple[set[str], set[str]]:
            """Pull an image of each upstream; the repositories that the mirrors fetched, and those of the origin."""
            registries.put(tag)
            pull = pulling_clients.docker_pull(engine)
            for upstream, repository in REPOSITORIES.items():
                pull(f"{upstream}/{repository}:{tag}")
            fetched, direct = registries.upstream.new(), registries.origin.new()
            return {repository for _, repository, _ in fetched}, {repository for _, repository, _ in direct}

        refused = operations("install", "--yes", "--try", "alpine:absent", check=False)
        assert refused.returncode == 1, refused.stderr
        assert "Every file is as before" in refused.stderr
        assert is_as_before()

        installed = operations("install", "--yes", "--try", "alpine:latest")
        assert "through the mirror" in installed.stderr
        assert mirrors() == [f"{address_of_docker_hub(addresses)}/"]
        mirrored = mirrored_by_docker(engine)
        by_mirrors = {repository for upstream, repository in REPOSITORIES.items() if upstream in mirrored}
        assert pulled(f"installed-{addresses}") == (by_mirrors, set(REPOSITORIES.values()) - by_mirrors)

        checked = operations("check", check=False)
        rows = [row for row in checked.stdout.splitlines() if "Docker Engine" in row]
        assert {upstream for upstream in PORTS for row in rows if upstream in row and "yes" in row} == mirrored
        # Podman, which the machine has as well, cannot use a shared address.
        assert checked.returncode == (0 if mirrored == set(PORTS) and addresses == "own" else 1)

        uninstall = (sys.executable, "-m", "operations", "clients", "uninstall", "--host", address, "--yes")
        done = clients.run(*uninstall, variables={"PATH": f"{programs}:{stack.environment['PATH']}"})
        assert done.returncode == 0, done.stderr
        assert is_as_before()
        assert pulled(f"uninstalled-{addresses}") == (set(), set(REPOSITORIES.values()))
