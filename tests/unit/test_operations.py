"""The credential commands without the CLI: rotations, user states, Docker config files, errors."""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from components.configuration.passwords import fingerprint
from components.configuration.problems import Failure
from components.configuration.settings import Role, UserSettings
from operations.__main__ import command_line, main
from operations.credentials.docker_config import write_login
from operations.credentials.rotation import family, rotations
from operations.credentials.state import password_kind, state
from operations.stack import Change, Credentials, DeployedUser, StackConfig
from tests.harness.configuration import configuration, example_password

PASSWORD, STACK_SECRET = SecretStr("example-only-zq7kx2vw9rj4hbm3-5tgy8nc1"), SecretStr("5" * 64)


TODAY = datetime.date(2026, 11, 29)
DEPLOYED = {"ci": {"role": "push", "fingerprint": "00000000"}}


def deployed(role: Role, fingerprint: str) -> dict[str, DeployedUser]:
    return {"ci": DeployedUser(role=role, fingerprint=fingerprint)}


def found(**users: Any) -> Credentials:
    return Credentials(
        url=None,
        users={name: UserSettings(**user) for name, user in users.items()},
        passwords=dict.fromkeys(users, PASSWORD),
        mirrors={},
        upstream_passwords={},
        stack_secret=STACK_SECRET,
    )


def test_rotations_are_found_by_user_names() -> None:
    assert rotations(["boss", "ci", "ci.2", "robot.3", "robot.10", "robot.9", "v1.1", "v1"]) == [
        (["ci"], "ci.2"),
        (["robot.3", "robot.9"], "robot.10"),
    ]


def test_user_state_compares_configuration_with_deployed_users() -> None:
    users = found(ci={"role": "push"})
    mark = fingerprint("ci", PASSWORD, STACK_SECRET)

    assert state("ci", users, {}, TODAY) == "new"
    assert state("ci", users, deployed("push", mark), TODAY) == "deployed"
    assert state("ci", users, deployed("pull", mark), TODAY) == "role changed"
    assert state("ci", users, deployed("pull", "00000000"), TODAY) == "role and password changed"


def test_expired_user_stays_valid_until_the_next_up() -> None:
    users = found(ci={"role": "push", "expires": "2020-01-31"})

    assert users.users["ci"].expires == datetime.date(2020, 1, 31)
    assert state("ci", users, deployed("push", "00000000"), TODAY) == "expired, still valid"
    assert state("ci", users, {}, TODAY) == "expired"


def test_users_output_of_another_version_gives_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refusal(monkeypatch, Cli(configuration(), {"ci": "push, password 00000000"}), "list")

    assert "another version" in str(refused)
    assert refused.fix == "pulumi up"


