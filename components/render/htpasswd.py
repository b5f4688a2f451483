"""htpasswd files: one for each process of the private registry, with the users who may do what it does."""

from __future__ import annotations

from collections.abc import Mapping

from components.configuration.fields import OPERATIONS_USER
from components.configuration.settings import ROLES_OF, Process, UserSettings


def htpasswd(process: Process, users: Mapping[str, UserSettings], hashes: Mapping[str, str]) -> str:
    """Lines of ``name:bcrypt`` for those who hold the right; the operations user reads and deletes.

    ``hashes`` holds a hash for each user and for the operations user. The comment keeps the file from being empty,
    which the Docker API cannot deliver; distribution skips it.
    """
    names = sorted(name for name, user in users.items() if user.role in ROLES_OF[process])
    if process != "writer":
        names.append(OPERATIONS_USER)
    return "".join([f"# {process}: {', '.join(ROLES_OF[process])}\n", *(f"{name}:{hashes[name]}\n" for name in names)])
