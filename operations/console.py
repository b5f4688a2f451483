"""Output of the commands: results on standard output, notes on standard error."""

from __future__ import annotations

from rich.console import Console

#: For results, such as tables. Prompts, notes and errors go to standard error.
screen = Console(highlight=False, emoji=False)


def say(text: str) -> None:
    """Print a note on standard error. The text may contain any character."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(text, markup=False)
