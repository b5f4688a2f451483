"""Large layers, many tags, many clients at once, slow ones, and ways to send a body that not every client takes.

Slow clients and stalled ones are at work beside all other tests, since theirs would take minutes alone.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urljoin

import docker
import pytest

from components._delivery import archive
from tests.engine.attacks import basic, connected, http1, statuses
from tests.engine.transfers import (
    MEGABYTE,
    PATIENCE,
    Connection,
    Layer,
    digest_of,
    kept,
    paced,
    proxy,
    proxy_address,
    resident,
    sampled,
)
from tests.harness import clients
from tests.harness.small_stack import PREFIX, REGISTRY_PORT, DockerHost, running_stack
from tests.harness.stack import Stack

pytestmark = [pytest.mark.once, pytest.mark.load]

As = Callable[..., Connection]
Curl = Callable[..., subprocess.CompletedProcess[bytes]]
REPOSITORY = "team/large"
#: Half of what the proxy may use.
ENOUGH_MEMORY = 128
TAGS = 10_000
AT_ONCE = 200
SLOW_REPOSITORY, SLOW_RATE = "team/slow", 50_000
#: Some 2 MB of what is pulled lie in buffers behind the proxy, which is done with them.
SLOW_SECONDS = {"pull": 210, "push": 160}
#: A pull is cut after half a minute. A push may stall for longer than a minute, nginx' own limit.
STALL_SECONDS = {"pull": 20, "push": 75}


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack that has little left to remove at its end."""
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack")) as running:
        yield running
        # The engine takes longer than its API may to remove a volume with so many files, some of which are root's.
        data = {f"{PREFIX}-registry-data": {"bind": "/data", "mode": "rw"}}
        client.containers.run(
            clients.IMAGES.registry, remove=True, entrypoint=["rm", "-rf", "/data/docker"], volumes=data
        )


@pytest.fixture(scope="module")
def trust(stack: Stack) -> ssl.SSLContext:
    return stack.trust


@pytest.fixture(scope="module")
def as_user(stack: Stack, trust: ssl.SSLContext) -> As:
    """A connection of its own as a user."""
    return functools.partial(Connection, stack, trust)


@pytest.fixture(scope="module")
def address(stack: Stack, client: docker.DockerClient) -> str:
    return proxy_address(client)


@pytest.fixture
def ci(as_user: As) -> Iterator[Connection]:
    with as_user("ci") as connection:
        yield connection


@pytest.fixture
def production(as_user: As) -> Iterator[Connection]:
    with as_user("production") as connection:
        yield connection


