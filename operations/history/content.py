"""The content of an image in the store: blobs, platforms and labels, from its manifests and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from operations.history.store import Store
from operations.manifests import Descriptor, Document, Manifest, Platform, Texts

#: BuildKit writes provenance as an image for this platform, which no host runs.
_NO_PLATFORM = "unknown"


@dataclass(frozen=True, kw_only=True)
class Content:
    """An image. ``missing`` lists the digests that the registry lacks.

    ``damaged`` tells that the registry has the manifest, but nobody can read it. ``size`` counts every stored
    blob once, in bytes. ``known_as`` holds the digests by which a Docker host may know the image: the digests of its
    manifests and, in Docker's classic image store, of its configurations. ``labels`` holds the labels of the images and
    the annotations of the manifests.
    """

    size: int
    missing: tuple[str, ...]
    damaged: bool
    known_as: frozenset[str]
    platforms: tuple[str, ...]
    labels: Mapping[str, str]
    created: str | None


class _Manifest(Manifest):
    annotations: Texts | None = None


class _Settings(Document):
    labels: Texts | None = Field(None, alias="Labels")


class _Configuration(Platform):
    created: str | None = None
    config: _Settings | None = None


def content(store: Store, repository: str, digest: str) -> Content:
    """Return the content of the manifest ``digest``, with the images of an index."""
    entries, manifests, missing = [Descriptor(digest=digest)], dict[str, _Manifest](), dict[str, None]()
    linked = store.revisions[repository] - store.damaged.get(repository, frozenset())
    for entry in entries:  # grows by the entries of each index
        if entry.digest in manifests or entry.digest in missing:
            continue
        here = entry.digest in linked and entry.digest in store.blobs
        if here and (manifest := _Manifest.read(store.documents.get(entry.digest))):
            manifests[entry.digest] = manifest
            entries += manifest.children
        else:
            missing[entry.digest] = None
    blobs = {blob.digest: blob for manifest in manifests.values() for blob in manifest.blobs}
    # Base layers of Windows lie at their URLs, not here.
    missing |= dict.fromkeys(one for one, blob in blobs.items() if one not in store.blobs and not blob.urls)
    described = [
        (entry.platform, manifest)
        for entry in entries
        if (manifest := manifests.get(entry.digest)) and not _is_attestation(entry)
    ]
    images = [
        (platform, _Configuration.read(store.documents.get(manifest.config.digest)))
        for platform, manifest in described
        if manifest.config
    ]
    settings = [configuration for _, configuration in images if configuration]
    labels = [configuration.config.labels for configuration in settings if configuration.config]
    annotations = [manifest.annotations for _, manifest in described]
    return Content(
        size=sum(store.blobs.get(one, 0) for one in manifests.keys() | blobs.keys()),
        missing=tuple(missing),
        damaged=digest in missing and digest in store.blobs,
        known_as=frozenset(
            [one.digest for one in entries] + [one.config.digest for one in manifests.values() if one.config]
        ),
        platforms=tuple(
            dict.fromkeys(
                platform for given, configuration in images if (platform := str(given or configuration or ""))
            )
        ),
        # The first text wins. A build argument without a value makes an empty label.
        labels={key: text for one in reversed(labels + annotations) for key, text in (one or {}).items() if text},
        created=next((one.created for one in settings if one.created), None),
    )


def size_of_all(store: Store, repository: str) -> int:
    """Return the size of all manifests of a repository and of their blobs, each counted once, in bytes."""
    digests = set(store.revisions[repository])
    for digest in store.revisions[repository]:
        if manifest := _Manifest.read(store.documents.get(digest)):
            digests |= {blob.digest for blob in manifest.blobs}
    return sum(store.blobs.get(digest, 0) for digest in digests)


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == _NO_PLATFORM
