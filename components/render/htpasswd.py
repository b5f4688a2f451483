"""htpasswd files: one for each process of the private registry, with the users of its right."""

from __future__ import annotations

from collections.abc import Mapping

from components.configuration.fields import OPERATIONS_USER
from components.configuration.settings import ROLES_OF, Process, UserSettings


def htpasswd(process: Process, users: Mapping[str, UserSettings], hashes: Mapping[str, str]) -> str:
    """Return lines of ``name:bcrypt`` for the users with the right; the operations user can read and delete.

    ``hashes`` has a hash for each user and for the operations user. The comment line, which distribution skips, keeps
    the file from being empty: the Docker API cannot deliver an empty file.
    """
    names = sorted(name for name, user in users.items() if user.role in ROLES_OF[process])
    if process != "writer":
        names.append(OPERATIONS_USER)
    return "".join([f"# {process}: {', '.join(ROLES_OF[process])}\n", *(f"{name}:{hashes[name]}\n" for name in names)])
