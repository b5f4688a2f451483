"""A registry's store in memory, filled as by pushes, for tests of what is made of a store."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from operations.history.record import Version, tags
from operations.history.running import Container
from operations.history.store import Store, TagLinks

NAME = "my-app/backend"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
START = datetime.datetime(2026, 11, 29, 10, 0, tzinfo=datetime.UTC)


def digest_of(content: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Shelf:
    """A registry's store, filled as by pushes. Each push is a second after the one before."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, TagLinks]] = {}
        self.revisions: dict[str, set[str]] = {}
        self.blobs: dict[str, int] = {}
        self.documents: dict[str, bytes] = {}
        self.contents: dict[str, bytes] = {}
        self.pushed: dict[str, dict[str, datetime.datetime]] = {}
        self.damaged: dict[str, frozenset[str]] = {}
        self.now = START

    def layer(self, text: str, size: int, **more: Any) -> dict[str, Any]:
        """A layer of ``size`` bytes."""
        digest = digest_of(text.encode())
        self.blobs[digest], self.contents[digest] = size, text.encode()
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size} | more

    def document(self, value: Mapping[str, Any], media_type: str) -> dict[str, Any]:
        """A manifest or a configuration, with its descriptor."""
        content = json.dumps(value, indent=3).encode()
        digest = digest_of(content)
        self.blobs[digest], self.documents[digest] = len(content), content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def image(
        self, *layers: Mapping[str, Any], name: str = NAME, platform: str = "linux/amd64", **configuration: Any
    ) -> dict[str, Any]:
        """An image in a repository, without a tag."""
        config = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        value = self.document(config | configuration, "application/vnd.oci.image.config.v1+json")
        return self.revision({"mediaType": MANIFEST, "config": value, "layers": list(layers)}, name)

    def index(self, *entries: Mapping[str, Any], name: str = NAME, **more: Any) -> dict[str, Any]:
        """An index in a repository, without a tag."""
        return self.revision({"mediaType": INDEX, "manifests": list(entries)} | more, name)

    def revision(self, value: Mapping[str, Any], name: str = NAME) -> dict[str, Any]:
        """A manifest in a repository, without a tag."""
        descriptor = self.document({"schemaVersion": 2} | value, value["mediaType"])
        self.revisions.setdefault(name, set()).add(descriptor["digest"])
        self.pushed.setdefault(name, {})[descriptor["digest"]] = self.now
        return descriptor

    def push(self, tag: str, descriptor: Mapping[str, Any], name: str = NAME) -> str:
        """Move a tag to an image; its digest."""
        self.now += datetime.timedelta(seconds=1)
        digest, known = str(descriptor["digest"]), self.tags.setdefault(name, {})
        before = known[tag].pushed if tag in known else {}
        self.pushed.setdefault(name, {})[digest] = self.now
        self.damaged[name] = self.damaged.get(name, frozenset()) - {digest}
        known[tag] = TagLinks(current=digest, moved=self.now, pushed={**before, digest: self.now})
        return digest

    @property
    def store(self) -> Store:
        """The store as it was read."""
        names = self.tags.keys() | self.revisions.keys()
        return Store(
            repositories={name: self.tags.get(name, {}) for name in names},
            revisions={name: frozenset(self.revisions.get(name, ())) for name in names},
            blobs=self.blobs,
            documents=self.documents,
            pushed=self.pushed,
            damaged=self.damaged,
        )

    def versions(self, tag: str, containers: Iterable[Container] = ()) -> tuple[Version, ...]:
        """The record of a tag."""
        return {one.name: one for one in tags(self.store, NAME, containers)}[tag].versions


def three_pushes(shelf: Shelf) -> list[str]:
    """Push three images to the tag ``latest``; their digests."""
    return [shelf.push("latest", shelf.image(shelf.layer(f"layer {number}", 1000))) for number in range(3)]
