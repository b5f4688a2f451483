"""The usage as tables for people, and as JSON for programs."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from operations.usage.forecast import Forecast
from operations.usage.growth import Growth
from operations.usage.sizes import Repository, Tag, Usage


def repositories_table(found: Iterable[Repository], grown: Growth | None) -> Table:
    """Return the table of all repositories."""
    table = _table("Repository", "Tags", "Size", "Own", "Shared", "Untagged", *(["Growth"] if grown else []))
    for one in found:
        cells = (
            one.name,
            str(len(one.tags)),
            decimal(one.size),
            decimal(one.own),
            decimal(one.size - one.own),
            f"{one.untagged} ({decimal(one.untagged_own)})" if one.untagged else "",
            *([signed(grown.repositories[one.name])] if grown else []),
        )
        table.add_row(*map(Text, cells))
    return table


def tags_table(found: Iterable[Tag]) -> Table:
    """Return a table of tags."""
    table = _table("Tag", "Size", "Own", "Shared", "Pushed (UTC)")
    for one in found:
        name = f"{one.repository}:{one.name}"
        pushed = f"{one.pushed:%Y-%m-%d %H:%M:%S}"
        table.add_row(*map(Text, (name, decimal(one.size), decimal(one.own), decimal(one.size - one.own), pushed)))
    return table


def largest(found: Usage, number: int) -> list[Tag]:
    """Return the tags with most own bytes."""
    return sorted(_tags(found), key=lambda tag: (tag.own, tag.size), reverse=True)[:number]


def oldest(found: Usage, number: int, expected: Forecast | None) -> list[Tag]:
    """Return the tags whose last push is longest ago, without those that are known to run."""
    unused = (tag for tag in _tags(found) if not expected or tag.digest not in expected.in_use)
    return sorted(unused, key=lambda tag: tag.pushed)[:number]


def oldest_title(expected: Forecast | None) -> str:
    """Return the title of the oldest tags."""
    return f"Tags that were pushed longest ago{' and do not run' if expected and expected.asked else ''}"


def totals(found: Usage, grown: Growth | None, expected: Forecast | None) -> str:
    """Return the size of the registry in words."""
    words = f"{decimal(found.size)} on the disk, {decimal(found.unused)} of that in blobs that no image needs"
    words += f"; {signed(grown.size)} since {grown.since:%Y-%m-%d %H:%M} UTC" if grown else ""
    return words + (f"; the rules of retention would free {decimal(expected.plan.freed)}" if expected else "")


def signed(size: int) -> str:
    """Return a difference in bytes for people."""
    return "0" if size == 0 else f"{'+' if size > 0 else '-'}{decimal(abs(size))}"


def usage_json(
    registry: str,
    now: datetime.datetime,
    found: Usage,
    shown: Sequence[Repository],
    grown: Growth | None,
    *,
    expected: Forecast | None,
) -> dict[str, Any]:
    """Return the JSON form, as docs/usage.md describes it, with the repositories ``shown``."""
    return {
        "registry": registry,
        "time": _time(now),
        "size": found.size,
        "unused": found.unused,
        "growth": {"since": _time(grown.since), "size": grown.size} if grown else None,
        "retention": {
            "freed": expected.plan.freed,
            "tags": len(expected.plan.deleted_tags),
            "manifests": len(expected.plan.deleted_manifests),
        }
        if expected
        else None,
        "repositories": [
            {
                "name": one.name,
                "size": one.size,
                "own": one.own,
                "growth": grown.repositories[one.name] if grown else None,
                "untagged": {"images": one.untagged, "own": one.untagged_own},
                "tags": [
                    {
                        "name": tag.name,
                        "digest": tag.digest,
                        "pushed": _time(tag.pushed),
                        "size": tag.size,
                        "own": tag.own,
                        "runs": tag.digest in expected.in_use if expected and expected.asked else None,
                    }
                    for tag in one.tags
                ],
            }
            for one in shown
        ],
    }


def _tags(found: Usage) -> list[Tag]:
    return [tag for repository in found.repositories for tag in repository.tags]


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        is_number = name in ("Tags", "Size", "Own", "Shared", "Growth")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table
