"""Uploads and deletes that nobody repeats, while the processes behind the proxy are replaced and killed under them.

``--requests 10000`` makes the loop longer: a lost request may be one in thousands.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import docker
import pytest
from docker.errors import NotFound
from docker.models.containers import Container

from tests.engine.transfers import PATIENCE, Connection, Layer, digest_of, paced
from tests.harness import clients
from tests.harness.small_stack import PREFIX
from tests.harness.stack import Stack

pytestmark = [pytest.mark.once, pytest.mark.load]

ROLES = ("writer", "admin")
CLIENTS = 6
#: Of the layers; the proxies treat what is larger than 16 kB in another way.
SIZES = (100, 100, 10_000, 100_000, 100_000, 1_000_000, 3_000_000)
#: Bytes a second of the slow one among the clients.
SLOW = 50_000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


class Failure(NamedTuple):
    """An upload that ended otherwise than it should: when it began, in seconds of the monotonic clock, and why."""

    began: float
    why: str


@dataclass
class Seen:
    """What the clients saw: answers as they should be by method, all others, and such as were not true.

    ``longest`` is in seconds, of requests that carry no layer.
    """

    done: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    longest: float = 0.0


class Client(Connection):
    """One that counts its requests."""

    def __init__(self, stack: Stack, trust: ssl.SSLContext, seen: Seen) -> None:
        super().__init__(stack, trust, "boss")
        self.seen = seen

    def ask(self, method: str, target: str, *arguments: object, **keywords: object):  # type: ignore[no-untyped-def]
        began = time.monotonic()
        answer = super().ask(method, target, *arguments, **keywords)  # type: ignore[arg-type]
        if method != "PATCH":
            self.seen.longest = max(self.seen.longest, time.monotonic() - began)
        self.seen.done[method] += 1
        return answer


def upload(client: Client, repository: str, layer: Layer, *, in_chunks: bool, slowly: threading.Event | None) -> None:
    """Push a layer and read it again; an answer that is fine must be true."""
    location = client.started(repository)
    content = paced(layer.pieces(), SLOW, slowly) if slowly else layer.pieces()
    length = {} if in_chunks else {"Content_Length": str(layer.size)}
    headers, _ = client.ask("PATCH", location, 202, body=content, **length)
    if headers["Range"] != f"0-{layer.size - 1}":
        client.seen.untrue.append(f"of {layer.size} bytes, {headers['Range']} were taken")
    client.finish(headers["Location"], layer.digest)
    if digest_of(client.pull(repository, layer.digest)) != layer.digest:
        client.seen.untrue.append(f"{layer.digest} was pushed, and something else pulled")


def tag_and_delete(client: Client, repository: str, layer: Layer, tag: str) -> None:
    """Push a manifest and delete its tag."""
    described = {"digest": layer.digest, "size": layer.size}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG} | described, "layers": []}
    path = f"/v2/{repository}/manifests/{tag}"
    client.ask("PUT", path, 201, body=json.dumps(manifest).encode(), Content_Type=MANIFEST)
    client.ask("DELETE", path, 202)


@contextlib.contextmanager
def uploading(stack: Stack) -> Iterator[Seen]:
    """Clients at work for as long as the block runs, one of them slow; a failed one goes on over a new connection."""
    seen, stop, trust = Seen(), threading.Event(), stack.trust

    def work(number: int) -> None:
        choose, repository = random.Random(number), f"replaced/{number}"
        slowly = stop if number == 0 else None
        for turn in itertools.count():
            with Client(stack, trust, seen) as client:
                while not stop.is_set():
                    began = time.monotonic()
                    layer = Layer(SLOW * 3 if slowly else choose.choice(SIZES))
                    try:
                        upload(client, repository, layer, in_chunks=choose.random() < 0.5, slowly=slowly)
                        tag_and_delete(client, repository, layer, f"turn-{turn}")
                    except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
                        words = re.sub(r"_state=[^&: ]*", "", repr(error))
                        seen.failed.append(Failure(began, f"{layer.size} bytes: {words}"[:300]))
                        break
            if stop.is_set():
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def copy_of(client: docker.DockerClient, old: Container) -> Container:
    """Another container like this one: under the same name for the proxy, and under any other for the engine."""
    networks = {
        name: {"Aliases": [alias for alias in network["Aliases"] if not str(old.id).startswith(alias)]}
        for name, network in old.attrs["NetworkSettings"]["Networks"].items()
    }
    config = {name: value for name, value in old.attrs["Config"].items() if name not in ("Hostname", "Image")}
    created = client.api.create_container_from_config(
        config
        | {
            "Image": old.attrs["Config"]["Image"],
            "HostConfig": old.attrs["HostConfig"],
            "NetworkingConfig": {"EndpointsConfig": networks},
        }
    )
    new = client.containers.get(created["Id"])
    new.start()
    return new


def replace(client: docker.DockerClient, role: str) -> None:
    """New before old, which gets SIGTERM and drains, as an ``up`` does it."""
    old = clients.containers(client, PREFIX)[role]
    clients.wait_until_healthy(client, str(copy_of(client, old).id))
    old.stop(timeout=60)
    with contextlib.suppress(NotFound):
        old.remove()


@pytest.fixture
def requests(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--requests"))


def test_no_upload_fails_while_the_processes_are_replaced(
    stack: Stack, client: docker.DockerClient, requests: int
) -> None:
    replaced, began = 0, time.monotonic()
    with uploading(stack) as seen:
        while seen.done.total() < requests:
            assert time.monotonic() - began < requests, "the clients stand still"
            for role in ROLES:
                replace(client, role)
                replaced += 1

    print(f"\n{stack.proxy}: {replaced} replacements, {seen.done.total()} requests {dict(seen.done)}")
    print(f"{len(seen.failed)} failed, longest without a layer {seen.longest:.1f} s", *seen.failed[:20], sep="\n  ")
    assert seen.untrue == []
    assert [failure for failure in seen.failed if "PATCH" not in failure.why] == [], "what is sent whole is sent again"
    # What a process has not yet accepted when it closes its port is refused, and a layer cannot be sent again.
    assert len(seen.failed) <= CLIENTS * max(1, requests // 10_000)


def test_a_layer_is_taken_at_once_when_the_proxy_was_there_before_the_writer(
    stack: Stack, client: docker.DockerClient
) -> None:
    """As after a reboot of the host: the proxy has looked for a name that nobody had yet."""
    found, trust = clients.containers(client, PREFIX), stack.trust
    writer, proxy = found["writer"], found["proxy"]
    writer.stop(timeout=1)
    for started in (proxy, writer):
        started.restart(timeout=1)
        clients.wait_until_healthy(client, str(started.name))
    with Connection(stack, trust, "ci") as connection:
        connection.push("replaced/at-once", Layer(clients.MEGABYTE))


def test_a_killed_process_costs_what_was_under_way_and_nothing_that_was_answered(
    stack: Stack, client: docker.DockerClient
) -> None:
    with uploading(stack) as seen:
        for _ in range(4):
            time.sleep(1)
            writer = clients.containers(client, PREFIX)["writer"]
            writer.kill()
            writer.start()
        clients.wait_until_healthy(client, str(writer.name))
        time.sleep(10)  # nginx may look up the address that the process has now up to two seconds later
        recovered, done = time.monotonic(), seen.done["PUT"]
        while seen.done["PUT"] < done + 6 * CLIENTS:
            assert time.monotonic() - recovered < PATIENCE, "the clients stand still"
            time.sleep(0.1)

    print(f"\n{stack.proxy}: {seen.done.total()} requests, {len(seen.failed)} failed", *seen.failed[:40], sep="\n  ")
    assert seen.untrue == []
    assert [failure for failure in seen.failed if failure.began > recovered] == [], "failures end with their cause"
