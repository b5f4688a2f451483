"""A stack of an earlier version is taken over: nothing is replaced for the state's sake, new names come by and by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import yaml

from tests.engine import clients
from tests.engine.conftest import PREFIX, DockerHost, remove_everything, small_stack
from tests.engine.stack import STACK, Stack

pytestmark = [pytest.mark.once, pytest.mark.any_proxy]


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose containers got names without the prefix, and whose state says null where now are empty lists."""
    remove_everything(client)
    stack = Stack(tmp_path_factory.mktemp("stack"), docker_host.address, small_stack(), path=docker_host.path)
    project = stack.folder / "Pulumi.yaml"
    current = project.read_text()
    former = yaml.safe_load(current)
    del former["config"]["pulumi:autonaming"]
    project.write_text(yaml.safe_dump(former))
    try:
        stack.up()
        project.write_text(current)
        state = json.loads(stack.pulumi("stack", "export", "--stack", STACK).stdout)
        for resource in state["deployment"]["resources"]:
            _forget_empty_lists(resource)
        stack.pulumi("stack", "import", "--stack", STACK, stdin=json.dumps(state))
        yield stack
    finally:
        remove_everything(client)


def _forget_empty_lists(resource: dict[str, Any]) -> None:
    if resource["type"].endswith(":Container"):
        for key in ("envs", "mounts"):
            if resource["outputs"][key] == []:
                resource["outputs"][key] = None


def test_nothing_is_replaced_then_each_replacement_brings_the_prefix(client: docker.DockerClient, stack: Stack) -> None:
    before = clients.containers(client, PREFIX)
    assert before["reader"].name.startswith("registry-reader-")
    assert stack.planned() == {}

    # All containers are replaced: processes by the label of their configuration, carriers by the files.
    stack.write(
        registry=stack.values["registry"] | {"log_level": "warn"},
        mirrors={name: mirror | {"log_level": "warn"} for name, mirror in stack.values["mirrors"].items()},
        proxy=stack.values["proxy"] | {"metrics_port": 29180},
    )
    stack.set_secret("passwords.ci", "example-only-another-password-9bq4z")
    stack.up()

    label = {"label": f"registry-stack.prefix={PREFIX}"}
    names = {each.name for each in client.containers.list(all=True, filters=label)}
    names |= {each.name for each in client.networks.list(filters=label)}
    names |= {each.name for each in client.volumes.list(filters=label)}
    assert len(names) > 12
    assert {name for name in names if not name.startswith(f"{PREFIX}-")} == set()
    assert stack.planned() == {}
