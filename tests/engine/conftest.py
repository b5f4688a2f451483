"""Fixtures: stacks on a real engine. A failed test prints the logs of its containers."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.small_stack import PROXIES, DockerHost, running_stack
from tests.harness.stack import Stack, engine_address


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """The engine's API."""
    api = clients.engine()
    yield api
    api.close()


@pytest.fixture(scope="session")
def gateway(client: docker.DockerClient) -> str:
    """An address of this machine that containers reach: the first of the engine's own network."""
    subnet = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"]
    return str(next(ipaddress.ip_network(subnet).hosts()))


@pytest.fixture(scope="session")
def docker_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """The Docker host for the stacks."""
    proxy = PROXIES[request.config.getoption("--proxy")]
    if not request.config.getoption("--over-ssh"):
        yield DockerHost(engine_address(), proxy)
        return
    with ssh_host(tmp_path_factory.mktemp("ssh"), engine_address()) as (address, folder):
        yield DockerHost(address, proxy, f"{folder}:")


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One stack for all tests of a module. Each test restores the stack."""
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def skopeo(stack: Stack, tmp_path: Path) -> Callable[[str | None], clients.Skopeo]:
    """skopeo as a user."""
    return lambda user: clients.Skopeo(stack, tmp_path, user)


@pytest.fixture
def docker_cli(tmp_path: Path, binary: Callable[[str], str]) -> clients.DockerCli:
    """The docker command without a login, with the compose plugin."""
    folder = tmp_path / "docker-config"
    (folder / "cli-plugins").mkdir(parents=True)
    (folder / "cli-plugins" / "docker-compose").symlink_to(binary("docker-compose"))
    return clients.DockerCli(folder)
