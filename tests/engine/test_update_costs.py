"""What each kind of change costs clients: pushes, pulls and single requests in a loop, large transfers in flight.

Prints the table of docs/updates.md for the server of ``--proxy``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import httpx
import pytest

from tests.engine import transfers
from tests.harness import clients
from tests.harness.configuration import example_password
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    REGISTRY_PORT,
    UPSTREAM,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

pytestmark = [pytest.mark.once, pytest.mark.load]

As = Callable[[str | None], clients.Skopeo]
LARGE = 100 * clients.MEGABYTE
PIECE = clients.MEGABYTE
#: How long a large transfer takes, in seconds, unless the `up` that it must survive ends sooner.
TRANSFER_SECONDS = 30
REPOSITORY = "busy/large"


@dataclass(frozen=True)
class Change:
    """Something that an operator edits, and whether clients may notice."""

    what: str
    apply: Callable[[Stack], None]
    noticed: bool = False


def section(name: str, **values: object) -> Callable[[Stack], None]:
    """Change keys of one section of the configuration."""
    return lambda stack: stack.write(**{name: stack.values.get(name, {}) | values})


MIRROR = small_stack()["mirrors"][UPSTREAM]


def with_certificate(host: str, change: Callable[[Stack], None]) -> Callable[[Stack], None]:
    """A change that needs a certificate for one more host."""

    def apply(stack: Stack) -> None:
        stack.set_certificate(host)
        change(stack)

    return apply


def set_users(stack: Stack, users: dict[str, object]) -> None:
    stack.write(registry=stack.values["registry"] | {"users": users})


def add_user(stack: Stack) -> None:
    stack.set_secret("passwords.robot", example_password("robot"))
    stack.set_secret("passwords.boss", example_password("boss"))
    set_users(stack, stack.values["registry"]["users"] | {"robot": {"role": "pull"}})


def remove_user(stack: Stack) -> None:
    stack.remove("passwords.robot")
    set_users(stack, {name: user for name, user in stack.values["registry"]["users"].items() if name != "robot"})


def other_server(stack: Stack) -> None:
    stack.write(proxy=stack.values["proxy"] | {"server": "nginx" if stack.proxy == "caddy" else "caddy"})


def without(name: str, *keys: str) -> Callable[[Stack], None]:
    """Remove keys of one section of the configuration."""

    def apply(stack: Stack) -> None:
        stack.write(**{name: {key: value for key, value in stack.values[name].items() if key not in keys}})

    return apply


SECOND = {"url": f"https://second.localhost:{MIRROR_PORT}", "upstream": "http://second.test:5000"}
#: One after the other.
CHANGES = [
    Change("a user and a password", add_user),
    Change("a user removed", remove_user),
    Change(
        "registry: log level, drain timeout, memory",
        section("registry", log_level="debug", drain_timeout="40s", memory_mb=300),
    ),
    Change("registry: another image", section("images", registry=clients.OTHER_IMAGES["registry"])),
    Change(
        "an anonymous host added",
        with_certificate(
            "public.localhost", section("registry", anonymous_url=f"https://public.localhost:{REGISTRY_PORT}")
        ),
    ),
    Change("an anonymous host removed", without("registry", "anonymous_url")),
    Change("a mirror added", with_certificate("second.localhost", section("mirrors", **{"second.test": SECOND}))),
    Change("a mirror removed", without("mirrors", "second.test")),
    Change("a mirror's allow-list", section("mirrors", **{UPSTREAM: MIRROR | {"allow": ["0.0.0.0/0"]}})),
    Change(
        "a mirror's ttl, log level, memory",
        section("mirrors", **{UPSTREAM: MIRROR | {"ttl": "24h", "log_level": "warn", "memory_mb": 300}}),
    ),
    Change("a certificate from files", lambda stack: stack.set_certificate("localhost", "renewed.localhost")),
    Change("proxy: memory", section("proxy", memory_mb=300)),
    Change(
        "proxy: another image, port or address",
        section("images", caddy=clients.OTHER_IMAGES["caddy"], nginx=clients.OTHER_IMAGES["nginx"]),
        noticed=True,
    ),
    Change("proxy: the other server", other_server, noticed=True),
    Change("proxy: the server as before", other_server, noticed=True),
]


@dataclass
class Observed:
    """What clients saw meanwhile: operations, failures in words, and for how many seconds a request waited at most.

    Who is refused asks again, so that the wait is also how long nothing was served.
    """

    done: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0


@pytest.fixture
def session(stack: Stack) -> Iterator[httpx.Client]:
    """Kept connections of a user who may push."""
    login = ("ci", stack.users["ci"])
    with httpx.Client(base_url=f"https://{stack.registry}/v2", verify=stack.trust, auth=login, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def large() -> bytes:
    """One megabyte of which the large layer is made."""
    return os.urandom(PIECE)


def paced(pieces: Iterable[bytes], over: threading.Event) -> Iterator[bytes]:
    """The large layer, at a pace until the `up` is over."""
    for piece in pieces:
        yield piece
        over.wait(TRANSFER_SECONDS * PIECE / LARGE)


def upload(session: httpx.Client, piece: bytes, digest: str, over: threading.Event) -> str:
    """Push the large layer; what went wrong."""
    started = session.post(f"/{REPOSITORY}/blobs/uploads/")
    content = paced(itertools.repeat(piece, LARGE // PIECE), over)
    sent = session.patch(started.headers["location"].removeprefix("/v2"), content=content)
    if sent.status_code != 202:
        return f"upload: {sent.status_code} {sent.text}"
    finished = session.put(f"{sent.headers['location'].removeprefix('/v2')}&digest={digest}")
    return "" if finished.status_code == 201 else f"end of upload: {finished.status_code} {finished.text}"


def download(session: httpx.Client, digest: str, over: threading.Event) -> str:
    """Pull the large layer; what went wrong."""
    received = hashlib.sha256()
    with session.stream("GET", f"/{REPOSITORY}/blobs/{digest}") as answer:
        for piece in paced(answer.iter_raw(PIECE), over):
            received.update(piece)
    return "" if f"sha256:{received.hexdigest()}" == digest else f"download: {answer.status_code}, another hash"


@contextlib.contextmanager
def observed(session: httpx.Client, skopeo: As, folder: Path, piece: bytes, digest: str) -> Iterator[Observed]:
    """Clients of every kind around a block, to the end of the large transfers that were in flight."""
    seen, over, stop = Observed(), threading.Event(), threading.Event()

    def ask() -> None:
        began = time.monotonic()
        while not stop.wait(0.1):
            if attempt(lambda: "" if (answer := session.get("/")).status_code == 200 else f"GET: {answer.status_code}"):
                seen.longest = max(seen.longest, time.monotonic() - began)
                began = time.monotonic() + 0.1

    def attempt(work: Callable[[], str]) -> bool:
        try:
            error = work()
        except httpx.HTTPError as problem:
            error = f"{type(problem).__name__}: {problem}"
        if error:
            seen.failed.append(error)
        else:
            seen.done += 1
        return not error

    threads = [
        threading.Thread(target=ask),
        threading.Thread(target=attempt, args=(lambda: upload(session, piece, digest, over),)),
        threading.Thread(target=attempt, args=(lambda: download(session, digest, over),)),
    ]
    folder.mkdir()
    with clients.clients_at_work(skopeo("ci"), skopeo("production"), folder) as results:
        for thread in threads:
            thread.start()
        time.sleep(1)
        try:
            yield seen
        finally:  # a failed `up` must not leave threads that no process outlives
            over.set()
            for thread in threads[1:]:
                thread.join()
            stop.set()
            threads[0].join()
    seen.done += len(results["done"])
    seen.failed += results["failed"]


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose certificates are files, since these change, too."""
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(client, docker_host, folder, proxy=docker_host.proxy_with_files) as running:
        yield running


