"""The import of tarballs into the real distribution, by the command that operators use."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from operations.__main__ import command_line
from operations.manifests import IMAGE_TYPES, INDEX_TYPES
from operations.stack import StackConfig
from operations.tarballs import commands
from operations.tarballs.registry import Registry as Connection
from tests.harness import tarballs
from tests.harness.configuration import configuration, example_password
from tests.harness.images import random_layer, write_layout
from tests.harness.processes import free_port, running

Binary = Callable[[str], str]
ACCEPT = {"Accept": ", ".join((*INDEX_TYPES, *IMAGE_TYPES))}
USER = "woodpecker"
DAYS, LAYERS, CHANGED = 30, 20, 3
CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: %s}}
http: {addr: "127.0.0.1:%d"}
validation: {manifests: {indexes: {platforms: none}}}
auth: {htpasswd: {realm: test, path: %s}}
"""
OUTPUTS = {
    "registry_url": "https://registry.example.com",
    "docker_host": "ssh://deploy@registry.example.com",
    "services": {},
    "users": {},
}


@dataclass(frozen=True)
class Registry:
    """A distribution that only the push user may use, with its data."""

    client: httpx.Client
    data: Path

    def manifest(self, repository: str, reference: str) -> tuple[str, dict[str, Any]]:
        """The digest and the content of a manifest."""
        answer = self.client.get(f"/v2/{repository}/manifests/{reference}", headers=ACCEPT)
        assert answer.status_code == 200, answer.text
        return answer.headers["Docker-Content-Digest"], answer.json()

    def tags(self, repository: str) -> dict[str, str]:
        """The digest of each tag."""
        names = self.client.get(f"/v2/{repository}/tags/list").json()["tags"]
        return {name: self.manifest(repository, name)[0] for name in sorted(names)}

    def config(self, repository: str, tag: str) -> str:
        """The digest of the configuration of an image, which is its image ID."""
        return str(self.manifest(repository, tag)[1]["config"]["digest"])

    def blob(self, repository: str, digest: str) -> bytes:
        """The content of a blob."""
        answer = self.client.get(f"/v2/{repository}/blobs/{digest}")
        assert answer.status_code == 200
        return answer.content

    def pushed(self, tag: str, repository: str) -> int:
        """When a tag was pushed."""
        link = f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
        return (self.data / link).stat().st_mtime_ns

    def stored(self) -> int:
        """Bytes of all blobs."""
        return sum(file.stat().st_size for file in (self.data / "docker/registry/v2/blobs").rglob("data"))


