"""A forge that answers only what its documentation describes, for the calls that keep a comment.

Sources: docs.github.com/en/rest/issues/comments, docs.gitea.com/api, docs.gitlab.com/api/notes/#merge-requests.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.harness.processes import serving

TOKEN = "example-only-token"
ACCOUNT = "registry-bot"
PAGE = 2  # a small page, so that every test with three comments reads several

#: Method and path of each documented call. The server refuses every other call.
CALLS = {
    "github": {
        "account": ("POST", r"/api/graphql"),
        "list": ("GET", r"/api/v3/repos/owner/name/issues/7/comments"),
        "create": ("POST", r"/api/v3/repos/owner/name/issues/7/comments"),
        "edit": ("PATCH", r"/api/v3/repos/owner/name/issues/comments/(\d+)"),
        "delete": ("DELETE", r"/api/v3/repos/owner/name/issues/comments/(\d+)"),
    },
    "gitea": {
        "account": ("GET", r"/api/v1/user"),
        "list": ("GET", r"/api/v1/repos/owner/name/issues/7/comments"),
        "create": ("POST", r"/api/v1/repos/owner/name/issues/7/comments"),
        "edit": ("PATCH", r"/api/v1/repos/owner/name/issues/comments/(\d+)"),
        "delete": ("DELETE", r"/api/v1/repos/owner/name/issues/comments/(\d+)"),
    },
    "gitlab": {
        "account": ("GET", r"/api/v4/user"),
        "list": ("GET", r"/api/v4/projects/owner%2Fname/merge_requests/7/notes"),
        "create": ("POST", r"/api/v4/projects/owner%2Fname/merge_requests/7/notes"),
        "edit": ("PUT", r"/api/v4/projects/owner%2Fname/merge_requests/7/notes/(\d+)"),
        "delete": ("DELETE", r"/api/v4/projects/owner%2Fname/merge_requests/7/notes/(\d+)"),
    },
}
HEADERS = {
    "github": {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    },
    "gitea": {"Authorization": f"token {TOKEN}", "Accept": "application/json"},
    "gitlab": {"PRIVATE-TOKEN": TOKEN, "Accept": "application/json"},
}


@dataclass(frozen=True)
class Answer:
    """An answer for one call, in place of the documented one. Without a status, the connection ends instead."""

    status: int | None
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)
    #: Whether the call takes effect before this answer.
    after: bool = False


class Forge(ThreadingHTTPServer):
    """The comments of pull request 7 of owner/name. ``refused`` lists calls outside the documentation."""

    daemon_threads = False

    def __init__(self, kind: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kind = kind
        self.comments: dict[int, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refused: list[str] = []
        self.scripted: dict[str, list[Answer]] = {}
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def write(self, body: str, author: str = ACCOUNT, **more: Any) -> int:
        """Add a comment, as a person or a pipeline would. Return its number."""
        number = max(self.comments, default=100) + 1
        person = {"author": {"username": author}} if self.kind == "gitlab" else {"user": {"login": author}}
        self.comments[number] = {"id": number, "body": body, **person, **more}
        return number

    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments.values()]


class Handler(BaseHTTPRequestHandler):
    """One call."""

    server: Forge
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Find the documented call, check headers and body, and answer."""
        forge, parts = self.server, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        matches = {
            name: found
            for name, (method, path) in CALLS[forge.kind].items()
            if method == self.command and (found := re.fullmatch(path, parts.path))
        }
        wrong = {name: self.headers[name] for name, value in HEADERS[forge.kind].items() if self.headers[name] != value}
        if not matches or wrong or not self.headers["User-Agent"]:
            forge.refused.append(f"{self.command} {self.path} {wrong}")
            return self.answer(400, {"message": "not documented"})
        [(name, match)] = matches.items()
        forge.calls.append(name)
        scripted = forge.scripted.get(name) or []
        special = scripted.pop(0) if scripted else None
        if special is None or special.after:
            status, content, headers = self.documented(name, int(match[1]) if match.groups() else 0, parts.query, body)
        if special is not None:
            if special.status is None:
                self.close_connection = True
                return None
            status, content, headers = special.status, special.body, special.headers
        return self.answer(status, content, headers)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - names of http.server

    def documented(self, name: str, number: int, query: str, body: str) -> tuple[int, Any, dict[str, str]]:
        forge = self.server
        match name:
            case "account" if forge.kind == "github":
                return (
                    200,
                    {"data": {"viewer": {"login": ACCOUNT}}} if "viewer" in json.loads(body)["query"] else {},
                    {},
                )
            case "account":
                return 200, {"username" if forge.kind == "gitlab" else "login": ACCOUNT}, {}
            case "list":
                return self.page({key: values[0] for key, values in parse_qs(query).items()})
            case "create":
                return 201, forge.comments[forge.write(self.text(body))], {}
            case _ if number not in forge.comments:
                return 404, {"message": "Not Found"}, {}
            case "edit":
                forge.comments[number]["body"] = self.text(body)
                return 200, forge.comments[number], {}
        del forge.comments[number]
        return 204, "", {}

    def text(self, body: str) -> str:
        """The text in a JSON object that has nothing else."""
        content = json.loads(body)
        if self.headers["Content-Type"] != "application/json" or content.keys() != {"body"}:
            self.server.refused.append(f"{self.command} with {body}")
        return str(content["body"])

    def page(self, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        """All comments at once on Gitea, and pages with a link to the next page elsewhere."""
        forge = self.server
        listed = list(forge.comments.values())
        allowed = {
            "github": {"page", "per_page"},
            "gitea": set[str](),
            "gitlab": {"page", "per_page", "order_by", "sort"},
        }
        if not query.keys() <= allowed[forge.kind] or not 1 <= int(query.get("per_page", "30")) <= 100:
            forge.refused.append(f"GET with {query}")
        if forge.kind == "gitea":
            return 200, listed, {}
        if forge.kind == "gitlab" and query.get("sort") != "asc":
            listed.reverse()
        number = int(query.get("page", "1"))
        # The address is the one that the forge believes to have, behind its proxy.
        following = urlencode(query | {"page": number + 1})
        more = number * PAGE < len(listed)
        headers = {"Link": f'<https://forge.example{urlsplit(self.path).path}?{following}>; rel="next"'} if more else {}
        return 200, listed[(number - 1) * PAGE : number * PAGE], headers

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def forge(kind: str, tls: ssl.SSLContext | None = None) -> Iterator[Forge]:
    """Run a forge for one test. At the end, no call was outside the documentation."""
    server = Forge(kind)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    with serving(server):
        yield server
    assert server.refused == []
