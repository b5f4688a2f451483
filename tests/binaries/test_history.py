"""The script of `history` with the real busybox, on stores that the real distribution wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from operations.history.content import size_of_all
from operations.history.reading import SCRIPT, parsed
from operations.history.record import Version, repositories, tags
from operations.history.store import Store
from tests.harness.distribution import DOCKER_MANIFEST, INDEX, MANIFEST, Registry
from tests.harness.processes import free_port, running

Binary = Callable[[str], str]
NOBODY = 65534
Run = Callable[..., subprocess.CompletedProcess[bytes]]
CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "127.0.0.1:%d"}
validation: {manifests: {indexes: {platforms: none}}}
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def registry(binary: Binary, public: Path) -> Iterator[Registry]:
    port = free_port()
    (public / "config.yml").write_text(CONFIG % (public / "data", port))
    command = [binary("registry"), "serve", str(public / "config.yml")]
    with (
        running(command, port, public / "log", {"OTEL_TRACES_EXPORTER": "none"}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield Registry(public / "data", client)


@pytest.fixture
def run(binary: Binary, public: Path) -> Run:
    """The script on a folder, with nothing but busybox, as in a container of the registry's image."""
    for name in ("bin", "work"):
        (public / name).mkdir()
    (public / "work").chmod(0o777)
    busybox = shutil.copy(binary("busybox"), public / "bin")
    subprocess.run([busybox, "--install", "-s", public / "bin"], check=True)

    def script(folder: Path, repository: str = "", **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [public / "bin" / "sh", "-c", SCRIPT, folder, repository and f"{repository}/_manifests/"],
            env={"PATH": str(public / "bin"), "TMPDIR": str(public / "work"), "TZ": "Europe/Berlin"},
            capture_output=True,
            check=False,
            **options,
        )

    return script


@pytest.fixture
def read(run: Run, registry: Registry) -> Callable[..., Store]:
    """The store of the registry, as the script reads it."""

    def store(repository: str = "") -> Store:
        answer = run(registry.folder, repository)
        assert (answer.returncode, answer.stderr) == (0, b"")
        return parsed(answer.stdout)

    return store


def versions(store: Store, name: str) -> dict[str, tuple[Version, ...]]:
    return {tag.name: tag.versions for tag in tags(store, name)}


def test_ten_pushes_within_a_second_are_recorded_in_their_order(registry: Registry, read: Callable[..., Store]) -> None:
    config = registry.blob("my-app/backend", b"{}", "application/vnd.oci.image.config.v1+json")
    value = {"mediaType": MANIFEST, "config": config, "layers": []}
    digests = []
    for number in range(10):
        changed = value | {"annotations": {"build": str(number)}}
        digests.append(registry.manifest("my-app/backend", "latest", changed)["digest"])
        time.sleep(0.01)  # the kernel's clock for the times of files goes in steps as long as this

    found = versions(read("my-app/backend"), "my-app/backend")["latest"]

    assert [version.digest for version in found] == digests[::-1]
    assert found[0].pushed == sorted(version.pushed for version in found)[-1]
    assert len({version.pushed for version in found}) == 10


def test_times_are_those_of_the_files(registry: Registry, read: Callable[..., Store]) -> None:
    registry.image("app", "1", "layer")
    os.utime(registry.link("app", "1"), ns=(0, 1_700_000_000_123_456_789))

    (version,) = versions(read("app"), "app")["1"]

    assert version.pushed.isoformat() == "2023-11-14T22:13:20.123456+00:00"


def test_a_pushed_image_is_described(registry: Registry, read: Callable[..., Store]) -> None:
    labels = {"org.opencontainers.image.revision": "4f2c9d1", "org.opencontainers.image.source": "{https://a.example}"}
    registry.image("team/a/b", "1", "layer", config={"Labels": labels}, created="2026-11-29T16:19:58Z")
    registry.image("team/a", "1", "another")

    store = read("team/a/b")
    (version,) = versions(store, "team/a/b")["1"]

    assert version.state == "complete"
    assert version.platforms == ("linux/arm/v7",)
    assert (version.revision, version.source) == ("4f2c9d1", "{https://a.example}")
    assert version.created == "2026-11-29T16:19:58Z"
    assert version.size == sum(registry.data(digest).stat().st_size for digest in store.documents) + len("layer")
    assert len(store.documents) == 2, "the manifest and the configuration of this repository alone"


def test_the_configuration_is_found_in_any_layout_of_the_manifest(
    registry: Registry, read: Callable[..., Store]
) -> None:
    layer = registry.blob("app", b"layer", "application/vnd.docker.image.rootfs.diff.tar.gzip")
    for tag, indent in (("docker", 3), ("late", None)):
        content = json.dumps({"os": "linux", "architecture": "s390x", "tag": tag}).encode()
        config = registry.blob("app", content, "application/vnd.docker.container.image.v1+json")
        if tag == "late":
            note = {"annotations": {"note": '{"config":{"digest":"sha256:0"}}'}, "data": "e30="}
            config = note | {key: config[key] for key in reversed(config)}
        registry.manifest(
            "app", tag, {"layers": [layer], "config": config, "mediaType": DOCKER_MANIFEST}, indent=indent
        )

    found = versions(read("app"), "app")

    assert {tag: one[0].platforms for tag, one in found.items()} == dict.fromkeys(("docker", "late"), ("linux/s390x",))


