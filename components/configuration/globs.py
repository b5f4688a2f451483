"""Globs over whole names: ``*`` stands for any text, also with slashes, and ``?`` for one character."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import cache

#: Stands for every character that no pattern names.
_OTHER = "\0"
#: Most pairs of sets that a comparison looks at. Patterns such as ``*a????????????????????`` have a million.
_MOST = 5_000


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    # fnmatch never goes back behind a star: otherwise *-*-*-*-*-*x and a tag of 128 dashes would take seconds, and two
    # stars more an hour. A bracket, its third special character, is in no tag and in no repository.
    return re.compile(fnmatch.translate(pattern))


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether a pattern matches the whole name."""
    return any(_expression(pattern).fullmatch(name) for pattern in patterns)


def covers(patterns: Sequence[str], pattern: str) -> bool:
    """Whether ``patterns`` together match every name that ``pattern`` matches; False if that takes too long to tell."""
    if len(patterns) > 1 and any(covers([one], pattern) for one in patterns):
        return True
    alphabet = {*"".join([*patterns, pattern]), _OTHER} - {"*", "?"}
    start = _reached(pattern, {0}), frozenset((one, at) for one in patterns for at in _reached(one, {0}))
    states, seen = [start], {start}
    for narrow, wide in states:  # grows by every pair of sets that a name can reach
        if len(states) > _MOST or (len(pattern) in narrow and not any(at == len(one) for one, at in wide)):
            return False
        for character in alphabet:
            step = (
                _after(pattern, narrow, character),
                frozenset(
                    (one, at)
                    for one in patterns
                    for at in _after(one, {at for other, at in wide if other == one}, character)
                ),
            )
            if step[0] and step not in seen:
                seen.add(step)
                states.append(step)
    return True


def _after(pattern: str, places: Iterable[int], character: str) -> frozenset[int]:
    """Return the places in the pattern after one more character."""
    here = [at for at in places if at < len(pattern)]
    passed = {at + 1 for at in here if pattern[at] in ("?", character)}
    return _reached(pattern, {*passed, *(at for at in here if pattern[at] == "*")})


def _reached(pattern: str, places: Iterable[int]) -> frozenset[int]:
    """Return the places with those that follow because a ``*`` may stand for nothing."""
    found = set(places)
    for at in list(found):
        while at < len(pattern) and pattern[at] == "*":
            at += 1  # noqa: PLW2901
            found.add(at)
    return frozenset(found)
