"""Decide what stays and what goes: a pure function of the store, the rules, what runs, and the time.

A manifest stays if a tag that stays points to it, if it runs, if it was pushed within the last hour, if ``overwritten``
keeps it, or if a manifest that stays needs it or is its subject. Everything that is not known to be free to go stays.
"""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from components.configuration.globs import matches
from components.configuration.retention import KeepSettings, RetentionSettings
from operations.history.store import Store, TagLinks
from operations.preview.text import counted
from operations.retention.graph import Graph
from operations.retention.plan import Plan, PlannedManifest, PlannedTag

#: What was pushed within this time stays, because a push may be under way, or a tag may follow.
YOUNG = datetime.timedelta(hours=1)
#: A tag of a signature, an SBOM or a list of referrers: the tag has the digest of the image that it describes.
_DESCRIBES = re.compile(r"sha256-([0-9a-f]{64})(?:[^0-9a-f].*)?", re.DOTALL)


@dataclass(frozen=True)
class Decision:
    """Whether a tag or a manifest stays, and why."""

    keep: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """The input of a plan. ``running`` has the reason to keep each manifest that a Docker host runs or ran."""

    graph: Graph
    settings: RetentionSettings
    running: Mapping[str, str]
    now: datetime.datetime
    registry: str
    without: tuple[str, ...] = ()


def make_plan(question: Question) -> Plan:
    """Return the plan."""
    graph, store = question.graph, question.graph.store
    decided = _Decided(question)
    decided.settle()
    everything = {(name, digest) for name, digests in graph.present.items() for digest in digests}
    going = everything - decided.kept.keys()
    needed_now, needed_then = (graph.blobs(digest for _, digest in each) for each in (everything, decided.kept))
    freed = needed_now - needed_then
    return Plan(
        registry=question.registry,
        made=question.now,
        running_on=question.settings.running_on,
        without=question.without,
        rules=question.settings.rules,
        overwritten=question.settings.overwritten,
        most=question.settings.most,
        tags=tuple(_tags(store, graph, decided, freed)),
        manifests=tuple(_manifests(store, graph, decided, going)),
        bytes=sum(store.blobs.values()),
        freed=_size(store, freed),
        unused=_size(store, store.blobs.keys() - needed_now),
    )


