"""The credential commands with the real Pulumi CLI: what they change, and that no secret is seen on the way."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.toolchain import environment
from tests.harness.configuration import ROOT, configuration, example_password, set_all_secrets

#: Notes the arguments and the environment of each call. The first one whose arguments hold $FAIL_AT fails, and with
#: $FOR_EVER all that follow.
RECORDER = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline >> "$RECORD" && env >> "$RECORD"
if [ -e "$RECORD.failed" ]; then
  fails="$FOR_EVER"
elif [ -n "$FAIL_AT" ]; then
  case "$*" in *"$FAIL_AT"*) fails=yes && touch "$RECORD.failed" ;; esac
fi
if [ -n "$fails" ]; then
  echo 'error: the disk is full' >&2
  exit 1
fi
exec "$REAL" "$@"
"""


class Project:
    """A stack with the configuration of the other tests, whose `pulumi` is recorded."""

    def __init__(self, folder: Path, pulumi: str) -> None:
        self.folder, self.record = folder, folder / "record"
        self._pulumi, self._shown = pulumi, ("", dict[str, Any]())
        self.environment = environment() | {
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "example-only",
            "PULUMI_STACK": "test",
            "PYTHONPATH": str(ROOT),
            "RECORD": str(self.record),
            "REAL": pulumi,
            "COLUMNS": "200",
        }
        self.environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{self.environment['PATH']}"

    def make(self) -> None:
        """Make the folder's stack."""
        for name in ("state", "bin"):
            (self.folder / name).mkdir()
        (self.folder / "bin" / "pulumi").write_text(RECORDER)
        (self.folder / "bin" / "pulumi").chmod(0o755)
        (self.folder / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
        self.pulumi("stack", "init", "test")
        values = configuration()
        secrets = {f"passwords.{user}": password for user, password in values.pop("passwords").items()}
        secrets["stack_secret"] = values.pop("stack_secret")
        self.pulumi(*set_all_secrets(secrets))
        written = yaml.safe_load(self.file.read_text())
        written["config"] |= {f"registry-stack:{key}": value for key, value in values.items()}
        self.file.write_text(yaml.safe_dump(written))

    @property
    def file(self) -> Path:
        return self.folder / "Pulumi.test.yaml"

    def pulumi(self, *arguments: str, stdin: str = "") -> str:
        return subprocess.run(
            [self._pulumi, *arguments], cwd=self.folder, env=self.environment, input=stdin, text=True,
            capture_output=True, check=True,
        ).stdout  # fmt: skip

    def set_secret(self, path: str, value: str) -> None:
        self.pulumi("config", "set", "--secret", "--path", f"registry-stack:{path}", stdin=value)

    def config(self, key: str) -> Any:
        """A key of the configuration, decrypted; the CLI is asked anew when the file has changed."""
        content = self.file.read_text()
        if self._shown[0] != content:
            self._shown = content, json.loads(self.pulumi("config", "--json", "--show-secrets"))
        value = self._shown[1][f"registry-stack:{key}"]
        return value.get("objectValue", value["value"])

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "operations", "credentials", *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, binary: Callable[[str], str]) -> Path:
    """The folder of a stack, to be copied."""
    folder = tmp_path_factory.mktemp("original")
    Project(folder, binary("pulumi")).make()
    return folder


@pytest.fixture
def project(tmp_path: Path, original: Path, binary: Callable[[str], str]) -> Iterator[Project]:
    """A stack of its own; at the end, no process of it has shown a secret."""
    shutil.copytree(original, tmp_path / "project")
    project = Project(tmp_path / "project", binary("pulumi"))
    yield project
    seen = project.record.read_text() if project.record.exists() else ""
    for secret in (*project.config("passwords").values(), project.config("stack_secret")):
        assert secret not in seen, "a secret in the arguments or the environment of a process"


