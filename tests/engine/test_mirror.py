"""A mirror of an upstream that the tests start and stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from docker.models.containers import Container

from components.configuration.naming import COUNTERS_PORT, mirror_alias, mirror_port
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
#: The address of all mirrors.
ALL = "localhost:25446"
OCI = {"Accept": "application/vnd.oci.image.manifest.v1+json"}


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose first mirror has the rules of Docker Hub; it comes up while its upstream does not exist.

    The second mirror has no own address.
    """
    own = small_stack()["mirrors"][UPSTREAM]
    mirrors = {"docker.io": own, "ghcr.io": {"upstream": own["upstream"]}}
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(client, docker_host, folder, mirrors=mirrors, mirror_url=f"https://{ALL}") as running:
        yield running


@pytest.fixture(scope="module")
def upstream(
    stack: Stack, client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """A registry that the mirror reaches as its upstream, with ``library/alpine`` and others."""
    folder = tmp_path_factory.mktemp("upstream")
    with clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT) as container:
        for name in ("library/alpine:latest", "team/tool:1", "library/late:1", "library/warmed:1", "team/counted:1"):
            layout = folder / name.replace("/", "-").replace(":", "-")
            write_layout(layout, [random_layer(100_000) for _ in range(2)])
            target = f"docker://localhost:{UPSTREAM_PORT}/{name}"
            answer = clients.run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}", target)
            assert answer.returncode == 0, answer.stderr
        yield container


def pull(stack: Stack, name: str, folder: Path, at: str = MIRROR) -> str:
    """Pull by the mirror's name into a new folder; the error text, empty if it went well."""
    certificates = stack.certificate_file.parent
    answer = clients.run("skopeo", "copy", f"--src-cert-dir={certificates}", f"docker://{at}/{name}", f"oci:{folder}")
    return answer.stderr if answer.returncode else ""


def pull_soon(stack: Stack, name: str, folder: Path) -> None:
    """Pull until it succeeds.

    A mirror answers a pull before it puts a layer into its cache, and the command that reloads nginx does not wait.
    """
    deadline = time.monotonic() + 60
    while error := pull(stack, name, folder / str(time.monotonic_ns())):
        assert time.monotonic() < deadline, error


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


