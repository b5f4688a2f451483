"""Clients without a right, or without an end, by the hundred, while others push and pull: nothing is killed."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.engine.floods import Attacker, fill, survived
from tests.engine.transfers import proxy_address
from tests.harness import clients
from tests.harness.small_stack import (
    PREFIX,
    PUBLIC_PORT,
    UPSTREAM,
    UPSTREAM_PORT,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

pytestmark = [pytest.mark.once, pytest.mark.load]


@pytest.fixture(
    scope="module", params=[(1, 1), (2, 50)], ids=["from-one-address", "twice-the-memory-from-50-addresses"]
)
def scale(request: pytest.FixtureRequest) -> tuple[int, int]:
    """How much more memory than by default the containers have, and from how many addresses the attacks come."""
    times, addresses = request.param
    return times, addresses


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient,
    docker_host: DockerHost,
    tmp_path_factory: pytest.TempPathFactory,
    scale: tuple[int, int],
) -> Iterator[Stack]:
    """A stack with a host that asks for no login, and a mirror."""
    plain, memory = small_stack(), {"memory_mb": 1024 * scale[0]}
    changes = {
        "registry": plain["registry"] | memory | {"anonymous_url": f"https://localhost:{PUBLIC_PORT}"},
        "mirrors": {UPSTREAM: plain["mirrors"][UPSTREAM] | memory},
        # On loopback, one address alone would be answered.
        "proxy": {**docker_host.proxy, "memory_mb": 256 * scale[0], "address": "0.0.0.0"},
        "acknowledge": ["open_mirror", "anonymous_pull"],
    }
    folder = tmp_path_factory.mktemp("stack")
    with (
        running_stack(client, docker_host, folder, **changes) as running,
        clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT),
    ):
        yield running


@pytest.fixture(scope="module")
def layer(stack: Stack) -> str:
    return fill(stack, stack.folder)


@pytest.fixture(scope="module")
def attacker(stack: Stack, client: docker.DockerClient, scale: tuple[int, int]) -> Iterator[Attacker]:
    """Attacks from the Docker host, which has more addresses on the proxy's network meanwhile."""
    network = client.networks.get(f"{PREFIX}-edge")
    subnet = ipaddress.ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"])
    own, bridge = [str(subnet[-2 - number]) for number in range(scale[1] - 1)], f"br-{network.id[:12]}"
    for address in own:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", bridge], check=True)
    yield Attacker(stack.trust, proxy_address(client), scale[0], ["", *own])
    for address in own:
        subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", bridge], check=True)


def test_bodies_that_nobody_finishes_take_no_memory_that_others_need(
    stack: Stack, client: docker.DockerClient, layer: str, attacker: Attacker, tmp_path: Path
) -> None:
    survived(stack, client, tmp_path, attacker.bodies())


def test_clients_that_do_not_read_end_no_process(
    stack: Stack, client: docker.DockerClient, layer: str, attacker: Attacker, tmp_path: Path
) -> None:
    survived(stack, client, tmp_path, attacker.readers(stack, layer))
