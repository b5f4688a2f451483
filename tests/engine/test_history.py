"""The record of versions of a running registry: how tarballs come into it, and the way back to a version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest

from components.render.registry_command import USER
from operations.throwaway import LABEL
from tests.engine.sshd import ssh_host
from tests.engine.transfers import Connection, digest_of
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.large_store import CONFIG, MANIFEST, fill
from tests.harness.small_stack import DockerHost, running_stack, small_stack
from tests.harness.stack import STACK, Stack, engine_address

REPOSITORIES, TAGS = 50, 2000
VOLUME = "rs-test-history-data"


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose data lies in memory: a disk may take a minute for the files of 2,000 tags."""
    uid, _, gid = USER.partition(":")
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"uid={uid},gid={gid},mode=0755"}
    volume = client.volumes.create(VOLUME, driver_opts=options)
    # Without a container that uses the volume, the engine would unmount it and lose its content.
    holder = client.containers.run(
        clients.IMAGES.registry, entrypoint=["sleep", "1d"], detach=True, volumes={VOLUME: {"bind": "/data"}}
    )
    registry = small_stack()["registry"] | {"storage": {"volume": VOLUME}}
    try:
        with running_stack(client, docker_host, tmp_path_factory.mktemp("stack"), registry=registry) as running:
            yield running
    finally:
        holder.remove(force=True)
        volume.remove()


def record(stack: Stack, repository: str, *options: str) -> dict[str, list[dict[str, Any]]]:
    """The versions of each tag, by `history --json`."""
    shown = json.loads(stack.operations("history", repository, "--json", *options).stdout)
    return {tag["name"]: tag["versions"] for tag in shown["tags"]}


def build_and_push(docker_cli: clients.DockerCli, image: str, folder: Path, release: int) -> str:
    """Build a release that can say its number, and push it; its digest."""
    (folder / "release").write_text(f"{release}\n")
    (folder / "Dockerfile").write_text(
        f"FROM {clients.IMAGES.registry}\nLABEL org.opencontainers.image.revision=commit-{release}\n"
        'COPY release /release\nENTRYPOINT ["sleep", "600"]\n'
    )
    for command in (("build", "-t", image, str(folder)), ("push", image)):
        answer = docker_cli(*command)
        assert answer.returncode == 0, answer.stderr
    (digest,) = {word for word in answer.stdout.split() if word.startswith("sha256:")}
    return digest


def test_the_rollback_line_of_the_fourth_of_ten_pushes_pulls_and_starts(
    stack: Stack, docker_cli: clients.DockerCli, tmp_path: Path
) -> None:
    image = f"{stack.registry}/my-app/backend:latest"
    (tmp_path / "build").mkdir()
    assert docker_cli.login(stack, "ci").returncode == 0
    digests = [build_and_push(docker_cli, image, tmp_path / "build", release) for release in range(1, 11)]
    docker_cli("image", "prune", "--all", "--force", "--filter", "label=org.opencontainers.image.revision")

    versions = record(stack, "my-app/backend")["latest"]

    assert [version["digest"] for version in versions] == digests[::-1]
    assert [version["revision"] for version in versions] == [f"commit-{release}" for release in range(10, 0, -1)]
    assert {version["state"] for version in versions} == {"complete"}
    assert [version["pushed"] for version in versions] == sorted((one["pushed"] for one in versions), reverse=True)

    line = stack.operations("rollback-line", "my-app/backend", "latest", "--back", "6").stdout
    assert line == f"image: {image}@{digests[3]}\n"
    compose = tmp_path / "compose.yaml"
    compose.write_text(f"services:\n  backend:\n    {line}    stop_grace_period: 0s\n")
    assert docker_cli.login(stack, "production").returncode == 0
    arguments = ("compose", "--project-name", "rs-test-history", "--file", str(compose))
    try:
        for command in (("pull",), ("up", "--detach")):
            answer = docker_cli(*arguments, *command)
            assert answer.returncode == 0, answer.stderr
        release = docker_cli(*arguments, "exec", "-T", "backend", "cat", "/release").stdout
        running = record(stack, "my-app/backend", "--running-on", engine_address())["latest"]
    finally:
        docker_cli(*arguments, "down", "--timeout", "0", "--rmi", "all")
    assert release == "4\n"
    assert [[one["container"] for one in version["running"]] for version in running] == [
        ["rs-test-history-backend-1"] if place == 6 else [] for place in range(10)
    ]


