"""``python -m benchmarks``: what TLS and passwords cost, and what the registry saves against tarballs.

Nothing is asserted about times; the aims stand beside the numbers. Runs on the engine of DOCKER_HOST and removes all
that it started.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import docker
import typer
from rich.console import Console

from benchmarks import article
from benchmarks.report import Table, megabytes, ratio, seconds
from benchmarks.servers import USER, Server, Servers, memory, running
from tests.engine import clients
from tests.images import random_layer, write_layout

KILOBYTE, MEGABYTE = 1000, 1_000_000
#: Layers of each image, and how much longer the stack may take than TLS without login.
IMAGES = {
    "20 layers of 1 MB": ([MEGABYTE] * 20, "1.10"),
    "20 layers of 10 kB": ([10 * KILOBYTE] * 20, "1.30"),
    "one layer of 300 MB": ([300 * MEGABYTE], "—"),
}
progress = Console(stderr=True)


def main(rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 7) -> None:
    """Measure and print the tables, at the end as Markdown."""
    api = clients.engine()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        progress.print("starting the stack and what it is compared with")
        with running(api, folder) as servers:
            at_rest = memory(api)
            tables = [_transfers(servers, folder, rounds), _deliveries(servers, folder, rounds)]
            tables.append(_memory(at_rest, memory(api)))
    conditions = _conditions(api, rounds)
    terminal = Console()
    terminal.print(conditions)
    for table in tables:
        terminal.print(table.for_terminal())
    typer.echo("\n\n".join([conditions, *(table.as_markdown() for table in tables)]))


def _transfers(servers: Servers, folder: Path, rounds: int) -> Table:
    """Push and pull by skopeo."""
    compared = [servers.with_login, servers.without_login, servers.bare]
    rows: list[list[str]] = []
    for image, (sizes, aim) in IMAGES.items():
        layout = folder / "layout"
        write_layout(layout, [random_layer(size) for size in sizes])
        pushes: dict[Server, list[float]] = {server: [] for server in compared}
        pulls: dict[Server, list[float]] = {server: [] for server in compared}
        for server in compared:
            _transfer(server, layout, f"warm-up/{len(rows)}", folder, sum(sizes))
        for number, server in _interleaved(compared, rounds, f"push and pull, {image}"):
            pushed, pulled = _transfer(server, layout, f"image-{len(rows)}/round-{number}", folder, sum(sizes))
            pushes[server].append(pushed)
            pulls[server].append(pulled)
        shutil.rmtree(layout)
        for verb, times in (("push", pushes), ("pull", pulls)):
            stack, open_, bare = (times[server] for server in compared)
            rows.append([f"{verb}, {image}", seconds(stack), ratio(stack, open_), aim, ratio(stack, bare)])
    columns = ["", "stack", "to TLS without login", "aim", "to a bare registry"]
    return Table("skopeo through the stack, as a ratio to others", columns, rows)


def _transfer(server: Server, layout: Path, repository: str, folder: Path, size: int) -> tuple[float, float]:
    """Seconds of a push to a new repository and of a pull from it; that the bytes really moved is made sure of."""
    before = server.client_bytes()
    pushed = server.push(layout, repository)
    between = server.client_bytes()
    pulled = server.pull(repository, folder / "pulled")
    after = server.client_bytes()
    shutil.rmtree(folder / "pulled")
    if min(between - before, after - between) < size:
        raise RuntimeError(f"{server.name}: of {size} bytes, {between - before} were pushed, {after - between} pulled")
    return pushed, pulled


def _deliveries(servers: Servers, folder: Path, rounds: int) -> Table:
    """The article's way against push and pull by docker."""
    (folder / "docker").mkdir()
    cli = clients.DockerCli(folder / "docker")
    login = cli.login(servers.stack, USER)
    if login.returncode:
        raise RuntimeError(f"docker login: {login.stderr.strip()}")
    new = "new image, 20 layers of 1 MB"
    rebuilt = "rebuilt image, 10 kB beside 20 layers of 5 MB changed"
    rows = [
        _compared(new, _new_images(cli, servers.stack.registry, folder), servers.with_login, cli, folder, rounds),
        _compared(
            rebuilt, _rebuilt_images(cli, servers.stack.registry, folder), servers.with_login, cli, folder, rounds
        ),
    ]
    columns = ["", "save, copy, load", "push, pull", "ratio", "tarball", "moved by push, pull", "share"]
    return Table("docker with tarballs, copied on one disk, and through the stack", columns, rows)