@pytest.fixture
def registry(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    hashed = bcrypt.hashpw(example_password(USER).encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    (folder / "config.yml").write_text(CONFIG % (folder / "data", port, folder / "htpasswd"))
    command = [binary("registry"), "serve", str(folder / "config.yml")]
    login = (USER, example_password(USER))
    with (
        running(command, port, folder / "log", {"OTEL_TRACES_EXPORTER": "none"}),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=login, timeout=20) as client,
    ):
        yield Registry(client, folder / "data")


Run = Callable[..., Result]
Dated = tuple[Path, dict[str, str]]


@pytest.fixture
def run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command on a stack whose registry is that of the test."""

    def cli(*arguments: str, **_: object) -> str:
        if arguments[0] == "stack":
            return json.dumps(OUTPUTS)
        return json.dumps({f"registry-stack:{key}": {"value": value} for key, value in configuration().items()})

    address = str(registry.client.base_url)
    monkeypatch.setattr(StackConfig, "_run", lambda _, *arguments, **more: cli(*arguments, **more))
    monkeypatch.setattr(commands, "Registry", lambda _, *more: Connection(address, *more))
    return lambda *arguments: CliRunner().invoke(command_line(["import"]), ["import", *map(str, arguments)])


def rows(answer: Result) -> dict[str, dict[str, Any]]:
    """The entries of the JSON output by the names of the tarballs."""
    return {Path(one["file"]).name: one for one in json.loads(answer.stdout)["tarballs"]}


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Dated tarballs of an application, of whose layers three change each day, and the image ID of each date."""
    folder = tmp_path_factory.mktemp("dated")
    chance = random.Random(7)
    layers = [tarballs.layer(f"file-{place}", chance.randbytes(10_000) + b"a" * 20_000) for place in range(LAYERS)]
    found = {}
    for number in range(DAYS):
        day = str(date(2026, 1, 5) + timedelta(number))
        for place in range(LAYERS - CHANGED, LAYERS):
            layers[place] = tarballs.layer(f"file-{place}", chance.randbytes(10_000) + day.encode() * 500)
        # Half of the files have another form of the date, and one file is compressed.
        name = f"app-{day if number % 2 else day.replace('-', '')}.{'tgz' if number == 9 else 'tar'}"
        tarballs.write(folder / name, tarballs.saved((["app:latest"], layers), created=day))
        found[day] = tarballs.digest(tarballs.config(layers, created=day))
    return folder, found


def test_thirty_dated_tarballs_become_thirty_tags_that_share_their_layers(
    registry: Registry, run: Run, dated: Dated
) -> None:
    folder, ids = dated
    size = sum(file.stat().st_size for file in folder.iterdir())

    answer = run(folder, "--tag", "{date}", "--json")

    assert answer.exit_code == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert [one["tags"] for one in result["tarballs"]] == [[f"app:{day}"] for day in ids], "oldest first"
    assert {tag: registry.config("app", tag) for tag in registry.tags("app")} == ids
    times = [registry.pushed(day, "app") for day in ids]
    assert times == sorted(times)
    layers = [one["digest"] for day in ids for one in registry.manifest("app", day)[1]["layers"]]
    assert len(set(layers)) == LAYERS - CHANGED + CHANGED * DAYS, "equal layers are one blob"
    assert result["bytes"]["shared"] == result["bytes"]["uploaded"] + manifests(registry, "app") == registry.stored()
    assert result["bytes"]["tarballs"] == size
    assert registry.stored() < size / 10
    assert result["bytes"]["shared"] < result["bytes"]["separate"] / 4


def manifests(registry: Registry, repository: str) -> int:
    """The bytes of the manifests of all tags."""
    digests = set(registry.tags(repository).values())
    return sum(len(registry.client.get(f"/v2/{repository}/manifests/{one}", headers=ACCEPT).content) for one in digests)


def test_a_second_import_uploads_nothing_and_layers_that_are_compressed_again_have_the_same_digests(
    registry: Registry, run: Run, dated: Dated
) -> None:
    files = sorted(dated[0].glob("app-2026-*"))[:6]
    run(*files, "--tag", "{date}")
    before, moved = registry.tags("app"), registry.pushed("2026-01-08", "app")

    again = run(*files, "--tag", "{date}", "--json")
    elsewhere = run(*files, "--tag", "{date}", "--repository", "copy")

    assert {one["state"] for one in rows(again).values()} == {"present"}
    assert json.loads(again.stdout)["bytes"]["uploaded"] == 0
    assert (registry.tags("app"), registry.pushed("2026-01-08", "app")) == (before, moved)
    assert elsewhere.exit_code == 0
    assert registry.tags("copy") == before


def test_layers_are_those_of_the_tarball(registry: Registry, run: Run, tmp_path: Path) -> None:
    layers = [
        tarballs.layer("a", b"first" * 1000),
        tarballs.layer("b", b"second"),
        tarballs.layer("a", b"first" * 1000),
    ]
    tarballs.write(tmp_path / "app.tar", tarballs.saved((["registry.old.example.com:5000/team/app:1.2"], layers)))

    assert run(tmp_path).exit_code == 0

    digest, manifest = registry.manifest("team/app", "1.2")
    found = [gzip.decompress(registry.blob("team/app", one["digest"])) for one in manifest["layers"]]
    assert found == layers
    assert json.loads(registry.blob("team/app", manifest["config"]["digest"]))["architecture"] == "amd64"
    assert run(tmp_path, "--json").exit_code == 0
    assert registry.tags("team/app") == {"1.2": digest}


def test_a_broken_tarball_is_named_and_does_not_stop_the_others(
    registry: Registry, run: Run, tmp_path: Path, dated: Dated
) -> None:
    ids = dated[1]
    shutil.copytree(dated[0], tmp_path, dirs_exist_ok=True)
    (whole,) = tmp_path.glob("app-2026-01-06.tar")
    whole.write_bytes(whole.read_bytes()[:200_000])
    (compressed,) = tmp_path.glob("*.tgz")
    compressed.write_bytes(compressed.read_bytes()[:-2000])
    changed = tmp_path / "app-2026-01-08.tar"
    changed.write_bytes(changed.read_bytes().replace(b"2026-01-08" * 9, b"2026-01-09" * 9, 1))  # in a new layer

    answer = run(tmp_path, "--tag", "{date}", "--json")

    assert answer.exit_code == 1
    failed = {name: one["problem"] for name, one in rows(answer).items() if one["state"] == "failed"}
    assert set(failed) == {whole.name, compressed.name, changed.name}
    assert "damaged" in failed[whole.name]
    assert "damaged" in failed[compressed.name]
    assert "does not fit its digest" in failed[changed.name]
    assert set(registry.tags("app")) == set(ids) - {"2026-01-06", "2026-01-08", "2026-01-14"}
    assert f"{changed.name}: failed" in answer.stderr


def test_an_interrupted_import_continues_without_a_second_upload(
    registry: Registry, run: Run, dated: Dated, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder, ids), uploads = dated, list[str]()
    upload = Connection.upload

    def counted(self: Connection, repository: str, digest: str, *more: Any) -> None:
        if len(uploads) == 40:
            raise KeyboardInterrupt
        uploads.append(digest)
        upload(self, repository, digest, *more)

    monkeypatch.setattr(Connection, "upload", counted)
    assert run(folder, "--tag", "{date}").exit_code != 0
    done = registry.tags("app")
    uploads.append("interrupted")
    answer = run(folder, "--tag", "{date}", "--json")

    assert 0 < len(done) < DAYS
    assert answer.exit_code == 0, answer.stderr
    assert len(uploads) == len(set(uploads)), "no blob is uploaded twice"
    assert [one["state"] for one in rows(answer).values()] == ["present"] * len(done) + ["imported"] * (
        DAYS - len(done)
    )
    assert {tag: registry.config("app", tag) for tag in registry.tags("app")} == ids


def test_one_tag_for_all_tarballs_ends_at_the_newest_and_never_goes_back(
    registry: Registry, run: Run, dated: Dated
) -> None:
    files = sorted(dated[0].glob("app-2026-*"))[:6]
    assert run(*files).exit_code == 0
    moved = registry.pushed("latest", "app")
    versions = list(
        (registry.data / "docker/registry/v2/repositories/app/_manifests/tags/latest/index/sha256").iterdir()
    )

    answer = run(*files, "--json")

    assert registry.config("app", "latest") == dated[1][files[-1].stem.removeprefix("app-")]
    assert len(versions) == len(files), "the history of the tag has all tarballs"
    assert registry.pushed("latest", "app") == moved
    assert [one["state"] for one in rows(answer).values()] == ["older"] * (len(files) - 1) + ["present"]


def test_a_tag_that_another_client_pushed_moves_only_on_request(registry: Registry, run: Run, tmp_path: Path) -> None:
    tarballs.write(tmp_path / "new.tar", tarballs.saved((["app:1"], [tarballs.layer("a", b"newer")])))
    run(tmp_path / "new.tar")
    before = registry.tags("app")
    tarballs.write(tmp_path / "old.tar", tarballs.saved((["app:1"], [tarballs.layer("a", b"older")])))

    refused = run(tmp_path / "old.tar", "--json")
    unchanged = registry.tags("app")
    moved = run(tmp_path / "old.tar", "--overwrite")

    assert refused.exit_code == 1
    assert "--overwrite" in rows(refused)["old.tar"]["problem"]
    assert unchanged == before
    assert moved.exit_code == 0
    assert registry.tags("app") != before


def test_both_forms_of_docker_save_give_the_same_image(registry: Registry, run: Run, tmp_path: Path) -> None:
    layers = [tarballs.layer("a", b"a" * 9999), tarballs.layer("b", b"b")]
    tarballs.write(tmp_path / "old.tar", tarballs.saved((["app:old"], layers)))
    names = {"io.containerd.image.name": "docker.io/library/app:new", "org.opencontainers.image.ref.name": "new"}
    tarballs.write(tmp_path / "new.tar", tarballs.layout(names, {"amd64": layers}, compressed=False))

    assert run(tmp_path).exit_code == 0

    assert len(set(registry.tags("app").values())) == 1
    assert registry.config("app", "new") == tarballs.digest(tarballs.config(layers))


def test_an_oci_archive_with_several_platforms_keeps_its_digests(registry: Registry, run: Run, tmp_path: Path) -> None:
    platforms = {name: [tarballs.layer(name, name.encode() * 999)] for name in ("amd64", "arm64")}
    files = tarballs.layout({"org.opencontainers.image.ref.name": "1.0"}, platforms, compressed=True)
    tarballs.write(tmp_path / "multi-20260102.tar.gz", files)
    children = json.loads(files["index.json"])["manifests"]  # type: ignore[arg-type]

    answer = run(tmp_path, "--repository", "team/{file}", "--json")
    again = run(tmp_path, "--repository", "team/{file}", "--json")

    assert answer.exit_code == 0, answer.stderr
    digest, index = registry.manifest("team/multi-20260102", "1.0")
    assert digest == children[0]["digest"]
    for entry in index["manifests"]:
        _, manifest = registry.manifest("team/multi-20260102", entry["digest"])
        (layer,) = manifest["layers"]
        assert gzip.decompress(registry.blob("team/multi-20260102", layer["digest"])) in [
            one[0] for one in platforms.values()
        ]
    assert [one["state"] for one in rows(again).values()] == ["present"]


def test_tarballs_of_skopeo_keep_their_image_ids(registry: Registry, run: Run, tmp_path: Path, binary: Binary) -> None:
    write_layout(tmp_path / "layout", [random_layer(5000), random_layer(100)])
    (descriptor,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    content = (tmp_path / "layout" / "blobs" / "sha256" / descriptor["digest"][7:]).read_bytes()
    for target in ("docker-archive:{}/docker.tar:example.com/team/app:docker", "oci-archive:{}/oci.tar:oci"):
        command = [binary("skopeo"), "copy", f"oci:{tmp_path / 'layout'}", target.format(tmp_path)]
        subprocess.run(command, check=True, capture_output=True)

    answer = run(tmp_path, "--repository", "team/app")

    assert answer.exit_code == 0, answer.stderr
    assert registry.config("team/app", "docker") == json.loads(content)["config"]["digest"]
    assert registry.tags("team/app")["oci"] == descriptor["digest"]


def test_an_index_without_all_platforms_is_imported_with_those_that_are_there(
    registry: Registry, run: Run, tmp_path: Path
) -> None:
    platforms = {name: [tarballs.layer(name, name.encode())] for name in ("amd64", "arm64")}
    files = tarballs.layout({"org.opencontainers.image.ref.name": "app:1"}, platforms, compressed=True)
    top = json.loads(files["index.json"])["manifests"][0]["digest"]  # type: ignore[arg-type]
    index = json.loads(files[f"blobs/sha256/{top[7:]}"])  # type: ignore[arg-type]
    absent = f"blobs/sha256/{index['manifests'][1]['digest'][7:]}"
    tarballs.write(tmp_path / "app.tar", files, without=[absent])

    answer = run(tmp_path, "--repository", "app", "--tag", "1")

    assert answer.exit_code == 0, answer.stderr
    assert registry.tags("app") == {"1": top}


def test_a_tarball_with_several_images_brings_all_of_them(registry: Registry, run: Run, tmp_path: Path) -> None:
    base = tarballs.layer("base", b"base" * 9999)
    images = [([f"{name}:1", f"{name}:latest"], [base, tarballs.layer("own", name.encode())]) for name in ("web", "db")]
    tarballs.write(tmp_path / "all.tar", tarballs.saved(*images))

    answer = run(tmp_path, "--json")

    assert answer.exit_code == 0, answer.stderr
    assert rows(answer)["all.tar"]["tags"] == ["web:1", "web:latest", "db:1", "db:latest"]
    first, second = (registry.manifest(name, "latest")[1]["layers"] for name in ("web", "db"))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_a_refused_login_stops_the_import_with_a_fix(
    registry: Registry, run: Run, dated: Dated, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = dated

    answer = run(folder, "--user", "boss")

    assert isinstance(answer.exception, Failure)
    assert "401" in str(answer.exception)
    assert "--user" in answer.exception.fix
    assert example_password("boss") not in answer.output + str(answer.exception) + answer.exception.fix


def test_the_password_stays_out_of_every_output(registry: Registry, run: Run, tmp_path: Path) -> None:
    tarballs.write(tmp_path / "app.tar", tarballs.saved((["app:1"], [])))

    answer = run(tmp_path)

    assert answer.exit_code == 0, answer.stderr
    assert example_password(USER) not in answer.output + answer.stderr


def test_a_large_layer_is_never_in_memory(registry: Registry, run: Run, tmp_path: Path) -> None:
    size = 100 << 20
    tarballs.write(tmp_path / "app.tar", tarballs.saved((["app:1"], [tarballs.layer("zeros", bytes(size))])))

    tracemalloc.start()
    answer = run(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.exit_code == 0, answer.stderr
    assert registry.manifest("app", "1")[1]["layers"][0]["size"] < size / 100
    assert peak < size / 4
