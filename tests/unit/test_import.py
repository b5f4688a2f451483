"""The import of tarballs: dates, names and order, damaged and odd tarballs, and the login."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import re
import ssl
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from operations.__main__ import command_line
from operations.credentials.login import push_login
from operations.stack import StackConfig
from operations.tarballs import archive as archive_module
from operations.tarballs import commands
from operations.tarballs import registry as registry_module
from operations.tarballs.archive import Archive, Broken
from operations.tarballs.images import Name, Saved, Stored, images
from operations.tarballs.importing import Outcome, State
from operations.tarballs.naming import Dated, Target, Templates, dated, stem, targets
from operations.tarballs.plan import Tarball, in_order, read
from operations.tarballs.plan import files as files_of
from operations.tarballs.presentation import summary
from operations.tarballs.registry import RETRY_SECONDS, Registry
from operations.tarballs.transfer import Transfer
from operations.trust import trust_in
from tests.harness import tarballs
from tests.harness.configuration import configuration, example_password

UTC = datetime.UTC
DAY = Dated(datetime.datetime(2026, 1, 31, 15, 30, tzinfo=UTC), by_name=True)
WORDS = st.text("abcxyz-_.", max_size=12)
MOMENTS = st.integers(631152000, 3786912000).map(lambda seconds: datetime.datetime.fromtimestamp(seconds, UTC))


def at(name: str) -> datetime.datetime | None:
    """The moment in the name of a file."""
    found = dated(Path(name), 0)
    return found.moment if found.by_name else None


@given(
    WORDS, MOMENTS, st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%Y_%m_%d", "%Y.%m.%d"]), st.sampled_from(["", "-v2", "_x"])
)
def test_date_is_found_in_the_file_name(before: str, moment: datetime.datetime, form: str, after: str) -> None:
    found = at(f"{before}{moment.strftime(form)}{after}.tar")

    assert found == moment.replace(hour=0, minute=0, second=0)


@given(
    MOMENTS,
    st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y%m%d%H%M%S", "%Y%m%d-%H%M%S", "%Y-%m-%d_%H-%M-%SZ", "%Y-%m-%d %Hh%Mm%S"]),
)
def test_time_after_the_date_counts(moment: datetime.datetime, form: str) -> None:
    assert at(f"app-{moment.strftime(form)}.tar.gz") == moment


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("app-2026-01-31-42.tar", "2026-01-31T00:00:00"),
        ("app-2026-01-31-1234567.tar", "2026-01-31T00:00:00"),
        ("app-2026-01-31-9999.tar", "2026-01-31T00:00:00"),
        ("app-1.2.20260131.tar", "2026-01-31T00:00:00"),
        ("app-20269931-20260131.tar", "2026-01-31T00:00:00"),
        ("app-2026-02-30.tar", None),
        ("app-4202601311.tar", None),
        ("app-31-01-2026.tar", None),
        ("app-2026-01.tar", None),
        ("app.tar", None),
    ],
)
def test_what_counts_as_a_date(name: str, found: str | None) -> None:
    assert at(name) == (datetime.datetime.fromisoformat(f"{found}+00:00") if found else None)


def test_without_a_date_in_the_name_the_time_of_the_file_counts() -> None:
    assert dated(Path("app.tar"), 1_700_000_000) == Dated(
        datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), by_name=False
    )


@pytest.mark.parametrize(("changed", "year"), [(-1e15, 1970), (1e15, 9999)])
def test_times_of_files_that_no_calendar_has_are_the_first_or_the_last(changed: float, year: int) -> None:
    assert dated(Path("app.tar"), changed).moment.year == year


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_every_tag_is_a_valid_name_or_is_refused(repository: str, tag: str, file: str, own: str) -> None:
    assume("/" not in file)
    for templates in (
        Templates(repository, tag),
        Templates("{file}", "{tag}"),
        Templates("{repository}", "{file}-{date}"),
    ):
        try:
            (target,) = targets(templates, (Name(own, own),), Path(f"{file}.tar"), DAY)
        except Broken as error:
            problem = str(error)
        else:
            assert re.fullmatch(r"[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*", target.repository)
            assert re.fullmatch(r"\w[\w.-]{0,127}", target.tag, re.ASCII)
            continue
        assert "--repository" in problem or "--tag" in problem or "has no value" in problem


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"v[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True))
def test_groups_of_the_pattern_fill_the_templates(app: str, version: str) -> None:
    templates = Templates("team/{app}", "{version}-{date}", re.compile(r"^(?P<app>[a-z]+)_(?P<version>v[0-9.]+[0-9])"))

    found = targets(templates, (), Path(f"{app}_{version}_20260131.tar.gz"), DAY)

    assert found == (Target(f"team/{app}", f"{version}-2026-01-31"),)


def test_templates_apply_to_each_name_once() -> None:
    names = (Name("app", "1"), Name("app", "latest"), Name("other", "1"))

    assert targets(Templates(), names, Path("x.tar"), DAY) == tuple(Target(one.repository, one.tag) for one in names)  # type: ignore[arg-type]
    assert targets(Templates(tag="{date}-{time}"), names, Path("x.tar"), DAY) == (
        Target("app", "2026-01-31-153000"),
        Target("other", "2026-01-31-153000"),
    )


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        (Templates(), "does not name the repository of the image: use --repository"),
        (Templates(repository="app"), "does not name the tag of the image: use --tag"),
        (Templates("app", "{version}"), "{version} has no value; there are date, file, time"),
        (Templates("app", "1", re.compile("(?P<version>v.)")), "--pattern does not match the file name backup"),
        (Templates("App", "1"), "'App' is no valid repository"),
        (Templates("app", "a b"), "'a b' is no valid tag"),
        (Templates("a" * 256, "1"), "no valid repository"),
    ],
)
def test_a_tag_that_cannot_be_made_is_refused_with_the_option(templates: Templates, words: str) -> None:
    with pytest.raises(Broken, match=re.escape(words)):
        targets(templates, (), Path("backup.tar"), DAY)


def test_endings_are_removed_from_the_name() -> None:
    assert [stem(Path(name)) for name in ("a.tar", "a.1.TAR.GZ", "a.tgz", "a", ".tar")] == ["a", "a.1", "a", "a", ""]


def image(folder: Path, name: str, *tags: str, **more: Any) -> Path:
    return tarballs.write(folder / name, tarballs.saved((tags, [tarballs.layer("a", b"a")]), **more))


def test_tarballs_are_ordered_by_date_then_by_natural_order_of_the_names(tmp_path: Path) -> None:
    day = ["app-2026-01-31.tar", "app-2026-01-31 (1).tar", "app-2026-01-31-9.tar", "app-2026-01-31-10.tar"]
    names = ["z-2025-12-31.tar", *day, "a-20260201.tar"]
    for name in reversed(names):
        image(tmp_path, name, "app:1")

    found = in_order(read(file, Templates()) for file in tmp_path.iterdir())

    assert [one.file.name for one in found] == names
    assert all(one.dated.by_name for one in found)


@pytest.mark.parametrize("link", ["a-latest.tar", "z-latest.tar"])
def test_a_link_beside_its_tarball_is_left_out(tmp_path: Path, link: str) -> None:
    file = image(tmp_path, "app-2026-01-31.tar", "app:1")
    (tmp_path / link).symlink_to(file.name)

    assert files_of([tmp_path]) == files_of([file, tmp_path / link]) == files_of([tmp_path / link, file]) == [file]
    assert files_of([tmp_path / link]) == [tmp_path / link]


def found_in(folder: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> list[Saved | Stored]:
    with Archive(tarballs.write(folder / "image.tar", files)) as archive:
        return images(archive)


def problem(folder: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> str:
    with pytest.raises(Broken) as refused:
        found_in(folder, files)
    return str(refused.value)


LAYERS = [tarballs.layer("a", b"a"), tarballs.layer("b", b"b")]
SAVED = tarballs.saved((["app:1"], LAYERS))


def test_names_with_a_dot_in_front_are_found(tmp_path: Path) -> None:
    (found,) = found_in(tmp_path, {f"./{name}": content for name, content in SAVED.items()})

    assert found.names == (Name("app", "1"),)


def test_documents_may_begin_with_white_space(tmp_path: Path) -> None:
    spaced = {"manifest.json": b"\r\n  " + SAVED["manifest.json"]}  # type: ignore[operator]

    (found,) = found_in(tmp_path, {**SAVED, **spaced})

    assert found.names == (Name("app", "1"),)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_layer_may_be_a_link_to_another_layer(tmp_path: Path, kind: bytes) -> None:
    files = dict(tarballs.saved((["app:1"], [LAYERS[0], LAYERS[0]])))
    first, second = (name for name in files if name.endswith("layer.tar"))
    files[second] = tarballs.link(second, f"../{first}" if kind == tarfile.SYMTYPE else first, kind)

    file = tarballs.write(tmp_path / "image.tar", files)
    with Archive(file) as archive:
        (found,) = images(archive)
        assert isinstance(found, Saved)
        assert [b"".join(archive.chunks(name)) for _, name in found.layers] == [LAYERS[0], LAYERS[0]]


@pytest.mark.parametrize("target", ["../../../../../../etc/passwd", "/etc/passwd", "layer.tar", "../nowhere"])
def test_a_link_never_leads_out_of_the_tarball(tmp_path: Path, target: str) -> None:
    files = dict(SAVED)
    name = next(name for name in files if name.endswith("layer.tar"))
    files[name] = tarballs.link(name, target)

    assert re.search("is missing in the tarball|leads to no file", problem(tmp_path, files))


def test_names_in_the_manifest_never_lead_out_of_the_tarball(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    entry = {"Config": str(secret), "RepoTags": ["app:1"], "Layers": ["../../etc/passwd"]}

    assert "is missing in the tarball" in problem(tmp_path, {"manifest.json": json.dumps([entry]).encode()})


def without(*endings: str) -> dict[str, bytes | tarfile.TarInfo]:
    return {name: content for name, content in SAVED.items() if not name.endswith(endings)}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"hello.txt": b"hello"}, "no manifest.json and no index.json"),
        ({"repositories": b"{}"}, "Docker before 1.10"),
        (without("layer.tar"), "layer.tar is missing in the tarball"),
        ({"manifest.json": b"[]"}, "the tarball has no image"),
        ({"manifest.json": b"{}"}, "manifest.json is not valid"),
        ({"manifest.json": b"text"}, "manifest.json is no JSON document"),
        ({"manifest.json": tarballs.link("manifest.json", "x", tarfile.FIFOTYPE)}, "manifest.json is no file"),
        ({"index.json": b'{"manifests": [{"digest": "sha256:../x", "size": 1}]}'}, "index.json is not valid"),
        (tarballs.saved((["app:1"], LAYERS), rootfs={"diff_ids": []}), "has 2 layers, and its configuration names 0"),
    ],
)
def test_a_tarball_that_cannot_be_imported_is_refused_with_the_reason(
    tmp_path: Path, files: dict[str, bytes | tarfile.TarInfo], words: str
) -> None:
    assert words in problem(tmp_path, files)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no tarball, or it is damaged"),
        (b"no tarball" * 999, "no tarball, or it is damaged"),
        (gzip.compress(b"no tarball" * 999), "no tarball, or it is damaged"),
        (gzip.compress(tarballs.archive(SAVED))[:-99], "damaged"),
        (tarballs.archive(SAVED)[:3000], "damaged"),
        (b"\x28\xb5\x2f\xfd etc", "`zstd -d`"),
    ],
)
def test_a_file_that_is_no_whole_tarball_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "image.tar").write_bytes(content)

    assert words in (read(tmp_path / "image.tar", Templates()).problem or "")


def test_a_header_that_tarfile_cannot_read_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a")
    entry.size = 3
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
    with tarfile.open(tmp_path / "image.tar", "w", format=tarfile.PAX_FORMAT) as writer:
        writer.addfile(entry, io.BytesIO(b"abc"))

    assert "a header is not valid" in (read(tmp_path / "image.tar", Templates()).problem or "")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_behind_thousands_of_headers_is_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("a")
    entry.type, entry.size = kind, 512
    (tmp_path / "image.tar").write_bytes((entry.tobuf() + bytes(512)) * 3000)

    assert "a header is not valid" in (read(tmp_path / "image.tar", Templates()).problem or "")


def test_a_tarball_with_too_many_documents_for_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_MOST_DOCUMENTS", 1 << 20)

    refused = problem(tmp_path, {f"{number}.json": b"{" + bytes(600_000) for number in range(2)})

    assert refused == "the file has more than 1 MiB of JSON documents"


def nested(levels: int, times: int) -> dict[str, bytes | tarfile.TarInfo]:
    """Indexes in indexes, each of which names the next one several times."""
    files = tarballs.layout({}, {"amd64": LAYERS}, compressed=True)
    (entry,) = json.loads(files["index.json"])["manifests"]  # type: ignore[arg-type]
    for _ in range(levels):
        content = json.dumps({"mediaType": tarballs.OCI_INDEX, "manifests": [entry] * times}).encode()
        entry = {"mediaType": tarballs.OCI_INDEX, "digest": tarballs.digest(content), "size": len(content)}
        files[f"blobs/sha256/{entry['digest'][7:]}"] = content
    files["index.json"] = json.dumps({"manifests": [entry]}).encode()
    return files


def test_nested_indexes_come_once_and_after_what_they_name(tmp_path: Path) -> None:
    (found,) = found_in(tmp_path, nested(7, 50))

    assert isinstance(found, Stored)
    assert len(found.manifests) == 8
    assert list(found.manifests)[-1] == found.identity


def test_indexes_that_are_nested_too_deep_are_refused(tmp_path: Path) -> None:
    assert "nested more than 8 deep" in problem(tmp_path, nested(2000, 1))


def test_manifests_that_an_index_names_are_no_images_of_their_own(tmp_path: Path) -> None:
    """ORAS lists every manifest of a layout in index.json, and gives names only to tagged ones."""
    for compressed in (True, False):
        files = tarballs.layout(
            {"org.opencontainers.image.ref.name": "1"}, {"a": LAYERS, "b": LAYERS}, compressed=compressed
        )
        (named,) = json.loads(files["index.json"])["manifests"]  # type: ignore[arg-type]
        children = json.loads(files[f"blobs/sha256/{named['digest'][7:]}"])["manifests"]  # type: ignore[arg-type]
        files["index.json"] = json.dumps({"manifests": [children[0], named, children[1]]}).encode()

        (found,) = found_in(tmp_path, files)

        assert isinstance(found, Stored)
        assert found.identity == named["digest"]
        assert len(found.manifests) == 3


@pytest.mark.parametrize("more", [b"x", b""])
def test_a_blob_of_another_size_than_its_manifest_says_is_refused(tmp_path: Path, more: bytes) -> None:
    files = tarballs.layout({}, {"amd64": LAYERS}, compressed=True)
    layer = f"blobs/sha256/{tarballs.digest(gzip.compress(LAYERS[0], mtime=0))[7:]}"
    files[layer] = files[layer] + more if more else files[layer][:-1]  # type: ignore[index,operator]

    assert re.fullmatch(rf"{layer} has \d+ bytes, and its manifest says \d+", problem(tmp_path, files))


def test_a_negative_size_in_a_header_is_refused(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:155] = f"{sum(header):06o}\0".encode()
    (tmp_path / "image.tar").write_bytes(bytes(header) * 3)

    assert read(tmp_path / "image.tar", Templates()).problem


def test_an_archive_with_a_wrong_manifest_is_refused(tmp_path: Path) -> None:
    files = tarballs.layout({}, {"amd64": LAYERS}, compressed=True)
    digest = json.loads(files["index.json"])["manifests"][0]["digest"]  # type: ignore[arg-type]
    files[f"blobs/sha256/{digest[7:]}"] += b" "  # type: ignore[operator]

    assert "does not fit its digest" in problem(tmp_path, files)


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, ()),
        ({"org.opencontainers.image.ref.name": "1.0"}, (Name(None, "1.0"),)),
        ({"org.opencontainers.image.ref.name": "ghcr.io/owner/app:1"}, (Name("owner/app", "1"),)),
        ({"io.containerd.image.name": "docker.io/library/app:2"}, (Name("app", "2"),)),
        ({"io.containerd.image.name": "docker.io/team/app:2"}, (Name("team/app", "2"),)),
    ],
)
def test_names_come_from_annotations(tmp_path: Path, annotations: dict[str, str], names: tuple[Name, ...]) -> None:
    for compressed in (True, False):
        (found,) = found_in(tmp_path, tarballs.layout(annotations, {"amd64": LAYERS}, compressed=compressed))
        assert found.names == names
        assert isinstance(found, Stored if compressed else Saved)


def test_an_artifact_that_is_no_image_is_not_changed(tmp_path: Path) -> None:
    files = tarballs.layout({}, {"amd64": LAYERS}, compressed=False)
    text = files["index.json"].decode()  # type: ignore[union-attr]
    old = json.loads(text)["manifests"][0]["digest"]
    manifest = files[f"blobs/sha256/{old[7:]}"].replace(tarballs.OCI_CONFIG.encode(), b"application/vnd.example")  # type: ignore[union-attr]
    files[f"blobs/sha256/{tarballs.digest(manifest)[7:]}"] = manifest
    files["index.json"] = text.replace(old, tarballs.digest(manifest)).encode()

    (found,) = found_in(tmp_path, files)

    assert isinstance(found, Stored)
    assert found.identity == tarballs.digest(manifest)


def test_two_images_never_get_one_tag(tmp_path: Path) -> None:
    files = tarballs.saved((["a:1"], LAYERS), (["b:1"], LAYERS[:1]))
    file = tarballs.write(tmp_path / "image.tar", files)

    assert "two images of the tarball get the tag app:1" in (read(file, Templates("app", "1")).problem or "")
    assert read(file, Templates("{repository}", "1")).problem is None


@pytest.mark.parametrize("name", ["[fd00::1]:5000/app:1", "Not Valid", "<none>:<none>"])
def test_a_name_that_is_not_valid_needs_the_options(tmp_path: Path, name: str) -> None:
    file = image(tmp_path, "app.tar", name)

    assert f"{name!r} is no valid repository: use --repository" in (read(file, Templates()).problem or "")
    assert read(file, Templates("app", "1")).problem is None


def test_a_layer_that_is_compressed_in_the_tarball_is_read_without_compression(tmp_path: Path) -> None:
    file = tarballs.write(tmp_path / "image.tar", {"layer": gzip.compress(LAYERS[0]), "plain": LAYERS[0]})

    with Archive(file) as archive:
        assert {b"".join(archive.chunks(name, expand=True)) for name in ("layer", "plain")} == {LAYERS[0]}


class Cli:
    """A fake Pulumi CLI with a configuration and outputs."""

    def __init__(self, users: Mapping[str, str], **passwords: str) -> None:
        registry = configuration()["registry"] | {"users": {name: {"role": role} for name, role in users.items()}}
        self._values = configuration(
            registry=registry, passwords={name: example_password(name) for name in users} | passwords
        )

    def run(self, *arguments: str, **_: object) -> str:
        if arguments[0] == "stack":
            url = self._values["registry"]["url"]
            return json.dumps({"registry_url": url, "docker_host": "ssh://a@b", "services": {}, "users": {}})
        return json.dumps({f"registry-stack:{key}": {"value": value} for key, value in self._values.items()})


Use = Callable[[Cli], StackConfig]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    def patched(cli: Cli) -> StackConfig:
        monkeypatch.setattr(StackConfig, "_run", lambda _, *arguments, **more: cli.run(*arguments, **more))
        return StackConfig(None, None)

    return patched


@pytest.mark.parametrize(
    ("users", "wanted", "chosen"),
    [
        ({"ci": "push", "web": "pull", "boss": "admin"}, None, "ci"),
        ({"ci": "push", "ci.2": "push"}, None, "ci.2"),
        ({"ci": "push", "other": "push"}, "other", "other"),
        ({"boss": "admin"}, "boss", "boss"),
    ],
)
def test_the_only_push_user_or_the_named_user_pushes(
    use: Use, users: dict[str, str], wanted: str | None, chosen: str
) -> None:
    name, password = push_login(use(Cli(users)), wanted)

    assert (name, password.get_secret_value()) == (chosen, example_password(chosen))


@pytest.mark.parametrize(
    ("users", "wanted", "words", "fix"),
    [
        ({"ci": "push", "other": "push"}, None, "several users have the role push: ci, other", "--user"),
        ({"web": "pull"}, None, "no user has the role push", "credentials add import --role push"),
        ({"ci": "push"}, "nobody", "there is no user nobody", "ci"),
        ({"ci": "push", "web": "pull"}, "web", "web has the role pull and may not push", "--user"),
        ({"hashed": "push"}, None, "bcrypt hash", "rotate hashed"),
    ],
)
def test_a_login_that_cannot_be_used_is_refused(
    use: Use, users: dict[str, str], wanted: str | None, words: str, fix: str
) -> None:
    config = use(Cli(users, **({"hashed": "$2y$05$" + "a" * 53} if "hashed" in users else {})))

    with pytest.raises(Failure) as refused:
        push_login(config, wanted)

    assert words in str(refused.value)
    assert fix in refused.value.fix


Ask = Callable[..., Result]


@pytest.fixture
def ask(use: Use, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The command on a stack whose registry nobody may ask."""
    use(Cli({"ci": "push"}))
    monkeypatch.setattr("operations.tarballs.commands.Registry", None)
    return lambda *arguments: CliRunner().invoke(command_line(["import"]), ["import", *map(str, arguments)])


