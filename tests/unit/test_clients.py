"""`clients`: which stacks and files the command accepts, and what it does with files that are there already."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from operations.__main__ import command_line
from operations.clients import folder as folders
from operations.clients.folder import write_folder
from operations.stack import StackConfig

OUTPUTS = {
    "mirror_urls": {"docker.io": "https://mirror.example.com", "ghcr.io": "https://ghcr.mirror.example.com"},
    "configuration": {"settings": {"mirrors": {"docker.io": {}, "ghcr.io": {}}}},
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, **outputs: Any) -> Result:
    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(OUTPUTS | outputs))
    return CliRunner().invoke(command_line(["clients"]), ["clients", "--stack", "prod", *arguments])


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str, **outputs: Any) -> Failure:
    answer = run(monkeypatch, *arguments, **outputs)
    assert isinstance(answer.exception, Failure), answer.output
    assert answer.stdout == ""
    return answer.exception


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_command_prints_the_files_that_it_wrote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = run(monkeypatch, "--output", str(tmp_path / "new" / "folder"))

    assert answer.exit_code == 0, answer.output
    assert {str(tmp_path / "new/folder" / name) for name in content(tmp_path / "new/folder")} == {
        *answer.stdout.splitlines()
    }
    assert "docker/certs.d/ghcr.io/hosts.toml" in answer.stdout


@pytest.mark.parametrize("words", [[], ["--output", "x", "check"], ["--stack", "prod", "uninstall"]])
def test_folder_that_is_missing_and_options_before_a_command_are_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(command_line(["clients"]), ["clients", *words]).exit_code == 2


def test_sums_can_be_checked_with_sha256sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(monkeypatch, "--output", str(tmp_path))

    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False)

    assert done.returncode == 0


def test_mirror_without_an_address_of_its_own_gets_the_shared_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs = {"mirror_urls": {"ghcr.io": "https://ghcr.mirror.example.com"}, "mirror_url": "https://all.example.com"}

    answer = run(monkeypatch, "--output", str(tmp_path), **outputs)

    assert answer.exit_code == 0, answer.output
    assert "https://all.example.com" in (tmp_path / "docker/certs.d/docker.io/hosts.toml").read_text()
    assert "https://ghcr.mirror.example.com" in (tmp_path / "docker/certs.d/ghcr.io/hosts.toml").read_text()


@pytest.mark.parametrize(
    ("outputs", "cause", "fix"),
    [
        ({"mirror_urls": {}, "configuration": {"settings": {"mirrors": {}}}}, "the stack has no mirrors", "pulumi up"),
        ({"configuration": None}, "another version of the program", "pulumi up --stack prod"),
        ({"mirror_urls": {"docker.io": 'https://x"\n'}}, "another version of the program", "pulumi up --stack prod"),
    ],
)
def test_stack_without_usable_mirrors_is_refused(
    outputs: dict[str, Any], cause: str, fix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = refusal(monkeypatch, "--output", str(tmp_path / "new"), **outputs)

    assert cause in str(refused)
    assert fix in refused.fix
    assert not (tmp_path / "new").exists()


def test_merge_keeps_the_keys_and_the_mirrors_of_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    daemon = tmp_path / "daemon.json"
    mirrors = ["https://a.example.com", "https://mirror.example.com/", "https://b.example.com"]
    daemon.write_bytes(b"\xef\xbb\xbf" + json.dumps({"labels": ["ä"], "registry-mirrors": mirrors}).encode())

    run(monkeypatch, "--output", str(tmp_path / "new"), "--merge", str(daemon))

    assert json.loads((tmp_path / "new/docker/daemon.json").read_text()) == {
        "labels": ["ä"],
        "registry-mirrors": ["https://mirror.example.com", "https://a.example.com", "https://b.example.com"],
    }
    assert "--merge /etc/docker/daemon.json" not in (tmp_path / "new/README.md").read_text()


def test_empty_daemon_json_is_accepted_as_docker_accepts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text("\n")

    answer = run(monkeypatch, "--output", str(tmp_path / "new"), "--merge", str(tmp_path / "daemon.json"))

    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b'{\n  "debug": true,\n}\n', "daemon.json: line 3: "),
        (b"[]", "does not contain an object"),
        (b'{"registry-mirrors": "https://a.example.com"}', "registry-mirrors in "),
        (b'{"registry-mirrors": [1]}', "registry-mirrors in "),
        (b"\xff\xfe", "is not a text in UTF-8"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot read a value"),
        (b'{"a": ' + b"[" * 99999 + b"]" * 99999 + b"}", "cannot read a value"),
        (b'{"a": NaN}', "cannot read a value"),
        (b'{"a": 1, "a": 2}', "the key a is there twice"),
    ],
)
def test_daemon_json_that_docker_refuses_is_refused_and_nothing_is_written(
    text: bytes, cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "daemon.json").write_bytes(text)

    refused = refusal(monkeypatch, "--output", str(tmp_path / "new"), "--merge", str(tmp_path / "daemon.json"))

    assert cause in str(refused)
    assert "Nothing was written" in str(refused)
    assert f"correct {tmp_path / 'daemon.json'}" in refused.fix
    assert not (tmp_path / "new").exists()


def test_merge_without_a_mirror_of_docker_hub_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "daemon.json").write_text("{}")
    outputs = {
        "mirror_urls": {"ghcr.io": "https://mirror.example.com"},
        "configuration": {"settings": {"mirrors": {"ghcr.io": {}}}},
    }

    arguments = ("--output", str(tmp_path / "new"), "--merge", str(tmp_path / "daemon.json"))
    refused = refusal(monkeypatch, *arguments, **outputs)

    assert "no mirror of docker.io" in str(refused)
    assert run(monkeypatch, "--output", str(tmp_path / "new"), **outputs).exit_code == 0


def test_later_run_replaces_the_files_and_removes_those_of_a_mirror_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(monkeypatch, "--output", str(tmp_path))
    (tmp_path / "docker/notes.txt").write_text("mine")
    outputs = {
        "mirror_urls": {"docker.io": "https://other.example.com"},
        "configuration": {"settings": {"mirrors": {"docker.io": {}}}},
    }

    answer = run(monkeypatch, "--output", str(tmp_path), **outputs)

    assert answer.exit_code == 0, answer.output
    assert "https://other.example.com" in (tmp_path / "docker/certs.d/docker.io/hosts.toml").read_text()
    assert not (tmp_path / "docker/certs.d/ghcr.io").exists()
    assert f"removed {tmp_path / 'docker/certs.d/ghcr.io/hosts.toml'}" in answer.stderr
    assert (tmp_path / "docker/notes.txt").read_text() == "mine"
    assert "ghcr.io" not in (tmp_path / "SHA256SUMS").read_text()


@pytest.mark.parametrize("kind", ["before the first run", "changed", "removed mirror", "link", "folder"])
def test_file_of_someone_else_is_refused_and_every_file_stays(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs: dict[str, Any] = {}
    file = tmp_path / "etc/docker/certs.d/ghcr.io/hosts.toml"
    if kind == "before the first run":
        file.parent.mkdir(parents=True)
    else:
        run(monkeypatch, "--output", str(tmp_path / "etc"))
    if kind == "removed mirror":
        outputs = {"configuration": {"settings": {"mirrors": {"docker.io": {}}}}}
    if kind in ("link", "folder"):
        file.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_text("mine")
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_text("mine")
    before = content(tmp_path)

    refused = refusal(monkeypatch, "--output", str(tmp_path / "etc"), **outputs)

    assert str(file) in str(refused)
    assert "README.md" not in str(refused)
    assert content(tmp_path) == before


def test_interrupted_run_is_completed_by_the_next_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new = (
        {"docker/a": "1", "rancher/b/c": "1", "buildkit/gone": "1"},
        {"docker/a": "2", "rancher/b/c": "2", "docker/d": "2"},
    )
    write_folder(tmp_path / "start", old)
    replace_file, moments = folders.replace_file, 0

    def interrupted(file: Path, text: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        replace_file(file, text)

    while True:
        folder = tmp_path / str(moments)
        shutil.copytree(tmp_path / "start", folder)
        left = moments
        monkeypatch.setattr(folders, "replace_file", interrupted)
        try:
            write_folder(folder, new)
        except KeyboardInterrupt:
            moments += 1
        else:
            break
        monkeypatch.setattr(folders, "replace_file", replace_file)
        write_folder(folder, {"docker/a": "3", "docker/d": "3"})
        assert {name: text for name, text in content(folder).items() if name != "SHA256SUMS"} == {
            "docker/a": b"3",
            "docker/d": b"3",
        }

    assert moments == 5


@pytest.mark.parametrize("name", ["../outside", "/outside", "docker/../../outside", "image.iso", "docs/image.iso"])
def test_sums_of_another_program_are_refused_and_every_file_stays(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    for file in (tmp_path / "outside", folder / "image.iso", folder / "docs/image.iso"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'mine').hexdigest()}  {name}\n")
    before = content(tmp_path)

    refused = refusal(monkeypatch, "--output", str(folder))

    assert "SHA256SUMS" in str(refused)
    assert "another folder" in refused.fix
    assert content(tmp_path) == before


def test_folder_that_is_a_file_is_refused_as_wrong_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    assert run(monkeypatch, "--output", str(tmp_path / "file")).exit_code == 2


def test_folder_below_a_file_is_refused_with_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    refused = refusal(monkeypatch, "--output", str(tmp_path / "file" / "below"))

    assert "cannot write" in str(refused)
    assert "choose a folder" in refused.fix
