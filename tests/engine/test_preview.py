"""The comment of a pull request, made from previews of a deployed stack by the real CLI. Read the golden files."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.harness import clients
from tests.harness.certificates import issue
from tests.harness.configuration import ROOT, example_password
from tests.harness.small_stack import PREFIX, PROXIES, UPSTREAM, DockerHost, remove_everything, small_stack
from tests.harness.stack import STACK, Stack

pytestmark = [pytest.mark.once, pytest.mark.any_proxy]

GOLDEN = Path(__file__).parent / "previews"
USERS = small_stack()["registry"]["users"]
MIRROR = small_stack()["mirrors"][UPSTREAM]
YEAR = 365


def with_registry(**changes: Any) -> Callable[[Stack], None]:
    return lambda stack: stack.write(registry={**small_stack()["registry"], **changes})


def with_mirror(**changes: Any) -> Callable[[Stack], None]:
    return lambda stack: stack.write(mirrors={UPSTREAM: {**MIRROR, **changes}})


def new_user(stack: Stack) -> None:
    with_registry(users={**USERS, "deploy": {"role": "pull", "expires": "2099-01-31"}})(stack)
    stack.set_secret("passwords.deploy", example_password("deploy"))


def without_user(stack: Stack) -> None:
    with_registry(users={name: user for name, user in USERS.items() if name != "production"})(stack)
    stack.remove("passwords.production")


def certificate(days: int) -> dict[str, str]:
    """A certificate whose end does not depend on the day of the test."""
    return issue("localhost", start=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), days=days).pair()


#: What a pull request changes, by the name of its golden file.
CHANGES: dict[str, Callable[[Stack], None]] = {
    "no-change": lambda stack: None,
    "user-added": new_user,
    "user-removed": without_user,
    "role-changed": with_registry(users={**USERS, "production": {"role": "push"}}),
    "password-changed": lambda stack: stack.set_secret("passwords.ci", example_password("other")),
    "user-expired": with_registry(users={**USERS, "production": {"role": "pull", "expires": "2020-01-31"}}),
    "mirror-added": lambda stack: stack.write(
        mirrors={
            UPSTREAM: MIRROR,
            "ghcr.io": {"url": "https://localhost:25446", "allow": ["10.0.0.0/8", "192.168.0.0/16"], "ttl": "24h"},
        }
    ),
    "mirror-removed": lambda stack: stack.write(mirrors={}),
    "allow-list": with_mirror(allow=["10.0.0.0/8", "127.0.0.0/8"]),
    "log-level": with_registry(log_level="debug"),
    "registry-image": lambda stack: stack.write(images={"registry": "registry:3.1.3"}),
    "proxy-image": lambda stack: stack.write(images={"caddy": "caddy:2.11.8-alpine"}),
    "other-proxy": lambda stack: stack.write(proxy={**PROXIES["nginx"]}),
    "certificate-renewed": lambda stack: stack.set_pair("localhost", certificate(20 * YEAR)),
    "adopted-folder": with_registry(storage={"host_path": "/srv/rs-preview"}),
    "volume-lost": with_registry(storage={"volume": "rs-preview-other"}),
    "several": lambda stack: (
        with_registry(users={**USERS, "production": {"role": "push"}}, log_level="debug")(stack),
        with_mirror(ttl="24h", allow=["10.0.0.0/8"])(stack),
        stack.write(protect_data=True),
    ),
    "refused": lambda stack: (
        with_registry(url="http://localhost", log_level="loud", users={**USERS, "deploy": {"role": "pull"}})(stack),
        stack.write(proxy={"server": "apache"}),
    ),
}


@pytest.fixture
def compare(request: pytest.FixtureRequest, stack: Stack) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Write the comment of a preview and compare it with a golden file; no output may show a secret."""

    def check(case: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        comment, report = stack.folder / "comment.md", stack.folder / "comment.json"
        answer = stack.operations("preview", "--output", str(comment), "--json", str(report), *arguments, check=False)
        text = comment.read_text()
        config = json.loads(stack.pulumi("config", "--stack", STACK, "--json", "--show-secrets").stdout)
        for secret in secrets_of(config):
            for shown in (text, report.read_text(), answer.stdout, answer.stderr):
                assert secret not in shown
        golden = GOLDEN / f"{case}.md"
        if request.config.getoption("--rewrite-golden"):
            golden.write_text(text)
        assert text == golden.read_text()
        return answer

    return check


def secrets_of(config: dict[str, Any]) -> Iterator[str]:
    """Each secret of the configuration, and its encodings."""
    for key in ("passwords", "stack_secret", "certificates"):
        entry = config[f"registry-stack:{key}"]
        for secret in leaves(entry.get("objectValue", entry["value"])):
            octets = secret.encode()
            yield from (secret, octets.hex(), base64.b64encode(octets).decode().rstrip("=")[:-1])
            yield urllib.parse.quote(secret, safe="")


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    else:
        yield str(value)


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with certificates from files that is not deployed yet; the first test deploys it."""
    remove_everything(client)
    proxy = {**PROXIES["caddy"], "certificates": {"files": {}}}
    made = Stack(tmp_path_factory.mktemp("stack"), docker_host.address, small_stack(proxy=proxy), path=docker_host.path)
    made.set_pair("localhost", certificate(10 * YEAR))
    yield made
    remove_everything(client)


def test_first_deployment_lists_users_and_mirrors(stack: Stack, compare: Callable[..., Any]) -> None:
    assert compare("first-deployment").returncode == 0
    stack.up()


@pytest.mark.parametrize("case", CHANGES)
def test_comment_says_what_a_change_means(case: str, stack: Stack, compare: Callable[..., Any]) -> None:
    text, values = stack.file.read_text(), dict(stack.values)
    CHANGES[case](stack)
    try:
        answer = compare(case, "--expect-no-changes")
    finally:
        stack.file.write_text(text)
        stack.values = values

    assert answer.returncode == (0 if case == "no-change" else 1), answer.stdout + answer.stderr


def test_refresh_finds_a_stopped_and_a_removed_container(
    stack: Stack, client: docker.DockerClient, compare: Callable[..., Any]
) -> None:
    running = clients.containers(client, PREFIX)
    running["reader"].stop()
    running["admin"].remove(force=True)

    assert compare("drift", "--refresh", "--expect-no-changes").returncode == 1
    stack.up("--refresh")
    assert compare("no-change", "--refresh", "--expect-no-changes").returncode == 0


def test_protected_data_is_kept_with_the_way_to_remove_it(stack: Stack, compare: Callable[..., Any]) -> None:
    stack.write(protect_data=True)
    stack.up()
    text, values = stack.file.read_text(), dict(stack.values)
    stack.write(mirrors={})
    try:
        assert compare("protected").returncode == 1
    finally:
        stack.file.write_text(text)
        stack.values = values
        stack.write(protect_data=False)
        stack.up()


def test_killed_preview_does_not_lock_the_state(stack: Stack) -> None:
    state = Path(stack.environment["PULUMI_BACKEND_URL"].removeprefix("file://"))
    ends = []
    for seconds in (0.4, 0.8, 1.2, 1.6):
        killed = subprocess.Popen(
            [sys.executable, "-m", "operations", "preview", "--stack", STACK],
            cwd=stack.folder,
            env=stack.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            killed.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)
        ends.append(killed.wait())
        assert [file for file in state.glob(".pulumi/locks/**/*") if file.is_file()] == []

    assert -signal.SIGKILL in ends
    assert stack.operations("preview").returncode == 0


def test_preview_fails_with_a_fix_if_the_cli_cannot_read_the_stack(stack: Stack, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "operations", "preview", "--stack", "other"],
        cwd=stack.folder,
        env=stack.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "no stack named 'other'" in answer.stderr
    assert "fix:" in answer.stderr
