"""Choose the login with which a command pushes."""

from __future__ import annotations

import datetime

from pydantic import SecretStr

from components.configuration.passwords import is_hash
from components.configuration.problems import Failure
from components.configuration.settings import ROLES_OF
from operations.credentials.rotation import family, first_name
from operations.credentials.state import DEPLOYED, state
from operations.stack import Credentials, StackConfig


def push_login(config: StackConfig, name: str | None) -> tuple[str, SecretStr]:
    """Return the user ``name`` and the password, or the only user with the role push.

    In a rotation, the newest deployed user of the family counts.

    Raises:
        Failure: if there is no such user, if several users have the role push, or if the password is unknown.
    """
    found = config.read()
    chosen = name or _only(config, found)
    if chosen not in found.users:
        able = [each for each, user in found.users.items() if user.role in ROLES_OF["writer"]]
        raise Failure(f"there is no user {chosen}", f"use --user with one of {', '.join(able) or 'no user'}")
    if (role := found.users[chosen].role) not in ROLES_OF["writer"]:
        raise Failure(f"{chosen} has the role {role} and may not push", "use --user with a user of the role push")
    password = found.passwords.get(chosen)
    if password is None or is_hash(password):
        reason = "stored as a bcrypt hash, and nobody can read a password from a hash" if password else "not set"
        rotate = config.command("python", "-m", "operations", "credentials", "rotate", chosen)
        raise Failure(f"the password of {chosen} is {reason}", f"use --user with another user, or run {rotate}")
    return chosen, password


def _only(config: StackConfig, found: Credentials) -> str:
    pushers = [name for name, user in found.users.items() if user.role == "push"]
    families = {first_name(name): family(first_name(name), pushers) for name in pushers}
    if len(families) == 1:
        (members,) = families.values()
        deployed, today = config.deployed_users(), datetime.datetime.now(datetime.UTC).date()
        valid = [name for name in members if state(name, found, deployed, today) == DEPLOYED]
        return (valid or members)[-1]
    if not families:
        add = config.command("python", "-m", "operations", "credentials", "add", "import", "--role", "push")
        raise Failure("no user has the role push", f"add a user: {add}, and run {config.command('pulumi', 'up')}")
    raise Failure(f"several users have the role push: {', '.join(pushers)}", "choose a user with --user")
