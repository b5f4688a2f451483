"""Another address of the Docker host: the same engine is accepted, another one is refused, and the documented move."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.engine.second_engine import second_engine
from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.small_stack import PREFIX, DockerHost, remove_everything, running_stack, small_stack
from tests.harness.stack import STACK, Stack, engine_address

pytestmark = [
    pytest.mark.once,
    pytest.mark.any_proxy,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a second engine"),
]

IMAGE = "team/app"
TAG_FILE = f"/var/lib/registry/docker/registry/v2/repositories/{IMAGE}/_manifests/tags/1/current/link"


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    """The address of another engine."""
    with second_engine() as address:
        yield address


def connected(address: str) -> contextlib.closing[docker.DockerClient]:
    """The API of an engine."""
    return contextlib.closing(docker.DockerClient(base_url=address, version="auto", timeout=300))


def objects(api: docker.DockerClient) -> dict[str, Any]:
    """What an engine has of the stack: containers with their state, networks, volumes."""
    label = {"label": f"registry-stack.prefix={PREFIX}"}
    return {
        "containers": {each.id: each.status for each in api.containers.list(all=True, filters=label)},
        "networks": {each.id for each in api.networks.list(filters=label)},
        "volumes": {each.name for each in api.volumes.list(filters=label)},
    }


@contextlib.contextmanager
def reached_by(stack: Stack, address: str, ssh: Path | None = None) -> Iterator[None]:
    """Configures another address, to which the ``ssh`` in a folder leads, for as long as the block runs."""
    before, path = stack.values["docker_host"], stack.environment["PATH"]
    stack.write(docker_host=address)
    stack.environment["PATH"] = f"{ssh}:{path}" if ssh else path
    try:
        yield
    finally:
        stack.environment["PATH"] = path
        stack.write(docker_host=before)


def refused(answer: subprocess.CompletedProcess[str]) -> str:
    text = answer.stdout + answer.stderr
    assert answer.returncode != 0, text
    # Pulumi's own SDK may show one for a registration that the refusal cut off.
    assert "preflight.py" not in text
    assert "docs/moving.md" in text
    return text


def test_another_server_is_refused_before_anything_changes(
    client: docker.DockerClient, stack: Stack, other: str, tmp_path: Path
) -> None:
    before, outputs, address = objects(client), stack.outputs(), stack.values["docker_host"]
    with ssh_host(tmp_path, other) as (over_ssh, folder), reached_by(stack, over_ssh, folder):
        for answer in (stack.preview(check=False), stack.up(check=False), stack.up("--refresh", check=False)):
            assert f"{over_ssh} is another engine than {address}" in refused(answer)

    assert objects(client) == before
    assert stack.planned() == {}
    assert stack.outputs() == outputs
    with connected(other) as api:
        assert not any(objects(api).values())


def test_a_host_that_does_not_answer_is_refused(stack: Stack) -> None:
    with reached_by(stack, "ssh://deploy@registry.invalid"):
        assert "ssh://deploy@registry.invalid does not answer" in refused(stack.preview(check=False))


def test_the_same_engine_under_other_addresses_is_accepted(stack: Stack, tmp_path: Path) -> None:
    link = tmp_path / "docker.sock"
    link.symlink_to(engine_address().removeprefix("unix://"))
    with ssh_host(tmp_path, engine_address()) as (over_ssh, folder), reached_by(stack, over_ssh, folder):
        planned = stack.planned()
    with reached_by(stack, f"unix://{link}"):
        planned |= stack.planned()
        stack.up()
    stack.up()

    assert planned.pop("docker-host") == "update"
    assert set(planned.values()) == {"update"}, "containers were replaced"
    assert all("container" not in name and "carrier" not in name for name in planned), planned


def commands(heading: str = "", **variables: str) -> str:
    """The commands of a section of the documentation, with other values of the variables that it sets."""
    text = (ROOT / "docs/moving.md").read_text()
    section = text.partition(f"## {heading}\n")[2] if heading else text
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    script = "".join(block for _, block in blocks)
    for name, value in variables.items():
        script, count = re.subn(rf"^( *{name})=.*$", rf"\1={value}", script, flags=re.MULTILINE)
        assert count == 1, name
    return script


def follow(stack: Stack, script: str) -> str:
    """Type the commands into a shell in the project's folder, and answer each question with yes."""
    answer = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=stack.folder,
        env=stack.environment | {"PULUMI_SKIP_CONFIRMATIONS": "true", "PULUMI_STACK": STACK},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def pull(api: docker.DockerClient, stack: Stack) -> str:
    """Pull the image by an engine, as a user, and tell its ID."""
    login = {"username": "production", "password": stack.users["production"]}
    return str(api.images.pull(f"{stack.registry}/{IMAGE}", tag="1", auth_config=login).id)


def pushed_at(api: docker.DockerClient, address: str) -> str:
    """When the tag was pushed, in seconds, as the registry's storage has it at an engine."""
    return clients.execute(clients.containers(api, PREFIX)["reader"], "stat", "-c", "%Y", TAG_FILE, host=address)


def test_the_documented_move_takes_everything_along(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path: Path
) -> None:
    with second_engine() as new, connected(new) as api:
        (tmp_path / "stack").mkdir()
        with running_stack(client, docker_host, tmp_path / "stack", protect_data=True) as stack:
            name = f"{stack.registry}/{IMAGE}"
            client.images.get(clients.IMAGES.registry).tag(name, "1")
            login = {"username": "ci", "password": stack.users["ci"]}
            client.images.push(name, tag="1", auth_config=login)
            image, moment = client.images.get(f"{name}:1").id, pushed_at(client, engine_address())
            root = stack.outputs()["ca_certificate"]

            said = follow(stack, commands(old=stack.values["docker_host"], new=new, prefix=PREFIX))

            assert said.count("is complete") == 4
            stack.values["docker_host"] = new
            assert objects(client) == {
                "containers": {},
                "networks": set(),
                "volumes": {
                    f"{PREFIX}-{name}"
                    for name in ("registry-data", "proxy-data", "proxy-issued-data", "mirror-upstream-test-cache")
                },
            }
            assert pull(api, stack) == image
            assert pushed_at(api, new) == moment
            assert stack.outputs()["ca_certificate"] == root
            assert objects(api)["volumes"] > objects(client)["volumes"], "volumes lost their labels"
            assert stack.planned() == {}


def test_a_stack_whose_host_is_lost_comes_up_on_another_by_the_documented_commands(
    client: docker.DockerClient, tmp_path: Path
) -> None:
    remove_everything(client)
    try:
        with second_engine() as lost:
            stack = Stack(tmp_path, lost, small_stack(protect_data=True))
            stack.up()
        stack.write(docker_host=engine_address())
        assert f"{lost} does not answer" in refused(stack.preview(check=False))

        follow(stack, f"new={engine_address()}\n" + commands("When the old host is lost"))

        assert set(stack.outputs()["services"]) <= set(clients.containers(client, PREFIX))
    finally:
        remove_everything(client)
