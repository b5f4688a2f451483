"""What docker, containerd and skopeo print and get while the upstream of a mirror has a bad day."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from components.configuration.naming import mirror_alias
from tests.harness import clients
from tests.harness.certificates import authority, certificate_pair
from tests.harness.faulty_upstream import Day, FaultyUpstream
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import MIRROR_PORT, PREFIX, DockerHost, running_stack
from tests.harness.stack import Stack

pytestmark = pytest.mark.once

CONTAINERD = "/var/run/docker/containerd/containerd.sock"
CACHED = "team/cached"
#: Seconds within which the docs promise an answer, with the time that busy machines need.
BOUND = 90


@dataclass(frozen=True)
class Site:
    """A stack with a mirror of ``docker.io``, its upstream, and an origin with the same images and only good days."""

    stack: Stack
    upstream: FaultyUpstream
    origin: FaultyUpstream
    folder: Path

    def add(self, name: str) -> str:
        """Add a new image to the upstream and the origin; its name."""
        layout = self.folder / "layouts" / name
        layout.parent.mkdir(parents=True, exist_ok=True)
        write_layout(layout, [random_layer(1_000_000)])
        self.upstream.add(layout, f"{name}:1")
        self.origin.add(layout, f"{name}:1")
        return name

    def skopeo(self, name: str) -> str:
        """Pull with skopeo into a new folder; the error text, empty if it went well."""
        target = self.folder / "pulled" / f"{name}-{time.monotonic_ns()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        options = ("copy", f"--src-cert-dir={self.stack.certificate_file.parent}")
        answer = clients.run("skopeo", *options, f"docker://localhost:{MIRROR_PORT}/{name}:1", f"oci:{target}")
        return answer.stderr if answer.returncode else ""

    def containerd(self, name: str, *, falls_back: bool) -> str:
        """Fetch with ``ctr`` from the mirror, then from the origin; the error text, empty if it went well."""
        hosts = self.folder / f"hosts-{falls_back}" / "docker.io"
        hosts.mkdir(parents=True, exist_ok=True)
        mirror, ca = f"https://localhost:{MIRROR_PORT}", f'ca = "{self.stack.certificate_file}"\n'
        server = f'server = "{self.origin.url if falls_back else mirror}"\n{"" if falls_back else ca}'
        text = f'{server}[host."{mirror}"]\n  capabilities = ["pull", "resolve"]\n  {ca}'
        (hosts / "hosts.toml").write_text(text)
        command = ("content", "fetch", "--hosts-dir", str(hosts.parent), f"docker.io/{name}:1")
        answer = clients.run("ctr", "--address", CONTAINERD, *command)
        return answer.stderr if answer.returncode else ""


@pytest.fixture(scope="module")
def site(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    subnet = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"]
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))
    ca = authority().pair()["certificate"]
    with FaultyUpstream(gateway, certificate_pair(gateway)) as upstream, FaultyUpstream("127.0.0.1") as origin:
        mirror = {"url": f"https://localhost:{MIRROR_PORT}", "upstream": upstream.url, "ca": ca}
        stack_folder = tmp_path_factory.mktemp("stack")
        with running_stack(client, docker_host, stack_folder, mirrors={"docker.io": mirror}) as stack:
            site = Site(stack, upstream, origin, folder)
            site.add(CACHED)
            assert site.skopeo(CACHED) == ""
            yield site


def docker_pull(docker_cli: clients.DockerCli, name: str) -> str:
    """Pull with the docker command; the error text, empty if it went well."""
    answer = docker_cli("pull", f"localhost:{MIRROR_PORT}/{name}:1")
    return answer.stderr if answer.returncode else ""


FAILS = "docker.io is unreachable or fails"


@pytest.mark.parametrize(
    ("day", "status", "message"),
    [
        ("closed", 424, FAILS),
        ("wrong certificate", 424, FAILS),
        ("500", 424, FAILS),
        ("silent", 424, "docker.io does not answer"),
        ("401", 403, "docker.io refuses this image to its mirror"),
        ("404", 404, "docker.io has no such image"),
        ("429", 429, "docker.io limits the pulls of its mirror"),
    ],
)
def test_clients_print_what_happened_and_cached_images_are_pulled(
    site: Site, docker_cli: clients.DockerCli, day: Day, status: int, message: str
) -> None:
    name = site.add(f"team/new-{day.replace(' ', '-')}")
    with site.upstream.having(day), ThreadPoolExecutor() as pool:
        began = time.monotonic()
        # They wait side by side.
        by_docker = pool.submit(docker_pull, docker_cli, name)
        by_containerd = pool.submit(site.containerd, name, falls_back=False)
        # It repeats a 429 for half a minute.
        by_skopeo = pool.submit(site.skopeo, name) if status != 429 else None
        cached = pool.submit(site.skopeo, CACHED)
        said = by_docker.result()
        print(f"{day}: docker: {said}{day}: containerd: {by_containerd.result()}")
        assert cached.result() == ""
        took = time.monotonic() - began

    assert message in said
    assert (f" {status} " if status != 404 else "not found") in by_containerd.result()
    if by_skopeo:
        print(f"{day}: skopeo: {by_skopeo.result()}")
        assert message in by_skopeo.result()
    assert took < BOUND


@pytest.mark.parametrize("day", ["closed", "wrong certificate", "401", "404", "429"])
def test_a_client_with_another_source_pulls_from_there(site: Site, day: Day) -> None:
    name = site.add(f"team/elsewhere-{day.replace(' ', '-')}")
    with site.upstream.having(day):
        assert site.containerd(name, falls_back=True) == ""
    assert any(name in path for path in site.origin.asked)


def test_operators_read_that_the_certificate_is_wrong(site: Site, docker_cli: clients.DockerCli) -> None:
    with site.upstream.having("wrong certificate"):
        assert docker_pull(docker_cli, "team/any") != ""

    (mirror,) = json.loads(site.stack.operations("mirrors", "--json").stdout)["mirrors"]
    assert "failed to verify certificate" in mirror["last_error"]["message"]


@pytest.mark.parametrize("day", ["slow", "redirects"])
def test_a_slow_upstream_and_one_whose_layers_are_elsewhere_work(
    site: Site, docker_cli: clients.DockerCli, day: Day
) -> None:
    name = site.add(f"team/{day}")
    with site.upstream.having(day):
        assert docker_pull(docker_cli, name) == ""
        assert site.skopeo(CACHED) == ""


def test_forged_bytes_reach_no_client_and_no_cache(site: Site, docker_cli: clients.DockerCli) -> None:
    name = site.add("team/forged")
    with site.upstream.having("wrong bytes"):
        assert docker_pull(docker_cli, name) != ""
        assert site.skopeo(name) != ""
        assert site.skopeo(CACHED) == ""

    assert docker_pull(docker_cli, name) == ""


def test_a_layer_that_broke_off_is_pulled_the_next_day(site: Site, docker_cli: clients.DockerCli) -> None:
    name = site.add("team/broken")
    with site.upstream.having("breaks off"):
        assert "unexpected EOF" in site.skopeo(name)
        assert site.skopeo(CACHED) == ""

    assert docker_pull(docker_cli, name) == ""


def test_requests_wait_for_a_mirror_that_restarts(site: Site, client: docker.DockerClient) -> None:
    name = site.add("team/restart")
    mirror = clients.containers(client, PREFIX)[mirror_alias("docker.io")]
    with ThreadPoolExecutor() as pool:
        mirror.stop()
        pulling = pool.submit(site.skopeo, name)
        mirror.start()
        said = pulling.result()
    clients.wait_until_healthy(client, str(mirror.name))

    # nginx lets nothing wait.
    assert said == "" or (site.stack.proxy == "nginx" and "503" in said)
