"""`mirrors --quota`: what Docker Hub tells of its pull quota, through the container of a mirror."""

from __future__ import annotations

import base64
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from operations.__main__ import command_line
from operations.mirrors import quota as asking
from operations.mirrors.quota import NoQuota, Quota, quota, read_quota
from operations.stack import StackConfig
from tests.harness.certificates import authority, certificate_pair
from tests.harness.processes import serving
from tests.harness.upstreams import http_proxy

PASSWORD = "example-only-hub-token"
HOST = "ssh://deploy@host1.example.com"
#: Passes bytes between its standard streams and a port of this machine, as nc does.
RELAY = """
import os, socket, sys, threading
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := server.recv(65536):
    os.write(1, data)
"""


class DockerHub(ThreadingHTTPServer):
    """Both servers of Docker Hub, and a `docker` whose containers reach them. The attributes choose the answers."""

    daemon_threads = True

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ("auth.docker.io", "registry-1.docker.io")) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        pair, self.folder, self.seen = folder / "pair.pem", folder, list[tuple[str, str, str]]()
        pair.write_text("".join(certificate_pair(*hosts).values()))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pair)
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.token: tuple[int, bytes] = (200, b'{"token": "good"}')
        self.quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
        self.status = 200
        self.released = threading.Event()
        (folder / "relay.py").write_text(RELAY)
        self.docker(f"exec {sys.executable} {folder}/relay.py $port")

    def docker(self, nc: str, proxy: str = "") -> None:
        """Write the command `docker`. ``nc`` runs for nc in a container, with the ``port`` that it reaches."""
        inspected = [
            {
                "Name": f"/{name}",
                "State": {"Status": "running", "Health": {"Status": "healthy"}, "StartedAt": "2026-11-30T06:00:00Z"},
                "Config": {"Healthcheck": {"Test": ["CMD", "http://127.0.0.1:12345/"]}},
            }
            for name in ("hub", "ghcr")
        ]
        (self.folder / "inspected").write_text(json.dumps(inspected))
        (self.folder / "said").write_text('answers\nregistry_proxy_requests_total{type="blob"} 0\n')
        program = self.folder / "docker"
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {self.folder}/calls\nfor port; do :; done\n'
            f'[ "$port" != 443 ] || port={self.server_address[1]}\n'
            f'case "$*" in\n*" nc "*) {nc} ;;\n*HTTPS_PROXY*) echo "{proxy}" ;;\n'
            f"*inspect*) cat {self.folder}/inspected ;;\n*exec*) cat {self.folder}/said ;;\nesac\n"
        )
        program.chmod(0o755)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: DockerHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.command, f"{self.headers['Host']}{self.path}", self.headers["Authorization"]))
        assert self.path == "/token?service=registry.docker.io&scope=repository:ratelimitpreview/test:pull"
        self.answer(*self.server.token, {})

    def do_HEAD(self) -> None:
        self.server.seen.append((self.command, f"{self.headers['Host']}{self.path}", self.headers["Authorization"]))
        if not self.server.status:
            self.server.released.wait(60)
            return
        self.answer(self.server.status, b"", self.server.quota)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DockerHub]:
    """Docker Hub, with a certificate of an authority that this machine trusts."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(authority().pair()["certificate"])
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    server = DockerHub(tmp_path)
    monkeypatch.setattr(server, "handle_error", lambda *_: None)
    with serving(server):
        yield server
        server.released.set()


def run(monkeypatch: pytest.MonkeyPatch, *options: str, passwords: Any = None, **hub: str) -> Result:
    """Run `mirrors` on a stack with a mirror of Docker Hub that has these settings, and a mirror of ghcr.io."""
    outputs = {
        "registry_url": "https://registry.example.com",
        "docker_host": HOST,
        "mirror_urls": {},
        "mirror_url": "https://mirror.example.com",
        "services": {"mirror-docker-io": "hub", "mirror-ghcr-io": "ghcr"},
        "configuration": {"settings": {"mirrors": {"docker.io": hub, "ghcr.io": {"username": "robot"}}}},
    }
    configured = {"registry-stack:upstream_passwords": {"value": "", "objectValue": passwords or {}, "secret": True}}

    def pulumi(_: StackConfig, *words: str) -> str:
        return json.dumps(outputs if "output" in words else configured)

    monkeypatch.setattr(StackConfig, "_run", pulumi)
    return CliRunner().invoke(command_line(["mirrors"]), ["mirrors", *options, "--stack", "prod"])


@pytest.mark.parametrize(
    ("limit", "remaining", "found"),
    [
        ("100;w=21600", "76;w=21600", "76 of 100 in 6 h"),
        ("200;w=5400", "0;w=5400", "0 of 200 in 90 min"),
        ("10;w=45", "9;w=45", "9 of 10 in 45 s"),
        ("100;w=21600", None, "None"),
        (None, None, "None"),
        ("many", "76;w=21600", "None"),
        ("100;w=21600, 100;w=21600", "76;w=21600", "None"),
        ("100;w=0", "76;w=0", "None"),
        (f"{'9' * 5000};w=21600", "76;w=21600", "None"),
        ("١٠;w=21600", "76;w=21600", "None"),
    ],
)
def test_the_headers_tell_pulls_and_hours(limit: str | None, remaining: str | None, found: str) -> None:
    assert str(quota(limit, remaining)) == found


def test_an_anonymous_mirror_has_the_quota_of_its_container(hub: DockerHub) -> None:
    found = read_quota(HOST, "hub", None)

    assert found == Quota(limit=100, remaining=76, seconds=21600)
    repository = "ratelimitpreview/test"
    assert hub.seen == [
        ("GET", f"auth.docker.io/token?service=registry.docker.io&scope=repository:{repository}:pull", None),
        ("HEAD", f"registry-1.docker.io/v2/{repository}/manifests/latest", "Bearer good"),  # GET would cost a pull
    ]
    assert (
        f"--host {HOST} exec --interactive hub timeout 60 nc auth.docker.io 443" in (hub.folder / "calls").read_text()
    )


def test_a_mirror_with_a_login_has_the_quota_of_the_login(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    answer = run(monkeypatch, "--quota", "--json", username="octocat", passwords={"docker.io": PASSWORD})

    assert answer.exit_code == 0, answer.output
    first, second = json.loads(answer.stdout)["mirrors"]
    assert first["quota"] == {"limit": 100, "remaining": 76, "seconds": 21600}
    assert second["quota"] is None
    basic = base64.b64encode(f"octocat:{PASSWORD}".encode()).decode()
    assert [seen[2] for seen in hub.seen] == [f"Basic {basic}", "Bearer good"]
    seen_by_others = (hub.folder / "calls").read_text() + answer.output
    assert PASSWORD not in seen_by_others
    assert basic not in seen_by_others


def test_the_table_has_the_quota_only_if_asked(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    assert "Quota" not in run(monkeypatch).stdout
    assert hub.seen == []

    lines = run(monkeypatch, "--quota").stdout.splitlines()

    assert lines[-1].split("  ")[0] == "Quota"
    assert "76 of 100 in 6 h" in lines[-1]


def test_a_mirror_under_another_name_asks_docker_hub_too(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    other = run(monkeypatch, "--quota", "--json", upstream="https://registry.corp.example.com")
    assert (json.loads(other.stdout)["mirrors"][0]["quota"], hub.seen) == (None, [])
    assert other.stderr == "no mirror of Docker Hub is reachable, so there is no quota to show\n"

    same = run(monkeypatch, "--quota", "--json", upstream="https://registry-1.docker.io")

    assert json.loads(same.stdout)["mirrors"][0]["quota"]["remaining"] == 76


def test_a_missing_password_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    answer = run(monkeypatch, "--quota", "--json", username="octocat")

    assert (answer.exit_code, json.loads(answer.stdout)["mirrors"][0]["quota"], hub.seen) == (0, None, [])
    assert "the stack has no password for octocat" in answer.stderr
    assert "pulumi config set --stack prod --secret --path" in answer.stderr


def test_a_mirror_without_a_quota_says_so_once(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    hub.quota = {}

    answer = run(monkeypatch, "--quota", "--json")

    assert (answer.exit_code, json.loads(answer.stdout)["mirrors"][0]["quota"]) == (0, None)
    reason = "Docker Hub answers without a quota, as for a paid plan"
    assert answer.stderr == f"docker.io: the quota is not known: {reason}\n"


def test_a_used_up_quota_is_told_whatever_the_status(hub: DockerHub) -> None:
    hub.status, hub.quota["ratelimit-remaining"] = 429, "0;w=21600"

    assert read_quota(HOST, "hub", None).remaining == 0


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        ((500, b""), 200, "auth.docker.io answers with status 500"),
        ((200, b'{"token": "a\\r\\nb"}'), 200, "auth.docker.io answers without a token"),
        ((200, b"[]"), 200, "auth.docker.io answers without a token"),
        ((200, b'{"token": "good"}'), 503, "registry-1.docker.io answers with status 503"),
        ((200, b'{"token": "good"}'), 0, "registry-1.docker.io does not answer: The read operation timed out"),
    ],
)
def test_a_bad_answer_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, hub: DockerHub, token: tuple[int, bytes], status: int, reason: str
) -> None:
    # The token must arrive within this time, too, by a program that has to start first.
    monkeypatch.setattr(asking, "_WITHIN", 5 if status == 0 else 20)
    hub.token, hub.status = token, status
    hub.quota = {}

    with pytest.raises(NoQuota) as refused:
        read_quota(HOST, "hub", None)

    assert str(refused.value) == reason


def test_a_refused_login_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    hub.token = (401, b'{"details": "incorrect username or password"}')

    answer = run(monkeypatch, "--quota", username="octocat", passwords={"docker.io": PASSWORD})

    assert "docker.io: the quota is not known: Docker Hub refuses the login octocat" in answer.stderr
    assert PASSWORD not in answer.output


def test_a_container_without_a_way_out_tells_the_reason_of_nc(hub: DockerHub) -> None:
    hub.docker("echo \"nc: bad address 'auth.docker.io'\" >&2; exit 1")

    with pytest.raises(NoQuota, match=r"^auth.docker.io does not answer: nc: bad address 'auth.docker.io'$"):
        read_quota(HOST, "hub", None)


def test_a_server_with_another_certificate_gets_no_login(monkeypatch: pytest.MonkeyPatch, hub: DockerHub) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(NoQuota, match=r"^auth.docker.io does not answer: .*issuer certificate"):
        read_quota(HOST, "hub", None)

    assert hub.seen == []


def test_the_question_takes_the_http_proxy_of_the_container(hub: DockerHub) -> None:
    relay = f"exec {sys.executable} {hub.folder}/relay.py $port"
    with http_proxy(hub.server_address[1]) as (url, asked):
        hub.docker(relay, proxy=url)
        found = read_quota(HOST, "hub", None)

    assert found.remaining == 76
    assert asked == ["CONNECT auth.docker.io:443", "CONNECT registry-1.docker.io:443"]


def test_an_http_proxy_that_refuses_is_the_reason(hub: DockerHub) -> None:
    relay = f"exec {sys.executable} {hub.folder}/relay.py $port"
    with http_proxy(hub.server_address[1], status="403 Forbidden") as (url, _):
        hub.docker(relay, proxy=url)
        with pytest.raises(NoQuota, match="the HTTP proxy answers with status 403"):
            read_quota(HOST, "hub", None)

    hub.docker(relay, proxy="https://proxy.example.com")
    with pytest.raises(NoQuota, match="an HTTP proxy with TLS"):
        read_quota(HOST, "hub", None)