@pytest.mark.parametrize("arguments", [("show-login", "ci.2"), ("rotate", "ci.2", "--in-place"), ("retire", "ci.2")])
def test_a_successor_that_does_not_exist_does_not_select_the_user(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    refused = refusal(monkeypatch, Cli(ALONE, {}), *arguments)

    assert "there is no user ci.2" in str(refused)
    assert refused.fix == "did you mean ci"


def test_the_name_of_a_retired_user_selects_the_newest_successor() -> None:
    assert family("ci", ["ci.10", "boss", "ci.9"]) == ["ci.9", "ci.10"]
    assert family("ci.9", ["ci.10", "boss", "ci.9"]) == []


def test_password_kind_does_not_show_the_password() -> None:
    assert password_kind(None) == "missing"
    assert password_kind(PASSWORD) == "set"
    assert password_kind(SecretStr("$2y$05$" + "a" * 53)) == "bcrypt hash"


def test_login_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    write_login(file, "registry.example.com", "ci", PASSWORD)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    auth = json.loads(file.read_text())["auths"]["registry.example.com"]["auth"]
    assert base64.b64decode(auth).decode() == f"ci:{PASSWORD.get_secret_value()}"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_output_path_that_is_not_a_regular_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    target = tmp_path / "config.json"
    make(target)

    with pytest.raises(Failure, match="is not a regular file"):
        write_login(target, "registry.example.com", "ci", PASSWORD)


def test_existing_docker_config_keeps_its_other_entries_and_its_link(tmp_path: Path) -> None:
    real, file = tmp_path / "real.json", tmp_path / "config.json"
    real.write_text(json.dumps({"auths": {"other": {"auth": "x"}, "registry:5443": {"auth": "old"}}, "proxies": {}}))
    real.chmod(0o644)
    file.symlink_to(real)

    write_login(file, "registry:5443", "ci", PASSWORD)

    written = json.loads(real.read_text())
    assert file.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert written["auths"]["other"] == {"auth": "x"}
    assert written["auths"]["registry:5443"]["auth"] != "old"
    assert written["proxies"] == {}


@pytest.mark.parametrize("text", ["text", "[]", '{"auths": []}', '{"name": "something else"}'])
def test_file_that_is_not_a_docker_config_is_not_changed(text: str, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text(text)

    with pytest.raises(Failure, match="nothing was written"):
        write_login(file, "registry.example.com", "ci", PASSWORD)

    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "helper", [{"credsStore": "pass"}, {"auths": {}, "credHelpers": {"registry.example.com": "pass"}}]
)
def test_login_is_not_written_to_a_file_with_a_credential_helper(helper: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(helper))

    with pytest.raises(Failure, match="credential helper"):
        write_login(file, "registry.example.com", "ci", PASSWORD)

    assert json.loads(file.read_text()) == helper


def test_missing_output_folder_gives_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot write .*: No such file"):
        write_login(tmp_path / "no" / "config.json", "registry.example.com", "ci", PASSWORD)


class Cli:
    """A fake Pulumi CLI with a configuration and deployed users. Calls whose arguments contain ``fails`` fail."""

    def __init__(self, values: dict[str, Any], deployed: Mapping[str, object], fails: str = "never") -> None:
        self.values, self.deployed, self.fails = values, deployed, fails

    def run(self, *arguments: str, stdin: str = "") -> str:
        if self.fails in " ".join(arguments):
            raise Failure("the disk is full", "make room")
        if arguments[0] == "stack":
            return json.dumps({"users": self.deployed})
        return json.dumps({f"registry-stack:{key}": {"value": value} for key, value in self.values.items()})


def refusal(monkeypatch: pytest.MonkeyPatch, cli: Cli, *arguments: str) -> Failure:
    monkeypatch.setattr(StackConfig, "_run", cli.run)
    answer = CliRunner().invoke(command_line(["credentials"]), ["credentials", *arguments])
    assert isinstance(answer.exception, Failure), answer.output
    return answer.exception


EXPIRED = configuration(registry=configuration()["registry"] | {"users": {"ci": {"expires": "2020-01-31"}}})
ROTATED = configuration(
    registry=configuration()["registry"] | {"users": {"ci": {"role": "push"}, "ci.2": {"role": "push"}}},
    passwords={"ci": example_password("ci"), "ci.2": example_password("other")},
)
ALONE = configuration(registry=configuration()["registry"] | {"users": {"ci": {"role": "push"}}})
HASHED = configuration(passwords={"boss": "$2y$05$" + "a" * 53})
WITHOUT_URL = configuration(registry={"users": {"ci": {}}}, passwords={"ci": example_password("ci")})
BROKEN = configuration(registry=configuration()["registry"] | {"users": {"ci": {"role": "pusher"}}})


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        (ROTATED, ("add", "ci.3", "--role", "push")),
        (ROTATED, ("add", "ci", "--role", "push")),
        (ROTATED, ("rotate", "ci")),
        (ROTATED, ("retire", "ci")),
        (EXPIRED, ("rotate", "ci")),
        (ALONE, ("retire", "ci")),
        (configuration(), ("retire", "boss")),
        (HASHED, ("show-login", "boss")),
        (WITHOUT_URL, ("show-login", "ci")),
        (configuration(), ("show-login", "boss", "--output", "/nowhere/config.json")),
        (BROKEN, ("list",)),
    ],
)
def test_every_command_in_a_fix_has_the_given_stack_and_config_file(
    values: dict[str, Any], arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--stack", "prod", "--config-file", "/etc/two words.yaml")

    fix = refusal(monkeypatch, Cli(values, DEPLOYED), *arguments, *where).fix

    commands = re.findall(r"(?:pulumi (?:config|up|preview)|python -m operations).*?(?=;| &&| \||: |$)", fix)
    assert commands
    for command in commands:
        assert "--stack prod --config-file '/etc/two words.yaml'" in command


def test_failed_change_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refusal(monkeypatch, Cli(ROTATED, {}, fails="config set"), "add", "new", "--role", "push")

    assert "The configuration is unchanged" in str(refused)
    assert refused.fix == "make room"


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (
            Change(("registry", "users", "ci"), {"role": "push", "expires": "2099-01-31"}, None),
            (
                "pulumi config set {} --path 'registry-stack:registry.users.ci.role' push"
                " && pulumi config set {} --path 'registry-stack:registry.users.ci.expires' 2099-01-31"
            ),
        ),
        (
            Change(("passwords", "ci"), PASSWORD, None),
            "pulumi config set {} --secret --path 'registry-stack:passwords.ci', and enter the old value",
        ),
    ],
)
def test_failed_undo_prints_commands_that_restore_the_old_values(
    change: Change, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StackConfig, "_run", Cli({}, {}, fails="config").run)

    with pytest.raises(Failure) as caught:
        StackConfig("prod", Path("/etc/prod.yaml")).change(change)

    assert caught.value.fix == fix.replace("{}", "--stack prod --config-file /etc/prod.yaml")
    assert PASSWORD.get_secret_value() not in str(caught.value) + caught.value.fix


def test_error_does_not_show_the_login_in_a_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise Failure("`pulumi config` failed: https://robot:token@ghcr.io", "ask https://robot:token@ghcr.io")

    monkeypatch.setattr(StackConfig, "_run", fail)
    monkeypatch.setattr("sys.argv", ["operations", "credentials", "list"])

    with pytest.raises(SystemExit) as ended:
        main()

    printed = "".join(capsys.readouterr())
    assert ended.value.code == 1
    assert "`pulumi config` failed" in printed
    assert "token" not in printed


def test_error_does_not_show_an_invalid_mirror_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mirrors = {"https://robot:token@ghcr.io": {"url": "https://ghcr.example.com"}}

    refused = refusal(monkeypatch, Cli(configuration(mirrors=mirrors), {}), "list")

    assert 'mirrors["…"]' in str(refused)
    assert "token" not in str(refused) + refused.fix