class _Decided:
    """The decisions so far. ``kept`` has the reason for each manifest that stays, ``tags`` the decision of each tag."""

    def __init__(self, question: Question) -> None:
        self._question, self._graph, self._rules = question, question.graph, question.settings.rules
        self._runs = {
            digest: why for one, why in question.running.items() for digest in self._graph.with_indexes([one])
        } | dict(question.running)
        self.kept: dict[tuple[str, str], str] = {}
        self.tags: dict[tuple[str, str], Decision] = {}

    def settle(self) -> None:
        """Decide every tag and keep every manifest that must stay."""
        store, describing = self._graph.store, dict[tuple[str, str], str]()
        anywhere = frozenset[str]().union(*self._graph.present.values())
        for name, tags in sorted(store.repositories.items()):
            ordinary = {tag: links for tag, links in tags.items() if links.current and not _subject(tag, links)}
            ruled = self._by_rules(name, ordinary)
            for tag, links in sorted(tags.items()):
                subject = _subject(tag, links)
                if why := self._always_kept(links):
                    self._keep_tag(name, tag, why)
                elif subject and (number := self._rule(name, tag)) is not None and self._rules[number].keep == "always":
                    self._keep_tag(name, tag, self._always(number))
                elif subject in anywhere:
                    describing[name, tag] = subject
                elif subject:
                    self._keep_tag(name, tag, "describes an image that the registry does not have")
                elif ruled[tag].keep:
                    self._keep_tag(name, tag, ruled[tag].why)
                else:
                    self.tags[name, tag] = ruled[tag]
        for name, digests in sorted(self._graph.present.items()):
            for digest, why in self._untagged(name, digests):
                self._keep(name, digest, why)
        self._keep_describing(describing)

    def _always_kept(self, links: TagLinks) -> str | None:
        if links.current is None:
            return "the link of the tag is damaged"
        if why := self._runs.get(links.current):
            return why
        return "younger than an hour" if self._question.now - links.moved < YOUNG else None

    def _by_rules(self, name: str, tags: Mapping[str, TagLinks]) -> dict[str, Decision]:
        """Decide the tags of a repository by the first rule that matches each."""
        found, by_rule = dict[str, Decision](), defaultdict[int, dict[str, TagLinks]](dict)
        for tag, links in tags.items():
            if (number := self._rule(name, tag)) is None:
                found[tag] = Decision(True, "no rule")
            else:
                by_rule[number][tag] = links
        for number, matched in by_rule.items():
            rule = self._rules[number]
            if rule.keep == "always":
                found |= dict.fromkeys(matched, Decision(True, self._always(number)))
                continue
            order = sorted(matched, key=lambda tag: (matched[tag].moved, _natural(tag)), reverse=True)
            rank, newer = dict[str | None, int](), set[str | None]()
            for digest in (matched[tag].current for tag in order):
                rank.setdefault(digest, len(newer))
                # What is gone takes no place: it would push out an image that can be pulled.
                newer |= {digest} & self._graph.present.get(name, frozenset())
            for tag, links in matched.items():
                decision = _judged(rule.keep, rank[links.current], self._question.now - links.moved)
                found[tag] = Decision(decision.keep, f"rule {number + 1}: {decision.why}")
        return found

    def _rule(self, name: str, tag: str) -> int | None:
        """Return the place of the first rule that matches a tag."""
        found = (
            number
            for number, rule in enumerate(self._rules)
            if matches(rule.repositories, name) and matches(rule.tags, tag)
        )
        return next(found, None)

    def _always(self, number: int) -> str:
        return f"rule {number + 1}: {', '.join(self._rules[number].tags)}"

    def _untagged(self, name: str, digests: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Yield the manifests that stay without a tag, such as running, young, overwritten and never tagged ones."""
        question, store = self._question, self._graph.store
        tags = store.repositories.get(name, {})
        tagged = {links.current for links in tags.values()} | {one for links in tags.values() for one in links.pushed}
        named = {one for digest in digests for one in self._graph.nodes[digest].references}
        policy = question.settings.overwritten
        for digest in sorted(digests):
            age = question.now - store.pushed.get(name, {}).get(digest, question.now)
            if why := self._runs.get(digest):
                yield digest, why
            elif age < YOUNG:
                yield digest, "younger than an hour"
            elif digest not in tagged | named and not digests & {self._graph.nodes[digest].subject}:
                if policy is None or policy.days is None:
                    yield digest, "never had a tag"
                elif age < datetime.timedelta(days=policy.days):
                    yield digest, f"younger than {counted(policy.days, 'day')}"
        for damaged in sorted(store.damaged.get(name, frozenset()) & self._graph.nodes.keys()):
            for digest in sorted(self._graph.needs(name, damaged)):
                yield digest, f"{short(damaged)} cannot be read and may need it"

    def _keep_describing(self, describing: Mapping[tuple[str, str], str]) -> None:
        """Keep the tags of signatures whose images stay in any repository. One may describe another."""
        waiting = dict(describing)
        while True:
            staying = {digest for _, digest in self.kept}
            found = [key for key, subject in waiting.items() if subject in staying]
            if not found:
                break
            for key in found:
                self._keep_tag(*key, f"describes {short(waiting.pop(key))}")
        for key, subject in waiting.items():
            self.tags[key] = Decision(False, f"describes {short(subject)}, which goes")

    def _keep_tag(self, name: str, tag: str, why: str) -> None:
        """Keep a tag with its manifest and with those that it pointed to before."""
        self.tags[name, tag] = Decision(True, why)
        links, present = self._graph.store.repositories[name][tag], self._graph.present.get(name, frozenset())
        if links.current in present:
            self._keep(name, links.current, f"tag {tag}")
        former = sorted((pushed, one) for one, pushed in links.pushed.items() if one in present - {links.current})
        pushes = sorted([*links.pushed.values(), links.moved])
        for rank, (pushed, digest) in enumerate(reversed(former)):
            policy = self._question.settings.overwritten if links.current else None
            overwritten = next((later for later in pushes if later > pushed), pushed)
            age = self._question.now - overwritten
            decision = _judged(policy, rank, age, "overwritten within") if policy else Decision(True, "no rule")
            if decision.keep:
                self._keep(name, digest, f"before at {tag}: {decision.why}")

    def _keep(self, name: str, digest: str, why: str) -> None:
        """Keep a manifest, what it needs, and what describes it."""
        waiting = [(digest, why)]
        while waiting:
            one, reason = waiting.pop()
            if (name, one) in self.kept:
                continue
            self.kept[name, one] = reason
            readable = self._graph.nodes[one].readable
            needed = f"part of {short(one)}" if readable else f"{short(one)} cannot be read and may need it"
            waiting += [(other, needed) for other in sorted(self._graph.needs(name, one))]
            describing = sorted(self._graph.referrers.get((name, one), ()))
            waiting += [(other, f"describes {short(one)}") for other in describing]


def _judged(keep: KeepSettings, rank: int, age: datetime.timedelta, young: str = "younger than") -> Decision:
    """Decide by the number of newer digests and by the age. Either is enough to stay."""
    if keep.newest is not None and rank < keep.newest:
        return Decision(True, f"newest {keep.newest}")
    if keep.days is not None and age < datetime.timedelta(days=keep.days):
        return Decision(True, f"{young} {counted(keep.days, 'day')}")
    reasons = [f"older than {counted(keep.days, 'day')}"] if keep.days is not None else []
    reasons += [f"not among the newest {keep.newest}"] if keep.newest is not None else []
    return Decision(False, " and ".join(reasons))


def _tags(store: Store, graph: Graph, decided: _Decided, freed: frozenset[str]) -> Iterator[PlannedTag]:
    for name, tags in sorted(store.repositories.items()):
        for tag in sorted(tags, key=lambda one: (tags[one].moved, _natural(one)), reverse=True):
            links, decision = tags[tag], decided.tags[name, tag]
            yield PlannedTag(
                repository=name,
                tag=tag,
                digest=links.current,
                pushed=links.moved,
                keep=decision.keep,
                why=decision.why,
                frees=0 if decision.keep else _size(store, _below(graph, name, links.current) & freed),
            )


def _below(graph: Graph, name: str, digest: str | None) -> frozenset[str]:
    """Return the blobs of a manifest and of its images."""
    found = [digest] if digest in graph.present.get(name, frozenset()) else []
    for one in found:  # grows by the needs of each manifest
        found += graph.nodes[one].references & graph.present[name] - set(found)
    return graph.blobs(found)


def _manifests(
    store: Store, graph: Graph, decided: _Decided, going: Iterable[tuple[str, str]]
) -> Iterator[PlannedManifest]:
    """Yield the manifests without a tag: those to delete by repository, each before what it needs, then the others."""
    gone = defaultdict[str, set[str]](set)
    for name, digest in going:
        gone[name].add(digest)
    for name, digests in sorted(gone.items()):
        reasons = _reasons_to_go(store.repositories.get(name, {}))
        for digest in graph.ordered(name, digests):
            why = reasons.get(digest, "no tag or index that stays needs it")
            yield PlannedManifest(repository=name, digest=digest, keep=False, why=why)
    pointed = {
        (name, links.current)
        for name, tags in store.repositories.items()
        for tag, links in tags.items()
        if decided.tags[name, tag].keep
    }
    for (name, digest), why in sorted(decided.kept.items()):
        if (name, digest) not in pointed:
            yield PlannedManifest(repository=name, digest=digest, keep=True, why=why)


def _reasons_to_go(tags: Mapping[str, TagLinks]) -> dict[str, str]:
    """Return for each manifest that had a tag the tags that point or pointed to it, for those that go."""
    current, former = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for tag, links in sorted(tags.items()):
        if links.current:
            current[links.current].append(tag)
        for digest in links.pushed:
            former[digest].append(tag)
    return {digest: f"before at {', '.join(names)}" for digest, names in former.items()} | {
        digest: f"had only tags that go: {', '.join(names)}" for digest, names in current.items()
    }


def _subject(tag: str, links: TagLinks) -> str:
    """Return the digest of the image that a tag describes; empty for an ordinary tag, also one named by itself."""
    match = _DESCRIBES.fullmatch(tag)
    return f"sha256:{match[1]}" if match and links.current != f"sha256:{match[1]}" else ""


def _natural(tag: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in tags by their value: v9 before v10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", tag) if part]


def _size(store: Store, blobs: Iterable[str]) -> int:
    return sum(store.blobs[digest] for digest in blobs)


def short(digest: str) -> str:
    """Return the start of a digest, for people."""
    return digest.partition(":")[2][:12]
