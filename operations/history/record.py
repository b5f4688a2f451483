"""The record of versions: repositories, their tags, and what each tag pointed to before."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from operations.history.content import Content, content, size_of_all
from operations.history.running import Container, by_version
from operations.history.store import Store, TagLinks

_LABEL = "org.opencontainers.image."

State = Literal["complete", "incomplete", "deleted", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at a glance: ``newest_tag`` was pushed last, and ``size`` counts every blob once, in bytes."""

    name: str
    newest_tag: str | None
    pushed: datetime.datetime | None
    tags: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Version:
    """A digest that a tag has or had.

    ``digest`` is None if the link of the tag is damaged. ``pushed`` is the time of the last push of the digest under
    the tag. ``missing`` lists the digests that the registry lacks. ``size`` counts every blob once, in bytes, and is
    None if the manifest is deleted or damaged. ``other_tags`` point to the same digest now.
    """

    digest: str | None
    pushed: datetime.datetime
    state: State
    missing: tuple[str, ...] = ()
    size: int | None = None
    platforms: tuple[str, ...] = ()
    created: str | None = None
    version: str | None = None
    revision: str | None = None
    source: str | None = None
    other_tags: tuple[str, ...] = ()
    running: tuple[Container, ...] = ()

    @property
    def can_be_pulled(self) -> bool:
        """Whether the registry has the manifest. The pull of an incomplete image may still fail."""
        return self.state in ("complete", "incomplete") and self.digest not in self.missing


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A tag with its versions: first the version that the tag points to now, then the earlier ones, newest first."""

    name: str
    versions: tuple[Version, ...]


def repositories(store: Store) -> list[Repository]:
    """Return all repositories: newest push first, then those without tags."""
    found = []
    for name, tags in sorted(store.repositories.items()):
        newest = max(tags.items(), key=lambda item: (item[1].moved, item[0]), default=None)
        found.append(
            Repository(
                name=name,
                newest_tag=newest[0] if newest else None,
                pushed=newest[1].moved if newest else None,
                tags=len(tags),
                size=size_of_all(store, name),
            )
        )
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return sorted(found, key=lambda one: one.pushed or never, reverse=True)


def tags(store: Store, repository: str, containers: Iterable[Container] = ()) -> list[Tag]:
    """Return the tags of a repository, newest push first."""
    links = store.repositories[repository]
    held = {name: _held(tag) for name, tag in links.items()}
    digests = {digest for versions in held.values() for digest, _ in versions if digest}
    contents = {digest: content(store, repository, digest) for digest in digests & store.revisions[repository]}
    running = by_version(
        containers, {digest: contents[digest].known_as if digest in contents else {digest} for digest in digests}
    )
    tags_of: defaultdict[str | None, list[str]] = defaultdict(list)
    for name in sorted(links):
        tags_of[links[name].current].append(name)
    return [
        Tag(
            name=name,
            versions=tuple(
                _version(
                    digest,
                    pushed,
                    contents.get(digest),
                    other_tags=tuple(other for other in tags_of[digest] if other != name),
                    running=running.get(digest, ()),
                )
                if digest
                else Version(digest=None, pushed=pushed, state="damaged")
                for digest, pushed in held[name]
            ),
        )
        for name in sorted(sorted(links), key=lambda name: links[name].moved, reverse=True)
    ]


def _held(tag: TagLinks) -> list[tuple[str | None, datetime.datetime]]:
    """Return the digests of a tag with their times: the current one, then the earlier ones, newest first."""
    earlier = ((pushed, digest) for digest, pushed in tag.pushed.items() if digest != tag.current)
    return [(tag.current, tag.moved), *((digest, pushed) for pushed, digest in sorted(earlier, reverse=True))]


def _version(
    digest: str,
    pushed: datetime.datetime,
    found: Content | None,
    *,
    other_tags: tuple[str, ...],
    running: tuple[Container, ...],
) -> Version:
    """Return a version with its content, or without if the manifest is deleted or damaged."""
    if found is None or found.damaged:
        state: State = "damaged" if found else "deleted"
        return Version(digest=digest, pushed=pushed, state=state, other_tags=other_tags, running=running)
    return Version(
        digest=digest,
        pushed=pushed,
        state="incomplete" if found.missing else "complete",
        missing=found.missing,
        size=found.size,
        platforms=found.platforms,
        created=found.labels.get(f"{_LABEL}created") or found.created,
        version=found.labels.get(f"{_LABEL}version"),
        revision=found.labels.get(f"{_LABEL}revision"),
        source=found.labels.get(f"{_LABEL}source"),
        other_tags=other_tags,
        running=running,
    )
