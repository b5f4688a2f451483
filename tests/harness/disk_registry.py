"""A registry in the test's own process, with the files of distribution's store, that can kill its client at a request.

It knows only the calls of `import` and `retention apply`. It believes every digest and every manifest.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.harness.certificates import issue
from tests.harness.processes import serving
from tests.harness.shelf import digest_of


class DiskRegistry(ThreadingHTTPServer):
    """The registry. ``uploads`` counts the uploads of each blob, ``changes`` the requests that change the store."""

    daemon_threads = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.root = folder, folder / "docker/registry/v2"
        own = issue("127.0.0.1", start=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)).pair()
        self.certificate = own["certificate"]
        pem = folder.with_name(f"{folder.name}.pem")
        pem.write_text(own["certificate"] + own["private_key"])
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.uploads, self.changes = Counter[str](), 0
        self._deadly, self._victim, self._known = 0, 0, threading.Event()

    def arm(self, deadly: int) -> None:
        """Kill the client at its change number ``deadly``, before the change takes effect; 0 spares it."""
        self.changes, self._deadly = 0, deadly
        self._known.clear()

    def victim(self, process: int) -> None:
        """Name the process of the client."""
        self._victim = process
        self._known.set()

    def kills(self) -> bool:
        """Kill the client, if this is the moment."""
        self.changes += 1
        if self.changes != self._deadly:
            return False
        self._known.wait()
        os.kill(self._victim, signal.SIGKILL)
        return True

    def blob(self, digest: str) -> Path:
        return self.root / "blobs/sha256" / digest[7:9] / digest[7:] / "data"

    def below(self, repository: str, kind: str, name: str = "") -> Path:
        return self.root / "repositories" / repository / kind / name

    def tags(self, repository: str) -> dict[str, str]:
        """The digest of each tag."""
        folder = self.below(repository, "_manifests/tags")
        return {tag.name: (tag / "current/link").read_text() for tag in folder.iterdir()} if folder.is_dir() else {}

    def manifests(self, repository: str) -> set[str]:
        """The digests of the manifests."""
        folder = self.below(repository, "_manifests/revisions/sha256")
        return {f"sha256:{link.parent.name}" for link in folder.glob("*/link")}

    def files(self) -> dict[str, bytes]:
        """Every file of the store."""
        return {str(file.relative_to(self.root)): file.read_bytes() for file in self.root.rglob("*") if file.is_file()}


class Handler(BaseHTTPRequestHandler):
    """One call."""

    server: DiskRegistry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        repository, kind, rest = re.fullmatch(r"/v2/(.+)/(manifests|blobs(?:/uploads)?)/([^/]*)", parts.path).groups()  # type: ignore[union-attr]
        if self.command in ("PUT", "DELETE") and self.server.kills():
            self.close_connection = True
            return
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        status, content, headers = self.handled(f"{self.command} {kind}", repository, rest, query, body)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - names of http.server

    def handled(
        self, call: str, repository: str, rest: str, query: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        server, links = self.server, "_manifests/tags"
        match call:
            case "GET manifests" | "HEAD manifests":
                digest = rest if ":" in rest else server.tags(repository).get(rest, "")
                if digest not in server.manifests(repository):
                    return 404, b"", {}
                return 200, server.blob(digest).read_bytes(), {"Docker-Content-Digest": digest}
            case "HEAD blobs":
                return (200 if server.below(repository, "_layers/sha256", rest[7:]).exists() else 404), b"", {}
            case "POST blobs/uploads":
                return 202, b"", {"Location": f"/v2/{repository}/blobs/uploads/1"}
            case "PUT blobs/uploads":
                server.uploads[query["digest"]] += 1
                write(server.blob(query["digest"]), body)
                self.link(server.below(repository, "_layers/sha256", query["digest"][7:]), query["digest"])
                return 201, b"", {}
            case "PUT manifests":
                digest = digest_of(body)
                write(server.blob(digest), body)
                self.link(server.below(repository, "_manifests/revisions/sha256", digest[7:]), digest)
                if ":" not in rest:
                    self.link(server.below(repository, links, rest) / "index/sha256" / digest[7:], digest)
                    self.link(server.below(repository, links, rest) / "current", digest)
                return 201, b"", {}
        gone = [rest]
        if ":" in rest:
            (server.below(repository, "_manifests/revisions/sha256", rest[7:]) / "link").unlink()
            gone = [tag for tag, digest in server.tags(repository).items() if digest == rest]
        for tag in gone:
            shutil.rmtree(server.below(repository, links, tag))
        return 202, b"", {}

    def link(self, folder: Path, digest: str) -> None:
        write(folder / "link", digest.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@contextlib.contextmanager
def disk_registry(folder: Path) -> Iterator[DiskRegistry]:
    """Run a registry for one test."""
    server = DiskRegistry(folder)
    with serving(server):
        yield server
