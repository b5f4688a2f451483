"""Add our entries to a file of a client, and take the entries out again. Keys of others stay as they are.

Comments and the order of keys stay in TOML and YAML. After each change of a text, the text is parsed again: the command
writes no file that differs from the expected data.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import PurePosixPath
from typing import Any

import tomlkit
import yaml
from tomlkit.exceptions import TOMLKitError

_BY_HAND = "the command cannot change the file without a loss: edit the file by hand"
_CHANGED = "someone changed our entries after the installation: remove the entries by hand"

#: Errors of tomlkit where it cannot change a valid text, such as a table on one line.
_TOMLKIT = (TOMLKitError, ValueError, LookupError, TypeError, AttributeError)


class Unmergeable(Exception):
    """A file that the command cannot change. The message is the reason."""


def add(path: str, text: str | None, ours: str) -> str:
    """Return ``text`` with the entries of ``ours``. Ours come first, because clients ask the first mirror first.

    Raises:
        Unmergeable: if the client would refuse ``text``, or if it is a file of someone else that cannot have entries.
    """
    if text is None or not text.strip():
        return ours
    if _is_whole(path):
        if text != ours:
            raise Unmergeable("this file is not from this command: move it away, or compare it with `clients --output`")
        return text
    expected = with_entries(data(path, text), data(path, ours))
    if expected == data(path, text) and _order(expected) == _order(data(path, text)):
        return text
    match PurePosixPath(path).suffix:
        case ".json":
            return _json(expected, text)
        case ".toml":
            return _checked(path, _add_toml(text, ours), expected)
        case _:
            return _checked(path, _add_yaml(text, data(path, ours)), expected)


def take_out(path: str, text: str, before: str | None, after: str) -> str | None:
    """Return ``text`` without the entries that ``after`` has and ``before`` has not. None if nothing else remains.

    Raises:
        Unmergeable: if the entries cannot be found, because someone changed the text.
    """
    if _is_whole(path):
        raise Unmergeable("someone changed this file after the installation: move it away, or restore it")
    expected = data(path, text)
    if not _has_entries(expected, data(path, before or ""), data(path, after)):
        return text
    _take_out(expected, data(path, before or ""), data(path, after))
    match PurePosixPath(path).suffix:
        case ".json":
            result = _json(expected, text)
        case ".toml":
            try:
                result = _checked(path, _reverse(text, before or "", after), expected)
            except Unmergeable:
                result = _checked(path, _take_out_of_toml(text, data(path, before or ""), data(path, after)), expected)
                _check_comments(text, result, after)
        case _:
            result = _checked(path, _reverse(text, before or "", after), expected)
    only_ours = {line.strip() for line in result.splitlines()} <= {"", *(line.strip() for line in after.splitlines())}
    return None if before is None and not expected and (only_ours or path.endswith(".json")) else result


def contains(path: str, text: str | None, ours: str) -> bool:
    """Whether a file has our entries, before those of others.

    Raises:
        Unmergeable: if the file is not valid.
    """
    if text is None or path.endswith(".crt"):
        return text == ours
    if path.endswith(".conf"):
        return all(one in data(path, text).get("registry", []) for one in data(path, ours)["registry"])
    return add(path, text, ours) == text


def without_mirrors(daemon: str | None) -> str | None:
    """Return a ``daemon.json`` with an empty list of mirrors, or None if the text has a list.

    At a reload, Docker keeps its mirrors if the file has no list.
    """
    found = data("daemon.json", daemon or "")
    return None if "registry-mirrors" in found else _json({"registry-mirrors": [], **found}, daemon or "")


def data(path: str, text: str) -> dict[str, Any]:
    """Parse a file of a client.

    Raises:
        Unmergeable: if the file is not valid.
    """
    try:
        match PurePosixPath(path).suffix:
            case ".json":
                text = text.removeprefix("\ufeff")  # Docker accepts a byte order mark and an empty file
                found = _DECODER.decode(text) if text.strip() else {}
            case ".toml" | ".conf":
                found = tomllib.loads(text)
            case _:
                found = yaml.safe_load(text) or {}
    except json.JSONDecodeError as error:
        raise Unmergeable(f"line {error.lineno}: {error.msg}") from None
    except tomllib.TOMLDecodeError as error:
        raise Unmergeable(f"not valid TOML: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Unmergeable(f"{line}{error.problem}") from None
    except yaml.YAMLError:
        raise Unmergeable("not valid YAML") from None
    except (ValueError, RecursionError, AttributeError, LookupError):
        # Too deep, a number or a date that does not exist, or a value that does not fit its tag in YAML.
        raise Unmergeable("the command cannot read a value in the file") from None
    if not isinstance(found, dict):
        raise Unmergeable("the file does not contain an object")
    return found


def with_entries(base: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a file with our entries. New tables come first. A value of someone else stays."""
    result = copy.deepcopy(dict(base))
    for key, value in reversed(list(ours.items())):
        if key not in result:
            result = {key: value, **result}
        elif isinstance(value, dict) and isinstance(result[key], dict):
            result[key] = with_entries(result[key], value)
        elif isinstance(value, list) and isinstance(result[key], list):
            result[key] = [*value, *(one for one in result[key] if not any(_same(one, own) for own in value))]
        elif isinstance(value, dict | list):
            raise Unmergeable(f"{key} is not {'a list' if isinstance(value, list) else 'an object'}")
    return result


