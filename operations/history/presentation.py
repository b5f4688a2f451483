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
#: Most characters of a cell. Clients choose the labels of their images.
_LONGEST = 200


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
            "State": f"{len(version.missing)} missing" if version.state == "incomplete" else version.state,
            "Size": "" if version.size is None else decimal(version.size),
            "Platforms": ", ".join(version.platforms),
            "Revision": (version.revision or "")[:_SHORT],
            "Other tags": ", ".join(version.other_tags),
            "Runs on": ", ".join(map(str, version.running)),
            "Source": version.source or "",
        }
        for tag in found
        for back, version in enumerate(tag.versions)
    )


def shortened(digest: str) -> str:
    """Return the start of a digest, for people."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}:{encoded[:_SHORT]}"


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
    """Return a table of the columns that have content. Control characters in labels cannot reach the terminal."""
    lines = [{name: "".join(filter(str.isprintable, text))[:_LONGEST] for name, text in row.items()} for row in rows]
    names = [name for name in (lines[0] if lines else ()) if any(line[name] for line in lines)]
    table = Table(*names, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(Text(line[name], overflow="fold") for name in names))
    return table
