"""What the registry keeps on disk, as far as the record of versions needs it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TagLinks:
    """The links of one tag.

    ``current`` is the digest that the tag points to, or None if that link is damaged. ``moved`` is the time of the last
    push of the tag. ``pushed`` holds every digest that the tag ever had, with the time of its last push under the tag.
    """

    current: str | None
    moved: datetime.datetime
    pushed: Mapping[str, datetime.datetime]


@dataclass(frozen=True, kw_only=True)
class Store:
    """The content of a registry's store. ``documents`` holds the manifests and image configurations that were read.

    ``repositories`` also has repositories without tags. ``revisions`` holds the digests of the manifests in each
    repository, ``pushed`` the time of the last push of each, ``blobs`` the size of each blob in bytes. ``damaged``
    holds the manifests whose link in the repository is damaged: the registry can neither serve nor delete them.
    """

    repositories: Mapping[str, Mapping[str, TagLinks]]
    revisions: Mapping[str, frozenset[str]]
    blobs: Mapping[str, int]
    documents: Mapping[str, bytes]
    pushed: Mapping[str, Mapping[str, datetime.datetime]] = field(default_factory=dict)
    damaged: Mapping[str, frozenset[str]] = field(default_factory=dict)
