"""Retention on a real stack: rules that would delete everything spare what a Docker host uses or used."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import USER
from operations.manifests import IMAGE_TYPES
from operations.retention.memory import FILE
from tests.engine.test_history import build_and_push
from tests.harness import clients
from tests.harness.small_stack import PREFIX
from tests.harness.stack import Stack, engine_address

pytestmark = pytest.mark.any_proxy

NAME = "shop/app"
#: Deletes every tag and every overwritten manifest that is older than a day.
RETENTION = {
    "rules": [{"keep": {"days": 1}}],
    "overwritten": {"days": 1},
    "most": "100%",
    "running_on": [engine_address()],
}


def on_the_data(*command: str) -> str:
    """Run a command as the registry's user on its data."""
    volume = f"--volume={PREFIX}-registry-data:{DATA_DIRECTORY}"
    arguments = ("run", "--rm", f"--user={USER}", volume, "--entrypoint=", clients.IMAGES.registry, *command)
    done = subprocess.run(
        ["docker", "--host", engine_address(), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pulls(stack: Stack, references: dict[str, str]) -> dict[str, bool]:
    """Whether the registry still delivers each manifest."""
    login = ("production", stack.users["production"])
    accept = {"Accept": ", ".join(IMAGE_TYPES)}
    with httpx.Client(base_url=f"https://{stack.registry}", verify=stack.trust, auth=login, headers=accept) as client:
        return {
            name: client.head(f"/v2/{NAME}/manifests/{digest}").status_code == 200
            for name, digest in references.items()
        }


@pytest.fixture(scope="module", autouse=True)
def forgotten_names(stack: Stack, client: docker.DockerClient) -> None:
    """Remove names in this registry that earlier tests gave to local images, such as that of the stack's containers."""
    for image in client.images.list():
        for name in image.tags:
            if name.startswith(f"{stack.registry}/"):
                client.images.remove(name, force=True)


@pytest.fixture
def digests(
    stack: Stack, docker_cli: clients.DockerCli, client: docker.DockerClient, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """Digests of images a month old: used by containers, loaded from a file, or unused."""
    image = f"{stack.registry}/{NAME}"
    folder = tmp_path / "build"
    folder.mkdir()
    assert docker_cli.login(stack, "ci").returncode == 0
    found, made = dict[str, str](), []
    try:
        for release, (name, tag) in enumerate(
            {"tagged": "old", "untagged": "latest", "stopped": "latest", "loaded": "file", "unused": "latest"}.items()
        ):
            found[name] = build_and_push(docker_cli, f"{image}:{tag}", folder, release)
            if name == "loaded":
                file = str(tmp_path / "image.tar")
                for command in (
                    ("save", "--output", file, f"{image}:{tag}"),
                    ("rmi", f"{image}:{tag}"),
                    ("load", "--input", file),
                ):
                    answer = docker_cli(*command)
                    assert answer.returncode == 0, answer.stderr
            if name != "unused":
                made.append(client.containers.create(f"{image}:{tag}", name=f"rs-test-{name}"))
            if name in ("tagged", "untagged"):
                made[-1].start()
        touch = ("touch", "-d", "2020-01-01 00:00", "{}", "+")
        on_the_data("find", f"{DATA_DIRECTORY}/docker", "-name", "link", "-exec", *touch)
        stack.write(registry=stack.values["registry"] | {"retention": RETENTION})
        yield found
    finally:
        for container in made:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)
        docker_cli("image", "prune", "--all", "--force", "--filter", "label=org.opencontainers.image.revision")
        stack.write(registry={key: value for key, value in stack.values["registry"].items() if key != "retention"})


def test_what_a_host_uses_is_kept_and_the_plan_deletes_the_rest(
    stack: Stack, digests: dict[str, str], client: docker.DockerClient, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"

    shown = stack.operations("retention", "plan", "--output", str(file)).stdout
    plan: dict[str, Any] = json.loads(file.read_text())
    assert all(pulls(stack, digests).values()), "a plan deletes nothing"
    applied = stack.operations("retention", "apply", str(file)).stdout

    tags = {one["tag"]: (one["keep"], one["why"]) for one in plan["tags"]}
    host = engine_address()
    assert tags["old"] == (True, f"runs on {host}: rs-test-tagged"), shown
    assert tags["file"] == (True, f"created on {host}: rs-test-loaded")
    assert tags["latest"] == (False, "rule 1: older than 1 day")
    assert "deleted 2 of 2 tags and manifests" in applied
    assert pulls(stack, digests) == dict.fromkeys(digests, True) | {"unused": False}

    client.containers.get("rs-test-untagged").remove(force=True)
    again = stack.operations("retention", "plan").stdout
    assert "nothing to delete" in again, "the service may need its image again"
    assert "ran before on" in again
    assert digests["untagged"] in on_the_data("cat", FILE)


def test_a_host_that_does_not_answer_stops_the_plan(stack: Stack) -> None:
    gone, registry = "unix:///run/nobody.sock", dict(stack.values["registry"])
    stack.write(registry=registry | {"retention": RETENTION | {"running_on": [engine_address(), gone]}})

    refused = stack.operations("retention", "plan", check=False)
    without = stack.operations("retention", "plan", "--without", gone)
    stack.write(registry=registry)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{gone} does not answer" in refused.stderr
    assert f"--without {gone}" in refused.stderr
    assert without.stdout.splitlines()[-1].startswith(f"{stack.registry}: ")


@pytest.mark.parametrize(
    "command", ["retention plan --without unix:///run/nobody.sock", "gc --stalled 1", "usage", "history"]
)
def test_commands_that_need_no_secret_run_without_the_passphrase(stack: Stack, command: str) -> None:
    registry = dict(stack.values["registry"])
    stack.write(registry=registry | {"retention": RETENTION | {"running_on": ["unix:///run/nobody.sock"]}})

    answer = stack.operations(*command.split(), PULUMI_CONFIG_PASSPHRASE="wrong", check=False)
    stack.write(registry=registry)

    assert answer.returncode == 0, answer.stderr
