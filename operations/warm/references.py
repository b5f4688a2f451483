"""Image references as Docker reads them: `alpine` is `docker.io/library/alpine:latest`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.configuration.settings import DOCKER_HUB

_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?", re.ASCII)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<repository>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?",
    re.ASCII,
)


@dataclass(frozen=True, order=True)
class Reference:
    """An image: its registry, its repository there, and its tag, or its digest, which wins over a tag."""

    registry: str
    repository: str
    version: str

    @property
    def is_pinned(self) -> bool:
        """Whether the version is a digest."""
        return ":" in self.version

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{'@' if self.is_pinned else ':'}{self.version}"


def parse(text: str) -> Reference:
    """Return the complete reference for a text.

    Raises:
        ValueError: with the allowed form, if the text is no reference.
    """
    first, slash, rest = text.partition("/")
    has_host = bool(slash) and (re.search("[.:A-Z]", first) is not None or first == "localhost")
    match = _REFERENCE.fullmatch(rest if has_host else text)
    if not match or (has_host and not _HOST.fullmatch(first)):
        raise ValueError("an image such as alpine:3.22, ghcr.io/owner/name:1.2 or alpine@sha256:… with 64 hex digits")
    registry, repository = (first.lower() if has_host else DOCKER_HUB), match["repository"]
    if registry in _HUB_NAMES:
        registry = DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(registry, repository, match["digest"] or match["tag"] or "latest")