def test_a_dry_run_shows_order_dates_and_tags_and_sends_nothing(ask: Ask, tmp_path: Path) -> None:
    image(tmp_path, "b-2026-01-02.tar", "app:latest")
    image(tmp_path, "a-2026-01-03.tar", "app:latest")
    (tmp_path / "c-2026-01-01.tar").write_bytes(b"\x1b[31mbroken")

    answer = ask(tmp_path, "--dry-run", "--tag", "{date}")
    listed = json.loads(ask(tmp_path, "--dry-run", "--tag", "{date}", "--json").stdout)

    assert answer.exit_code == 1
    lines = [re.split(r"\s{2,}", line.strip()) for line in answer.stdout.splitlines()[1:]]
    assert lines[1] == ["b-2026-01-02.tar", "2026-01-02 00:00:00", "name", "app:2026-01-02"]
    assert [line[0] for line in lines] == ["c-2026-01-01.tar", "b-2026-01-02.tar", "a-2026-01-03.tar"]
    assert [one["state"] for one in listed["tarballs"]] == ["failed", "planned", "planned"]
    assert listed["tarballs"][2]["tags"] == ["app:2026-01-03"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "missing.tar", "no such file"),
        (lambda folder: folder, "has no file that ends in .tar"),
        (lambda folder: (folder / "old.tar").mkdir() or folder, "old.tar: it is no file"),
        (lambda folder: (folder / "old.tar").symlink_to("gone") or folder, "old.tar: no such file"),
    ],
)
def test_paths_without_tarballs_are_refused(ask: Ask, tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    answer = ask(make(tmp_path))

    assert isinstance(answer.exception, Failure)
    assert words in str(answer.exception)


def test_progress_shows_brackets_in_the_name_of_a_file() -> None:
    status = Console(file=io.StringIO()).status("")
    shown = commands._Progress(1, status)

    shown.begin(Tarball(file=Path("app[beta]:x:.tar"), size=1, dated=DAY))

    assert str(status.renderable.text).startswith("1 of 1: app[beta]:x:.tar")


def test_a_pattern_that_is_no_regular_expression_is_wrong_usage(ask: Ask, tmp_path: Path) -> None:
    assert ask(tmp_path, "--pattern", "(").exit_code == 2


def connected(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx.Request], httpx.Response]) -> Registry:
    """A registry that answers as the function says. Waits take no time."""
    monkeypatch.setattr(registry_module.time, "sleep", lambda _: None)
    login = ("ci", SecretStr(example_password("ci")))
    registry = Registry("https://registry.example.com", ssl.create_default_context(), login)
    registry._client = httpx.Client(
        base_url="https://registry.example.com", auth=("ci", "x"), transport=httpx.MockTransport(answer)
    )
    return registry


