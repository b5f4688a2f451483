"""Logins in the configuration file of the docker command, which skopeo, podman and Kubernetes read as well."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from components.configuration.problems import Failure


def write_login(file: Path, registry: str, user: str, password: SecretStr) -> None:
    """Write the login to a ``config.json`` that only its owner can read; in an existing one, set its entry.

    Raises:
        Failure: if something else stands in the file, or if docker would not read the login from it.
    """
    config = _read(file) if file.exists() else {}
    helpers = config.get("credHelpers")
    if config.get("credsStore") or (isinstance(helpers, dict) and registry in helpers):
        raise Failure(
            f"{file} names a credential helper, so docker would not read a login from the file itself",
            "name another file",
        )
    entry = {"auth": base64.b64encode(f"{user}:{password.get_secret_value()}".encode()).decode()}
    config["auths"] = config.get("auths", {}) | {registry: entry}
    _write_private(file, json.dumps(config, indent="\t") + "\n")


def _read(file: Path) -> dict[str, Any]:
    fix = "name a file that does not exist yet, or the config.json of a docker command"
    if not file.is_file():  # reading a pipe would wait for ever
        raise Failure(f"{file} is no file, and it is left alone", fix)
    try:
        config: Any = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no JSON"
        raise Failure(f"{file} is no Docker config.json, and it is left alone: {reason}", fix) from None
    is_known = isinstance(config, dict) and (not config or config.keys() & {"auths", "credsStore", "credHelpers"})
    if not is_known or not isinstance(config.get("auths", {}), dict):
        raise Failure(f"{file} is no Docker config.json, and it is left alone: it has no object `auths`", fix)
    return dict(config)


def _write_private(file: Path, text: str) -> None:
    """Replace a file by one that nobody else can read, not even for a moment."""
    target = file.resolve()  # a link keeps pointing to it
    try:
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # made with mode 0600
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror}", "name a file in a folder that you own") from None
    try:
        with os.fdopen(number, "w") as unfinished:
            unfinished.write(text)
        Path(name).replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise Failure(f"{file} cannot be written: {error.strerror}", "make room, or name another file") from None
