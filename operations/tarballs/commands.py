"""Import tarballs of images into the registry: `import`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.status import Status
from rich.table import Table
from rich.text import Text

from operations.console import say, show_table, waiting
from operations.credentials.login import push_login
from operations.options import ConfigFile, Stack
from operations.stack import StackConfig
from operations.tarballs.importing import Outcome, run
from operations.tarballs.naming import Templates
from operations.tarballs.plan import Tarball, files, in_order, read
from operations.tarballs.presentation import plan_json, plan_table, printable, result_json, summary, table
from operations.tarballs.registry import Registry
from operations.tarballs.transfer import Transfer
from operations.trust import trust_in


def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="Tarballs of `docker save`, OCI archives, or folders of them.", show_default=False
        ),
    ],
    *,
    repository: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="Name of the repository, such as app or old/{repository}.")
    ] = Templates.repository,
    tag: Annotated[str, typer.Option(metavar="TEMPLATE", help="Tag, such as {date} or {tag}-{date}.")] = Templates.tag,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            # The backslash keeps Rich from reading the brackets as markup.
            help=r"Named groups of the file name that templates use, such as '(?P<app>\[a-z]+)-v.*'.",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="User who pushes. Default: the only user with the role push.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Move tags that point to an image of none of the tarballs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the tarballs in their order, with dates and tags.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/import.md describes the fields.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Import tarballs of images into the registry, oldest first.

    The date of a tarball is the first date in its file name, or the time of its last change. Templates may contain
    {repository} and {tag} of the image in the tarball, {date}, {time}, {file}, and the groups of --pattern. To continue
    after an interruption, run the same command again. The exit status is 1 if a tarball failed.
    """
    templates = Templates(repository, tag, _pattern(pattern))
    config = StackConfig(stack, config_file)
    deployed = config.deployed()
    name = deployed.registry_url.netloc
    found = files(paths)
    with waiting("") as status:
        tarballs = in_order(_read(found, templates, status))
    if dry_run:
        _print(plan_json(name, tarballs) if as_json else plan_table(tarballs))
        raise typer.Exit(any(one.problem for one in tarballs))
    trust, login = trust_in(deployed.ca_certificate, config), push_login(config, user)
    with Registry(str(deployed.registry_url), trust, login) as registry, waiting("") as status:
        shown = _Progress(len(tarballs), status)
        transfer = Transfer(registry, shown.add)
        outcomes: list[Outcome] = []
        try:
            for outcome in run(tarballs, registry, transfer, overwrite=overwrite, began=shown.begin):
                outcomes.append(outcome)
                shown.end(outcome)
        finally:
            status.stop()
            _print(result_json(name, outcomes, transfer.sent) if as_json else table(outcomes))
            say(summary(outcomes, transfer.sent))
    raise typer.Exit(any(one.state == "failed" for one in outcomes))


class _Progress:
    """Shows which tarball is being imported, on standard error."""

    def __init__(self, number: int, status: Status) -> None:
        self._number, self._status = number, status
        self._place, self._bytes, self._current = 0, 0, ""

    def begin(self, tarball: Tarball) -> None:
        """Show the next tarball."""
        self._place += 1
        self._current = f"{self._place} of {self._number}: {printable(tarball.file.name)}"
        self.add(0)

    def add(self, size: int) -> None:
        """Add bytes that were read."""
        self._bytes += size
        self._status.update(Text(f"{self._current}, {decimal(self._bytes)} read so far"))

    def end(self, outcome: Outcome) -> None:
        """Print the result of a tarball."""
        say(f"{self._current}: {outcome.state}" + (f", {printable(outcome.problem)}" if outcome.problem else ""))


def _read(found: list[Path], templates: Templates, status: Status) -> list[Tarball]:
    tarballs = []
    for place, file in enumerate(found, 1):
        status.update(Text(f"Reading {place} of {len(found)}: {printable(file.name)} …"))
        tarballs.append(read(file, templates))
    return tarballs


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text is not None else None
    except re.error as error:
        raise typer.BadParameter(f"no regular expression: {error}", param_hint="--pattern") from None


def _print(value: dict[str, Any] | Table) -> None:
    if isinstance(value, dict):
        typer.echo(json.dumps(value, indent=2))
        return
    show_table(value)
