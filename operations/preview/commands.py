"""Show the meaning of `pulumi preview`: on a terminal, as Markdown for a pull request, as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from components.configuration.problems import Failure
from operations.comment.mark import mark
from operations.console import screen, waiting
from operations.files import replace_file
from operations.options import ConfigFile, Stack
from operations.preview.events import read_events
from operations.preview.markdown import markdown
from operations.preview.report import Report, report
from operations.preview.terminal import show
from operations.stack import StackConfig


def preview(  # noqa: PLR0917 - Typer passes every option by its name
    stack: Stack = None,
    config_file: ConfigFile = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the Docker host for the current state first, and report drift.")
    ] = False,
    expect_no_changes: Annotated[
        bool, typer.Option("--expect-no-changes", help="Exit with status 1 if anything would change or has drifted.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write Markdown for a comment to this file.", dir_okay=False)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON to this file.", dir_okay=False)
    ] = None,
) -> None:
    """Show what an `up` would change, what clients notice, and what needs attention.

    Exit status 1: the configuration is refused, or the preview failed. The files are written in both cases.
    """
    config = StackConfig(stack, config_file)
    with waiting("running pulumi preview …"):
        events = read_events(config.preview(refresh=refresh))
    found = report(events)
    if not found.stack:  # a program that failed at once has no event that names the stack
        found = replace(found, stack=config.name())
    if output:
        _write(output, markdown(found, mark(found.stack, changes=not found.is_empty)))
    if json_file:
        _write(json_file, json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n")
    show(found, screen)
    if found.is_refused or (expect_no_changes and found.has_changes):
        raise typer.Exit(1)


def as_json(found: Report) -> dict[str, Any]:
    """Return the report as plain values; docs/pull-requests.md describes the form."""
    return {
        "version": 1,
        "stack": found.stack,
        "changes": found.has_changes,
        "refused": found.is_refused,
        "headline": found.headline,
        "note": found.note,
        "attention": list(found.attention),
        "problems": [
            {"key": one.key, "found": one.found, "allowed": one.allowed, "fix": [one.fix, *one.alternatives]}
            for one in found.problems
        ],
        "errors": list(found.errors),
        "sections": {
            section.title: [
                {"subject": change.subject, "part": change.part, "before": change.before, "after": change.after}
                for change in section.changes
            ]
            for section in found.sections
        },
        "clients": list(found.clients),
        "files": [{"name": file.name, "change": file.change, "lines": list(file.lines)} for file in found.files],
        "resources": {operation: list(names) for operation, names in (found.resources or {}).items()},
        "unchanged": found.unchanged,
    }


def _write(file: Path, text: str) -> None:
    try:
        replace_file(file, text)
    except OSError as error:
        fix = "choose a file in a folder that exists and that you may write to"
        raise Failure(f"cannot write {file}: {error.strerror}", fix) from None
