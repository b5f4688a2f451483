"""Measure the cost of TLS and passwords: the same work with the stack and with registries without them."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.docker_client import build, run
from benchmarks.report import Table, counted, ratio, rotated, seconds
from benchmarks.servers import Server, Servers
from tests.harness.clients import DockerCli
from tests.harness.images import random_layer, write_layout

KILOBYTE, MEGABYTE = 1000, 1_000_000
TWENTY = "20 layers of 1 MB"
#: Layers of each image.
IMAGES = {
    TWENTY: [MEGABYTE] * 20,
    "20 layers of 10 kB": [10 * KILOBYTE] * 20,
    "one layer of 300 MB": [300 * MEGABYTE],
}
#: Allowed time through the stack, as a multiple of the time with TLS and without a login.
AIMS = {TWENTY: "1.10", "20 layers of 10 kB": "1.30"}
#: Seconds of each round, by server.
Times = dict[Server, list[float]]


def transfers(servers: Servers, docker: DockerCli, folder: Path, rounds: int) -> Table:
    """Measure single requests, pushes and pulls."""
    rows = [_row("one request, HEAD of a layer", _requests(servers, rounds), servers)]
    for image, sizes in IMAGES.items():
        pushes, pulls = by_skopeo(servers.all(), image, sizes, folder, rounds)
        rows.append(_row(f"skopeo push, {image}", pushes, servers, AIMS.get(image)))
        rows.append(_row(f"skopeo pull, {image}", pulls, servers, AIMS.get(image)))
    pushes, pulls = _by_docker(servers, docker, folder, rounds)
    rows.append(_row(f"docker push, {TWENTY}", pushes, servers, AIMS[TWENTY]))
    rows.append(_row(f"docker pull, {TWENTY}", pulls, servers, AIMS[TWENTY]))
    return Table(
        "Time through the stack", ["", "stack", "ratio to TLS without login", "aim", "ratio to bare registry"], rows
    )


def _row(what: str, times: Times, servers: Servers, aim: str | None = None) -> list[str]:
    stack, without_login, bare = (times[server] for server in servers.all())
    return [what, seconds(stack), ratio(stack, without_login), aim or "—", ratio(stack, bare)]


def _requests(servers: Servers, rounds: int) -> Times:
    times: Times = defaultdict(list)
    for number in counted(rounds, "single requests"):
        for server in servers.order(number):
            times[server].append(server.request(count=50))
    return times


def by_skopeo(
    servers: Sequence[Server], image: str, sizes: Sequence[int], folder: Path, rounds: int
) -> tuple[Times, Times]:
    """Push one image to each server and pull it, in turn. Return the seconds of the pushes and of the pulls."""
    layout = folder / "layout"
    write_layout(layout, [random_layer(size) for size in sizes])
    pushes: Times = defaultdict(list)
    pulls: Times = defaultdict(list)
    for server in servers:
        round_trip(server, layout, f"warm-up/{server.front.name}", folder, sum(sizes))
    for number in counted(rounds, f"skopeo, {image}"):
        for server in rotated(servers, number):
            # Servers may share a store, and skopeo does not send a layer that the repository has. So names are unique.
            repository = f"skopeo-{len(sizes)}x{sizes[0]}/{number}/{server.front.name}"
            pushed, pulled = round_trip(server, layout, repository, folder, sum(sizes))
            pushes[server].append(pushed)
            pulls[server].append(pulled)
    shutil.rmtree(layout)
    return pushes, pulls


def round_trip(server: Server, layout: Path, repository: str, folder: Path, size: int) -> tuple[float, float]:
    """Seconds of a push and of a pull. Fail if fewer than ``size`` bytes moved each time."""
    before = server.client_bytes()
    pushed = server.push(layout, repository)
    between = server.client_bytes()
    pulled = server.pull(repository, folder / "pulled")
    after = server.client_bytes()
    shutil.rmtree(folder / "pulled")
    if min(between - before, after - between) < size:
        raise RuntimeError(f"{server.name}: of {size} bytes, {between - before} were pushed, {after - between} pulled")
    return pushed, pulled


def _by_docker(servers: Servers, docker: DockerCli, folder: Path, rounds: int) -> tuple[Times, Times]:
    pushes: Times = defaultdict(list)
    pulls: Times = defaultdict(list)
    for number in counted(rounds, f"docker, {TWENTY}"):
        order = servers.order(number)
        images = {server: f"{server.address}/docker/{number}:1" for server in order}
        build(docker, folder / "context", images[order[0]], layers=20, layer_size=MEGABYTE, last_size=10 * KILOBYTE)
        shutil.rmtree(folder / "context")
        for server in order[1:]:
            run(docker, "tag", images[order[0]], images[server])
        for server in order:
            os.sync()
            pushes[server].append(run(docker, "push", images[server]))
        run(docker, "rmi", *images.values())
        for server in order:
            os.sync()
            pulls[server].append(run(docker, "pull", images[server]))
            run(docker, "rmi", images[server])
    return pushes, pulls
