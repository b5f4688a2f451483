"""Registries that answer as upstreams do on good and bad days, and an HTTP proxy, on ports of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

LOGIN = ("robot", "example-only-right")
#: ``tokens`` and ``hub`` give tokens; for an absent repository, ``hub`` answers 401. ``denying`` gives nobody a token,
#: ``private`` only its login. ``basic`` has no tokens. ``silent`` never answers, ``endless`` never ends its answer. The
#: errors of ``large`` and ``deep`` have many bytes and many levels. ``foreign`` names a token service at another
#: domain, ``mute`` names none. A number is the status of all answers.
Manner = Literal[
    "open", "tokens", "hub", "denying", "private", "basic", "silent", "endless", "large", "deep", "foreign", "mute",
    "429", "500", "404",
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An answer of a registry, with the code, the words and the detail of its error."""

    status: int
    code: str = ""
    words: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: str = '[{"Action": "pull"}]'


_ALWAYS = {
    "429": Answer(429, "TOOMANYREQUESTS", "you have reached your pull rate limit"),
    "500": Answer(500),
    "404": Answer(404),
    "endless": Answer(400),
    "foreign": Answer(401, "UNAUTHORIZED", "no", {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}),
    "mute": Answer(401, "UNAUTHORIZED", "no"),
    "large": Answer(400, "ODD", "odd", detail=json.dumps("ä\x1b very odd" * 100_000)),
    "deep": Answer(400, "ODD", "odd", detail="[" * 5000 + "]" * 5000),
}


@dataclass
class Registry:
    """A running registry: its origin, and the requests that it got, as the path and the kind of the login."""

    url: str
    manner: Manner
    requests: list[tuple[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str, authorization: str) -> Answer:
        """Return the answer to a GET."""
        login = base64.b64encode(":".join(LOGIN).encode()).decode()
        is_own, challenge = authorization == f"Basic {login}", f'Bearer realm="{self.url}/token",service="upstream"'
        absent = Answer(404, "MANIFEST_UNKNOWN", "manifest unknown")

        def refused(challenge: str) -> Answer:
            return Answer(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

        match self.manner:
            case "silent":
                self.stopped.wait(60)
            case manner if manner in _ALWAYS:
                return _ALWAYS[manner]
            case "open":
                return Answer(200) if path == "/v2/" else absent
            case "basic":
                return absent if is_own else refused('Basic realm="x"')
            case _ if path.startswith("/token"):
                return self._token(authorization, is_own=is_own)
            case _ if authorization != "Bearer good":
                return refused(challenge)
            case "hub":
                return refused(f'{challenge},error="insufficient_scope"')
        return absent

    def _token(self, authorization: str, *, is_own: bool) -> Answer:
        if self.manner == "denying" or (self.manner == "private" and not authorization):
            return Answer(403, "DENIED", "denied")
        if authorization and not is_own:
            return Answer(401, "UNAUTHORIZED", "incorrect username or password")
        return Answer(200)


@contextlib.contextmanager
def fake_registry(manner: Manner, certificate: Path | None = None) -> Iterator[Registry]:
    """Run a registry; with a ``certificate``, a file with its key, over TLS."""
    scheme = "https" if certificate else "http"
    registry = Registry("", manner)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization", "")
            registry.requests.append((self.path, authorization.partition(" ")[0]))
            given = registry.answer(self.path, authorization)
            error = f'{{"errors": [{{"code": "{given.code}", "message": "{given.words}", "detail": {given.detail}}}]}}'
            body = (error if given.code else '{"token": "good"}' if given.status == 200 else "{}").encode()
            self.send_response(given.status)
            for name, value in {**given.headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if manner != "endless" else 1 << 40))
            self.end_headers()
            self.wfile.write(body)
            while manner == "endless" and not registry.stopped.wait(0.1):
                self.wfile.write(b" ")

        def log_message(self, *_: object) -> None: ...

    with _Server(("127.0.0.1", 0), Handler) as server:
        registry.url = f"{scheme}://localhost:{server.server_address[1]}"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield registry
        finally:
            registry.stopped.set()
            server.shutdown()


class _Server(ThreadingHTTPServer):
    """A server whose clients may end a connection at any time."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...


@contextlib.contextmanager
def http_proxy(target: int, status: str = "200 OK", address: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """Run an HTTP proxy that connects every client to the port ``target`` of 127.0.0.1, whatever host it names.

    Yield the URL, and the methods and hosts of the requests. With another ``status``, the proxy refuses them. The proxy
    listens on ``address`` of this machine.
    """
    asked: list[str] = []

    def serve(client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (more := client.recv(1)):
                    return
                head += more
            method, host, _ = head.decode().split(" ", 2)
            asked.append(f"{method} {host}")
            client.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
            if status == "200 OK":
                with socket.create_connection(("127.0.0.1", target)) as server:
                    _join(client, server)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((address, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://{address}:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _join(client: socket.socket, server: socket.socket) -> None:
    """Pass on what either side sends, until one side has ended."""
    other = {client: server, server: client}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select([client, server], [], [])[0]:
                if not (data := ready.recv(65536)):
                    return
                other[ready].sendall(data)