def done(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(answer: subprocess.CompletedProcess[str], words: str) -> str:
    """The answer was a sentence with a fix, which is returned, and no traceback."""
    assert answer.returncode == 1, answer.stdout
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert words in answer.stderr
    return answer.stderr.partition("fix: ")[2].strip()


def test_a_new_user_has_a_role_an_expiry_and_256_random_bits_that_are_printed_once(project: Project) -> None:
    answer = project("add", "ci", "--role", "push", "--expires", "2099-01-31")

    password = done(answer).strip()
    assert re.fullmatch("[0-9a-f]{64}", password)
    assert password not in answer.stderr
    assert "pulumi up" in answer.stderr
    assert project.config("registry")["users"]["ci"] == {"role": "push", "expires": "2099-01-31"}
    assert project.config("passwords")["ci"] == password
    assert "secure" in yaml.safe_load(project.file.read_text())["config"]["registry-stack:passwords"]["ci"]
    assert password not in project.file.read_text()
    assert "config set --secret --path registry-stack:passwords.ci" in project.record.read_text()


def test_a_rotation_overlaps_is_listed_and_ends_with_the_old_name(project: Project) -> None:
    done(project("add", "ci", "--role", "push", "--expires", "2099-01-31"))

    second = done(project("rotate", "ci")).strip()

    users = project.config("registry")["users"]
    assert users["ci.2"] == users["ci"]
    listed = done(project("list"))
    assert "Unfinished rotation: ci.2 replaces ci." in listed
    assert "credentials retire ci\n" in listed
    assert "retire ci" in refused(project("rotate", "ci"), "is not finished")
    done(project("retire", "ci"))
    assert project.config("passwords").keys() == {"ci.2", "woodpecker", "production", "boss"}
    assert project.config("passwords")["ci.2"] == second
    assert "Unfinished rotation" not in done(project("list"))
    done(project("rotate", "ci"))
    assert {"ci.2", "ci.3"} <= project.config("registry")["users"].keys()


def test_a_rotation_in_place_changes_the_password_alone(project: Project) -> None:
    before = project.config("registry")

    answer = project("rotate", "--in-place", "woodpecker")

    assert project.config("passwords")["woodpecker"] == done(answer).strip() != example_password("woodpecker")
    assert project.config("registry") == before
    assert "refuses the clients of woodpecker until they have the new password" in answer.stderr


def test_the_list_names_right_processes_expiry_and_kind_and_no_password(project: Project) -> None:
    hashed = "$2y$05$" + "a" * 53
    project.set_secret("passwords.production", hashed)
    project.pulumi("config", "set", "--path", 'registry-stack:mirrors["docker.io"].username', "hub-login")

    listed = done(project("list"))

    rows = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in listed.splitlines() if line.strip()}
    assert rows["woodpecker"] == ["woodpecker", "push", "reader, writer", "never", "set", "new"]
    assert rows["boss"][2] == "reader, writer, admin"
    assert rows["production"][4] == "bcrypt hash"
    assert rows["docker.io"] == ["docker.io", "hub-login", "missing"]
    assert "https://registry.example.com" in listed
    assert hashed not in listed
    assert example_password("boss") not in listed


