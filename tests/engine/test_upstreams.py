"""Upstreams with an authority of their own, a login and an HTTP proxy, and what `up` says about each."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import docker
import pytest
from docker.models.containers import Container

from tests.harness import clients
from tests.harness.certificates import authority, certificate_pair
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX, UPSTREAM_PORT, DockerHost, remove_everything, small_stack
from tests.harness.stack import STACK, Stack
from tests.harness.upstreams import LOGIN, http_proxy

pytestmark = [pytest.mark.once, pytest.mark.any_proxy]

#: Upstreams by the state in which `up` finds them. All are the same registry, ``far`` behind the HTTP proxy.
ABSENT, FOREIGN, CLOSED, FAR = (f"{name}.test" for name in ("absent", "foreign", "closed", "far"))
PORT = 5443
CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: /tmp/data}}
http: {addr: ":5443", tls: {certificate: /tmp/server.crt, key: /tmp/server.key}}
auth: {htpasswd: {realm: upstream, path: /tmp/htpasswd}}
"""


@contextlib.contextmanager
def private_registry(api: docker.DockerClient) -> Iterator[Container]:
    """A registry with a login and with a certificate of the tests' authority, for mirrors and on a loopback port."""
    pair = certificate_pair(FOREIGN, CLOSED, FAR, "localhost")
    files = {
        "config.yml": CONFIG,
        "server.crt": pair["certificate"],
        "server.key": pair["private_key"],
        "htpasswd": f"{LOGIN[0]}:{bcrypt.hashpw(LOGIN[1].encode(), bcrypt.gensalt(5)).decode()}",
    }
    write = " && ".join(f'echo "$F{number}" > "/tmp/{name}"' for number, name in enumerate(files))
    container = api.containers.run(
        clients.IMAGES.registry,
        name=f"{PREFIX}-private-upstream",
        detach=True,
        ports={f"{PORT}/tcp": ("127.0.0.1", UPSTREAM_PORT)},
        entrypoint=["/bin/sh", "-c", f"{write} && exec registry serve /tmp/config.yml"],
        environment={f"F{number}": text for number, text in enumerate(files.values())}
        | {"OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        api.networks.get(f"{PREFIX}-edge").connect(container, aliases=[FOREIGN, CLOSED])
        clients.wait_for_port(UPSTREAM_PORT, ssl.create_default_context(cadata=authority().pair()["certificate"]))
        yield container
    finally:
        container.remove(force=True, v=True)


def test_up_asks_each_new_upstream_once_and_mirrors_use_its_authority_and_the_http_proxy(
    client: docker.DockerClient, docker_host: DockerHost, gateway: str, tmp_path: Path
) -> None:
    remove_everything(client)
    mirrors = {
        name: {"url": f"https://localhost:{port}", "upstream": f"https://{name}:{PORT}"}
        for port, name in enumerate((ABSENT, FOREIGN, CLOSED, FAR), start=25450)
    }
    (tmp_path / "stack").mkdir()
    values = small_stack(proxy=docker_host.proxy, mirrors={ABSENT: mirrors[ABSENT]})
    stack = Stack(tmp_path / "stack", docker_host.address, values, path=docker_host.path)
    try:
        started = stack.up().stdout
        assert f"mirror {ABSENT}: the upstream https://{ABSENT}:{PORT} cannot be reached, because its name" in started

        for name in (CLOSED, FAR):
            mirrors[name] |= {"ca": authority().pair()["certificate"], "username": LOGIN[0]}
        with private_registry(client), http_proxy(UPSTREAM_PORT, address=gateway) as (url, asked):
            stack.write(mirrors=mirrors, http_proxy=url, no_proxy=[ABSENT, FOREIGN, CLOSED])
            passwords = {CLOSED: "example-only-wrong", FAR: LOGIN[1]}
            stack.set_secrets({f'upstream_passwords["{name}"]': text for name, text in passwords.items()})

            second = stack.up()
            warnings = {line.partition("mirror ")[2] for line in second.stdout.splitlines() if ": the upstream" in line}
            told = {text.partition(":")[0]: text for text in warnings}
            assert set(told) == {ABSENT, FOREIGN, CLOSED}, second.stdout
            assert "has a certificate of an unknown authority" in told[FOREIGN]
            assert "refuses the login robot (authentication required)" in told[CLOSED]
            for text in (second.stdout, second.stderr, stack.pulumi("stack", "export", "--stack", STACK).stdout):
                assert not any(password in text for password in passwords.values())

            push(tmp_path / "layout")
            assert pull(stack, FAR, tmp_path / "pulled") == ""
            assert set(asked) == {f"CONNECT {FAR}:{PORT}"}
            assert stack.planned() == {}, "nobody asks again"
    finally:
        remove_everything(client)


def push(layout: Path) -> None:
    """Push an image to the upstream."""
    write_layout(layout, [random_layer(1000)])
    login = f"--dest-creds={':'.join(LOGIN)}"
    target = f"docker://localhost:{UPSTREAM_PORT}/team/tool:1"
    answer = clients.run("skopeo", "copy", "--dest-tls-verify=false", login, f"oci:{layout}", target)
    assert answer.returncode == 0, answer.stderr


def pull(stack: Stack, upstream: str, folder: Path) -> str:
    """Pull through the mirror of an upstream by its own address; the error text, empty if it went well."""
    port = stack.values["mirrors"][upstream]["url"].rpartition(":")[2]
    certificates = stack.certificate_file.parent
    source = f"docker://localhost:{port}/team/tool:1"
    answer = clients.run("skopeo", "copy", f"--src-cert-dir={certificates}", source, f"oci:{folder}")
    return answer.stderr if answer.returncode else ""
