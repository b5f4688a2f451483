"""A mirror of an upstream that the tests start and stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest
from docker.models.containers import Container

from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    UPSTREAM,
    UPSTREAM_PORT,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

MIRROR = f"localhost:{MIRROR_PORT}"


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose mirror has the rules of Docker Hub; it comes up while its upstream does not exist."""
    mirrors = {"docker.io": small_stack()["mirrors"][UPSTREAM]}
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack"), mirrors=mirrors) as running:
        yield running


@pytest.fixture(scope="module")
def upstream(
    stack: Stack, client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """A registry that the mirror reaches as its upstream, with ``library/alpine`` and ``team/tool``."""
    folder = tmp_path_factory.mktemp("upstream")
    with clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT) as container:
        for name in ("library/alpine:latest", "team/tool:1", "library/late:1", "library/warmed:1"):
            layout = folder / name.replace("/", "-").replace(":", "-")
            write_layout(layout, [random_layer(100_000) for _ in range(2)])
            target = f"docker://localhost:{UPSTREAM_PORT}/{name}"
            answer = clients.run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}", target)
            assert answer.returncode == 0, answer.stderr
        yield container


def pull(stack: Stack, name: str, folder: Path) -> str:
    """Pull by the mirror's name into a new folder; the error text, empty if it went well."""
    certificates = stack.certificate_file.parent
    answer = clients.run(
        "skopeo", "copy", f"--src-cert-dir={certificates}", f"docker://{MIRROR}/{name}", f"oci:{folder}"
    )
    return answer.stderr if answer.returncode else ""


def test_it_starts_while_its_upstream_is_down(stack: Stack) -> None:
    assert httpx.get(f"https://{MIRROR}/v2/", verify=stack.trust).status_code == 200


def test_pulls_by_name_work_with_and_without_library(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    for number, name in enumerate(("alpine:latest", "library/alpine:latest", "team/tool:1")):
        assert pull(stack, name, tmp_path / str(number)) == ""


def test_the_docker_command_pulls_by_name(
    stack: Stack, upstream: Container, docker_cli: clients.DockerCli, client: docker.DockerClient
) -> None:
    answer = docker_cli("pull", f"{MIRROR}/alpine:latest")

    assert answer.returncode == 0, answer.stderr
    client.images.remove(f"{MIRROR}/alpine:latest", force=True)


def test_a_second_pull_is_served_while_the_upstream_is_stopped(
    stack: Stack, upstream: Container, tmp_path: Path
) -> None:
    assert pull(stack, "team/tool:1", tmp_path / "first") == ""
    upstream.stop(timeout=1)
    try:
        assert pull(stack, "team/tool:1", tmp_path / "second") == ""
        assert pull(stack, "late:1", tmp_path / "late") != "", "never pulled, so it is nowhere"
    finally:
        upstream.start()
        clients.wait_for_port(UPSTREAM_PORT)


def test_warmed_image_is_served_while_the_upstream_is_stopped(
    stack: Stack, upstream: Container, tmp_path: Path
) -> None:
    images = tmp_path / "images.txt"
    images.write_text("warmed:1\nghcr.io/owner/name:1\n")

    answer = stack.operations("warm", str(images), SSL_CERT_FILE=str(stack.certificate_file))

    assert "skipped: the stack has no mirror of ghcr.io" in answer.stdout
    upstream.stop(timeout=1)
    try:
        assert pull(stack, "warmed:1", tmp_path / "warmed") == ""
    finally:
        upstream.start()
        clients.wait_for_port(UPSTREAM_PORT)


def test_a_push_is_refused_with_a_reason(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", [random_layer(10)])
    certificates = stack.certificate_file.parent

    target = f"docker://{MIRROR}/team/new:1"
    answer = clients.run("skopeo", "copy", f"--dest-cert-dir={certificates}", f"oci:{tmp_path / 'layout'}", target)

    assert answer.returncode != 0
    assert "pull only" in answer.stderr


def test_an_address_outside_the_allow_list_is_refused(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    open_to_all = stack.values["mirrors"]
    stack.write(mirrors={"docker.io": open_to_all["docker.io"] | {"allow": ["192.0.2.0/24"]}})
    stack.up()
    try:
        assert "403" in pull(stack, "team/tool:1", tmp_path / "refused")
        answer = httpx.get(f"https://{MIRROR}/v2/team/tool/manifests/1", verify=stack.trust)
        assert "not on the allow-list" in answer.json()["errors"][0]["message"]
    finally:
        stack.write(mirrors=open_to_all)
        stack.up()
    assert pull(stack, "team/tool:1", tmp_path / "allowed") == ""
