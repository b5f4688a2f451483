"""Compare the rules of retention. Their order matters, so each rule is shown with its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from operations.preview.text import code, counted

ABSENT = "–"
_RULES = "changes the retention rules"


def retention_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the changes of ``registry.retention``: subject, value before, value after and phrase."""
    old, new = (each.get("registry", {}).get("retention") or {} for each in (was, now))
    before, after = ([_rule(rule) for rule in each.get("rules", [])] for each in (old, new))
    for kind, first, last, start, end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            pairs = zip_longest(range(first, last), range(start, end))
            for here, there in pairs:
                number = there if there is not None else here
                yield (
                    f"rule {number + 1}",
                    ABSENT if here is None else before[here],
                    "removed" if there is None else after[there],
                    _RULES,
                )
    if old.get("overwritten") != new.get("overwritten"):
        stay = [_keep(each["overwritten"]) if each.get("overwritten") else "all stay" for each in (old, new)]
        yield "overwritten manifests", stay[0], stay[1], "changes which overwritten manifests stay"
    hosts = [each.get("running_on", []) for each in (old, new)]
    yield from (
        ("running on", code(host), "removed", f"stops asking {code(host)} what runs")
        for host in hosts[0]
        if host not in hosts[1]
    )
    yield from (
        ("running on", ABSENT, code(host), f"protects what runs on {code(host)}")
        for host in hosts[1]
        if host not in hosts[0]
    )
    if old.get("most") != new.get("most"):
        most = [code(each["most"]) if "most" in each else ABSENT for each in (old, new)]
        yield "most", most[0], most[1], "changes how much one plan may delete"


def unprotected_hosts(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each host whose images retention may delete from now on."""
    old, new = (each.get("registry", {}).get("retention") or {} for each in (was, now))
    return [
        f"**Images lose their protection:** retention no longer asks {code(host)} which images run there."
        for host in old.get("running_on", [])
        if new and host not in new.get("running_on", [])
    ]


def _rule(rule: Mapping[str, Any]) -> str:
    tags, repositories = (", ".join(map(code, rule.get(key) or ["*"])) for key in ("tags", "repositories"))
    where = "" if repositories == code("*") else f" in {repositories}"
    return f"{tags}{where}: {_keep(rule.get('keep'))}"


def _keep(keep: Any) -> str:
    if not isinstance(keep, Mapping):
        return "keep always"
    parts = [f"the newest {int(keep['newest'])}"] if "newest" in keep else []
    parts += [f"those of the last {counted(int(keep['days']), 'day')}"] if "days" in keep else []
    return f"keep {' and '.join(parts)}"
