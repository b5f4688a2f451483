"""A plan as a table for people, and as Markdown for the comment of a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from operations.preview.text import code, counted
from operations.retention.plan import Plan, PlannedManifest, PlannedTag
from operations.retention.planner import short

#: Characters of the longest text. Together with a preview of 60,000 characters, it fits into a comment on GitHub.
_LONGEST = 5_000
#: Most reasons to keep that a summary lists.
_REASONS = 15
_HEAD = ("Repository", "Tag", "Pushed (UTC)", "Digest", "", "Why", "Frees")


def plan_table(plan: Plan) -> Table:
    """Return the table of all tags, and of the manifests without a tag."""
    table = Table(box=None, pad_edge=False)
    for name in _HEAD:
        table.add_column(name, no_wrap=name not in ("Repository", "Tag", "Why"), overflow="fold")
    for row in (*map(_tag, plan.tags), *map(_manifest, plan.manifests)):
        table.add_row(*map(Text, row))
    return table


def summary(plan: Plan) -> str:
    """Return the totals in one line."""
    tags, manifests = plan.deleted_tags, plan.deleted_manifests
    if not tags and not manifests:
        text = f"nothing to delete: keeps {counted(len(plan.tags), 'tag')}"
    else:
        text = (
            f"deletes {len(tags)} of {counted(len(plan.tags), 'tag')} and {counted(len(manifests), 'manifest')}, frees"
            f" {decimal(plan.freed)} of {decimal(plan.bytes)}"
        )
    return f"{text}; {decimal(plan.unused)} are unused already" if plan.unused else text


def markdown(plan: Plan, heading: str) -> str:
    """Return the plan as Markdown of at most ``_LONGEST`` characters, with every deletion that fits."""
    lines = [f"### {heading}", "", f"**{_capital(summary(plan))}.**"]
    if plan.excess:
        lines += ["", f"⚠️ {_capital(plan.excess)}. `retention apply` refuses this plan without `--more`."]
    if plan.without:
        lines += ["", f"⚠️ Not protected by {', '.join(map(code, plan.without))}: see `--without`."]
    lines += _kept(plan)
    rows = [
        f"| {' | '.join(code(cell).replace('|', '&#124;') if cell else '' for cell in cells)} |"
        for cells in _deleted(plan)
    ]
    if rows:
        lines += ["", "#### Deletes", ""]
        lines += ["| Repository | Tag or manifest | Pushed (UTC) | Why | Frees |", "| --- | --- | --- | --- | --- |"]
    text = "\n".join(lines) + "\n"
    shown, space = 0, _LONGEST - 100
    for row in rows:
        if len(text) + len(row) > space:
            break
        text += f"{row}\n"
        shown += 1
    return text + (f"\n… and {len(rows) - shown} more. The plan file has all of them.\n" if shown < len(rows) else "")


def _deleted(plan: Plan) -> Iterator[Sequence[str]]:
    for tag in plan.deleted_tags:
        yield tag.repository, tag.tag, f"{tag.pushed:%Y-%m-%d %H:%M}", tag.why, decimal(tag.frees)
    for manifest in plan.deleted_manifests:
        yield manifest.repository, short(manifest.digest), "", manifest.why, ""


def _kept(plan: Plan) -> Iterator[str]:
    """Yield how many tags stay for each reason."""
    reasons = Counter(one.why for one in plan.tags if one.keep)
    if not reasons:
        return
    yield from ("", "#### Keeps", "", "| Why | Tags |", "| --- | --- |")
    yield from (f"| {code(why).replace('|', '&#124;')} | {number} |" for why, number in reasons.most_common(_REASONS))
    if len(reasons) > _REASONS:
        yield f"| … | {sum(number for _, number in reasons.most_common()[_REASONS:])} |"


def _tag(one: PlannedTag) -> Sequence[str]:
    return (
        *(one.repository, one.tag, f"{one.pushed:%Y-%m-%d %H:%M:%S}", short(one.digest) if one.digest else ""),
        *("keep" if one.keep else "delete", one.why, "" if one.keep else decimal(one.frees)),
    )


def _manifest(one: PlannedManifest) -> Sequence[str]:
    return one.repository, "", "", short(one.digest), "keep" if one.keep else "delete", one.why, ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
