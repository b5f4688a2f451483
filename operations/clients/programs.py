"""The programs of a machine: which ones are there, what they use now, and how they take new files."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.configuration.problems import Failure
from components.render.clients import Mirror
from operations.clients.files import CLIENTS, Client
from operations.clients.machine import Machine
from operations.clients.planning import DAEMON
from operations.docker_command import said

CERTIFICATES = "/etc/containerd/certs.d"
_WAITS = 20
_NOT_THERE = 3
_PULLS_WITHIN = 900

_FIND = r"""
main() {
  root=$1; shift
  for name; do
    for folder in $(echo "$PATH" | tr : ' '); do
      if [ -x "$root$folder/$name" ]; then echo "$name"; break; fi
    done
  done
}
"""
_DOCKER = "docker --host unix:///var/run/docker.sock"
_INFO = f"main() {{ {_DOCKER} info --format '{{{{json .}}}}'; }}"
_CONTAINERD = "main() { containerd config dump; }"
#: Engines before 23 cannot check a file.
_VALIDATE = r"""
main() {
  dockerd --help | grep -q -e --validate || exit 0
  file=$(mktemp) && trap 'rm -f "$file"' EXIT
  base64 -d >"$file" && dockerd --validate --config-file "$file"
}
"""
#: SIGHUP makes the engine read its mirrors again. Containers do not notice.
_RELOAD_DOCKER = r"""
main() {
  if systemctl is-active --quiet docker 2>/dev/null; then systemctl reload docker
  elif [ -s /var/run/docker.pid ]; then kill -HUP "$(cat /var/run/docker.pid)"
  fi
}
"""
_RELOAD_CRIO = "main() { ! systemctl is-active --quiet crio 2>/dev/null || systemctl reload crio; }"
_ASK = r"""
main() {
  file=$(mktemp) && trap 'rm -f "$file"' EXIT
  base64 -d >"$file"
  if command -v curl >/dev/null; then
    [ ! -s "$file" ] || set -- --cacert "$file" "$@"
    curl --silent --show-error --fail --output /dev/null --max-time 20 "$@"
  elif command -v wget >/dev/null && { [ ! -s "$file" ] || wget --help 2>&1 | grep -q -e --ca-certificate; }; then
    [ ! -s "$file" ] || set -- --ca-certificate="$file" "$@"
    wget -q -O /dev/null -T 20 "$@"
  else exit 3
  fi
}
"""
#: Pulls image $2 with program $1. An image that was not there is not there afterwards.
_PULL = r"""
main() {
  case $1 in
  docker) set -- "$2" docker --host unix:///var/run/docker.sock ;;
  podman) set -- "$2" podman ;;
  *) ctr --namespace registry-stack content fetch --hosts-dir /etc/containerd/certs.d "$2" >/dev/null || exit
    ctr --namespace registry-stack images rm "$2" >/dev/null; exit ;;
  esac
  image=$1; shift
  "$@" image inspect "$image" >/dev/null 2>&1 && known=yes || known=
  "$@" pull --quiet "$image" >/dev/null || exit
  [ "$known" ] || "$@" rmi "$image" >/dev/null
}
"""


@dataclass(frozen=True)
class Programs:
    """The clients of a machine, the names of their programs, and what these programs say about themselves.

    ``docker`` is the answer of `docker info`, or None if Docker does not answer. ``by_certificates`` is whether the
    configuration of containerd names the folder of the files.
    """

    clients: tuple[Client, ...]
    names: frozenset[str]
    docker: dict[str, Any] | None
    by_certificates: bool

    @property
    def has_containerd_store(self) -> bool:
        """Whether Docker has the image store of containerd, which reads ``hosts.toml``."""
        return "io.containerd.snapshotter" in json.dumps((self.docker or {}).get("DriverStatus"))


def find(machine: Machine) -> Programs:
    """Return the programs of a machine. In an image of a machine, nothing runs, so that only files count.

    containerd counts if its configuration names the folder, or if Docker is not there. Else it serves only Docker.

    Raises:
        Failure: if the machine has none of the clients.
    """
    wanted = [name for client in CLIENTS for name in client.programs]
    answer = machine.run(_FIND, machine.path(""), *wanted)
    if answer.returncode:
        raise Failure(f"{machine.name} cannot look for its programs: {said(answer)}", "correct the cause and try again")
    names = set(answer.stdout.decode().split())
    docker, by_certificates = None, machine.is_image
    if not machine.is_image:
        if "dockerd" in names:
            docker = docker_info(machine)
        if "containerd" in names:
            by_certificates = _names_certificates(machine)
    if "dockerd" in names and (machine.is_image or not by_certificates):
        names.discard("containerd")
    if clients := tuple(client for client in CLIENTS if names & {*client.programs}):
        return Programs(clients, frozenset(names), docker, by_certificates)
    raise Failure(
        f"{machine.name} has none of these programs: {', '.join(wanted)}",
        "install a client first, or write the files into a folder with `clients --output`",
    )


def docker_info(machine: Machine) -> dict[str, Any] | None:
    """Return the answer of `docker info`, or None if Docker does not answer."""
    answer = machine.run(_INFO)
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except json.JSONDecodeError:
        return None
    return found if found.get("ServerVersion") else None


def registry_mirrors(info: Mapping[str, Any] | None) -> list[str]:
    """Return the mirrors of Docker Hub that `docker info` shows."""
    config = (info or {}).get("RegistryConfig") or {}
    return [url.rstrip("/") for url in config.get("Mirrors") or []]


def validate(machine: Machine, daemon: str) -> None:
    """Let Docker check a ``daemon.json`` before the file is replaced.

    Raises:
        Failure: if Docker refuses the file.
    """
    answer = machine.run(_VALIDATE, text=daemon)
    if answer.returncode:
        raise Failure(
            f"Docker on {machine.name} refuses the new {DAEMON}: {said(answer)}. Nothing was changed",
            f"correct {DAEMON}, and run the command again",
        )


def ask(machine: Machine, mirror: Mirror, authority: str | None) -> bool:
    """Ask a mirror from the machine. False if the machine has no program for it: wget of busybox knows no authority.

    Raises:
        Failure: if the mirror does not answer, or if it refuses the machine.
    """
    # At a shared address, the proxy itself answers for /v2/ if the machine may use any of the mirrors.
    path = f"_catalog?n=1&ns={mirror.upstream}" if mirror.is_shared else ""
    answer = machine.run(_ASK, f"{mirror.address}/v2/{path}", text=authority or "")
    if answer.returncode == _NOT_THERE:
        return False
    if answer.returncode:
        raise Failure(
            f"{machine.name} gets no answer from the mirror of {mirror.upstream} at {mirror.address}: {said(answer)}."
            " Nothing was changed",
            "let the machine reach the address, and add the machine's address to `allow` of the mirror",
        )
    return True


def reload_crio(machine: Machine) -> None:
    """Make CRI-O, if it runs, read its files again."""
    machine.run(_RELOAD_CRIO)


def reload_docker(machine: Machine, mirrors: list[str]) -> None:
    """Make Docker read its ``daemon.json`` again, and wait until Docker has these mirrors. Containers run on.

    Raises:
        Failure: if Docker does not take the mirrors.
    """
    answer = machine.run(_RELOAD_DOCKER)
    if answer.returncode:
        raise Failure(f"Docker on {machine.name} cannot reload: {said(answer)}", "systemctl status docker")
    found = list[str]()
    for _ in range(_WAITS):
        found = registry_mirrors(docker_info(machine))
        if set(found) == {url.rstrip("/") for url in mirrors}:
            return
        time.sleep(0.5)
    raise Failure(
        f"Docker on {machine.name} does not use the new mirrors. `docker info` shows: {', '.join(found) or 'none'}",
        "read the engine's log: journalctl --unit docker. An option --registry-mirror of dockerd excludes the file",
    )


def pull(machine: Machine, program: str, image: str) -> None:
    """Pull an image with a program of the machine.

    Raises:
        Failure: if the pull fails.
    """
    answer = machine.run(_PULL, program, image, within=_PULLS_WITHIN)
    if answer.returncode:
        raise Failure(f"{machine.name} cannot pull {image}: {said(answer)}", "correct the cause, and try again")


def _names_certificates(machine: Machine) -> bool:
    try:
        dumped = tomllib.loads(machine.run(_CONTAINERD).stdout.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    return any(CERTIFICATES in path.split(":") for path in _config_paths(dumped))


def _config_paths(found: dict[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if key == "config_path" and isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _config_paths(value)
