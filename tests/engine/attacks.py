"""Requests as exact bytes over TLS, and who answered them by the logs of the processes themselves."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import itertools
import json
import re
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import docker

from tests.harness import clients
from tests.harness.small_stack import PREFIX

#: No request may hang for longer, in seconds.
PATIENCE = 60
#: The seconds within which the log has the line of a request.
LOGGED_WITHIN = 60
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_numbers = itertools.count(1)
#: What nginx answers to where Caddy answers otherwise, mostly by itself where Caddy leaves it to a process.
NGINX = {
    r"[a-z]+ /.*": "400 proxy",
    r"TRACE .*": "405 proxy",
    r"DELETE /v2/team/app/manifests/DIGEST#/blobs/uploads/": "404 admin",
    r"CONNECT .*": "405 proxy",
    r"OPTIONS \*|GET file:///etc/passwd": "400 proxy",
    r"GET /v2/(?:_catalog%00|\.\./\.\./.*|team/app/blobs/\.\.%2f\.\..*)": "400 proxy",
    r"GET /V2/_catalog": "404 proxy",
    r"two logins, the own one (?:first|last)": "400 proxy",
    r"the preface of HTTP/2|chunks in HTTP/1.0|two headers of coding|both lengths, .*": "400 proxy",
    r"chunk (?:beyond|longer|with|without) .*|coding in a folded line": "400 proxy",
    r"coding behind a vertical tab": "501 proxy",
    r"HTTP/0.9": "nothing proxy",
    # It leaves out what is no header, ends the name of a host before a dot, and a line feed ends a line.
    r"header without a colon|line feeds alone": "403 writer",
    r"Host: 'localhost\.'": "401 proxy",
    r"a header of (?:100 KB|20 MB)|5,000 headers|a login of 100 KB": "400 proxy",
    r"a (?:method|path) of 100 KB": "414 proxy",
}


@dataclass(frozen=True)
class Attack:
    """A row of a table: what is sent by whom, and what is expected.

    That is ``status process``: ``401+400`` are two answers, ``401/429`` one or the other.

    ``request`` holds ``{mark}`` where the name stands by which the logs know it.
    """

    what: str
    who: str
    expected: str
    request: bytes
    port: int
    mark: str = field(default_factory=lambda: f"attack-{next(_numbers)}")

    @property
    def marked(self) -> bytes:
        """The bytes that are sent."""
        return self.request.replace(b"{mark}", self.mark.encode())


def basic(user: str, password: str) -> str:
    """An Authorization header as clients write it."""
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def http1(method: str, target: str, *headers: str, host: str = "localhost", body: bytes = b"") -> bytes:
    """A request of HTTP/1.1 after which the connection is closed; ``headers`` go on the wire as they stand."""
    length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT", "PATCH") else []
    fixed = ["User-Agent: {mark}", f"Accept: {MANIFEST}", "Connection: close"]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fixed, *length]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def connected(trust: ssl.SSLContext, port: int, sni: str = "localhost") -> ssl.SSLSocket:
    """A TLS connection to the proxy."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        return trust.wrap_socket(plain, server_hostname=sni)
    except BaseException:
        plain.close()
        raise


def exchange(connection: socket.socket, request: bytes, pause: float = 3) -> bytes:
    """Send everything, read until the other side closes or has nothing to add for ``pause`` seconds; what it said."""
    received = b""
    connection.settimeout(PATIENCE)  # An earlier exchange may have left less.
    # Who refuses a request may close before it has read all of it.
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(request)
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while some := connection.recv(65536):
            received += some
            connection.settimeout(pause)
    return received


def statuses(received: bytes) -> list[str]:
    """The status of each answer on a connection."""
    return [status.decode() for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", received, re.MULTILINE)]


def header(received: bytes, name: str) -> str:
    """A header of the first answer, empty if it has none."""
    head = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    found = re.search(rf"^{name}: (.*?)\r?$", head, re.IGNORECASE | re.MULTILINE)
    return found.group(1) if found else ""


def carried_out(
    api: docker.DockerClient, trust: ssl.SSLContext, attacks: Sequence[Attack], at_once: int = 1
) -> list[str]:
    """Send each request on a connection of its own, print the table, and name the rows that went another way."""

    def answered(attack: Attack) -> str:
        with connected(trust, attack.port) as connection:
            return "+".join(statuses(exchange(connection, attack.marked))) or "nothing"

    since = time.time()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(answered, attacks))
    return judged(api, since, attacks, {attack.mark: answer for attack, answer in zip(attacks, answers, strict=True)})


