"""The hidden first line of a preview: it names the stack and says whether the text can go.

`preview` writes the line, and `comment` finds an earlier comment of the same stack by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_.-]+"
_STACK = re.compile(rf"{_NAME}(?:/{_NAME}){{0,2}}")
_MARK = re.compile(rf"<!-- registry-stack preview: stack=({_STACK.pattern}) changes=(yes|no) -->(?=\r?\n|\Z)")


@dataclass(frozen=True)
class Mark:
    """The stack of a preview, and whether the preview has changes, or else something that needs attention."""

    stack: str
    changes: bool


def mark(stack: str, *, changes: bool) -> str:
    """Return the hidden line. A stack name can be fully qualified: ``organization/project/stack``."""
    assert _STACK.fullmatch(stack), "the Pulumi CLI accepts no other names of stacks"
    return f"<!-- registry-stack preview: stack={stack} changes={'yes' if changes else 'no'} -->"


def parse(text: str) -> Mark | None:
    """Read the mark at the very start of a text, so that a text that only quotes a mark has none."""
    found = _MARK.match(text)
    return Mark(found[1], found[2] == "yes") if found else None
