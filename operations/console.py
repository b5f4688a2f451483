"""Output of the commands: results on standard output, notes on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

#: For results, such as tables. Prompts, notes and errors go to standard error.
screen = Console(highlight=False, emoji=False)
#: Columns of a table that no terminal shows.
_UNLIMITED = 10_000


def show_table(table: Table) -> None:
    """Print a table. In a file or a pipe, a row is one line, so that a search finds whole texts."""
    wide = screen if screen.is_terminal else Console(width=_UNLIMITED, highlight=False, emoji=False)
    wide.print(table)


def say(text: str) -> None:
    """Print a note on standard error. The text may contain any character."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(text, markup=False)


def waiting(text: str) -> Status:
    """Show a text on standard error while a block runs, if standard error is a terminal."""
    return Console(stderr=True, highlight=False, emoji=False).status(Text(text))
