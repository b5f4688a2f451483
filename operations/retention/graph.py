"""What the manifests of a store need: the images of an index, the subject of a signature, blobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from operations.history.store import Store
from operations.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class Node:
    """A manifest. ``references`` holds the digests of its configuration, layers and images.

    An unreadable manifest has no references, although it may need anything in its repository.
    """

    references: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    config: str | None = None
    subject: str | None = None
    readable: bool = True


class Graph:
    """The manifests of a store, and what each needs in its repository."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.present = {
            name: frozenset(digest for digest in revisions if digest in store.blobs)
            - store.damaged.get(name, frozenset())
            for name, revisions in store.revisions.items()
        }
        """The manifests that can be pulled, by repository."""
        self.nodes = {
            digest: _node(store.documents.get(digest))
            for digest in frozenset().union(*self.present.values(), *store.damaged.values())
            if digest in store.blobs
        }

    def needs(self, repository: str, digest: str) -> frozenset[str]:
        """Return the manifests of the repository that a manifest needs: images, its subject, or all if unreadable."""
        node, present = self.nodes[digest], self.present[repository]
        if not node.readable:
            return present
        return (node.references | ({node.subject} if node.subject else frozenset())) & present

    @cached_property
    def referrers(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """The signatures and other referrers of each manifest, by repository and digest of the subject."""
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for repository, digests in self.present.items():
            for digest in digests:
                if subject := self.nodes[digest].subject:
                    found[repository, subject].add(digest)
        return {key: frozenset(digests) for key, digests in found.items()}

    @cached_property
    def parents(self) -> Mapping[str, frozenset[str]]:
        """The indexes of each manifest, in any repository."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for digest, node in self.nodes.items():
            for image in node.images:
                found[image].add(digest)
        return {digest: frozenset(indexes) for digest, indexes in found.items()}

    @cached_property
    def known_as(self) -> Mapping[str, frozenset[str]]:
        """The manifests of each digest by which a Docker host may know an image: of a manifest or a configuration."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for digest, node in self.nodes.items():
            found[digest].add(digest)
            if node.config:
                found[node.config].add(digest)
        return {name: frozenset(digests) for name, digests in found.items()}

    def with_indexes(self, digests: Iterable[str]) -> frozenset[str]:
        """Return the manifests with all indexes that contain them."""
        found = list(dict.fromkeys(digests))
        seen = set(found)
        for digest in found:  # grows by the indexes of each manifest
            new = self.parents.get(digest, frozenset()) - seen
            seen |= new
            found += new
        return frozenset(found)

    def blobs(self, manifests: Iterable[str]) -> frozenset[str]:
        """Return the stored blobs of manifests and the manifests themselves: what a garbage collection would keep."""
        wanted = {one for digest in manifests for one in (digest, *self.nodes[digest].references)}
        return frozenset(wanted & self.store.blobs.keys())

    def ordered(self, repository: str, digests: Iterable[str]) -> Iterator[str]:
        """Yield manifests so that each comes before the manifests that it needs: indexes first."""
        wanted, done = set(digests), list[str]()
        seen = set[str]()
        for digest in sorted(wanted):
            stack = [(digest, False)]
            while stack:
                one, is_finished = stack.pop()
                if is_finished:
                    done.append(one)
                elif one not in seen:
                    seen.add(one)
                    stack.append((one, True))
                    stack += [(other, False) for other in sorted(self.needs(repository, one) & wanted, reverse=True)]
        yield from reversed(done)


def _node(document: bytes | None) -> Node:
    """Read a manifest. One that is neither an image nor an index is unreadable: its needs are unknown."""
    manifest = Manifest.read(document)
    if manifest is None or (manifest.config is None and manifest.manifests is None):
        return Node(readable=False)
    images = frozenset(one.digest for one in manifest.manifests or ())
    return Node(
        references=images | {blob.digest for blob in manifest.blobs},
        images=images,
        config=manifest.config.digest if manifest.config else None,
        subject=manifest.subject.digest if manifest.subject else None,
    )
