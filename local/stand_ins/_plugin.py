"""Shared parts of both stand-ins: tables of inputs, plain values, checks, comparison."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.provider import (
    CheckFailure,
    CheckRequest,
    CheckResponse,
    DiffRequest,
    DiffResponse,
    PropertyDiff,
    PropertyDiffKind,
)
from pulumi.runtime import rpc

UNKNOWN = rpc.UNKNOWN
"""Placeholder in a preview for a value that only the real operation produces."""

ORDERED = frozenset({"command", "entrypoints", "tests", "interpreter", "triggers"})
"""The lists whose order matters. All other lists are sets."""

Properties = Mapping[str, PropertyValue]
State = dict[str, Any]
"""Inputs or outputs as plain values."""


class StandInError(Exception):
    """A failure whose message is shown without a Python traceback."""


class InitializationError(StandInError):
    """A resource that exists and must be recorded in the state, but did not start."""

    def __init__(self, reason: str, resource_id: str, outputs: dict[str, PropertyValue]) -> None:
        super().__init__(reason)
        self.resource_id = resource_id
        self.outputs = outputs


@dataclass(frozen=True, kw_only=True)
class Input:
    """How one input behaves when it is checked and compared."""

    replaces: bool = True
    kept: bool = False  # when the program drops the input, the old value stays and nothing changes
    required: bool = False
    default: Any = None  # the value that Check fills in; `fields` has the defaults inside objects
    pattern: str | None = None
    fields: Mapping[str, Any] | None = None  # the known keys of an object (or a list of them), with their defaults


# Values


def plain(value: PropertyValue) -> Any:
    """The value as in JSON, without secret marks and without Pulumi's bookkeeping (`__…`)."""
    if isinstance(value.value, Mapping):
        return {key: plain(inner) for key, inner in value.value.items() if not key.startswith("__")}
    if isinstance(value.value, tuple):
        return [plain(inner) for inner in value.value]
    return value.value


def plain_map(values: Properties) -> dict[str, Any]:
    return {key: plain(value) for key, value in values.items() if not key.startswith("__")}


