"""Clients with the files that `clients` writes. Image names stay as they are: the mirrors are not in them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.engine.pulling_engine import pulling_engine
from tests.engine.second_engine import running_dockerd
from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.certificates import authority, certificate_pair
from tests.harness.images import random_layer, write_layout
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

PORTS = {"docker.io": MIRROR_PORT, "ghcr.io": PUBLIC_PORT, "quay.io": PUBLIC_PORT + 1}
#: The path of an image at each upstream, and the name that people write.
IMAGES = {
    "docker.io": ("library/alpine:latest", "alpine:latest"),
    "ghcr.io": ("team/tool:1", "ghcr.io/team/tool:1"),
    "quay.io": ("team/other:1", "quay.io/team/other:1"),
}
ORIGINS = ["registry-1.docker.io", "ghcr.io", "quay.io"]


@dataclass(frozen=True)
class Digests:
    """The digest of each image. The mirrors' upstream and the origin have different images of the same name."""

    by_mirror: Mapping[str, str]
    by_origin: Mapping[str, str]


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with a mirror of each upstream."""
    mirrors = {
        name: {"url": f"https://localhost:{port}", "upstream": f"http://{UPSTREAM}:5000"}
        for name, port in PORTS.items()
    }
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack"), mirrors=mirrors) as running:
        yield running


@pytest.fixture(scope="module")
def files(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command writes for the stack. Docker has a daemon.json with other keys."""
    folder = tmp_path_factory.mktemp("clients")
    daemon = folder / "daemon.json"
    daemon.write_text('{"log-level": "debug", "labels": ["here=yes"]}')
    stack.operations("clients", "--output", str(folder / "etc"), "--merge", str(daemon))
    return folder / "etc"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority of the origin."""
    file = tmp_path_factory.mktemp("authority") / "public.pem"
    file.write_text(authority().pair()["certificate"])
    return file


@pytest.fixture(scope="module")
def digests(
    client: docker.DockerClient,
    stack: Stack,
    binary: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Digests]:
    """An upstream behind the mirrors, and an origin on port 443 that has the names of the public registries."""
    folder = tmp_path_factory.mktemp("origin")
    for name, text in certificate_pair(*ORIGINS).items():
        (folder / name).write_text(text)
    (folder / "config.yml").write_text(
        json.dumps(
            {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                "http": {
                    "addr": "127.0.0.1:443",
                    "tls": {"certificate": str(folder / "certificate"), "key": str(folder / "private_key")},
                },
            }
        )
    )
    serve = [binary("registry"), "serve", str(folder / "config.yml")]
    with (
        clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT),
        running(serve, 443, folder / "log", {"OTEL_TRACES_EXPORTER": "none"}),
    ):
        yield Digests(push(f"localhost:{UPSTREAM_PORT}", folder / "upstream"), push("localhost:443", folder / "origin"))


def push(registry: str, folder: Path) -> dict[str, str]:
    """Push a new image under each name; the digests."""
    found = {}
    for upstream, (path, _) in IMAGES.items():
        layout = folder / upstream
        write_layout(layout, [random_layer(10_000)])
        answer = clients.run(
            "skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{registry}/{path}"
        )
        assert answer.returncode == 0, answer.stderr
        found[upstream] = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return found


@pytest.fixture(scope="module")
def engine(files: Path, trusted: Path) -> Iterator[str]:
    """The address of an engine with the files in /etc/docker. It starts only if daemon.json is valid."""
    with pulling_engine(files / "docker", ORIGINS, trusted) as (address, _):
        yield address


def pull(engine: str, upstream: str) -> str:
    """Pull an image with the docker command, and remove it; its digest."""
    name = IMAGES[upstream][1]
    answer = clients.run("docker", "--host", engine, "pull", name)
    assert answer.returncode == 0, answer.stderr
    clients.run("docker", "--host", engine, "rmi", name)
    return answer.stdout.partition("Digest: ")[2].split()[0]


def through_mirrors(engine: str) -> set[str]:
    """The upstreams for which this engine uses a mirror: Docker Hub alone without the containerd image store."""
    store = clients.run("docker", "--host", engine, "info", "--format", "{{.DriverStatus}}").stdout
    return set(PORTS) if "io.containerd.snapshotter" in store else {"docker.io"}


def test_docker_pulls_through_the_mirrors_with_unchanged_names(engine: str, digests: Digests) -> None:
    mirrored = through_mirrors(engine)

    for upstream in IMAGES:
        expected = digests.by_mirror if upstream in mirrored else digests.by_origin
        assert pull(engine, upstream) == expected[upstream], upstream


def test_docker_pulls_from_the_origin_while_the_mirrors_are_down(
    engine: str, digests: Digests, client: docker.DockerClient
) -> None:
    proxy = client.containers.get(f"{PREFIX}-proxy")
    proxy.stop()
    try:
        for upstream in IMAGES:
            assert pull(engine, upstream) == digests.by_origin[upstream], upstream
    finally:
        proxy.start()
        clients.wait_until_healthy(client, proxy.name)


def test_docker_accepts_its_daemon_json_with_the_other_keys(engine: str, files: Path) -> None:
    info = json.loads(clients.run("docker", "--host", engine, "info", "--format", "{{json .}}").stdout)

    assert info["Labels"] == ["here=yes"]
    assert info["RegistryConfig"]["Mirrors"] == [f"https://localhost:{MIRROR_PORT}/"]
    if int(info["ServerVersion"].partition(".")[0]) >= 23:  # older engines have no --validate
        command = [running_dockerd(), "--validate", "--config-file", files / "docker/daemon.json"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.stderr == "configuration OK\n"


def fetch(engine: str, hosts: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Fetch an image with containerd's own command into the containerd of the engine."""
    return clients.run(*ctr(engine), "content", "fetch", "--hosts-dir", str(hosts), name)


