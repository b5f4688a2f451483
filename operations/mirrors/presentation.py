"""The mirrors as a table for people, and as JSON for programs."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from operations.mirrors.counters import Counters
from operations.mirrors.quota import Quota
from operations.mirrors.reading import Mirror


def mirrors_table(mirrors: Mapping[str, Mirror], quotas: Mapping[str, Quota]) -> Table:
    """Return the table with a column for each mirror, and a row for quotas if there are any."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Mirror", no_wrap=True)
    columns = [_column(mirror) for mirror in mirrors.values()]
    for name in mirrors:
        table.add_column(name, overflow="fold")
    for label in columns[0] if columns else ():
        table.add_row(label, *(column[label] for column in columns))
    if quotas:
        table.add_row("Quota", *(str(quotas.get(name, "")) for name in mirrors))
    return table


def _column(mirror: Mirror) -> dict[str, str]:
    total = mirror.usage.total if mirror.usage else None
    ratio = total.hit_ratio if total else None
    return {
        "State": mirror.state if mirror.reachable or mirror.state != "healthy" else "silent",
        "Counted since (UTC)": mirror.since[:19].replace("T", " ") if mirror.since and total else "",
        "Requests": str(total.requests) if total else "",
        "Hits": str(total.hits) if total else "",
        "Misses": str(total.misses) if total else "",
        "Hit ratio": "" if ratio is None else f"{ratio:.0%}",
        "Served": decimal(total.bytes_served) if total else "",
        "Fetched": decimal(total.bytes_fetched) if total else "",
        "Cache": "" if mirror.cache.size is None else decimal(mirror.cache.size),
        "Oldest content (UTC)": _minute(mirror.cache.oldest),
        "Newest content (UTC)": _minute(mirror.cache.newest),
    }


def errors(mirrors: Mapping[str, Mirror]) -> list[str]:
    """Return a line for each mirror with an error in its log."""
    return [
        f"{name}: last {error.level}{f' at {error.time[:19]}Z' if error.time else ''}: {error.message}"
        for name, mirror in mirrors.items()
        if (error := mirror.last_error)
    ]


def mirrors_json(
    host: str, urls: Mapping[str, str], mirrors: Mapping[str, Mirror], quotas: Mapping[str, Quota]
) -> dict[str, Any]:
    """Return the JSON form, as docs/mirrors.md describes it."""
    return {
        "docker_host": host,
        "mirrors": [
            {
                "upstream": name,
                "url": urls.get(name),
                "container": mirror.container,
                "state": mirror.state,
                "reachable": mirror.reachable,
                "since": mirror.since,
                "total": _counters(mirror.usage.total if mirror.usage else None),
                "manifests": _counters(mirror.usage.manifests if mirror.usage else None),
                "blobs": _counters(mirror.usage.blobs if mirror.usage else None),
                "cache_size": mirror.cache.size,
                "oldest": _time(mirror.cache.oldest),
                "newest": _time(mirror.cache.newest),
                "quota": dataclasses.asdict(quotas[name]) if name in quotas else None,
                "last_error": dataclasses.asdict(mirror.last_error) if mirror.last_error else None,
            }
            for name, mirror in mirrors.items()
        ],
    }


def _counters(counters: Counters | None) -> dict[str, Any] | None:
    return dataclasses.asdict(counters) | {"hit_ratio": counters.hit_ratio} if counters else None


def _time(moment: datetime.datetime | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _minute(moment: datetime.datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
