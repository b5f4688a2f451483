"""The life of a login on a running stack, by the commands that operators use; nobody else notices anything of it."""

from __future__ import annotations

import itertools
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import docker
import httpx
import pytest

from tests.engine.transfers import Connection
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX
from tests.harness.stack import Stack

pytestmark = pytest.mark.once

As = Callable[[str | None], clients.Skopeo]
ROTATIONS, SWAPS, REQUESTS_A_SECOND = 5, 8, 50


def credentials(stack: Stack, *arguments: str) -> str:
    """``python -m operations credentials`` on the stack; what it prints on standard output."""
    return stack.operations("credentials", *arguments).stdout.strip()


class Registry:
    """Plain requests to the registry, each answered by the process that its right belongs to."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def status(self, user: str, password: str, method: str = "GET", path: str = "/") -> int:
        """What the registry answers."""
        return self._client.request(method, path, auth=(user, password)).status_code

    def may_push(self, user: str, password: str) -> bool:
        """Whether the writer knows the user: it then misses the upload that the request asks for."""
        return self.status(user, password, path=clients.NO_UPLOAD.removeprefix("/v2")) == 404


def test_a_login_that_was_handed_over_works(stack: Stack, tmp_path: Path, skopeo: As) -> None:
    write_layout(tmp_path / "layout", [random_layer(1000)])
    assert skopeo("ci").push(tmp_path / "layout", "team/handed:1").returncode == 0
    credentials(stack, "add", "robot", "--role", "pull")
    assert "robot" in credentials(stack, "list")
    stack.up()

    credentials(stack, "show-login", "robot", "--output", str(tmp_path / "config.json"))

    pulled = clients.run(
        "skopeo",
        "inspect",
        f"--authfile={tmp_path / 'config.json'}",
        f"--cert-dir={stack.certificate_file.parent}",
        f"docker://{stack.registry}/team/handed:1",
    )
    assert pulled.returncode == 0, pulled.stderr
    states = [line.split()[-1] for line in credentials(stack, "list").splitlines()[3:]]
    assert states == ["deployed"] * 4
    credentials(stack, "retire", "robot")
    stack.up()


@pytest.fixture
def registry(stack: Stack) -> Iterator[Registry]:
    """The stack's registry."""
    with httpx.Client(base_url=f"https://{stack.registry}/v2", verify=stack.trust, timeout=70) as client:
        yield Registry(client)


