"""Certificates that the operator hands over are served, and a renewed one is taken over without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

import docker
import pytest
from cryptography import x509

from tests.certificates import certificate_pair
from tests.engine import clients
from tests.engine.conftest import PREFIX, REGISTRY_PORT, DockerHost, running_stack


def served() -> str:
    """The certificate that the proxy shows, as PEM."""
    return ssl.get_server_certificate(("localhost", REGISTRY_PORT))


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
        assert canonical(served()) == renewed
        assert clients.containers(client, PREFIX)["proxy"].attrs["State"]["StartedAt"] == started
        stack.preview("--refresh", "--expect-no-changes")
        assert "ca_certificate" not in stack.outputs()
        assert "PRIVATE KEY" not in stack.pulumi("stack", "export", "--stack", "test").stdout

        other = {"caddy": "nginx", "nginx": "caddy"}[proxy["engine"]]
        stack.write(proxy=proxy | {"engine": other})
        planned = stack.planned()
        assert planned["proxy-container"] == "replace"
        assert planned["proxy-reload"] == "replace", "the new container reads its configuration when it starts"
        assert not any("data" in name for name in planned), "certificates and accounts stay for the way back"
        stack.up()
        assert other in clients.containers(client, PREFIX)["proxy"].attrs["Config"]["Image"]
        assert canonical(served()) == renewed
        stack.preview("--refresh", "--expect-no-changes")


@pytest.mark.once
def test_another_engine_goes_on_with_the_certificates_of_the_internal_authority(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path: Path
) -> None:
    proxy = {**docker_host.proxy, "certificates": {"internal": {}}}
    with running_stack(client, docker_host, tmp_path, proxy=proxy) as stack:
        clients.wait_for_port(REGISTRY_PORT, stack.trust)
        before, root = canonical(served()), stack.outputs()["ca_certificate"]

        stack.write(proxy=proxy | {"engine": {"caddy": "nginx", "nginx": "caddy"}[proxy["engine"]]})
        stack.up()

        clients.wait_for_port(REGISTRY_PORT, stack.trust)
        assert canonical(served()) == before
        assert stack.outputs()["ca_certificate"] == root
        stack.preview("--refresh", "--expect-no-changes")
