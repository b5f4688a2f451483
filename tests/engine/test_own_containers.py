"""A preview knows the stack's own containers, whatever happened to them, and lets the ``up`` through that repairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from components.checks.docker_host import _is_bound, check_local_engine
from components.configuration.naming import StackName
from tests.harness import clients
from tests.harness.configuration import loaded
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX, REGISTRY_PORT
from tests.harness.stack import STACK, Stack

pytestmark = pytest.mark.any_proxy

As = Callable[[str | None], clients.Skopeo]


@contextmanager
def renamed(stack: Stack, name: str) -> Iterator[None]:
    """The stack under another name."""
    stack.pulumi("stack", "rename", "--stack", STACK, name)
    try:
        yield
    finally:
        stack.pulumi("stack", "rename", "--stack", name, STACK)


def test_a_proxy_in_a_restart_loop_does_not_keep_the_up_away_that_repairs_it(
    stack: Stack, client: docker.DockerClient
) -> None:
    settings = loaded({**stack.values, "passwords": stack.users, "stack_secret": "5" * 64})[0]
    names, proxy = StackName(prefix=PREFIX, stack=STACK), clients.containers(client, PREFIX)["proxy"]
    client.containers.run(
        proxy.image,
        entrypoint=["sh", "-c", "echo 'not a configuration {' > /etc/caddy/Caddyfile"],
        user="0",
        remove=True,
        network_mode="none",
        volumes={f"{PREFIX}-proxy-config": {"bind": "/etc/caddy", "mode": "rw"}},
    )
    proxy.restart()

    checked, deadline = 0, time.monotonic() + 180
    while checked < 3 and time.monotonic() < deadline:
        listed = next(one for one in client.api.containers(all=True) if one["Id"] == proxy.id)
        if listed["State"] == "restarting" and not listed["Ports"] and _is_bound("127.0.0.1", REGISTRY_PORT):
            check_local_engine(settings, names)
            checked += 1
    assert checked == 3, "the engine never held the port of a container that it lists without ports"
    stack.write(proxy={**stack.values["proxy"], "metrics_port": 25480})
    stack.up()

    assert clients.containers(client, PREFIX)["proxy"].attrs["State"]["Health"]["Status"] == "healthy"


def test_a_renamed_stack_can_be_previewed_and_brought_up_with_its_data(
    stack: Stack, client: docker.DockerClient, skopeo: As, tmp_path: Path
) -> None:
    write_layout(tmp_path / "image", [random_layer(1 << 20)])
    reader = skopeo("production")
    pushed = skopeo("ci").push(tmp_path / "image", "renamed/app:1")
    assert pushed.returncode == 0, pushed.stderr

    with renamed(stack, "renamed"):
        stack.pulumi("preview", "--stack", "renamed", "--color=never")
        stack.pulumi("up", "--stack", "renamed", "--yes", "--skip-preview", "--color=never")
        labels = {role: one.labels["registry-stack.stack"] for role, one in clients.containers(client, PREFIX).items()}

        assert set(labels.values()) == {"renamed"}
        pulled = reader.pull("renamed/app:1", tmp_path / "pulled")
        assert pulled.returncode == 0, pulled.stderr
