"""``config.yml`` of distribution 3.x, for the private registry's three processes and for mirrors."""

from __future__ import annotations

import json
from typing import Any

import yaml

from components.configuration.naming import PORTS, mirror_port
from components.configuration.settings import ROLES_OF, MirrorSettings, Process, RegistrySettings, upstream_url

#: Where the containers find their files; plain strings, since container outputs would make one replacement cascade.
CONFIG_DIRECTORY = "/etc/distribution"
SECRETS_DIRECTORY = "/etc/distribution-secrets"
DATA_DIRECTORY = "/var/lib/registry"
CREDENTIAL_HELPER = "upstream-credentials"
CREDENTIALS_FILE = "upstream.json"
HTTP_SECRET_FILE = "http-secret"  # noqa: S105 - a file name
#: The processes that cannot write: by their configuration, and because their data is mounted so.
READ_ONLY: tuple[Process, ...] = ("reader", "public")
#: What the registry calls itself when it asks for a login; of the proxies, too, which ask before they read a body.
REALM = "Registry Realm"
#: That one answer of ``/v2/_catalog`` may name; each costs 16 bytes of memory, whether it exists or not.
MOST_REPOSITORIES = 100_000
#: A mirror's downloads that a restart lets finish, in seconds; its successor cannot start before.
MIRROR_DRAIN_SECONDS = 30


def environment(memory_mb: int) -> list[str]:
    """Variables of a process that may use that many megabytes.

    For each layer under way distribution holds a buffer of 4 MiB (``fileReaderBufferSize``), and Go lets garbage double
    it unless it knows the limit: 48 downloads at once were the end of a process with 256 MB, which holds 32 at most.
    """
    return ["OTEL_TRACES_EXPORTER=none", f"GOMEMLIMIT={memory_mb * 4 // 5}MiB"]


def most_layers(memory_mb: int) -> int:
    """How many layers a process that may use that many megabytes sends at once: 4.5 MB for each, and 100 for the rest.

    With 1,024 MB they are 205; see ``environment``.
    """
    return max(1, (memory_mb - 100) * 2 // 9)


def registry_config(process: Process, registry: RegistrySettings) -> str:
    """Configuration of one process of the private registry.

    ``http.secret`` is not in it, so that a preview can show the file; the container's start reads it from its own file.
    """
    config = _common(PORTS[process], registry.log_level, registry.drain_timeout)
    config["storage"]["delete"] = {"enabled": process == "admin"}
    config["storage"]["maintenance"] = {
        # One process purges; the four keys belong together, distribution panics without one of them.
        "uploadpurging": {
            "enabled": process == "writer",
            "age": registry.upload_purge_age,
            "interval": "24h",
            "dryrun": False,
        },
        "readonly": {"enabled": process in READ_ONLY},
    }
    if process != "writer":
        # It has no upload whose state would be signed, and must not be able to read the key; without one, it warns.
        config["http"]["secret"] = "unused"  # noqa: S105
    if process in ROLES_OF:
        config["auth"] = {"htpasswd": {"realm": REALM, "path": f"{SECRETS_DIRECTORY}/{process}.htpasswd"}}
    config["validation"] = {
        "manifests": {
            # BuildKit's cache is an index of layers, and some clients push an index before its images or without some.
            "indexes": {"platforms": "none"},
            # Base layers of Windows stay at Microsoft's servers; without this line, such an image gets a 500.
            "urls": {"allow": ["^https?://"]},
        }
    }
    return _yaml(config)


def mirror_config(name: str, mirror: MirrorSettings) -> str:
    """Configuration of a pull-through cache."""
    config = _common(mirror_port(name), mirror.log_level, f"{MIRROR_DRAIN_SECONDS}s")
    # Without deletes the TTL frees nothing: distribution logs "operation unsupported" and forgets the entry (#4957).
    config["storage"]["delete"] = {"enabled": True}
    config["storage"]["maintenance"] = {
        "uploadpurging": {"enabled": True, "age": "24h", "interval": "24h", "dryrun": False}
    }
    config["proxy"] = {
        "remoteurl": upstream_url(name, mirror),
        "ttl": mirror.ttl,
        # Also for anonymous use: with a helper the process starts while its upstream is unreachable (without one it
        # panics), and credentials rotate without a restart.
        "exec": {"command": f"{CONFIG_DIRECTORY}/{CREDENTIAL_HELPER}", "lifetime": "1m"},
    }
    return _yaml(config)


def credential_helper(mirror: MirrorSettings) -> str:
    """Script that distribution asks for the upstream's credentials (docker-credential-helper protocol)."""
    if mirror.username is None:
        answer = f"echo '{_credentials('', '')}'"
    else:
        answer = f"exec cat {SECRETS_DIRECTORY}/{CREDENTIALS_FILE}"
    return f"#!/bin/sh\n{answer}\n"


def credentials_file(username: str, password: str) -> str:
    """What the helper prints for a mirror with a login."""
    return _credentials(username, password) + "\n"


def _credentials(username: str, password: str) -> str:
    return json.dumps({"ServerURL": "", "Username": username, "Secret": password})


def _common(port: int, log_level: str, drain_timeout: str) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": log_level, "formatter": "json", "accesslog": {"disabled": True}},
        # No cache section: with one, an expired blob of a mirror is served empty (#2367), and a push after a garbage
        # collection succeeds without its layers (#4868).
        "storage": {"filesystem": {"rootdirectory": DATA_DIRECTORY}},
        "http": {
            "addr": f":{port}",
            # Location headers are paths: no client can influence where the next request goes, and it works on any port.
            "relativeurls": True,
            # Without it SIGTERM cuts uploads, and a mirror forgets the expiry of its last blobs.
            "draintimeout": drain_timeout,
            "headers": {"X-Content-Type-Options": ["nosniff"]},
        },
        # User interfaces ask for so many repositories at once; distribution refuses more than 1,000.
        "catalog": {"maxentries": MOST_REPOSITORIES},
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)
