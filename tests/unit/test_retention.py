"""Rules, reasons and memory of retention, by examples; the plan as a table, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from components.configuration.globs import covers, matches
from components.configuration.retention import RetentionSettings
from operations.history.running import Container
from operations.history.store import TagLinks
from operations.retention.graph import Graph
from operations.retention.plan import Plan
from operations.retention.planner import Question, make_plan
from operations.retention.presentation import markdown, plan_table, summary
from operations.retention.usage import FORGOTTEN_AFTER, Memory, in_use, remembered, unmapped
from tests.harness.configuration import ROOT, configuration, loaded
from tests.harness.shelf import MANIFEST, NAME, Shelf, three_pushes

GOLDEN = ROOT / "tests/unit/retention-plan.md"
HOST = "ssh://deploy@web-1"
PATTERN = st.text(st.sampled_from("ab*?"), max_size=5)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def plan(shelf: Shelf, *rules: Any, days: float = 100, running: dict[str, str] | None = None, **settings: Any) -> Plan:
    """The plan ``days`` days after the last push."""
    return make_plan(
        Question(
            graph=Graph(shelf.store),
            settings=RetentionSettings.model_validate({"rules": list(rules)} | settings),
            running=running or {},
            now=shelf.now + datetime.timedelta(days=days),
            registry="registry.example.com",
        )
    )


def reasons(found: Plan) -> dict[str, str]:
    """The decision of each tag."""
    return {one.tag: f"{'keep' if one.keep else 'delete'}, {one.why}" for one in found.tags}


def manifests(found: Plan) -> dict[str, str]:
    return {one.digest: f"{'keep' if one.keep else 'delete'}, {one.why}" for one in found.manifests}


def push_daily(shelf: Shelf, *tags: str, name: str = NAME) -> list[str]:
    """Push an image to each tag, one a day; their digests."""
    digests = []
    for tag in tags:
        shelf.now += datetime.timedelta(days=1)
        digests.append(shelf.push(tag, shelf.image(shelf.layer(f"{name}:{tag}", 1000), name=name), name))
    return digests


def test_the_first_rule_that_matches_decides_and_a_tag_without_a_rule_stays(shelf: Shelf) -> None:
    push_daily(shelf, "v1", "pr-1", "pr-2", "other")

    found = plan(
        shelf,
        {"tags": ["v*", "w*"], "keep": "always"},
        {"tags": "pr-?", "keep": {"newest": 1, "days": 14}},
        {"tags": ["v1", "pr-*"], "keep": {"days": 1}},
    )

    assert reasons(found) == {
        "v1": "keep, rule 1: v*, w*",
        "pr-2": "keep, rule 2: newest 1",
        "pr-1": "delete, rule 2: older than 14 days and not among the newest 1",
        "other": "keep, no rule",
    }


def test_a_rule_counts_each_repository_for_itself(shelf: Shelf) -> None:
    for name in ("team-a/x", "team-a/y/z", "team-b/x"):
        push_daily(shelf, "1", "2", name=name)

    found = plan(shelf, {"repositories": "team-a/*", "keep": {"newest": 1}})

    kept = {(one.repository, one.tag) for one in found.tags if one.keep}
    assert kept == {("team-a/x", "2"), ("team-a/y/z", "2"), ("team-b/x", "1"), ("team-b/x", "2")}


def test_newest_counts_digests_and_not_tags(shelf: Shelf) -> None:
    push_daily(shelf, "1", "2")
    image = shelf.image()
    for tag in ("3", "latest", "stable"):
        shelf.push(tag, image)

    found = plan(shelf, {"keep": {"newest": 2}})

    assert {one.tag for one in found.tags if one.keep} == {"2", "3", "latest", "stable"}


def test_a_tag_whose_manifest_is_gone_takes_no_place_among_the_newest(shelf: Shelf) -> None:
    *_, lost = push_daily(shelf, "v1", "v2", "v3", "v4")
    shelf.revisions[NAME].remove(lost)

    assert reasons(plan(shelf, {"tags": "v*", "keep": {"newest": 2}})) == {
        "v4": "keep, rule 1: newest 2",
        "v3": "keep, rule 1: newest 2",
        "v2": "keep, rule 1: newest 2",
        "v1": "delete, rule 1: not among the newest 2",
    }


def test_of_tags_pushed_at_once_the_higher_number_is_newer(shelf: Shelf) -> None:
    for tag in ("v9", "v10", "v8"):
        shelf.push(tag, shelf.image(shelf.layer(tag, 1)))
        shelf.now -= datetime.timedelta(seconds=1)

    found = plan(shelf, {"keep": {"newest": 1}})

    assert [one.tag for one in found.tags if one.keep] == ["v10"]


def test_the_date_of_a_tag_is_that_of_its_push_and_not_of_the_image(shelf: Shelf) -> None:
    shelf.push("old-image", shelf.image(created="1970-01-01T00:00:00Z"))

    assert reasons(plan(shelf, {"keep": {"days": 14}}, days=13)) == {"old-image": "keep, rule 1: younger than 14 days"}
    assert reasons(plan(shelf, {"keep": {"days": 14}}, days=15)) == {"old-image": "delete, rule 1: older than 14 days"}


def test_a_tag_of_the_last_hour_stays(shelf: Shelf) -> None:
    for tag in ("old", "first", "second"):
        shelf.now += datetime.timedelta(hours=1 if tag == "first" else 0)
        shelf.push(tag, shelf.image(shelf.layer(tag, 1)))

    found = plan(shelf, {"keep": {"newest": 1}}, days=0.02)

    assert reasons(found) == {
        "second": "keep, younger than an hour",
        "first": "keep, younger than an hour",
        "old": "delete, rule 1: not among the newest 1",
    }


def test_a_manifest_of_the_last_hour_stays_without_a_tag(shelf: Shelf) -> None:
    first, second, _ = three_pushes(shelf)

    found = plan(shelf, overwritten={"newest": 1}, days=0.02)

    assert manifests(found)[first] == "keep, younger than an hour"
    assert {one.digest for one in found.manifests} == {first, second}
    assert found.deleted_manifests == []


def test_overwritten_decides_about_what_a_tag_pointed_to_before(shelf: Shelf) -> None:
    first, second, _ = three_pushes(shelf)

    assert set(manifests(plan(shelf)).values()) == {"keep, before at latest: no rule"}
    assert manifests(plan(shelf, overwritten={"newest": 1})) == {
        first: "delete, before at latest",
        second: "keep, before at latest: newest 1",
    }
    assert set(manifests(plan(shelf, days=5, overwritten={"days": 6})).values()) == {
        "keep, before at latest: overwritten within 6 days"
    }


def test_the_days_of_overwritten_begin_when_the_tag_moves_on(shelf: Shelf) -> None:
    for _ in range(3):
        last = shelf.now
        shelf.push("prod", shelf.image(shelf.layer(str(last), 1)))
        shelf.now += datetime.timedelta(days=60)
    shelf.now = last
    oldest, newest = sorted(shelf.pushed[NAME], key=lambda digest: shelf.pushed[NAME][digest])[:2]

    found = plan(shelf, days=5, overwritten={"days": 30})

    assert manifests(found) == {
        oldest: "delete, before at prod",
        newest: "keep, before at prod: overwritten within 30 days",
    }


def test_former_manifests_go_with_their_tag(shelf: Shelf) -> None:
    digests = three_pushes(shelf)

    found = plan(shelf, {"keep": {"days": 14}}, overwritten={"newest": 3})

    assert {one.digest for one in found.deleted_manifests} == set(digests)
    assert found.freed == found.bytes - found.unused


def test_a_manifest_that_never_had_a_tag_stays_until_the_days_of_overwritten(shelf: Shelf) -> None:
    shelf.image()

    for settings in ({}, {"overwritten": {"newest": 1}}, {"overwritten": {"days": 101}}):
        assert plan(shelf, **settings).deleted_manifests == []
    assert len(plan(shelf, overwritten={"days": 99}).deleted_manifests) == 1


def test_a_running_image_keeps_its_tags_and_its_manifest_without_a_tag(shelf: Shelf) -> None:
    first, *_, last = three_pushes(shelf)

    found = plan(
        shelf,
        {"keep": {"days": 1}},
        overwritten={"days": 1},
        running={first: "runs on web-1: app", last: "exited on web-2: app"},
    )

    assert reasons(found) == {"latest": "keep, exited on web-2: app"}
    assert manifests(found)[first] == "keep, runs on web-1: app"


def test_an_index_stays_with_all_images_if_one_of_them_runs(shelf: Shelf) -> None:
    images = [shelf.image(platform=f"linux/{name}") for name in ("amd64", "arm64")]
    shelf.push("v1", shelf.index(*images))

    found = plan(shelf, {"keep": {"days": 1}}, running={images[0]["digest"]: "runs on web-1: app"})

    assert reasons(found) == {"v1": "keep, runs on web-1: app"}
    assert found.deleted_manifests == []


def test_an_index_is_deleted_before_its_images(shelf: Shelf) -> None:
    images = [shelf.image(platform=f"linux/{name}") for name in ("amd64", "arm64")]
    inner = shelf.index(*images)
    index = shelf.index(inner, images[0])
    shelf.push("v1", index)

    order = [one.digest for one in plan(shelf, {"keep": {"days": 1}}).deleted_manifests]

    assert order[:2] == [index["digest"], inner["digest"]]
    assert set(order[2:]) == {one["digest"] for one in images}


def test_a_tag_goes_while_its_manifest_stays_in_an_index(shelf: Shelf) -> None:
    image = shelf.image()
    shelf.push("v1-amd64", image)
    shelf.push("v1", shelf.index(image))

    found = plan(shelf, {"tags": "*-*", "keep": {"days": 1}})

    assert [one.tag for one in found.deleted_tags] == ["v1-amd64"]
    assert found.deleted_manifests == []
    assert found.freed == 0


def test_signatures_stay_with_their_image_and_go_with_it(shelf: Shelf) -> None:
    (old,) = push_daily(shelf, "old")
    (new,) = push_daily(shelf, "new")
    for digest in (old, new):
        shelf.push(f"sha256-{digest[7:]}.sig", shelf.image(shelf.layer(f"signature of {digest}", 1)))
    config = shelf.document({}, "application/vnd.oci.empty.v1+json")
    value = {"mediaType": MANIFEST, "config": config, "subject": {"digest": new}}
    referrer = shelf.revision(value)["digest"]

    found = plan(shelf, {"keep": {"newest": 1}}, overwritten={"days": 1})

    assert reasons(found) == {
        "new": "keep, rule 1: newest 1",
        "old": "delete, rule 1: not among the newest 1",
        f"sha256-{new[7:]}.sig": f"keep, describes {new[7:19]}",
        f"sha256-{old[7:]}.sig": f"delete, describes {old[7:19]}, which goes",
    }
    assert manifests(found)[referrer] == f"keep, describes {new[7:19]}"


def test_a_signature_that_a_rule_always_keeps_stays_without_its_image(shelf: Shelf) -> None:
    (image,) = push_daily(shelf, "old", name="app")
    tag = f"sha256-{image[7:]}.sig"
    shelf.push(tag, shelf.image(name="signatures"), "signatures")

    found = plan(shelf, {"repositories": "signatures", "keep": "always"}, {"keep": {"days": 1}})

    assert reasons(found) == {"old": "delete, rule 2: older than 1 day", tag: "keep, rule 1: *"}


def test_a_signature_of_an_image_elsewhere_stays(shelf: Shelf) -> None:
    shelf.push(f"sha256-{'0' * 64}.sig", shelf.image())
    (image,) = push_daily(shelf, "v1", name="other")
    shelf.push(f"sha256-{image[7:]}.sig", shelf.image())

    found = plan(shelf, {"repositories": NAME, "keep": {"days": 1}})

    assert found.deleted_tags == []


def test_a_damaged_manifest_or_link_keeps_what_may_depend_on_it(shelf: Shelf) -> None:
    first, second, third = three_pushes(shelf)
    shelf.documents[third] = b"not JSON"

    found = manifests(plan(shelf, overwritten={"newest": 1}))

    assert found[first] == f"keep, {third[7:19]} cannot be read and may need it"
    assert found[second].startswith("keep")


def test_a_manifest_with_a_damaged_link_is_left_alone_with_what_it_needs(shelf: Shelf) -> None:
    child, other = (shelf.image(shelf.layer(text, 10)) for text in ("child", "other"))
    index = shelf.push("v1", shelf.index(child))
    shelf.push("v2", other)
    shelf.damaged[NAME] = frozenset({index})

    found = plan(shelf, {"keep": {"days": 1}}, overwritten={"days": 1})

    assert reasons(found) == {"v1": "delete, rule 1: older than 1 day", "v2": "delete, rule 1: older than 1 day"}
    assert manifests(found) == {
        other["digest"]: "delete, had only tags that go: v2",
        child["digest"]: f"keep, {index[7:19]} cannot be read and may need it",
    }


def test_a_tag_with_a_damaged_link_keeps_all_that_it_pointed_to(shelf: Shelf) -> None:
    three_pushes(shelf)
    links = shelf.tags[NAME]["latest"]
    shelf.tags[NAME]["latest"] = TagLinks(current=None, moved=links.moved, pushed=links.pushed)

    found = plan(shelf, {"keep": {"days": 1}}, overwritten={"days": 1})

    assert reasons(found) == {"latest": "keep, the link of the tag is damaged"}
    assert found.deleted_manifests == []


def test_a_referrer_with_a_tag_keeps_the_image_that_it_describes(shelf: Shelf) -> None:
    (image,) = push_daily(shelf, "v1")
    config = shelf.document({}, "application/vnd.oci.empty.v1+json")
    shelf.push("sbom", shelf.revision({"mediaType": MANIFEST, "config": config, "subject": {"digest": image}}))

    found = plan(shelf, {"tags": "v*", "keep": {"days": 1}}, overwritten={"days": 1})

    assert [one.tag for one in found.deleted_tags] == ["v1"]
    assert found.deleted_manifests == []


def test_bytes_count_each_blob_once_and_only_if_nothing_else_needs_it(shelf: Shelf) -> None:
    base, own = shelf.layer("base", 10_000), shelf.layer("own", 500)
    shelf.push("kept", shelf.image(base))
    for tag in ("pr-1", "pr-2"):
        shelf.push(tag, shelf.image(base, own, platform=f"linux/{tag}"))
    elsewhere = shelf.image(base, shelf.layer("unused", 70), name="other", platform="linux/arm64")["digest"]
    shelf.revisions["other"].remove(elsewhere)

    found = plan(shelf, {"tags": "pr-*", "keep": {"days": 1}})

    documents = found.freed - 500
    assert 500 < found.freed < 3000
    assert [one.frees for one in found.deleted_tags] == [500 + documents // 2] * 2
    assert found.unused == 70 + sum(shelf.blobs[one] for one in (elsewhere, config_of(shelf, elsewhere)))


def config_of(shelf: Shelf, digest: str) -> str:
    return str(json.loads(shelf.documents[digest])["config"]["digest"])


@pytest.mark.parametrize(
    ("most", "excess"),
    [("74%", "the plan deletes 75% of all tags, and registry.retention.most is 74%"), ("75%", None), ("100%", None)],
)
def test_a_plan_above_the_limit_says_so(shelf: Shelf, most: str, excess: str | None) -> None:
    push_daily(shelf, "1", "2", "3", "4")

    assert plan(shelf, {"keep": {"newest": 1}}, most=most).excess == excess


def test_a_plan_of_many_bytes_is_above_the_limit_too(shelf: Shelf) -> None:
    for tag, size in (("1", 10_000), ("2", 1), ("3", 1), ("4", 1)):
        shelf.push(tag, shelf.image(shelf.layer(tag, size)))

    assert "% of all bytes" in str(plan(shelf, {"tags": "1", "keep": {"days": 1}}).excess)


# What runs


def container(image: str, *digests: str, name: str = "app", **more: Any) -> Container:
    values = {"host": HOST, "state": "running", "service": "shop/app"} | more
    return Container(name=name, image=image, digests=frozenset(digests), **values)


def test_containers_are_found_by_digest_and_by_image_id(shelf: Shelf) -> None:
    first, second, third = three_pushes(shelf)
    known_as = Graph(shelf.store).known_as
    found = in_use(
        known_as,
        [container("sha256:1", first), container(config_of(shelf, second), state="exited"), container(third)],
        Memory(),
        [],
    )

    assert found == {first: "runs on web-1: app", second: "exited on web-1: app", third: "runs on web-1: app"}


def test_an_image_with_the_name_of_the_registry_that_it_does_not_have_is_reported(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    known_as = Graph(shelf.store).known_as
    names = frozenset({"registry.example.com/app:1", "sha256:1"})
    strange = container("sha256:1", "sha256:2", names=names)
    others = [
        container("sha256:1", first, names=names),
        container("sha256:1", names=frozenset({"docker.io/library/postgres:17", "registry.example.com.evil/app:1"})),
    ]

    found = unmapped(known_as, [strange, *others], ["registry.example.com"])

    assert found == [(strange, "registry.example.com/app:1")]


def test_the_last_three_images_of_a_service_are_remembered(shelf: Shelf) -> None:
    images = [shelf.push("latest", shelf.image(shelf.layer(str(number), 1))) for number in range(5)]
    known_as, memory = Graph(shelf.store).known_as, Memory()
    for digest in [*images, images[3]]:
        memory = remembered(memory, known_as, [container(f"sha256:id-{digest}", digest)], shelf.now, [HOST])

    kept = [image.digests[0] for image in memory.services[HOST]["shop/app"].images]

    assert kept == [images[3], images[4], images[2]]
    assert set(in_use(known_as, [], memory, [HOST])) == set(kept)
    assert in_use(known_as, [], memory, []) == {}
    assert Memory.model_validate_json(memory.model_dump_json()) == memory


def test_a_service_without_a_container_is_forgotten_after_a_month(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    known_as = Graph(shelf.store).known_as
    memory = remembered(Memory(), known_as, [container("sha256:1", first)], shelf.now, [HOST])

    first_time = shelf.now + 2 * FORGOTTEN_AFTER
    shortly = remembered(memory, known_as, [], first_time, [HOST])
    again = remembered(shortly, known_as, [], first_time + FORGOTTEN_AFTER / 2, [HOST])
    later = remembered(again, known_as, [], first_time + FORGOTTEN_AFTER, [HOST])

    assert set(in_use(known_as, [], shortly, [HOST])) == {first}, "a service may have gone a minute ago"
    assert again == shortly
    assert later.services == {}


def test_a_service_of_a_host_that_does_not_answer_is_never_forgotten(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    known_as = Graph(shelf.store).known_as
    memory = remembered(Memory(), known_as, [container("sha256:1", first)], shelf.now, [HOST])

    for month in range(3):
        memory = remembered(memory, known_as, [], shelf.now + month * FORGOTTEN_AFTER, [])

    assert set(in_use(known_as, [], memory, [HOST])) == {first}


def test_a_service_keeps_its_former_images_if_plans_are_two_months_apart(shelf: Shelf) -> None:
    images, memory = three_pushes(shelf), Memory()
    known_as = Graph(shelf.store).known_as
    for month, digest in enumerate(images):
        now = shelf.now + 2 * month * FORGOTTEN_AFTER
        memory = remembered(memory, known_as, [container(f"sha256:id-{digest}", digest)], now, [HOST])

    assert set(in_use(known_as, [], memory, [HOST])) == set(images)


def test_images_of_other_registries_are_not_remembered(shelf: Shelf) -> None:
    three_pushes(shelf)

    assert remembered(Memory(), Graph(shelf.store).known_as, [container("sha256:1")], shelf.now, [HOST]) == Memory()


# Globs


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("v*", "v1.2", True), ("v*", "av1", False), ("v?", "v1", True), ("v?", "v10", False), ("*", "", True),
        ("a.b", "axb", False), ("team-a/*", "team-a/x/y", True), ("team-a/*", "team-a", False), ("V*", "v1", False),
        ("20??-??-??*", "2026-11-29.1", True),
    ],
)  # fmt: skip
def test_a_glob_matches_whole_names(pattern: str, name: str, does: bool) -> None:
    assert matches([pattern], name) is does


def test_a_glob_with_many_stars_is_quick_for_a_name_that_almost_matches() -> None:
    began = time.process_time()

    assert not matches(["*-*-*-*-*-*x"], f"a{'-' * 127}")
    assert time.process_time() - began < 1


@given(st.lists(PATTERN, max_size=3), PATTERN)
def test_patterns_cover_another_exactly_if_no_name_matches_it_alone(patterns: list[str], pattern: str) -> None:
    words = [""]
    for _ in range(6):
        words += [word + letter for word in words if len(word) == len(words[-1]) for letter in "abc"]
    words = list(dict.fromkeys(words))
    alone = [word for word in words if matches([pattern], word) and not matches(patterns, word)]

    assert covers(patterns, pattern) is not bool(alone)


def test_patterns_that_take_too_long_to_compare_are_not_called_covered() -> None:
    assert covers([f"*a{'?' * 25}", "*"], "v*")
    assert not covers([f"*a{'?' * 25}", f"*b{'?' * 25}"], "*")


def with_rules(*rules: Any) -> dict[str, Any]:
    return configuration(registry=configuration()["registry"] | {"retention": {"rules": list(rules)}})


def test_a_rule_behind_narrower_rules_is_accepted() -> None:
    loaded(
        with_rules({"repositories": "a", "keep": "always"}, {"tags": "v*", "keep": "always"}, {"keep": {"newest": 1}})
    )


# The plan for people and programs


@pytest.fixture
def example(shelf: Shelf) -> Plan:
    push_daily(shelf, "v1", "latest", "pr-1", "pr-2", "latest")
    return plan(
        shelf,
        {"tags": "v*", "keep": "always"},
        {"tags": "pr-*", "keep": {"days": 14}},
        overwritten={"newest": 1},
        most="40%",
    )


def test_the_plan_as_markdown_is_the_golden_one(example: Plan, request: pytest.FixtureRequest) -> None:
    text = markdown(example, "Retention of registry.example.com")
    if request.config.getoption("--rewrite-golden"):
        GOLDEN.write_text(text)

    assert text == GOLDEN.read_text()


def test_a_long_plan_fits_into_a_comment_below_a_preview(shelf: Shelf) -> None:
    push_daily(shelf, *(f"pr-{number}-{'x' * 100}" for number in range(600)))

    text = markdown(plan(shelf, {"keep": {"newest": 1}}), "Retention")

    assert len(text) < 5_000
    assert re.search(r"… and \d+ more\. The plan file has all of them\.", text)


def test_the_table_has_each_tag_with_its_reason(example: Plan) -> None:
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(plan_table(example))
    rows = capture.get().splitlines()

    assert any(re.search(r"pr-1 .* delete +rule 2: older than 14 days +1\.5 kB", row) for row in rows)
    assert any(re.search(r"v1 .* keep +rule 1: v\*", row) for row in rows)
    assert summary(example).startswith("deletes 2 of 4 tags and 2 manifests, frees 3.0 kB of ")


def test_the_json_form_is_the_documented_one(example: Plan) -> None:
    section = (ROOT / "docs/retention.md").read_text().partition("\n## JSON\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.+) \|$", section, re.MULTILINE)
    documented = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    form = json.loads(example.model_dump_json())

    assert documented == form.keys()
    for key in ("tags", "manifests"):
        meaning = next(text for names, text in rows if names == f"`{key}`")
        assert set(re.findall(r"`(\w+)`", meaning)) == form[key][0].keys()
    assert Plan.model_validate_json(example.model_dump_json()) == example


def test_the_documented_examples_are_accepted_and_the_table_has_every_key() -> None:
    page = (ROOT / "docs/retention.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for block in blocks[1:]:
        loaded(with_rules(*yaml.safe_load(block)))
    keys = set(
        re.findall(r"^\| `([\w.\[\]]+)` \| (?:`|required|all)", page.partition("## What always")[0], re.MULTILINE)
    )

    assert len(blocks) == 4
    assert keys >= {"rules", "rules[].repositories", "rules[].tags", "rules[].keep"}
    assert keys - {key for key in keys if "[]" in key} == set(RetentionSettings.model_fields)
