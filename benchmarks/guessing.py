"""Measure pushes during password guesses. Each wrong login costs a real bcrypt check."""

from __future__ import annotations

import base64
import multiprocessing
import shutil
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRWPair
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

from benchmarks.report import Table, counted, ratio, rotated, seconds
from benchmarks.servers import USER, Server, Servers
from benchmarks.transfers import IMAGES, TWENTY
from tests.harness.images import random_layer, write_layout

#: Target rate of wrong logins per second, and the lowest rate at which a row is meaningful.
RATE, FEWEST = 200, 180
#: Number of connections for the wrong logins, so that a slow answer does not delay other logins.
CONNECTIONS = 8
#: Allowed time of a push during guesses, as a multiple of the time without guesses.
AIM = "1.50"
#: Seconds after which a flood always ends.
LONGEST = 120
#: Guesses reuse their connections, or open a new connection each time, as a careless attacker does.
FLOODS = {"over reused connections": False, "over a new TLS connection per guess": True}
QUIET = "quiet"
#: New processes inherit nothing from this process, which has threads and open files.
_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Push:
    """Duration of a push in seconds, and wrong logins answered per second during the push."""

    seconds: float
    rate: float = 0


@dataclass(frozen=True)
class Guesser:
    """Sends ``request``, a wrong login, repeatedly to ``port`` of this machine.

    The guesser shares the processors with the measured registry. So it does little work and verifies no certificate.
    """

    port: int
    request: bytes
    reconnects: bool

    def flood(self, answered: Synchronized[int], over: Event) -> None:
        """Guess ``RATE`` times per second until ``over``, and count the answers in ``answered``."""
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        begin = time.monotonic()

        def guess(number: int) -> None:
            due = begin + number / RATE
            connection: BufferedRWPair | None = None
            try:
                while not over.is_set() and due < begin + LONGEST:
                    time.sleep(max(0.0, due - time.monotonic()))
                    # A late guess does not wait, so that the average rate is right.
                    due += CONNECTIONS / RATE
                    connection = connection or _connected(trust, self.port)
                    connection.write(self.request)
                    connection.flush()
                    _read_refusal(connection)
                    with answered:
                        answered.value += 1
                    if self.reconnects:
                        connection.close()
                        connection = None
            finally:
                over.set()

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(guess, range(CONNECTIONS)))


def guessing(servers: Servers, folder: Path, rounds: int) -> Table:
    """Measure pushes with skopeo, alone and during each kind of flood."""
    pushes: dict[str, list[Push]] = defaultdict(list)
    kinds = [QUIET, *FLOODS]
    _push(servers.with_login, folder, "guessing/warm-up")
    for number in counted(rounds, "guessing"):
        for kind in rotated(kinds, number):
            repository = f"guessing/{kinds.index(kind)}/{number}"
            pushes[kind].append(_push(servers.with_login, folder, repository, FLOODS.get(kind)))
    rows = [_row(kind, pushes[QUIET], pushes[kind]) for kind in FLOODS]
    columns = ["", "without guesses", "during guesses", "ratio", "aim", "guesses per second"]
    return Table(f"skopeo push, {TWENTY}, during {RATE} wrong logins per second", columns, rows)


def _row(kind: str, quiet: list[Push], flooded: list[Push]) -> list[str]:
    rates = [push.rate for push in flooded]
    if median(rates) <= FEWEST:
        raise RuntimeError(
            f"wrong logins {kind}: {median(rates):.0f} per second instead of {RATE}, too few for a measurement;"
            " try again on a machine without other work"
        )
    alone, beside = [push.seconds for push in quiet], [push.seconds for push in flooded]
    reached = f"{median(rates):.0f} [{min(rates):.0f}–{max(rates):.0f}]"
    return [kind, seconds(alone), seconds(beside), ratio(beside, alone), AIM, reached]


def _push(server: Server, folder: Path, repository: str, reconnects: bool | None = None) -> Push:
    """Push layers that the registry does not have. If ``reconnects`` is None, push without guesses."""
    layout = folder / "layout"
    write_layout(layout, [random_layer(size) for size in IMAGES[TWENTY]])
    try:
        if reconnects is None:
            return Push(server.push(layout, repository))
        with _flooded(server, reconnects) as answered:
            before, start = answered(), time.perf_counter()
            taken = server.push(layout, repository)
            return Push(taken, (answered() - before) / (time.perf_counter() - start))
    finally:
        shutil.rmtree(layout)


@contextmanager
def _flooded(server: Server, reconnects: bool) -> Iterator[Callable[[], int]]:
    """Run a guesser in its own process while the block runs. Yield a function that counts the answers so far."""
    login = base64.b64encode(f"{USER}:wrong".encode()).decode()
    request = f"GET /v2/ HTTP/1.1\r\nHost: {server.address}\r\nAuthorization: Basic {login}\r\n\r\n".encode()
    guesser = Guesser(int(server.address.rpartition(":")[2]), request, reconnects)
    answered, over = _PROCESSES.Value("L", 0), _PROCESSES.Event()
    process = _PROCESSES.Process(target=guesser.flood, args=(answered, over), daemon=True)
    process.start()
    try:
        # Skip the first second: connections open and a queue builds up.
        while answered.value < RATE and process.is_alive():
            time.sleep(0.05)
        yield lambda: answered.value
    finally:
        over.set()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"the wrong logins to {server.name} stopped early; see the error above")


def _connected(trust: ssl.SSLContext, port: int) -> BufferedRWPair:
    """A new TLS connection with a full handshake, as a file."""
    # An address avoids a lookup per connection and a first attempt over IPv6.
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        # Each request waits for its answer, so delayed sending has no benefit.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with trust.wrap_socket(plain, server_hostname="localhost") as connection:
            return connection.makefile("rwb")  # closing the file closes the connection


def _read_refusal(connection: BufferedRWPair) -> None:
    """Read one answer to its end. The answer must be a 401."""
    status, length = connection.readline(), 0
    while (line := connection.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    connection.read(length)
    if not status.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"the answer to a wrong login is {status!r} instead of 401")