def ctr(engine: str) -> list[str]:
    folder = Path(engine.removeprefix("unix://")).parent
    return ["ctr", "--address", str(folder / "run/containerd/containerd.sock")]


def test_containerd_without_the_certificate_of_the_authority_does_not_fall_back(
    engine: str, files: Path, digests: Digests, tmp_path: Path
) -> None:
    shutil.copytree(files / "containerd/certs.d", tmp_path / "certs.d")
    (tmp_path / f"certs.d/localhost:{MIRROR_PORT}/ca.crt").unlink()

    answer = fetch(engine, tmp_path / "certs.d", "docker.io/library/alpine:latest")

    assert answer.returncode != 0
    assert "CA cert" in answer.stderr


def test_installation_over_ssh_makes_a_running_docker_use_the_mirrors_until_the_uninstallation(
    stack: Stack, digests: Digests, trusted: Path, tmp_path: Path
) -> None:
    docker_folder = tmp_path / "docker"
    docker_folder.mkdir()
    daemon = docker_folder / "daemon.json"
    daemon.write_text('{ "labels": ["here=yes"] }')
    (tmp_path / "ssh").mkdir()
    with (
        pulling_engine(docker_folder, ORIGINS, trusted) as (engine, process),
        ssh_host(tmp_path / "ssh", "unix:///absent.sock", process) as (address, programs),
    ):

        def operations(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            path = f"{programs}:{stack.environment['PATH']}"
            return stack.operations("clients", *words, "--host", address, check=check, PATH=path)

        def names() -> set[str]:
            return {path.name for path in docker_folder.rglob("*")} - {"key.json"}  # of engine 20.10 itself

        def mirrors() -> list[str]:
            info = clients.run("docker", "--host", engine, "info", "--format", "{{json .RegistryConfig.Mirrors}}")
            return json.loads(info.stdout) or []

        refused = operations("install", "--yes", "--try", "alpine:absent", check=False)
        assert refused.returncode == 1, refused.stderr
        assert "Every file is as before" in refused.stderr
        assert names() == {"daemon.json"}
        assert mirrors() == []

        installed = operations("install", "--yes", "--try", "alpine:latest")
        assert "through the mirror" in installed.stderr
        assert mirrors() == [f"https://localhost:{MIRROR_PORT}/"]
        mirrored = through_mirrors(engine)
        for upstream in IMAGES:
            expected = digests.by_mirror if upstream in mirrored else digests.by_origin
            assert pull(engine, upstream) == expected[upstream], upstream

        checked = operations("check", check=False)
        rows = [row for row in checked.stdout.splitlines() if "Docker Engine" in row]
        assert {upstream for upstream in PORTS for row in rows if upstream in row and "yes" in row} == mirrored
        assert checked.returncode == (0 if mirrored == set(PORTS) else 1)

        uninstall = (sys.executable, "-m", "operations", "clients", "uninstall", "--host", address, "--yes")
        done = clients.run(*uninstall, variables={"PATH": f"{programs}:{stack.environment['PATH']}"})
        assert done.returncode == 0, done.stderr
        assert daemon.read_text() == '{ "labels": ["here=yes"] }'
        assert names() == {"daemon.json"}
        assert mirrors() == []
        assert pull(engine, "docker.io") == digests.by_origin["docker.io"]
