"""An upstream registry of a mirror that can have bad days."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tests.harness.certificates import certificate_pair
from tests.harness.processes import free_port

Day = Literal[
    "good",
    "closed",
    "silent",
    "slow",
    "401",
    "403",
    "404",
    "429",
    "500",
    "redirects",
    "wrong bytes",
    "breaks off",
    "stalls",
    "wrong certificate",
]
_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "MANIFEST_UNKNOWN",
    429: "TOOMANYREQUESTS",
    500: "UNKNOWN",
}


class FaultyUpstream:
    """A registry with images in memory, on a port of ``address``; ``day`` says how it answers.

    With a ``certificate``, it speaks TLS, on bad days with that of another host. ``asked`` has the paths of all
    requests.
    """

    def __init__(self, address: str, certificate: Mapping[str, str] | None = None) -> None:
        self.day: Day = "good"
        self.asked: list[str] = []
        self._contents: dict[str, tuple[str, bytes]] = {}
        self._address = (address, free_port())
        self._certificate = certificate
        self._over = threading.Event()

    def __enter__(self) -> FaultyUpstream:
        self._open(self._certificate)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificate else ''}://{self._address[0]}:{self._address[1]}"

    def _open(self, certificate: Mapping[str, str] | None) -> None:
        handler = type("Handler", (_Handler,), {"upstream": self})
        self._server = _Server(self._address, handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with tempfile.NamedTemporaryFile("w") as both:
                both.write("".join(certificate.values()))
                both.flush()
                context.load_cert_chain(both.name)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _close(self) -> None:
        """Refuse new connections, and end the old ones."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()

    @contextlib.contextmanager
    def having(self, day: Day) -> Iterator[None]:
        """Have a day of this kind while the block runs."""
        self.day = day
        if day in ("closed", "wrong certificate"):
            self._close()
        if day == "wrong certificate":
            self._open(certificate_pair("other.example.com"))
        try:
            yield
        finally:
            self._over.set()
            if day == "wrong certificate":
                self._close()
            if day in ("closed", "wrong certificate"):
                self._open(self._certificate)
            self.day, self._over = "good", threading.Event()

    def add(self, layout: Path, name: str) -> str:
        """Hold the image of an OCI layout under ``name:tag``; the digest."""
        (top,) = json.loads((layout / "index.json").read_text())["manifests"]
        for file in (layout / "blobs" / "sha256").iterdir():
            self._contents[f"sha256:{file.name}"] = ("application/octet-stream", file.read_bytes())
        self._contents[top["digest"]] = (top["mediaType"], self._contents[top["digest"]][1])
        self._contents[name] = (top["digest"], b"")
        return str(top["digest"])

    def wait(self) -> None:
        """Wait until this day is over."""
        self._over.wait(120)

    def find(self, path: str) -> tuple[str, str, bytes] | None:
        """The digest, media type and content of a manifest or blob."""
        repository, kind, reference = (
            path.partition("?")[0].removeprefix("/elsewhere").removeprefix("/v2/").rsplit("/", 2)
        )
        if kind == "manifests" and ":" not in reference:
            reference = self._contents.get(f"{repository}:{reference}", ("", b""))[0]
        found = self._contents.get(reference)
        return (reference, *found) if found else None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().close_request(request)

    def end_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        """Mirrors leave when they like."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: FaultyUpstream

    def answer(self) -> None:
        upstream, day = self.upstream, self.upstream.day
        upstream.asked.append(f"{self.command} {self.path}")
        if day == "silent":
            upstream.wait()
            self.close_connection = True
            return
        if day == "slow":
            time.sleep(0.1)
        if day.isdigit() and self.path != "/v2/":
            self._send(int(day), "application/json", json.dumps({"errors": [{"code": _CODES[int(day)]}]}).encode())
        elif self.path == "/v2/":
            self._send(200, "application/json", b"{}")
        elif (found := upstream.find(self.path)) is None:
            self._send(404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        else:
            self._serve(*found, day)

    def _serve(self, digest: str, media_type: str, content: bytes, day: Day) -> None:
        headers = {"Docker-Content-Digest": digest}
        is_layer = "/blobs/" in self.path and self.command == "GET"
        if day == "redirects" and is_layer and not self.path.startswith("/elsewhere/"):
            # Another host of the same process: mirrors send no login there.
            elsewhere = self.upstream.url.replace("127.0.0.1", "localhost")
            self._send(307, "text/plain", b"", {"Location": f"{elsewhere}/elsewhere{self.path}"})
        elif day == "wrong bytes":
            self._send(200, media_type, content[:-1] + bytes([content[-1] ^ 1]), headers)
        elif day in ("breaks off", "stalls") and is_layer:
            self._send(200, media_type, content[: len(content) // 2], headers, length=len(content))
            if day == "stalls":
                self.upstream.wait()
            self.close_connection = True
        else:
            self._send(200, media_type, content, headers)

    def _send(
        self, status: int, media_type: str, content: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        self.send_response(status)
        sent = {"Content-Type": media_type, "Content-Length": str(len(content) if length < 0 else length)}
        for name, value in (sent | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """``asked`` says enough."""
