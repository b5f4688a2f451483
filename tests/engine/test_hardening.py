"""The proxy as an attacker finds it from outside: by testssl.sh, and by what its container may do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
import yaml

from tests.harness import clients
from tests.harness.certificates import authority
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    PUBLIC_PORT,
    REGISTRY_PORT,
    UPSTREAM,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

pytestmark = pytest.mark.once

#: What testssl.sh may say: also LOW, as of a name without a CAA record.
HARMLESS = {"OK", "INFO", "LOW", "DEBUG"}
#: WARN is no finding: testssl.sh could not make the check. Here its openssl never manages the one, and has no GOST
#: ciphers to try.
NEVER_CHECKED = {"secure_renego", "engine_problem"}


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with every kind of process, whose certificate is like those of public authorities."""
    folder = tmp_path_factory.mktemp("stack")
    registry = small_stack()["registry"] | {"anonymous_url": f"https://localhost:{PUBLIC_PORT}"}
    with running_stack(client, docker_host, folder, proxy=docker_host.proxy_with_files, registry=registry) as running:
        yield running


def findings_of_testssl(stack: Stack, folder: Path) -> list[dict[str, str]]:
    """What testssl.sh finds; up to three times more if a connection failed on a busy machine, and with it a check."""
    trusted = folder / "authority.pem"
    trusted.write_text(authority().pair()["certificate"])
    for attempt in range(4):
        report = folder / f"report-{attempt}.json"
        options = (
            "--quiet",
            "--color=0",
            "--warnings=off",
            # What it knows, but how it thinks that browsers would get along, and a mark for all of it.
            *("--protocols", "--std", "--fs", "--server-preference", "--server-defaults", "--headers", "--vulnerable"),
            "--ip=127.0.0.1",
            f"--add-ca={trusted}",
            f"--jsonfile={report}",
        )
        answer = clients.run("testssl", *options, stack.registry)
        findings: list[dict[str, str]] = json.loads(report.read_text())
        assert len(findings) > 80, answer.stdout
        print(f"testssl.sh: {dict(Counter(one['severity'] for one in findings))}")
        if not unchecked(findings):
            break
    return findings


def unchecked(findings: list[dict[str, str]]) -> set[str]:
    """The checks that testssl.sh should have made and did not."""
    return {one["id"] for one in findings if one["severity"] == "WARN"} - NEVER_CHECKED


def test_testssl_finds_nothing_above_low(stack: Stack, tmp_path: Path) -> None:
    findings = findings_of_testssl(stack, tmp_path)

    assert unchecked(findings) == set()
    found = [(one["id"], one["severity"], one["finding"]) for one in findings if one["severity"] != "WARN"]
    assert [one for one in found if one[1] not in HARMLESS] == []


def test_no_container_has_more_than_it_needs(stack: Stack, client: docker.DockerClient) -> None:
    found = {
        role: container.attrs
        for role, container in clients.containers(client, PREFIX).items()
        if container.status == "running"
    }
    needed = yaml.safe_load((Path(__file__).parent / "containers.yml").read_text())

    assert {role: has(attrs) for role, attrs in found.items()} == {
        role: {"capabilities": [], "tmpfs": [], **needed[stack.proxy if role == "proxy" else role]} for role in found
    }
    assert set(found) == {"proxy", "reader", "writer", "admin", "public", f"mirror-{UPSTREAM.replace('.', '-')}"}
    for attrs in found.values():
        host = attrs["HostConfig"]
        assert (host["ReadonlyRootfs"], host["Privileged"]) == (True, False)
        assert (host["SecurityOpt"], host["CapDrop"]) == (["no-new-privileges:true"], ["ALL"])
        assert host["MemorySwap"] == host["Memory"]
        assert host["PidsLimit"] == 8192
        assert not any(host[name] for name in ("Devices", "GroupAdd", "VolumesFrom", "Links", "ExtraHosts"))
        assert [host[name] for name in ("PidMode", "UTSMode", "UsernsMode")] == ["", "", ""]
        assert host["IpcMode"] == "private"


def has(attrs: dict[str, Any]) -> dict[str, Any]:
    """What a container has, in the words of ``containers.yml``."""
    host, networks = attrs["HostConfig"], attrs["NetworkSettings"]
    published = {int(bound["HostPort"]) for ports in networks["Ports"].values() for bound in ports or []}
    return {
        "user": attrs["Config"]["User"],
        "memory_mb": host["Memory"] >> 20,
        "networks": sorted(name.removeprefix(f"{PREFIX}-") for name in networks["Networks"]),
        "ports": sorted(published),
        "capabilities": host["CapAdd"] or [],
        "mounts": {
            mount["Destination"]: f"{'rw' if mount['RW'] else 'ro'} {mount['Type']}"
            for mount in attrs["Mounts"]
            if mount["Type"] != "tmpfs"
        },
        "tmpfs": sorted(host.get("Tmpfs") or {}),
    }


def test_nothing_listens_on_a_network_but_the_ports_that_clients_use(stack: Stack, client: docker.DockerClient) -> None:
    proxy = clients.containers(client, PREFIX)["proxy"]
    listening = clients.execute(proxy, "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    rows = [line.split() for line in listening if ":" in line and line.split()[3] == "0A"]
    anywhere = {int(row[1].partition(":")[2], 16) for row in rows if set(row[1].partition(":")[0]) == {"0"}}

    assert anywhere == {REGISTRY_PORT, MIRROR_PORT, PUBLIC_PORT}


def test_the_proxys_limits_follow_from_its_memory(stack: Stack, client: docker.DockerClient) -> None:
    proxy = clients.containers(client, PREFIX)["proxy"]
    megabytes = proxy.attrs["HostConfig"]["Memory"] >> 20
    script = f'cd /proc/$(pidof {stack.proxy} | cut -d" " -f1) && cat limits && tr "\\0" "\\n" < environ'
    said = clients.execute(proxy, "sh", "-c", script).splitlines()
    (files,) = (line.split()[3:5] for line in said if line.startswith("Max open files"))

    if stack.proxy == "caddy":
        assert files == [str(8 * megabytes)] * 2
        assert f"GOMEMLIMIT={(megabytes << 20) // 5 * 4}" in said
    else:
        assert files[0] == str(16 * megabytes)  # for a worker, of which there are four


def test_no_answer_names_a_version(stack: Stack) -> None:
    for path in ("/", "/v2/", "/v2/_catalog", "/%00", "/v2/" + "x" * 60_000):
        answer = httpx.get(f"https://{stack.registry}{path}", verify=stack.trust, timeout=60)
        said = f"{answer.headers} {answer.text}".lower()
        assert not any(name in said for name in ("nginx/", "caddy", "go-http", "openssl")), (path, said)
