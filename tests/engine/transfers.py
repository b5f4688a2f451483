"""Layers that nobody has to keep, connections that may be slow, and what the proxy uses meanwhile."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import docker
from docker.models.containers import Container

from tests.harness import clients
from tests.harness.small_stack import PREFIX, REGISTRY_PORT
from tests.harness.stack import Stack

MEGABYTE = clients.MEGABYTE
#: Nothing may stand still for longer, in seconds.
PATIENCE = 300


@dataclass(frozen=True)
class Layer:
    """``size`` bytes, made anew each time: one random megabyte again and again, with its place in front."""

    size: int
    noise: bytes = field(default_factory=lambda: os.urandom(MEGABYTE), repr=False)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The content from ``start`` on, a megabyte at most at a time."""
        for place in range(start - start % MEGABYTE, self.size, MEGABYTE):
            yield (place.to_bytes(8) + self.noise[8:])[max(start - place, 0) : self.size - place]

    @cached_property
    def digest(self) -> str:
        """Its digest, as registries write it."""
        return digest_of(self.pieces())


def digest_of(pieces: Iterable[bytes]) -> str:
    """The digest of what comes in pieces."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return f"sha256:{whole.hexdigest()}"


def paced(pieces: Iterable[bytes], rate: int, stop: threading.Event) -> Iterator[bytes]:
    """The same at ``rate`` bytes per second, in pieces of a tenth of a second; at once when ``stop`` is set."""
    began, done = time.monotonic(), 0
    for piece in pieces:
        for start in range(0, len(piece), rate // 10):
            part = piece[start : start + rate // 10]
            yield part
            done += len(part)
            stop.wait(max(0.0, began + done / rate - time.monotonic()))


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 over one TLS connection at a time, as a user of the stack.

    ``address`` is where the proxy is reached; ``receive_buffer`` is what the client's kernel takes ahead of it.
    """

    def __init__(
        self, stack: Stack, trust: ssl.SSLContext, user: str, address: str = "127.0.0.1", receive_buffer: int = 0
    ) -> None:
        super().__init__("localhost", REGISTRY_PORT, timeout=PATIENCE)
        self._trust, self._address, self._receive_buffer = trust, address, receive_buffer
        login = base64.b64encode(f"{user}:{stack.users[user]}".encode()).decode()
        self.login = {"Authorization": f"Basic {login}"}

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        plain = socket.socket()
        try:
            plain.settimeout(PATIENCE)
            if self._receive_buffer:
                # Before the connection is made, since both sides agree on their windows then.
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            plain.connect((self._address, REGISTRY_PORT))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._trust.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise

    def ask(
        self, method: str, target: str, expected: int, body: bytes | Iterable[bytes] | None = None, **headers: str
    ) -> tuple[http.client.HTTPMessage, str]:
        """Headers and text of the answer, whose status must be as expected; ``Content_Range`` is ``Content-Range``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.request(method, target, body, self.login | named)
        answer = self.getresponse()
        text = answer.read().decode()
        assert answer.status == expected, f"{method} {target}: {answer.status} {text}"
        return answer.headers, text

    def started(self, repository: str) -> str:
        """Start an upload; where it goes on."""
        return self.ask("POST", f"/v2/{repository}/blobs/uploads/", 202)[0]["Location"]

    def finish(self, upload: str, digest: str) -> None:
        """End an upload."""
        self.ask("PUT", f"{upload}&digest={digest}", 201)

    def push(self, repository: str, layer: Layer, content: Iterable[bytes] | None = None) -> None:
        """Push a layer as Docker does: in one request, in chunks; ``content`` is the same at another pace."""
        upload = self.started(repository)
        headers, _ = self.ask("PATCH", upload, 202, body=layer.pieces() if content is None else content)
        self.finish(headers["Location"], layer.digest)

    def pull(self, repository: str, digest: str, at_once: int = MEGABYTE) -> Iterator[bytes]:
        """Pull a layer; the first piece comes after the answer's head."""
        self.request("GET", f"/v2/{repository}/blobs/{digest}", headers=self.login)
        answer = self.getresponse()
        assert answer.status == 200, answer.read()
        yield b""
        while piece := answer.read(at_once):
            yield piece


def proxy(client: docker.DockerClient) -> Container:
    """The proxy's container."""
    return clients.containers(client, PREFIX)["proxy"]


def proxy_address(client: docker.DockerClient) -> str:
    """Where packets of other machines reach the proxy; on loopback, a helper of Docker takes many MB ahead."""
    networks = proxy(client).attrs["NetworkSettings"]["Networks"]
    return str(networks[f"{PREFIX}-edge"]["IPAddress"])


@dataclass
class Used:
    """The most that was seen, in MB, and the number of times that it was looked at."""

    peak: float = 0
    samples: int = 0


@contextlib.contextmanager
def sampled(container: Container) -> Iterator[Used]:
    """What a container uses while the block runs, without what the kernel takes back from it: files that it has cached,
    but not those on a tmpfs, and buffers of sockets.
    """
    used, stop = Used(), threading.Event()
    api = clients.engine()

    def sample() -> None:
        while not used.samples or not stop.wait(0.2):
            memory = api.api.stats(container.id, stream=False, one_shot=True)["memory_stats"]
            figures = memory["stats"]
            # Version 1 of control groups does not count sockets, and has other names for sums over all that is below.
            given = ("active_file", "inactive_file", "sock")
            back = sum(figures.get(f"total_{name}", figures.get(name, 0)) for name in given)
            used.peak = max(used.peak, (memory["usage"] - back) / MEGABYTE)
            used.samples += 1

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()
        api.close()


def kept(container: Container) -> int:
    """How many KB of files lie where the proxy may write; its root, of which the engine would know, it may not."""
    changed = {entry["Path"] for entry in container.diff() or []}
    mounts = {mount["Destination"]: mount["RW"] for mount in container.attrs["Mounts"]}
    mounts |= dict.fromkeys(container.attrs["HostConfig"]["Tmpfs"], True)
    assert changed <= mounts.keys() | {str(parent) for mount in mounts for parent in PurePosixPath(mount).parents}
    folders = [path for path, may_write in mounts.items() if may_write]
    # du fails where a file goes while it looks, but counts the others. It prints nothing for a folder in another one.
    sizes = clients.execute(container, "sh", "-c", 'du -sk "$@" 2>/dev/null || true', "sh", *folders).splitlines()
    assert sizes
    return sum(int(line.split()[0]) for line in sizes)


def resident(container: Container) -> int:
    """The most that the proxy's processes have had in memory since they started, together, in MB."""
    # A process can end while the list is read, as those of the health check do.
    script = 'for status in /proc/[0-9]*/status; do cat "$status" 2>/dev/null || true; done'
    fields = [line.split() for line in clients.execute(container, "sh", "-c", script).splitlines()]
    total, name = 0, ""
    for key, *values in filter(None, fields):
        name = values[0] if key == "Name:" else name
        if key == "VmHWM:" and name in ("caddy", "nginx"):
            total += int(values[0])
    return total >> 10
