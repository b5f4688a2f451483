"""The last error in the log of a mirror."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import NOT_FOUND
from typing import Any

from components.configuration.problems import redacted
from components.render.proxy import NO_DIGEST
from components.render.registry import DATA_DIRECTORY

_LEVELS = ("warning", "error", "fatal", "panic")
#: distribution warns of this at each start of a mirror.
_AT_EVERY_START = "Registry does not implement RepositoryRemover"
#: After each tag that a mirror lacks, the proxy asks the mirror for this to get the reason.
_ASKED_BY_PROXY = f"/manifests/{NO_DIGEST}"
#: Lines that are not JSON: of Go's runtime, and of the check that the mirror starts on its own data.
_PLAIN = ("panic: ", "fatal error: ", f"{DATA_DIRECTORY} ")
_LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class LogError:
    """A line of the log with the level warning or worse. ``time`` is None if the line does not tell its time."""

    time: str | None
    level: str
    message: str


def last_error(log: str) -> LogError | None:
    """Return the last warning or error of a log, without the user information of URLs."""
    return next((found for line in reversed(log.splitlines()) if (found := _error(line))), None)


def _error(line: str) -> LogError | None:
    if line.startswith(_PLAIN):
        return LogError(time=None, level="fatal", message=_shown(line))
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("level") not in _LEVELS:
        return None
    if str(entry.get("msg")).startswith(_AT_EVERY_START):
        return None
    if _ASKED_BY_PROXY in str(entry.get("http.request.uri")) and entry.get("http.response.status") == NOT_FOUND:
        return None  # The upstream is well, and the line before names the tag that it lacks.
    time = entry.get("time")
    return LogError(
        time=_shown(time) if isinstance(time, str) else None, level=entry["level"], message=_shown(_message(entry))
    )


def _message(entry: dict[str, Any]) -> str:
    """Return what failed, the reason and the request. The message of a failed request says only that it failed."""
    parts = [entry.get("err.message") or entry.get("msg"), entry.get("err.detail"), entry.get("error")]
    text = ": ".join(part if isinstance(part, str) else _json(part) for part in parts if part)
    if "http.request.uri" not in entry:
        return text
    uri = str(entry["http.request.uri"]).partition("?")[0].removesuffix(_ASKED_BY_PROXY)
    request = (entry.get("http.request.method"), uri)
    answer = entry.get("http.response.status")
    return f"{text} ({' '.join(map(str, request))}{f': {answer}' if answer else ''})"


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except RecursionError:  # the upstream chooses the depth
        return "…"


def _shown(text: str) -> str:
    """Return a text for a terminal: clients choose names in it."""
    return redacted("".join(filter(str.isprintable, text)))[:_LONGEST]
