"""Run the ``docker`` command against a Docker host. It also reaches hosts over ``ssh://``."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from components.configuration.problems import Failure

#: Seconds after which a Docker host counts as unreachable.
ANSWERS_WITHIN = 20
#: What Docker says of a container or image that is gone. "No such file" or "no such host" means that it cannot answer.
_GONE = re.compile(rb"no such (?:container|image|object)\b", re.IGNORECASE)


def docker(
    host: str, *arguments: str, within: int | None = ANSWERS_WITHIN, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run ``docker`` with ``arguments`` and ``stdin``. The caller judges the exit status.

    Raises:
        Failure: if the command cannot start, or if it takes longer than ``within`` seconds.
    """
    try:
        return subprocess.run(
            ["docker", "--host", host, *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=within,
        )
    except subprocess.TimeoutExpired:
        raise unreachable(host, f"no answer within {within} seconds") from None
    except OSError as error:
        raise Failure(
            f"cannot start `docker`: {error.strerror}", "install the docker command, or add it to PATH"
        ) from None


def inspected(host: str, containers: Sequence[str]) -> list[dict[str, Any]]:
    """Return containers as `docker inspect` shows them, without those that are gone.

    Raises:
        Failure: if the host does not answer.
    """
    if not containers:
        return []
    answer = docker(host, "container", "inspect", *containers)
    if not is_complete(answer):
        raise unreachable(host, said(answer))
    found: list[dict[str, Any]] = json.loads(answer.stdout or "[]")
    return found


def is_complete(answer: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether `docker inspect` lacks nothing but containers or images that are gone."""
    lines = answer.stderr.strip().splitlines()
    return not answer.returncode or bool(lines and all(_GONE.search(line) for line in lines if line))


def said(answer: subprocess.CompletedProcess[bytes]) -> str:
    """Return the last line that a failed command printed on standard error."""
    lines = answer.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {answer.returncode}"


def unreachable(host: str, reason: str) -> Failure:
    """Return the failure for a Docker host that does not answer."""
    return Failure(f"{host} does not answer: {reason}", f"docker --host {host} info")
