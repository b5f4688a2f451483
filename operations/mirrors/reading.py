"""Ask the mirrors' containers on the Docker host for their state, counters, caches and logs."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from components.configuration.naming import COUNTERS_PORT
from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.docker_command import docker, inspected
from operations.mirrors.counters import Usage, usage
from operations.mirrors.log import LogError, last_error

#: Most mirrors that the command asks at once. Over ``ssh://``, each question opens a connection.
_AT_ONCE = 4
#: Lines of the log in which the command looks for the last error.
LOG_LINES = 2000
#: Seconds after which a container counts as silent. The script's own limits end earlier.
_WITHIN = 60

#: Prints what a mirror with the health check URL $0 says: a line "answers" if it serves the API, from port $1 its
#: counters and the start of its process, "size KIBIBYTES" of the cache in $2, and "content OLDEST NEWEST". Times are in
#: seconds since 1970. The script needs only busybox. A slow disk makes the last two lines missing, and nothing slow.
#:
#: The time of a blob's file is the time of its download. An expired manifest leaves its file; so the oldest content is
#: the oldest file that distribution has scheduled to expire. Without a schedule, every file counts.
SCRIPT = r"""
timeout 5 wget -q -O /dev/null "$0v2/" && echo answers
timeout 5 wget -q -O - "http://127.0.0.1:$1/metrics" | grep -e '^registry_proxy_' -e '^process_start_time_seconds '
cd "$2" || exit
timeout 15 du -sk . | sed -n 's/^\([0-9]*\).*/size \1/p'
[ -d docker/registry/v2/blobs ] || exit 0
timeout 15 sh -c '
  if [ -s scheduler-state.json ]; then
    echo scheduled
    grep -o "sha256:[0-9a-f]*" scheduler-state.json
  fi
  find docker/registry/v2/blobs -type f -name data -print | xargs -r stat -c "%Y %n"
  echo end
' | awk '
  $1 == "scheduled" { scheduled = 1; next }
  /^sha256:/ { keeps[substr($1, 8)]; next }
  /^end/ { if (newest) print "content", oldest ? oldest : "-", newest; exit }
  {
    count = split($2, part, "/")
    if ($1 > newest) newest = $1
    if ((!scheduled || part[count - 1] in keeps) && (!oldest || $1 < oldest)) oldest = $1
  }'
exit 0
"""
_SIZE = re.compile(r"^size (\d+)$", re.MULTILINE)
_STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_CONTENT = re.compile(r"^content (\d+|-) (\d+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The cache on disk: its size in bytes, and when the oldest and newest content was downloaded."""

    size: int | None = None
    oldest: datetime.datetime | None = None
    newest: datetime.datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """A mirror as its container shows it. ``state`` is the result of the health check, or why the container is not up.

    ``since`` is the start of the process, from which its counters count: after a garbage collection, it is later than
    the start of the container. What the container does not tell is None.
    """

    container: str
    state: str
    answers: bool = False
    since: str | None = None
    usage: Usage | None = None
    cache: Cache = Cache()
    last_error: LogError | None = None

    @property
    def reachable(self) -> bool:
        """Whether the container is healthy and answered the command."""
        return self.state == "healthy" and self.answers


def read_mirrors(host: str, containers: Sequence[str]) -> list[Mirror]:
    """Return the mirrors in these containers.

    Raises:
        Failure: if the Docker host does not answer.
    """
    found = {one["Name"].removeprefix("/"): one for one in inspected(host, containers)}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda name: _mirror(host, name, found.get(name)), containers))


def _mirror(host: str, name: str, container: Mapping[str, Any] | None) -> Mirror:
    if container is None:
        return Mirror(container=name, state="missing")
    log = docker(host, "logs", f"--tail={LOG_LINES}", name, within=_WITHIN)
    error = last_error(log.stderr.decode(errors="replace"))
    state = container["State"]
    if state["Status"] != "running":
        return Mirror(container=name, state=state["Status"], last_error=error)
    url = container["Config"]["Healthcheck"]["Test"][-1]
    words = ("sh", "-c", SCRIPT, url, str(COUNTERS_PORT), DATA_DIRECTORY)
    try:
        text = docker(host, "exec", name, *words, within=_WITHIN).stdout.decode(errors="replace")
    except Failure:  # a container that hangs, for example on its disk, must not hide the other mirrors
        text = ""
    return Mirror(
        container=name,
        state=state["Health"]["Status"],
        answers="answers" in text.splitlines(),
        since=_started(text) or state["StartedAt"],
        usage=usage(text),
        cache=cache(text),
        last_error=error,
    )


def cache(text: str) -> Cache:
    """Return the cache that the script described."""
    size, content = _SIZE.search(text), _CONTENT.search(text)
    oldest, newest = content.groups() if content else ("-", "-")
    return Cache(size=int(size[1]) * 1024 if size else None, oldest=_moment(oldest), newest=_moment(newest))


def _started(text: str) -> str | None:
    found = _STARTED.search(text)
    return f"{datetime.datetime.fromtimestamp(float(found[1]), datetime.UTC):%Y-%m-%dT%H:%M:%SZ}" if found else None


def _moment(seconds: str) -> datetime.datetime | None:
    return None if seconds == "-" else datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
