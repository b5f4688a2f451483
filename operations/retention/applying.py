"""Do what a plan says: check the registry again, then delete tags, then manifests, each before what it needs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from components.configuration.problems import Failure
from operations.history.store import Store
from operations.retention.graph import Graph
from operations.retention.plan import Plan, PlannedManifest, PlannedTag
from operations.retention.planner import short

#: Seconds after which the registry is checked again: a push may need what the plan deletes.
CHECK_AGAIN_AFTER = 10
#: Most obstacles that an error lists.
_LISTED = 10

Step = PlannedTag | PlannedManifest


def apply(
    plan: Plan,
    *,
    read: Callable[[], Store],
    points_to: Callable[[str, str], str | None],
    delete: Callable[[str, str], None],
    running: Callable[[], Iterable[str]],
    again: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Delete what the plan deletes and what is still there. Return the number of deletions.

    Args:
        plan: the plan.
        read: reads the store.
        points_to: tells the digest of a tag of a repository, or None. Asked before each deletion of a tag.
        delete: deletes a tag or, by its digest, a manifest of a repository. Tells nothing if it is gone already.
        running: asks for the IDs and digests of images that run, or that their services used before.
        again: the command that makes a new plan.
        progress: is told how many steps of how many are done.

    Raises:
        Failure: if the registry changed so that the plan would delete what is needed, or if something stays.
    """
    done, steps = 0, [*plan.deleted_tags, *plan.deleted_manifests]
    left, checked = set[Step](), float("-inf")
    for number, step in enumerate(steps):
        if time.monotonic() - checked > CHECK_AGAIN_AFTER:
            names = running()  # first: a host can run only what was pushed before
            graph = Graph(read())
            _refuse(obstacles(plan, graph, names), again)
            left, checked = set(remaining(plan, graph)), time.monotonic()
        progress(number, len(steps))
        if step in left:
            if isinstance(step, PlannedTag) and points_to(step.repository, step.tag) not in (step.digest, None):
                _refuse([_pushed_again(step)], again)
            delete(step.repository, reference(step))
            done += 1
    if done and (stayed := list(remaining(plan, Graph(read())))):
        raise Failure(
            f"the registry accepted every deletion, but {len(stayed)} of {len(steps)} are still there, first"
            f" {stayed[0].repository}:{reference(stayed[0])}",
            "run the command again; if this error repeats, read the log of the process `admin`",
        )
    return done


def reference(step: Step) -> str:
    """Return the tag, or the digest of a manifest."""
    return step.tag if isinstance(step, PlannedTag) else step.digest


def remaining(plan: Plan, graph: Graph) -> Iterator[Step]:
    """Yield the deletions of the plan that are not done."""
    yield from (one for one in plan.deleted_tags if one.tag in graph.store.repositories.get(one.repository, {}))
    yield from (one for one in plan.deleted_manifests if one.digest in graph.present.get(one.repository, frozenset()))


def obstacles(plan: Plan, graph: Graph, running: Iterable[str]) -> Iterator[str]:
    """Yield the reasons why the plan does not fit the registry any more. What is deleted already is none."""
    store = graph.store
    going: defaultdict[str, set[str]] = defaultdict(set)
    for one in plan.deleted_manifests:
        if one.digest in graph.present.get(one.repository, frozenset()):
            going[one.repository].add(one.digest)
    used = graph.with_indexes(one for name in running for one in graph.known_as.get(name, frozenset()))
    yield from _changed_tags(plan, store, going, used)
    for name, digests in going.items():
        yield from (f"a service uses or used {short(digest)} of {name}" for digest in sorted(digests & used))
        for digest in sorted(digests):
            if store.pushed.get(name, {}).get(digest, plan.made) > plan.made:
                yield f"{short(digest)} was pushed to {name} again"
        for digest in graph.present[name] - digests:
            if needed := graph.needs(name, digest) & digests:
                yield f"{short(digest)} in {name} needs {short(min(needed))} now, which the plan deletes"


def _changed_tags(plan: Plan, store: Store, going: Mapping[str, set[str]], used: frozenset[str]) -> Iterator[str]:
    planned = {(one.repository, one.tag): one for one in plan.deleted_tags}
    for kept in plan.tags:
        if kept.keep and kept.tag not in store.repositories.get(kept.repository, {}):
            yield f"{kept.repository}:{kept.tag} is gone, which the plan keeps: others may have to stay in its place"
    for name, tags in store.repositories.items():
        for tag, links in tags.items():
            one = planned.get((name, tag))
            if one and (links.current, links.moved) != (one.digest, one.pushed):
                yield _pushed_again(one)
            elif one and links.current in used:
                yield f"a service uses or used {short(links.current)}, to which {name}:{tag} points"
            elif not one and links.current and links.current in going.get(name, ()):
                yield f"{name}:{tag} points to {short(links.current)} now, which the plan deletes"


def _pushed_again(tag: PlannedTag) -> str:
    return f"{tag.repository}:{tag.tag} was pushed again"


def _refuse(reasons: Iterable[str], again: str) -> None:
    found = list(dict.fromkeys(reasons))
    if found:
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise Failure(
            f"the plan does not fit the registry any more: {'; '.join(found[:_LISTED])}{more}",
            f"make a new plan: {again}",
        )