def _take_out(current: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for key, value in after.items():
        if key not in current:
            continue
        old, new = before.get(key), current[key]
        if isinstance(value, dict) and isinstance(new, Mapping):
            _take_out(new, old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list) and isinstance(new, list):
            for one in _added(new, old if isinstance(old, list) else [], value):
                new.remove(one)
        elif key not in before and new == value:
            del current[key]
            continue
        if key not in before and not current[key] and isinstance(value, dict | list):
            del current[key]


def _has_entries(current: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a file still has an entry of ours, in any state."""
    for key in after.keys() & current.keys():
        old, new, value = before.get(key), current[key], after[key]
        if isinstance(value, dict) and isinstance(new, Mapping):
            if _has_entries(new, old if isinstance(old, dict) else {}, value):
                return True
        elif key not in before or (isinstance(value, list) and isinstance(new, list) and _added(new, old or [], value)):
            return True
    return False


def _added(new: list[Any], old: list[Any], ours: list[Any]) -> list[Any]:
    """Return the entries of a list that are ours. One with another slash at the end counts if ours itself is gone."""
    added = [one for one in ours if not any(_same(one, each) for each in old)]
    return [one for one in new if one in added or any(_same(one, each) and each not in new for each in added)]


def _same(one: object, other: object) -> bool:
    """Whether two entries are the same; Docker writes URLs with a slash at the end."""
    return one == other or (isinstance(one, str) and isinstance(other, str) and one.rstrip("/") == other.rstrip("/"))


def _is_whole(path: str) -> bool:
    """Whether a file belongs to the command as a whole, so that there is nothing to merge."""
    return path.endswith((".crt", ".conf"))


def _order(found: Mapping[str, Any]) -> list[str]:
    """Return the hosts of a ``hosts.toml`` in the order in which the client asks them."""
    hosts = found.get("host")
    return list(hosts) if isinstance(hosts, dict) else []


def _checked(path: str, text: str, expected: Mapping[str, Any]) -> str:
    try:
        found = data(path, text)
    except Unmergeable:
        raise Unmergeable(_BY_HAND) from None
    if found != expected or _order(found) != _order(expected):
        raise Unmergeable(_BY_HAND)
    return text


def _finite(number: str) -> float:
    """Read a number. Docker refuses `NaN`, and Python would write `1e999` as `Infinity`."""
    if not math.isfinite(value := float(number)):
        raise ValueError
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise Unmergeable(f"the key {twice} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_finite, parse_float=_finite)


def _json(found: Mapping[str, Any], like: str) -> str:
    """Write JSON with the indentation of another text. Half of a surrogate pair stays an escape."""
    indent = re.search(r"\n([ \t]+)\S", like)
    ascii_only = like.isascii() or "\\ud" in like.lower()
    return json.dumps(found, indent=indent[1] if indent else 2, ensure_ascii=ascii_only) + "\n"


def _add_toml(text: str, ours: str) -> str:
    document, own = tomlkit.parse(text), tomlkit.parse(ours)
    if "host" in document and "host" in own:
        text = _add_hosts(text, {key for key in own["host"] if key not in document["host"]}, ours)
        document = tomlkit.parse(text)
    try:
        _add(document, own)
    except _TOMLKIT:
        raise Unmergeable(_BY_HAND) from None
    return tomlkit.dumps(document)


def _take_out_of_toml(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    document = tomlkit.parse(text)
    try:
        _take_out(document, before, after)
    except _TOMLKIT:
        raise Unmergeable(_CHANGED) from None
    return tomlkit.dumps(document)


def _check_comments(text: str, result: str, ours: str) -> None:
    """Refuse a result without a comment of someone else: to tomlkit, a comment belongs to the table above it."""
    kept = {line.strip() for line in (*result.splitlines(), *ours.splitlines())}
    if any("#" in line and line.strip() not in kept for line in text.splitlines()):
        raise Unmergeable(_CHANGED)


def _add(base: Any, ours: Any) -> None:
    """Add entries to a document of tomlkit."""
    for key, value in ours.items():
        if key not in base:
            base[key] = value
        elif isinstance(value, MutableMapping):
            _add(base[key], value)
        elif isinstance(value, list) and base[key][: len(value)] != value:
            for one in reversed(value.unwrap()):  # type: ignore[attr-defined]
                for former in [each for each in base[key] if _same(each, one)]:
                    base[key].remove(former)
                base[key].insert(0, one)


def _add_hosts(text: str, hosts: set[str], ours: str) -> str:
    """Insert the tables of hosts before the first host, and before the comment above that host."""
    tables = re.split(r"^(?=\[host\.)", ours, flags=re.MULTILINE)[1:]
    new = "".join(table.rstrip("\n") + "\n\n" for table in tables if any(f'"{host}"' in table for host in hosts))
    return re.sub(
        r"^(?:[ \t]*#.*\n)*[ \t]*\[\s*host\b", lambda first: new + first[0], text, count=1, flags=re.MULTILINE
    )


def _add_yaml(text: str, ours: Mapping[str, Any]) -> str:
    """Insert entries into a YAML text, at the places that the parser reports."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    present = {key.value for key, _ in root.value} if isinstance(root, yaml.MappingNode) else set[str]()
    new = {key: value for key, value in ours.items() if key not in present}
    if not isinstance(root, yaml.MappingNode) or not root.flow_style:
        text = text.rstrip("\n") + "\n" + (yaml.safe_dump(new, sort_keys=False) if new else "")
        ours = {key: value for key, value in ours.items() if key in present}
    for place, entries in sorted(_insertions(text, root, ours) if root else [], reverse=True):
        text = text[:place] + entries + text[place:]
    return text


def _insertions(text: str, node: yaml.Node, ours: Mapping[str, Any]) -> list[tuple[int, str]]:
    if not isinstance(node, yaml.MappingNode):
        raise Unmergeable(_BY_HAND)
    found: list[tuple[int, str]] = []
    children = {key.value: value for key, value in node.value}
    missing = {key: value for key, value in ours.items() if key not in children}
    if missing and node.flow_style:
        found.append(_in_flow(node, json.dumps(missing)[1:-1]))
    elif missing:
        found.append(_in_block(text, node.value[0][0].start_mark, yaml.safe_dump(missing, sort_keys=False)))
    for key, value in ours.items():
        child = children.get(key)
        if isinstance(value, dict) and child:
            found += _insertions(text, child, value)
        elif isinstance(value, list) and isinstance(child, yaml.SequenceNode):
            new = [one for one in value if not any(_same(one, item.value) for item in child.value)]
            if new and child.flow_style:
                found.append(_in_flow(child, json.dumps(new)[1:-1]))
            elif new:
                found.append(_in_block(text, child.start_mark, yaml.safe_dump(new)))
    return found


def _in_flow(node: yaml.CollectionNode, new: str) -> tuple[int, str]:
    return node.start_mark.index + 1, new + (", " if node.value else "")


def _in_block(text: str, first: yaml.Mark, new: str) -> tuple[int, str]:
    """Return the place before the line of the first entry and before the comment above that line."""
    place = first.index - first.column
    while (above := text[:place].splitlines(keepends=True)[-1:]) and above[0].lstrip().startswith("#"):
        place -= len(above[0])
    return place, "".join(" " * first.column + line for line in new.splitlines(keepends=True))


def _reverse(text: str, before: str, after: str) -> str:
    """Undo the change from ``before`` to ``after`` in a text that was changed at other places."""
    old, new, lines = before.splitlines(True), after.splitlines(True), text.splitlines(True)
    for kind, a, b, c, d in reversed(difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()):
        if kind != "equal" and c < d:
            places = [at for at in range(len(lines)) if lines[at : at + d - c] == new[c:d]]
            if len(places) != 1:
                raise Unmergeable(_CHANGED)
            lines[places[0] : places[0] + d - c] = old[a:b]
    return "".join(lines)
