"""Tables of measurements, for a terminal and as Markdown for docs/measurements.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

Anything = TypeVar("Anything")


@dataclass(frozen=True)
class Table:
    """A heading, the columns' names and the rows' cells; the first column is text, the others are numbers."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def for_terminal(self) -> RichTable:
        """The table for a terminal, with lines."""
        table = RichTable(title=self.heading, box=box.SIMPLE_HEAD, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in row))
        return table

    def as_markdown(self) -> str:
        """The heading on its own line, then the table as Markdown."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join([f"{self.heading}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def ratio(values: Sequence[float], references: Sequence[float]) -> str:
    """The median of the paired ratios, with the minimum and the maximum."""
    ratios = [value / reference for value, reference in zip(values, references, strict=True)]
    return f"{median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]"


def seconds(values: Sequence[float]) -> str:
    """The median of durations."""
    middle = median(values)
    return f"{middle:.2f} s" if middle >= 0.01 else f"{middle * 1000:.1f} ms"


def megabytes(values: Sequence[float]) -> str:
    """The median of bytes, in millions."""
    middle = median(values) / 1e6
    return f"{middle:.1f} MB" if middle >= 10 else f"{middle:.2f} MB"


def speed(values: Sequence[float]) -> str:
    """The median of bytes per second, in millions."""
    return f"{median(values) / 1e6:.0f} MB/s"


def percent(share: float) -> str:
    """A fraction as a percentage with two significant digits."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.2%}"


def progress(words: str) -> None:
    """Print a progress message on standard error. Only the tables go to standard output."""
    print(words, file=sys.stderr, flush=True)


def counted(rounds: int, what: str) -> Iterator[int]:
    """The numbers of the rounds. Print a progress message for each round."""
    for number in range(rounds):
        progress(f"{what}: round {number + 1} of {rounds}")
        yield number


def rotated(things: Sequence[Anything], number: int) -> list[Anything]:
    """The order in a round: A B C, B C A, C A B, …, so that no thing is always first."""
    first = number % len(things)
    return [*things[first:], *things[:first]]
