"""``config.yml`` of distribution 3.x, for the processes of the private registry and for mirrors."""

from __future__ import annotations

import json
from typing import Any

import yaml

from components.configuration.certificates import canonical_root
from components.configuration.naming import COUNTERS_PORT, PORTS, cache_port, mirror_port
from components.configuration.settings import (
    ROLES_OF,
    MirrorSettings,
    Process,
    RegistrySettings,
    Settings,
    upstream_url,
)

#: Paths of files in the containers: plain strings, because container outputs would make one replacement cascade.
CONFIG_DIRECTORY = "/etc/distribution"
SECRETS_DIRECTORY = "/etc/distribution-secrets"
DATA_DIRECTORY = "/var/lib/registry"
CONFIG_FILE = f"{CONFIG_DIRECTORY}/config.yml"
#: Configuration of the process that serves only a mirror's cache; ``SERVE_CACHE`` knows its name.
CACHE_FILE = f"{CONFIG_DIRECTORY}/cache.yml"
CREDENTIAL_HELPER = f"{CONFIG_DIRECTORY}/upstream-credentials"
CA_FILE = f"{CONFIG_DIRECTORY}/upstream-ca.crt"
CREDENTIALS_FILE = "upstream.json"
HTTP_SECRET_FILE = "http-secret"  # noqa: S105 - a file name
#: Processes that cannot write: their configuration and their data mount are read-only.
READ_ONLY: tuple[Process, ...] = ("reader", "public")
#: Realm in the login challenge of the registry, and of the proxies, which ask for a login before they read a body.
REALM = "Registry Realm"
#: Most repositories in one answer of ``/v2/_catalog``. Each costs 16 bytes of memory, even if it does not exist.
MOST_REPOSITORIES = 100_000
#: Seconds that a restart gives a mirror's downloads to finish. The new container cannot start before.
MIRROR_DRAIN_SECONDS = 30


def environment(memory_mb: int) -> list[str]:
    """Return the environment of a process with a memory limit of ``memory_mb``.

    distribution holds a buffer of 4 MiB for each layer in transfer (``fileReaderBufferSize``). Garbage doubles that
    memory unless Go knows the limit: 48 downloads at once crashed a process with 256 MB, which can hold 32 at most.
    """
    return ["OTEL_TRACES_EXPORTER=none", f"GOMEMLIMIT={memory_mb * 4 // 5}MiB"]


def way_out(settings: Settings, *schemes: str) -> list[str]:
    """Return the environment with which a Go program sends its requests with these URL schemes to ``http_proxy``.

    The names are in upper case: busybox, which asks services for their health, knows such names in lower case only. Go
    itself never sends requests for loopback addresses to a proxy.
    """
    if settings.http_proxy is None:
        return []
    without = [f"NO_PROXY={','.join(settings.no_proxy)}"] if settings.no_proxy else []
    return [*(f"{scheme.upper()}_PROXY={settings.http_proxy}" for scheme in schemes), *without]


