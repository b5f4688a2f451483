"""Sizes of repositories and tags. Images share layers, so each size has an own part and a shared part."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from operations.history.store import Store
from operations.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A tag with its current image.

    ``size`` counts all manifests and blobs of the image, each once, in bytes. ``own`` counts those that no other image
    has, in this or in another repository. ``digest`` is None, and both sizes are 0, if the link of the tag is damaged.
    """

    repository: str
    name: str
    digest: str | None
    pushed: datetime.datetime
    size: int
    own: int


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository. ``own`` counts what no other repository has.

    ``untagged`` is the number of images without a tag. ``untagged_own`` counts what only these images have.
    """

    name: str
    tags: tuple[Tag, ...]
    size: int
    own: int
    untagged: int
    untagged_own: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A registry. ``size`` counts all blobs on the disk, ``unused`` those that no manifest needs.

    ``arrivals`` has the bytes that arrived with the first push of an image that is stored today, oldest first.
    """

    repositories: tuple[Repository, ...]
    size: int
    unused: int
    arrivals: tuple[tuple[datetime.datetime, int], ...]


def usage(store: Store) -> Usage:
    """Return the usage of a registry: repositories with most bytes first, and their tags with the newest push first.

    An image is an index with its platforms, or a manifest that no index of its repository names, or that has a tag.
    """
    manifests = {
        digest: manifest for digest, content in store.documents.items() if (manifest := Manifest.read(content))
    }
    images = {name: _images(store, name, manifests) for name in store.repositories}
    by_image = Counter(part for each in images.values() for parts in each.values() for part in parts)
    in_repository = {name: frozenset[str]().union(*each.values()) for name, each in images.items()}
    by_repository = Counter(part for parts in in_repository.values() for part in parts)

    def size(parts: Iterable[str]) -> int:
        return sum(store.blobs.get(part, 0) for part in parts)

    def repository(name: str) -> Repository:
        links, here = store.repositories[name], images[name]
        tagged = {link.current for link in links.values()}
        untagged = [parts for digest, parts in here.items() if digest not in tagged]
        by_untagged = Counter(part for parts in untagged for part in parts)
        tags = [
            Tag(
                repository=name,
                name=tag,
                digest=link.current,
                pushed=link.moved,
                size=size(here.get(link.current or "", ())),
                own=size(part for part in here.get(link.current or "", ()) if by_image[part] == 1),
            )
            for tag, link in sorted(links.items())
        ]
        return Repository(
            name=name,
            tags=tuple(sorted(tags, key=lambda tag: tag.pushed, reverse=True)),
            size=size(in_repository[name]),
            own=size(part for part in in_repository[name] if by_repository[part] == 1),
            untagged=len(untagged),
            untagged_own=size(part for part, number in by_untagged.items() if by_image[part] == number),
        )

    found = [repository(name) for name in sorted(images)]
    return Usage(
        repositories=tuple(sorted(found, key=lambda one: one.size, reverse=True)),
        size=sum(store.blobs.values()),
        unused=size(digest for digest in store.blobs if digest not in by_image),
        arrivals=tuple(_arrivals(store, images)),
    )


def _images(store: Store, repository: str, manifests: Mapping[str, Manifest]) -> dict[str, frozenset[str]]:
    """Return the images of a repository with the digests of their manifests and blobs."""
    here = store.revisions[repository]
    children = {child.digest for digest in here if digest in manifests for child in manifests[digest].children}
    tagged = {link.current for link in store.repositories[repository].values()}
    return {digest: _parts(digest, here, manifests) for digest in here if digest not in children or digest in tagged}


def _parts(digest: str, here: frozenset[str], manifests: Mapping[str, Manifest]) -> frozenset[str]:
    found, waiting = set[str](), [digest]
    while waiting:
        one = waiting.pop()
        if one in found or one not in here:
            continue
        found.add(one)
        if manifest := manifests.get(one):
            found |= {blob.digest for blob in manifest.blobs}
            waiting += [child.digest for child in manifest.children]
    return frozenset(found)


def _arrivals(
    store: Store, images: Mapping[str, Mapping[str, frozenset[str]]]
) -> Iterator[tuple[datetime.datetime, int]]:
    """Yield when blobs arrived.

    The links of tags have the last push of each digest under each tag. Without its tag, an image has its own last push.
    """
    pushes = defaultdict[datetime.datetime, list[frozenset[str]]](list)
    for name, links in store.repositories.items():
        for pushed in (*(link.pushed for link in links.values()), store.pushed.get(name, {})):
            for digest, moment in pushed.items():
                if digest in images[name]:
                    pushes[moment].append(images[name][digest])
    known = set[str]()
    for moment in sorted(pushes):
        new = frozenset[str]().union(*pushes[moment]) - known
        known |= new
        yield moment, sum(store.blobs.get(part, 0) for part in new)
