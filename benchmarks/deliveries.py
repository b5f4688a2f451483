"""Compare two ways to deliver images to a server: tarballs, and push and pull."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.docker_client import build, run
from benchmarks.report import Table, counted, megabytes, percent, ratio, seconds
from benchmarks.servers import Server, Servers
from benchmarks.transfers import KILOBYTE, MEGABYTE
from tests.harness.clients import DockerCli

LAST_LAYER = 10 * KILOBYTE


@dataclass(frozen=True)
class Delivery:
    """Cost of a delivery: seconds without the removal in between, and bytes that would cross the network."""

    seconds: float
    moved: int


def deliveries(servers: Servers, docker: DockerCli, folder: Path, rounds: int) -> Table:
    """Measure images that are new to the server, and rebuilt images of which the server has an earlier version."""
    registry, context = servers.stack.registry, folder / "context"
    new = _new_images(docker, registry, context, rounds)
    rebuilt = _rebuilt_images(docker, registry, context, rounds)
    rows = [
        _row("new image, 20 layers of 1 MB", new, docker, servers.with_login, folder),
        _row(
            "rebuilt image, 1 changed layer of 10 kB, 20 unchanged of 5 MB", rebuilt, docker, servers.with_login, folder
        ),
    ]
    columns = ["", "save, copy, load", "push, pull", "ratio", "tarball", "moved by push and pull", "share"]
    return Table("Tarballs (copied on one disk) compared with push and pull through the stack", columns, rows)


def _row(what: str, images: Iterator[str], docker: DockerCli, server: Server, folder: Path) -> list[str]:
    tarballs, registry = [], []
    for number, image in enumerate(images):
        # The order alternates, because the second way finds warm caches.
        if number % 2:
            registry.append(_by_registry(docker, image, server))
        tarballs.append(_by_tarball(docker, image, folder))
        if not number % 2:
            registry.append(_by_registry(docker, image, server))
        run(docker, "rmi", image)
    slow, fast = [one.seconds for one in tarballs], [one.seconds for one in registry]
    whole, moved = [one.moved for one in tarballs], [one.moved for one in registry]
    share = median(one / other for one, other in zip(moved, whole, strict=True))
    return [what, seconds(slow), seconds(fast), ratio(fast, slow), megabytes(whole), megabytes(moved), percent(share)]


def _new_images(docker: DockerCli, registry: str, context: Path, rounds: int) -> Iterator[str]:
    """Images with new content: docker does not send a layer to the same registry twice."""
    for number in counted(rounds, "deliveries, new image"):
        image = f"{registry}/new/{number}:1"
        build(docker, context, image, layers=20, layer_size=MEGABYTE, last_size=LAST_LAYER)
        shutil.rmtree(context)
        yield image


def _rebuilt_images(docker: DockerCli, registry: str, context: Path, rounds: int) -> Iterator[str]:
    """Versions that differ in the last layer. The first version is in the registry and stays on the server."""
    first = f"{registry}/application:first"
    build(docker, context, first, layers=20, layer_size=5 * MEGABYTE, last_size=LAST_LAYER)
    run(docker, "push", first)
    for number in counted(rounds, "deliveries, rebuilt image"):
        image = f"{registry}/application:{number}"
        build(docker, context, image, layers=20, layer_size=5 * MEGABYTE, last_size=LAST_LAYER)
        yield image
    shutil.rmtree(context)
    run(docker, "rmi", first)


def _by_tarball(docker: DockerCli, image: str, folder: Path) -> Delivery:
    """Run ``docker save``, copy the file (here to the same disk), run ``docker load``."""
    saved, arrived = folder / "saved.tar", folder / "arrived.tar"
    os.sync()
    duration = run(docker, "save", "--output", str(saved), image)
    start = time.perf_counter()
    shutil.copyfile(saved, arrived)
    duration += time.perf_counter() - start
    run(docker, "rmi", image)
    duration += run(docker, "load", "--input", str(arrived))
    moved = saved.stat().st_size
    saved.unlink()
    arrived.unlink()
    return Delivery(duration, moved)


def _by_registry(docker: DockerCli, image: str, server: Server) -> Delivery:
    """Run ``docker push`` and ``docker pull``, and count the bytes of both."""
    os.sync()
    before = server.client_bytes()
    duration = run(docker, "push", image)
    run(docker, "rmi", image)
    duration += run(docker, "pull", image)
    return Delivery(duration, server.client_bytes() - before)
