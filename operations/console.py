"""What the commands tell a person, apart from their result on standard output."""

from __future__ import annotations

from rich.console import Console

#: For results, like tables; prompts, notes and errors go to standard error.
screen = Console(highlight=False)


def say(text: str) -> None:
    """Print a note for a person; it may hold any character."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
