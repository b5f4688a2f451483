"""Names, ports and addresses that follow from the settings: the same in every file and on every host."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from components.configuration.fields import Endpoint
from components.configuration.problems import path
from components.configuration.settings import (
    MirrorSettings,
    Process,
    RegistrySettings,
    Settings,
    StorageSettings,
    processes,
)

#: Where each process listens. Every one has a port of its own, and so has every mirror: the address of a container that
#: is gone is given to a new one, and a proxy that still holds it (nginx does for a second) must find nothing there, not
#: another process: by such an address a closed registry is on record as having answered as an open mirror.
PORTS: dict[Process, int] = {"reader": 5000, "writer": 5001, "admin": 5002, "public": 5003}
#: Port of the health check inside the container; no service may use it.
HEALTH_PORT = 2015


@dataclass(frozen=True, kw_only=True)
class StackName:
    """Who owns a Docker object: ``prefix`` of its name, and labels by which all objects of a stack can be found."""

    prefix: str
    stack: str

    def labels(self, role: str) -> dict[str, str]:
        """Labels of the object that plays ``role``."""
        return {"registry-stack.stack": self.stack, "registry-stack.prefix": self.prefix, "registry-stack.role": role}


def slug(upstream: str) -> str:
    """Upstream name as part of container, volume and host names: ``docker.io`` is ``docker-io``."""
    return re.sub(r"[^a-z0-9]+", "-", upstream)


def data_stores(
    prefix: str, registry: RegistrySettings | None, mirrors: Mapping[str, MirrorSettings]
) -> dict[tuple[str, ...], tuple[StorageSettings, str]]:
    """Each data store by its configuration path, with the default name of its Docker volume."""
    stores = {("registry", "storage"): (registry.storage, f"{prefix}-registry-data")} if registry else {}
    return stores | {
        ("mirrors", name, "storage"): (mirror.storage, f"{prefix}-mirror-{slug(name)}-cache")
        for name, mirror in mirrors.items()
    }


def host_folders(settings: Settings) -> dict[tuple[str, ...], str]:
    """Folder of each data store that lies in one of the host, by its configuration path."""
    stores = data_stores(settings.name_prefix, settings.registry, settings.mirrors)
    return {(*parts, "host_path"): storage.host_path for parts, (storage, _) in stores.items() if storage.host_path}


def mirror_port(name: str) -> int:
    """Port of the mirror of ``name``: the same whatever other mirrors there are."""
    return 10_000 + zlib.crc32(name.encode()) % 50_000


def mirror_alias(name: str) -> str:
    """Network name of the mirror of ``name``."""
    return f"mirror-{slug(name)}"


def quick_alias(name: str) -> str:
    """Another network name of a process or a mirror, for all but layers."""
    return f"{name}-quick"


def endpoints(registry: RegistrySettings | None, mirrors: Mapping[str, MirrorSettings]) -> dict[str, Endpoint]:
    """Every URL under which clients reach something, by its configuration key; None is a registry yet to be read."""
    found = {"registry.url": registry.url} if registry else {}
    if registry and registry.anonymous_url:
        found["registry.anonymous_url"] = registry.anonymous_url
    return found | {path("mirrors", name, "url"): mirror.url for name, mirror in mirrors.items()}


def hosts(settings: Settings) -> tuple[str, ...]:
    """Names that certificates must cover, each once."""
    return tuple(dict.fromkeys(url.host for url in endpoints(settings.registry, settings.mirrors).values()))


def ports(settings: Settings) -> tuple[int, ...]:
    """Ports that clients use, each once."""
    return tuple(sorted({url.port for url in endpoints(settings.registry, settings.mirrors).values()}))


def service_ports(settings: Settings) -> dict[str, int]:
    """Where each process of the registry and each mirror listens, by its network name."""
    own: dict[str, int] = {process: PORTS[process] for process in processes(settings.registry)}
    return own | {mirror_alias(name): mirror_port(name) for name in settings.mirrors}
