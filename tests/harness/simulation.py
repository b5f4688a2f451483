"""A registry in memory that deletes and collects garbage as distribution does, and a generator of odd registries.

``Simulation`` reads manifests by itself, so that tests of retention do not trust the code that they test.
"""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from operations.history.store import Store, TagLinks
from tests.harness.shelf import INDEX, MANIFEST, Shelf

REPOSITORIES = ("a", "b", "team/c")
TAGS = ("v1", "v2", "v10", "latest", "pr-1", "pr-2", "main")
#: Between two pushes.
DAYS = (0.03, 0.5, 1, 1, 2, 3, 5)


class Simulation:
    """The files of distribution's store that matter: links of tags, revisions and layers, and blobs."""

    def __init__(self, shelf: Shelf) -> None:
        self.tags = {name: dict(tags) for name, tags in shelf.tags.items()}
        self.revisions = {name: set(digests) for name, digests in shelf.revisions.items()}
        self.pushed = {name: dict(times) for name, times in shelf.pushed.items()}
        self.blobs = dict(shelf.blobs)
        self.documents = dict(shelf.documents)
        self.damaged = dict(shelf.damaged)
        self.layers = {name: {one for digest in found for one in self.blobs_of(digest)}
                       for name, found in self.revisions.items()}  # fmt: skip

    @property
    def store(self) -> Store:
        """What a command reads."""
        names = self.tags.keys() | self.revisions.keys()
        return Store(
            repositories={name: dict(self.tags.get(name, {})) for name in names},
            revisions={name: frozenset(self.revisions.get(name, ())) for name in names},
            blobs=dict(self.blobs),
            documents={digest: text for digest, text in self.documents.items() if digest in self.blobs},
            pushed={name: dict(times) for name, times in self.pushed.items()},
            damaged=dict(self.damaged),
        )

    def copy(self) -> Simulation:
        return copy.deepcopy(self)

    def manifest(self, digest: str) -> dict[str, Any]:
        """A manifest, or nothing that it refers to."""
        if digest not in self.blobs or digest not in self.documents:
            return {}
        try:
            value = json.loads(self.documents[digest])
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def children(self, digest: str) -> list[str]:
        return [entry["digest"] for entry in self.manifest(digest).get("manifests", [])]

    def blobs_of(self, digest: str) -> list[str]:
        value = self.manifest(digest)
        config = [value["config"]["digest"]] if "config" in value else []
        return config + [entry["digest"] for entry in value.get("layers", [])]

    def has(self, name: str, digest: str) -> bool:
        """Whether the manifest can be pulled."""
        linked = self.revisions.get(name, set()) - self.damaged.get(name, frozenset())
        return digest in linked and digest in self.blobs

    def pulls(self, name: str, digest: str) -> set[str]:
        """All that can be pulled with a manifest: images of an index, configurations, layers."""
        found, waiting = set[str](), [digest]
        while waiting:
            one = waiting.pop()
            if self.has(name, one) and one not in found:
                found.add(one)
                waiting += self.children(one)
                found |= {blob for blob in self.blobs_of(one) if blob in self.layers[name] and blob in self.blobs}
        return found

    def points_to(self, name: str, tag: str) -> str | None:
        """HEAD /v2/NAME/manifests/TAG."""
        links = self.tags.get(name, {}).get(tag)
        return links.current if links and links.current and self.has(name, links.current) else None

    def delete(self, name: str, reference: str) -> None:
        """DELETE /v2/NAME/manifests/REFERENCE."""
        if ":" not in reference:
            self.tags.get(name, {}).pop(reference, None)
        elif self.has(name, reference):
            self.revisions[name].remove(reference)
            for tag in [tag for tag, links in self.tags.get(name, {}).items() if links.current == reference]:
                del self.tags[name][tag]

    def collect_garbage(self) -> bool:
        """`registry garbage-collect` without `--delete-untagged`; False if it stops at what it cannot read.

        A manifest that is in a repository marks what it refers to. A blob without a mark is removed, and so is the link
        of a layer that had no mark when its repository was read.
        """
        marks, unneeded = set[str](), list[tuple[str, str]]()
        for name in sorted(self.revisions):
            if self.revisions[name] & self.damaged.get(name, frozenset()):
                return False
            for digest in self.revisions[name]:
                if digest not in self.blobs:
                    continue
                if not self.blobs_of(digest) and "manifests" not in self.manifest(digest):
                    return False
                marks |= {digest, *self.blobs_of(digest), *self.children(digest)}
            unneeded += [(name, blob) for blob in self.layers[name] if blob not in marks]
        self.blobs = {digest: size for digest, size in self.blobs.items() if digest in marks}
        for name, blob in unneeded:
            self.layers[name].discard(blob)
        return True

    def manifests(self) -> Iterator[tuple[str, str]]:
        """Every manifest that can be pulled, with its repository."""
        for name, digests in sorted(self.revisions.items()):
            yield from ((name, digest) for digest in sorted(digests) if self.has(name, digest))


