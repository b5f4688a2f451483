"""Configuration files that make Docker, containerd, BuildKit, Podman, CRI-O, k3s and RKE2 use the mirrors.

The settings allow no character that ends a TOML string, so the TOML files are plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from components.configuration.fields import Endpoint
from components.configuration.settings import KNOWN_UPSTREAMS

_WRITTEN_BY = "# Written by `python -m operations clients` of registry-stack.\n"


@dataclass(frozen=True)
class Mirror:
    """The address of the mirror of ``upstream``. A client of a shared address must name the upstream with ``?ns=``."""

    upstream: str
    address: Endpoint
    is_shared: bool = False


def hosts_toml(mirror: Mirror, ca: str | None) -> str:
    """Render ``certs.d/UPSTREAM/hosts.toml`` of Docker Engine 29 and containerd.

    ``server`` is the fallback. It must be the API origin: with ``https://docker.io``, pulls of Docker Hub do not fall
    back. ``ca`` is a path relative to the folder of the file, which differs between Docker and containerd.
    """
    server = KNOWN_UPSTREAMS.get(mirror.upstream, f"https://{mirror.upstream}")
    lines = [
        f"# If the mirror fails, pulls of {mirror.upstream} fall back to this server.",
        f'server = "{server}"',
        "",
        f'[host."{mirror.address}"]',
        '  capabilities = ["pull", "resolve"]',
        "  # Without this limit, a pull waits 30 seconds for a mirror whose host is down.",
        '  dial_timeout = "3s"',
        *([f'  ca = "{ca}"'] if ca else []),
    ]
    return _WRITTEN_BY + "\n".join(lines) + "\n"


def daemon_json(mirror: Mirror, existing: Mapping[str, Any]) -> str:
    """Render Docker's ``daemon.json``: the existing keys, with this mirror before the existing mirrors."""
    own = str(mirror.address)
    others = [url for url in existing.get("registry-mirrors", []) if url.rstrip("/") != own]
    return json.dumps({**existing, "registry-mirrors": [own, *others]}, indent=2, ensure_ascii=False) + "\n"


def buildkitd_toml(mirrors: Sequence[Mirror], ca: str | None) -> str:
    """Render ``buildkitd.toml``. ``ca`` is the path of the authority's certificate."""
    sections = {mirror.upstream: f'  mirrors = ["{mirror.address.netloc}"]\n' for mirror in mirrors}
    if ca:
        # Without `http = false`, BuildKit speaks plain HTTP to localhost.
        trust = f'  http = false\n  ca = ["{ca}"]\n'
        for host in dict.fromkeys(mirror.address.netloc for mirror in mirrors):
            sections[host] = sections.get(host, "") + trust  # the host of a mirror may also be an upstream
    return _WRITTEN_BY + "".join(f'\n[registry."{name}"]\n{lines}' for name, lines in sections.items())


def registries_conf(mirrors: Iterable[Mirror]) -> str:
    """Render a file of ``registries.conf.d`` for Podman, CRI-O, Buildah and Skopeo."""
    return _WRITTEN_BY + "".join(
        f'\n[[registry]]\nlocation = "{mirror.upstream}"\n\n[[registry.mirror]]\nlocation = "{mirror.address.netloc}"\n'
        for mirror in mirrors
    )


def registries_yaml(mirrors: Sequence[Mirror], ca: str | None) -> str:
    """Render ``registries.yaml`` of k3s and RKE2. ``ca`` is the path of the authority's certificate."""
    values: dict[str, Any] = {
        "mirrors": {mirror.upstream: {"endpoint": [str(mirror.address)]} for mirror in mirrors},
    }
    if ca:
        values["configs"] = {mirror.address.netloc: {"tls": {"ca_file": ca}} for mirror in mirrors}
    return _WRITTEN_BY + yaml.safe_dump(values, sort_keys=False)
