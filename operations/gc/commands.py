"""Collect garbage: free the space of blobs that no manifest references."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from components.configuration.naming import mirror_alias
from components.configuration.problems import Failure, redacted
from operations.console import say, waiting
from operations.gc.collection import Limits, collect
from operations.gc.script import throwaway
from operations.gc.status import REGISTRY, Status, now
from operations.gc.writers import check_writers
from operations.options import ConfigFile, Stack
from operations.stack import Deployed, StackConfig
from operations.throwaway import data_of

#: Most seconds that an unfinished push counts. The shell's arithmetic turns much larger numbers into others.
_YEAR = 365 * 86_400


def gc(  # noqa: PLR0917 - Typer gives all options by name
    mirrors: Annotated[
        bool, typer.Option("--mirrors", help="Collect the caches of all mirrors instead. Each mirror stops meanwhile.")
    ] = False,
    wait: Annotated[
        int, typer.Option(min=1, help="Most seconds to wait until no push is under way.", metavar="SECONDS")
    ] = 3600,
    stalled: Annotated[
        int,
        typer.Option(
            min=1, max=_YEAR, help="Seconds after which an unfinished push no longer counts.", metavar="SECONDS"
        ),
    ] = 900,
    pause: Annotated[int, typer.Option(min=1, help="Most seconds for which writing pauses.", metavar="SECONDS")] = 600,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON. docs/garbage-collection.md describes the fields.")
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Free the space of blobs that no manifest references. Pushes and deletes wait meanwhile, and pulls go on.

    The command deletes no tag and no image. If the command is killed, writing goes on within half a minute.
    """
    config, limits = StackConfig(stack, config_file), Limits(stalled=stalled, wait=wait, pause=pause)
    deployed = config.deployed()
    statuses, failures = [], list[Failure]()
    for store, role in _roles(config, mirrors=mirrors).items():
        status = Status(store=store, started=now())
        try:
            status = _collect(config, deployed, role, status, limits)
        except Failure as failure:
            status = status.failed(str(failure))
            failures.append(failure)
        statuses.append(status)
        if not as_json:
            typer.echo(str(status))
    if as_json:
        typer.echo(json.dumps({"stores": [status.as_json() for status in statuses]}, indent=2))
    for part in (part for status in statuses for part in status.missing):
        say(f"missing before the collection: {part}")
    for other in failures[:-1]:
        say(f"{redacted(str(other))}\n  fix: {redacted(other.fix)}")
    if failures:
        raise failures[-1]


def _roles(config: StackConfig, *, mirrors: bool) -> dict[str, str]:
    """Return a service that writes to each store, by the name of the store."""
    if mirrors:
        return {name: mirror_alias(name) for name in sorted(config.deployed_mirrors().upstreams)}
    return {REGISTRY: "writer"}


def _collect(config: StackConfig, deployed: Deployed, role: str, status: Status, limits: Limits) -> Status:
    host, data = deployed.docker_host, data_of(config, deployed, role)
    with waiting(f"{status.store}: starting …") as shown:
        return collect(
            ["docker", "--host", host, *throwaway(data, limits.stalled, checked=status.store == REGISTRY)],
            status,
            limits,
            progress=lambda text: shown.update(f"{status.store}: {text} …"),
            check_writers=lambda: check_writers(config, host, data),
        )
