"""Checks that run during preview: does a local engine answer, are the ports free, is a new address another engine.

The checks run the ``docker`` command, which ``up`` also needs. The checks connect to a host over ``ssh://`` only when
``docker_host`` changes.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from components.configuration.fields import ANY_ADDRESS
from components.configuration.naming import StackName, endpoints, service_ports
from components.configuration.problems import ConfigError, Problem, set_command
from components.configuration.settings import Settings

#: Seconds after which a Docker host counts as unreachable.
_ANSWERS_WITHIN = 20
_LOOPBACK = "127.0.0.1"


def check_local_engine(settings: Settings, names: StackName) -> None:
    """Refuse a local engine that does not answer, and ports that are in use.

    Raises:
        ConfigError: with every problem; never for a host over ``ssh://``.
    """
    if settings.docker_host.startswith("ssh://"):
        return
    try:
        containers = _containers(settings.docker_host)
    except OSError as error:
        problem = Problem(
            "docker_host",
            f"{settings.docker_host} does not answer ({error})",
            "the address of a running Docker Engine that your user may use. `docker info` shows the cause",
            f"docker --host {settings.docker_host} info",
            (set_command("docker_host", "ssh://deploy@registry.example.com"),),
        )
        raise ConfigError([problem]) from None
    problems = list(_taken_ports(settings, _holders(names, containers)))
    if problems:
        raise ConfigError(problems)


def check_same_engine(old: str, new: str, names: StackName) -> None:
    """Refuse a new address if another engine than the stack's engine answers there.

    Pulumi would look for the containers of the old engine on the new engine, and would manage neither engine.

    Args:
        old: ``docker_host`` of the last ``up``.
        new: ``docker_host`` as configured now.
        names: names of the stack.

    Raises:
        ConfigError: unless the same engine answers at both addresses; also if an address does not answer.
    """
    if old == new:
        return
    engines, silent = {}, {}
    for address in (old, new):
        try:
            engines[address] = _identity(address, names)
        except OSError as error:
            silent[address] = str(error)
    if not silent and engines[old] == engines[new]:
        return
    if silent:
        said = "; ".join(f"{address} does not answer ({reason})" for address, reason in silent.items())
        found = f"{new} instead of {old}, possibly another engine: {said}"
    else:
        found = f"{new} is another engine than {old}, where the stack runs"
    raise ConfigError([_moved(old, new, found, old in silent)])


def _moved(old: str, new: str, found: str, old_is_silent: bool) -> Problem:
    others = ["to move the stack with its data, follow docs/moving.md"]
    if old_is_silent and old.startswith("ssh://") and new.startswith("ssh://"):
        alias, name = (address.rpartition("/")[2].rpartition("@")[2].partition(":")[0] for address in (old, new))
        entry = f"printf 'Host {alias}\\n  HostName {name}\\n' >> ~/.ssh/config"
        others.append(f"if only the host name changed, keep the old name until the next `up` is done: {entry}")
    elif old_is_silent and old.startswith("unix://") and new.startswith("unix://"):
        paths = " ".join(address.removeprefix("unix://") for address in (new, old))
        others.append(f"if only the socket path changed, keep the old path until the next `up` is done: ln -s {paths}")
    return Problem(
        "docker_host",
        found,
        "another address of the same engine. With another engine, Pulumi would lose the containers on the old engine",
        set_command("docker_host", old),
        tuple(others),
    )


def _identity(address: str, names: StackName) -> tuple[str, frozenset[str]]:
    """Return the ID of the engine at ``address`` and the IDs of the stack's containers.

    The engine ID alone is not enough: hosts cloned from one disk image share it. The docker command connects to
    ``ssh://`` in the same way as the plugin.
    """
    label = f"--filter=label=registry-stack.prefix={names.prefix}"
    containers = _ask(address, "ps", "--all", "--quiet", "--no-trunc", label)
    return _ask(address, "info", "--format={{.ID}}"), frozenset(containers.split())


def _containers(address: str) -> list[dict[str, Any]]:
    """Return the running, paused and restarting containers of an engine, as its API describes them."""
    identities = _ask(address, "ps", "--quiet", "--no-trunc").split()
    if not identities:
        return []
    # Fails for a container that is gone by now, but still describes the others.
    described = _run(address, "container", "inspect", "--format={{json .}}", *identities)
    return [json.loads(line) for line in described.stdout.split("\n") if line]


def _ask(address: str, *command: str) -> str:
    answer = _run(address, *command)
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or [f"docker {command[0]} failed with status {answer.returncode}"]
        raise OSError(said[-1])
    return answer.stdout


def _run(address: str, *command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *command],
            env=os.environ | {"DOCKER_HOST": address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWERS_WITHIN,
        )
    except FileNotFoundError:
        raise OSError("the docker command is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer to docker {command[0]} within {_ANSWERS_WITHIN} s") from None


def _holders(names: StackName, containers: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Return address, port and container name of each port in use; the name is "" for a container of the stack.

    The name prefix identifies the stack's containers, because `pulumi stack rename` changes the other labels.
    """
    found = []
    for container in containers:
        labels = container["Config"].get("Labels") or {}
        is_ours = labels.get("registry-stack.prefix") == names.prefix and "registry-stack.role" in labels
        name = "" if is_ours else container["Name"].lstrip("/")
        found += [(address, port, name) for address, port in _bindings(container)]
    return found


