"""Sentences that are safe in Markdown and readable on a terminal: values stand in code spans."""

from __future__ import annotations

import re

#: Characters of a value that a sentence shows. Longer values are cut.
_LONGEST = 160
#: Characters of a command or of a sentence of the program, which a reader needs whole.
SENTENCE = 1000


def code(value: object, longest: int = _LONGEST) -> str:
    """Return a value as a code span: on one line, cut, and with a fence that the value cannot close.

    In a code span, forges read no mark-up, no HTML and no mention of a person.
    """
    text = "".join(character if character.isprintable() else " " for character in str(value)).strip()
    if len(text) > longest:
        text = f"{text[:longest]}…"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text or ' '}{space}{fence}"


def plain(text: str) -> str:
    """Return a sentence without the marks of bold words. A code span, such as the glob ``team/**``, stays as it is."""
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)|\*\*", lambda found: found[0] if found[1] else "", text)


def joined(phrases: list[str]) -> str:
    """Join phrases to ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 user``, ``2 users``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