def pulumi_value(value: Any) -> PropertyValue:
    if isinstance(value, Mapping):
        return PropertyValue({key: pulumi_value(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return PropertyValue([pulumi_value(inner) for inner in value])
    return PropertyValue(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def outputs_like(outputs: Mapping[str, Any], *sources: Properties) -> dict[str, PropertyValue]:
    """The outputs. An output is secret as a whole if a source has a secret in the property of that name."""
    hidden = {key for source in sources for key, value in source.items() if value.contains_secret()}
    return {key: pulumi_value(value).with_secret(key in hidden) for key, value in outputs.items()}


def without_secrets(text: str, values: Properties) -> str:
    """The text with ``[secret]`` instead of every line of every secret string in ``values``."""
    lines = {line for value in values.values() for secret in _secret_strings(value) for line in secret.splitlines()}
    for line in sorted(filter(str.strip, lines), key=len, reverse=True):
        text = text.replace(line, "[secret]")
    return text


def _secret_strings(value: PropertyValue, *, inside: bool = False) -> Iterator[str]:
    hidden = inside or value.is_secret
    if isinstance(value.value, str):
        if hidden:
            yield value.value
    elif isinstance(value.value, (Mapping, tuple)):
        for inner in value.value.values() if isinstance(value.value, Mapping) else value.value:
            yield from _secret_strings(inner, inside=hidden)


# Check


def check(plugin: str, resource: str, inputs: Mapping[str, Input], request: CheckRequest) -> CheckResponse:
    """Refuse unknown, missing and malformed inputs. Fill in defaults and list them in `__defaults`, as bridges do.

    If the input `name` is neither given nor required, its value comes from the logical name of the resource.
    """
    news = {key: value for key, value in request.new_inputs.items() if not key.startswith("__")}
    # Pulumi prints the value of a property named here, even a secret. So only the reason names the property.
    failures = [CheckFailure("", unknown_input(plugin, f"{resource}.{path}")) for path in _unknown_paths(news, inputs)]
    failures += [CheckFailure("", _problem(request.name, key, rule, news)) for key, rule in inputs.items()
                 if _problem(request.name, key, rule, news)]  # fmt: skip
    if failures:
        return CheckResponse(inputs=request.new_inputs, failures=failures)
    filled = {key: _with_defaults(value, inputs[key].fields) for key, value in news.items()}
    defaults = {key: pulumi_value(rule.default) for key, rule in inputs.items() if rule.default is not None}
    if "name" in inputs and not inputs["name"].required:
        defaults["name"] = PropertyValue(_automatic_name(request))
    return CheckResponse(inputs=_completed(filled, defaults))


def unknown_input(plugin: str, path: str) -> str:
    return (
        f"the stand-in for the {plugin} plugin does not know {path}; remove this part from the program, or install "
        f"the official plugin, which knows every input: pulumi plugin install resource {plugin}"
    )


def _unknown_paths(news: Properties, inputs: Mapping[str, Input]) -> Iterator[str]:
    for key, value in news.items():
        if key not in inputs:
            yield key
            continue
        fields = inputs[key].fields
        elements = {f"{key}[{i}]": e for i, e in enumerate(value.value)} if isinstance(value.value, tuple) else {}
        for path, element in (elements or {key: value}).items():
            if fields is not None and isinstance(element.value, Mapping):
                # For inputs in `ignore_changes`, `__defaults` comes back from the state.
                yield from (f"{path}.{name}" for name in element.value if name not in fields and name != "__defaults")


def _problem(resource: str, key: str, rule: Input, news: Properties) -> str:
    """The problem of one input, in the words of the official plugin. Empty if the input is valid."""
    if key not in news:
        missing = f'Missing required argument. The argument "{key}" is required, but no definition was found.'
        return f"{missing}. Examine values at '{resource}.{key}'." if rule.required else ""
    found = news[key].value
    if rule.pattern is None or found == UNKNOWN or re.search(rule.pattern, str(found)):
        return ""
    shown = "[secret]" if news[key].contains_secret() else found
    complaint = f"'{shown}' doesn't match the pattern '{rule.pattern}'."
    return f"{complaint} {complaint} Examine values at '{resource}.{key}'."


def _with_defaults(value: PropertyValue, fields: Mapping[str, Any] | None) -> PropertyValue:
    if fields is None:
        return value
    if isinstance(value.value, tuple):
        return value.with_value([_with_defaults(element, fields) for element in value.value])
    if not isinstance(value.value, Mapping):
        return value
    defaults = {key: pulumi_value(default) for key, default in fields.items() if default is not None}
    return value.with_value(_completed(value.value, defaults))


def _completed(values: Properties, defaults: Properties) -> dict[str, PropertyValue]:
    missing = sorted(defaults.keys() - values.keys())
    return {**values, **{key: defaults[key] for key in missing}, "__defaults": pulumi_value(missing)}


def _automatic_name(request: CheckRequest) -> str:
    """The earlier automatic name, or the name that `pulumi:autonaming` of the project proposes.

    Without a proposal, the name is the logical name with seven hexadecimal digits.
    """
    recorded = request.old_inputs.get("__defaults")
    if recorded is not None and "name" in plain(recorded):
        return str(request.old_inputs["name"].value)
    if proposed := PROPOSED_NAME.get():
        return proposed
    seed = request.random_seed or secrets.token_bytes(32)
    return f"{request.name}-{hashlib.sha256(seed).hexdigest()[:7]}"


# Diff


def diff(inputs: Mapping[str, Input], request: DiffRequest, *, delete_first: bool) -> DiffResponse:
    """Compare the recorded outputs with the checked inputs, for each property and down to the changed leaf."""
    olds, news = plain_map(request.old_state), plain_map(request.new_inputs)
    found: dict[str, dict[str, PropertyDiffKind]] = {}
    for key, rule in inputs.items():
        if key in news or not rule.kept:
            paths = dict(_differences(key, key, olds.get(key), news.get(key)))
            found[key] = {p: kind for p, kind in paths.items() if not _ignored(p, request.ignore_changes)}
    changed = [key for key, paths in found.items() if paths]
    replaced = [key for key in changed if inputs[key].replaces]
    detailed = {
        path: PropertyDiff(PropertyDiffKind[f"{kind.name}_REPLACE"] if key in replaced else kind, input_diff=False)
        for key in changed
        for path, kind in found[key].items()
    }
    return DiffResponse(
        changes=bool(changed),
        diffs=changed,
        replaces=replaced,
        delete_before_replace=bool(replaced) and delete_first,
        detailed_diff=detailed,
    )


def differs(key: str, old: Any, new: Any) -> bool:
    return bool(_canonical(key, old) != _canonical(key, new))


def _ignored(path: str, ignored: Iterable[str]) -> bool:
    return any(path == prefix or path.startswith((f"{prefix}.", f"{prefix}[")) for prefix in ignored)


def _canonical(key: str, value: Any) -> Any:
    """The value in a comparable form: unset, null, zero and empty are equal, sets are sorted."""
    if isinstance(value, dict):
        inner = {name: _canonical(name, element) for name, element in value.items()}
        return {name: element for name, element in inner.items() if element} or None
    if isinstance(value, list):
        elements = [_canonical("", element) for element in value]
        return (elements if key in ORDERED else sorted(elements, key=_sort_key)) or None
    return value or None


def _sort_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differences(path: str, key: str, old: Any, new: Any) -> Iterator[tuple[str, PropertyDiffKind]]:
    if not differs(key, old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            step = f".{name}" if name.isidentifier() else f'["{name}"]'
            yield from _differences(path + step, name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and old and new:
        was, now = dict(enumerate(old)), dict(enumerate(new))
        if key not in ORDERED:
            was, now = _unmatched(old, new), _unmatched(new, old)
        for index in sorted(was.keys() | now.keys()):
            yield from _differences(f"{path}[{index}]", "", was.get(index), now.get(index))
    elif _canonical(key, old) is None:
        yield path, PropertyDiffKind.ADD
    else:
        yield path, PropertyDiffKind.DELETE if _canonical(key, new) is None else PropertyDiffKind.UPDATE


def _unmatched(elements: list[Any], others: list[Any]) -> dict[int, Any]:
    """The elements, by index, that have no equal among the others."""
    rest = [_canonical("", other) for other in others]
    left = {}
    for index, element in enumerate(elements):
        canonical = _canonical("", element)
        if canonical in rest:
            rest.remove(canonical)
        else:
            left[index] = element
    return left


# Serving

PROPOSED_NAME: ContextVar[str] = ContextVar("PROPOSED_NAME", default="")
