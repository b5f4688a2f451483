"""Show what uses the registry's disk space: `usage`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from components.configuration.problems import Failure
from operations.console import say, screen, show_table, waiting
from operations.files import replace_file
from operations.history.reading import read_store
from operations.options import ConfigFile, Stack
from operations.retention.gathering import gather
from operations.retention.planner import Question
from operations.stack import Deployed, StackConfig
from operations.usage.forecast import forecast
from operations.usage.growth import Growth, file_of, growth, last_run, remember
from operations.usage.page import page
from operations.usage.presentation import (
    largest,
    oldest,
    oldest_title,
    repositories_table,
    tags_table,
    totals,
    usage_json,
)
from operations.usage.sizes import Usage
from operations.usage.sizes import usage as usage_of

_MOST_TAGS = 10


def usage(
    repository: Annotated[
        str | None,
        typer.Argument(help="Show all tags of this repository. Default: all repositories.", show_default=False),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/usage.md describes the fields.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with plots of all repositories.")
    ] = None,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show the size of all repositories and tags, and their growth since the last run.

    The command reads the registry's data with a throwaway container on the Docker host. The command needs no password.
    With `registry.retention`, the command also asks the hosts of `running_on`, and shows what the rules would free.
    """
    config = StackConfig(stack, config_file)
    deployed = config.deployed()
    registry, now = deployed.registry_url.netloc, datetime.datetime.now(datetime.UTC)
    question = _question(config, deployed)
    with waiting(f"Reading the registry's data on {deployed.docker_host} …"):
        found = usage_of(question.graph.store if question else read_store(config, deployed))
    expected = forecast(question) if question else None
    shown = [one for one in found.repositories if repository in (None, one.name)]
    if repository and not shown:
        fix = config.command("python", "-m", "operations", "usage")
        raise Failure(f"the registry has no repository {repository}", f"to list the repositories, run: {fix}")
    grown = _growth(registry, found, now)
    if html:
        _write(html, page(registry, now, found, grown, expected))
    if as_json:
        typer.echo(json.dumps(usage_json(registry, now, found, shown, grown, expected=expected), indent=2))
        return
    screen.print(f"{registry}: {totals(found, grown, expected)}", markup=False, soft_wrap=True)
    if repository:
        _print("", tags_table(shown[0].tags))
        return
    _print("", repositories_table(shown, grown))
    if any(one.tags for one in shown):
        _print("Tags with most own bytes", tags_table(largest(found, _MOST_TAGS)))
        _print(oldest_title(expected), tags_table(oldest(found, _MOST_TAGS, expected)))


def _question(config: StackConfig, deployed: Deployed) -> Question | None:
    """Return what a plan depends on, None without rules. The sizes are shown without a plan, too."""
    settings = config.retention()
    if settings is None:
        return None
    try:
        return gather(config, deployed, settings)
    except Failure as failure:
        say(f"Note: what the rules would free is unknown: {failure}. `retention plan` shows the fix.")
        return None


def _growth(registry: str, found: Usage, now: datetime.datetime) -> Growth | None:
    """Return the growth since the last run, and remember this run. Without a usable file, the sizes are still shown."""
    try:
        file, last = file_of(registry), None
    except RuntimeError:
        say("Note: the growth is unknown, because this user has no home folder. Name a folder in XDG_STATE_HOME.")
        return None
    try:
        last = last_run(file)
    except (OSError, ValueError) as error:
        say(f"Note: the growth is unknown, because {file} cannot be read: {error}")
    try:
        remember(file, found, now)
    except OSError as error:
        say(f"Note: the next run cannot show the growth, because {file} cannot be written: {error.strerror}")
    return growth(last, found) if last else None


def _write(file: Path, text: str) -> None:
    try:
        replace_file(file, text)
    except OSError as error:
        raise Failure(f"cannot write {file}: {error.strerror}", "use a file in a folder that you own") from None
    say(f"wrote {file}")


def _print(title: str, table: Table) -> None:
    if table.row_count:
        screen.print(f"\n{title}" if title else "", markup=False)
        show_table(table)