def test_an_upload_is_tried_again_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = list[bytes]()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": "https://evil.example/v2/app/blobs/uploads/1?_state=s"})
        assert request.url.host == "registry.example.com", "the password goes to no other host"
        assert dict(request.url.params) == {"_state": "s", "digest": "sha256:1"}
        bodies.append(request.read())
        if len(bodies) == 2:
            raise httpx.ReadError("reset")
        return httpx.Response({1: 429, 3: 500}.get(len(bodies), 201), headers={"Retry-After": "10"})

    connected(monkeypatch, answer).upload("app", "sha256:1", 3, lambda: iter([b"a", b"bc"]))

    assert bodies == [b"abc"] * 4


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [(503, Failure, len(RETRY_SECONDS) + 1), (401, Failure, 1), (403, Failure, 1), (400, Broken, 1), (413, Broken, 1)],
)
def test_answers_that_stop_the_import_and_answers_that_stop_one_tarball(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception], tries: int
) -> None:
    asked = list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(status, json={"errors": [{"code": "X", "message": "in words"}]})

    with pytest.raises(error, match="in words"):
        connected(monkeypatch, answer).put_manifest("app", "1", "type", b"{}")

    assert len(asked) == tries


def test_an_address_without_a_registry_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="answers 405") as refused:
        connected(monkeypatch, lambda _: httpx.Response(405)).manifest("app", "1")

    assert "https://registry.example.com" in refused.value.fix


