"""What clients notice of an `up`, derived from the steps of its preview.

``EFFECTS`` is the only list of these effects: docs/updates.md shows the same list beside its measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operations.preview.events import Step, recorded


@dataclass(frozen=True)
class Effect:
    """An effect of an `up`: its name in the table of docs/updates.md, one sentence of detail, and a short sentence."""

    name: str
    detail: str
    headline: str


#: The effects, the most disturbing first.
EFFECTS = {
    "networks": Effect(
        "all containers and networks replaced",
        "All services stop and start again: every request fails for some seconds.",
        "Replaces all services: every request fails for some seconds.",
    ),
    "proxy": Effect(
        "proxy replaced",
        "The proxy finishes running transfers, for 30 seconds at most. Meanwhile, and for about a second more, it"
        " refuses new connections.",
        "Replaces the proxy: new connections are refused for about a second.",
    ),
    "registry stops": Effect(
        "reader, writer, admin stop and start",
        "Each process of the registry stops before its successor starts, because your own proxy needs a fixed port."
        " Requests fail for some seconds unless your proxy retries.",
        "Restarts the registry: requests fail for some seconds.",
    ),
    "uploads": Effect(
        "upload key replaced",
        "Uploads fail and start again while old and new processes serve side by side for some seconds. Pulls and logins"
        " continue.",
        "Uploads fail for some seconds.",
    ),
    "mirror": Effect(
        "mirror stops and starts",
        "With Caddy, requests to the mirror wait for its successor, for some seconds. With nginx, they get 503"
        " meanwhile.",
        "Restarts a mirror: its requests wait or fail for some seconds.",
    ),
    "registry": Effect(
        "reader, writer, admin replaced, new before old",
        "Requests go on. An upload starts its layer again if it takes longer than `registry.drain_timeout`, and rarely"
        " if it begins as the old process ends.",
        "Replaces the registry, new before old: requests go on.",
    ),
    "gone": Effect(
        "proxy removed",
        "The ports of the stack's own proxy close. Clients reach the services only through your own proxy.",
        "Removes the proxy: clients need your own proxy.",
    ),
    "stops": Effect(
        "address removed",
        "Clients of the removed address get an error from now on.",
        "Clients of the removed address get an error.",
    ),
    "reload": Effect(
        "proxy reloaded",
        "The proxy closes idle connections. With Caddy, up to two of 400 requests on such connections fail; docker and"
        " other Go clients retry.",
        "Reloads the proxy: a few requests may need a retry.",
    ),
    "starts": Effect(
        "process starts",
        "The address of the service answers when `up` has finished.",
        "A service starts.",
    ),
    "limits": Effect(
        "changed in place",
        "The running container gets new limits. Nothing restarts.",
        "Nothing restarts.",
    ),
    "logins": Effect(
        "new password files",
        "The registry reads the new files with the next request, without a restart. From then on, it refuses a removed"
        " user and an old password.",
        "Nothing restarts.",
    ),
}

#: Effect of a changed container, by its component and the operation.
_OF_CONTAINERS = {
    ("PrivateRegistry", "create"): "starts",
    ("PrivateRegistry", "replace"): "registry",
    ("PullThroughMirror", "create"): "starts",
    ("PullThroughMirror", "replace"): "mirror",
    ("TlsProxy", "create"): "starts",
    ("TlsProxy", "delete"): "gone",
    ("TlsProxy", "replace"): "proxy",
}


def effects(steps: Sequence[Step], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the keys of ``EFFECTS`` that the steps have, the most disturbing first.

    ``before`` and ``after`` are the stack's outputs. The list is empty if clients notice nothing.
    """
    found: set[str] = set()
    is_proxy_kept = not any(step.name == "proxy-container" and step.operation != "update" for step in steps)
    for step in steps:
        kind = step.type.rpartition(":")[2]
        if kind == "Network" and step.operation == "replace":
            found.add("networks")
        elif kind == "Command":
            if step.name == "proxy-reload" and step.operation == "update" and is_proxy_kept:
                found.add("reload")
            elif step.name == "registry-secrets-swap" and before.get("users") != after.get("users"):
                found.add("logins")
        elif kind == "Container" and not step.name.endswith(("-carrier", "-issuer-container")):
            found |= _container_effects(step)
    if before and _addresses(before) - _addresses(after):
        found.add("stops")
    key, new_key = (recorded(outputs, "fingerprints").get("stack_secret") for outputs in (before, after))
    if key and key != new_key:  # the key of uploads derives from this secret
        found.add("uploads")
    if "networks" in found:
        return ["networks"]
    return [key for key in EFFECTS if key in found]


def _container_effects(step: Step) -> set[str]:
    if step.operation == "update":
        return {"starts" if step.before == step.after else "limits"}  # equal inputs: a refresh found it stopped
    if step.component == "PrivateRegistry" and step.operation == "replace" and _has_fixed_name(step):
        return {"registry stops"}
    key = _OF_CONTAINERS.get((step.component, step.operation))
    return {key} if key else set()


def _has_fixed_name(step: Step) -> bool:
    """Whether the successor has the same name, so that the old container stops before the successor starts."""
    return step.after.get("name") is not None and step.before.get("name") == step.after.get("name")


def _addresses(outputs: Mapping[str, Any]) -> set[str]:
    """Return the addresses under which clients reach the services; one for each mirror at the address of all."""
    shared = outputs.get("mirror_url")
    names = (recorded(outputs, "settings").get("mirrors") or {}) if shared else {}
    own = (outputs.get("registry_url"), outputs.get("anonymous_url"), *(outputs.get("mirror_urls") or {}).values())
    return {address for address in (*own, shared, *(f"{shared} {name}" for name in names)) if address}
