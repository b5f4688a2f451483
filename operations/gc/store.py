"""What a garbage collection must keep, and how a store differs afterwards: pure functions over the script's lines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from operations.manifests import IMAGE_TYPES, INDEX_TYPES, Manifest

_BLOB = re.compile(r"(\d+) blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data")
_UPLOAD = re.compile("repositories/(.+)/_uploads/.+")
_LAYER = re.compile("repositories/(.+)/_layers/([a-z0-9]+)/([0-9a-f]+)/link")
_REVISION = re.compile(r"repositories/(.+)/_manifests/revisions/([a-z0-9]+)/([0-9a-f]+)/link")


class _Stored(Manifest):
    schema_version: int = Field(0, alias="schemaVersion")
    media_type: str = Field("", alias="mediaType")


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of a store: the size of each blob in bytes, and the digests of the manifests in each repository."""

    blobs: Mapping[str, int]
    revisions: Mapping[str, frozenset[str]]

    @property
    def size(self) -> int:
        """The size of all blobs, in bytes."""
        return sum(self.blobs.values())


@dataclass(frozen=True, kw_only=True)
class Part:
    """A blob or a manifest that the manifest ``digest`` of a repository needs."""

    repository: str
    digest: str
    part: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest} needs {self.part}"


def files(lines: Iterable[str]) -> Files:
    """Return the files that the script listed. Other lines are left out."""
    blobs, revisions = dict[str, int](), defaultdict[str, set[str]](set)
    for line in lines:
        if blob := _BLOB.fullmatch(line):
            blobs[f"{blob[2]}:{blob[3]}"] = int(blob[1])
        elif revision := _REVISION.fullmatch(line):
            revisions[revision[1]].add(f"{revision[2]}:{revision[3]}")
    return Files(blobs=blobs, revisions={name: frozenset(digests) for name, digests in revisions.items()})


def remaining(before: Files, gone: Files, new: Files) -> Files:
    """Return the files after a collection, from the files before and the differences."""
    names = before.revisions.keys() | new.revisions.keys()
    return Files(
        blobs={digest: size for digest, size in {**before.blobs, **new.blobs}.items() if digest not in gone.blobs},
        revisions={
            name: (before.revisions.get(name, frozenset()) | new.revisions.get(name, frozenset()))
            - gone.revisions.get(name, frozenset())
            for name in names
        },
    )


def obstacles(found: Files, documents: Mapping[str, bytes]) -> list[str]:
    """Return the manifests that distribution cannot read or would break, with the reasons.

    They stop a garbage collection. distribution skips a manifest whose blob is missing.
    """
    return [
        f"{name}@{digest}: {reason}"
        for name, digests in sorted(found.revisions.items())
        for digest in sorted(digests & found.blobs.keys())
        if (reason := _obstacle(documents.get(digest)))
    ]


def needed(found: Files, documents: Mapping[str, bytes]) -> list[Part]:
    """Return what the manifests of all repositories need: themselves, and the blobs that can lie in the store.

    An index needs the images that its own repository has. Layers of Windows may lie at their URLs.
    """
    return [
        Part(repository=name, digest=digest, part=part)
        for name, digests in sorted(found.revisions.items())
        for digest in sorted(digests)
        for part in (digest, *_parts(documents.get(digest), digests, found.blobs))
    ]


def absent(parts: Iterable[Part], found: Files) -> list[Part]:
    """Return the parts that the store does not have, of those manifests that their repositories still have."""
    return [
        part
        for part in parts
        if part.part not in found.blobs and part.digest in found.revisions.get(part.repository, ())
    ]


def under_way(changed: Iterable[str], parts: Iterable[Part]) -> str | None:
    """Return a push that has not ended: an upload, or a layer that no manifest of its repository needs.

    A push sends its layers first and its manifest last. ``changed`` lists the files that changed lately.
    """
    known = {(part.repository, part.part) for part in parts}
    for path in changed:
        if upload := _UPLOAD.fullmatch(path):
            return f"an upload to {upload[1]}"
        if (layer := _LAYER.fullmatch(path)) and (layer[1], f"{layer[2]}:{layer[3]}") not in known:
            return f"{layer[1]} has the layer {layer[2]}:{layer[3]} without a manifest"
    return None


def _parts(document: bytes | None, siblings: frozenset[str], blobs: Mapping[str, int]) -> Iterable[str]:
    manifest = _Stored.read(document)
    if manifest is None:
        return ()
    here = (blob.digest for blob in manifest.blobs if not blob.urls or blob.digest in blobs)
    return dict.fromkeys([*here, *(child.digest for child in manifest.children if child.digest in siblings)])


def _obstacle(document: bytes | None) -> str | None:
    if document is None:
        return "larger than any manifest"
    manifest = _Stored.read(document)
    if manifest is None:
        return "not a manifest"
    if manifest.schema_version != 2:
        return f"schema version {manifest.schema_version}"
    if manifest.media_type not in ("", *INDEX_TYPES, *IMAGE_TYPES):
        return f"unknown media type {manifest.media_type}"
    # distribution stores every blob by its sha256, and takes a blob that only another digest names for garbage.
    if other := next((blob.digest for blob in manifest.blobs if not blob.digest.startswith("sha256:")), None):
        return f"needs {other}, which distribution would delete"
    return None
