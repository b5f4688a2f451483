"""Print a report on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from operations.preview.report import Report
from operations.preview.text import counted, plain

_COLORS = {"+": "green", "-": "red", "@": "cyan"}


def show(report: Report, screen: Console) -> None:
    """Print all sections; differences of files in the colors of a patch."""
    screen.print(Group(*_parts(report)), soft_wrap=True)


def _parts(report: Report) -> Iterator[RenderableType]:
    yield Text(f"Preview of {report.stack}", style="dim")
    yield Text(report.headline, style="bold")
    if report.note:
        yield Text(report.note)
    if report.attention:
        yield Text("\nAttention", style="bold red")
        yield from (Text(f"  ! {plain(text)}") for text in report.attention)
    yield from (Text(f"\n{each}") for each in (*report.problems, *report.errors))
    yield from _sections(report)
    if report.clients:
        yield Text("\nWhat clients notice", style="bold")
        yield from (Text(f"  {text}") for text in report.clients)
    if report.files:
        yield Text(f"\nFiles: {counted(len(report.files), 'change')}", style="bold")
    for file in report.files:
        yield Text(f"  {file.name}: {file.change}")
        yield from (Text(f"    {line}", style=_COLORS.get(line[:1], "")) for line in file.lines)
    if report.resources:
        counts = [f"{len(names)} to {operation}" for operation, names in report.resources.items()]
        yield Text(f"\nResources: {', '.join(counts)}, {report.unchanged} unchanged", style="bold")
        yield from (Text(f"  {operation}: {', '.join(names)}") for operation, names in report.resources.items())


def _sections(report: Report) -> Iterator[RenderableType]:
    for section in report.sections:
        yield Text(f"\n{section.title}", style="bold")
        columns = [Column(title, overflow="fold") for title in ("", "Before", "After")]
        table = Table(*columns, box=None, pad_edge=False)
        for change in section.changes:
            subject = f"{change.subject} {change.part}".strip()
            table.add_row(*(escape(plain(cell)) for cell in (subject, change.before, change.after)))
        yield table
