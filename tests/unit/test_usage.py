"""Sizes of repositories and tags, their growth, and the page with plots."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from components.configuration.retention import RetentionSettings
from operations.__main__ import command_line
from operations.history.store import Store
from operations.manifests import Manifest
from operations.retention.graph import Graph
from operations.retention.planner import Question
from operations.stack import StackConfig
from operations.usage import commands
from operations.usage.growth import Growth, Run, growth
from operations.usage.page import bars, curve, page, round_up
from operations.usage.sizes import Repository, Tag, usage
from tests.harness.shelf import NAME, START, Shelf

OTHER = "my-app/frontend"
NOW = START + datetime.timedelta(days=1)
OUTPUTS = {
    "registry_url": "https://registry.example.com:5443",
    "docker_host": "ssh://deploy@registry.example.com",
    "services": {"reader": "reader-1"},
}


def found(shelf: Shelf, name: str = NAME) -> Repository:
    """The sizes of a repository."""
    return next(one for one in usage(shelf.store).repositories if one.name == name)


def tag(shelf: Shelf, name: str, repository: str = NAME) -> Tag:
    """The sizes of a tag."""
    return next(one for one in found(shelf, repository).tags if one.name == name)


def test_a_shared_layer_is_not_the_own_layer_of_a_tag() -> None:
    shelf = Shelf()
    base = shelf.layer("base", 1_000_000)
    for version in ("1", "2"):
        shelf.push(version, shelf.image(base, shelf.layer(f"app {version}", 1000), version=version))

    one, whole = tag(shelf, "1"), found(shelf)

    documents = one.own - 1000
    assert 0 < documents < 1000, "the manifest and the configuration"
    assert one.size == 1_000_000 + one.own
    assert whole.size == whole.own == 1_000_000 + one.own + tag(shelf, "2").own


def test_two_tags_of_one_image_have_its_own_bytes() -> None:
    shelf = Shelf()
    image = shelf.image(shelf.layer("a", 1000))
    for name in ("1", "latest"):
        shelf.push(name, image)

    assert tag(shelf, "1").own == tag(shelf, "latest").own == tag(shelf, "1").size == found(shelf).size


def test_the_same_image_in_two_repositories_is_shared() -> None:
    shelf = Shelf()
    for name in (NAME, OTHER):
        shelf.push("1", shelf.image(shelf.layer("a", 1000), name=name), name=name)

    assert [(one.own, one.size > 1000) for one in usage(shelf.store).repositories] == [(0, True), (0, True)]
    assert tag(shelf, "1").own == 0


def test_an_index_counts_with_all_platforms() -> None:
    shelf = Shelf()
    images = [shelf.image(shelf.layer(name, 1000), platform=name) for name in ("linux/amd64", "linux/arm64")]
    shelf.push("1", shelf.index(*images))

    assert tag(shelf, "1").size == found(shelf).size > 2000
    assert found(shelf).untagged == 0


def test_images_without_a_tag_are_counted_with_what_only_they_have() -> None:
    shelf = Shelf()
    base = shelf.layer("base", 1_000_000)
    for number in range(3):
        shelf.push("latest", shelf.image(base, shelf.layer(f"app {number}", 1000), number=number))

    whole = found(shelf)

    assert whole.untagged == 2
    assert 2000 < whole.untagged_own < 10_000
    assert whole.size == whole.untagged_own + tag(shelf, "latest").size


def test_blobs_that_no_image_needs_are_unused() -> None:
    shelf = Shelf()
    shelf.push("1", shelf.image(shelf.layer("a", 1000)))
    shelf.layer("left behind", 5000)

    everything = usage(shelf.store)

    assert everything.unused == 5000
    assert everything.size == 5000 + everything.repositories[0].size


def test_a_damaged_link_and_a_missing_part_do_not_stop_the_count() -> None:
    shelf = Shelf()
    lost = shelf.layer("lost", 1000)
    shelf.push("1", shelf.image(lost, shelf.layer("a", 50)))
    del shelf.blobs[lost["digest"]]
    shelf.push("2", shelf.image(shelf.layer("b", 70)))
    shelf.tags[NAME]["2"] = shelf.tags[NAME]["2"].__class__(current=None, moved=shelf.now, pushed={})
    broken = shelf.revision({"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": "text"})
    shelf.push("3", broken)

    assert 50 < tag(shelf, "1").size < 1000
    assert (tag(shelf, "2").digest, tag(shelf, "2").size) == (None, 0)
    assert tag(shelf, "3").size == broken["size"]


def test_an_empty_registry_has_no_size() -> None:
    everything = usage(Store(repositories={}, revisions={}, blobs={}, documents={}))

    assert (everything.size, everything.unused, everything.repositories) == (0, 0, ())
    assert "Usage of" in page("registry.example.com", NOW, everything, None, None)


@st.composite
def shelves(draw: st.DrawFn) -> Shelf:
    """A registry with arbitrary images, indexes and tags in two repositories, and with lost blobs."""
    shelf = Shelf()
    layers = [shelf.layer(str(number), 10**number) for number in range(5)]
    some = st.lists(st.sampled_from(layers), max_size=4, unique_by=lambda layer: layer["digest"])
    for name in (NAME, OTHER):
        images = [shelf.image(*one, name=name) for one in draw(st.lists(some, max_size=4))]
        if images:
            indexes = draw(st.lists(st.lists(st.sampled_from(images), max_size=3), max_size=2))
            images += [shelf.index(*entries, name=name) for entries in indexes]
            for label in draw(st.lists(st.sampled_from("abc"), max_size=5)):
                shelf.push(label, draw(st.sampled_from(images)), name=name)
    for layer in draw(st.lists(st.sampled_from(layers), max_size=2)):
        shelf.blobs.pop(layer["digest"], None)
    return shelf


def reachable(store: Store, without: tuple[str, str] | None) -> int:
    """The bytes that remain after the deletion of an image, by a walk over all others."""
    children = {
        (name, child.digest)
        for name, digests in store.revisions.items()
        for digest in digests
        for child in Manifest.model_validate_json(store.documents[digest]).children
    }
    tagged = {(name, link.current) for name, links in store.repositories.items() for link in links.values()}
    everything = {(name, digest) for name, digests in store.revisions.items() for digest in digests}
    waiting = [one for one in everything if one != without and (one not in children or one in tagged)]
    kept = set[str]()
    for name, digest in waiting:  # grows by the images of each index
        kept.add(digest)
        manifest = Manifest.model_validate_json(store.documents[digest])
        kept |= {blob.digest for blob in manifest.blobs}
        waiting += [(name, child.digest) for child in manifest.children]
    return sum(store.blobs.get(digest, 0) for digest in kept)


@given(shelves())
def test_own_bytes_are_what_the_deletion_of_an_image_frees(shelf: Shelf) -> None:
    store = shelf.store
    everything = usage(store)

    whole = reachable(store, None)
    assert everything.size - everything.unused == whole
    for one in (tag for repository in everything.repositories for tag in repository.tags):
        assert one.own == whole - reachable(store, (one.repository, str(one.digest)))
        assert 0 <= one.own <= one.size
    assert all(one.own <= one.size for one in everything.repositories)
    assert sum(size for _, size in everything.arrivals) == whole


def test_images_whose_tag_was_deleted_arrived_when_they_were_pushed() -> None:
    shelf = Shelf()
    for name in ("1", "2"):
        shelf.push(name, shelf.image(shelf.layer(name, 1000)))
    pushed = shelf.tags[NAME].pop("1").moved

    everything = usage(shelf.store)

    assert everything.arrivals[0][0] == pushed
    assert sum(size for _, size in everything.arrivals) == everything.size


def test_growth_counts_new_and_removed_repositories() -> None:
    shelf = Shelf()
    shelf.push("1", shelf.image(shelf.layer("a", 1000)))
    size = found(shelf).size
    last = Run(time=START, size=5000, repositories={"gone": 3000, NAME: size - 10})

    grown = growth(last, usage(shelf.store))

    assert grown == Growth(START, shelf_size(shelf) - 5000, {"gone": -3000, NAME: 10})


def shelf_size(shelf: Shelf) -> int:
    return sum(shelf.blobs.values())


Ask = Callable[..., Result]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """The command on a stack whose registry has the content of a shelf."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(OUTPUTS))
    monkeypatch.setattr(StackConfig, "retention", lambda _: None)

    def run(shelf: Shelf, *arguments: str) -> Result:
        monkeypatch.setattr(commands, "read_store", lambda *_, **__: shelf.store)
        return CliRunner().invoke(command_line(["usage"]), ["usage", *arguments])

    return run


