"""The real Caddy and nginx accept what is rendered and refuse what is bad, and routes lead where they should."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from cryptography import x509

from components.configuration.certificates import canonical
from components.configuration.settings import CertificatePair
from components.render.proxy import (
    CERTIFICATES_DIRECTORY,
    DATA_DIRECTORY,
    GATEWAY_FILE,
    RUN_DIRECTORY,
    certificate_files,
)
from tests.harness.certificates import authority, certificate_pair, joined_pair, odd_pair
from tests.harness.configuration import loaded
from tests.harness.own_proxy import own_nginx
from tests.harness.processes import free_port, running
from tests.render.cases import END_OF_FILES, GOLDEN, configuration_of, rendered

Binary = Callable[[str], str]
#: The golden case on loopback that each server runs.
CASE = {"caddy": "local", "nginx": "nginx"}
FILE = {"caddy": "Caddyfile", "nginx": "nginx.conf"}
COMMAND = {
    "caddy": ["run", "--adapter=caddyfile", "--config"],
    "nginx": ["-e", "stderr", "-g", "daemon off;", "-c"],
}
CHECK = {"caddy": ["validate", "--adapter=caddyfile", "--config"], "nginx": ["-e", "stderr", "-t", "-c"]}
PROCESSES = ("reader", "writer", "admin", "public", "mirror-docker-io")


def runnable(text: str, folder: Path) -> str:
    """A golden configuration with the container's folders mapped into ``folder``, and what they hold in its place."""
    gateway = {"caddy": "remote_ip 127.0.0.1", "nginx": "127.0.0.1 0;"}["nginx" if "proxy_pass" in text else "caddy"]
    (folder / GATEWAY_FILE.removeprefix(f"{RUN_DIRECTORY}/")).write_text(gateway)
    for name in ("registry.example.com", "mirror.example.com", "localhost"):
        pair = certificate_pair(name)
        for path, content in zip(certificate_files(name), (pair["certificate"], pair["private_key"]), strict=True):
            target = folder / path.removeprefix(CERTIFICATES_DIRECTORY + "/")
            target.write_text(content)
    text = text.replace(CERTIFICATES_DIRECTORY, str(folder)).replace(RUN_DIRECTORY, str(folder))
    return text.replace(f"{DATA_DIRECTORY}/caddy", f"{folder}/caddy")


