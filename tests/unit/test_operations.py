"""What the credential commands decide: successors by name, states and kinds of passwords, Docker's login files."""

from __future__ import annotations

import base64
import datetime
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from components.credentials import fingerprint
from components.settings import UserSettings
from operations.credentials import kind, rotations, state
from operations.docker_config import write_login
from operations.stack_config import Credentials, Refused

PASSWORD, STACK_SECRET = SecretStr("example-only-zq7kx2vw9rj4hbm3-5tgy8nc1"), SecretStr("5" * 64)


def found(**users: Any) -> Credentials:
    return Credentials(
        url=None,
        users={name: UserSettings(**user) for name, user in users.items()},
        passwords=dict.fromkeys(users, PASSWORD),
        mirrors={},
        upstream_passwords={},
        stack_secret=STACK_SECRET,
    )


def test_rotations_are_known_by_the_names_alone() -> None:
    assert rotations(["boss", "ci", "ci.2", "robot.3", "robot.10", "robot.9", "v1.1", "v1"]) == [
        (["ci"], "ci.2"),
        (["robot.3", "robot.9"], "robot.10"),
    ]


def test_the_state_of_a_user_compares_the_configuration_with_what_is_deployed() -> None:
    users = found(ci={"role": "push"})
    mark = fingerprint("ci", PASSWORD, STACK_SECRET)

    assert state("ci", users, {}) == "new"
    assert state("ci", users, {"ci": f"push, password {mark}"}) == "in force"
    assert state("ci", users, {"ci": f"pull, password {mark}"}) == "role changed"
    assert state("ci", users, {"ci": "pull, password 00000000"}) == "role and password changed"


def test_an_expired_user_is_valid_until_the_next_up() -> None:
    users = found(ci={"role": "push", "expires": "2020-01-31"})

    assert users.users["ci"].expires == datetime.date(2020, 1, 31)
    assert state("ci", users, {"ci": "push, password 00000000"}) == "expired, still valid"
    assert state("ci", users, {}) == "expired"


def test_the_kind_of_a_password_says_what_it_costs() -> None:
    assert kind("ci", None) == "missing"
    assert kind("ci", PASSWORD) == "generated, cost 4"
    assert kind("ci", SecretStr("plum-otter-walks-9")) == "chosen, cost 10 (58 ms a request)"
    assert kind("ci", SecretStr("$2y$12$" + "a" * 53)) == "bcrypt hash, cost 12 (232 ms a request)"


def test_a_login_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    write_login(file, "registry.example.com", "ci", PASSWORD)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    auth = json.loads(file.read_text())["auths"]["registry.example.com"]["auth"]
    assert base64.b64decode(auth).decode() == f"ci:{PASSWORD.get_secret_value()}"


def test_in_a_docker_configuration_only_the_entry_is_set(tmp_path: Path) -> None:
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
def test_a_file_that_is_no_docker_configuration_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text(text)

    with pytest.raises(Refused, match="left alone"):
        write_login(file, "registry.example.com", "ci", PASSWORD)

    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "helper", [{"credsStore": "pass"}, {"auths": {}, "credHelpers": {"registry.example.com": "pass"}}]
)
def test_a_login_that_docker_would_not_read_is_not_written(helper: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(helper))

    with pytest.raises(Refused, match="credential helper"):
        write_login(file, "registry.example.com", "ci", PASSWORD)

    assert json.loads(file.read_text()) == helper


def test_a_folder_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be written: No such file"):
        write_login(tmp_path / "no" / "config.json", "registry.example.com", "ci", PASSWORD)
