"""What each kind of change costs clients: pushes, pulls and single requests in a loop, large transfers in flight.

Prints the README's table "what an update costs" for the engine of ``--proxy``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import httpx
import pytest

from tests.certificates import certificate_pair
from tests.engine import clients
from tests.engine.conftest import MIRROR_PORT, UPSTREAM
from tests.engine.stack import Stack
from tests.images import random_layer, write_layout

pytestmark = pytest.mark.once

As = Callable[[str | None], clients.Skopeo]
LARGE = 300 * clients.MEGABYTE
PIECE = clients.MEGABYTE
#: How long a large transfer takes at least, in seconds: longer than the `up`s that it must survive.
TRANSFER_SECONDS = 15
REPOSITORY = "busy/large"


@dataclass(frozen=True)
class Change:
    """Something that an operator edits, how it is edited back, and whether clients may notice."""

    what: str
    apply: Callable[[Stack], None]
    restore: Callable[[Stack], None]
    noticed: bool = False


def section(name: str, **values: object) -> dict[str, Callable[[Stack], None]]:
    """Change keys of one section of the configuration."""
    before: dict[str, object] = {}

    def apply(stack: Stack) -> None:
        before[name] = stack.values.get(name, {})
        stack.write(**{name: before[name] | values})  # type: ignore[operator]

    return {"apply": apply, "restore": lambda stack: stack.write(**before)}


def mirror(**values: object) -> dict[str, Callable[[Stack], None]]:
    """Change keys of the mirror."""

    def apply(stack: Stack) -> None:
        stack.write(mirrors={UPSTREAM: MIRROR | values})

    return {"apply": apply, "restore": lambda stack: stack.write(mirrors={UPSTREAM: MIRROR})}


MIRROR = {"url": f"https://localhost:{MIRROR_PORT}", "upstream": f"http://{UPSTREAM}:5000"}
SECOND = {"second.test": {"url": f"https://second.localhost:{MIRROR_PORT}", "upstream": "http://second.test:5000"}}


def add_mirror(stack: Stack) -> None:
    if "files" in stack.values["proxy"]["certificates"]:
        for part, text in certificate_pair("second.localhost").items():
            stack.set_secret(f'certificates["second.localhost"].{part}', text)
    stack.write(mirrors={UPSTREAM: MIRROR} | SECOND)


def remove_mirror(stack: Stack) -> None:
    if "files" in stack.values["proxy"]["certificates"]:
        stack.pulumi("config", "rm", "--stack", "test", "--path", 'registry-stack:certificates["second.localhost"]')
    stack.write(mirrors={UPSTREAM: MIRROR})


def set_users(stack: Stack, users: dict[str, object]) -> None:
    stack.write(registry=stack.values["registry"] | {"users": users})


def add_user(stack: Stack) -> None:
    stack.set_secret("passwords.robot", "example-only-robot-zq7kx2vw9rj4hbm3")
    set_users(stack, stack.values["registry"]["users"] | {"robot": {"role": "pull"}})


def remove_user(stack: Stack) -> None:
    stack.pulumi("config", "rm", "--stack", "test", "--path", "registry-stack:passwords.robot")
    set_users(stack, {name: user for name, user in stack.values["registry"]["users"].items() if name != "robot"})


def renew_certificate(stack: Stack) -> None:
    for part, text in certificate_pair("localhost", "renewed.localhost").items():
        stack.set_secret(f"certificates.localhost.{part}", text)


CHANGES = [
    Change("a user added", add_user, remove_user),
    Change("registry: log level", **section("registry", log_level="debug")),
    Change("registry: memory", **section("registry", memory_mb=300)),
    Change("registry: another image", **section("images", registry="localhost-test/registry:3.1.1-test")),
    Change("a mirror's allow-list", **mirror(allow=["0.0.0.0/0"])),
    Change("a mirror's ttl", **mirror(ttl="24h")),
    Change("a mirror added, and removed", add_mirror, remove_mirror),
    Change("proxy: memory", **section("proxy", memory_mb=300)),
    Change("proxy: another image", **section("images", caddy="localhost-test/caddy:2.11.4-test",
                                             nginx="localhost-test/nginx:1.31.3-test"), noticed=True),
]  # fmt: skip


@dataclass
class Observed:
    """What clients saw during an ``up``: operations, failures in words, the longest wait of a request in seconds."""

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


def digest_of(piece: bytes) -> str:
    whole = hashlib.sha256()
    for _ in range(LARGE // PIECE):
        whole.update(piece)
    return f"sha256:{whole.hexdigest()}"


def paced(piece: bytes) -> Iterator[bytes]:
    """The large layer, at a pace."""
    for _ in range(LARGE // PIECE):
        yield piece
        time.sleep(TRANSFER_SECONDS * PIECE / LARGE)


def upload(session: httpx.Client, piece: bytes, digest: str) -> str:
    """Push the large layer; what went wrong."""
    started = session.post(f"/{REPOSITORY}/blobs/uploads/")
    sent = session.patch(started.headers["location"].removeprefix("/v2"), content=paced(piece))
    if sent.status_code != 202:
        return f"upload: {sent.status_code} {sent.text}"
    finished = session.put(f"{sent.headers['location'].removeprefix('/v2')}&digest={digest}")
    return "" if finished.status_code == 201 else f"end of upload: {finished.status_code} {finished.text}"


def download(session: httpx.Client, digest: str) -> str:
    """Pull the large layer; what went wrong."""
    received, began = hashlib.sha256(), time.monotonic()
    with session.stream("GET", f"/{REPOSITORY}/blobs/{digest}") as answer:
        size = 0
        for piece in answer.iter_raw(PIECE):
            received.update(piece)
            size += len(piece)
            time.sleep(max(0.0, TRANSFER_SECONDS * size / LARGE - (time.monotonic() - began)))
    return "" if f"sha256:{received.hexdigest()}" == digest else f"download: {answer.status_code}, another hash"


@contextlib.contextmanager
def observed(session: httpx.Client, skopeo: As, folder: Path, piece: bytes, digest: str) -> Iterator[Observed]:
    """Clients of every kind around a block, to the end of the large transfers that were in flight."""
    seen, stop = Observed(), threading.Event()

    def ask() -> None:
        while not stop.wait(0.05):
            began = time.monotonic()
            attempt(lambda: "" if (answer := session.get("/")).status_code == 200 else f"GET: {answer.status_code}")
            seen.longest = max(seen.longest, time.monotonic() - began)

    def attempt(work: Callable[[], str]) -> None:
        try:
            error = work()
        except httpx.HTTPError as problem:
            error = f"{type(problem).__name__}: {problem}"
        if error:
            seen.failed.append(error)
        else:
            seen.done += 1

    threads = [
        threading.Thread(target=ask),
        threading.Thread(target=attempt, args=(lambda: upload(session, piece, digest),)),
        threading.Thread(target=attempt, args=(lambda: download(session, digest),)),
    ]
    folder.mkdir()
    with clients.clients_at_work(skopeo("ci"), skopeo("production"), folder) as results:
        for thread in threads:
            thread.start()
        time.sleep(1)
        yield seen
        for thread in threads[1:]:
            thread.join()
        stop.set()
        threads[0].join()
    seen.done += len(results["done"])
    seen.failed += results["failed"]


def touched(planned: dict[str, str]) -> str:
    """The services that a preview would replace or reload, for the table."""
    replaced = [
        name for name, what in planned.items() if what == "replace" and not name.endswith(("carrier", "reload"))
    ]
    updated = [name for name, what in planned.items() if what == "update" and name.endswith("container")]
    words = [f"{', '.join(sorted(replaced))} replaced"] if replaced else []
    words += [f"{', '.join(updated)} changed in place"] if updated else []
    words += ["proxy reloaded"] if "proxy-reload" in planned and not any("proxy" in name for name in replaced) else []
    return "; ".join(words) or "nothing restarts"


def test_clients_notice_no_change_but_that_of_the_proxy_itself(
    stack: Stack, client: docker.DockerClient, skopeo: As, session: httpx.Client, large: bytes, tmp_path: Path
) -> None:
    client.images.get("registry:3.1.1").tag("localhost-test/registry", "3.1.1-test")
    client.images.get("caddy:2.11.4-alpine").tag("localhost-test/caddy", "2.11.4-test")
    client.images.get("nginx:1.31.3-alpine").tag("localhost-test/nginx", "1.31.3-test")
    write_layout(tmp_path / "layout", [random_layer(clients.MEGABYTE) for _ in range(3)])
    assert skopeo("ci").push(tmp_path / "layout", "busy/pull:1").returncode == 0
    digest = digest_of(large)
    assert upload(session, large, digest) == ""

    changes = CHANGES
    if "files" in stack.values["proxy"]["certificates"]:
        changes = [*CHANGES, Change("a certificate renewed", renew_certificate, lambda _: None)]
    unexpected = []
    rows = ["| change | what happens | longest wait | failed |", "| --- | --- | ---: | ---: |"]
    for number, change in enumerate(changes):
        change.apply(stack)
        happens = touched(stack.planned())
        with observed(session, skopeo, tmp_path / str(number), large, digest) as seen:
            stack.up()
        change.restore(stack)
        stack.up()
        rows.append(f"| {change.what} | {happens} | {seen.longest:.1f} s | {len(seen.failed)} of {seen.done} |")
        print(rows[-1], *[error.strip()[-200:] for error in seen.failed[:3]], sep="\n    ", flush=True)
        lost = {"reloaded": clients.LOST_BY_RELOAD, "replaced": clients.LOST_BY_REPLACEMENT}
        may_lose = lost[happens.split()[-1]][stack.proxy] if happens.split()[-1] in lost else 0
        if len(seen.failed) > may_lose and not change.noticed:
            unexpected.append(change.what)
    print(f"\n{stack.proxy}:", *rows, sep="\n")
    assert unexpected == []