def odd_registry(random: Random, size: int, *, damage: bool = True) -> Shelf:
    """A registry after ``size`` pushes of shared layers, images, indexes, referrers and tags, and after some losses."""
    shelf = Shelf()
    layers = [shelf.layer(f"layer {number}", 10 ** (number % 4)) for number in range(5)]
    known = [shelf.image(layers[0], name=REPOSITORIES[0])]
    for _ in range(size):
        shelf.now += datetime.timedelta(days=random.choice(DAYS))
        _push(random, shelf, layers, known)
    for one in random.sample(known, random.choice((0, 0, 1, 2)) if len(known) > 2 else 0):
        _delete(shelf, random.choice(REPOSITORIES), one["digest"])
    if damage and random.random() < 0.1:
        shelf.blobs.pop(random.choice(known)["digest"], None)
    if damage and random.random() < 0.05:
        shelf.documents[random.choice(known)["digest"]] = b"{}"
    every = [(name, digest) for name, digests in sorted(shelf.revisions.items()) for digest in sorted(digests)]
    if damage and every and random.random() < 0.1:
        name, digest = random.choice(every)
        shelf.damaged[name] = frozenset({digest})
    for tags in shelf.tags.values():
        for tag, links in tags.items():
            if damage and random.random() < 0.02:
                tags[tag] = TagLinks(current=None, moved=links.moved, pushed=links.pushed)
    shelf.now += datetime.timedelta(days=random.choice(DAYS))
    return shelf


def _push(random: Random, shelf: Shelf, layers: list[dict[str, Any]], known: list[dict[str, Any]]) -> None:
    """Push an image, an index, a referrer or a known manifest to a repository, mostly with a tag."""
    name, one = random.choice(REPOSITORIES), random.choice(known)
    kind = random.choice(("image", "image", "image", "index", "index", "referrer", "known", "known"))
    tag = random.choice(TAGS) if random.random() < 0.7 else None
    if kind == "image":
        one = shelf.image(*random.sample(layers, 2), name=name, platform=f"linux/{random.choice('123')}")
    elif kind == "index":
        one = shelf.index(*random.sample(known, min(len(known), random.choice((1, 2, 3)))), name=name)
    elif kind == "referrer":
        subject, described = one, f"sha256-{one['digest'][7:]}{random.choice(('', '.sig'))}"
        value: dict[str, Any] = {"mediaType": MANIFEST, "config": layers[0], "layers": [random.choice(layers)]}
        if random.random() < 0.3:
            value = {"mediaType": INDEX, "manifests": [random.choice(known)]}
        one = shelf.revision(value | ({"subject": subject} if random.random() < 0.7 else {}), name)
        tag = described if random.random() < 0.6 else tag
    shelf.revisions.setdefault(name, set()).add(one["digest"])
    shelf.pushed.setdefault(name, {})[one["digest"]] = shelf.now
    known.append(one)
    if tag:
        shelf.push(tag, one, name)


def _delete(shelf: Shelf, name: str, digest: str) -> None:
    shelf.revisions.get(name, set()).discard(digest)
    for tag in [tag for tag, links in shelf.tags.get(name, {}).items() if links.current == digest]:
        del shelf.tags[name][tag]
