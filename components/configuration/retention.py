"""Settings of retention: which tags and manifests the registry keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    GetPydanticSchema,
    PlainSerializer,
    WrapValidator,
    model_validator,
)

from components.configuration.fields import FROZEN, DockerHost, text, whole


def _tag_glob(value: str) -> str:
    if not re.fullmatch(r"[\w*?][\w.*?-]{0,127}", value, re.ASCII):
        raise ValueError(
            "a tag, in which * stands for any text and ? for one character, like v1.2, v* or pr-*; or a list of them"
        )
    return value


def _repository_glob(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9*?][a-z0-9._/*?-]{0,254}", value):
        raise ValueError(
            "a lower-case repository without the registry's host, in which * stands for any text and ? for one"
            " character, like team-a/* or my-app/backend; or a list of them"
        )
    return value


def _share(value: str) -> str:
    if not re.fullmatch(r"(?:[1-9]?[0-9]|100)%", value):
        raise ValueError("a percentage from 0% to 100%, like 25%")
    return value


def _globs(check: Callable[[str], str]) -> BeforeValidator:
    """Accept a glob or a list of globs."""

    def globs(value: object) -> list[str]:
        given = value if isinstance(value, list | tuple) else [value]
        return [check(one if isinstance(one, str) else "") for one in given] or [check("")]

    return BeforeValidator(globs)


Count = Annotated[int, whole(1, 100_000)]
TagGlobs = Annotated[tuple[str, ...], _globs(_tag_glob)]
RepositoryGlobs = Annotated[tuple[str, ...], _globs(_repository_glob)]
Share = Annotated[str, text(_share)]


class KeepSettings(BaseModel):
    """Keeps the newest ``newest`` digests, and those pushed within ``days`` days. Either is enough."""

    model_config = FROZEN
    newest: Count | None = None
    days: Count | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> KeepSettings:
        if self.newest is None and self.days is None:
            raise ValueError("newest, days or both")
        return self


def _plain(keep: KeepSettings | Literal["always"]) -> object:
    return keep if isinstance(keep, str) else keep.model_dump(exclude_none=True)


#: An object or the word ``always``. The errors of a union would have paths of their own.
_KEEP = GetPydanticSchema(
    lambda _, handler: handler(
        Annotated[
            KeepSettings,
            WrapValidator(lambda value, inner: value if value == "always" else inner(value)),
            PlainSerializer(_plain),
        ]
    )
)


class RuleSettings(BaseModel):
    """What happens to the tags of which this rule is the first that matches."""

    model_config = FROZEN
    repositories: RepositoryGlobs = ("*",)
    tags: TagGlobs = ("*",)
    keep: Annotated[KeepSettings | Literal["always"], _KEEP]


class RetentionSettings(BaseModel):
    """What `python -m operations retention` keeps. A tag that no rule matches stays.

    ``overwritten`` decides about manifests without a tag, mostly those that a tag pointed to before; None keeps them.
    ``running_on`` lists the Docker hosts whose images stay. ``most`` is the largest share of the tags, and of the
    bytes, that one plan may delete.
    """

    model_config = FROZEN
    rules: tuple[RuleSettings, ...] = ()
    overwritten: KeepSettings | None = None
    running_on: tuple[DockerHost, ...] = ()
    most: Share = "25%"
