"""Variables in Compose files and Dockerfiles: `$NAME`, `${NAME:-default}`, and the file `.env`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
#: An innermost variable: its text after the operator has no further variable. Defaults can nest, so the caller repeats.
_VARIABLE = re.compile(rf"\$\$|\$({_NAME})|\$\{{({_NAME})(?:(:?[-?+])([^${{}}]*))?\}}")
_LINE = re.compile(rf"\s*(?:export\s+)?({_NAME})\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|(.*?))\s*(?:(?<=\s)#.*)?")
_DEEPEST = 20


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variables of a text. A variable that is not set and has no default stays."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match[1] or match[2], match[3] or "", match[4] or ""
        if name is None:
            return match[0]
        found = variables.get(name)
        is_set = bool(found) if operator.startswith(":") else found is not None
        if operator.endswith("+"):
            return word if is_set else ""
        if is_set:
            return found or ""
        return word if operator.endswith("-") else match[0]

    for _ in range(_DEEPEST):
        replaced = _VARIABLE.sub(value, text)
        if replaced == text:
            break
        text = replaced
    return text


def missing(text: str) -> str:
    """Return what an expanded text still needs: a value for its first variable. Empty if the text has no variable."""
    if "$" not in text:
        return ""
    match = next((one for one in _VARIABLE.finditer(text) if one[1] or one[2]), None)
    name = match and (match[1] or match[2])
    return f"a value for the variable {name}, which has no default" if name else "variables such as ${NAME:-default}"


def parse_env(text: str) -> dict[str, str]:
    """Return the variables of a file `.env`. Lines of another form are left out."""
    matches = (_LINE.fullmatch(line) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {match[1]: match[2] or match[3] or match[4] or "" for match in matches if match}
