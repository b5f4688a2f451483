"""What a preview finds on a local engine: its own containers, those of others, and processes of the machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from components.checks.docker_host import check_local_engine
from components.configuration.naming import StackName
from components.configuration.problems import ConfigError, Problem
from tests.harness.configuration import configuration, loaded
from tests.harness.processes import free_port

NAMES = StackName(prefix="registry-stack", stack="prod")
OWN = NAMES.labels("proxy")
DOCKER = """#!/bin/sh
case "$DOCKER_HOST,$*" in
  *nowhere*) echo "Cannot connect" >&2; exit 1 ;;
  *,ps*) cat "{folder}/ids" ;;
  *,container*inspect*) cat "{folder}/described"; exit {status} ;;
esac
"""


def container(
    name: str, port: int, labels: dict[str, str] | None = None, state: str = "running", ip: str = "0.0.0.0"
) -> dict[str, Any]:
    """What ``docker inspect`` says of a container, whose ports are listed while it runs."""
    configured = {f"{port}/tcp": [{"HostIp": ip, "HostPort": str(port)}], "9/tcp": None}
    return {
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Status": state},
        "HostConfig": {"PortBindings": configured},
        "NetworkSettings": {"Ports": configured if state in ("running", "paused") else {}},
    }


def at(port: int) -> dict[str, Any]:
    """A registry on a port of this machine."""
    registry: dict[str, Any] = configuration()["registry"]
    return registry | {"url": f"https://localhost:{port}"}


Problems = Callable[..., list[Problem]]


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problems:
    """What is refused on an engine with some containers; one that is None went after it was listed."""

    def found(*containers: dict[str, Any] | None, **changes: Any) -> list[Problem]:
        gone = any(each is None for each in containers)
        (tmp_path / "docker").write_text(DOCKER.format(folder=tmp_path, status=int(gone)))
        (tmp_path / "docker").chmod(0o755)
        (tmp_path / "ids").write_text("\n".join(map(str, range(len(containers)))))
        (tmp_path / "described").write_text("\n".join(json.dumps(each) for each in containers if each))
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        values = {
            "docker_host": "unix:///var/run/docker.sock",
            "mirrors": {},
            "proxy": {"address": "127.0.0.1", "certificates": {"internal": {}}},
        }
        values = configuration(**values | changes)
        try:
            check_local_engine(loaded(values)[0], NAMES)
        except ConfigError as error:
            return error.problems
        return []

    return found


@pytest.fixture
def held() -> Iterator[int]:
    """A port that a process holds, as the docker-proxy of a container does."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.fixture
def free() -> int:
    """A port that nothing holds."""
    return free_port()


@pytest.mark.parametrize("state", ["running", "restarting", "paused"])
@pytest.mark.parametrize("stack", ["prod", "before-the-rename"])
def test_own_containers_are_known_by_the_prefix(state: str, stack: str, held: int, problems: Problems) -> None:
    own = container("registry-stack-proxy", held, OWN | {"registry-stack.stack": stack}, state)

    assert problems(own, registry=at(held)) == []


@pytest.mark.parametrize("state", ["running", "restarting", "paused"])
@pytest.mark.parametrize(
    "labels", [None, {"registry-stack.prefix": "registry-stack"}, OWN | {"registry-stack.prefix": "b"}]
)
def test_the_container_of_another_is_named_with_the_commands_that_free_the_port(
    state: str, labels: dict[str, str] | None, held: int, problems: Problems
) -> None:
    (problem,) = problems(container("b-proxy", held, labels, state), registry=at(held))

    assert problem.key == "registry.url"
    assert problem.found == f"port {held}, in use by container b-proxy"
    assert problem.fix == "docker --host unix:///var/run/docker.sock stop b-proxy"
    assert problem.alternatives[0].startswith(
        "pulumi config set --path 'registry-stack:registry.url' https://localhost:"
    )


def test_a_process_is_named_by_the_command_that_shows_it(held: int, problems: Problems) -> None:
    (problem,) = problems(container("registry-stack-proxy", held, OWN, "exited"), registry=at(held))

    assert problem.found == f"port {held}, in use by a process on this machine"
    assert f"ss -ltnp 'sport = :{held}'" in problem.allowed
    assert f"https://localhost:{held}" not in problem.fix


def test_services_on_one_port_move_together(held: int, problems: Problems) -> None:
    mirrors = {"docker.io": {"url": f"https://mirror.localhost:{held}"}}

    (problem,) = problems(registry=at(held), mirrors=mirrors)

    registry, mirror = problem.fix.split(" && ")
    assert registry.rpartition(":")[2] == mirror.rpartition(":")[2] != str(held)


def test_metrics_are_looked_for_on_loopback_alone(held: int, free: int, problems: Problems) -> None:
    proxy = {"address": "127.0.0.9", "certificates": {"internal": {}}, "metrics_port": held}

    (problem,) = problems(proxy=proxy, registry=at(free))

    assert problem.key == "proxy.metrics_port"
    assert problem.fix.startswith("pulumi config set --path 'registry-stack:proxy.metrics_port' 8")


def test_the_port_of_challenges_has_no_other(free: int, problems: Problems) -> None:
    registry = configuration()["registry"] | {"url": f"https://registry.example.com:{free}"}

    (problem,) = problems(container("web", 80), proxy=configuration()["proxy"], registry=registry)

    assert problem.key == "proxy.certificates.acme"
    assert (problem.fix, problem.alternatives) == ("docker --host unix:///var/run/docker.sock stop web", ())


def test_a_container_that_is_gone_holds_nothing_and_hides_no_other(held: int, problems: Problems) -> None:
    (problem,) = problems(None, container("web", held), registry=at(held))

    assert problem.found == f"port {held}, in use by container web"


def test_a_missing_docker_command_is_named(free: int, problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Mock(side_effect=FileNotFoundError))

    (problem,) = problems(registry=at(free))

    assert "the docker command is not installed on this machine" in problem.found


def test_an_engine_that_does_not_answer_is_named_with_what_docker_says(free: int, problems: Problems) -> None:
    (problem,) = problems(registry=at(free), docker_host="unix:///nowhere.sock")

    assert problem.key == "docker_host"
    assert problem.found == "unix:///nowhere.sock does not answer (Cannot connect)"
    assert problem.fix == "docker --host unix:///nowhere.sock info"
