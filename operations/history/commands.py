"""Show the record of versions, and print the line that goes back to an earlier version."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.filesize import decimal
from rich.table import Table

from components.configuration.fields import DockerHost
from components.configuration.problems import Failure
from operations.console import say, screen, show_table, waiting
from operations.history.content import size_of_all
from operations.history.presentation import (
    repositories_json,
    repositories_table,
    shortened,
    sources,
    versions_json,
    versions_table,
)
from operations.history.reading import read_store
from operations.history.record import Tag, repositories, tags
from operations.history.running import Container, containers
from operations.history.store import Store
from operations.options import ConfigFile, Stack
from operations.stack import Deployed, StackConfig, fault

_TOOL = ("python", "-m", "operations")


def _docker_hosts(values: list[str] | None) -> list[str]:
    try:
        return list(dict.fromkeys(TypeAdapter(list[DockerHost]).validate_python(values or [])))
    except ValidationError as error:
        raise typer.BadParameter(f"use {fault(error)}") from None


def history(
    repository: Annotated[
        str | None, typer.Argument(help="Name of a repository, like my-app/backend. Default: all.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/history.md describes the fields.")] = False,
    running_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            callback=_docker_hosts,
            help="Show the containers of this Docker host, like ssh://deploy@web-1. You can repeat this option.",
            show_default=False,
        ),
    ] = None,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show all repositories, or all tags of one repository with the versions that each tag had before.

    The command reads the registry's data with a throwaway container on the Docker host. The command needs no password.
    """
    if running_on and repository is None:
        raise typer.BadParameter("name the repository whose versions may run there", param_hint="--running-on")
    config = StackConfig(stack, config_file)
    deployed = config.deployed()
    registry = deployed.registry_url.netloc
    store = _store(config, deployed, repository)
    if repository is None:
        every = repositories(store)
        title = f"{registry}: {_count(len(every), 'repository', 'repositories')}"
        _print(as_json, repositories_json(registry, every), title, repositories_table(every))
        return
    _check_repository(config, store, repository)
    hosts = running_on or []
    found = tags(store, repository, _containers(hosts))
    size = size_of_all(store, repository)
    source = sources(found)
    title = f"{repository} at {registry}: {_count(len(found), 'tag', 'tags')}, {decimal(size)}"
    title += f"\nSource: {source}" if source else ""
    _print(as_json, versions_json(registry, repository, size, hosts, found), title, versions_table(found))


def rollback_line(
    repository: Annotated[str, typer.Argument(help="Name of the repository.", show_default=False)],
    tag: Annotated[str, typer.Argument(help="Name of the tag.", show_default=False)],
    back: Annotated[
        int,
        typer.Option(
            min=0, help="How many versions to go back, as in the column Back of `history`. 0 pins the current."
        ),
    ] = 1,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Print the image line, pinned by digest, with which a Compose file goes back to an earlier version of a tag."""
    config = StackConfig(stack, config_file)
    deployed = config.deployed()
    store = _store(config, deployed, repository)
    _check_repository(config, store, repository)
    found = {one.name: one for one in tags(store, repository)}
    if tag not in found:
        similar = [config.command(*_TOOL, "rollback-line", repository, name) for name in _similar(tag, found)]
        every = config.command(*_TOOL, "history", repository)
        raise Failure(f"{repository} has no tag {tag}", _choice(similar, f"to list the tags, run: {every}"))
    _check_back(config, repository, found[tag], back)
    version = found[tag].versions[back]
    pushed = f"{version.pushed:%Y-%m-%d %H:%M:%S} UTC"
    say(f"{repository}:{tag} {'pointed' if back else 'points'} to this digest. Last push of the digest: {pushed}.")
    if version.missing:
        lacks = _count(len(version.missing), "part", "parts")
        say(f"Note: the registry lacks {lacks} of this image. The pull of a platform may fail.")
    typer.echo(f"image: {deployed.registry_url.netloc}/{repository}:{tag}@{version.digest}")


def _store(config: StackConfig, deployed: Deployed, repository: str | None) -> Store:
    with waiting(f"Reading the registry's data on {deployed.docker_host} …"):
        return read_store(config, deployed, repository)


def _containers(hosts: Iterable[str]) -> list[Container]:
    found = []
    for host in hosts:
        with waiting(f"Reading the containers on {host} …"):
            found += containers(host)
    return found


def _check_repository(config: StackConfig, store: Store, repository: str) -> None:
    if repository not in store.repositories:
        similar = [config.command(*_TOOL, "history", name) for name in _similar(repository, store.repositories)]
        every = config.command(*_TOOL, "history")
        raise Failure(
            f"the registry has no repository {repository}", _choice(similar, f"to list the repositories, run: {every}")
        )


def _check_back(config: StackConfig, repository: str, tag: Tag, back: int) -> None:
    """Refuse a version that does not exist, or that the registry cannot deliver."""
    possible = [number for number, version in enumerate(tag.versions) if version.can_be_pulled]
    nearest = min((number for number in possible if number), key=lambda number: abs(number - back), default=None)
    fix = f"to see the versions of all tags, run: {config.command(*_TOOL, 'history', repository)}"
    if nearest is not None:
        other = config.command(*_TOOL, "rollback-line", repository, tag.name, "--back", str(nearest))
        fix = f"{other} goes back to another version; {fix}"
    if back >= len(tag.versions):
        earlier = len(tag.versions) - 1
        raise Failure(
            f"{repository}:{tag.name} has {_count(earlier, 'earlier version', 'earlier versions')}, not {back}", fix
        )
    if back not in possible:
        version = tag.versions[back]
        name = shortened(version.digest) if version.digest else "the version with a damaged link"
        reason = "deleted" if version.state == "deleted" else "damaged or missing"
        raise Failure(
            f"{name} of {repository}:{tag.name} cannot be pulled: its manifest is {reason} in the registry", fix
        )


def _similar(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


def _choice(similar: Sequence[str], otherwise: str) -> str:
    return "; ".join(["did you mean: " + " or ".join(similar), otherwise] if similar else [otherwise])


def _count(number: int, one: str, more: str) -> str:
    return f"{number or 'no'} {one if number == 1 else more}"


def _print(as_json: bool, value: dict[str, Any], title: str, table: Table) -> None:
    if as_json:
        typer.echo(json.dumps(value, indent=2))
        return
    screen.print(title, markup=False, soft_wrap=True)
    if table.row_count:
        screen.print()
        show_table(table)
