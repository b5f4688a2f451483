"""Show the change of a file, without the passwords that the file of a client may have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from components.configuration.problems import redacted
from operations.clients.planning import Change

#: The value of a key that may be secret, as in JSON, TOML and YAML.
_SECRET = re.compile(
    r"""(["']?[\w.-]*(?:password|passwd|token|secret|auth)[\w.-]*["']?\s*[:=]\s*)"""
    r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,{}\[\]"'][^,{}\[\]]*)""",
    re.IGNORECASE,
)


def difference(change: Change) -> Iterator[str]:
    """Return the lines of the difference. A certificate has one line."""
    path = change.file.path
    shown = path if change.file.target.endswith(path) else f"{path} -> {change.file.target}"
    if path.endswith(".crt"):
        yield f"{'---' if change.text is None else '+++'} {shown}: the certificate of the mirrors' authority"
        return
    old, new = (text.splitlines() if text else [] for text in (change.file.text, change.text))
    former, later = ("/dev/null" if text is None else shown for text in (change.file.text, change.text))
    for line in difflib.unified_diff(old, new, former, later, lineterm=""):
        yield redacted(_SECRET.sub(r"\1…", line))
