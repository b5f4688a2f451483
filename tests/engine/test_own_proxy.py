"""A proxy that the operator already has, with the snippet that the stack writes for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import httpx
import pytest

from components.configuration.naming import PORTS
from tests.engine.floods import Attacker, fill, survived
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.own_proxy import own_caddy, own_nginx
from tests.harness.processes import running
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    PUBLIC_PORT,
    REGISTRY_PORT,
    UPSTREAM,
    UPSTREAM_PORT,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

pytestmark = [pytest.mark.once, pytest.mark.any_proxy]

# Another address than the usual one, which may have services of its own.
ADDRESS = "127.0.0.2"
ALLOWED = ["127.0.0.0/30"]


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    # A quarter of the default: behind an own proxy and Docker's, each layer takes twice the kernel's memory for TCP.
    plain, memory = small_stack(), {"memory_mb": 256}
    changes = {
        "registry": plain["registry"] | memory | {"anonymous_url": f"https://localhost:{PUBLIC_PORT}"},
        "mirrors": {UPSTREAM: plain["mirrors"][UPSTREAM] | memory | {"allow": ALLOWED}},
        "proxy": {"server": "none", "address": ADDRESS},
        "acknowledge": ["anonymous_pull", "routed_loopback"],
    }
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack"), **changes) as declared:
        yield declared


@pytest.fixture(params=["caddy", "nginx"])
def own_proxy(
    stack: Stack, request: pytest.FixtureRequest, binary: Callable[[str], str], tmp_path: Path
) -> Iterator[str]:
    """The operator's server as a process of the Docker host, with the stack's snippet and nothing else of it."""
    server: str = request.param
    snippet = stack.outputs()[f"{server}_snippet"]
    config = tmp_path / server
    if server == "caddy":
        config.write_text(own_caddy(snippet, tmp_path))
        command = [binary("caddy"), "run", "--adapter=caddyfile", f"--config={config}"]
    else:
        config.write_text(own_nginx(snippet, tmp_path))
        command = [binary("nginx"), "-e", "stderr", "-g", "daemon off;", "-c", str(config)]
    with running(command, REGISTRY_PORT, tmp_path / "log", {"XDG_DATA_HOME": str(tmp_path)}):
        yield server


def test_it_does_what_a_proxy_of_the_stack_does(
    own_proxy: str, stack: Stack, skopeo: Callable[[str | None], clients.Skopeo], tmp_path: Path
) -> None:
    write_layout(tmp_path / "layout", [random_layer(5 * clients.MEGABYTE)])
    image = f"team/app:{own_proxy}"

    pushed = skopeo("ci").push(tmp_path / "layout", image)
    assert pushed.returncode == 0, pushed.stderr
    assert skopeo("production").pull(image, tmp_path / "pulled").returncode == 0
    assert "denied: this credential may not push" in skopeo("production").push(tmp_path / "layout", "team/no:1").stderr
    assert "may not delete" in skopeo("ci").delete(image).stderr
    assert skopeo("boss").delete(image).returncode == 0
    assert httpx.get(f"https://{stack.registry}/v2/", verify=stack.trust).status_code == 401
    assert httpx.get(f"https://{stack.registry}/other", verify=stack.trust).status_code == 404
    mirror = f"https://localhost:{MIRROR_PORT}/v2/"
    assert httpx.get(mirror, verify=stack.trust).status_code == 200
    outside = httpx.HTTPTransport(verify=stack.trust, local_address="127.0.0.9")
    with httpx.Client(transport=outside) as client:
        assert client.get(mirror).status_code == 403
    assert httpx.post(f"{mirror}a/blobs/uploads/", verify=stack.trust).status_code == 405


def test_no_attack_ends_a_process_behind_it(
    own_proxy: str, stack: Stack, client: docker.DockerClient, tmp_path: Path
) -> None:
    attacker = Attacker(stack.trust, "127.0.0.1")
    attacks = tmp_path / "bodies", tmp_path / "readers"
    for folder in attacks:
        folder.mkdir()
    with clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT):
        layer = fill(stack, tmp_path)
        survived(stack, client, attacks[0], attacker.bodies())
        survived(stack, client, attacks[1], attacker.readers(stack, layer))


def test_services_publish_on_that_address_alone_and_ask_for_a_login(stack: Stack, client: docker.DockerClient) -> None:
    published = {
        (binding["HostIp"], binding["HostPort"])
        for container in clients.containers(client, PREFIX).values()
        for bindings in (container.attrs["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or []
    }
    assert {address for address, _ in published} == {ADDRESS}
    for process in ("reader", "writer", "admin"):
        assert httpx.get(f"http://{ADDRESS}:{PORTS[process]}/v2/").status_code == 401


def test_the_registry_has_no_way_out(stack: Stack, client: docker.DockerClient) -> None:
    # The engine's own network stands for the world: who is masqueraded as the host reaches a container there.
    outside = client.containers.run(
        clients.IMAGES.registry, detach=True, name=f"{PREFIX}-outside", network_mode="bridge",
        entrypoint=["registry", "serve", "/etc/distribution/config.yml"],
    )  # fmt: skip
    outside.reload()
    address = outside.attrs["NetworkSettings"]["IPAddress"] or next(
        network["IPAddress"] for network in outside.attrs["NetworkSettings"]["Networks"].values()
    )
    ask = ["timeout", "5", "wget", "-q", "-O", "/dev/null", f"http://{address}:5000/"]
    deadline = time.monotonic() + 60
    while outside.exec_run(ask).exit_code != 0:
        assert time.monotonic() < deadline, "nobody is reached, so that the registry would not reach anybody for that"
        time.sleep(0.2)

    reader = clients.containers(client, PREFIX)["reader"]
    assert reader.exec_run(ask).exit_code != 0


def test_an_engine_that_lets_neighbours_in_is_refused_unless_acknowledged(stack: Stack) -> None:
    stack.write(acknowledge=["anonymous_pull"])
    refused = stack.up(check=False)

    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "none, on Docker 20.10." in said
    assert "pulumi config set --path 'registry-stack:acknowledge[1]' routed_loopback" in said
    stack.set_plain("acknowledge[1]", "routed_loopback")
    assert stack.planned() == {}
    stack.write(acknowledge=["anonymous_pull", "routed_loopback"])


def test_a_changed_process_is_replaced_and_nothing_else_changes(stack: Stack) -> None:
    stack.preview("--refresh", "--expect-no-changes")
    registry = stack.values["registry"]

    stack.write(registry=registry | {"log_level": "debug"})
    planned = stack.planned()
    stack.write(registry=registry)

    replaced = {name for name, what in planned.items() if what == "replace"}
    processes = {f"registry-{process}" for process in ("reader", "writer", "admin", "public")}
    assert replaced == {"registry-config-carrier", *processes}
