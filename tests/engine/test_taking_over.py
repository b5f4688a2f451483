"""A stack of an earlier version is taken over: new names come by and by, and its data gets another owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import USER, on_own_store
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX, DockerHost, remove_everything, small_stack
from tests.harness.stack import STACK, Stack

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


def test_data_that_root_wrote_is_given_to_the_processes_which_no_longer_are_root(
    client: docker.DockerClient, stack: Stack, tmp_path: Path
) -> None:
    def in_volume(*command: str) -> str:
        volumes = {f"{PREFIX}-registry-data": {"bind": "/data", "mode": "rw"}}
        output: bytes = client.containers.run(
            clients.IMAGES.registry, remove=True, entrypoint=[], command=list(command), volumes=volumes
        )
        return output.decode()

    skopeo = clients.Skopeo(stack, tmp_path, "boss")
    for name in ("before", "after"):
        write_layout(tmp_path / name, [random_layer(1000)])
    pushed = skopeo.push(tmp_path / "before", "team/app:before")
    assert pushed.returncode == 0, pushed.stderr
    in_volume("chown", "-R", "0:0", "/data")

    # As docs/configuration.md says; then as an update does it, which replaces the processes.
    stack.up("--replace=**::stores-owner")
    assert in_volume("find", "/data", "!", "-user", "65532") == ""
    assert {client.containers.get(found).status for found in stack.outputs()["services"].values()} == {"running"}
    in_volume("chown", "-R", "0:0", "/data")
    stack.write(registry=stack.values["registry"] | {"log_level": "info"})
    stack.up("--replace=**::stores-owner")

    assert in_volume("find", "/data", "!", "-user", "65532") == ""
    for done in (
        skopeo.pull("team/app:before", tmp_path / "pulled"),
        skopeo.push(tmp_path / "after", "team/app:after"),
        skopeo.delete("team/app:before"),
    ):
        assert done.returncode == 0, done.stderr


def test_a_process_that_may_not_write_its_store_does_not_start(client: docker.DockerClient, stack: Stack) -> None:
    """As in a volume that was made anew by hand: the engine gives it the owner of the image's folder."""
    with pytest.raises(docker.errors.ContainerError, match=r"belongs to uid 0, .*has the uid 65532"):
        client.containers.run(
            clients.IMAGES.registry,
            remove=True,
            entrypoint=[],
            command=on_own_store("echo runs", "x.yml", "registry", writes=True),
            user=USER,
            tmpfs={DATA_DIRECTORY: "mode=0755"},
        )
