"""``python -m benchmarks``: the cost of TLS, passwords, mirrors and updates, and the savings by the registry.

No time makes the command fail; the tables show the aims beside the numbers. The command uses the engine of DOCKER_HOST
and removes all containers that it started.
"""

from __future__ import annotations

import os
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import docker
import typer
from rich.console import Console

from benchmarks import alone, fronts, mirrors, servers
from benchmarks.collecting import collections
from benchmarks.deliveries import deliveries
from benchmarks.docker_client import logged_in
from benchmarks.guessing import guessing
from benchmarks.planning import planning
from benchmarks.proxies import proxies
from benchmarks.report import Table, progress
from benchmarks.transfers import transfers
from benchmarks.updates import idle, updates
from tests.harness import clients


class Part(StrEnum):
    """A part that can be measured alone."""

    STACK = "stack"
    ALTERNATIVES = "alternatives"
    PROXIES = "proxies"
    MIRRORS = "mirrors"
    UPDATES = "updates"
    COLLECTIONS = "collections"
    IDLE = "idle"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds for each measurement.")] = 7,
    only: Annotated[Part | None, typer.Option(help="Measure only this part.")] = None,
    idle_minutes: Annotated[float, typer.Option(min=0.1, help="Minutes to observe an idle stack.")] = 10,
) -> None:
    """Measure, then print the tables for the terminal and as Markdown."""
    api = clients.engine()
    tables = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        if only in (None, Part.STACK):
            tables += _stack(api, Path(name), rounds)
        if only in (None, Part.ALTERNATIVES):
            tables.append(_alternatives(api, Path(name), rounds))
        if only in (None, Part.PROXIES):
            tables += _proxies(api, Path(name), rounds)
        if only in (None, Part.MIRRORS):
            tables += _mirrors(api, Path(name), rounds)
        if only in (None, Part.UPDATES):
            tables.append(updates(api, Path(name), rounds))
        if only in (None, Part.COLLECTIONS):
            tables.append(planning(api, Path(name), rounds))
            tables.append(collections(Path(name), rounds))
        if only in (None, Part.IDLE):
            tables.append(idle(api, Path(name), idle_minutes))
    conditions = _conditions(api, rounds)
    terminal = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        terminal.print(table.for_terminal())
    typer.echo("\n\n".join([conditions, *(table.as_markdown() for table in tables)]))


def _stack(api: docker.DockerClient, folder: Path, rounds: int) -> list[Table]:
    progress("starting the stack and the registries to compare")
    with servers.running(api, folder) as started:
        at_rest = servers.memory_by_role(api)
        command = logged_in(started, folder / "docker")
        return [
            transfers(started, command, folder, rounds),
            deliveries(started, command, folder, rounds),
            guessing(started, folder, rounds),
            _memory(at_rest, servers.memory_by_role(api)),
        ]


def _alternatives(api: docker.DockerClient, folder: Path, rounds: int) -> Table:
    progress("starting the stack with each proxy, and the registries to compare")
    with alone.running(api, folder) as started:
        return alone.alternatives(started, folder, rounds)


def _proxies(api: docker.DockerClient, folder: Path, rounds: int) -> list[Table]:
    progress("starting the proxies")
    with fronts.running(api) as started:
        return proxies(started, folder, rounds)


def _mirrors(api: docker.DockerClient, folder: Path, rounds: int) -> list[Table]:
    progress("starting a mirror, its upstream, and the servers to compare")
    with mirrors.running(api, folder) as started:
        return mirrors.mirrors(started, folder, rounds)


def _memory(at_rest: dict[str, float], afterwards: dict[str, float]) -> Table:
    """Memory of the stack and, for comparison, of the bare registry."""
    roles = [role for role in at_rest if not role.startswith("open-")]
    rows = [[role, f"{at_rest[role]:.0f} MB", f"{afterwards[role]:.0f} MB"] for role in roles]
    return Table("Memory without page cache", ["container", "at rest", "after the measurements"], rows)


def _conditions(api: docker.DockerClient, rounds: int) -> str:
    skopeo = clients.run("skopeo", "--version").stdout.split()[2]
    curl = clients.run("curl", "--version").stdout.split()[1]
    return (
        f"{os.cpu_count()} CPUs, Docker Engine {api.version()['Version']}, skopeo {skopeo}, curl {curl}, clients and"
        f" engine on one machine; medians of {rounds} interleaved rounds, the extremes in brackets."
    )


if __name__ == "__main__":
    typer.run(main)
