"""Differences of the rendered configuration files, line by line, without the files that hold secrets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operations.preview.events import Step
from operations.preview.text import counted

#: What the CLI prints in place of a secret.
_MASK = "[secret]"


@dataclass(frozen=True)
class FileChange:
    """A changed file, named by its volume and its own name: what happens to it, and the lines of a unified difference.

    A new or removed file has no lines: they would be the whole file.
    """

    name: str
    change: str
    lines: tuple[str, ...] = ()


def file_changes(steps: Sequence[Step], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FileChange]:
    """Return the changed files of the carriers and the changed snippets for the operator's own proxy.

    Files with the same difference count as one, whose name lists all of them.
    """
    old, new = _snippets(before), _snippets(after)
    for step in steps:
        if step.name.endswith("-carrier"):
            old |= _uploads(step, step.before)
            new |= _uploads(step, step.after)
    found: list[FileChange] = []
    same: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was == now or _MASK in {was, now}:
            continue
        if was is None or now is None:
            lines = counted(len((was or now or "").splitlines()), "line")
            found.append(FileChange(name, f"{'new' if was is None else 'removed'} file, {lines}"))
        else:
            difference = difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=2)
            same.setdefault(tuple(difference)[2:], []).append(name)
    return [*(FileChange(", ".join(names), "changed", lines) for lines, names in same.items()), *found]


def _uploads(step: Step, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a carrier by the name of its volume and their own name."""
    owner, uploads = step.name.removesuffix("-carrier"), inputs.get("uploads")
    return {
        # The CLI prints an object in place of a secret text.
        f"{owner}/{str(upload['file']).rpartition('/')[2]}": text
        if isinstance(text := upload.get("content"), str)
        else _MASK
        for upload in (uploads if isinstance(uploads, list) else ())
        if isinstance(upload, Mapping)
    }


def _snippets(outputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(text) for name, text in outputs.items() if name.endswith("_snippet")}
