"""The date of a tarball, and the tags that its images get in the registry."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from operations.tarballs.archive import Broken
from operations.tarballs.images import Name

#: Endings of tarballs. In a folder, other files are left out.
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_DATE = re.compile(
    r"(?<![0-9])(?P<year>(?:19|20)[0-9]{2})(?P<separator>[-_.]?)(?P<month>[0-9]{2})(?P=separator)(?P<day>[0-9]{2})"
    r"(?:[-_.T ]?(?P<hour>[0-9]{2})[-_.:h]?(?P<minute>[0-9]{2})(?:[-_.:m]?(?P<second>[0-9]{2}))?Z?)?(?![0-9])"
)
_FIELD = re.compile(r"\{(\w*)\}")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_LONGEST_REPOSITORY = 255
_LAST_MOMENT = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC).timestamp()


@dataclass(frozen=True, order=True)
class Dated:
    """The moment of a tarball. ``by_name`` tells that the file name has it; else it is the time of the last change."""

    moment: datetime.datetime
    by_name: bool


@dataclass(frozen=True)
class Target:
    """A tag in the registry."""

    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Templates:
    """How tags are named: templates for the repository and the tag, and a pattern of the file name, each optional."""

    repository: str = "{repository}"
    tag: str = "{tag}"
    pattern: re.Pattern[str] | None = None


def dated(file: Path, changed: float) -> Dated:
    """Return the moment of a tarball: the first date in its name, or ``changed``, the time of its last change."""
    for match in _DATE.finditer(file.name):
        for parts in (("year", "month", "day", "hour", "minute", "second"), ("year", "month", "day")):
            try:
                numbers = [int(match[part] or 0) for part in parts]
                return Dated(datetime.datetime(*numbers, tzinfo=datetime.UTC), by_name=True)  # type: ignore[misc,arg-type]
            except ValueError:
                continue
    within = min(max(changed, 0), _LAST_MOMENT)  # file systems have later times than datetime
    return Dated(datetime.datetime.fromtimestamp(within, datetime.UTC), by_name=False)


def order(file: Path, when: Dated) -> tuple[datetime.datetime, list[tuple[int, str]], str]:
    """Return the key that sorts tarballs: oldest first; at the same moment, 9 comes before 10 in the names."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", stem(file))  # the ending would sort app-2.tar before app.tar
    return when.moment, [(int(number), text) if number else (-1, text) for number, text in parts], str(file)


def targets(templates: Templates, names: tuple[Name, ...], file: Path, when: Dated) -> tuple[Target, ...]:
    """Return the tags for an image with ``names``, each once.

    Raises:
        Broken: if a template cannot be filled, or if the result is no valid name.
    """
    fields = dict(_fields(templates, file, when))
    found = (
        Target(
            _valid(_REPOSITORY, _filled(templates.repository, fields | _known(name)), "--repository"),
            _valid(_TAG, _filled(templates.tag, fields | _known(name)), "--tag"),
        )
        for name in names or (Name(None, None),)
    )
    return tuple(dict.fromkeys(found))


def stem(file: Path) -> str:
    """Return the name of a tarball without its ending."""
    ending = max((one for one in ENDINGS if file.name.lower().endswith(one)), key=len, default="")
    return file.name[: len(file.name) - len(ending)]


def _fields(templates: Templates, file: Path, when: Dated) -> Iterator[tuple[str, str]]:
    yield "file", stem(file)
    yield "date", f"{when.moment:%Y-%m-%d}"
    yield "time", f"{when.moment:%H%M%S}"
    if templates.pattern:
        if not (match := templates.pattern.search(stem(file))):
            raise Broken(f"--pattern does not match the file name {stem(file)}")
        yield from ((name, text) for name, text in match.groupdict().items() if text is not None)


def _known(name: Name) -> dict[str, str]:
    parts = {"repository": name.repository, "tag": name.tag}
    return {field: text for field, text in parts.items() if text is not None}


def _filled(template: str, fields: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] in fields:
            return fields[match[1]]
        if match[1] in ("repository", "tag"):
            raise Broken(f"the tarball does not name the {match[1]} of the image: use --{match[1]}")
        raise Broken(f"{match[0]} has no value; there are {', '.join(sorted(fields))}")

    return _FIELD.sub(value, template)


def _valid(form: re.Pattern[str], text: str, option: str) -> str:
    if not form.fullmatch(text) or len(text) > _LONGEST_REPOSITORY:
        what = "repository" if option == "--repository" else "tag"
        raise Broken(f"{text!r} is no valid {what}: use {option}")
    return text