def test_a_certificate_that_nobody_trusts_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")

    with pytest.raises(Failure, match="self-signed certificate") as refused:
        connected(monkeypatch, answer).manifest("app", "1")

    assert "SSL_CERT_FILE" in refused.value.fix
    assert len(asked) == 1


@pytest.mark.parametrize("content", [None, "text"])
def test_a_file_of_certificates_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with pytest.raises(Failure, match="SSL_CERT_FILE") as refused:
        trust_in(None, StackConfig(None, None))

    assert "SSL_CERT_FILE" in refused.value.fix


def test_an_output_that_is_no_certificate_is_named() -> None:
    with pytest.raises(Failure, match="`ca_certificate` is no certificate"):
        trust_in("text", StackConfig(None, None))


def test_a_machine_without_a_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    registry = connected(monkeypatch, lambda _: httpx.Response(404))
    with Archive(tarballs.write(tmp_path / "app.tar", SAVED)) as archive:
        (found,) = images(archive)

        with pytest.raises(Failure, match="No usable temporary directory") as refused:
            Transfer(registry, lambda _: None).push(archive, found, (Target("app", "1"),))

    assert "TMPDIR" in refused.value.fix


def test_a_registry_that_asks_for_a_long_wait_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = connected(monkeypatch, lambda _: httpx.Response(429, headers={"Retry-After": "3600"}))

    with pytest.raises(Failure) as error:
        refused.has("app", "sha256:1")

    assert "continues where it stopped" in error.value.fix