def two_repositories() -> Shelf:
    """Two repositories that share a layer."""
    shelf = Shelf()
    base = shelf.layer("base", 2_000_000)
    for number in range(3):
        shelf.push(f"v{number}", shelf.image(base, shelf.layer(f"app {number}", 500_000), number=number))
    shelf.push("latest", shelf.image(base, name=OTHER), name=OTHER)
    return shelf


def test_tables_have_repositories_and_tags(ask: Ask) -> None:
    shown = ask(two_repositories())
    of_one = ask(two_repositories(), NAME)

    assert shown.exit_code == 0, shown.output
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.stdout.splitlines()]
    assert rows[0][0].startswith("registry.example.com:5443: 3.5 MB on the disk, 0 bytes of that in blobs")
    assert [NAME, "3", "3.5 MB", "1.5 MB", "2.0 MB"] in rows
    assert shown.stdout.index("most own bytes") < shown.stdout.index("pushed longest ago")
    assert [line.split()[0] for line in of_one.stdout.splitlines() if ":v" in line] == [
        f"{NAME}:v{number}" for number in (2, 1, 0)
    ]


def test_json_has_every_size_and_the_growth_since_the_last_run(ask: Ask) -> None:
    shelf = two_repositories()
    first = json.loads(ask(shelf, "--json").stdout)
    shelf.push("v3", shelf.image(shelf.layer("large", 9_000_000), number=3))
    second = json.loads(ask(shelf, "--json").stdout)

    assert first["growth"] is None
    assert second["growth"] == {"since": first["time"], "size": second["size"] - first["size"]}
    assert second["repositories"][0]["name"] == NAME
    assert second["repositories"][0]["growth"] == second["growth"]["size"] > 9_000_000
    assert second["repositories"][1]["growth"] == 0
    assert [one["name"] for one in second["repositories"][0]["tags"]] == ["v3", "v2", "v1", "v0"]
    assert second["repositories"][0]["tags"][0]["own"] == second["growth"]["size"]


