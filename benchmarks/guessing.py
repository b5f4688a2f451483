"""What who guesses passwords costs the others: pushes beside wrong logins, each of them a real bcrypt check."""

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

#: Wrong logins a second that are wanted, and fewest of which a row still tells something.
RATE, FEWEST = 200, 180
#: They are shared among so many connections, so that one that waits for its answer holds up no other.
CONNECTIONS = 8
#: How many times as long as alone a push may take.
AIM = "1.50"
#: Seconds after which a flood ends whatever happens.
LONGEST = 120
#: Over the same connections all the time, or over a new one each time, as who does not care does it.
FLOODS = {"over kept connections": False, "over a new TLS connection each": True}
QUIET = "quiet"
#: Starts without anything of this process, which has threads and open files.
_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Push:
    """Seconds that one took, and wrong logins a second that were answered meanwhile."""

    seconds: float
    rate: float = 0


@dataclass(frozen=True)
class Guesser:
    """Sends ``request``, a wrong login, again and again to ``port`` of this machine.

    It shares the processors with what is measured, so it does as little as possible and verifies no certificate.
    """

    port: int
    request: bytes
    reconnects: bool

    def flood(self, answered: Synchronized[int], over: Event) -> None:
        """Guess until ``over``, ``RATE`` times a second; ``answered`` counts along."""
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        begin = time.monotonic()

        def guess(number: int) -> None:
            due = begin + number / RATE
            connection: BufferedRWPair | None = None
            try:
                while not over.is_set() and due < begin + LONGEST:
                    time.sleep(max(0.0, due - time.monotonic()))
                    # Who is late does not wait, so that the rate holds on average.
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
    """Pushes by skopeo, alone and during each kind of flood."""
    pushes: dict[str, list[Push]] = defaultdict(list)
    kinds = [QUIET, *FLOODS]
    _push(servers.with_login, folder, "guessing/warm-up")
    for number in counted(rounds, "guessing"):
        for kind in rotated(kinds, number):
            repository = f"guessing/{kinds.index(kind)}/{number}"
            pushes[kind].append(_push(servers.with_login, folder, repository, FLOODS.get(kind)))
    rows = [_row(kind, pushes[QUIET], pushes[kind]) for kind in FLOODS]
    columns = ["", "quiet", "during it", "ratio", "aim", "guesses a second"]
    return Table(f"skopeo push, {TWENTY}, during {RATE} wrong logins a second", columns, rows)


def _row(kind: str, quiet: list[Push], flooded: list[Push]) -> list[str]:
    rates = [push.rate for push in flooded]
    if median(rates) <= FEWEST:
        raise RuntimeError(
            f"wrong logins {kind}: {median(rates):.0f} a second instead of {RATE}, so how much they slow a push is"
            " unknown; try again on a machine without other work"
        )
    alone, beside = [push.seconds for push in quiet], [push.seconds for push in flooded]
    reached = f"{median(rates):.0f} [{min(rates):.0f}–{max(rates):.0f}]"
    return [kind, seconds(alone), seconds(beside), ratio(beside, alone), AIM, reached]


def _push(server: Server, folder: Path, repository: str, reconnects: bool | None = None) -> Push:
    """Push layers that the registry does not know; ``reconnects`` is None where nobody guesses."""
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
    """A guesser in a process of its own for as long as the block runs; yields a count of its answers so far."""
    login = base64.b64encode(f"{USER}:wrong".encode()).decode()
    request = f"GET /v2/ HTTP/1.1\r\nHost: {server.address}\r\nAuthorization: Basic {login}\r\n\r\n".encode()
    guesser = Guesser(int(server.address.rpartition(":")[2]), request, reconnects)
    answered, over = _PROCESSES.Value("L", 0), _PROCESSES.Event()
    process = _PROCESSES.Process(target=guesser.flood, args=(answered, over), daemon=True)
    process.start()
    try:
        # The first second is not like the others: connections are made, a queue builds up.
        while answered.value < RATE and process.is_alive():
            time.sleep(0.05)
        yield lambda: answered.value
    finally:
        over.set()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"the wrong logins to {server.name} broke off; why is said above")


def _connected(trust: ssl.SSLContext, port: int) -> BufferedRWPair:
    """A new TLS connection with a full handshake, as a file."""
    # An address, since the name would be looked up each time and tried over IPv6 first.
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        # The answer to each request is awaited, so there is nothing to gather.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with trust.wrap_socket(plain, server_hostname="localhost") as connection:
            return connection.makefile("rwb")  # closes the connection when it is closed itself


def _read_refusal(connection: BufferedRWPair) -> None:
    """Read one answer, which must be a 401, to its end."""
    status, length = connection.readline(), 0
    while (line := connection.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    connection.read(length)
    if not status.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"a wrong login is answered by {status!r} instead of 401")