def test_a_registry_that_asks_for_no_wait_is_given_time_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[float]()
    refused = connected(monkeypatch, lambda _: httpx.Response(503, headers={"Retry-After": "0"}))
    monkeypatch.setattr(registry_module.time, "sleep", waits.append)

    with pytest.raises(Failure):
        refused.has("app", "sha256:1")

    assert waits == list(RETRY_SECONDS)


@pytest.mark.parametrize(("compression", "is_shared"), [("tar+gzip", True), ("tar+zstd", False), ("tar", False)])
def test_only_a_layer_that_another_client_compressed_with_gzip_is_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compression: str, is_shared: bool
) -> None:
    pushed = list[dict[str, Any]]()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/manifests/2"):
            pushed.append(json.loads(request.read()))
            return httpx.Response(201)
        return httpx.Response(200)

    layer = {
        "mediaType": f"application/vnd.oci.image.layer.v1.{compression}",
        "digest": "sha256:" + "a" * 64,
        "size": 9,
    }
    transfer = Transfer(connected(monkeypatch, answer), lambda _: None)
    with Archive(tarballs.write(tmp_path / "app.tar", tarballs.saved((["app:1"], LAYERS[:1])))) as archive:
        (found,) = images(archive)
        transfer.learn("app", found, json.dumps({"layers": [layer]}).encode())
        transfer.push(archive, found, (Target("app", "2"),))

    (described,) = pushed[0]["layers"]
    assert described["mediaType"].endswith("gzip")
    assert (described["digest"] == layer["digest"]) == is_shared


