"""Find the users of a rotation by their names.

A rotation adds `NAME.2` beside `NAME`. The next rotation adds `NAME.3` beside `NAME.2`. The names alone show which
users belong together, so rotations need no stored state.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_SUCCESSOR = re.compile(r"(?P<first>.+)\.(?P<number>[2-9]|[1-9]\d+)")


def is_successor(name: str) -> bool:
    """Whether a rotation would give a user this name."""
    return _SUCCESSOR.fullmatch(name) is not None


def first_name(name: str) -> str:
    """The name without the number of its rotation: `ci` for `ci`, `ci.2` and `ci.3`."""
    match = _SUCCESSOR.fullmatch(name)
    return match["first"] if match else name


def next_name(name: str) -> str:
    """The name that a rotation gives to the successor of `name`."""
    return f"{first_name(name)}.{_number(name) + 1}"


def family(first: str, users: Iterable[str]) -> list[str]:
    """The users with the first name `first`, the newest last."""
    return sorted((name for name in users if first_name(name) == first), key=_number)


def rotations(users: Collection[str]) -> list[tuple[list[str], str]]:
    """The unfinished rotations, as pairs of the older names and the newest name."""
    families = [family(first, users) for first in dict.fromkeys(map(first_name, users))]
    return [(older, newest) for *older, newest in families if older]


def _number(name: str) -> int:
    match = _SUCCESSOR.fullmatch(name)
    return int(match["number"]) if match else 1
