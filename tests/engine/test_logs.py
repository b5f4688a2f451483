"""From the logs a person sees who did what, and fail2ban sees who guesses; nobody sees a password."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

from components.configuration.naming import PORTS
from tests.engine.attacks import PATIENCE, basic, connected, exchange, http1, logged, statuses
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.images import random_layer, write_layout
from tests.harness.processes import until
from tests.harness.small_stack import PREFIX, REGISTRY_PORT, DockerHost, running_stack
from tests.harness.stack import Stack, engine_address

pytestmark = pytest.mark.once

#: Of the addresses that a network has for documentation: no line may come from it.
CLAIMED = "192.0.2.66"
#: Of 20 MB, which the processes that write and delete keep.
FILES = 30


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack that answers others than the Docker host, too."""
    proxy = {**docker_host.proxy, "address": "0.0.0.0"}
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(client, docker_host, folder, proxy=proxy, acknowledge=["open_mirror"]) as running:
        yield running


@pytest.fixture(scope="module")
def since() -> float:
    """When the tests began."""
    return time.time()


@pytest.fixture(scope="module")
def pushed(stack: Stack, since: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of team/app:1, which ci pushed, production pulled and boss deleted."""
    folder = tmp_path_factory.mktemp("logs")
    layout = folder / "layout"
    write_layout(layout, [random_layer(100_000)])
    for answer in (
        clients.Skopeo(stack, folder, "ci").push(layout, "team/app:1"),
        clients.Skopeo(stack, folder, "production").pull("team/app:1", folder / "pulled"),
        clients.Skopeo(stack, folder, "boss").delete("team/app:1"),
    ):
        assert answer.returncode == 0, answer.stderr
    return layout


def test_the_processes_say_who_did_what(client: docker.DockerClient, pushed: Path, since: float) -> None:
    index = json.loads((pushed / "index.json").read_text())
    manifest = index["manifests"][0]
    layer = json.loads((pushed / "blobs/sha256" / manifest["digest"][7:]).read_text())["layers"][0]

    expected = {
        ("writer", "ci", "PUT", "team/app", 201, "1", 0),
        ("reader", "production", "GET", "team/app", 200, "1", manifest["size"]),
        ("reader", "production", "GET", "team/app", 200, layer["digest"], layer["size"]),
        ("admin", "boss", "DELETE", "team/app", 202, manifest["digest"], 0),
    }

    def done(lines: list[tuple[str, dict]]) -> set[tuple]:
        return {
            (
                role,
                line["auth.user.name"],
                line["http.request.method"],
                line["vars.name"],
                line["http.response.status"],
                line.get("vars.reference") or line.get("vars.digest"),
                line["http.response.written"],
            )
            for role, line in lines
            if line.get("msg") == "response completed" and "vars.name" in line
        }

    assert expected - done(logged(client, since, lambda lines: expected <= done(lines))) == set()


def test_the_proxy_says_how_much_was_received_and_who_answered(
    stack: Stack, client: docker.DockerClient, pushed: Path, since: float
) -> None:
    def by_uri(lines: list[tuple[str, dict]]) -> dict[str, dict]:
        return {line["request"]["uri"]: line for role, line in lines if role == "proxy" and "request" in line}

    def uploads(lines: list[tuple[str, dict]]) -> set[str]:
        own = (line for role, line in lines if role == "writer" and line.get("http.request.method") == "PATCH")
        return {line["http.request.uri"] for line in own}

    lines = logged(client, since, lambda lines: set() < uploads(lines) <= by_uri(lines).keys())
    proxied = [by_uri(lines)[uri] for uri in uploads(lines)]
    layer = max((path.stat().st_size for path in (pushed / "blobs/sha256").iterdir()), default=0)

    received = {line["bytes_read"] for line in proxied}
    head = 4096 if stack.proxy == "nginx" else 0  # which it counts, too
    assert any(layer <= count <= layer + head for count in received)
    named = {"caddy": f"writer:{PORTS['writer']}", "nginx": "writer"}[stack.proxy]
    assert {line["upstream"] for line in proxied} == {named}


@pytest.fixture
def elsewhere(client: docker.DockerClient) -> Iterator[str]:
    """An address of the host on a network of its own; the engine does not translate it where a network is internal."""
    network = client.networks.create(f"{PREFIX}-elsewhere", internal=True, labels={"registry-stack.prefix": PREFIX})
    network.reload()
    yield network.attrs["IPAM"]["Config"][0]["Gateway"]
    network.remove()


def test_the_address_is_that_of_the_connection_whatever_a_client_claims(
    stack: Stack, client: docker.DockerClient, elsewhere: str
) -> None:
    """Straight to the proxy's container: through the published port each client on this host has the same address."""
    networks = clients.containers(client, PREFIX)["proxy"].attrs["NetworkSettings"]["Networks"]
    since = time.time()
    claims = [f"X-Forwarded-For: {CLAIMED}", f"X-Real-IP: {CLAIMED}", f"Forwarded: for={CLAIMED}"]
    request = http1("GET", "/v2/", *claims, basic("ci", "wrong")).replace(b"{mark}", b"from-elsewhere")
    target = (networks[f"{PREFIX}-edge"]["IPAddress"], REGISTRY_PORT)

    with (
        socket.create_connection(target, timeout=PATIENCE, source_address=(elsewhere, 0)) as plain,
        stack.trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert statuses(exchange(connection, request)) == ["401"]

    def processes(lines: list[tuple[str, dict]]) -> list[dict]:
        return [line for _, line in lines if line.get("http.request.useragent") == "from-elsewhere"]

    def proxied(lines: list[tuple[str, dict]]) -> list[dict]:
        return [line["request"] for role, line in lines if role == "proxy" and "from-elsewhere" in json.dumps(line)]

    lines = logged(client, since, lambda lines: bool(processes(lines) and proxied(lines)))
    assert {line["http.request.remoteaddr"] for line in processes(lines)} == {elsewhere}
    assert {(request["remote_ip"], request["client_ip"]) for request in proxied(lines)} == {(elsewhere, elsewhere)}


def test_no_log_holds_a_credential(stack: Stack, client: docker.DockerClient, pushed: Path) -> None:
    secrets = []
    for user, password in stack.users.items():
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        secrets += [password, pair]
        for headers in (
            {"Authorization": f"Basic {pair}"},
            {"Authorization": f"Bearer {pair}"},
            {"Proxy-Authorization": f"Basic {pair}"},
            {"Cookie": f"token={pair}"},
        ):
            for method in ("GET", "PUT", "DELETE"):
                url = f"https://{stack.registry}/v2/team/app/manifests/none"
                httpx.request(method, url, headers=headers, verify=stack.trust, timeout=PATIENCE)
    time.sleep(2)
    running = [one for one in clients.containers(client, PREFIX).values() if one.status == "running"]
    logs = "".join(container.logs().decode(errors="replace") for container in running)

    assert "/v2/team/app/manifests/none" in logs
    assert [secret for secret in secrets if secret in logs] == []


def test_logs_are_rotated(stack: Stack, client: docker.DockerClient) -> None:
    configs = {
        role: container.attrs["HostConfig"]["LogConfig"]
        for role, container in clients.containers(client, PREFIX).items()
        if container.status == "running"
    }

    assert set(configs) >= {"proxy", "reader", "writer", "admin"}
    for role, config in configs.items():
        files = str(FILES) if role in ("writer", "admin") else "5"
        assert config == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": files, "compress": "true"}}


@pytest.mark.parametrize(("role", "method"), [("writer", "PUT"), ("admin", "DELETE")])
def test_a_push_and_a_delete_stay_in_the_log_under_100_000_requests_without_a_right_login(
    stack: Stack, client: docker.DockerClient, role: str, method: str
) -> None:
    """Their lines are counted in the engine's own file, for requests as long as the proxy lets through."""
    count = 20
    login = base64.b64encode(b"ci:" + b"\x80" * 178)
    odd = '"' * 16
    worst = {"Authorization": b"Basic " + login, "User-Agent": f"{odd:x<512}", "Content-Type": f"{odd:x<128}"}
    worst |= {"X-Other": "x" * 4000, "Referer": "x" * 4000}
    path = f"/v2/{'x' * 250}/manifests/1?{'&' * 16:x<730}"
    before = len(log_file(client, role))
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 0"]
    head = "\r\n".join(lines).encode()
    for name, value in worst.items():
        head += f"\r\n{name}: ".encode() + (value if isinstance(value, bytes) else value.encode())
    with connected(stack.trust, REGISTRY_PORT) as connection:
        for _ in range(count):
            assert statuses(exchange(connection, head + b"\r\n\r\n", pause=0.5)) == ["403"]
    time.sleep(1)

    each = (len(log_file(client, role)) - before) / count
    print(f"\n{stack.proxy}, {role}: {each:.0f} bytes for a wrong login of the longest kind")
    assert each > 1000
    assert 100_000 * each < FILES * 20e6


def documented_filter() -> list[re.Pattern[str]]:
    """The failregex lines of docs/logs.md, with what fail2ban puts in place of <HOST>."""
    text = (ROOT / "docs" / "logs.md").read_text()
    block = text.partition("failregex = ")[2].partition("datepattern")[0]
    return [re.compile(line.strip().replace("<HOST>", r"(?P<host>[0-9a-fA-F.:]+)")) for line in block.splitlines()]


def log_file(client: docker.DockerClient, role: str) -> str:
    """What the engine's log file of a process holds, as fail2ban reads it on the host.

    By the docker command: the SDK loses output on a busy engine.
    """
    path = Path(clients.containers(client, PREFIX)[role].attrs["LogPath"])
    cat = ("--entrypoint=cat", f"--volume={path.parent}:/log:ro", clients.IMAGES.registry, f"/log/{path.name}")
    answer = clients.run("docker", "--host", engine_address(), "run", "--rm", "--network=none", *cat)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_documented_filter_counts_each_guess_once_and_nothing_else(
    stack: Stack, client: docker.DockerClient, pushed: Path
) -> None:
    def matches() -> list[str]:
        lines = "".join(log_file(client, role) for role in ("reader", "writer", "admin")).splitlines()
        found = (pattern.search(line) for line in lines for pattern in documented_filter())
        return [match["host"] for match in found if match]

    url = f"https://{stack.registry}/v2"
    before = len(matches())
    with httpx.Client(verify=stack.trust, timeout=PATIENCE) as session:
        # What a user agent, a name or a path claims stands in the same line.
        address = f'"http.request.method":"GET","http.request.remoteaddr":"{CLAIMED}"'
        claim = f'x",{address},"msg":"user failed to authenticate","'
        session.headers["User-Agent"] = claim
        guesses = [
            ("GET", "/", ("ci", "wrong")),
            ("HEAD", "/app/manifests/1", ("boss", claim)),
            ("GET", "/_catalog", ("root", "root")),
            ("GET", "/_catalog", (claim.replace(":", " "), "x")),
            ("POST", "/app/blobs/uploads/", ("ci", "wrong")),
            ("PUT", "/app/manifests/1", ("boss", "wrong")),
            ("DELETE", "/app/manifests/1", ("boss", "wrong")),
        ]
        harmless = [
            ("GET", "/", None),
            ("POST", "/app/blobs/uploads/", None),
            ("GET", "/", ("ci", stack.users["ci"])),
            ("POST", "/app/blobs/uploads/", ("production", stack.users["production"])),
            ("DELETE", "/app/manifests/1", ("ci", stack.users["ci"])),
            ("GET", f"/app/manifests/{claim}", ("ci", stack.users["ci"])),
        ]
        for method, path, login in [*guesses, *harmless]:
            session.request(method, url + path, auth=login)
    time.sleep(1)
    until(lambda: len(matches()) - before >= len(guesses))

    found = matches()
    assert len(found) - before == len(guesses)
    assert CLAIMED not in found
