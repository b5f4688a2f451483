"""Write a report as Markdown for the comment of a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from operations.preview.files import FileChange
from operations.preview.report import Report
from operations.preview.text import SENTENCE, code, counted

#: Characters of the longest comment. GitHub cuts a comment at 65,536 characters.
LONGEST = 60_000
#: Most rows of a list or table, so that files alone decide the length of an ordinary report.
_ROWS = 60
#: Characters of the longest line of a file.
_LINE = 300
#: Characters that remain for the folded parts and for the remark that the report is cut.
_RESERVE = 12_000
#: Characters that remain for the remark that files are too many.
_REMARK = 100
#: Lines of a longer error: the first ones name the resource, and the last ones of a traceback its cause.
_FIRST, _LAST = 20, 40


def markdown(report: Report, first_line: str) -> str:
    """Return the report as Markdown of at most ``LONGEST`` characters; ``first_line`` comes first.

    If the report is longer, the differences of files are cut, and the text says so.
    """
    head = f"{first_line}\n"
    for part in _head(report):
        if len(head) + len(part) > LONGEST - _RESERVE:
            return f"{head}\n… The rest does not fit into a comment. `python -m operations preview` shows all of it.\n"
        head += f"{part}\n"
    tail = "\n".join(_resources(report))
    tail = f"\n{tail}\n" if tail else ""
    if len(head) + len(tail) > LONGEST - _REMARK:
        tail = "\nThe names of the resources do not fit into a comment.\n"
    return head + _files(report.files, LONGEST - len(head) - len(tail)) + tail


def _head(report: Report) -> Iterator[str]:
    """Yield parts that only stand whole: a part that is cut could leave a block of code open."""
    yield f"### Preview of {code(report.stack)}"
    yield f"\n**{report.headline}**"
    if report.note:
        yield f"\n{report.note}"
    if report.attention:
        yield "\n#### ⚠️ Attention\n"
        yield from _limited([f"- {text}" for text in report.attention])
    if report.problems:
        yield ""
        yield from _limited(
            [
                f"- **{code(problem.key)}**\n  - found: {code(problem.found, SENTENCE)}\n"
                f"  - allowed: {code(problem.allowed, SENTENCE)}\n"
                + "\n".join(
                    f"  - {word}: {code(fix, SENTENCE)}" for word, fix in _fixes(problem.fix, problem.alternatives)
                )
                for problem in report.problems
            ]
        )
    for error in report.errors:
        yield ""
        yield "\n".join(_fenced("text", _shortened(error.splitlines())))
    for section in report.sections:
        yield f"\n#### {section.title}\n"
        yield f"| {section.noun.capitalize()} | Before | After |\n| --- | --- | --- |"
        rows = [(f"{change.subject} {change.part}".strip(), change.before, change.after) for change in section.changes]
        yield from _limited(["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])
    if report.clients:
        yield "\n#### What clients notice\n"
        yield from (f"- {text}" for text in report.clients)


def _fixes(fix: str, alternatives: Sequence[str]) -> list[tuple[str, str]]:
    return [("fix", fix), *(("or", other) for other in alternatives)]


def _limited(rows: Sequence[str]) -> Iterator[str]:
    yield from rows[:_ROWS]
    if len(rows) > _ROWS:
        yield f"\n… and {len(rows) - _ROWS} more."


def _shortened(lines: Sequence[str]) -> list[str]:
    """Cut long lines and leave out lines in the middle, and say so."""
    if len(lines) > _FIRST + _LAST:
        lines = [*lines[:_FIRST], f"… {counted(len(lines) - _FIRST - _LAST, 'line')} left out …", *lines[-_LAST:]]
    return [_cut(line) for line in lines]


def _cut(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[:_LINE]}…"


def _files(files: Sequence[FileChange], space: int) -> str:
    """Return the folded differences, or as many of their lines as fit into ``space`` characters."""
    if not files:
        return ""
    most = max(len(file.lines) for file in files)
    while len(text := _folded(files, most)) > space and most:
        most = most * 3 // 4
    return text if len(text) <= space else f"\n{counted(len(files), 'changed file')}: too many for a comment.\n"


def _folded(files: Sequence[FileChange], most: int) -> str:
    parts = [f"\n<details><summary>Files: {counted(len(files), 'change')}</summary>\n"]
    for file in files:
        lines = [_cut(line) for line in file.lines[:most]]
        parts += [f"{code(file.name, SENTENCE)}: {file.change}\n", *(_fenced("diff", lines) if lines else [])]
        if len(file.lines) > most:
            parts.append(f"\n{len(file.lines) - most} more lines. `pulumi preview --diff` shows all of them.")
        parts += [""] if lines else []
    return "\n".join([*parts, "</details>\n"])


def _resources(report: Report) -> Iterator[str]:
    if not report.resources:
        return
    counts = [f"{len(names)} to {operation}" for operation, names in report.resources.items()]
    yield f"<details><summary>Resources: {', '.join(counts)}, {report.unchanged} unchanged</summary>\n"
    for operation, names in report.resources.items():
        listed = ", ".join(map(code, names[:_ROWS]))
        yield f"- {operation}: {listed}{f' and {len(names) - _ROWS} more' if len(names) > _ROWS else ''}"
    yield "\n</details>"


def _fenced(language: str, lines: Sequence[str]) -> list[str]:
    """Return a block of code with a fence that no line can close."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *lines, fence]
