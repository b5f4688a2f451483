"""Certificates from a real ACME server: issued, kept, renewed, and served while the server is away."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import pytest
from cryptography import x509

from tests.engine.acme import CLOSED, TLS_PORT, AcmeServer, acme_server
from tests.harness import clients
from tests.harness.certificates import odd_pair
from tests.harness.small_stack import PREFIX, UPSTREAM, DockerHost, remove_everything, small_stack
from tests.harness.stack import STACK, Stack
from tests.harness.upstreams import http_proxy

pytestmark = [pytest.mark.once, pytest.mark.any_proxy]

# An authority certifies public names alone; the tests' clients look for them on this machine.
REGISTRY, MIRROR = "registry.test.example.com", "mirror.test.example.com"
#: Only the HTTP proxy knows this name.
AUTHORITY = "authority.test.example.com"
VALID_SECONDS = 60
METRICS_PORT = 29180


@dataclass(frozen=True)
class Site:
    """A stack with certificates from ``authority``, the engine's API, and the requests that the HTTP proxy got."""

    stack: Stack
    authority: AcmeServer
    trust: ssl.SSLContext
    api: docker.DockerClient
    through_proxy: list[str]

    def restart(self) -> None:
        """Restart the proxy and what gets its certificates, as a reboot of the host does."""
        for role in ("proxy", "proxy-issuer") if self.stack.proxy == "nginx" else ("proxy",):
            container = clients.containers(self.api, PREFIX)[role]
            container.restart()
            clients.wait_until_healthy(self.api, str(container.name))


def served(trust: ssl.SSLContext, host: str = REGISTRY) -> x509.Certificate:
    """The certificate that the proxy shows for ``host``, after it was verified."""
    with (
        socket.create_connection(("127.0.0.1", TLS_PORT), timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname=host) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate
    return x509.load_der_x509_certificate(certificate)


def eventually(
    trust: ssl.SSLContext,
    host: str = REGISTRY,
    accept: Callable[[x509.Certificate], bool] = lambda _: True,
    seconds: float = 300,
) -> x509.Certificate:
    """The certificate, once there is one for ``host`` that ``accept`` takes."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if accept(certificate := served(trust, host)):
                return certificate
        except OSError as error:
            found: object = error
        else:
            found = certificate.serial_number
        assert time.monotonic() < deadline, f"no such certificate within {seconds} seconds: {found}"
        time.sleep(0.5)


@pytest.fixture(scope="module", params=["caddy", "nginx"])
def site(
    request: pytest.FixtureRequest,
    client: docker.DockerClient,
    docker_host: DockerHost,
    gateway: str,
    binary: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A stack for each proxy server, which reaches its authority by an HTTP proxy. Names are validated over HTTP."""
    folder = tmp_path_factory.mktemp("acme")
    remove_everything(client)
    with (
        acme_server(binary, folder / "authority", AUTHORITY, tls_port=CLOSED) as authority,
        http_proxy(authority.port, address=gateway) as (proxy_url, asked),
    ):
        proxy = {
            "server": request.param,
            "address": "127.0.0.1",
            "certificates": {"acme": authority.settings},
            "metrics_port": METRICS_PORT,
        }
        (folder / "stack").mkdir()
        values = small_stack(
            registry=small_stack()["registry"] | {"url": f"https://{REGISTRY}"},
            mirrors={UPSTREAM: small_stack()["mirrors"][UPSTREAM] | {"url": f"https://{MIRROR}"}},
            proxy=proxy,
            http_proxy=proxy_url,
            no_proxy=[gateway, UPSTREAM],
        )
        stack = Stack(folder / "stack", docker_host.address, values, path=docker_host.path)
        stack.set_secret("acme_eab_mac_key", authority.mac_key)
        try:
            stack.up()
            yield Site(stack, authority, authority.root(), client, asked)
        finally:
            for role, container in clients.containers(client, PREFIX).items():
                if role.startswith("proxy") and container.status == "running":
                    print(role, container.logs(tail=60).decode())
            remove_everything(client)


def test_every_name_gets_a_certificate_by_http_and_is_served_with_it(site: Site) -> None:
    for host in (REGISTRY, MIRROR):
        eventually(site.trust, host)

    with httpx.Client(verify=site.trust, headers={"Host": REGISTRY}, timeout=60) as http:
        answer = http.get("https://127.0.0.1/v2/", extensions={"sni_hostname": REGISTRY})
    assert answer.status_code == 401
    plain = httpx.get("http://127.0.0.1/v2/", headers={"Host": REGISTRY}, timeout=60)
    assert plain.headers["Location"].startswith("https://")


def test_only_the_authority_is_reached_through_the_http_proxy(site: Site) -> None:
    eventually(site.trust)
    with httpx.Client(verify=site.trust, headers={"Host": REGISTRY}, timeout=60) as http:
        answer = http.get("https://127.0.0.1/v2/", extensions={"sni_hostname": REGISTRY})

    assert answer.status_code == 401, "from a process of the registry, by its name in the stack's own network"
    assert set(site.through_proxy) == {f"CONNECT {AUTHORITY}:{site.authority.port}"}


def test_the_metrics_say_when_the_certificate_of_each_name_ends(site: Site) -> None:
    ends = {host: int(eventually(site.trust, host).not_valid_after_utc.timestamp()) for host in (REGISTRY, MIRROR)}

    said = httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=60).text.splitlines()

    for host, end in ends.items():
        assert f'tls_certificate_not_after_timestamp_seconds{{host="{host}"}} {end}' in said