class Journal:
    """What a loop of clients did during each step, to be printed and judged."""

    def __init__(self, results: dict[str, list[str]]) -> None:
        self._results = results
        self.failures: dict[str, list[str]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One change of the stack."""
        done, failed, started = len(self._results["done"]), len(self._results["failed"]), time.monotonic()
        yield
        self.failures[name] = self._results["failed"][failed:]
        took = time.monotonic() - started
        count = len(self._results["done"]) - done
        print(f"{name}: {took:.0f} s, {count} operations succeeded, {len(self.failures[name])} failed")
        for failure in self.failures[name]:
            print(f"    {failure.strip()[-300:]}")


def test_nobody_else_fails_while_a_login_lives_and_dies(
    stack: Stack, skopeo: As, registry: Registry, tmp_path: Path
) -> None:
    write_layout(tmp_path / "layout", [random_layer(clients.MEGABYTE) for _ in range(3)])
    assert skopeo("ci").push(tmp_path / "layout", "busy/pull:1").returncode == 0

    with clients.clients_at_work(skopeo("ci"), skopeo("production"), tmp_path) as results:
        journal = Journal(results)
        with journal.step("user added"):
            first = credentials(stack, "add", "robot", "--role", "pull")
            stack.up()
            assert registry.status("robot", first) == 200

        with journal.step("password rotated with overlap"):
            second = credentials(stack, "rotate", "robot")
            assert "retire robot" in credentials(stack, "list")
            stack.up()
            assert registry.status("robot", first) == 200
            assert registry.status("robot.2", second) == 200

        with journal.step("rotation finished"):
            credentials(stack, "retire", "robot")
            stack.up()
            assert registry.status("robot", first) == 401
            assert registry.status("robot.2", second) == 200

        with journal.step("role changed"):
            assert not registry.may_push("robot.2", second)
            stack.set_plain('registry.users["robot.2"].role', "push")
            stack.up()
            assert registry.may_push("robot.2", second)

        with journal.step("user retired"):
            credentials(stack, "retire", "robot.2")
            stack.up()
            assert registry.status("robot.2", second) == 401

        with journal.step("stack_secret rotated"):
            stack.set_secret("stack_secret", secrets.token_hex(32))
            stack.up()

    pulls = [one for one in journal.failures["stack_secret rotated"] if one.startswith("pull")]
    assert pulls == [], "for pulls it is like any replacement"
    # Old and new writer answer side by side for some seconds, and neither continues what the other began.
    del journal.failures["stack_secret rotated"]
    for step, failed in journal.failures.items():
        assert failed == [], step
    assert len(results["done"]) >= 12, "a push and a pull for each update"
    stack.preview("--expect-no-changes")


def session(answer: httpx.Response) -> httpx.URL:
    """Where an upload goes on."""
    return answer.url.join(answer.headers["Location"])


def test_an_upload_in_flight_starts_again_after_a_new_stack_secret(stack: Stack) -> None:
    login, chunk = ("ci", stack.users["ci"]), b"x" * 1000
    with httpx.Client(verify=stack.trust, auth=login, timeout=70) as http:
        url = f"https://{stack.registry}/v2/busy/flight/blobs/uploads/"
        started = http.post(url)
        begun = http.patch(session(started), content=chunk)
        assert begun.status_code == 202
        stack.set_secret("stack_secret", secrets.token_hex(32))
        stack.up()

        continued = http.patch(session(begun), content=chunk)
        again = http.post(url)
        restarted = http.patch(session(again), content=chunk)

    error = json.loads(continued.text)["errors"][0]["code"] if continued.text else ""
    print(f"the upload in flight got {continued.status_code} {error}; a new one {restarted.status_code}")
    assert continued.status_code == 404
    assert restarted.status_code == 202


@pytest.mark.any_proxy
def test_forty_replaced_password_files_refuse_no_request_that_should_pass(
    stack: Stack, client: docker.DockerClient, registry: Registry
) -> None:
    """Reader, writer and admin are asked in turn by users whose passwords stay.

    An `up` swaps the files once for a new password; then the same carrier does it again and again.
    """
    credentials(stack, "add", "rotated", "--role", "admin")
    stack.up()
    asked = [
        ("production", "GET", "/v2/", 200),
        ("ci", "GET", clients.NO_UPLOAD, 404),
        ("boss", "DELETE", f"/v2/busy/none/manifests/sha256:{'0' * 64}", 404),
    ] * 4
    answers, took, stop, trust = list[str](), list[float](), threading.Event(), stack.trust

    def ask(user: str, method: str, path: str, expected: int) -> None:
        """Over one connection, by the standard library, since better clients slow the updates that they wait for."""
        with Connection(stack, trust, user) as connection:
            began = time.monotonic()
            for number in itertools.count():
                if stop.wait(max(0.0, began + number * len(asked) / REQUESTS_A_SECOND - time.monotonic())):
                    return
                sent = time.monotonic()
                connection.request(method, path, headers=connection.login)
                answer = connection.getresponse()
                answer.read()
                took.append(time.monotonic() - sent)
                answers.append("passed" if answer.status == expected else f"{user}: {method} {answer.status}")

    started = time.monotonic()
    with ThreadPoolExecutor(len(asked)) as pool:
        clients_at_work = [pool.submit(ask, *one) for one in asked]
        try:
            for _ in range(ROTATIONS):
                password = credentials(stack, "rotate", "--in-place", "rotated")
                stack.up()
                assert registry.status("rotated", password) == 200
                carrier = clients.containers(client, PREFIX)["registry-secrets-carrier"]
                for _ in range(SWAPS - 1):
                    carrier.start()
                    assert carrier.wait()["StatusCode"] == 0
                assert registry.status("rotated", password) == 200
        finally:
            stop.set()
    seconds = time.monotonic() - started
    assert [error for one in clients_at_work if (error := one.exception())] == []

    count = len(answers)
    print(
        f"{ROTATIONS} rotations, {SWAPS} swaps each, in {seconds:.0f} s under {count} requests, {count / seconds:.0f} a"
        f" second: {dict(Counter(answers))}, the slowest took {max(took):.2f} s"
    )
    assert set(answers) == {"passed"}
    assert count >= len(asked) * ROTATIONS * SWAPS, "as many requests for each swap as there are clients"
    credentials(stack, "retire", "rotated")
    stack.up()
