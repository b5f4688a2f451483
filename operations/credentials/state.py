"""Compare a user of the configuration with the user that the last `pulumi up` deployed."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from pydantic import SecretStr

from components.configuration.passwords import fingerprint, is_hash
from components.configuration.settings import UserSettings
from operations.stack import Credentials, DeployedUser

DEPLOYED, EXPIRED = "deployed", "expired"


def password_kind(password: SecretStr | None) -> str:
    """The kind of a password, never the password itself."""
    if password is None:
        return "missing"
    return "bcrypt hash" if is_hash(password) else "set"


def is_expired(user: UserSettings, today: datetime.date) -> bool:
    """Whether the last day of the login is before `today`."""
    return user.expires is not None and user.expires < today


def state(name: str, found: Credentials, deployed: Mapping[str, DeployedUser], today: datetime.date) -> str:
    """Whether a user is deployed as configured; otherwise the difference."""
    user, password = found.users[name], found.passwords.get(name)
    if is_expired(user, today):
        return "expired, still valid" if name in deployed else EXPIRED
    if name not in deployed or password is None:
        return "new"
    now = {"role": user.role, "password": fingerprint(name, password, found.stack_secret)}
    then = {"role": deployed[name].role, "password": deployed[name].fingerprint}
    changes = [key for key, value in now.items() if value != then[key]]
    return f"{' and '.join(changes)} changed" if changes else DEPLOYED
