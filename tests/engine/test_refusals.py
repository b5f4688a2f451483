"""Bad input ends at the preview, before anything is touched, with the key and the fix."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tests.harness import clients
from tests.harness.small_stack import MIRROR_PORT, PREFIX, REGISTRY_PORT, remove_everything, small_stack
from tests.harness.stack import Stack, engine_address

pytestmark = pytest.mark.any_proxy


@pytest.fixture(scope="module")
def stack(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that was never brought up."""
    remove_everything(client)
    yield Stack(tmp_path_factory.mktemp("stack"), engine_address(), small_stack())
    assert clients.containers(client, PREFIX) == {}, "a refused preview changed something"


def refused(stack: Stack, **variables: str) -> str:
    answer = stack.preview(check=False, variables=variables)
    assert answer.returncode != 0, answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def test_a_good_configuration_passes_so_that_the_refusals_mean_something(stack: Stack) -> None:
    assert "proxy-container" in stack.preview().stdout


def test_every_problem_of_a_bad_configuration_is_shown_at_once(stack: Stack) -> None:
    good = dict(stack.values)
    try:
        stack.write(
            registry={"url": "http://registry.example.com", "users": {"ci": {"role": "pusher"}, "new": {}}},
            mirrors={"corp.example.com": {"url": f"https://localhost:{REGISTRY_PORT}"}},
            proxy={"certificates": {"internal": {}}},
            images={"registry": "registry:latest"},
            colour="blue",
        )
        text = refused(stack)
    finally:
        stack.values.pop("colour", None)
        stack.values.pop("images", None)
        written = yaml.safe_load(stack.file.read_text())
        for key in ("colour", "images"):
            written["config"].pop(f"registry-stack:{key}", None)
        stack.file.write_text(yaml.safe_dump(written))
        stack.write(**good)

    for words in (
        "registry.url",
        "registry.users.ci.role",
        "passwords.new",
        'mirrors["corp.example.com"].upstream',
        'mirrors["corp.example.com"].allow',
        "images.registry",
        "colour",
        "pulumi config set --secret --path 'registry-stack:passwords.new'",
    ):
        assert words in text


def test_a_plain_password_beside_encrypted_ones_is_refused(stack: Stack) -> None:
    good = stack.file.read_text()
    written = yaml.safe_load(good)
    written["config"]["registry-stack:passwords"]["ci"] = "example-only-in-plain-sight"
    stack.file.write_text(yaml.safe_dump(written))
    try:
        text = refused(stack)
    finally:
        stack.file.write_text(good)

    assert "passwords.ci" in text
    assert "unencrypted value" in text
    assert "example-only-in-plain-sight" not in text


def test_a_docker_context_in_the_environment_is_refused(stack: Stack) -> None:
    assert "unset DOCKER_CONTEXT" in refused(stack, DOCKER_CONTEXT="production")


def test_a_wrong_passphrase_is_refused(stack: Stack) -> None:
    assert "passphrase" in refused(stack, PULUMI_CONFIG_PASSPHRASE="wrong")


def test_an_engine_that_does_not_answer_is_named(stack: Stack, tmp_path: Path) -> None:
    address = stack.values["docker_host"]
    stack.write(docker_host=f"unix://{tmp_path}/nowhere.sock")
    try:
        text = refused(stack)
    finally:
        stack.write(docker_host=address)

    assert "docker_host" in text
    assert "does not answer" in text


def test_ports_in_use_are_named_all_at_once(stack: Stack) -> None:
    with socket.socket() as one, socket.socket() as other:
        for holder, port in ((one, REGISTRY_PORT), (other, MIRROR_PORT)):
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
            holder.listen()
        text = refused(stack)

    assert f"port {REGISTRY_PORT}" in text
    assert f"port {MIRROR_PORT}" in text


def test_a_preview_over_ssh_opens_no_connection(stack: Stack, tmp_path: Path) -> None:
    address = stack.values["docker_host"]
    (tmp_path / "ssh").write_text('#!/bin/sh\necho connected >> "$0.log"\nexit 1\n')
    (tmp_path / "ssh").chmod(0o755)
    stack.write(docker_host="ssh://deploy@registry.invalid")
    try:
        stack.preview(variables={"PATH": f"{tmp_path}:{stack.environment['PATH']}"})
    finally:
        stack.write(docker_host=address)

    assert not (tmp_path / "ssh.log").exists()