@pytest.mark.parametrize("content", ["", "{}", "text", '{"time": "x"}'])
def test_a_damaged_record_of_the_last_run_is_replaced(ask: Ask, tmp_path: Path, content: str) -> None:
    record = tmp_path / "state" / "registry-stack" / "usage-registry.example.com-5443.json"
    record.parent.mkdir(parents=True)
    record.write_text(content)

    answer = ask(two_repositories(), "--json")

    assert answer.exit_code == 0
    assert "Note: the growth is unknown" in answer.stderr
    assert json.loads(ask(two_repositories(), "--json").stdout)["growth"]["size"] == 0


def test_without_a_writable_state_folder_the_sizes_are_shown(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    answer = ask(two_repositories())

    assert answer.exit_code == 0
    assert "cannot show the growth" in answer.stderr
    assert NAME in answer.stdout


def test_without_a_home_folder_the_sizes_are_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as in a container whose user has no entry

    answer = ask(two_repositories())

    assert answer.exit_code == 0, answer.output
    assert "the growth is unknown" in answer.stderr
    assert "XDG_STATE_HOME" in answer.stderr
    assert NAME in answer.stdout


RULES = RetentionSettings.model_validate(
    {"rules": [{"tags": ["v*"], "keep": {"newest": 1}}], "running_on": ["ssh://deploy@web-1"]}
)


def with_rules(monkeypatch: pytest.MonkeyPatch, shelf: Shelf, runs: str) -> None:
    """Let the stack have rules, and a host that runs a tag."""
    digest = str(shelf.tags[NAME][runs].current)

    def gather(*_: object) -> Question:
        return Question(
            graph=Graph(shelf.store),
            settings=RULES,
            running={digest: "runs on web-1"},
            now=shelf.now + datetime.timedelta(days=9),
            registry="registry.example.com:5443",
        )

    monkeypatch.setattr(StackConfig, "retention", lambda _: RULES)
    monkeypatch.setattr(commands, "gather", gather)


def test_with_rules_it_shows_what_they_would_free_and_the_oldest_tags_that_do_not_run(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shelf, file = two_repositories(), tmp_path / "usage.html"
    with_rules(monkeypatch, shelf, runs="v0")

    shown = ask(shelf, "--html", str(file)).stdout
    found = json.loads(ask(shelf, "--json").stdout)

    assert found["retention"]["tags"] == 1
    assert found["retention"]["freed"] == tag(shelf, "v1").own
    assert {one["name"]: one["runs"] for one in found["repositories"][0]["tags"]} == {
        "v0": True,
        "v1": False,
        "v2": False,
    }
    assert "; the rules of retention would free 50" in shown.splitlines()[0]
    assert f"{NAME}:v0" not in shown.partition("pushed longest ago and do not run")[2]
    assert "that the rules of retention would free" in Page(file.read_text()).texts


def test_a_host_that_does_not_answer_is_a_note(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(*_: object) -> Question:
        raise Failure("ssh://deploy@web-1 does not answer", "start it")

    monkeypatch.setattr(StackConfig, "retention", lambda _: RULES)
    monkeypatch.setattr(commands, "gather", gather)

    answer = ask(two_repositories(), "--json")

    assert answer.exit_code == 0
    assert "what the rules would free is unknown: ssh://deploy@web-1 does not answer" in answer.stderr
    assert json.loads(answer.stdout)["retention"] is None


def test_an_unknown_repository_is_refused_with_the_command_that_lists_all(ask: Ask) -> None:
    answer = ask(two_repositories(), "nothing")

    assert isinstance(answer.exception, Failure)
    assert answer.exception.fix.endswith("python -m operations usage")


class Page(HTMLParser):
    """The tags and attributes of a page; every opened tag is closed."""

    VOID = ("meta", "link", "line", "rect", "path", "br", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = (
            list[str](),
            list[tuple[str, Any]](),
            list[str](),
            list[str](),
        )
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_has_plots_and_needs_no_server(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "usage.html"

    answer = ask(two_repositories(), "--html", str(file))
    text = file.read_text()

    assert answer.exit_code == 0, answer.output
    read = Page(text)
    assert read.tags.count("svg") == 2 + 1 + 4, "repositories, arrivals and tags"
    assert {"script", "link", "img", "iframe", "form"}.isdisjoint(read.tags)
    assert "http:" not in text
    assert "https:" not in text
    assert not [name for name, _ in read.attributes if name in ("src", "href") or name.startswith("on")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes
    assert f"{NAME}:v0" in read.texts


def test_names_cannot_change_the_page() -> None:
    shelf, name = Shelf(), "</title><script>alert(1)</script>\"'><img src=x>"
    shelf.push(name, shelf.image(shelf.layer("a", 1), name=name), name=name)

    text = page(name, NOW, usage(shelf.store), Growth(START, 0, {name: 0}), None)

    read = Page(text)
    assert {"script", "img"}.isdisjoint(read.tags)
    assert f"{name}:{name}" in read.texts


def test_the_page_counts_one_and_several_in_words() -> None:
    shelf = Shelf()
    for number in range(2):
        shelf.push("latest", shelf.image(number=number))
    one = re.sub(r"<[^>]*>", "", page("registry.example.com", NOW, usage(shelf.store), None, None))
    shelf.push("latest", shelf.image(number=2))
    for name in map(str, range(22)):
        shelf.push(name, shelf.image(name=name), name=name)
    shelf.push("1", shelf.image())
    more = re.sub(r"<[^>]*>", "", page("registry.example.com", NOW, usage(shelf.store), None, None))

    for words in ("1repository", "1tag", ", 1 tag", "1 image without a tag"):
        assert re.search(rf"{words}\b", one), words
    for words in ("23repositories", "24tags", ", 2 tags,", "2 images without a tag", "3 smaller repositories are"):
        assert words in more


def test_a_page_that_cannot_be_written_is_a_failure(ask: Ask) -> None:
    answer = ask(two_repositories(), "--html", "/nowhere/usage.html")

    assert isinstance(answer.exception, Failure)


@given(st.lists(st.integers(0, 10**15), max_size=1000), st.integers(0, 10**6))
def test_the_curve_rises_within_the_plot(sizes: list[int], seconds: int) -> None:
    arrivals = [(START + datetime.timedelta(seconds=number), size) for number, size in enumerate(sizes)]

    drawn = curve(arrivals, START + datetime.timedelta(seconds=len(sizes) + seconds))

    if not drawn:
        assert len(sizes) == 0
        return
    across = [float(number) for number in re.findall(r"H([0-9.]+)", drawn.path)]
    down = [float(number) for number in re.findall(r"V([0-9.-]+)", drawn.path)][:-1]
    assert across == sorted(across)
    assert down == sorted(down, reverse=True)
    assert all(0 <= one <= 260 for one in down)
    assert len(down) <= 302


def test_the_curve_ends_at_the_last_push_if_a_clock_is_ahead() -> None:
    later = NOW + datetime.timedelta(days=1)

    drawn = curve([(START, 10), (later, 10)], NOW)

    assert drawn
    assert (drawn.first, drawn.last) == (START, later)
    assert drawn.path.endswith("H1000.0 V0.0 H1000 V260 Z")
    assert curve([(later, 10)], NOW) is None


@given(st.lists(st.tuples(st.text(), st.integers(0, 10**15), st.integers(0, 10**15)), max_size=9))
def test_bars_fit_into_the_plot(rows: list[tuple[str, int, int]]) -> None:
    assert all(0 <= one.own + one.shared <= 100.01 for one in bars(rows))


@given(st.floats(0.25, 1e18))
def test_lines_of_a_plot_have_round_numbers(size: float) -> None:
    number = round_up(size)

    assert size <= number <= 10 * max(size, 1)
    assert re.fullmatch("[125]0*", str(number))
