"""Show for each mirror whether clients reach it and use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from components.configuration.naming import mirror_alias
from operations.console import say, screen, waiting
from operations.mirrors.presentation import errors, mirrors_json, mirrors_table
from operations.mirrors.reading import Mirror, read_mirrors
from operations.options import ConfigFile, Stack
from operations.stack import Deployed, DeployedMirrors, StackConfig

#: Columns of a table that no terminal shows: its rows stay whole, for grep.
_UNLIMITED = 10_000


def mirrors(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/mirrors.md describes the fields.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show for each mirror: its state, requests, hits, bytes, cache and last error.

    The exit status is 1 if a mirror is not reachable. The command asks the containers on the Docker host and sends
    nothing to an upstream.
    """
    config = StackConfig(stack, config_file)
    deployed, mirrors = config.deployed(), config.deployed_mirrors()
    containers = _containers(deployed, mirrors)
    with waiting(f"Asking the mirrors on {deployed.docker_host} …"):
        answers = read_mirrors(deployed.docker_host, list(containers.values()))
    found = dict(zip(containers, answers, strict=True))
    urls = {name: str(url) for name in mirrors.upstreams if (url := mirrors.address(name))}
    if as_json:
        typer.echo(json.dumps(mirrors_json(deployed.docker_host, urls, found), indent=2))
    else:
        _print(found)
    _explain(config, deployed.docker_host, found)
    if not all(mirror.reachable for mirror in found.values()):
        raise typer.Exit(1)


def _containers(deployed: Deployed, mirrors: DeployedMirrors) -> dict[str, str]:
    """Return the container of each mirror by the name of the upstream."""
    names = {mirror_alias(name): name for name in mirrors.upstreams}
    return {names[role]: container for role, container in deployed.services.items() if role in names}


def _print(found: Mapping[str, Mirror]) -> None:
    if not found:
        screen.print("The stack has no mirrors.")
        return
    screen.print(mirrors_table(found), width=None if screen.is_terminal else _UNLIMITED, crop=False)
    for line in errors(found):
        screen.print(line, markup=False, soft_wrap=True)


def _explain(config: StackConfig, host: str, found: Mapping[str, Mirror]) -> None:
    """Say for each mirror without an answer or without counters what to do."""
    for name, mirror in found.items():
        if mirror.state == "missing":
            restore = config.command("pulumi", "up", "--refresh")
            say(f"{name}: the container {mirror.container} is missing\n  fix: {restore}")
        elif not mirror.reachable:
            why = "does not answer" if mirror.state == "healthy" else f"is {mirror.state}"
            logs = f"docker --host {host} logs --tail 50 {mirror.container}"
            say(f"{name}: the mirror {why}\n  to see the reason, run: {logs}")
        elif mirror.usage is None:
            up = config.command("pulumi", "up")
            say(f"{name}: an older version of the program started this mirror, without counters\n  fix: {up}")