def validate(binary: Binary, folder: Path, server: str, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / FILE[server]
    path.write_text(text)
    return subprocess.run(
        [binary(server), *CHECK[server], str(path)],
        cwd=folder,
        env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "golden",
    [
        path
        for name in ("Caddyfile", "issuer.Caddyfile", "nginx.conf", "caddy-snippet", "nginx-snippet")
        for path in sorted(GOLDEN.glob(f"*/{name}"))
    ],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_a_golden_configuration_is_accepted(binary: Binary, tmp_path: Path, golden: Path) -> None:
    server = "nginx" if golden.name.startswith("nginx") else "caddy"
    text = golden.read_text()
    if golden.name == "nginx-snippet":
        text = own_nginx(text, tmp_path)

    answer = validate(binary, tmp_path, server, runnable(text, tmp_path))

    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("server", "spoil"),
    [
        ("caddy", lambda text: text.replace("reverse_proxy {args", "revers_proxy {args")),
        ("caddy", lambda text: text.replace("lb_try_duration 60s", "lb_try_duration soon")),
        ("caddy", lambda text: text + "}\n"),
        ("caddy", lambda text: text.replace("tls internal", "tls /nowhere/a.pem /nowhere/a.key")),
        ("nginx", lambda text: text.replace("proxy_pass http", "proxypass http")),
        ("nginx", lambda text: text.replace("proxy_read_timeout 900s", "proxy_read_timeout soon")),
        ("nginx", lambda text: text + "}\n"),
        ("nginx", lambda text: text.replace("localhost.crt", "nowhere.crt")),
    ],
)
def test_a_bad_configuration_is_refused(
    binary: Binary, tmp_path: Path, server: str, spoil: Callable[[str], str]
) -> None:
    good = (GOLDEN / CASE[server] / FILE[server]).read_text()
    bad = spoil(good)
    assert bad != good

    assert validate(binary, tmp_path, server, runnable(bad, tmp_path)).returncode != 0


@pytest.mark.parametrize("server", ["caddy", "nginx"])
def test_a_joined_chain_is_read_once_it_is_canonical_and_what_python_alone_reads_is_refused(
    binary: Binary, tmp_path: Path, server: str
) -> None:
    tls = {
        "caddy": f"https://localhost {{\n\ttls {tmp_path}/pair.crt {tmp_path}/pair.key\n}}\n",
        "nginx": f"pid {tmp_path}/nginx.pid;\nevents {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{free_port()} ssl;"
        f" ssl_certificate {tmp_path}/pair.crt; ssl_certificate_key {tmp_path}/pair.key; }} }}\n",
    }

    def accepted(chain: str, key: str) -> bool:
        (tmp_path / "pair.crt").write_text(chain)
        (tmp_path / "pair.key").write_text(key)
        return validate(binary, tmp_path, server, tls[server]).returncode == 0

    joined, odd = (CertificatePair.model_validate(made("localhost")) for made in (joined_pair, odd_pair))
    assert not accepted(*joined_pair("localhost").values())
    assert accepted(*canonical(joined))
    assert not accepted(*canonical(odd))


def trusting(text: str, folder: Path, port: int) -> ssl.SSLContext:
    """Trust in the certificates of ``runnable``, or in Caddy's own authority once it has issued; it listens earlier."""
    if "tls internal" not in text:
        return ssl.create_default_context(cadata=authority().pair()["certificate"])
    deadline = time.monotonic() + 60
    while True:
        try:
            context = ssl.create_default_context(cafile=folder / "caddy/pki/authorities/local/root.crt")
            httpx.get(f"https://localhost:{port}/", verify=context)
            return context
        except (httpx.TransportError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@dataclass(frozen=True)
class Proxy:
    """One that runs, with a client and what that trusts; ``ports`` leads from those of its configuration to its own."""

    client: httpx.Client
    ports: Mapping[str, int]
    trust: ssl.SSLContext

    def url(self, path: str, port: str = "5443") -> str:
        """Where a path is asked for."""
        return f"https://localhost:{self.ports[port]}{path}"

    def __call__(
        self,
        method: str,
        path: str,
        *,
        port: str = "5443",
        login: str | None = "known",
        headers: Mapping[str, str | bytes] | None = None,
        content: bytes | list[bytes] = b"",
    ) -> httpx.Response:
        """Ask for a path."""
        sent = ({"Authorization": f"Basic {login}"} if login else {}) | dict(headers or {})
        return self.client.request(method, self.url(path, port), headers=sent, content=content)  # type: ignore[arg-type]


@contextlib.contextmanager
def running_proxy(binary: Binary, server: str, text: str, folder: Path) -> Iterator[Proxy]:
    """A server that serves a configuration of ports 5443 and up on free ports."""
    ports = {old: free_port() for old in ("2015", "9180", "5443", "5444", "5445")}
    text = re.sub(rf"\b({'|'.join(ports)})\b", lambda found: str(ports[found[0]]), text)
    config = folder / FILE[server]
    config.write_text(runnable(text, folder))
    environment = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running([binary(server), *COMMAND[server], str(config)], ports["5444"], folder / "log", environment):
        context = trusting(text, folder, ports["5444"])
        # A connection that is refused is tried again: the servers of Caddy begin to listen one after the other.
        transport = httpx.HTTPTransport(verify=context, retries=6)
        with httpx.Client(transport=transport, timeout=30) as client:
            yield Proxy(client, ports, context)


class _Upstream(http.server.BaseHTTPRequestHandler):
    """Stands for one process: says its name and what reached it.

    The user ``stranger`` is unknown to it, and it fails for the user ``failing``.
    """

    protocol_version = "HTTP/1.1"
    process = ""
    asked: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        credentials = self.headers.get("authorization")
        said = {"process": self.process, "address": f"127.0.0.1:{self.server.server_address[1]}", "path": self.path}
        body = json.dumps(said | {"headers": dict(self.headers)}).encode()
        if "/large/" in self.path:
            body = bytes(50_000_000)
        status = {"Basic known": 200, "Basic failing": 500}.get(str(credentials), 401)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="Registry Realm"')
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Tests say enough."""


@contextlib.contextmanager
def stand_ins(text: str, processes: Sequence[str]) -> Iterator[str]:
    """A configuration whose processes are stand-ins."""
    text = re.sub(r"lb_try_duration \d+s", "lb_try_duration 1s", text)
    with contextlib.ExitStack() as stack:
        for process in processes:
            handler = type(process, (_Upstream,), {"process": process})
            upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=upstream.serve_forever, daemon=True).start()
            stack.callback(upstream.server_close)
            stack.callback(upstream.shutdown)
            text = re.sub(rf"\b{process}(-quick)?:\d+( resolve)?", f"127.0.0.1:{upstream.server_port}", text)
        yield text


@pytest.fixture(scope="module", params=["caddy", "nginx"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's files are, ``log`` among them."""
    return tmp_path_factory.mktemp(server)


@pytest.fixture(scope="module")
def proxy(binary: Binary, server: str, folder: Path) -> Iterator[Proxy]:
    """Requests through each real server, with stand-ins for the processes behind it."""
    text = (GOLDEN / CASE[server] / FILE[server]).read_text()
    with stand_ins(text, PROCESSES) as text, running_proxy(binary, server, text, folder) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "process"),
    [
        ("GET", "/v2/", "reader"),
        ("GET", "/v2/_catalog", "reader"),
        ("GET", "/v2/app/manifests/latest", "reader"),
        ("GET", "/v2/team/app/blobs/sha256:0", "reader"),
        ("GET", "/v2/blobs/uploads/manifests/latest", "reader"),
        ("POST", "/v2/app/blobs/uploads/", "writer"),
        ("POST", "/v2/app/blobs/uploads", "writer"),
        ("GET", "/v2/team/app/blobs/uploads/5f3a-1", "writer"),
        ("PATCH", "/v2/app/blobs/uploads/5f3a-1?_state=x", "writer"),
        ("PUT", "/v2/app/blobs/uploads/5f3a-1?digest=sha256:0", "writer"),
        ("DELETE", "/v2/app/blobs/uploads/5f3a-1", "writer"),
        ("PUT", "/v2/app/manifests/latest", "writer"),
        ("DELETE", "/v2/app/manifests/latest", "admin"),
        ("DELETE", "/v2/app/blobs/sha256:0", "admin"),
    ],
)
def test_each_request_reaches_the_process_that_holds_its_right(
    proxy: Proxy, method: str, path: str, process: str
) -> None:
    answer = proxy(method, path)

    assert answer.status_code == 200
    assert answer.json()["process"] == process
    assert answer.json()["path"] == path


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [("POST", "/v2/app/blobs/uploads/", "may not push"), ("PUT", "/v2/app/manifests/latest", "may not push"),
     ("DELETE", "/v2/app/manifests/latest", "may not delete")],
)  # fmt: skip
def test_a_missing_right_is_denied_with_words_that_clients_print(
    proxy: Proxy, method: str, path: str, words: str
) -> None:
    answer = proxy(method, path, login="stranger")

    assert answer.status_code == 403
    assert answer.json()["errors"][0] == {"code": "DENIED", "message": f"this credential {words}"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/app/manifests/latest", "/v2/app/blobs/uploads/5f3a-1"])
def test_who_sends_no_credentials_is_asked_for_some_by_the_proxy_itself(proxy: Proxy, method: str, path: str) -> None:
    """As the registry asks (its ``realm`` is in its configuration)."""
    _Upstream.asked.clear()
    answer = proxy(method, path, login=None, content=b"x" * 60_000 if method in ("POST", "PUT", "PATCH") else b"")

    assert answer.status_code == 401
    assert _Upstream.asked == []
    assert answer.headers.get_list("www-authenticate") == ['Basic realm="Registry Realm"']
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    if method != "HEAD":
        assert answer.json()["errors"] == [{"code": "UNAUTHORIZED", "message": "authentication required"}]


def test_who_is_refused_does_not_have_to_send_the_rest(proxy: Proxy) -> None:
    login = "Authorization: Basic known\r\n"
    requests = {
        "a login is missing": ("401", "POST /v2/app/blobs/uploads/ HTTP/1.1\r\n"),
        "a body where none belongs": ("400", f"GET /v2/ HTTP/1.1\r\n{login}"),
        "no path of the API": ("404", f"POST /other HTTP/1.1\r\n{login}"),
    }
    for what, (status, head) in requests.items():
        for framing, body in (("Content-Length: 15000", "x" * 1000), ("Transfer-Encoding: chunked", "a\r\nx")):
            with (
                socket.create_connection(("localhost", proxy.ports["5443"]), timeout=60) as plain,
                proxy.trust.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                connection.sendall(f"{head}Host: localhost\r\n{framing}\r\n\r\n{body}".encode())
                assert connection.recv(1000).startswith(f"HTTP/1.1 {status} ".encode()), what


@pytest.mark.parametrize("port", ["5443", "5444"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("content", [b"x", [b"x"]], ids=["with a length", "in chunks"])
def test_a_request_that_reads_has_no_body(proxy: Proxy, port: str, method: str, content: bytes | list[bytes]) -> None:
    answer = proxy(method, "/v2/alpine/manifests/1", port=port, content=content)

    assert answer.status_code == 400
    assert proxy(method, "/v2/alpine/manifests/1", port=port, headers={"Content-Length": "0"}).status_code < 402


DOCKER = (
    "docker/28.2.2 go/go1.24.3 git-commit/45873be kernel/6.1.0-37-cloud-amd64 os/linux arch/amd64"
    r" UpstreamClient(Docker-Client/28.2.2 \(linux\))"
)
LONG = {
    "a long URL": ("/v2/" + "a" * 997, {}),
    "a long query": ("/v2/?a=" + "a" * 1000, {}),
    "a long login": ("/v2/", {"Authorization": "Basic " + "a" * 251}),
    "a long User-Agent": ("/v2/", {"User-Agent": "a" * 513}),
    "a User-Agent in another script": ("/v2/", {"User-Agent": b"\x80"}),
    "a long Content-Type": ("/v2/", {"Content-Type": "a" * 129}),
    "many quotes in a User-Agent": ("/v2/", {"User-Agent": '"' * 17}),
    "many ampersands in a URL": ("/v2/?" + "&" * 17, {}),
    "many angle brackets in a Content-Type": ("/v2/", {"Content-Type": "<" * 17}),
}


@pytest.mark.parametrize("what", LONG)
@pytest.mark.parametrize("port", ["5443", "5444"])
def test_what_is_too_long_for_a_log_is_refused(proxy: Proxy, port: str, what: str) -> None:
    path, headers = LONG[what]
    answer = proxy("GET", path, port=port, headers=headers)

    assert answer.status_code == 400
    assert "too long" in answer.json()["errors"][0]["message"]


def test_what_clients_really_send_is_not_too_long(proxy: Proxy) -> None:
    name = "a" * 255
    longest = f"/v2/{name}/blobs/uploads/{uuid.uuid4()}?_state={'s' * 560}&digest=sha256:{'0' * 64}"

    assert proxy("PUT", longest, headers={"User-Agent": DOCKER + "a" * 300}).status_code == 200


@pytest.mark.parametrize("port", ["5443", "5444"])
def test_no_request_leaves_much_in_the_log(proxy: Proxy, folder: Path, port: str) -> None:
    log = folder / "log"
    before = log.stat().st_size
    bad = "\x80" * 3500
    worst = {name: bad.encode("latin-1") for name in ("User-Agent", "Referer", "Content-Type", "X-Other")}
    for path, method, headers in (
        ("/v2/worst", "GET", worst),
        ("/v2/worst" + "a" * 3500, "GET", {}),
        ("/v2/worst", "M" * 3500, {}),
        ("/worst", "GET", worst | {"X-Another": b"<" * 3500}),
        ("/v2/worst", "GET", {"Host": "a" * 3500}),
    ):
        assert proxy(method, path, port=port, headers=headers, login=None).status_code >= 400
    # Of a download that its client gives up, there is a line in the log of errors.
    sent = {"Authorization": "Basic known", "X-Other": bad.encode("latin-1")}
    with proxy.client.stream("GET", proxy.url("/v2/large/blobs/sha256:0", port), headers=sent) as answer:
        next(answer.iter_bytes(1000))
    assert proxy("GET", "/v2/end", port=port, headers={"User-Agent": "a" * 512}).status_code == 200

    # Each worker of nginx keeps its lines for a second, so lines of earlier requests can follow that of the last.
    deadline = time.monotonic() + 60
    while b"/v2/end" not in (added := log.read_bytes()[before:]) or len(lines := added.splitlines()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert max(map(len, lines)) < 2000


def test_a_wrong_login_on_a_read_gets_the_registrys_own_answer(proxy: Proxy) -> None:
    assert proxy("GET", "/v2/", login="stranger").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "content", "right"),
    [
        ("PATCH", "/v2/app/blobs/uploads/1", [b"x" * 20_000], "push"),
        ("PUT", "/v2/app/blobs/uploads/1?digest=sha256:0", b"", "push"),
        ("PUT", "/v2/app/manifests/1", b"{}", "push"),
        ("DELETE", "/v2/app/manifests/sha256:0", b"", "delete"),
    ],
)
def test_a_write_that_the_registry_cannot_store_is_told_as_such(
    proxy: Proxy, method: str, path: str, content: bytes | list[bytes], right: str
) -> None:
    answer = proxy(method, path, login="failing", content=content)

    assert (answer.status_code, answer.reason_phrase) == (507, "Insufficient Storage")
    (error,) = answer.json()["errors"]
    assert error["message"].startswith(f"this {right} failed: the disk of the registry is full or broken")
    assert proxy("GET", "/v2/app/manifests/1", login="failing").status_code == 500


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("/v2/alpine/manifests/latest", "/v2/library/alpine/manifests/latest"),
        ("/v2/alpine/blobs/sha256:0?ns=docker.io", "/v2/library/alpine/blobs/sha256:0?ns=docker.io"),
        ("/v2/alpine/tags/list", "/v2/library/alpine/tags/list"),
        ("/v2/library/alpine/manifests/latest", "/v2/library/alpine/manifests/latest"),
        ("/v2/grafana/grafana/manifests/latest", "/v2/grafana/grafana/manifests/latest"),
        ("/v2/", "/v2/"),
    ],
)
def test_the_mirror_of_docker_hub_adds_library_to_official_images(proxy: Proxy, asked: str, sent: str) -> None:
    assert proxy("GET", asked, port="5444").json()["path"] == sent


@pytest.mark.parametrize(
    ("port", "path"),
    [
        ("5443", "/v2/app/manifests/latest"),
        ("5444", "/v2/alpine/manifests/latest"),
        ("5444", "/v2/grafana/grafana/manifests/latest"),
    ],
)
def test_the_log_names_the_process_that_answered(proxy: Proxy, server: str, folder: Path, port: str, path: str) -> None:
    asked = f"{path}?once={port}"
    answer = proxy("GET", asked, port=port).json()

    deadline = time.monotonic() + 60
    while not (lines := [line for line in (folder / "log").read_text().splitlines() if asked in line]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [json.loads(line)["upstream"] for line in lines] == [answer["process" if server == "nginx" else "address"]]


def test_the_mirror_is_for_pulling(proxy: Proxy) -> None:
    answer = proxy("POST", "/v2/app/blobs/uploads/", port="5444")

    assert answer.status_code == 405
    assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


@pytest.mark.parametrize("path", ["/", "/v1/", "/metrics", "/healthz", "/v2x/", "/debug/pprof/"])
@pytest.mark.parametrize("port", ["5443", "5444"])
def test_nothing_but_the_registry_api_is_served(proxy: Proxy, port: str, path: str) -> None:
    assert proxy("GET", path, port=port).status_code == 404


@pytest.mark.parametrize("port", ["5443", "5444"])
def test_answers_carry_hsts_and_no_version(proxy: Proxy, port: str) -> None:
    headers = proxy("GET", "/v2/", port=port).headers

    assert headers["strict-transport-security"] == "max-age=63072000"
    assert headers.get("server", "") in ("", "nginx"), "a version tells which holes are open"
    assert "via" not in headers


@pytest.mark.parametrize("server", ["caddy", "nginx"])
def test_addresses_outside_the_allow_list_are_refused(binary: Binary, tmp_path: Path, server: str) -> None:
    values = configuration_of(CASE[server])
    values["mirrors"]["docker.io"]["allow"] = ["192.0.2.0/24"]
    text = rendered(*loaded(values))[FILE[server]]

    with running_proxy(binary, server, text, tmp_path) as proxy:
        answer = proxy("GET", "/v2/", port="5444")

    assert answer.status_code == 403
    assert answer.json()["errors"][0]["code"] == "DENIED"


@contextlib.contextmanager
def issuing(binary: Binary, text: str, port: int, folder: Path, names: set[str]) -> Iterator[None]:
    """A Caddy that listens on ``port``, once its authority has issued certificates for ``names``."""
    config, log = folder / f"issuing-{port}", folder / f"issuing-{port}.log"
    config.write_text(runnable(text, folder))
    environment = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running([binary("caddy"), *COMMAND["caddy"], str(config)], port, log, environment):
        deadline = time.monotonic() + 60
        while not all((folder / f"caddy/certificates/local/{name}/{name}.crt").exists() for name in names):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield


@pytest.mark.parametrize(
    ("server", "host", "names"),
    [
        ("caddy", "localhost", {"localhost", "127.0.0.1"}),
        ("caddy", "127.0.0.1", {"localhost", "127.0.0.1"}),
        ("caddy", "192.0.2.1", {"192.0.2.1"}),
        ("nginx", "localhost", {"localhost", "127.0.0.1"}),
    ],
)
def test_internal_certificates_cover_any_address_and_both_names_of_loopback(
    binary: Binary, tmp_path: Path, server: str, host: str, names: set[str]
) -> None:
    values = configuration_of(CASE[server])
    values["proxy"] = {"server": server, "certificates": {"internal": {}}}
    values |= {"certificates": {}, "mirrors": {}, "acknowledge": []}
    values["registry"] = {"url": f"https://{host}:5443", "users": values["registry"]["users"]}
    files, port, health = rendered(*loaded(values)), free_port(), free_port()
    ports = {"5443": str(port), "2015": str(health)}
    text = re.sub("|".join(ports), lambda found: ports[found[0]], files[FILE[server]])
    with contextlib.ExitStack() as stack:
        if server == "caddy":
            stack.enter_context(issuing(binary, text, port, tmp_path, names))
        else:
            own, unused = free_port(), f"{{\n\thttp_port {free_port()}\n\thttps_port {free_port()}\n"
            beside = files["issuer.Caddyfile"].replace("2015", str(own)).replace("{\n", unused, 1)
            stack.enter_context(issuing(binary, beside, own, tmp_path, names))
            config = tmp_path / FILE[server]
            # Its workers read the certificates, which nobody else may in this folder.
            config.write_text(f"user root;\n{runnable(text, tmp_path)}")
            stack.enter_context(running([binary(server), *COMMAND[server], str(config)], port, tmp_path / "log"))
        # Where its connections end is another address, as in a container; and for an address, clients send no SNI.
        elsewhere = ["--connect-to", f"::127.0.0.9:{port}"]
        answers = {
            name: subprocess.run(
                [
                    *["curl", "--silent", "--show-error", *elsewhere, f"https://{name}:{port}/"],
                    *["--cacert", str(tmp_path / "caddy/pki/authorities/local/root.crt")],
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            for name in names | {"127.0.0.2", "sub.localhost"}
        }

    served = {name for name, answer in answers.items() if "registry API under /v2/" in answer.stdout}
    assert served == names, answers
    assert {name for name, answer in answers.items() if answer.returncode} == answers.keys() - names, "a certificate"


@pytest.mark.parametrize(("server", "source"), [("caddy", "internal"), ("caddy", "files"), ("nginx", "files")])
def test_the_metrics_say_when_each_certificate_ends(binary: Binary, tmp_path: Path, server: str, source: str) -> None:
    values = configuration_of(CASE[server])
    values["proxy"] |= {"certificates": {source: {}}, "metrics_port": 9180}
    if source == "files":
        values["certificates"] = {"localhost": certificate_pair("localhost")}
    text = rendered(*loaded(values))[FILE[server]]

    with running_proxy(binary, server, text, tmp_path) as proxy:
        proxy("GET", "/")
        said = proxy.client.get(f"http://127.0.0.1:{proxy.ports['9180']}/metrics")
        served = x509.load_pem_x509_certificate(ssl.get_server_certificate(("localhost", proxy.ports["5443"])).encode())
        other = proxy.client.get(f"http://127.0.0.1:{proxy.ports['9180']}/v2/")

    end = int(served.not_valid_after_utc.timestamp()) if server == "caddy" else END_OF_FILES
    line = f'tls_certificate_not_after_timestamp_seconds{{host="localhost"}} {end}'
    assert line in said.text.splitlines()
    assert said.headers["content-type"].startswith("text/plain")
    assert ("caddy_http_requests_total" in said.text) is (server == "caddy")
    assert other.status_code == 404