def most_layers(memory_mb: int) -> int:
    """Return how many layers a process with ``memory_mb`` sends at once: 4.5 MB for each layer, 100 MB for the rest.

    With 1,024 MB, that is 205 layers; see ``environment``.
    """
    return max(1, (memory_mb - 100) * 2 // 9)


def registry_config(process: Process, registry: RegistrySettings) -> str:
    """Render the configuration of one process of the private registry.

    The file does not contain ``http.secret``, so a preview can show the file. The container reads the secret from a
    separate file at its start.
    """
    config = _common(PORTS[process], registry.log_level, registry.drain_timeout)
    config["storage"]["delete"] = {"enabled": process == "admin"}
    config["storage"]["maintenance"] = {
        # Only one process purges. distribution panics if one of the four keys is missing.
        "uploadpurging": {
            "enabled": process == "writer",
            "age": registry.upload_purge_age,
            "interval": "24h",
            "dryrun": False,
        },
        "readonly": {"enabled": process in READ_ONLY},
    }
    if process != "writer":
        # This process signs no upload states and must not have the key. Without any secret, distribution warns.
        config["http"]["secret"] = "unused"  # noqa: S105
    if process in ROLES_OF:
        config["auth"] = {"htpasswd": {"realm": REALM, "path": f"{SECRETS_DIRECTORY}/{process}.htpasswd"}}
    config["validation"] = {
        "manifests": {
            # BuildKit's cache is an index of layers. Some clients push an index before its images, or without some.
            "indexes": {"platforms": "none"},
            # Base layers of Windows stay on Microsoft's servers. Without this line, such an image gets a 500 response.
            "urls": {"allow": ["^https?://"]},
        }
    }
    return _yaml(config)


def upstream_environment(mirror: MirrorSettings, settings: Settings) -> list[str]:
    """Return the environment with which a mirror reaches its upstream and trusts the authority in ``CA_FILE``.

    Go takes the certificates out of all files in ``SSL_CERT_DIR``, besides its bundle of public authorities. With
    ``SSL_CERT_FILE``, the mirror would trust no public authority, but upstreams redirect blobs to other hosts.
    """
    trust = [f"SSL_CERT_DIR=/etc/ssl/certs:{CONFIG_DIRECTORY}"] if mirror.ca else []
    return [*way_out(settings, "http", "https"), *trust]


def mirror_files(name: str, mirror: MirrorSettings) -> dict[str, str]:
    """Return the files of a mirror without its login, by path."""
    files = {
        CONFIG_FILE: mirror_config(name, mirror),
        CACHE_FILE: cache_config(name, mirror),
        CREDENTIAL_HELPER: credential_helper(mirror),
    }
    return files | ({CA_FILE: canonical_root(mirror.ca)} if mirror.ca else {})


def mirror_config(name: str, mirror: MirrorSettings) -> str:
    """Render the configuration of a pull-through cache."""
    config = _common(mirror_port(name), mirror.log_level, f"{MIRROR_DRAIN_SECONDS}s")
    # Without deletes, the TTL frees nothing: distribution logs "operation unsupported" and forgets the entry (#4957).
    config["storage"]["delete"] = {"enabled": True}
    config["storage"]["maintenance"] = {
        "uploadpurging": {"enabled": True, "age": "24h", "interval": "24h", "dryrun": False}
    }
    # Loopback only: besides the counters, this port serves profiles of the process to everyone who reaches it.
    config["http"]["debug"] = {"addr": f"127.0.0.1:{COUNTERS_PORT}", "prometheus": {"enabled": True}}
    config["proxy"] = {
        "remoteurl": upstream_url(name, mirror),
        "ttl": mirror.ttl,
        # Also for anonymous pulls: without a helper, the process panics at start if its upstream is unreachable. With a
        # helper, credentials rotate without a restart.
        "exec": {"command": CREDENTIAL_HELPER, "lifetime": "1m"},
    }
    return _yaml(config)


def cache_config(name: str, mirror: MirrorSettings) -> str:
    """Render the configuration of the process that serves a mirror's cache without asking the upstream.

    A mirror asks its upstream about a tag even if it has the tag, and waits without limit for the answer.
    """
    config = _common(cache_port(name), mirror.log_level, "1s")
    config["storage"]["maintenance"] = {
        "uploadpurging": {"enabled": False, "age": "24h", "interval": "24h", "dryrun": False},
        "readonly": {"enabled": True},
    }
    # It signs nothing. Without any secret, distribution warns.
    config["http"]["secret"] = "unused"  # noqa: S105
    return _yaml(config)


def credential_helper(mirror: MirrorSettings) -> str:
    """Render the script that gives distribution the upstream credentials (docker-credential-helper protocol)."""
    if mirror.username is None:
        answer = f"echo '{_credentials('', '')}'"
    else:
        answer = f"exec cat {SECRETS_DIRECTORY}/{CREDENTIALS_FILE}"
    return f"#!/bin/sh\n{answer}\n"


def credentials_file(username: str, password: str) -> str:
    """Render the output of the helper for a mirror with a login."""
    return _credentials(username, password) + "\n"


def _credentials(username: str, password: str) -> str:
    return json.dumps({"ServerURL": "", "Username": username, "Secret": password})


def _common(port: int, log_level: str, drain_timeout: str) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": log_level, "formatter": "json", "accesslog": {"disabled": True}},
        # No cache section: with a cache, a mirror serves an expired blob empty (#2367), and a push after a garbage
        # collection succeeds without its layers (#4868).
        "storage": {"filesystem": {"rootdirectory": DATA_DIRECTORY}},
        "http": {
            "addr": f":{port}",
            # Location headers are paths: no client can redirect the next request, and the registry works on any port.
            "relativeurls": True,
            # Without a drain timeout, SIGTERM cuts uploads, and a mirror forgets the expiry of its last blobs.
            "draintimeout": drain_timeout,
            "headers": {"X-Content-Type-Options": ["nosniff"]},
        },
        # User interfaces request this many repositories at once. By default, distribution refuses more than 1,000.
        "catalog": {"maxentries": MOST_REPOSITORIES},
        "health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}},
    }


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)