def test_an_index_is_described_with_its_images(registry: Registry, read: Callable[..., Store]) -> None:
    shared = "base " * 1000
    entries = [
        registry.image("app", "", shared, architecture=architecture, variant="") for architecture in ("amd64", "arm64")
    ]
    registry.manifest("app", "1", {"mediaType": INDEX, "manifests": entries})
    elsewhere = entries[0] | {"digest": f"sha256:{'0' * 64}", "platform": {"os": "linux", "architecture": "s390x"}}
    registry.manifest("app", "partial", {"mediaType": INDEX, "manifests": [entries[1], elsewhere]})

    store = read("app")
    found = versions(store, "app")

    assert found["1"][0].platforms == ("linux/amd64", "linux/arm64")
    assert len(shared) < (found["1"][0].size or 0) < 2 * len(shared)
    assert found["partial"][0].missing == (elsewhere["digest"],)
    assert size_of_all(store, "app") > (found["1"][0].size or 0)


def test_what_was_deleted_is_shown_as_deleted(registry: Registry, read: Callable[..., Store]) -> None:
    first, second, third = (registry.image("app", "latest", str(number))["digest"] for number in range(3))
    registry.manifest("app", "gone", json.loads(registry.data(second).read_bytes()) | {"annotations": {}})
    registry.delete("app", first)
    registry.delete("app", "gone")

    found = versions(read("app"), "app")

    assert [(version.digest, version.state) for version in found["latest"]] == [
        (third, "complete"), (second, "complete"), (first, "deleted")
    ]  # fmt: skip
    assert set(found) == {"latest"}


def test_repositories_without_tags_are_listed(registry: Registry, read: Callable[..., Store]) -> None:
    registry.image("emptied", "1", "layer")
    registry.delete("emptied", "1")
    registry.blob("pushing", b"a layer", "x")
    registry.image("full", "1", "layer")

    found = {one.name: one for one in repositories(read())}

    assert {name: one.tags for name, one in found.items()} == {"full": 1, "emptied": 0, "pushing": 0}
    assert found["pushing"].size == 0
    assert found["emptied"].size == found["full"].size > 0


def test_damaged_and_missing_files_are_told_apart(registry: Registry, read: Callable[..., Store]) -> None:
    digests = {
        tag: registry.image("app", tag, f"layer {tag}")["digest"]
        for tag in ("fine", "empty-link", "wrong-link", "no-link", "no-manifest", "no-layer", "no-config")
    }
    layers = {
        tag: json.loads(registry.data(digest).read_bytes())["layers"][0]["digest"] for tag, digest in digests.items()
    }
    registry.link("app", "empty-link").write_text("")
    registry.link("app", "wrong-link").write_bytes(b"\0\xff\nsha256:\nsha512:zz")
    registry.link("app", "no-link").unlink()
    registry.data(digests["no-manifest"]).unlink()
    registry.data(layers["no-layer"]).unlink()

    found = versions(read("app"), "app")

    assert found.pop("fine")[0].state == "complete"
    for tag in ("empty-link", "wrong-link", "no-link"):
        broken, former = found.pop(tag)
        assert (broken.digest, broken.state) == (None, "damaged")
        assert (former.digest, former.state) == (digests[tag], "complete")
    assert found.pop("no-manifest")[0].missing == (digests["no-manifest"],)
    assert found.pop("no-layer")[0].missing == (layers["no-layer"],)


def test_names_of_tags_cannot_mislead_the_script(registry: Registry, read: Callable[..., Store]) -> None:
    names = ["_layers", "_uploads", "_manifests", "revisions", "tags", "index", "current", "link", "sha256", "v1_-.2"]
    for name in ("tags/revisions", "index/current/link"):
        for tag in names:
            registry.image(name, tag, tag)

    store = read()

    assert {name: set(found) for name, found in store.repositories.items()} == {
        "tags/revisions": set(names),
        "index/current/link": set(names),
    }
    assert all(tag.current in tag.pushed for found in store.repositories.values() for tag in found.values())


def test_files_that_the_registry_did_not_write_are_left_out(registry: Registry, read: Callable[..., Store]) -> None:
    registry.image("app", "1", "layer")
    for odd in (
        "app/_manifests/tags/it's",
        'app/_manifests/tags/a "b',
        "app/_manifests/tags/a\nb",
        "my backup/_layers",
    ):
        (registry.repositories / odd / "current").mkdir(parents=True)
        (registry.repositories / odd / "current/link").write_text("sha256:")
    (registry.repositories / "README").touch()
    (registry.folder / "lost+found").mkdir()

    assert {name: set(tags) for name, tags in read().repositories.items()} == {"app": {"1"}}


@pytest.mark.parametrize("content", ["", "sha256:0"])
def test_a_manifest_whose_link_is_damaged_is_known(
    registry: Registry, read: Callable[..., Store], content: str
) -> None:
    digest, whole = (registry.image("app", tag, f"layer {tag}")["digest"] for tag in "12")
    (registry.repositories / "app/_manifests/revisions/sha256" / digest[7:] / "link").write_text(content)

    store = read()

    assert store.damaged == {"app": frozenset({digest})}
    assert {tag: found[0].state for tag, found in versions(store, "app").items()} == {"1": "damaged", "2": "complete"}
    assert store.revisions == {"app": frozenset({digest, whole})}


def test_a_store_without_a_push_is_empty(run: Run, tmp_path: Path) -> None:
    answer = run(tmp_path)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"", b"")
    assert parsed(answer.stdout).repositories == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as another user")
@pytest.mark.parametrize(
    "closed", ["repositories/app/_manifests/tags/1", "repositories/app/_manifests/revisions", "blobs"]
)
def test_a_folder_that_cannot_be_read_fails_the_script(registry: Registry, run: Run, closed: str) -> None:
    registry.image("app", "1", "layer")
    (registry.folder / "docker/registry/v2" / closed).chmod(0o700)

    answer = run(registry.folder, user=NOBODY, group=NOBODY)

    assert answer.returncode == 1
    assert b"Permission denied" in answer.stderr
