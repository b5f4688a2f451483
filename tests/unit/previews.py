"""The events of a preview, made from what the program registers under mocks: a small model of Pulumi's engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operations.preview.events import read_events
from operations.preview.report import Report, report
from tests.unit.recorder import _SECRET_MARK, Recording, run_program

#: Types whose changed inputs replace the resource.
_REPLACED = ("Container", "Volume", "Network")


def preview(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Report:
    """The report on a stack that was deployed with one configuration and gets another; None is the first deployment."""
    return report(read_events(events(before and run_program(before), run_program(after, preview=True))))


def events(before: Recording | None, after: Recording) -> list[str]:
    """The lines that `pulumi preview --json` prints."""
    lines = []
    olds, news = (_resources(each) if each else {} for each in (before, after))
    for urn in sorted(olds.keys() | news.keys()):
        kind = urn.split("::")[2].rpartition("$")[2]
        operation = "create" if urn not in olds else "delete" if urn not in news else "update"
        if operation == "update":
            is_replaced = kind.rpartition(":")[2] in _REPLACED
            operation = "same" if olds[urn] == news[urn] else "replace" if is_replaced else "update"
        old, new = ({"inputs": _masked(each[urn])} if urn in each else None for each in (olds, news))
        lines.append({"resourcePreEvent": {"metadata": _metadata(operation, urn, kind, old, new)}})
    outputs = [{"outputs": _masked(each.exports) if each else {}} for each in (before, after)]
    stack = "urn:pulumi:test::registry-stack::pulumi:pulumi:Stack::registry-stack-test"
    lines.append({"resOutputsEvent": {"metadata": _metadata("same", stack, "pulumi:pulumi:Stack", *outputs)}})
    return [json.dumps(line) for line in lines]


def refusal(text: str) -> list[str]:
    """The lines that `pulumi preview --json` prints if the program fails with ``text``."""
    messages = [text, "an unhandled error occurred: program exited with non-zero exit code: 1"]
    return [json.dumps({"diagnosticEvent": {"severity": "error", "message": f"{message}\n"}}) for message in messages]


def _metadata(operation: str, urn: str, kind: str, old: Any, new: Any) -> dict[str, Any]:
    return {"op": operation, "urn": urn, "type": kind, "old": old, "new": new}


def _resources(recording: Recording) -> dict[str, Any]:
    found = {}
    for name, one in recording.resources.items():
        if one.type != "pulumi:pulumi:Stack":
            parents = one.request.parent.split("::")[2].removeprefix("pulumi:pulumi:Stack").removeprefix("$")
            types = f"{parents}${one.type}" if parents else one.type
            found[f"urn:pulumi:test::registry-stack::{types}::{name}"] = one.inputs
    return found


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return "[secret]" if _SECRET_MARK in value else {key: _masked(inner) for key, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list) else value
