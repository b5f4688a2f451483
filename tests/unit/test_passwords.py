"""Hashes are deterministic, accepted by bcrypt, and cost the same for everybody."""

from __future__ import annotations

import secrets

import bcrypt
import pytest
from pydantic import SecretStr

from components.configuration import passwords
from components.configuration.settings import UserSettings
from components.render.htpasswd import htpasswd

STACK_SECRET = SecretStr("5" * 64)


def test_a_hash_fits_its_password_and_is_the_same_each_time() -> None:
    for text in ("x7Rq2 with spaces and $ign: ünïcode", secrets.token_urlsafe(32), "/" + "+=" * 20):
        hashed = passwords.hash_password("ci", SecretStr(text), STACK_SECRET)

        assert bcrypt.checkpw(text.encode(), hashed.encode())
        assert hashed == passwords.hash_password("ci", SecretStr(text), STACK_SECRET)


def test_salts_differ_between_users_and_between_stacks() -> None:
    password = SecretStr(secrets.token_urlsafe(32))
    hashes = {
        passwords.hash_password(user, password, SecretStr(stack)) for user in ("ci", "web") for stack in ("a", "b")
    }

    assert len({hashed[7:29] for hashed in hashes}) == 4


@pytest.mark.parametrize("text", [secrets.token_urlsafe(32), secrets.token_hex(16), "quiet Tuesday marmalade"])
def test_every_hash_costs_what_the_registry_spends_on_an_unknown_name(text: str) -> None:
    password = SecretStr(text)

    assert passwords.weakness("boss", password) is None
    assert passwords.hash_password("boss", password, STACK_SECRET).startswith("$2b$05$")


def test_a_ready_hash_is_taken_as_it_is() -> None:
    ready = SecretStr(bcrypt.hashpw(b"from the article", bcrypt.gensalt(5)).decode().replace("$2b$", "$2y$"))

    assert passwords.weakness("woodpecker", ready) is None
    assert passwords.hash_password("woodpecker", ready, STACK_SECRET) == ready.get_secret_value()


def test_derived_values_differ_by_use_and_by_stack() -> None:
    other = SecretStr("6" * 64)
    values = {
        passwords.http_secret(STACK_SECRET),
        passwords.http_secret(other),
        passwords.operations_password(STACK_SECRET).get_secret_value(),
        passwords.operations_password(other).get_secret_value(),
    }

    assert len(values) == 4
    assert STACK_SECRET.get_secret_value() not in values


def test_a_user_stands_only_in_the_files_of_the_rights_it_holds() -> None:
    users = {"p": UserSettings(role="pull"), "w": UserSettings(role="push"), "a": UserSettings(role="admin")}
    hashes = dict.fromkeys([*users, "operations"], "HASH")

    names = {
        process: [line.split(":")[0] for line in htpasswd(process, users, hashes).splitlines()[1:]]
        for process in ("reader", "writer", "admin")
    }

    assert names == {"reader": ["a", "p", "w", "operations"], "writer": ["a", "w"], "admin": ["a", "operations"]}
