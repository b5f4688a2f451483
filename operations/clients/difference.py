"""Show the change of a file, without the passwords that the file of a client may have."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator

from components.configuration.problems import redacted
from operations.clients.merging import data
from operations.clients.planning import Change

#: The rest of a line after a key that may be secret, in JSON, TOML and YAML. A secret may contain any character.
_SECRET = re.compile(
    r"""(["']?[\w.-]*(?:pass|token|secret|auth|credential|cookie|header|api.?key)[\w.-]*["']?\s*[:=]).+""",
    re.IGNORECASE,
)


def difference(change: Change) -> Iterator[str]:
    """Return the changed lines. The lines around them are those of others. A certificate has one line."""
    path = change.file.path
    shown = path if change.file.target.endswith(path) else f"{path} -> {change.file.target}"
    if path.endswith(".crt"):
        yield f"{'---' if change.text is None else '+++'} {shown}: the certificate of the mirrors' authority"
        return
    old, new = (_lines(path, text) for text in (change.file.text, change.text))
    former, later = ("/dev/null" if text is None else shown for text in (change.file.text, change.text))
    for line in difflib.unified_diff(old, new, former, later, lineterm="", n=0):
        yield redacted(_SECRET.sub(r"\1 …", line))


def _lines(path: str, text: str | None) -> list[str]:
    """Return the lines of a text. JSON has one form, so that a change of the form shows no value of others."""
    if text and path.endswith(".json"):
        text = json.dumps(data(path, text), indent=2, ensure_ascii=False)
    return (text or "").splitlines()
