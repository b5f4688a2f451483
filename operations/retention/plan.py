"""The plan: what happens to each tag and to each manifest without a tag, and why. Its JSON form is the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, NonNegativeInt

from components.configuration.fields import FROZEN, DockerHost
from components.configuration.retention import KeepSettings, RuleSettings, Share

#: Characters of all names in a registry: errors show these names on a terminal.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9/_.:-]+$")]


class PlannedTag(BaseModel):
    """A tag. ``frees`` counts the bytes that the plan frees below the tag, also those that other tags free too.

    ``digest`` is None if the link of the tag is damaged.
    """

    model_config = FROZEN
    repository: Name
    tag: Name
    digest: Name | None
    pushed: AwareDatetime
    keep: bool
    why: str
    frees: NonNegativeInt = 0


class PlannedManifest(BaseModel):
    """A manifest to which no tag points when the plan is done."""

    model_config = FROZEN
    repository: Name
    digest: Name
    keep: bool
    why: str


class Plan(BaseModel):
    """All tags by repository, newest first; then the manifests without a tag, those to delete in their order.

    ``freed`` counts the bytes that only deleted manifests need, ``unused`` those that no manifest needs already now,
    and ``bytes`` all blobs. Each blob counts once. ``made`` is the time on the Docker host.
    """

    model_config = FROZEN
    version: Literal[1] = 1
    registry: Name
    made: AwareDatetime
    running_on: tuple[DockerHost, ...] = ()
    without: tuple[DockerHost, ...] = ()
    rules: tuple[RuleSettings, ...]
    overwritten: KeepSettings | None
    most: Share
    tags: tuple[PlannedTag, ...]
    manifests: tuple[PlannedManifest, ...]
    bytes: NonNegativeInt
    freed: NonNegativeInt
    unused: NonNegativeInt

    @property
    def deleted_tags(self) -> list[PlannedTag]:
        """The tags to delete."""
        return [one for one in self.tags if not one.keep]

    @property
    def deleted_manifests(self) -> list[PlannedManifest]:
        """The manifests to delete: an index comes before its images."""
        return [one for one in self.manifests if not one.keep]

    @property
    def excess(self) -> str | None:
        """The reason why the plan deletes more than ``most``, or None."""
        limit = int(self.most.removesuffix("%"))
        for number, of, what in (
            (len(self.deleted_tags), len(self.tags), "tags"),
            (self.freed, self.bytes, "bytes"),
        ):
            if number * 100 > of * limit:
                share = -(-number * 100 // max(of, 1))
                return f"the plan deletes {share}% of all {what}, and registry.retention.most is {self.most}"
        return None
