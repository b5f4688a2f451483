"""Manifests of images and indexes, as far as commands read them.

Clients wrote them, so unknown keys are ignored. Null for a text, text that is not UTF-8, half an emoji and a subject of
any form are no errors, because distribution accepts them.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
IMAGE_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
#: An escaped half of a character beyond the first 65,536, as a program writes it that cuts an emoji. The group matches
#: what looks like it: an escaped backslash, and both halves.
_HALF = re.compile(r"(\\\\|\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|\\u[dD][89a-fA-F]\w\w")
#: A registry hides manifests of types that a client does not name.
ACCEPT = {"Accept": ", ".join((*INDEX_TYPES, *IMAGE_TYPES, "*/*"))}


def _without_nulls(value: object) -> object:
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


#: Labels or annotations. Null is no value.
Texts = Annotated[dict[str, str], BeforeValidator(_without_nulls)]


class Document(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def read(cls, content: bytes | None) -> Self | None:
        """Return the document, or None if the content is absent or not valid."""
        try:
            if content is None:
                return None
            return cls.model_validate_json(_HALF.sub(_whole, content.decode(errors="replace")))
        except ValidationError:
            return None

    @model_validator(mode="before")
    @classmethod
    def _skip_nulls(cls, value: object) -> object:
        return _without_nulls(value)


class Platform(Document):
    """The platform of an image. Its text is such as ``linux/arm64/v8``, or empty."""

    os: str = ""
    architecture: str = ""
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Document):
    """A reference to a manifest or a blob. Layers of Windows have ``urls`` on other hosts."""

    digest: str
    media_type: str = Field("", alias="mediaType")
    urls: tuple[str, ...] | None = None
    platform: Platform | None = None


def _if_valid(value: object, inner: ValidatorFunctionWrapHandler) -> object:
    try:
        return inner(value)
    except ValidationError:
        return None


class Manifest(Document):
    """A manifest of an image or an index. ``subject`` is the image that a signature or another referrer describes."""

    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None
    subject: Annotated[Descriptor | None, WrapValidator(_if_valid)] = None

    @property
    def blobs(self) -> list[Descriptor]:
        """The blobs. An entry of an index can be a blob: BuildKit's cache is an index of layers."""
        entries = [entry for entry in self.manifests or () if entry.media_type not in (*INDEX_TYPES, *IMAGE_TYPES)]
        return [*([self.config] if self.config else []), *(self.layers or ()), *entries]

    @property
    def children(self) -> list[Descriptor]:
        """The manifests of an index."""
        return [entry for entry in self.manifests or () if entry.media_type in (*INDEX_TYPES, *IMAGE_TYPES)]


def _whole(half: re.Match[str]) -> str:
    return half[1] or r"\ufffd"
