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
from operations.stack import StackConfig
from operations.throwaway import Data, on_data

FILE = f"{DATA_DIRECTORY}/.services.json"
#: A clock that differs by more from that of this machine is wrong.
_CLOCKS_DIFFER = datetime.timedelta(hours=1)
_READ = 'date -u +%s && if [ -e "$0" ]; then cat "$0"; else echo "{}"; fi'
#: Replaces the file as a whole, if all $1 bytes arrive: standard input of a killed command ends too early. Each run has
#: a hidden name of its own: two runs may write at once.
_WRITE = """
new=$(mktemp "$0.XXXXXX") && cat > "$new" && [ "$(wc -c < "$new")" -eq "$1" ] && mv "$new" "$0" && exit
rm -f "$new"
exit 1
"""


def read_memory(config: StackConfig, host: str, data: Data) -> tuple[datetime.datetime, Memory]:
    """Return the time of the Docker host and the memory, empty before the first plan.

    Raises:
        Failure: if the file cannot be read, because a plan without it could delete what a service needs to go back, or
            if the clock of the host is wrong.
    """
    seconds, _, text = _run(config, host, on_data(data, _READ, FILE)).partition(b"\n")
    now, here = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC), datetime.datetime.now(datetime.UTC)
    if abs(now - here) > _CLOCKS_DIFFER:
        raise Failure(
            f"the clock of {host} says {now:%Y-%m-%d %H:%M} UTC, and the clock of this machine says"
            f" {here:%Y-%m-%d %H:%M} UTC: with a wrong clock, young images look old",
            "set both clocks, for example with NTP",
        )
    try:
        return now, Memory.model_validate_json(text)
    except ValidationError:
        raise Failure(
            f"{FILE} in the registry's data on {host} is damaged",
            f"restore {FILE} from a backup, or delete the file: the plan then knows only what runs now",
        ) from None


def write_memory(config: StackConfig, host: str, data: Data, memory: Memory) -> None:
    """Write the memory.

    Raises:
        Failure: if the file cannot be written.
    """
    text = memory.model_dump_json().encode()
    _run(config, host, on_data(data, _WRITE, FILE, str(len(text)), writes=True), text)


def _run(config: StackConfig, host: str, arguments: list[str], stdin: bytes = b"") -> bytes:
    answer = docker(host, *arguments, within=60, stdin=stdin)
    if answer.returncode == 125:  # Docker's own failure
        raise unreachable(host, said(answer))
    if answer.returncode:
        is_full = "no space left" in said(answer).lower()
        gc = config.command("python", "-m", "operations", "gc")
        fix = f"free space, for example: {gc}" if is_full else f"docker --host {host} info"
        raise Failure(f"cannot use {FILE} in the registry's data on {host}: {said(answer)}", fix)
    return answer.stdout