def _compared(
    title: str, images: Generator[str], server: Server, cli: clients.DockerCli, folder: Path, rounds: int
) -> list[str]:
    tarballs, registry = [], []
    for number in range(rounds):
        progress.print(f"tarball and registry, {title}: {number + 1} of {rounds}")
        image = next(images)
        # Who is first changes, since the second finds warm caches.
        if number % 2:
            registry.append(article.by_registry(cli, image, server))
        tarballs.append(article.by_tarball(cli, image, folder))
        if not number % 2:
            registry.append(article.by_registry(cli, image, server))
        cli("rmi", image)
    images.close()
    slow, fast = [one.seconds for one in tarballs], [one.seconds for one in registry]
    whole, moved = [one.moved for one in tarballs], [one.moved for one in registry]
    share = median(one / other for one, other in zip(moved, whole, strict=True))
    return [title, seconds(slow), seconds(fast), ratio(fast, slow), megabytes(whole), megabytes(moved), f"{share:.2%}"]


def _new_images(cli: clients.DockerCli, registry: str, folder: Path) -> Generator[str]:
    """Images that no engine and no registry has seen, since docker does not send a layer again that it sent before."""
    number = 0
    while True:
        image, context = f"{registry}/new/round-{number}:1", folder / "context"
        article.build(cli, context, image, layers=20, layer_size=MEGABYTE, last_size=10 * KILOBYTE)
        shutil.rmtree(context)
        yield image
        number += 1


def _rebuilt_images(cli: clients.DockerCli, registry: str, folder: Path) -> Generator[str]:
    """Versions of one image that differ in its last layer; the server and the registry have the one before."""
    context, first = folder / "application", f"{registry}/application:0"
    sizes = {"layers": 20, "layer_size": 5 * MEGABYTE, "last_size": 10 * KILOBYTE}
    article.build(cli, context, first, **sizes)
    pushed = cli("push", first)
    if pushed.returncode:
        raise RuntimeError(f"docker push {first}: {pushed.stderr.strip()}")
    number = 0
    try:
        while True:
            number += 1
            article.build(cli, context, f"{registry}/application:{number}", **sizes)
            yield f"{registry}/application:{number}"
    finally:
        cli("rmi", first)


def _interleaved(servers: Sequence[Server], rounds: int, what: str) -> Iterator[tuple[int, Server]]:
    """A B C, B C A, C A B, …: what disturbs for a while disturbs all, and nobody is always first."""
    for number in range(rounds):
        progress.print(f"{what}: {number + 1} of {rounds}")
        first = number % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            yield number, server


def _memory(at_rest: dict[str, float], afterwards: dict[str, float]) -> Table:
    """Of the stack and, to compare, of the bare registry."""
    roles = [role for role in at_rest if not role.startswith("open-")]
    rows = [[role, f"{at_rest[role]:.0f} MB", f"{afterwards[role]:.0f} MB"] for role in roles]
    return Table("Memory", ["container", "at rest", "after the benchmark"], rows)


def _conditions(api: docker.DockerClient, rounds: int) -> str:
    skopeo = clients.run("skopeo", "--version").stdout.split()[2]
    return (
        f"{os.cpu_count()} CPUs, Docker Engine {api.version()['Version']}, skopeo {skopeo}, clients and engine on one"
        f" machine, medians of {rounds} interleaved rounds the extremes in brackets."
    )


if __name__ == "__main__":
    typer.run(main)