def test_the_mac_key_is_in_no_preview_and_no_state(site: Site) -> None:
    preview = site.stack.preview("--diff", "--refresh", "--expect-no-changes")

    for text in (preview.stdout, site.stack.pulumi("stack", "export", "--stack", STACK).stdout):
        assert site.authority.mac_key not in text


def test_a_restarted_proxy_asks_for_no_new_certificate_and_serves_without_the_authority(site: Site) -> None:
    before = {host: eventually(site.trust, host).serial_number for host in (REGISTRY, MIRROR)}
    orders = site.authority.orders()
    assert orders >= len(before)

    site.restart()
    assert {host: eventually(site.trust, host).serial_number for host in before} == before
    time.sleep(3)
    assert site.authority.orders() == orders

    site.authority.stop()
    site.restart()
    assert {host: eventually(site.trust, host).serial_number for host in before} == before


def test_another_authority_is_taken_over_at_once_and_its_certificate_is_renewed_in_time(
    site: Site, gateway: str, binary: Callable[[str], str], tmp_path: Path
) -> None:
    # Caddy alone can answer on the port of clients, too.
    open_port = {"http_port": CLOSED} if site.stack.proxy == "caddy" else {"tls_port": CLOSED}
    with acme_server(binary, tmp_path / "another", gateway, valid_seconds=VALID_SECONDS, **open_port) as another:
        site.stack.write(proxy=site.stack.values["proxy"] | {"certificates": {"acme": another.settings}})
        site.stack.set_secret("acme_eab_mac_key", another.mac_key)
        site.stack.up()
        first = eventually(another.root())

        # Proxies renew when a third of the time is left; they look at their start and every few minutes.
        left = (first.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).total_seconds()
        time.sleep(max(0.0, left - VALID_SECONDS / 4))
        site.restart()
        second = eventually(another.root(), accept=lambda shown: shown.serial_number != first.serial_number)

    assert second.not_valid_after_utc > first.not_valid_after_utc


@pytest.mark.parametrize("server", ["caddy", "nginx"])
def test_a_root_that_only_caddy_refuses_is_not_delivered(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path: Path, server: str
) -> None:
    acme = {
        "email": "ops@example.com",
        "directory": "https://ca.test.example.com/directory",
        "root": odd_pair("ca.test.example.com")["certificate"],
    }
    proxy = {"server": server, "address": "127.0.0.1", "certificates": {"acme": acme}}
    registry = small_stack()["registry"] | {"url": f"https://{REGISTRY}"}
    remove_everything(client)
    stack = Stack(
        tmp_path, docker_host.address, small_stack(registry=registry, mirrors={}, proxy=proxy), path=docker_host.path
    )
    try:
        refused = stack.up(check=False)
        assert refused.returncode != 0
        assert {"caddy": "proxy-validation", "nginx": "proxy-issuer-validation"}[server] in refused.stdout
        assert "acme-root.crt to trust pool" in refused.stdout
        assert not [role for role in clients.containers(client, PREFIX) if role.startswith("proxy")]
    finally:
        remove_everything(client)
