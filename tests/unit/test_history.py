"""The record of versions, made from the content of a registry's store: versions, sizes, labels, where they run."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from typing import Any

import pytest
from rich.console import Console

from operations.history.content import size_of_all
from operations.history.presentation import repositories_json, sources, versions_json, versions_table
from operations.history.record import repositories, tags
from operations.history.running import Container
from operations.history.store import TagLinks
from tests.harness.configuration import ROOT
from tests.harness.shelf import MANIFEST, NAME, START, Shelf, digest_of, three_pushes

LABELS = {
    "org.opencontainers.image.revision": "4f2c9d1",
    "org.opencontainers.image.source": "https://git.example.com/a",
}


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_the_versions_of_a_tag_are_listed_newest_first(shelf: Shelf) -> None:
    first, second, third = three_pushes(shelf)

    versions = shelf.versions("latest")

    assert [version.digest for version in versions] == [third, second, first]
    assert [version.pushed for version in versions] == [START + datetime.timedelta(seconds=age) for age in (3, 2, 1)]


def test_a_digest_that_was_pushed_again_is_the_current_version_and_no_earlier_one(shelf: Shelf) -> None:
    first, second, third = three_pushes(shelf)
    shelf.push("latest", {"digest": first})

    assert [version.digest for version in shelf.versions("latest")] == [first, third, second]


def test_the_current_version_comes_first_even_if_a_copy_of_the_data_lost_the_times(shelf: Shelf) -> None:
    digests = three_pushes(shelf)
    shelf.tags[NAME]["latest"] = TagLinks(current=digests[0], moved=START, pushed=dict.fromkeys(digests, START))

    assert shelf.versions("latest")[0].digest == digests[0]


def test_tags_are_listed_by_their_last_push_with_the_other_tags_of_their_digest(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    shelf.push("v1", {"digest": first})
    shelf.push("stable", {"digest": first})

    found = tags(shelf.store, NAME)

    assert [tag.name for tag in found] == ["stable", "v1", "latest"]
    assert found[0].versions[0].other_tags == ("v1",)
    assert [version.other_tags for version in found[2].versions] == [(), (), ("stable", "v1")]


def test_a_deleted_manifest_stays_in_the_record(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    shelf.revisions[NAME].remove(first)

    version = shelf.versions("latest")[-1]

    assert (version.digest, version.state, version.size) == (first, "deleted", None)
    assert not version.can_be_pulled


def test_a_tag_with_a_damaged_link_keeps_its_earlier_versions(shelf: Shelf) -> None:
    digests = three_pushes(shelf)
    shelf.tags[NAME]["latest"] = dataclasses.replace(shelf.tags[NAME]["latest"], current=None)

    versions = shelf.versions("latest")

    assert [version.digest for version in versions] == [None, *reversed(digests)]
    assert [version.state for version in versions] == ["damaged", "complete", "complete", "complete"]


def test_size_counts_configuration_layers_and_manifest(shelf: Shelf) -> None:
    base, own = shelf.layer("base", 5000), shelf.layer("own", 200)
    image = shelf.image(base, own, base)
    shelf.push("latest", image)
    config = json.loads(shelf.documents[image["digest"]])["config"]

    assert shelf.versions("latest")[0].size == 5200 + config["size"] + image["size"]


def test_an_index_counts_shared_layers_once_and_lists_its_platforms_without_attestations(shelf: Shelf) -> None:
    base = shelf.layer("base", 1_000_000)
    amd64, arm = shelf.image(base), shelf.image(base, platform="linux/arm/v7")
    proof = shelf.image(shelf.layer("provenance", 10), platform="unknown/unknown")
    entries = [
        amd64 | {"platform": {"os": "linux", "architecture": "amd64"}},
        arm,
        proof | {"platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    shelf.push("latest", shelf.index(*entries))

    version = shelf.versions("latest")[0]

    assert version.platforms == ("linux/amd64", "linux/arm/v7")
    assert version.size
    assert 1_000_000 < version.size < 1_010_000
    assert version.state == "complete"


def test_labels_come_from_the_image_and_otherwise_from_the_annotations_of_the_index(shelf: Shelf) -> None:
    labels = LABELS | {"org.opencontainers.image.version": "1.2", "org.opencontainers.image.created": "2026-11-29"}
    shelf.push("labels", shelf.image(config={"Labels": labels}, created="2020-01-01"))
    shelf.push("annotations", shelf.index(shelf.image(), annotations=LABELS))
    shelf.push("none", shelf.image(created="2020-01-01", config={}))

    (labelled,), (annotated,), (plain,) = (shelf.versions(tag) for tag in ("labels", "annotations", "none"))

    assert (labelled.revision, labelled.version, labelled.created) == ("4f2c9d1", "1.2", "2026-11-29")
    assert (annotated.revision, annotated.source) == ("4f2c9d1", "https://git.example.com/a")
    assert (plain.revision, plain.created) == (None, "2020-01-01")


def test_annotations_of_an_image_below_an_index_count_and_empty_labels_do_not(shelf: Shelf) -> None:
    """`docker buildx build --annotation` annotates the image, not the index. A build argument may be empty."""
    image = shelf.image(config={"Labels": dict.fromkeys(LABELS, "")})
    described = shelf.revision(json.loads(shelf.documents[image["digest"]]) | {"annotations": LABELS})
    proof = shelf.revision(json.loads(shelf.documents[image["digest"]]) | {"annotations": dict.fromkeys(LABELS, "no")})
    platform = {"os": "unknown", "architecture": "unknown"}
    shelf.push("below", shelf.index(proof | {"platform": platform}, described))
    shelf.push("empty", image)

    (below,), (empty,) = shelf.versions("below"), shelf.versions("empty")

    assert (below.revision, below.source) == ("4f2c9d1", "https://git.example.com/a")
    assert (empty.revision, empty.source) == (None, None)


def test_null_for_the_value_of_a_label_or_an_annotation_is_no_damage(shelf: Shelf) -> None:
    """distribution accepts null in annotations, and clients read null as an empty text."""
    shelf.push("annotations", shelf.index(shelf.image(), annotations=LABELS | {"empty": None}))
    shelf.push("labels", shelf.image(config={"Labels": LABELS | {"empty": None}}))

    for tag in ("annotations", "labels"):
        (version,) = shelf.versions(tag)
        assert (version.state, version.revision) == ("complete", "4f2c9d1")
        assert version.platforms == ("linux/amd64",)


def test_missing_parts_are_named(shelf: Shelf) -> None:
    lost, kept = shelf.layer("lost", 100), shelf.layer("kept", 50)
    del shelf.blobs[lost["digest"]]
    shelf.push("layer", shelf.image(lost, kept))
    child, absent = shelf.image(kept), {"mediaType": MANIFEST, "digest": digest_of(b"absent"), "size": 1}
    shelf.push("index", shelf.index(child, absent))
    gone = shelf.push("manifest", shelf.image(shelf.layer("else", 1)))
    del shelf.blobs[gone], shelf.documents[gone]

    (layer,), (index,), (manifest,) = (shelf.versions(tag) for tag in ("layer", "index", "manifest"))

    assert (layer.state, layer.missing) == ("incomplete", (lost["digest"],))
    assert (index.state, index.missing) == ("incomplete", (absent["digest"],))
    assert (manifest.state, manifest.missing) == ("incomplete", (gone,))
    assert [version.can_be_pulled for version in (layer, index, manifest)] == [True, True, False]


def test_a_manifest_of_another_repository_is_missing(shelf: Shelf) -> None:
    child = shelf.image(name="elsewhere")
    shelf.push("latest", shelf.index(child))

    assert shelf.versions("latest")[0].missing == (child["digest"],)


def test_layers_of_windows_that_lie_elsewhere_are_not_missing(shelf: Shelf) -> None:
    foreign = shelf.layer("windows", 100, urls=["https://mcr.microsoft.com/layer"])
    del shelf.blobs[foreign["digest"]]
    shelf.push("latest", shelf.image(foreign, platform="windows/amd64"))

    assert shelf.versions("latest")[0].state == "complete"


@pytest.mark.parametrize("content", [b"", b"\0\1", b"[]", b'{"layers": 7}', b'{"layers": [{"digest": null}]}'])
def test_a_damaged_manifest_spoils_no_other_version(shelf: Shelf, content: bytes) -> None:
    first, *_ = three_pushes(shelf)
    shelf.documents[first] = content

    assert [version.state for version in shelf.versions("latest")] == ["complete", "complete", "damaged"]


@pytest.mark.parametrize("text", [b"null", b'"\\ud83d"', b'"\\ud83d\\ude00 \\\\ud83d"'])
def test_a_careless_annotation_damages_no_version(shelf: Shelf, text: bytes) -> None:
    digest = shelf.push("latest", shelf.index(annotations={"note": "NOTE", "org.opencontainers.image.version": "7"}))
    shelf.documents[digest] = shelf.documents[digest].replace(b'"NOTE"', text)

    assert [(one.state, one.version) for one in shelf.versions("latest")] == [("complete", "7")]


def test_artifacts_and_caches_of_unknown_kinds_have_a_size_and_no_platform(shelf: Shelf) -> None:
    config = shelf.document({"name": "chart"}, "application/vnd.cncf.helm.config.v1+json")
    shelf.push("chart", shelf.revision({"mediaType": MANIFEST, "config": config, "layers": [shelf.layer("tgz", 70)]}))
    cache = [shelf.layer("cached", 1000), shelf.document({}, "application/vnd.buildkit.cacheconfig.v0")]
    shelf.push("cache", shelf.index(*cache))
    binary = {"mediaType": "application/x-unknown", "digest": shelf.layer("model", 30)["digest"], "size": 30}
    shelf.documents[binary["digest"]] = b"\0not JSON"
    shelf.push("model", shelf.revision({"mediaType": MANIFEST, "config": binary, "layers": None}))

    found = {tag.name: tag.versions[0] for tag in tags(shelf.store, NAME)}

    assert {version.state for version in found.values()} == {"complete"}
    assert {version.platforms for version in found.values()} == {()}
    assert all(
        version.size and version.size > size for version, size in zip(found.values(), (30, 1000, 70), strict=True)
    )


def test_a_chain_of_thousands_of_indexes_is_read(shelf: Shelf) -> None:
    link = shelf.image(shelf.layer("end", 12345))
    for _ in range(3000):
        link = shelf.index(link)
    shelf.push("latest", link)

    version = shelf.versions("latest")[0]

    assert version.state == "complete"
    assert version.platforms == ("linux/amd64",)


def test_repositories_are_listed_by_their_last_push_and_the_empty_ones_last(shelf: Shelf) -> None:
    base = shelf.layer("base", 1000)
    for number, name in enumerate(("first", "second")):
        for tag in ("1", "2"):
            shelf.push(tag, shelf.image(base, shelf.layer(f"{name}", 10), name=name), name)
        untagged = shelf.image(base, shelf.layer(f"untagged {number}", 500), name=name)
        assert untagged["digest"] in shelf.revisions[name]
    shelf.revisions["empty"] = set()

    found = repositories(shelf.store)

    assert [(one.name, one.newest_tag, one.tags) for one in found] == [
        ("second", "2", 2), ("first", "2", 2), ("empty", None, 0)
    ]  # fmt: skip
    assert found[2].size == 0
    assert 1510 < found[0].size < 3000, "the base counts once"
    assert found[0].size == size_of_all(shelf.store, "second")


def container(name: str, image: str, *digests: str, state: str = "running") -> Container:
    return Container(host="ssh://deploy@web-1:2222", name=name, state=state, image=image, digests=frozenset(digests))


def test_a_container_runs_the_version_under_whose_digest_its_image_was_pulled(shelf: Shelf) -> None:
    first, _, third = three_pushes(shelf)
    found = [container("new", "sha256:0", third), container("old", "sha256:1", first, state="exited")]

    versions = shelf.versions("latest", found)

    assert [[one.name for one in version.running] for version in versions] == [["new"], [], ["old"]]
    assert str(versions[2].running[0]) == "web-1:2222: old (exited)"


def test_the_image_id_of_either_image_store_is_recognized(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("one", 1))
    index = shelf.index(image)
    shelf.push("latest", index)
    config = json.loads(shelf.documents[image["digest"]])["config"]["digest"]
    names = {"classic": config, "containerd": index["digest"], "platform": image["digest"], "other": "sha256:9"}

    version, *_ = shelf.versions("latest", [container(name, digest) for name, digest in names.items()])

    assert [one.name for one in version.running] == ["classic", "containerd", "platform"]


def test_of_two_indexes_with_the_same_image_the_pulled_one_runs(shelf: Shelf) -> None:
    image = shelf.image(shelf.layer("one", 1))
    for build in ("1", "2"):
        shelf.push("latest", shelf.index(image, annotations={"build": build}))
    newer, older = (str(version.digest) for version in shelf.versions("latest"))
    config = json.loads(shelf.documents[image["digest"]])["config"]["digest"]
    found = [container("exact", config, older), container("unclear", config)]

    running = {version.digest: [one.name for one in version.running] for version in shelf.versions("latest", found)}

    assert running == {newer: ["unclear"], older: ["exact", "unclear"]}


def test_a_container_of_a_deleted_version_is_shown(shelf: Shelf) -> None:
    first, *_ = three_pushes(shelf)
    shelf.revisions[NAME].remove(first)

    version = shelf.versions("latest", [container("old", "sha256:1", first)])[-1]

    assert (version.state, [one.name for one in version.running]) == ("deleted", ["old"])


def printed(table: Any) -> str:
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_table_has_a_row_for_each_version_and_only_columns_with_content(shelf: Shelf) -> None:
    three_pushes(shelf)
    head, *rows = printed(versions_table(tags(shelf.store, NAME))).splitlines()

    assert re.split("  +", head.strip()) == ["Tag", "Back", "Pushed (UTC)", "Digest", "Size", "Platforms"]
    assert [row.split()[-7:-4] for row in rows] == [[str(n), "2026-11-29", f"10:00:0{3 - n}"] for n in range(3)]
    assert [row.startswith("latest") for row in rows] == [True, False, False]


def test_the_table_tells_states_other_than_complete(shelf: Shelf) -> None:
    first, second, _ = three_pushes(shelf)
    shelf.revisions[NAME].remove(first)
    del shelf.blobs[json.loads(shelf.documents[second])["layers"][0]["digest"]]

    text = printed(versions_table(tags(shelf.store, NAME)))

    assert "complete" not in text
    assert [re.search("1 missing|deleted", row) is not None for row in text.splitlines()] == [False, False, True, True]


def test_labels_cannot_control_the_terminal(shelf: Shelf) -> None:
    evil = {"org.opencontainers.image.source": "\x1b[2J\x07[red]x[/red]\n" + "y" * 10_000}
    shelf.push("latest", shelf.image(config={"Labels": evil}))

    shelf.push("other", shelf.image(config={"Labels": {"org.opencontainers.image.revision": "\x1b[1m"}}))

    found = tags(shelf.store, NAME)
    text = printed(versions_table(found)) + sources(found)

    assert "[2J[red]x[/red]yyy" in text
    assert " [1m " in text
    assert not re.search(r"[^ -~\n]", text)
    assert len(text) < 2000


def documented(heading: str) -> Any:
    """The example of JSON below a heading of docs/history.md, and the fields in its table."""
    section = (ROOT / "docs/history.md").read_text().partition(f"### {heading}\n")[2].partition("\n### ")[0]
    match = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert match
    fields = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE)
    return json.loads(match[1]), {name for names in fields for name in re.findall(r"`(\w+)`", names)}


def shape(value: Any) -> Any:
    """The keys of a JSON value, with those of the first element of each list."""
    match value:
        case dict():
            return {key: shape(item) for key, item in value.items()}
        case list():
            return [shape(item) for item in value[:1] if not isinstance(item, str)]
    return None


def keys(value: Any) -> set[str]:
    match value:
        case dict():
            return set(value).union(*map(keys, value.values()))
        case list():
            return set().union(*map(keys, value))
    return set()


def test_the_json_forms_are_the_documented_ones(shelf: Shelf) -> None:
    digest = shelf.push("latest", shelf.image(shelf.layer("a", 1)))
    found = tags(shelf.store, NAME, [container("web", "sha256:1", digest)])
    forms = {
        "All repositories": repositories_json("r.example.com", repositories(shelf.store)),
        "One repository": versions_json("r.example.com", NAME, 10, ["ssh://deploy@web-1"], found),
    }

    for heading, form in forms.items():
        example, fields = documented(heading)
        assert shape(form) == shape(example)
        assert fields == keys(example)


def test_times_in_json_are_utc_with_microseconds(shelf: Shelf) -> None:
    shelf.now += datetime.timedelta(microseconds=5)
    shelf.push("latest", shelf.image())
    form = versions_json("r", NAME, 0, [], tags(shelf.store, NAME))

    assert form["tags"][0]["versions"][0]["pushed"] == "2026-11-29T10:00:01.000005Z"