def _bindings(container: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    match container["State"]["Status"]:
        case "running" | "paused":
            bindings = container["NetworkSettings"]["Ports"]
        case "restarting":  # holds its ports from time to time
            bindings = container["HostConfig"]["PortBindings"]
        case _:
            return
    for binding in (one for bound in (bindings or {}).values() for one in bound or ()):
        if binding.get("HostPort", "").isdecimal():
            yield binding.get("HostIp") or ANY_ADDRESS, int(binding["HostPort"])


def _taken_ports(settings: Settings, holders: Sequence[tuple[str, int, str]]) -> Iterator[Problem]:
    published, is_local = _published(settings), settings.docker_host.startswith("unix://")
    used = {port for _, port in published} | {port for _, port, _ in holders}
    for (address, port), examples in published.items():
        names = [name for held, number, name in holders if number == port and _meet(address, held)]
        if not any(names) and (names or not is_local or not _is_bound(address, port)):
            continue
        container, which = next(filter(None, names), None), f"ss -ltnp 'sport = :{port}'"
        free = next(other for other in count(8443) if other not in used and not (is_local and _is_bound("", other)))
        used.add(free)
        fixes = [f"docker --host {settings.docker_host} stop {container}"] if container else []
        moved = [set_command(key, example.format(port=free)) for key, example in examples.items() if example]
        fixes += [" && ".join(moved)] if moved else [] if container else [which]
        yield Problem(
            next(iter(examples)),
            f"port {port}, in use by {f'container {container}' if container else 'a process on this machine'}",
            "a free port on the Docker host" + ("" if container else f". `{which}` shows the process"),
            fixes[0],
            tuple(fixes[1:]),
        )


def _published(settings: Settings) -> dict[tuple[str, int], dict[str, str]]:
    """Return the keys of each published address and port, with a template for another ``{port}`` ("" for none)."""
    address = settings.proxy.address
    if settings.proxy.services_address:
        return {(address, port): {"proxy.address": "127.0.0.2"} for port in service_ports(settings).values()}
    found: dict[tuple[str, int], dict[str, str]] = {}
    if settings.proxy.certificates.acme:
        found[address, 80] = {"proxy.certificates.acme": ""}
    if settings.proxy.metrics_port:
        found[_LOOPBACK, settings.proxy.metrics_port] = {"proxy.metrics_port": "{port}"}
    for key, url in endpoints(settings.registry, settings.mirrors, settings.mirror_url).items():
        found.setdefault((address, url.port), {})[key] = f"https://{url.host}:{{port}}"
    return found


def _meet(address: str, other: str) -> bool:
    return address == other or ANY_ADDRESS in (address, other) or other == "::"


def _is_bound(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
