"""Users and their passwords, mirrors and their logins at an upstream."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
from components.configuration.settings import KNOWN_UPSTREAMS

_ALLOWED_PASSWORD = (
    f"a generated password, or one that 10^{math.log10(GUESSES):.0f} tries do not find, of at most"
    f" {LONGEST_PASSWORD_BYTES} bytes; or a bcrypt hash alone, of cost {COST}"
)


def _user_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.passwords
    if draft.users is None:
        return
    if draft.registry is not None and not draft.users:
        yield Problem(
            "registry.users",
            "nobody",
            "at least one user, since without one nobody can push or pull",
            set_command("registry.users.ci.role", "push"),
        )
    for user in draft.users:
        if draft.is_unreadable("passwords", user):
            continue
        if user not in passwords:
            yield Problem(
                path("passwords", user),
                "nothing, although registry.users names the user",
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
            "a password of a user that registry.users does not name",
            "passwords of the users in registry.users",
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
                f"the URL of its API; it is known without for {', '.join(KNOWN_UPSTREAMS)}",
                set_command(path("mirrors", name, "upstream"), f"https://{name}"),
            )
        has_password = name in passwords or draft.is_unreadable("upstream_passwords", name)
        if mirror.username is not None and not has_password:
            yield Problem(
                path("upstream_passwords", name),
                f"nothing, although {path('mirrors', name)} has a username",
                "the password or access token of that login, here from the file token.txt",
                new_secret_command("upstream_passwords", name),
            )
        if mirror.username is not None and (mirror.upstream or "").startswith("http://"):
            yield Problem(
                path("mirrors", name, "upstream"),
                f"{mirror.upstream}, with a login",
                "an https:// URL: over http:// everybody on the way reads the login",
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
                "a password without a mirror that has a username",
                "passwords of mirrors with a username",
                *((add, (remove,)) if name in draft.mirrors else (remove,)),
            )


RULES = (_user_problems, _upstream_problems)
