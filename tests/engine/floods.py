"""Attacks by hundreds of connections, and the clients beside them that must not notice."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker

from local.steps import HOME
from tests.engine.attacks import basic, http1
from tests.engine.transfers import MEGABYTE, sampled
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import MIRROR_PORT, PREFIX, PUBLIC_PORT, REGISTRY_PORT, UPSTREAM_PORT
from tests.harness.stack import Stack

#: How long an attack lasts, in seconds.
LONG = 60
#: As many connections must have been made; on a busy machine, this may take longer.
ENOUGH = 200
#: Connections, for the memory that containers have by default: of those that send half of a body, and to each host of
#: those that do not read what they asked for. The first ended Caddy, the second the process that reads.
BODIES, READERS = 900, 325
#: TCP_ESTABLISHED, the first byte of Linux' ``struct tcp_info``.
ESTABLISHED = 1
#: Bytes that fill every buffer on their way to a client that does not read.
LARGE = 12 * MEGABYTE


def fill(stack: Stack, folder: Path) -> str:
    """Push what the attacks and the others ask for, to the registry and to the mirror's upstream.

    Returns:
        The path of the large layer, at every host.
    """
    for name, size in (("image", MEGABYTE), ("large", LARGE)):
        write_layout(folder / name, [random_layer(size)])
        mirrored = f"docker://localhost:{UPSTREAM_PORT}/flood/{name}:1"
        skopeo = clients.Skopeo(stack, folder, "ci")
        for copied in (
            skopeo.push(folder / name, f"flood/{name}:1"),
            skopeo.copy(f"oci:{folder / name}", mirrored, "--dest-tls-verify=false"),
        ):
            assert copied.returncode == 0, copied.stderr
    blobs = (folder / "large" / "blobs" / "sha256").iterdir()
    return f"/v2/flood/large/blobs/sha256:{max(blobs, key=lambda blob: blob.stat().st_size).name}"


class Flood:
    """``count`` connections to one port, each of which sends ``request`` and neither goes on nor reads an answer.

    One that the other side has closed is opened again.
    """

    def __init__(
        self, trust: ssl.SSLContext, address: str, port: int, count: int, request: bytes, sources: Sequence[str]
    ) -> None:
        self._trust, self._target, self._request = trust, (address, port), request
        self._sources = itertools.cycle(sources)
        self._open: list[ssl.SSLSocket | None] = [None] * count
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._hold, args=(start,)) for start in range(4)]
        self.opened = 0

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        for connection in filter(None, self._open):
            connection.close()

    def _hold(self, start: int) -> None:
        while not self._over.wait(0.2):
            for number in range(start, len(self._open), len(self._threads)):
                if self._over.is_set():
                    break
                held = self._open[number]
                if held is None or held.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
                    if held:
                        held.close()
                    self._open[number] = self._new()

    def _new(self) -> ssl.SSLSocket | None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(5)
        try:
            plain.bind((next(self._sources), 0))
            plain.connect(self._target)
            connection = self._trust.wrap_socket(plain, server_hostname="localhost")
            connection.sendall(self._request)
        except OSError:  # refused, or waiting for its turn
            plain.close()
            return None
        self.opened += 1
        return connection


def half_a_body(*headers: str) -> bytes:
    """An upload of 60 kB, of which the end is missing."""
    head = http1("POST", "/v2/flood/x/blobs/uploads/", *headers, body=b"x" * 60_000)
    return head.replace(b"Connection: close\r\n", b"")[:-1000]


@contextlib.contextmanager
def others_at_work(stack: Stack, folder: Path) -> Iterator[dict[str, list[float]]]:
    """skopeo pushes and pulls, again and again; seconds of each kind, and an error where one fails."""
    took: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    stop = threading.Event()
    folder.mkdir()
    write_layout(folder / "layout", [random_layer(MEGABYTE)])
    user, nobody = clients.Skopeo(stack, folder, "ci"), clients.Skopeo(stack, folder, None)
    jobs: dict[str, Callable[[str], object]] = {
        "push": lambda turn: user.push(folder / "layout", f"flood/other:{turn}"),
        "pull": lambda turn: user.pull("flood/image:1", folder / f"pull-{turn}"),
        "pull without a login": lambda turn: nobody.copy(
            f"docker://localhost:{PUBLIC_PORT}/flood/image:1", f"oci:{folder}/public-{turn}"
        ),
        "pull from the mirror": lambda turn: nobody.copy(
            f"docker://localhost:{MIRROR_PORT}/flood/image:1", f"oci:{folder}/mirror-{turn}"
        ),
    }

    def work(what: str, job: Callable[[str], object]) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            began = time.monotonic()
            answer = job(str(turn))
            took[what].append(time.monotonic() - began)
            if answer.returncode:  # type: ignore[attr-defined]
                errors.append(f"{what}: {answer.stderr}")  # type: ignore[attr-defined]
            stop.wait(2)

    threads = [threading.Thread(target=work, args=job) for job in jobs.items()]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print("\n".join(errors))
    # nginx lets nobody wait. skopeo comes again, five times, and may find all places taken by the flood each time.
    busy = ("please try again", "too many requests")
    assert [error for error in errors if stack.proxy == "caddy" or not any(words in error for words in busy)] == []


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One flood at a time on this machine: all engines share the kernel's memory for TCP.

    A flood takes up to 2.1 GB of it, of 2.3 GB (``tcp_mem``). At the limit, the kernel resets connections of others.
    """
    with (HOME / "floods.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def nothing_dies(client: docker.DockerClient) -> Iterator[None]:
    """No process is killed or restarts, and what each uses stays below its limit."""
    served = {
        role: container
        for role, container in clients.containers(client, PREFIX).items()
        if not role.endswith("carrier")
    }
    with contextlib.ExitStack() as samples:
        used = {role: samples.enter_context(sampled(container)) for role, container in served.items()}
        yield
    print()
    for role, old in served.items():
        new = client.containers.get(old.id)
        limit = new.attrs["HostConfig"]["Memory"] / MEGABYTE
        print(f"{role}: {used[role].peak:.0f} MB of {limit:.0f} MB at most, in {used[role].samples} samples")
        state = new.attrs["State"]
        assert (state["StartedAt"], state["OOMKilled"]) == (old.attrs["State"]["StartedAt"], False), role
        assert used[role].peak < limit
    if "proxy" in served:
        # A worker of nginx could be killed alone.
        assert b"exited on signal" not in client.containers.get(served["proxy"].id).logs(stdout=False)


def survived(stack: Stack, client: docker.DockerClient, folder: Path, floods: dict[str, Flood]) -> None:
    """Others are at work for as long as the floods last; print what each saw."""
    with (
        alone(),
        nothing_dies(client),
        others_at_work(stack, folder / "others") as took,
        contextlib.ExitStack() as running,
    ):
        for flood in floods.values():
            running.enter_context(flood)
        time.sleep(LONG)
        deadline = time.monotonic() + 5 * LONG
        while any(flood.opened < ENOUGH for flood in floods.values()) and time.monotonic() < deadline:
            time.sleep(1)
    print(f"{stack.proxy}:", ", ".join(f"{flood.opened} connections {what}" for what, flood in floods.items()))
    for what, seconds in took.items():
        print(f"{what}: {len(seconds)} times, {max(seconds):.1f} s at most")
    for what, flood in floods.items():
        assert flood.opened >= ENOUGH, what


@dataclass(frozen=True)
class Attacker:
    """Attacks the proxy at ``address``, from ``sources`` by turns, with ``times`` as many connections as by default."""

    trust: ssl.SSLContext
    address: str
    times: int = 1
    sources: Sequence[str] = ("",)

    def flood(self, port: int, count: int, request: bytes) -> Flood:
        return Flood(self.trust, self.address, port, count * self.times, request, self.sources)

    def bodies(self) -> dict[str, Flood]:
        """Uploads that nobody finishes."""
        kinds = {"without a login": half_a_body(), "with a wrong one": half_a_body(basic("ci", "wrong"))}
        return {what: self.flood(REGISTRY_PORT, BODIES // 2, request) for what, request in kinds.items()}

    def readers(self, stack: Stack, layer: str) -> dict[str, Flood]:
        """Pulls of which nobody reads what comes, from each host."""
        hosts = {
            "to the registry": (REGISTRY_PORT, [basic("production", stack.users["production"])]),
            "to the host without a login": (PUBLIC_PORT, []),
            "to the mirror": (MIRROR_PORT, []),
        }
        return {what: self.flood(port, READERS, http1("GET", layer, *login)) for what, (port, login) in hosts.items()}
