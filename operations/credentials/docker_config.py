"""Write logins to a Docker config.json. skopeo, podman and Kubernetes read this file too."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from components.configuration.problems import Failure
from operations.files import replace_file


def write_login(file: Path, registry: str, user: str, password: SecretStr) -> None:
    """Write the login to a ``config.json`` with mode 0600. An existing file keeps its other entries.

    Raises:
        Failure: if the file has other content, or if docker would not read the login from the file.
    """
    config = _read(file) if file.exists() else {}
    helpers = config.get("credHelpers")
    if config.get("credsStore") or (isinstance(helpers, dict) and registry in helpers):
        raise Failure(
            f"{file} configures a credential helper, so docker would not read a login from the file",
            "use another file",
        )
    entry = {"auth": base64.b64encode(f"{user}:{password.get_secret_value()}".encode()).decode()}
    config["auths"] = config.get("auths", {}) | {registry: entry}
    try:  # no other user can read the new file at any time
        replace_file(file, json.dumps(config, indent="\t") + "\n", mode=0o600)
    except OSError as error:
        fix = "free disk space, or use a file in a folder that you own"
        raise Failure(f"cannot write {file}: {error.strerror}", fix) from None


def _read(file: Path) -> dict[str, Any]:
    fix = "use a file that does not exist yet, or an existing Docker config.json"
    if not file.is_file():  # reading from a pipe would block
        raise Failure(f"{file} is not a regular file; nothing was written", fix)
    try:
        config: Any = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the file is not JSON"
        raise Failure(f"{file} is not a Docker config.json ({reason}); nothing was written", fix) from None
    is_known = isinstance(config, dict) and (not config or config.keys() & {"auths", "credsStore", "credHelpers"})
    if not is_known or not isinstance(config.get("auths", {}), dict):
        raise Failure(f"{file} is not a Docker config.json (no object `auths`); nothing was written", fix)
    return dict(config)
