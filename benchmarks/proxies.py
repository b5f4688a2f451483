"""Measure the cost of the proxies: the same uploads and downloads with each proxy and without a proxy."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import httpx
from docker.models.containers import Container

from benchmarks import curl
from benchmarks.containers import ANYONE, memory
from benchmarks.curl import Transfer
from benchmarks.fronts import Front, Fronts
from benchmarks.report import Table, counted, ratio, rotated, speed
from tests.harness.certificates import authority

#: Bytes of each upload and of each download, divided among the connections. Each connection transfers one blob.
TOTAL = 256_000_000
CONNECTIONS = (1, 8, 32)
UPLOAD, DOWNLOAD = "upload", "download"
#: Seconds between two readings of a proxy's memory.
LOOK = 0.2
#: Bytes per second of each round, by direction, connections and front.
Speeds = dict[tuple[str, int, Front], list[float]]
#: Peak memory of each container in megabytes.
Peaks = dict[Front, float]


def proxies(fronts: Fronts, folder: Path, rounds: int) -> list[Table]:
    """Measure throughput of uploads and downloads, its ratios, and the peak memory of the proxies."""
    speeds: Speeds = defaultdict(list)
    peaks: Peaks = defaultdict(float)
    certificate = folder / "authority.crt"
    certificate.write_text(authority().pair()["certificate"])
    for front in fronts.all():
        _round_trip(front, 1, folder, peaks)
    for number in counted(rounds, "proxies"):
        for connections in CONNECTIONS:
            for front in rotated(fronts.all(), number):
                up, down = _round_trip(front, connections, folder, peaks)
                speeds[UPLOAD, connections, front].append(TOTAL / up)
                speeds[DOWNLOAD, connections, front].append(TOTAL / down)
    return [_throughput(fronts, speeds, peaks), _comparison(fronts, speeds)]


def _throughput(fronts: Fronts, speeds: Speeds, peaks: Peaks) -> Table:
    rows = [[what, *(speed(speeds[*key, front]) for front in fronts.all())] for what, key in _rows()]
    rows.append(["peak memory of the container", *(f"{peaks[front]:.0f} MB" for front in fronts.all())])
    numbers = ", ".join(map(str, CONNECTIONS))
    heading = f"Throughput of {TOTAL / 1e6:.0f} MB over {numbers} connections, one blob per connection"
    return Table(heading, ["", *(front.name for front in fronts.all())], rows)


def _comparison(fronts: Fronts, speeds: Speeds) -> Table:
    rows = []
    for what, key in _rows():
        bare, caddy, nginx, recipe = (speeds[*key, front] for front in fronts.all())
        pairs = [(caddy, bare), (nginx, bare), (recipe, bare), (caddy, recipe), (nginx, recipe)]
        rows.append([what, *(ratio(one, other) for one, other in pairs)])
    columns = ["", "Caddy to bare", "nginx to bare", "recipe to bare", "Caddy to recipe", "nginx to recipe"]
    return Table("The same throughput as ratios, above 1 is faster", columns, rows)


def _rows() -> list[tuple[str, tuple[str, int]]]:
    return [
        (f"{direction} × {connections}", (direction, connections))
        for direction in (UPLOAD, DOWNLOAD)
        for connections in CONNECTIONS
    ]


def _round_trip(front: Front, connections: int, folder: Path, peaks: Peaks) -> tuple[float, float]:
    """Upload and download new blobs, then remove them. Return the seconds of the uploads and of the downloads."""
    certificate, repository, size = folder / "authority.crt", "proxies/blobs", TOTAL // connections
    up, down = [], []
    # These requests are not timed, so they need no verified certificate.
    with httpx.Client(auth=ANYONE, verify=False) as client:
        for number in range(connections):
            # A registry accepts a known blob faster, so each blob is new.
            source, content = folder / f"blob-{number}", os.urandom(size)
            source.write_bytes(content)
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            url = httpx.URL(front.begin_upload(client, repository)).copy_merge_params({"digest": digest})
            up.append(Transfer(str(url), size, source))
            down.append(Transfer(f"{front.origin}/v2/{repository}/blobs/{digest}", size))
    seconds = []
    for transfers, status in ((up, 201), (down, 200)):
        # Pending disk writes would slow the transfers.
        os.sync()
        work = partial(curl.run, transfers, status=status, authority=certificate)
        taken, most = _watched(front.container, work)
        seconds.append(taken)
        peaks[front] = max(peaks[front], most)
    front.empty()
    return seconds[0], seconds[1]


def _watched(container: Container, work: Callable[[], float]) -> tuple[float, float]:
    """The result of ``work``, and the peak memory of the container in megabytes during ``work``."""
    with ThreadPoolExecutor(1) as thread:
        result, most = thread.submit(work), 0.0
        while not result.done():
            most = max(most, memory(container))
            wait([result], timeout=LOOK)
    return result.result(), most
