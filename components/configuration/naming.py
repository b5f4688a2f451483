"""Names, ports and addresses derived from the settings, the same in every file and on every host."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from components.configuration.fields import Endpoint
from components.configuration.problems import path
from components.configuration.settings import (
    CertificatePair,
    MirrorSettings,
    Process,
    RegistrySettings,
    Secrets,
    Settings,
    StorageSettings,
    processes,
)

#: Port of each process. No two processes or mirrors share a port. Docker gives the address of a removed container to a
#: new container, and a proxy may still use the old address (nginx: for one second). The proxy must then find no process
#: there: with a shared port, a closed registry once answered as an open mirror.
PORTS: dict[Process, int] = {"reader": 5000, "writer": 5001, "admin": 5002, "public": 5003}
#: Port of the health check inside the container; no service may use it.
HEALTH_PORT = 2015
#: Port of a mirror's counters on the loopback interface of its container. The same port has Go's profiler.
COUNTERS_PORT = 2016


@dataclass(frozen=True, kw_only=True)
class StackName:
    """Owner of a Docker object: the ``prefix`` of its name, and labels that find all objects of a stack."""

    prefix: str
    stack: str

    def labels(self, role: str) -> dict[str, str]:
        """Return the labels of the object with ``role``."""
        return {"registry-stack.stack": self.stack, "registry-stack.prefix": self.prefix, "registry-stack.role": role}


def slug(upstream: str) -> str:
    """Convert an upstream name for container, volume and host names: ``docker.io`` becomes ``docker-io``."""
    return re.sub(r"[^a-z0-9]+", "-", upstream)


def data_stores(
    prefix: str, registry: RegistrySettings | None, mirrors: Mapping[str, MirrorSettings]
) -> dict[tuple[str, ...], tuple[StorageSettings, str]]:
    """Return each data store by its configuration path, with the default name of its Docker volume."""
    stores = {("registry", "storage"): (registry.storage, f"{prefix}-registry-data")} if registry else {}
    return stores | {
        ("mirrors", name, "storage"): (mirror.storage, f"{prefix}-mirror-{slug(name)}-cache")
        for name, mirror in mirrors.items()
    }


def host_folders(settings: Settings) -> dict[tuple[str, ...], str]:
    """Return the host folders of data stores by configuration path, without stores in volumes."""
    stores = data_stores(settings.name_prefix, settings.registry, settings.mirrors)
    return {(*parts, "host_path"): storage.host_path for parts, (storage, _) in stores.items() if storage.host_path}


def mirror_port(name: str) -> int:
    """Return the port of the mirror of ``name``, which does not depend on other mirrors."""
    return 10_000 + zlib.crc32(name.encode()) % 50_000


def cache_port(name: str) -> int:
    """Return the port of the process that serves the cache of the mirror of ``name`` without its upstream."""
    return mirror_port(f"{name} cache")


def mirror_alias(name: str) -> str:
    """Return the network name of the mirror of ``name``."""
    return f"mirror-{slug(name)}"


def cache_alias(name: str) -> str:
    """Return the network name of the same container for the process that serves only the cache."""
    return f"{mirror_alias(name)}-cache"


def quick_alias(name: str) -> str:
    """Return the second network name of a process or mirror, for all requests except layers."""
    return f"{name}-quick"


def endpoints(
    registry: RegistrySettings | None, mirrors: Mapping[str, MirrorSettings], mirror_url: Endpoint | None
) -> dict[str, Endpoint]:
    """Return every URL for clients by its configuration key; ``registry`` is None if its section is unreadable."""
    found = {"registry.url": registry.url} if registry else {}
    if registry and registry.anonymous_url:
        found["registry.anonymous_url"] = registry.anonymous_url
    if mirror_url:
        found["mirror_url"] = mirror_url
    return found | {path("mirrors", name, "url"): mirror.url for name, mirror in mirrors.items() if mirror.url}


def hosts(settings: Settings) -> tuple[str, ...]:
    """Return the hosts that certificates must cover, without duplicates."""
    return tuple(
        dict.fromkeys(url.host for url in endpoints(settings.registry, settings.mirrors, settings.mirror_url).values())
    )


def ports(settings: Settings) -> tuple[int, ...]:
    """Return the ports for clients, sorted and without duplicates."""
    return tuple(
        sorted({url.port for url in endpoints(settings.registry, settings.mirrors, settings.mirror_url).values()})
    )


def service_ports(settings: Settings) -> dict[str, int]:
    """Return the port of each registry process, each mirror and each mirror's cache, by network name."""
    own: dict[str, int] = {process: PORTS[process] for process in processes(settings.registry)}
    for name in settings.mirrors:
        own |= {mirror_alias(name): mirror_port(name), cache_alias(name): cache_port(name)}
    return own


def certificate_name(host: str, available: tuple[str, ...]) -> str | None:
    """Return the name of the certificate for ``host``: the host, the wildcard of its domain, or None."""
    wildcard = "*." + host.partition(".")[2]
    return host if host in available else wildcard if wildcard in available else None


def certificates_in_use(settings: Settings, secrets: Secrets) -> dict[str, CertificatePair]:
    """Return the file certificates of the hosts by name; other certificates are unchecked and must not be read."""
    names = {certificate_name(host, tuple(secrets.certificates)) for host in hosts(settings)}
    return {name: pair for name, pair in sorted(secrets.certificates.items()) if name in names}