def test_a_layer_that_the_registry_lost_is_uploaded_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = "sha256:" + "a" * 64

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404 if request.url.path.endswith(lost) else 200)
        return httpx.Response(202 if request.method == "POST" else 201, headers={"Location": "/v2/app/blobs/uploads/1"})

    described = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": lost, "size": 9}
    transfer = Transfer(connected(monkeypatch, answer), lambda _: None)
    with Archive(tarballs.write(tmp_path / "app.tar", tarballs.saved((["app:1"], LAYERS[:1])))) as archive:
        (found,) = images(archive)
        transfer.learn("app", found, json.dumps({"layers": [described]}).encode())
        parts = transfer.push(archive, found, (Target("app", "2"),))

    assert lost not in parts


def test_a_tarball_that_is_older_than_the_image_of_its_tag_does_not_count_as_imported(tmp_path: Path) -> None:
    tarball = read(image(tmp_path, "app.tar", "app:1"), Templates())
    states: list[State] = ["present", "older", "older"]
    outcomes = [Outcome(tarball=tarball, state=state) for state in states]

    first = summary(outcomes, 0).splitlines()[0]

    assert first.split(", ") == [
        "3 tarballs: 0 imported",
        "1 in the registry already",
        "2 skipped because their tag has a newer tarball",
        "0 failed",
    ]
    assert summary(outcomes[:1], 0).startswith("1 tarball: ")
