"""Types of container images: an exact tag, and the oldest version of each program that the stack works with.

The text of a ``ValueError`` raised here describes the *allowed* values, like in ``fields.py``.
"""

from __future__ import annotations

import re
from typing import Annotated

from components.configuration.fields import is_origin, text

_IMAGE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/-]*(?::(?P<port>\d{1,5})/[a-z0-9._/-]+)?):(?P<tag>[A-Za-z0-9_][\w.-]{0,127})(?P<digest>@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-[\w.-]+)?", re.ASCII)


def _image(value: str) -> str:
    match = _IMAGE.fullmatch(value)
    is_exact = match and (match["digest"] or _VERSION.fullmatch(match["tag"]))
    if not match or not is_exact or not is_origin("localhost", match["port"]):
        raise ValueError(
            "an image with an exact tag (all three numbers of a version), like caddy:2.11.7-alpine, or with a tag and a"
            " digest, like caddy:alpine@sha256:…; a moving tag such as latest or 2 can change the image at any time"
        )
    return value


def _registry_image(value: str) -> str:
    match = _IMAGE.fullmatch(_image(value))
    assert match is not None
    version = _version(match["tag"])
    if not version or version < (3, 1, 2):
        raise ValueError(
            "distribution 3.1.2 or newer with all three numbers in the tag, like registry:3.1.2. In older versions, a"
            " pull-through cache can store content that does not match its digest (CVE-2026-85747)"
        )
    return value


def _caddy_image(value: str) -> str:
    return _not_older(
        value, (2, 11, 5), "Caddy 2.11.5 or newer: older versions wait for stalled clients without a limit"
    )


def _nginx_image(value: str) -> str:
    return _not_older(
        value,
        (1, 29, 7),
        "nginx 1.29.7 or newer: older versions open a new connection to the registry for each request",
    )


def _not_older(value: str, oldest: tuple[int, ...], wanted: str) -> str:
    """Refuse an image whose tag is a version before ``oldest``; an image with a digest may have any tag."""
    match = _IMAGE.fullmatch(_image(value))
    assert match is not None
    version = _version(match["tag"])
    if not match["digest"] and version and version < oldest:
        raise ValueError(f"{wanted}. If your image has its own version numbers, add the digest (NAME:TAG@sha256:…)")
    return value


def _version(tag: str) -> tuple[int, ...] | None:
    match = _VERSION.fullmatch(tag)
    return tuple(int(part) for part in match.groups()) if match else None


RegistryImage = Annotated[str, text(_registry_image)]
CaddyImage = Annotated[str, text(_caddy_image)]
NginxImage = Annotated[str, text(_nginx_image)]
