"""The result of an import as a table for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from operations.tarballs.importing import Outcome, totals
from operations.tarballs.plan import Tarball

#: Most tags in a cell.
_MOST_TAGS = 5
_LONGEST = 200
_WORDS = {"present": "in the registry already", "older": "the tag has a newer tarball already"}


def plan_table(tarballs: Iterable[Tarball]) -> Table:
    """Return the table of what an import would do."""
    return _table((one, f"failed: {one.problem}" if one.problem else "", "") for one in tarballs)


def table(outcomes: Iterable[Outcome]) -> Table:
    """Return the table of the results, oldest tarball first."""
    return _table(
        (
            one.tarball,
            f"failed: {one.problem}" if one.problem else _WORDS.get(one.state, one.state),
            decimal(sum({digest: size for parts in one.parts for digest, size in parts.items()}.values()))
            if one.parts
            else "",
        )
        for one in outcomes
    )


def summary(outcomes: Sequence[Outcome], sent: int) -> str:
    """Return the numbers of tarballs, and their bytes before and after layers are shared."""
    states = [one.state for one in outcomes]
    older = states.count("older")
    counts = [
        f"{states.count('imported')} imported",
        f"{states.count('present')} in the registry already",
        *([f"{older} skipped because their tag has a newer tarball"] if older else []),
        f"{states.count('failed')} failed",
    ]
    count = totals(outcomes)
    return (
        f"{len(outcomes)} {'tarball' if len(outcomes) == 1 else 'tarballs'}: {', '.join(counts)}\n"
        f"{decimal(count.tarballs)} in tarballs, {decimal(count.separate)} compressed, {decimal(count.shared)} in the"
        f" registry, where equal layers are stored once; {decimal(sent)} uploaded by this command"
    )


def result_json(registry: str, outcomes: Sequence[Outcome], sent: int) -> dict[str, Any]:
    """Return the JSON form of an import, as docs/import.md describes it."""
    count = totals(outcomes)
    return {
        "registry": registry,
        "tarballs": [{**_json(one.tarball), "state": one.state, "problem": one.problem} for one in outcomes],
        "bytes": {
            "tarballs": count.tarballs,
            "separate": count.separate,
            "shared": count.shared,
            "uploaded": sent,
        },
    }


def plan_json(registry: str, tarballs: Iterable[Tarball]) -> dict[str, Any]:
    """Return the JSON form of a plan: the same form, with the state ``planned`` and without bytes."""
    entries = [
        {**_json(one), "state": "failed" if one.problem else "planned", "problem": one.problem} for one in tarballs
    ]
    return {"registry": registry, "tarballs": entries, "bytes": None}


def printable(text: str) -> str:
    """Return a text without control characters: the names in a tarball may have them, and a terminal would obey."""
    return "".join(filter(str.isprintable, text))[:_LONGEST]


def _json(one: Tarball) -> dict[str, Any]:
    return {
        "file": str(one.file),
        "size": one.size,
        "date": f"{one.dated.moment:%Y-%m-%dT%H:%M:%SZ}",
        "dated_by": _dated_by(one),
        "tags": _tags(one),
    }


def _table(rows: Iterable[tuple[Tarball, str, str]]) -> Table:
    result = Table("Tarball", "Date (UTC)", "Dated by", "Tags", "Size", "Result", box=None, pad_edge=False)
    for column in result.columns:
        column.overflow = "fold"
    for one, words, size in rows:
        tags = _tags(one)
        more = [f"and {len(tags) - _MOST_TAGS} more"] if len(tags) > _MOST_TAGS else []
        cells = (
            one.file.name,
            f"{one.dated.moment:%Y-%m-%d %H:%M:%S}",
            _dated_by(one),
            ", ".join([*tags[:_MOST_TAGS], *more]),
            size,
            words,
        )
        result.add_row(*(Text(printable(cell)) for cell in cells))
    return result


def _dated_by(one: Tarball) -> str:
    return "name" if one.dated.by_name else "file time"


def _tags(one: Tarball) -> list[str]:
    return list(dict.fromkeys(str(target) for _, targets in one.images for target in targets))
