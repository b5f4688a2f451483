"""The record of versions as tables for people, and as JSON for programs."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from operations.history.record import Repository, Tag, Version

#: Characters of a digest or a Git revision in a table.
_SHORT = 12
#: Most characters of a cell.
_LONGEST = 200
#: Columns that a narrow terminal does not wrap.
_WHOLE = frozenset({"Back", "Pushed (UTC)", "Digest", "State", "Size", "Tags"})


def repositories_table(found: Iterable[Repository]) -> Table:
    """Return the table of all repositories."""
    return _table(
        {
            "Repository": one.name,
            "Newest tag": one.newest_tag or "",
            "Pushed (UTC)": f"{one.pushed:%Y-%m-%d %H:%M:%S}" if one.pushed else "",
            "Tags": str(one.tags),
            "Size": decimal(one.size),
        }
        for one in found
    )


def versions_table(found: Iterable[Tag]) -> Table:
    """Return the table of the versions of all tags. The number in the column Back selects a version to go back to."""
    return _table(
        {
            "Tag": "" if back else tag.name,
            "Back": str(back),
            "Pushed (UTC)": f"{version.pushed:%Y-%m-%d %H:%M:%S}",
            "Digest": shortened(version.digest) if version.digest else "",
            "State": _state(version),
            "Size": "" if version.size is None else decimal(version.size),
            "Platforms": ", ".join(version.platforms),
            "Revision": (version.revision or "")[:_SHORT],
            "Other tags": ", ".join(version.other_tags),
            "Runs on": ", ".join(map(str, version.running)),
        }
        for tag in found
        for back, version in enumerate(tag.versions)
    )


def sources(found: Iterable[Tag]) -> str:
    """Return the sources of all versions, which are usually one."""
    return _printable(", ".join(dict.fromkeys(one.source for tag in found for one in tag.versions if one.source)))


def shortened(digest: str) -> str:
    """Return the start of a digest, for people."""
    return digest.partition(":")[2][:_SHORT]


def _state(version: Version) -> str:
    match version.state:
        case "complete":
            return ""
        case "incomplete":
            return f"{len(version.missing)} missing"
    return version.state


def repositories_json(registry: str, found: Iterable[Repository]) -> dict[str, Any]:
    """Return the JSON form of all repositories, as docs/history.md describes it."""
    return {
        "registry": registry,
        "repositories": [
            {
                "name": one.name,
                "newest_tag": one.newest_tag,
                "pushed": _time(one.pushed) if one.pushed else None,
                "tags": one.tags,
                "size": one.size,
            }
            for one in found
        ],
    }


def versions_json(
    registry: str, repository: str, size: int, running_on: Sequence[str], found: Iterable[Tag]
) -> dict[str, Any]:
    """Return the JSON form of one repository, as docs/history.md describes it. ``running_on`` are the hosts asked."""
    return {
        "registry": registry,
        "repository": repository,
        "size": size,
        "running_on": list(running_on),
        "tags": [{"name": tag.name, "versions": [_version(one) for one in tag.versions]} for tag in found],
    }


def _version(one: Version) -> dict[str, Any]:
    return {
        "digest": one.digest,
        "pushed": _time(one.pushed),
        "state": one.state,
        "missing": list(one.missing),
        "size": one.size,
        "platforms": list(one.platforms),
        "created": one.created,
        "version": one.version,
        "revision": one.revision,
        "source": one.source,
        "other_tags": list(one.other_tags),
        "running": [{"host": each.host, "container": each.name, "state": each.state} for each in one.running],
    }


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _table(rows: Iterable[Mapping[str, str]]) -> Table:
    """Return a table of the columns that have content."""
    lines = [{name: _printable(text) for name, text in row.items()} for row in rows]
    table = Table(box=None, pad_edge=False)
    names = [name for name in (lines[0] if lines else ()) if any(line[name] for line in lines)]
    for name in names:
        table.add_column(name, no_wrap=name in _WHOLE, overflow="fold")
    for line in lines:
        table.add_row(*(Text(line[name]) for name in names))
    return table


def _printable(text: str) -> str:
    """Return a text without control characters: clients choose the labels, and a terminal would obey."""
    return "".join(filter(str.isprintable, text))[:_LONGEST]
