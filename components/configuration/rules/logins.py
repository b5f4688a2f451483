"""Rules for users and their passwords, and for the upstream logins of mirrors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from components.configuration.fields import UserName
from components.configuration.passwords import COST, GUESSES, LONGEST_PASSWORD_BYTES, holds_hash, weakness
from components.configuration.problems import (
    Problem,
    extract_hash_command,
    new_secret_command,
    path,
    remove_command,
    set_command,
)
from components.configuration.rules.draft import Draft
from components.configuration.settings import KNOWN_UPSTREAMS, REAL_UPSTREAMS

_ALLOWED_PASSWORD = (
    f"a generated password, a password of at most {LONGEST_PASSWORD_BYTES} bytes that withstands"
    f" 10^{math.log10(GUESSES):.0f} guesses, or a plain bcrypt hash of cost {COST}"
)


def _user_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.passwords
    if draft.users is None:
        return
    if draft.registry is not None and not draft.users:
        yield Problem(
            "registry.users",
            "no users",
            "at least one user: without users, nobody can push or pull",
            set_command("registry.users.ci.role", "push"),
        )
    for user in draft.users:
        if draft.is_unreadable("passwords", user):
            continue
        if user not in passwords:
            yield Problem(
                path("passwords", user),
                "no password, although registry.users has this user",
                _ALLOWED_PASSWORD,
                new_secret_command("passwords", user),
            )
        elif fault := weakness(user, passwords[user]):
            generated = new_secret_command("passwords", user)
            extracted = extract_hash_command("passwords", user) if holds_hash(passwords[user]) else None
            yield Problem(
                path("passwords", user),
                f"a password that {fault}",
                _ALLOWED_PASSWORD,
                extracted or generated,
                (generated,) if extracted else (),
            )
    for user in sorted(passwords.keys() - draft.users.keys()):
        remove = remove_command("passwords", user)
        add = set_command(path("registry", "users", user, "role"), "pull")
        yield Problem(
            path("passwords", user),
            "a password for a user that is not in registry.users",
            "passwords only for the users in registry.users",
            *((add, (remove,)) if _is_user_name(user) else (remove,)),
        )


def _is_user_name(name: str) -> bool:
    try:
        TypeAdapter(UserName).validate_python(name)
    except ValidationError:
        return False
    return True


def _upstream_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.upstream_passwords
    for name, mirror in draft.mirrors.items():
        if mirror.upstream is None and name not in KNOWN_UPSTREAMS:
            yield Problem(
                path("mirrors", name, "upstream"),
                "nothing",
                f"the API URL of the upstream; you can omit the URL for {', '.join(KNOWN_UPSTREAMS)}",
                set_command(path("mirrors", name, "upstream"), f"https://{name}"),
            )
        has_password = name in passwords or draft.is_unreadable("upstream_passwords", name)
        if mirror.username is not None and not has_password:
            yield Problem(
                path("upstream_passwords", name),
                f"no password, although {path('mirrors', name)} has a username",
                "the password or access token of this login. The fix reads the file token.txt",
                new_secret_command("upstream_passwords", name),
            )
        if real := REAL_UPSTREAMS.get(urlsplit(mirror.upstream or "").hostname or ""):
            yield Problem(
                path("mirrors", name, "upstream"),
                f"{mirror.upstream}, whose images and tokens come from {real}",
                f"{real}: a mirror gets tokens only from the domain of its upstream, else every pull ends in 404",
                set_command(path("mirrors", name, "upstream"), real),
            )
        elif mirror.username is not None and (mirror.upstream or "").startswith("http://"):
            yield Problem(
                path("mirrors", name, "upstream"),
                f"{mirror.upstream}, with a login",
                "an https:// URL: http:// sends the login unencrypted",
                set_command(
                    path("mirrors", name, "upstream"), f"https://{str(mirror.upstream).removeprefix('http://')}"
                ),
            )
    for name in passwords:
        is_used = name in draft.mirrors and draft.mirrors[name].username is not None
        if not is_used and not draft.is_unreadable("mirrors", name):
            remove = remove_command("upstream_passwords", name)
            add = set_command(path("mirrors", name, "username"), "robot")
            yield Problem(
                path("upstream_passwords", name),
                "an unused password: no mirror of this name has a username",
                "passwords only for mirrors with a username",
                *((add, (remove,)) if name in draft.mirrors else (remove,)),
            )


RULES = (_user_problems, _upstream_problems)
