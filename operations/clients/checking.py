"""Which upstreams go through a mirror on a machine, judged by its files and by what its programs say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.configuration.settings import DOCKER_HUB
from components.render.clients import Mirror
from operations.clients.files import Client, Mirrors, client_files
from operations.clients.merging import Unmergeable, contains
from operations.clients.planning import DAEMON, File
from operations.clients.programs import CERTIFICATES, Programs, registry_mirrors

INSTALL = "the files do not name the mirror: run `clients install`"


@dataclass(frozen=True)
class Use:
    """Whether a client pulls from the upstream of a mirror through that mirror. ``reason`` is why not, or empty."""

    client: Client
    mirror: Mirror
    reason: str

    def as_json(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return {
            "client": self.client.name,
            "upstream": self.mirror.upstream,
            "mirror": str(self.mirror.address),
            "used": not self.reason,
            "reason": self.reason or None,
        }


def our_files(mirrors: Mirrors, clients: tuple[Client, ...]) -> dict[str, str]:
    """Return the entries for each file of these clients, by the path on the machine."""
    files = client_files(mirrors)
    return {f"/etc/{name}": text for client in clients for name, text in files[client].items()}


def uses(mirrors: Mirrors, programs: Programs, files: Mapping[str, File]) -> list[Use]:
    """Judge each client of a machine and each mirror."""
    return [
        Use(client, mirror, _reason(client, Mirrors((mirror,), mirrors.authority, {}), programs, files))
        for client in programs.clients
        for mirror in mirrors.every
    ]


def _reason(client: Client, mirrors: Mirrors, programs: Programs, files: Mapping[str, File]) -> str:
    ours = our_files(mirrors, (client,))
    mirror = mirrors.every[0]
    if not ours:
        return "the program cannot use a shared address: set `url` of the mirror"
    if client.folder == "docker":
        return _docker_reason(mirror, ours, programs, files)
    if client.folder == "containerd" and not programs.by_certificates:
        return f"containerd has no config_path = {CERTIFICATES}"
    return _missing(ours, files)


def _docker_reason(mirror: Mirror, ours: Mapping[str, str], programs: Programs, files: Mapping[str, File]) -> str:
    """Judge Docker. With the containerd image store, ``hosts.toml`` counts; else ``daemon.json``, for Docker Hub alone.

    If Docker does not answer, either file counts.
    """
    hosts = _missing({path: text for path, text in ours.items() if path != DAEMON}, files)
    certificate = _missing({path: text for path, text in ours.items() if path.endswith(".crt")}, files)
    daemon = certificate or _missing({path: text for path, text in ours.items() if path == DAEMON}, files)
    if programs.docker is None:
        return hosts and (daemon if mirror.upstream == DOCKER_HUB else hosts)
    if programs.has_containerd_store:
        return hosts
    if mirror.upstream != DOCKER_HUB:
        return "this image store of Docker has mirrors for docker.io alone"
    if str(mirror.address) in registry_mirrors(programs.docker):
        return certificate
    return daemon or "Docker has not read its daemon.json: run `systemctl reload docker`"


def _missing(ours: Mapping[str, str], files: Mapping[str, File]) -> str:
    for path, text in ours.items():
        try:
            if not contains(path, files[path].text, text):
                return INSTALL
        except Unmergeable as reason:
            return f"{path}: {reason}"
    return ""