@pytest.fixture(scope="module")
def curl(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Curl:
    """curl as a user who may push; what it prints is what it gets, and it fails where the answer is an error."""
    config = tmp_path_factory.mktemp("curl") / "config"
    config.write_text(f'user = "ci:{stack.users["ci"]}"\ncacert = "{stack.certificate_file}"\n')
    always = ("curl", "--config", str(config), "--silent", "--show-error", "--fail", "--max-time", str(PATIENCE))

    def run(*arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
        command = [*always, *arguments]
        return subprocess.run(command, stdin=stdin, capture_output=True, check=False, timeout=2 * PATIENCE)

    return run


@pytest.fixture(autouse=True)
def _enough_memory(stack: Stack, client: docker.DockerClient, request: pytest.FixtureRequest) -> Iterator[None]:
    """During every test, the proxy uses half of what it may at most."""
    with sampled(proxy(client)) as used:
        yield
    most = f"{used.peak:.0f} MB at most in {used.samples} samples, {resident(proxy(client))} MB resident so far"
    print(f"\n{stack.proxy}, {request.node.name}: {most}", flush=True)
    assert used.samples > 0
    assert used.peak < ENOUGH_MEMORY


# --- Slow clients -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_layers() -> dict[str, Layer]:
    slow = {what: Layer(SLOW_RATE * seconds) for what, seconds in SLOW_SECONDS.items()}
    return slow | {"stalled pull": Layer(16 * MEGABYTE), "stalled push": Layer(8 * MEGABYTE)}


@pytest.fixture(scope="module", autouse=True)
def slow(
    as_user: As, address: str, slow_layers: dict[str, Layer]
) -> Iterator[dict[str, concurrent.futures.Future[str]]]:
    """Clients that receive and send 50 kB a second, and such that stand still; they end with the layer's digest."""
    stop = threading.Event()

    def at_their_pace(pieces: Iterator[bytes]) -> Iterator[bytes]:
        return paced(pieces, SLOW_RATE, stop)

    def with_a_stall(what: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number == 2:
                stop.wait(STALL_SECONDS[what])
            yield piece

    def pull(what: str, pace: Callable[[Iterator[bytes]], Iterator[bytes]], at_once: int) -> str:
        with as_user("production", address, receive_buffer=32 * 1024) as connection:
            return digest_of(pace(connection.pull(SLOW_REPOSITORY, slow_layers[what].digest, at_once)))

    def push(what: str, pace: Callable[[Iterator[bytes]], Iterator[bytes]]) -> str:
        layer = slow_layers[what]
        with as_user("ci", address) as connection:
            connection.push(SLOW_REPOSITORY, layer, pace(layer.pieces()))
        with as_user("production") as connection:
            return digest_of(connection.pull(SLOW_REPOSITORY, layer.digest))

    with as_user("ci") as connection:
        for what in ("pull", "stalled pull"):
            connection.push(SLOW_REPOSITORY, slow_layers[what])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield {
            "pull": pool.submit(pull, "pull", at_their_pace, SLOW_RATE // 10),
            "push": pool.submit(push, "push", at_their_pace),
            "stalled pull": pool.submit(pull, "stalled pull", functools.partial(with_a_stall, "pull"), MEGABYTE),
            "stalled push": pool.submit(push, "stalled push", functools.partial(with_a_stall, "push")),
        }
        stop.set()


# --- Large ------------------------------------------------------------------------------------------------------------


def test_a_layer_of_5_gigabytes_travels_and_the_proxy_keeps_nothing_of_it(
    client: docker.DockerClient, ci: Connection, production: Connection
) -> None:
    layer = Layer(5 * 1024 * MEGABYTE)
    before = kept(proxy(client))
    during = []

    def observed(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number % 1024 == 512:
                during.append(kept(proxy(client)))
            yield piece

    ci.push(REPOSITORY, layer, observed(layer.pieces()))
    received = digest_of(observed(production.pull(REPOSITORY, layer.digest)))

    assert received == layer.digest
    assert len(during) == 10
    assert max(during) - before < 100, f"KB in the proxy's files: {before} before, {during} during the transfers"


# --- Many -------------------------------------------------------------------------------------------------------------


def test_10000_tags_are_listed_whole_page_by_page_and_by_skopeo(
    stack: Stack,
    client: docker.DockerClient,
    skopeo: Callable[[str | None], clients.Skopeo],
    as_user: As,
    production: Connection,
) -> None:
    repository, names = "team/many", [f"build-{number:05}" for number in range(TAGS)]
    with as_user("ci") as connection:
        config = b"{}"
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        connection.ask("PUT", f"{connection.started(repository)}&digest={digest}", 201, body=config)
    kind = "application/vnd.oci.image.manifest.v1+json"
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": described, "layers": []}).encode()

    with as_user("ci") as connection:
        path = f"/v2/{repository}/manifests/{names[0]}"
        headers, _ = connection.ask("PUT", path, 201, body=manifest, Content_Type=kind)
    # The others go straight to its store: by requests they would take a minute, and other tests make many of these.
    digest = headers["Docker-Content-Digest"]
    links = [f"{name}/{link}/link" for name in names[1:] for link in ("current", f"index/{digest.replace(':', '/')}")]
    tags = f"/var/lib/registry/docker/registry/v2/repositories/{repository}/_manifests/tags"
    writer = clients.containers(client, PREFIX)["writer"]
    assert writer.put_archive(tags, base64.b64decode(archive(dict.fromkeys(links, digest))))

    host = f"https://{stack.registry}"
    listed, page, pages = [], f"{host}/v2/{repository}/tags/list?n=999", 0
    while page and pages < 20:
        headers, text = production.ask("GET", page.removeprefix(host), 200)
        listed += json.loads(text)["tags"]
        link = re.fullmatch(r'<(.+)>; rel="next"', headers.get("Link", ""))
        page = urljoin(page, link[1]) if link else ""
        assert not page or page.startswith(f"{host}/v2/"), f"the next page is not at the proxy: {page}"
        pages += 1
    assert listed == names
    assert pages == 11
    answer = skopeo("production").list_tags(repository)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["Tags"] == names


@pytest.fixture(scope="module")
def popular(stack: Stack, as_user: As) -> Layer:
    """A layer that many pull at once, larger than what the proxy's buffers hold."""
    layer = Layer(4 * MEGABYTE)
    with as_user("ci") as connection:
        connection.push(REPOSITORY, layer)
    return layer


def test_200_clients_pull_a_layer_at_once(as_user: As, address: str, popular: Layer) -> None:
    everybody = threading.Barrier(AT_ONCE, timeout=PATIENCE)

    def pull(_: int) -> str:
        with as_user("production", address, receive_buffer=64 * 1024) as connection:
            pieces = connection.pull(REPOSITORY, popular.digest)
            next(pieces)
            everybody.wait()  # Each has the head of its answer, and no more than its small buffer takes.
            return digest_of(pieces)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        received = list(pool.map(pull, range(AT_ONCE)))

    assert received == [popular.digest] * AT_ONCE


def test_200_pulls_by_a_client_that_asks_for_http_2(stack: Stack, curl: Curl, popular: Layer, tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(AT_ONCE)]
    url = f"https://{stack.registry}/v2/{REPOSITORY}/blobs/{popular.digest}"
    wanted = itertools.chain.from_iterable(("--output", str(file), url) for file in files)
    said = ("--write-out", "%{http_code} %{http_version}\n")

    answer = curl("--http2", "--parallel", "--parallel-max", str(AT_ONCE), *said, *wanted)

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.decode().splitlines() == ["200 1.1"] * AT_ONCE
    for file in files:
        assert digest_of([file.read_bytes()]) == popular.digest
        file.unlink()


# --- Bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 8 * MEGABYTE], ids=["1 KB", "8 MB"])
@pytest.mark.parametrize("framing", ["with a length", "without a length"])
def test_a_layer_comes_with_and_without_a_length(
    stack: Stack, curl: Curl, ci: Connection, tmp_path: Path, framing: str, size: int
) -> None:
    layer, file = Layer(size), tmp_path / "layer"
    file.write_bytes(b"".join(layer.pieces()))
    upload = ci.started(REPOSITORY)
    said = ("--write-out", "%{http_code}", "--output", str(tmp_path / "answer"))
    content = ("--upload-file", str(file) if framing == "with a length" else "-")

    with file.open("rb") as stream:
        # Without an Expect, which curl would send with large bodies: that is another test.
        options = ("--request", "PATCH", "--header", "Expect:")
        sent = curl(*options, *content, *said, f"https://{stack.registry}{upload}", stdin=stream)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.decode() == "202"
    headers, _ = ci.ask("GET", upload, 204)
    assert headers["Range"] == f"0-{size - 1}"
    ci.finish(headers["Location"], layer.digest)

    pulled = curl(f"https://{stack.registry}/v2/{REPOSITORY}/blobs/{layer.digest}")
    assert pulled.returncode == 0, pulled.stderr
    assert digest_of([pulled.stdout]) == layer.digest


def answered(connection: ssl.SSLSocket, after: str = "") -> str:
    """The status of the next answer, behind those that are ``after``: more than one process may say "go on"."""
    for _ in range(3):
        received = b""
        while b"\r\n\r\n" not in received and (some := connection.recv(1)):
            received += some
        status = "+".join(statuses(received))
        if status != after:
            break
    return status


def test_who_asks_before_sending_is_told_to_go_on(stack: Stack, trust: ssl.SSLContext, ci: Connection) -> None:
    layer = Layer(2 * MEGABYTE)
    content = b"".join(layer.pieces())
    upload = ci.started(REPOSITORY)
    login = basic("ci", stack.users["ci"])
    head = http1("PATCH", upload, login, "Expect: 100-continue", body=content).removesuffix(content)

    with connected(trust, REGISTRY_PORT) as connection:
        connection.sendall(head)
        assert answered(connection) == "100"
        connection.sendall(content)
        assert answered(connection, after="100") == "202"

    headers, _ = ci.ask("GET", upload, 204)
    ci.finish(headers["Location"], layer.digest)
    assert digest_of(ci.pull(REPOSITORY, layer.digest)) == layer.digest


def test_who_asks_before_sending_and_may_not_push_is_refused_before_most_of_the_body(
    stack: Stack, trust: ssl.SSLContext, ci: Connection
) -> None:
    """Both proxies say "go on" before they ask the process, and that reads 256 KB before it says no."""
    content = bytes(4 * MEGABYTE)
    login = basic("production", stack.users["production"])
    request = http1("PATCH", ci.started(REPOSITORY), login, "Expect: 100-continue", body=content)
    with connected(trust, REGISTRY_PORT) as connection:
        connection.sendall(request.removesuffix(content))
        assert answered(connection) == "100"
        # Who has answered may close before it has taken all.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(content[: MEGABYTE // 2])
        assert answered(connection, after="100") == "403"


def test_who_asks_before_sending_and_has_no_login_is_asked_for_one_at_once(
    stack: Stack, trust: ssl.SSLContext, ci: Connection
) -> None:
    """nginx says "go on" all the same, since it takes and forgets what comes."""
    content = bytes(4 * MEGABYTE)
    request = http1("PATCH", ci.started(REPOSITORY), "Expect: 100-continue", body=content)
    with connected(trust, REGISTRY_PORT) as connection:
        connection.sendall(request.removesuffix(content))
        assert answered(connection, after={"caddy": "", "nginx": "100"}[stack.proxy]) == "401"


def test_a_body_that_the_registry_does_not_want_gets_the_answer_of_the_registry(
    stack: Stack, trust: ssl.SSLContext, ci: Connection
) -> None:
    """Not that of a proxy that was cut while it sent: whether it was, is chance, hence many tries."""
    content = bytes(4 * MEGABYTE)
    headers = (basic("ci", stack.users["ci"]), f"Content-Range: 5-{len(content) + 4}")
    seen = Counter(refused(trust, http1("PATCH", ci.started(REPOSITORY), *headers, body=content)) for _ in range(60))

    assert seen == {"416": 60}, "an upload that has nothing yet cannot go on at byte 5"


def refused(trust: ssl.SSLContext, request: bytes) -> str:
    """Send a request for as long as there is no answer; the answer's status."""
    received = b""
    with connected(trust, REGISTRY_PORT) as connection:
        # The other side may close before it has taken all.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for start in range(0, len(request), 65536):
                connection.settimeout(PATIENCE)
                connection.sendall(request[start : start + 65536])
                connection.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    received = connection.recv(65536)
                    break
        connection.settimeout(PATIENCE)
        return "+".join(statuses(received or connection.recv(65536)))


def test_an_upload_goes_on_where_a_broken_connection_left_it(
    ci: Connection, production: Connection, as_user: As
) -> None:
    layer = Layer(32 * MEGABYTE)
    upload = ci.started(REPOSITORY)
    with as_user("ci") as connection:
        connection.putrequest("PATCH", upload)
        for name, value in (connection.login | {"Transfer-Encoding": "chunked"}).items():
            connection.putheader(name, value)
        connection.endheaders()
        for piece in itertools.islice(layer.pieces(), 16):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        # Without a farewell, as when a cable is pulled.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    location, start = settled(ci, upload)
    assert MEGABYTE < start <= 16 * MEGABYTE, "nothing to go on from"
    rest = b"".join(layer.pieces(start))
    headers, _ = ci.ask("PATCH", location, 202, body=rest, Content_Range=f"{start}-{layer.size - 1}")
    assert headers["Range"] == f"0-{layer.size - 1}"
    ci.finish(headers["Location"], layer.digest)

    assert digest_of(production.pull(REPOSITORY, layer.digest)) == layer.digest


def settled(connection: Connection, upload: str) -> tuple[str, int]:
    """Where an upload goes on and at which byte, once the registry has noticed that nobody sends any more."""
    known, since = "", time.monotonic()
    while time.monotonic() - since < 5:
        headers, _ = connection.ask("GET", upload, 204)
        if headers["Range"] != known:
            known, since = headers["Range"], time.monotonic()
        time.sleep(1)
    return headers["Location"], int(known.removeprefix("0-")) + 1


# --- The end of the slow clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pull", "push"])
def test_a_client_that_stands_still_for_a_while_ends_well(
    slow: dict[str, concurrent.futures.Future[str]], slow_layers: dict[str, Layer], what: str
) -> None:
    received = slow[f"stalled {what}"].result(timeout=STALL_SECONDS[what] + 3 * PATIENCE)

    assert received == slow_layers[f"stalled {what}"].digest


@pytest.mark.parametrize(("what", "method"), [("pull", "GET"), ("push", "PATCH")])
def test_a_client_of_50_kb_a_second_ends_well(
    client: docker.DockerClient,
    slow: dict[str, concurrent.futures.Future[str]],
    slow_layers: dict[str, Layer],
    what: str,
    method: str,
) -> None:
    received = slow[what].result(timeout=SLOW_SECONDS[what] + 3 * PATIENCE)

    assert received == slow_layers[what].digest
    deadline = time.monotonic() + PATIENCE
    # The proxy writes its line after the client has everything.
    while (took := longest(client, method)) <= 150 and time.monotonic() < deadline:
        time.sleep(1)
    print(f"a {what} of {took:.0f} s, as the proxy saw it")
    assert took > 150, "the proxy itself was done sooner: something between took what was slow"


def longest(client: docker.DockerClient, method: str) -> float:
    """The seconds of the longest of the slow requests with a method, by the log of the proxy."""
    lines = [json.loads(line) for line in proxy(client).logs(stderr=False).splitlines() if line.startswith(b"{")]
    requests = [line for line in lines if f"/{SLOW_REPOSITORY}/" in line.get("request", {}).get("uri", "")]
    return max((line["duration"] for line in requests if line["request"]["method"] == method), default=0)


def test_nobody_ever_ran_out_of_memory_or_restarted(client: docker.DockerClient) -> None:
    served = {
        role: container
        for role, container in clients.containers(client, PREFIX).items()
        if not role.endswith("carrier")
    }
    assert set(served) >= {"proxy", "reader", "writer", "admin"}
    for role, container in served.items():
        state = container.attrs["State"]
        assert (container.attrs["RestartCount"], state["OOMKilled"], state["Status"]) == (0, False, "running"), role
    # A worker of nginx could be killed alone.
    assert b"exited on signal" not in proxy(client).logs(stdout=False)