def test_one_address_serves_the_mirror_of_each_upstream(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    answers = [
        httpx.get(f"https://{ALL}/v2/{path}", headers=OCI, verify=stack.trust)
        for path in (
            "alpine/manifests/latest",
            "alpine/manifests/latest?ns=docker.io",
            "library/alpine/manifests/latest?ns=ghcr.io",
            "alpine/manifests/latest?ns=ghcr.io",
            "alpine/manifests/latest?ns=quay.io",
        )
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 404]
    codes = [answer.json()["errors"][0]["code"] for answer in answers[3:]]
    assert codes == ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"], "only Docker Hub has library/"
    assert "mirrors of docker.io, ghcr.io" in answers[4].text
    assert pull(stack, "alpine:latest", tmp_path / "pulled", at=ALL) == ""


def test_a_second_pull_is_served_while_the_upstream_is_stopped(
    stack: Stack, upstream: Container, tmp_path: Path
) -> None:
    assert pull(stack, "team/tool:1", tmp_path / "first") == ""
    upstream.stop(timeout=1)
    try:
        pull_soon(stack, "team/tool:1", tmp_path)
        assert pull(stack, "late:1", tmp_path / "late") != "", "never pulled, so it is nowhere"
    finally:
        upstream.start()
        clients.wait_for_port(UPSTREAM_PORT)


def test_warmed_image_is_served_while_the_upstream_is_stopped(
    stack: Stack, upstream: Container, tmp_path: Path
) -> None:
    images = tmp_path / "images.txt"
    images.write_text("warmed:1\nghcr.io/team/tool:1\nquay.io/owner/name:1\n")

    without = {"PULUMI_CONFIG_PASSPHRASE": "wrong"}  # the command needs no secret
    answer = stack.operations("warm", str(images), SSL_CERT_FILE=str(stack.certificate_file), **without)

    assert "skipped: the stack has no mirror of quay.io" in answer.stdout
    upstream.stop(timeout=1)
    try:
        pull_soon(stack, "warmed:1", tmp_path)
    finally:
        upstream.start()
        clients.wait_for_port(UPSTREAM_PORT)


def shown(stack: Stack) -> dict[str, Any]:
    """The first mirror, by `mirrors --json`."""
    mirrors = json.loads(stack.operations("mirrors", "--json").stdout)["mirrors"]
    (mirror,) = [mirror for mirror in mirrors if mirror["upstream"] == "docker.io"]
    return dict(mirror)


@pytest.mark.once
def test_the_counters_move_with_each_pull_and_the_cache_grows(
    stack: Stack, upstream: Container, tmp_path: Path
) -> None:
    start = shown(stack)
    assert pull(stack, "team/counted:1", tmp_path / "first") == ""
    cold = shown(stack)
    assert pull(stack, "team/counted:1", tmp_path / "second") == ""
    warm = shown(stack)

    size = sum(blob.stat().st_size for blob in (tmp_path / "first/blobs/sha256").iterdir())
    moves = [
        {key: after["total"][key] - before["total"][key] for key in after["total"] if key != "hit_ratio"}
        for before, after in ((start, cold), (cold, warm))
    ]
    parts = {"requests": 4, "bytes_served": size}  # a manifest, a configuration and two layers
    assert moves == [
        parts | {"misses": 4, "hits": 0, "bytes_fetched": size},
        parts | {"misses": 0, "hits": 4, "bytes_fetched": 0},
    ]
    assert cold["manifests"]["misses"] == start["manifests"]["misses"] + 1
    assert size <= cold["cache_size"] - start["cache_size"] < 3 * size
    assert (warm["upstream"], warm["url"], warm["reachable"]) == ("docker.io", f"https://{MIRROR}", True)
    assert warm["oldest"] <= warm["newest"]


@pytest.mark.once
def test_the_last_error_and_an_unreachable_mirror_are_shown(
    stack: Stack, upstream: Container, client: docker.DockerClient, tmp_path: Path
) -> None:
    upstream.stop(timeout=1)
    try:
        assert pull(stack, "team/never:1", tmp_path / "never") != ""
    finally:
        upstream.start()
        clients.wait_for_port(UPSTREAM_PORT)
    message = shown(stack)["last_error"]["message"]
    assert "/v2/team/never:" in message
    assert UPSTREAM in message, "the cause is the upstream"

    mirror = clients.containers(client, PREFIX)[mirror_alias("docker.io")]
    mirror.kill()
    try:
        answer = stack.operations("mirrors", check=False)
    finally:
        mirror.start()
        clients.wait_until_healthy(client, str(mirror.name))
    assert answer.returncode == 1
    assert "docker.io: the mirror is exited" in answer.stderr
    assert "team/never" in answer.stdout


@pytest.mark.once
def test_the_counters_and_profiles_are_not_on_the_network(stack: Stack, upstream: Container) -> None:
    mirror = mirror_alias("docker.io")
    urls = [f"http://{mirror}:{mirror_port('docker.io')}/v2/"]
    urls += [f"http://{mirror}:{COUNTERS_PORT}/{path}" for path in ("metrics", "debug/pprof/", "debug/vars")]

    asked = "for url; do timeout 5 wget -q -O /dev/null $url && echo reached $url; done; true"
    reached = clients.execute(upstream, "sh", "-c", asked, "sh", *urls)

    assert reached == f"reached {urls[0]}\n"


def test_a_push_is_refused_with_a_reason(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", [random_layer(10)])
    certificates = stack.certificate_file.parent

    target = f"docker://{MIRROR}/team/new:1"
    answer = clients.run("skopeo", "copy", f"--dest-cert-dir={certificates}", f"oci:{tmp_path / 'layout'}", target)

    assert answer.returncode != 0
    assert "pull only" in answer.stderr


def test_an_address_outside_the_allow_list_is_refused(stack: Stack, upstream: Container, tmp_path: Path) -> None:
    open_to_all = stack.values["mirrors"]
    stack.write(mirrors=open_to_all | {"docker.io": open_to_all["docker.io"] | {"allow": ["192.0.2.0/24"]}})
    stack.up()
    deadline = time.monotonic() + 60
    try:
        url = f"https://{MIRROR}/v2/team/tool/manifests/1"
        while (answer := httpx.get(url, verify=stack.trust)).status_code != 403:
            assert time.monotonic() < deadline, answer.text
        assert "403" in pull(stack, "team/tool:1", tmp_path / "refused")
        assert "not on the allow-list" in answer.json()["errors"][0]["message"]
        allowed = {"": 403, "?ns=docker.io": 403, "?ns=ghcr.io": 200}
        for query, status in allowed.items():
            url = f"https://{ALL}/v2/team/tool/manifests/1{query}"
            assert httpx.head(url, headers=OCI, verify=stack.trust).status_code == status, query
    finally:
        stack.write(mirrors=open_to_all)
        stack.up()
    pull_soon(stack, "team/tool:1", tmp_path)
