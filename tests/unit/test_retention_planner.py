"""What retention keeps: for any registry, nothing is lost that a rule, a host, an index or a signature needs."""

from __future__ import annotations

import datetime
from collections import defaultdict
from fnmatch import fnmatchcase
from random import Random
from typing import Any

from hypothesis import assume, given, note
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.configuration.retention import RetentionSettings
from operations.history.running import Container
from operations.history.store import Store
from operations.retention.applying import apply, obstacles, reference, remaining
from operations.retention.graph import Graph
from operations.retention.plan import Plan
from operations.retention.planner import Question, make_plan
from operations.retention.usage import Memory, in_use
from tests.harness.simulation import TAGS, Simulation, odd_registry

#: A seed and the number of pushes, which shrinks.
CASES = (st.integers(0, 2**32), st.integers(1, 20))


class Case:
    """A registry, settings and containers, all chosen by a seed."""

    def __init__(self, seed: int, size: int, *, damage: bool = True) -> None:
        self.random = Random(seed)
        self.shelf = odd_registry(self.random, size, damage=damage)
        self.before, self.now = Simulation(self.shelf), self.shelf.now
        self.settings = some_settings(self.random)
        every = [digest for _, digest in self.before.manifests()]
        self.running = [container(self.before, one, self.random) for one in self.random.sample(every, len(every) // 9)]

    def plan(self, before: Simulation) -> Plan:
        found = self.plan_of(before.store)
        note(found.model_dump_json(indent=1))
        return found

    def plan_of(self, store: Store) -> Plan:
        graph = Graph(store)
        used = in_use(graph.known_as, self.running, Memory(), [])
        return make_plan(
            Question(graph=graph, settings=self.settings, running=used, now=self.now, registry="r.example.com")
        )


def some_settings(random: Random) -> RetentionSettings:
    """Some rules, mostly such that tags go."""

    def keep() -> dict[str, int]:
        number = {"newest": random.choice((1, 2))}, {"days": random.choice((1, 4, 9))}
        return random.choice((number[0], number[1], number[0] | number[1]))

    rules = [
        {
            "repositories": random.choice(("*", "*", "a", "team/*", "?")),
            "tags": random.choice(("*", "*", "v*", "pr-?", "latest", ["v1", "main"], "sha256-*")),
            "keep": random.choice(("always", keep(), keep(), keep())),
        }
        for _ in range(random.choice((0, 1, 2, 3)))
    ]
    overwritten = {"overwritten": keep()} if random.random() < 0.7 else {}
    return RetentionSettings.model_validate({"rules": rules} | overwritten)


def container(before: Simulation, digest: str, random: Random) -> Container:
    """A container that uses a manifest, known by its digest or by its configuration."""
    config = before.manifest(digest).get("config", {}).get("digest", digest)
    image, digests = random.choice(((config, set[str]()), ("sha256:0", {digest})))
    state = random.choice(("running", "exited"))
    return Container(host="ssh://web", name="app", state=state, image=image, digests=frozenset(digests))


def applied(before: Simulation, plan: Plan) -> Simulation:
    after = before.copy()
    apply(plan, read=lambda: after.store, points_to=after.points_to, delete=after.delete, running=list, again="")
    return after


def rule_of(settings: RetentionSettings, name: str, tag: str) -> Any:
    return next(
        (
            rule
            for rule in settings.rules
            if any(fnmatchcase(name, one) for one in rule.repositories)
            and any(fnmatchcase(tag, one) for one in rule.tags)
        ),
        None,
    )


def describes(tag: str, digest: str | None) -> str:
    """The image that a tag such as ``sha256-….sig`` describes; empty for other tags, and for a tag of itself."""
    subject = f"sha256:{tag[7:71]}" if tag.startswith("sha256-") else ""
    return "" if subject == digest else subject


def must_stay(before: Simulation, settings: RetentionSettings, now: datetime.datetime) -> set[tuple[str, str]]:
    """The tags that the rules keep, found without the planner. Of the tags of signatures, only those of `always`."""
    found = set()
    groups: defaultdict[Any, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, tags in before.tags.items():
        for tag, links in tags.items():
            rule = rule_of(settings, name, tag)
            if now - links.moved < datetime.timedelta(hours=1):
                found.add((name, tag))
            if rule is not None and rule.keep == "always":
                found.add((name, tag))
                continue
            if links.current is None or describes(tag, links.current):
                continue
            if rule is None:
                found.add((name, tag))
                continue
            if rule.keep.days and now - links.moved < datetime.timedelta(days=rule.keep.days):
                found.add((name, tag))
            groups[name, settings.rules.index(rule)][links.current].append((links.moved, tag))
    for (name, number), digests in groups.items():
        newest = sorted(digests, key=lambda digest: max(moved for moved, _ in digests[digest]), reverse=True)
        for digest in newest[: settings.rules[number].keep.newest or 0]:
            found |= {(name, tag) for _, tag in digests[digest]}
    return found


def check_nothing_is_lost(  # noqa: C901
    before: Simulation,
    after: Simulation,
    settings: RetentionSettings,
    running: list[Container],
    now: datetime.datetime,
    end: Simulation,
) -> None:
    """Compare what can be pulled before and after, by the reasons to keep. ``end`` is when the plan is done."""
    safe = {(name, digest) for name, digest in before.manifests()
            if now - before.pushed[name][digest] < datetime.timedelta(hours=1)}  # fmt: skip
    for name, tag in must_stay(before, settings, now):
        assert tag in after.tags[name], (name, tag)
    for name, tags in after.tags.items():
        for tag, links in tags.items():
            assert links == before.tags[name][tag]
            safe.add((name, links.current or ""))
            policy = settings.overwritten
            former = sorted(
                ((pushed, one) for one, pushed in links.pushed.items() if one != links.current), reverse=True
            )
            ends = dict(zip((one for _, one in former), [links.moved, *(pushed for pushed, _ in former)], strict=False))
            former = [(pushed, one) for pushed, one in former if before.has(name, one)]
            for place, (_, one) in enumerate(former):
                if (
                    policy is None
                    or place < (policy.newest or 0)
                    or (now - ends[one] < datetime.timedelta(days=policy.days or 0))
                ):
                    safe.add((name, one))
    for name, digest in before.manifests():
        config = before.manifest(digest).get("config", {}).get("digest")
        if any({digest, config} & {container.image, *container.digests} for container in running):
            safe.add((name, digest))
    for name, digests in before.damaged.items():
        safe |= {(name, child) for digest in digests for child in before.children(digest) if before.has(name, child)}
    for name, digest in safe:
        lost = before.pulls(name, digest) - after.pulls(name, digest)
        assert not lost, (name, digest, lost)
    for name, digest in before.manifests():
        subject = before.manifest(digest).get("subject", {}).get("digest")
        if subject and end.has(name, subject):
            assert before.pulls(name, digest) == after.pulls(name, digest), "a referrer goes before its subject"
    staying = {digest for _, digest in end.manifests()}
    for name, tags in before.tags.items():
        for tag, links in tags.items():
            if describes(tag, links.current) in staying:
                assert tag in after.tags[name], "a signature goes before its image"


@hypothesis_settings(max_examples=2000)
@given(*CASES)
def test_nothing_that_is_kept_is_lost_and_a_second_plan_deletes_nothing(seed: int, size: int) -> None:
    case = Case(seed, size)
    plan, untouched = case.plan(case.before), case.before.copy()

    after = applied(case.before, plan)
    collected = after.collect_garbage(), untouched.collect_garbage()

    check_nothing_is_lost(case.before, after, case.settings, case.running, case.now, after)
    again = case.plan(after)
    assert (again.deleted_tags, again.deleted_manifests, again.freed) == ([], [], 0)
    if all(collected):
        assert plan.bytes - sum(untouched.blobs.values()) == plan.unused
        assert sum(untouched.blobs.values()) - sum(after.blobs.values()) == plan.freed
        assert again.unused == 0


@hypothesis_settings(max_examples=500)
@given(*CASES)
def test_an_interrupted_plan_loses_nothing_and_continues_to_the_same_end(seed: int, size: int) -> None:
    case = Case(seed, size)
    plan, half = case.plan(case.before), case.before.copy()
    steps = list(remaining(plan, Graph(case.before.store)))
    for step in steps[: case.random.randint(0, len(steps))]:
        half.delete(step.repository, reference(step))
    half.collect_garbage()

    assert list(obstacles(plan, Graph(half.store), [])) == []
    ends = [applied(each, plan) for each in (half, case.before)]
    check_nothing_is_lost(case.before, half, case.settings, case.running, case.now, ends[1])
    for end in ends:
        end.collect_garbage()
    assert ends[0].tags == ends[1].tags
    assert sorted(ends[0].manifests()) == sorted(ends[1].manifests())


@hypothesis_settings(max_examples=500)
@given(*CASES)
def test_a_push_after_the_plan_is_never_lost(seed: int, size: int) -> None:
    case = Case(seed, size)
    plan = case.plan(case.before)
    every = list(case.before.manifests())
    assume(every)
    doomed = [(one.repository, one.digest) for one in plan.deleted_manifests]
    name, digest = case.random.choice(case.random.choice((every, doomed or every)))
    tag = case.random.choice(TAGS)
    case.shelf.now += datetime.timedelta(minutes=5)
    case.shelf.push(tag, {"digest": digest}, name)
    changed = Simulation(case.shelf)

    found = list(obstacles(plan, Graph(changed.store), []))

    if not found:
        after = applied(changed, plan)
        after.collect_garbage()
        assert after.tags[name][tag].current == digest
        assert after.pulls(name, digest) == changed.pulls(name, digest)