def touched(said: str, server: str) -> tuple[str, int]:
    """What an `up` says that it did to the services, for the table, and how many operations it may cost."""
    done = dict(re.findall(r"^ \S{1,2} +\S+ (\S+) (created|deleted|replaced|updated) \(", said, re.MULTILINE))
    assert done, said
    services: dict[str, list[str]] = {"created": [], "deleted": [], "replaced": [], "updated": []}
    for name, what in sorted(done.items()):
        if service := re.fullmatch(r"(.*)-container|registry-(reader|writer|admin|public)", name):
            services[what].append(service[1] or service[2])
    words = {"created": "added", "deleted": "removed", "replaced": "replaced", "updated": "changed in place"}
    happens = [f"{', '.join(names)} {words[what]}" for what, names in services.items() if names]
    may_lose = clients.LOST_BY_REPLACEMENT[server] if services["replaced"] else 0
    if "proxy-reload" in done and "proxy" not in services["replaced"]:
        happens.append("proxy reloaded")
        may_lose += clients.LOST_BY_RELOAD[server]
    return "; ".join(happens) or "nothing restarts", may_lose


def test_clients_notice_no_change_but_that_of_the_proxy_itself(
    stack: Stack, client: docker.DockerClient, skopeo: As, session: httpx.Client, large: bytes, tmp_path: Path
) -> None:
    for name, image in clients.IMAGES:
        client.images.get(image).tag(clients.OTHER_IMAGES[name])
    write_layout(tmp_path / "layout", [random_layer(clients.MEGABYTE) for _ in range(3)])
    assert skopeo("ci").push(tmp_path / "layout", "busy/pull:1").returncode == 0
    digest = transfers.digest_of(itertools.repeat(large, LARGE // PIECE))
    at_once = threading.Event()
    at_once.set()
    assert upload(session, large, digest, at_once) == ""

    server, unexpected = stack.proxy, []
    rows = ["| change | what happens | longest wait | failed |", "| --- | --- | ---: | ---: |"]
    for number, change in enumerate(CHANGES):
        change.apply(stack)
        with observed(session, skopeo, tmp_path / str(number), large, digest) as seen:
            said = stack.up().stdout
        happens, may_lose = touched(said, server)
        rows.append(f"| {change.what} | {happens} | {seen.longest:.1f} s | {len(seen.failed)} of {seen.done} |")
        print(rows[-1], *[error.strip()[-200:] for error in seen.failed[:3]], sep="\n    ", flush=True)
        if len(seen.failed) > may_lose and not change.noticed:
            unexpected.append(change.what)
    print(f"\n{server}:", *rows, sep="\n")
    assert unexpected == []


@pytest.mark.parametrize("role", ["reader", "proxy"])
def test_a_slow_client_gets_the_end_of_a_layer_from_a_process_that_stops(
    stack: Stack, client: docker.DockerClient, role: str
) -> None:
    container, began, never = clients.containers(client, PREFIX)[role], threading.Event(), threading.Event()
    layer = transfers.Layer(16 * clients.MEGABYTE)
    with transfers.Connection(stack, stack.trust, "ci") as connection:
        connection.push(REPOSITORY, layer)

    def pull() -> str:
        with transfers.Connection(stack, stack.trust, "production", address, receive_buffer=32 * 1024) as connection:
            pieces = connection.pull(REPOSITORY, layer.digest, clients.MEGABYTE // 10)
            next(pieces)  # the head of the answer
            began.set()
            return transfers.digest_of(transfers.paced(pieces, clients.MEGABYTE, never))

    address = transfers.proxy_address(client)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pulled = pool.submit(pull)
        began.wait(transfers.PATIENCE)
        time.sleep(2)
        assert not pulled.done()
        container.stop(timeout=60)
        received = pulled.result()
    container.start()
    clients.wait_until_healthy(client, str(container.name))

    assert received == layer.digest
