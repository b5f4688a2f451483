"""The memory of services: a file beside the data, so that it moves and is restored with the data.

The same throwaway container tells the time of the Docker host: the times of pushes are from its clock.
"""

from __future__ import annotations

import datetime

from pydantic import ValidationError

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.docker_command import docker, said, unreachable
from operations.retention.usage import Memory
from operations.throwaway import Data, on_data

FILE = f"{DATA_DIRECTORY}/.services.json"
_READ = 'date -u +%s && if [ -e "$0" ]; then cat "$0"; fi'
#: Replaces the file as a whole. A hidden name of its own for each run: two runs may write at once.
_WRITE = 'new=$(mktemp "$0.XXXXXX") && cat > "$new" && mv "$new" "$0" || { rm -f "$new"; exit 1; }'


def read_memory(host: str, data: Data) -> tuple[datetime.datetime, Memory]:
    """Return the time of the Docker host and the memory, empty before the first plan.

    Raises:
        Failure: if the file cannot be read. A plan without it could delete what a service needs to go back.
    """
    seconds, _, text = _run(host, on_data(data, _READ, FILE)).partition(b"\n")
    now = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    try:
        return now, Memory.model_validate_json(text) if text.strip() else Memory()
    except ValidationError:
        raise Failure(
            f"{FILE} in the registry's data on {host} is damaged",
            f"restore {FILE} from a backup, or delete the file: the plan then knows only what runs now",
        ) from None


def write_memory(host: str, data: Data, memory: Memory) -> None:
    """Write the memory.

    Raises:
        Failure: if the file cannot be written.
    """
    _run(host, on_data(data, _WRITE, FILE, writes=True), memory.model_dump_json().encode())


def _run(host: str, arguments: list[str], stdin: bytes = b"") -> bytes:
    answer = docker(host, *arguments, within=60, stdin=stdin)
    if answer.returncode == 125:  # Docker's own failure
        raise unreachable(host, said(answer))
    if answer.returncode:
        is_full = "no space left" in said(answer).lower()
        fix = "free space, for example: python -m operations gc" if is_full else f"docker --host {host} info"
        raise Failure(f"cannot use {FILE} in the registry's data on {host}: {said(answer)}", fix)
    return answer.stdout