@pytest.mark.once
@pytest.mark.any_proxy
def test_killed_history_leaves_no_container_after_the_next_run(stack: Stack, client: docker.DockerClient) -> None:
    before = {each.id for each in client.containers.list(all=True, sparse=True)}
    for moment in ("create", "start"):
        only = {"type": "container", "label": LABEL, "event": moment}
        with closing(client.events(decode=True, filters=only)) as events:
            killed = subprocess.Popen(
                [sys.executable, "-m", "operations", "history", "--stack", STACK],
                cwd=stack.folder,
                env=stack.environment | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            next(iter(events))
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()

    time.sleep(11)  # the age at which a container counts as left behind
    stack.operations("history")

    assert {each.id for each in client.containers.list(all=True, sparse=True)} == before


@pytest.mark.any_proxy
def test_a_host_over_ssh_shows_also_stopped_containers_of_images_that_were_loaded_from_a_file(
    stack: Stack, docker_cli: clients.DockerCli, client: docker.DockerClient, tmp_path: Path
) -> None:
    image = f"{stack.registry}/my-app/loaded:1"
    (tmp_path / "build").mkdir()
    assert docker_cli.login(stack, "ci").returncode == 0
    build_and_push(docker_cli, image, tmp_path / "build", 1)
    file = str(tmp_path / "image.tar")
    for command in (("save", "--output", file, image), ("rmi", image), ("load", "--input", file)):
        answer = docker_cli(*command)
        assert answer.returncode == 0, answer.stderr
    container = client.containers.create(image, name="rs-test-loaded")
    try:
        with ssh_host(tmp_path, engine_address()) as (address, folder):
            stack.environment["PATH"] = f"{folder}:{(path := stack.environment['PATH'])}"
            try:
                ((version,),) = record(stack, "my-app/loaded", "--running-on", address).values()
                table = stack.operations("history", "my-app/loaded", "--running-on", address).stdout
            finally:
                stack.environment["PATH"] = path
    finally:
        container.remove(force=True)
        client.images.remove(image, force=True)

    assert version["running"] == [{"host": address, "container": "rs-test-loaded", "state": "created"}]
    assert f"{address.rpartition('@')[2]}: rs-test-loaded (created)" in table


@pytest.mark.any_proxy
def test_saved_images_keep_their_image_ids(stack: Stack, docker_cli: clients.DockerCli, tmp_path: Path) -> None:
    def docker(*arguments: str) -> str:
        answer = docker_cli(*arguments)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    days = ("2026-01-30", "2026-01-31")
    ids, saved, built = {}, tmp_path / "saved", "registry.old.example.com/team/app:latest"
    saved.mkdir()
    for day in days:
        (tmp_path / "Dockerfile").write_text(f"FROM {clients.IMAGES.registry}\nCOPY Dockerfile /{day}\n")
        docker("build", "--tag", built, str(tmp_path))
        ids[day] = docker("image", "inspect", "--format", "{{.Id}}", built)
        docker("save", "--output", str(saved / f"app-{day}.tar"), built)
        docker("rmi", built)

    first, again = (
        json.loads(stack.operations("import", str(saved), "--tag", "{date}", "--json").stdout) for _ in "12"
    )

    assert [one["tags"] for one in first["tarballs"]] == [[f"team/app:{day}"] for day in days]
    assert first["bytes"]["shared"] < first["bytes"]["separate"] * 0.6, "the base is stored once"
    assert {one["state"] for one in again["tarballs"]} == {"present"}
    assert again["bytes"] == first["bytes"] | {"uploaded": 0}
    docker_cli.login(stack, "production")
    for day in days:
        image = f"{stack.registry}/team/app:{day}"
        docker("pull", image)
        assert docker("image", "inspect", "--format", "{{.Id}}", image) == ids[day]
        docker("rmi", image)

    used = json.loads(stack.operations("usage", "--json", XDG_STATE_HOME=str(tmp_path)).stdout)
    (repository,) = (one for one in used["repositories"] if one["name"] == "team/app")
    assert [tag["name"] for tag in repository["tags"]] == list(reversed(days))
    assert repository["size"] == first["bytes"]["shared"]
    assert all(0 < tag["own"] < tag["size"] for tag in repository["tags"])


@pytest.mark.any_proxy
def test_pushes_within_a_second_are_told_apart_and_a_deleted_one_stays_in_the_record(stack: Stack) -> None:
    config = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
    described = {"mediaType": CONFIG, "digest": digest_of([config]), "size": len(config)}
    digests = []
    with Connection(stack, stack.trust, "ci") as ci:
        ci.ask("PUT", f"{ci.started('team/quick')}&digest={described['digest']}", 201, body=config)
        for build in range(10):
            value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": []}
            content = json.dumps(value | {"annotations": {"build": str(build)}}).encode()
            ci.ask("PUT", "/v2/team/quick/manifests/latest", 201, body=content, Content_Type=MANIFEST)
            digests.append(digest_of([content]))
    with Connection(stack, stack.trust, "boss") as boss:
        boss.ask("DELETE", f"/v2/team/quick/manifests/{digests[8]}", 202)

    versions = record(stack, "team/quick")["latest"]
    refused = stack.operations("rollback-line", "team/quick", "latest", check=False)

    assert [version["digest"] for version in versions] == digests[::-1]
    assert len({version["pushed"] for version in versions}) == 10
    assert [place for place, version in enumerate(versions) if version["state"] == "deleted"] == [1]
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--back 2 --stack test goes back to another version" in refused.stderr


@pytest.mark.once
@pytest.mark.any_proxy
def test_a_registry_with_2000_tags_is_read_by_one_throwaway_container(
    stack: Stack, client: docker.DockerClient
) -> None:
    fill(VOLUME, REPOSITORIES, TAGS)

    with clients.containers_started(client) as for_all:
        everything = json.loads(stack.operations("history", "--json").stdout)["repositories"]
    with clients.containers_started(client) as for_one:
        tags = record(stack, "large-0/app-0")
    for name, ran in (("all repositories", for_all), ("one repository", for_one)):
        print(f"history of {name}: the container ran for {', '.join(f'{seconds:.2f} s' for seconds in ran.values())}")

    large = [one for one in everything if one["name"].startswith("large-")]
    assert (len(large), sum(one["tags"] for one in large)) == (REPOSITORIES, TAGS)
    assert all(one["size"] > 100_000 for one in large)
    assert len(for_all) == len(for_one) == 1
    assert {(versions[0]["state"], *versions[0]["platforms"]) for versions in tags.values()} == {
        ("complete", "linux/amd64")
    }
    assert all(versions[0]["revision"] == f"{int(tag[1:]):040x}" for tag, versions in tags.items())
    remaining = {each.id for each in client.containers.list(all=True, sparse=True)}
    assert not remaining & {*for_all, *for_one}, "the containers were not removed"