def test_a_login_goes_to_a_private_file_or_to_a_pipe_only_when_asked(project: Project, tmp_path: Path) -> None:
    password, file = example_password("woodpecker"), tmp_path / "config.json"

    shown = done(project("show-login", "woodpecker"))
    assert "| docker login registry.example.com --username woodpecker --password-stdin" in shown
    assert password not in shown
    assert done(project("show-login", "woodpecker", "--stdout")) == password + "\n"
    done(project("show-login", "woodpecker", "--output", str(file)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    auth = json.loads(file.read_text())["auths"]["registry.example.com"]["auth"]
    assert base64.b64decode(auth).decode() == f"woodpecker:{password}"


def test_a_hash_cannot_be_handed_over(project: Project) -> None:
    hashed = "$2y$05$" + "a" * 53
    project.set_secret("passwords.production", hashed)

    assert "rotate production" in refused(project("show-login", "production", "--stdout"), "bcrypt hash")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "woodpecker", "--role", "pull"], "the user woodpecker already exists"),
        (["add", "two words", "--role", "pull"], "is not a valid user name"),
        (["add", "operations", "--role", "pull"], "is not a valid user name"),
        (["add", "ci.2", "--role", "pull"], "the successor of a user"),
        (["add", "ci", "--role", "pull", "--expires", "soon"], "--expires soon"),
        (["add", "ci", "--role", "pull", "--expires", "2020-01-31"], "is in the past"),
        (["rotate", "nobody"], "there is no user nobody"),
        (["retire", "nobody"], "there is no user nobody"),
        (["retire", "boss"], "the last admin"),
        (["show-login", "nobody"], "there is no user nobody"),
        (["list", "--stack", "other"], "no stack named 'other'"),
    ],
)
def test_a_refusal_is_a_sentence_with_a_fix_and_changes_nothing(
    arguments: Sequence[str], words: str, project: Project
) -> None:
    before = project.file.read_text()

    assert refused(project(*arguments), words)

    assert project.file.read_text() == before


def test_the_last_admin_goes_when_that_is_wanted_and_the_last_user_never(project: Project) -> None:
    done(project("retire", "boss", "--force"))
    done(project("retire", "production"))

    assert "the only user" in project("retire", "woodpecker", "--force").stderr
    assert project.config("registry")["users"].keys() == project.config("passwords").keys() == {"woodpecker"}


@pytest.mark.parametrize(
    ("arguments", "fail_at"),
    [
        (["add", "ci", "--role", "push", "--expires", "2099-01-31"], "config set --path registry-stack:registry.users"),
        (["add", "ci", "--role", "push", "--expires", "2099-01-31"], "users.ci.expires"),
        (["retire", "woodpecker"], "config rm --path registry-stack:passwords"),
    ],
)
def test_a_change_that_fails_half_way_is_taken_back(arguments: Sequence[str], fail_at: str, project: Project) -> None:
    before = project.config("registry"), project.config("passwords")

    answer = project(*arguments, FAIL_AT=fail_at)

    refused(answer, "the disk is full")
    assert "The configuration is unchanged." in answer.stderr
    assert (project.config("registry"), project.config("passwords")) == before


def test_what_cannot_be_taken_back_is_told_with_the_command_that_does_it(project: Project) -> None:
    fail_at = "config set --path registry-stack:registry.users"

    answer = project("add", "ci", "--role", "push", FAIL_AT=fail_at, FOR_EVER="yes")

    fix = refused(answer, "the disk is full")
    assert "These changes could not be undone: registry.users.ci; passwords.ci" in answer.stderr
    assert "pulumi config rm --path 'registry-stack:passwords.ci'" in fix


def test_the_configuration_may_lie_elsewhere(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    project.file.rename(elsewhere)
    where = ("--config-file", str(elsewhere), "--stack", "test")

    answer = project("add", "ci", "--role", "push", *where)

    password = done(answer).strip()
    assert f"pulumi up --stack test --config-file {elsewhere}" in answer.stderr
    assert done(project("show-login", "ci", "--stdout", *where)).strip() == password
    assert not project.file.exists()
    elsewhere.rename(project.file)


def test_the_environment_can_name_the_configuration_file(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    project.file.rename(elsewhere)
    variables = {"PULUMI_OPTION_CONFIG_FILE": str(elsewhere)}  # as in .local/env

    password = done(project("add", "ci", "--role", "push", **variables)).strip()

    assert done(project("show-login", "ci", "--stdout", **variables)).strip() == password
    assert not project.file.exists()
    elsewhere.rename(project.file)


def test_without_the_cli_the_fix_is_to_install_it(project: Project) -> None:
    assert "install the Pulumi CLI" in refused(project("list", PATH="/nowhere"), "cannot start `pulumi`")
