"""Data in host folders: a bad folder fails the `up` before anything changes, with the command that fixes it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from components.render.registry_command import USER
from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX, UPSTREAM, remove_everything, small_stack
from tests.harness.stack import Stack, engine_address

pytestmark = pytest.mark.any_proxy

SOMEBODY = 1000
REPOSITORY = "docker/registry/v2/repositories/old"
FOLDERS = {"registry.storage.host_path": "registry", f'mirrors["{UPSTREAM}"].storage.host_path': "mirror"}


def missing(folder: Path) -> str:
    return f"{folder}, which does not exist"


def a_file(folder: Path) -> str:
    folder.touch()
    return f"{folder}, which is a file"


def of_another_user(folder: Path) -> str:
    folder.mkdir()
    os.chown(folder, SOMEBODY, SOMEBODY)
    return f"{folder}, which belongs to uid 1000 with mode 755"


def closed_by_another_user(folder: Path) -> str:
    folder.mkdir(mode=0o700)
    os.chown(folder, SOMEBODY, SOMEBODY)
    return f"{folder}, which belongs to uid 1000 with mode 700"


def with_a_repository(folder: Path) -> None:
    (folder / REPOSITORY).mkdir(parents=True)
    if folder.name == "mirror":
        (folder / "scheduler-state.json").write_text("{}")
    subprocess.run(["chown", "-R", USER, folder], check=True)


def with_a_repository_of_another_user(folder: Path) -> str:
    """As a registry that ran as that user leaves it, when only the folder itself was handed over."""
    with_a_repository(folder)
    os.chown(folder / REPOSITORY, SOMEBODY, SOMEBODY)
    return f"{folder}/{REPOSITORY}, which belongs to uid 1000 with mode 755"


def with_a_file_that_only_another_user_may_read(folder: Path) -> str:
    with_a_repository(folder)
    link = folder / REPOSITORY / "link"
    link.touch(mode=0o600)
    os.chown(link, SOMEBODY, SOMEBODY)
    return f"{folder}/{REPOSITORY}/link, which belongs to uid 1000 with mode 600"


def on_a_read_only_file_system(folder: Path) -> str:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"ro,uid={USER.partition(':')[0]}", "tmpfs", folder], check=True)
    return f"{folder}, which cannot be written: Read-only file system"


def with_data_of_another_service(folder: Path) -> str:
    folder.mkdir()
    (folder / ".store").write_text("mirror elsewhere.test\n")
    return f"{folder}, which has the data of the mirror elsewhere.test"


def a_link_to_the_system(folder: Path) -> str:
    folder.symlink_to({"registry": "/etc/ssl", "mirror": "/etc/security"}[folder.name])
    return f"{folder}, which shares files with /etc"


def a_link_to_docker(folder: Path) -> str:
    with contextlib.closing(clients.engine()) as engine:
        root = Path(engine.info()["DockerRootDir"])
    folder.symlink_to(root / {"registry": "volumes", "mirror": "containers"}[folder.name])
    return f"{folder}, which shares files with Docker itself"


BAD = [
    missing,
    a_file,
    of_another_user,
    closed_by_another_user,
    with_a_repository_of_another_user,
    with_a_file_that_only_another_user_may_read,
    on_a_read_only_file_system,
    with_data_of_another_service,
    a_link_to_the_system,
    a_link_to_docker,
]


def in_folders(registry: Path, mirror: Path) -> dict[str, Any]:
    """Settings with the data of both in folders."""
    values = small_stack()
    values["registry"] |= {"storage": {"host_path": str(registry)}}
    values["mirrors"][UPSTREAM] |= {"storage": {"host_path": str(mirror)}}
    return {key: values[key] for key in ("registry", "mirrors")}


def fixes(text: str, key: str) -> str:
    """The command that an error prints for a key."""
    problem = re.search(rf"^ *{re.escape(key)}\n *found:.*\n *allowed:.*\n *\w+: +(.*)$", text, re.MULTILINE)
    assert problem, text
    return problem[1]


@pytest.fixture
def as_it_was(stack: Stack) -> Iterator[None]:
    """Afterwards the stack has its data in volumes again."""
    before = {key: stack.values[key] for key in ("registry", "mirrors")}
    yield
    stack.write(**before)


def running(client: docker.DockerClient) -> dict[str, str]:
    return {role: f"{each.id} {each.status}" for role, each in clients.containers(client, PREFIX).items()}


@pytest.mark.once
@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_folder_fails_the_up_of_a_running_stack_and_replaces_nothing(
    client: docker.DockerClient, stack: Stack, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to other users")
    before, outputs = running(client), stack.outputs()
    folders = {key: tmp_path / name for key, name in FOLDERS.items()}
    found = {key: spoil(folder) for key, folder in folders.items()}
    stack.write(**in_folders(*folders.values()))
    # A change that would replace every process, and the network under them.
    stack.write(registry=stack.values["registry"] | {"log_level": "warn"})
    try:
        answer = stack.up(check=False)
    finally:
        for folder in folders.values():
            subprocess.run(["umount", folder], check=False, capture_output=True)

    text = answer.stdout + answer.stderr
    assert answer.returncode != 0, text
    for key, words in found.items():
        assert key in text
        assert words in text
        assert fixes(text, key)
    assert running(client) == before
    assert stack.outputs() == outputs
    if spoil is missing:
        assert not any(folder.exists() for folder in folders.values())


@pytest.mark.once
@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("way", ["a link", "a mount"])
def test_a_folder_inside_that_of_another_store_is_found_behind_links_and_mounts(
    client: docker.DockerClient, stack: Stack, tmp_path: Path, way: str
) -> None:
    before = running(client)
    registry, mirror = (tmp_path / name for name in FOLDERS.values())
    (registry / "docker").mkdir(parents=True)
    if way == "a link":
        mirror.symlink_to(registry / "docker")
    else:
        mirror.mkdir()
        subprocess.run(["mount", "--bind", registry / "docker", mirror], check=True)
    stack.write(**in_folders(registry, mirror))
    try:
        answer = stack.up(check=False)
    finally:
        subprocess.run(["umount", mirror], check=False, capture_output=True)

    assert answer.returncode != 0
    assert f"{registry}, which shares files with {mirror}" in answer.stdout
    assert f"{mirror}, which shares files with {registry}" in answer.stdout
    assert running(client) == before


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("spoil", [missing, with_a_repository_of_another_user], ids=lambda spoil: spoil.__name__)
def test_the_printed_commands_fix_it_and_a_lost_folder_is_not_made_anew(
    client: docker.DockerClient, stack: Stack, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    folders = {key: tmp_path / name for key, name in FOLDERS.items()}
    for folder in folders.values():
        spoil(folder)
    stack.write(**in_folders(*folders.values()))
    answer = stack.up(check=False)
    for key in FOLDERS:
        command = fixes(answer.stdout + answer.stderr, key).replace("sudo ", "")
        subprocess.run(["sh", "-c", command], check=True)

    stack.up()

    write_layout(tmp_path / "layout", [random_layer(1000)])
    pushed = clients.Skopeo(stack, tmp_path, "ci").push(tmp_path / "layout", "old:1")
    assert pushed.returncode == 0, pushed.stderr
    data = tmp_path / "registry"
    assert (data / REPOSITORY / "_manifests").is_dir()
    pushed_blobs = [path for path in (data / "docker/registry/v2/blobs").rglob("*") if path.is_file()]
    assert pushed_blobs
    assert not any(path.stat().st_mode & 0o007 for path in pushed_blobs)
    assert stack.planned() == {}
    writer = clients.containers(client, PREFIX)["writer"]
    writer.stop()
    data.rename(tmp_path / "unmounted")
    with pytest.raises(docker.errors.APIError):
        writer.start()
    assert not data.exists()


@pytest.fixture
def small_disks(stack: Stack, tmp_path: Path) -> Iterator[list[Path]]:
    """Folders of registry and mirror, each on a disk of 40 MB; the stack runs on them."""
    before = {key: stack.values[key] for key in ("registry", "mirrors")}
    folders = [tmp_path / name for name in FOLDERS.values()]
    for folder in folders:
        folder.mkdir()
        options = f"size=40m,mode=750,uid={USER.partition(':')[0]},gid={USER.partition(':')[2]}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        stack.write(**in_folders(*folders))
        stack.up()
        yield folders
    finally:
        stack.write(**before)
        stack.up()
        for folder in folders:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.once
def test_a_full_disk_serves_pulls_and_gets_back_what_failed_uploads_left(
    client: docker.DockerClient, stack: Stack, tmp_path: Path, small_disks: list[Path]
) -> None:
    registry, mirror = small_disks
    skopeo = clients.Skopeo(stack, tmp_path, "ci")
    for name, size in (("small", 1000), ("medium", 20_000_000), ("large", 60_000_000)):
        write_layout(tmp_path / name, [random_layer(size)])
    assert skopeo.push(tmp_path / "small", "team/small:1").returncode == 0
    # A client in the middle of a layer may find the connection closed before it reads the answer.
    failures = (skopeo.push(tmp_path / "large", "team/large:1") for _ in range(10))
    assert any("507 Insufficient Storage" in failed.stderr for failed in failures if failed.returncode)
    download = mirror / "docker/registry/v2/repositories/library/alpine/_uploads/1/data"
    download.parent.mkdir(parents=True)
    download.write_bytes(b"-" * 41_000_000)
    subprocess.run(["chown", "-R", USER, mirror / "docker"], check=True)
    pulled = skopeo.pull("team/small:1", tmp_path / "pulled")
    assert pulled.returncode == 0, pulled.stderr
    left = [*registry.rglob("_uploads/*/data"), download]
    assert sum(path.stat().st_size for path in left[:-1]) > 30_000_000
    young = registry / "docker/registry/v2/repositories/team/young/_uploads/1/data"
    young.parent.mkdir(parents=True)
    young.touch()

    for path in left:
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 16 * 60))

    until = time.monotonic() + 300
    while any(path.parent.exists() for path in left):
        assert time.monotonic() < until
        time.sleep(1)
    assert young.exists()
    again = skopeo.push(tmp_path / "small", "team/again:1")
    assert again.returncode == 0, again.stderr
    said = clients.containers(client, PREFIX)["writer"].logs().decode()
    assert "no space left on device" in said
    assert "the disk is full: removed " in said

    assert skopeo.push(tmp_path / "medium", "team/medium:1").returncode == 0
    assert clients.Skopeo(stack, tmp_path, "boss").delete("team/medium:1").returncode == 0
    with contextlib.suppress(OSError), (registry / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    collected = stack.operations("gc", "--stalled", "1").stdout
    assert collected.startswith("gc registry: done, freed 20.0 MB")
    assert skopeo.push(tmp_path / "small", "team/small:2").returncode == 0


@pytest.mark.once
def test_over_ssh_the_command_runs_on_the_docker_host(client: docker.DockerClient, tmp_path: Path) -> None:
    remove_everything(client)
    folders = [tmp_path / name for name in FOLDERS.values()]
    (tmp_path / "stack").mkdir()
    with ssh_host(tmp_path, engine_address()) as (address, path):
        stack = Stack(tmp_path / "stack", address, small_stack(**in_folders(*folders)), path=f"{path}:")
        answer = stack.up(check=False)
        text = answer.stdout + answer.stderr
        for key in FOLDERS:
            command = fixes(text, key)
            assert command.startswith("ssh ")
            subprocess.run(["sh", "-c", command.replace("sudo ", "")], env=stack.environment, check=True)

    assert all(folder.is_dir() for folder in folders)
    assert clients.containers(client, PREFIX) == {}
