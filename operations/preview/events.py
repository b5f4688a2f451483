"""Run `pulumi preview --json` and read its events.

With ``PULUMI_ENABLE_STREAMING_JSON_PREVIEW``, the CLI prints one event of the engine per line (``apitype.EngineEvent``
of pulumi's sdk/go). Only these events have the outputs of the stack before and after. The CLI masks every secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_STACK = "pulumi:pulumi:Stack"
#: Errors that only follow another error.
_FOLLOW_UP = re.compile(
    r"an unhandled error occurred: program exited with non-zero exit code: \d+|(preview|update|refresh) failed"
)
#: Operations of the engine on a resource, as one word for a reader.
_OPERATIONS = {
    "create": "create",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "import": "create",
    "import-replacement": "replace",
}


@dataclass(frozen=True)
class Step:
    """A change of one resource: ``create``, ``update``, ``delete`` or ``replace``, with its inputs before and after.

    ``component`` is the class of the component that declares the resource, or empty.
    """

    operation: str
    name: str
    type: str
    component: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Events:
    """A preview: its steps sorted by resource, the stack's outputs before and after, and the messages of the program.

    ``images`` names the unchanged images in use. ``drifted`` names the resources that the refresh found changed or
    missing on the Docker host, with the difference.
    """

    stack: str
    steps: tuple[Step, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    unchanged: int
    images: tuple[str, ...]
    drifted: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


def recorded(outputs: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Return a part of the stack's output ``configuration``; empty if the program that wrote the outputs had none."""
    return (outputs.get("configuration") or {}).get(part) or {}


def read_events(lines: Iterable[str]) -> Events:
    """Read the output of the CLI.

    The order of the engine's events varies from run to run; the result does not depend on it.
    """
    events = [json.loads(line) for line in lines]
    said = [event["diagnosticEvent"] for event in events if "diagnosticEvent" in event]
    early, late = (
        [event[kind]["metadata"] for event in events if kind in event]
        for kind in ("resourcePreEvent", "resOutputsEvent")
    )
    steps = _steps([*early, *late])
    unchanged = {one["urn"] for one in early if one["op"] == "same" and one["type"] != _STACK} - steps.keys()
    stack: Mapping[str, Any] = next((one for one in reversed(late) if one["type"] == _STACK), {})
    return Events(
        stack=next((one["urn"].split("::")[0].removeprefix("urn:pulumi:") for one in [*early, *late]), ""),
        steps=tuple(sorted(steps.values(), key=lambda step: (step.name, step.type))),
        before=(stack.get("old") or {}).get("outputs") or {},
        after=(stack.get("new") or {}).get("outputs") or {},
        unchanged=len(unchanged),
        images=tuple(sorted(name for kind, name in map(_kind_and_name, unchanged) if kind.endswith(":RemoteImage"))),
        drifted=tuple(sorted((_kind_and_name(one["urn"])[1], found) for one in late if (found := _drift(one)))),
        warnings=tuple(sorted({one["message"].strip() for one in said if one["severity"] == "warning"})),
        errors=_errors(said),
    )


def _errors(said: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the errors without the lines that only follow another error; if there is no other, everything printed."""
    printed = {
        kind: list(dict.fromkeys(one["message"].strip() for one in said if one["severity"] == kind))
        for kind in ("error", "info#err")
    }
    errors = sorted(error for error in printed["error"] if not _FOLLOW_UP.fullmatch(error))
    return tuple(errors or (printed["error"] and [*printed["info#err"], *printed["error"]]))


def _steps(events: Sequence[Mapping[str, Any]]) -> dict[str, Step]:
    """Return the changed resources by their URN. A replacement has several events."""
    steps: dict[str, Step] = {}
    for event in events:
        operation = _OPERATIONS.get(event["op"])
        if operation and event["type"] != _STACK:
            types, name = _kind_and_name(event["urn"])
            *parents, kind = types.split("$")
            component = parents[-1].rpartition(":")[2] if parents else ""
            known = steps.get(event["urn"], Step(operation, name, kind, component))
            before, after = ((event.get(side) or {}).get("inputs") for side in ("old", "new"))
            steps[event["urn"]] = replace(known, before=before or known.before, after=after or known.after)
    return steps


def _kind_and_name(urn: str) -> tuple[str, str]:
    _, _, types, name = urn.split("::", 3)
    return types, name


def _drift(event: Mapping[str, Any]) -> str:
    """Return what a refresh found: ``missing``, ``stopped``, the names of changed properties, or nothing.

    Only properties that the program sets count: a restart alone changes addresses and exit codes.
    """
    if event["op"] != "refresh":
        return ""
    if not event.get("new"):
        return "missing"
    was, found = ((event[side] or {}).get("outputs") or {} for side in ("old", "new"))
    given = ((event["old"] or {}).get("inputs") or {}).keys()
    changed = sorted(key for key in given if was.get(key) != found.get(key))
    return ", ".join("stopped" if key == "mustRun" else key for key in changed)
