"""Certificates that the operator hands over are served, and a renewed one is taken over without a restart."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from cryptography import x509

from components.render.proxy import CERTIFICATES_DIRECTORY
from tests.harness import clients
from tests.harness.certificates import certificate_pair, joined_pair, odd_pair
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


def served() -> str:
    """The certificate that the proxy shows, as PEM."""
    return ssl.get_server_certificate(("localhost", REGISTRY_PORT))


def wait_until_served(certificate: bytes) -> None:
    """Wait until the proxy shows a certificate: the command that reloads nginx does not wait for the reload."""
    deadline = time.monotonic() + 60
    while canonical(served()) != certificate:
        assert time.monotonic() < deadline, "the proxy shows another certificate"
        time.sleep(0.1)


def canonical(certificate: str) -> bytes:
    return x509.load_pem_x509_certificate(certificate.encode()).tbs_certificate_bytes


def test_a_renewed_certificate_is_served_without_a_restart_and_by_either_engine(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path: Path
) -> None:
    proxy = docker_host.proxy_with_files
    names, more_names = ("localhost",), ("localhost", "renewed.example.com")
    renewed = canonical(certificate_pair(*more_names)["certificate"])
    with running_stack(client, docker_host, tmp_path, proxy=proxy) as stack:
        started = clients.containers(client, PREFIX)["proxy"].attrs["State"]["StartedAt"]
        assert canonical(served()) == canonical(certificate_pair(*names)["certificate"])

        stack.set_certificate(*more_names)
        stack.up()
        wait_until_served(renewed)
        assert clients.containers(client, PREFIX)["proxy"].attrs["State"]["StartedAt"] == started
        stack.preview("--refresh", "--expect-no-changes")
        assert "ca_certificate" not in stack.outputs()
        assert "PRIVATE KEY" not in stack.pulumi("stack", "export", "--stack", "test").stdout

        other = {"caddy": "nginx", "nginx": "caddy"}[proxy["server"]]
        stack.write(proxy=proxy | {"server": other})
        planned = stack.planned()
        assert planned["proxy-container"] == "replace"
        assert planned["proxy-reload"] == "replace", "the new container reads its configuration when it starts"
        assert not any("data" in name for name in planned), "certificates and accounts stay for the way back"
        stack.up()
        assert other in clients.containers(client, PREFIX)["proxy"].attrs["Config"]["Image"]
        assert canonical(served()) == renewed
        stack.preview("--refresh", "--expect-no-changes")


def delivered(client: docker.DockerClient) -> dict[str, str]:
    """The certificates and keys in the proxy's volume, by file name."""
    proxy = clients.containers(client, PREFIX)["proxy"]
    names = clients.execute(proxy, "ls", "-A", CERTIFICATES_DIRECTORY).split()
    return {name: clients.execute(proxy, "cat", f"{CERTIFICATES_DIRECTORY}/{name}") for name in names}


def test_what_the_proxy_itself_refuses_is_not_delivered_and_what_no_host_uses_neither(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path: Path
) -> None:
    with running_stack(client, docker_host, tmp_path, proxy=docker_host.proxy_with_files) as stack:
        before, files = canonical(served()), delivered(client)
        assert set(files) == {"localhost.crt", "localhost.key"}

        stack.set_pair("localhost", odd_pair("localhost"))
        stack.preview()  # Python finds nothing wrong with it
        refused = stack.up(check=False)
        said = refused.stdout + refused.stderr
        assert refused.returncode != 0
        assert "proxy-validation" in said
        assert f"{CERTIFICATES_DIRECTORY}/localhost.crt" in said or "invalid BMPString" in said
        assert "PRIVATE KEY" not in said
        assert delivered(client) == files
        proxy = clients.containers(client, PREFIX)["proxy"]
        proxy.restart()
        clients.wait_until_healthy(client, str(proxy.name))
        assert canonical(served()) == before

        mirrors = small_stack()["mirrors"]
        stack.write(mirrors={UPSTREAM: mirrors[UPSTREAM] | {"url": f"https://mirror.localhost:{MIRROR_PORT}"}})
        stack.set_pair("localhost", joined_pair("localhost", "renewed.example.com"))
        stack.set_certificate("mirror.localhost")
        stack.up()
        wait_until_served(canonical(certificate_pair("localhost", "renewed.example.com")["certificate"]))
        assert set(delivered(client)) == {*files, "mirror.localhost.crt", "mirror.localhost.key"}

        stack.write(mirrors=mirrors)
        stack.set_pair("mirror.localhost", {"private_key": "no PEM"})
        assert "certificate mirror.localhost covers no configured host" in stack.up().stdout
        assert set(delivered(client)) == set(files)
        stack.preview("--refresh", "--expect-no-changes")


@pytest.mark.once
def test_another_server_goes_on_with_the_certificates_of_the_internal_authority(
    client: docker.DockerClient, docker_host: DockerHost, docker_cli: clients.DockerCli, tmp_path: Path
) -> None:
    """Both serve a stack of ``localhost`` under the address of loopback, too."""
    write_layout(tmp_path / "layout", [random_layer(1000)])

    def refused_by_address(stack: Stack) -> list[str]:
        by_address = clients.Skopeo(stack, tmp_path, "ci", registry=f"127.0.0.1:{REGISTRY_PORT}")
        login = ("login", f"127.0.0.1:{REGISTRY_PORT}", "--username", "ci", "--password-stdin")
        asked: list[Callable[[], subprocess.CompletedProcess[str]]] = [
            lambda: by_address.push(tmp_path / "layout", "team/loopback:1"),
            lambda: by_address.inspect("team/loopback:1"),
            lambda: docker_cli(*login, stdin=stack.users["ci"]),
        ]
        return [answer.stderr for ask in asked if (answer := ask()).returncode]

    proxy = {**docker_host.proxy, "certificates": {"internal": {}}}
    with running_stack(client, docker_host, tmp_path, proxy=proxy) as stack:
        clients.wait_for_port(REGISTRY_PORT, stack.trust)
        before, root = canonical(served()), stack.outputs()["ca_certificate"]
        assert refused_by_address(stack) == []

        stack.write(proxy=proxy | {"server": {"caddy": "nginx", "nginx": "caddy"}[proxy["server"]]})
        stack.up()

        clients.wait_for_port(REGISTRY_PORT, stack.trust)
        assert canonical(served()) == before
        assert refused_by_address(stack) == []
        assert stack.outputs()["ca_certificate"] == root
        stack.preview("--refresh", "--expect-no-changes")