def judged(api: docker.DockerClient, since: float, attacks: Sequence[Attack], seen: dict[str, str]) -> list[str]:
    """Print what was answered how and by which process; the rows that differ from what was expected."""
    other = NGINX if "nginx" in clients.containers(api, PREFIX)["proxy"].attrs["Config"]["Image"] else {}
    deadline = time.monotonic() + LOGGED_WITHIN
    while True:
        time.sleep(1)  # The proxy writes its line after the client has its answer.
        lines, wrong = compared(attacks, seen, Witnesses(api, since), other)
        if not wrong or time.monotonic() > deadline:
            break
    print("\n".join([f"\n{'request':<78} {'who':<9} answer", *lines]))
    return wrong


def compared(
    attacks: Iterable[Attack], seen: dict[str, str], processes: Witnesses, other: dict[str, str]
) -> tuple[list[str], list[str]]:
    """A line for each attack, and those that differ from what was expected, of which ``other`` is another proxy's."""
    lines, wrong = [], []
    for attack in attacks:
        status, process = seen[attack.mark], processes.of(attack.mark)
        answer = f"{status} {process}"
        of_nginx = (said for pattern, said in other.items() if re.fullmatch(pattern, attack.what))
        expected = next(of_nginx, attack.expected)
        possible, expected_process = expected.split()
        fits = status in possible.split("/") and process == expected_process
        differs = "" if fits else f"   expected: {expected}"
        line = f"{attack.what:<78} {attack.who:<9} {answer}{differs}"
        lines.append(line)
        if differs:
            wrong.append(line)
    return lines, wrong


class Witnesses:
    """Which process answered a request, by the User-Agent in its own log.

    Registry processes log each request of their API, before they look at credentials; what is none (a path that they
    redirect or do not know) only the proxy logs, with the name of the process that answered it.
    """

    def __init__(self, api: docker.DockerClient, since: float) -> None:
        self._own = defaultdict(set)
        self._proxied = {}
        for role, line in log_lines(api, since):
            if role == "proxy" and line.get("msg") == "handled request":
                self._proxied[line.get("user_agent", "")] = (
                    (line.get("upstream") or "proxy").partition(":")[0].removesuffix("-quick")
                )
            elif "http.request.useragent" in line:
                self._own[line["http.request.useragent"]].add(role)

    def of(self, mark: str) -> str:
        """``reader``, ``writer``, ``admin``, ``public`` or ``proxy``; all of them, if they do not agree."""
        named = self._own[mark] | {self._proxied.get(mark, "proxy")}
        return "+".join(sorted(named))


def logged(
    api: docker.DockerClient, since: float, is_complete: Callable[[list[tuple[str, dict]]], bool]
) -> list[tuple[str, dict]]:
    """The lines of ``log_lines``, once they are complete or should have been.

    Processes write a line after the client has its answer, and each worker of nginx up to a second later.
    """
    deadline = time.monotonic() + LOGGED_WITHIN
    while not is_complete(lines := list(log_lines(api, since))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return lines


def log_lines(api: docker.DockerClient, since: float) -> Iterator[tuple[str, dict]]:
    """Each line that the stack's processes have logged in JSON, with the role of the process."""
    for role, container in clients.containers(api, PREFIX).items():
        if container.status == "created":
            continue
        for line in container.logs(since=since).decode(errors="replace").splitlines():
            if line.startswith("{"):
                yield role, json.loads(line)


def http2(headers: Sequence[tuple[str, str]], body: bytes = b"") -> bytes:
    """A request of HTTP/2 as frames, with header fields that no library would send (RFC 9113 and 7541)."""
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)
    ends_stream, ends_headers = 0x1, 0x4
    frames = _frame(0x4, 0, 0, b"")
    frames += _frame(0x1, ends_headers | (0 if body else ends_stream), 1, block)
    if body:
        frames += _frame(0x0, ends_stream, 1, body)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _text(value: str) -> bytes:
    data = value.encode("latin-1")
    assert len(data) < 127, "longer texts need a longer length"
    return bytes([len(data)]) + data
