"""Read the registry's store with one throwaway container on the Docker host.

The container has the reader's image, user and data mount, so it may read what the reader may read. It has no network,
no capabilities and no secrets. It cannot write to the data.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.docker_command import docker, said, unreachable
from operations.history.store import Store, TagLinks

#: Prints the store $0 of distribution. ``$1`` selects the documents: those of "repositories/$1", or all manifests if $1
#: is empty. The script needs only busybox. It starts no process per file and opens no folder that holds a single file:
#: a store may have 100,000 of both. These lines come out:
#:
#: - repositories/NAME/_layers, for each repository;
#: - repositories/NAME/_manifests/tags/TAG/current/link:DIGEST;
#: - TIME repositories/NAME/_manifests/tags/TAG/current/link, and the same with …/TAG/index/ALGORITHM/HEX/link;
#: - TIME repositories/NAME/_manifests/revisions/ALGORITHM/HEX/link;
#: - BYTES blobs/ALGORITHM/HE/HEX/data;
#: - document blobs/ALGORITHM/HE/HEX/data, for each document whose content follows after the line "contents".
#:
#: Files that vanish meanwhile were deleted, so only other errors make the script fail.
SCRIPT = r"""
export TZ=UTC0
cd "$0" || exit
[ -d docker/registry/v2/repositories ] || exit 0
cd docker/registry/v2 && work=$(mktemp -d) || exit
exec 3>&2 2> "$work/errors"
append() { sed "s|\$|/$1|"; }
valid() { grep -v '[^a-zA-Z0-9/_.-]'; }
# Print the entries that lie $1 levels below the folders on standard input.
entries() { xargs -r sh -c 'exec find "$@" -mindepth "$0" -maxdepth "$0"' "$1" | valid; }

find repositories \( -name _layers -o -name _uploads -o -name _manifests \) -prune -print | valid > "$work/folders"
grep '/_layers$' "$work/folders"
grep '/_manifests$' "$work/folders" > "$work/manifests"
append tags < "$work/manifests" | entries 1 > "$work/tags"
append current/link < "$work/tags" > "$work/current"
xargs -r grep -H '' < "$work/current"
append index < "$work/tags" | entries 2 | append link | cat "$work/current" - | xargs -r stat -c '%y %n'
append revisions < "$work/manifests" | entries 2 | append link | xargs -r stat -c '%y %n' > "$work/pushed"
cut -d ' ' -f 4 "$work/pushed" > "$work/revisions"
echo blobs | entries 3 | append data | xargs -r stat -c '%s %n' > "$work/blobs"
cat "$work/pushed" "$work/blobs"

# Of the blobs on standard input, list those that may be a document: the registry accepts no manifest above 4 MiB.
documents() {
  awk 'NR == FNR { if ($1 <= 4194304) small[$2]; next } $1 in small { print "document", $1; delete small[$1] }' \
    "$work/blobs" -
}
contents() { cut -d ' ' -f 2 "$1" | xargs -r cat || echo 'not all documents can be read' >&2; }
awk -F / -v below="repositories/$1" 'index($0, below) == 1 {
  print "blobs/" $(NF - 2) "/" substr($(NF - 1), 1, 2) "/" $(NF - 1) "/data"
}' "$work/revisions" | documents > "$work/documents"
if [ "$1" ]; then
  # The first digest after "config": is that of the configuration, whatever else its descriptor has.
  contents "$work/documents" | tr -d ' \t\r\n' | tr '{}' '\n\n' | awk '
    /"config":$/ { wanted = 1 }
    wanted && match($0, /"digest":"[a-z0-9]+:[0-9a-f]+"/) {
      split(substr($0, RSTART + 10, RLENGTH - 11), digest, ":")
      print "blobs/" digest[1] "/" substr(digest[2], 1, 2) "/" digest[2] "/data"
      wanted = 0
    }' | documents > "$work/configurations"
  cat "$work/configurations" >> "$work/documents"
fi
cat "$work/documents"
echo contents
contents "$work/documents"
! grep -v 'No such file or directory' "$work/errors" >&3
"""

LABEL = "registry-stack.history"
#: Removes the containers of commands that were killed before the container started. A started container removes itself.
#: The age spares the containers of commands that run at the same time.
PRUNE = ("container", "prune", "--force", f"--filter=label={LABEL}", "--filter=until=10s")

_HASH = "([a-z0-9]+)/([0-9a-f]+)"
_TAG = "repositories/(.+)/_manifests/tags/([^/]+)"
_TIME = r"([0-9-]{10} [0-9:]{8}\.[0-9]{6})[0-9]* \+0000"
_CURRENT, _MOVED, _PUSHED, _REPOSITORY, _REVISION, _BLOB, _DOCUMENT = (
    re.compile(f"^{line}$", re.MULTILINE)
    for line in (
        rf"{_TAG}/current/link:([a-z0-9]+:[0-9a-f]{{32,}})",
        rf"{_TIME} {_TAG}/current/link",
        rf"{_TIME} {_TAG}/index/{_HASH}/link",
        "repositories/(.+)/_layers",
        rf"{_TIME} repositories/(.+)/_manifests/revisions/{_HASH}/link",
        "([0-9]+) blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data",
        "document blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data",
    )
)


def read_store(host: str, reader: str, repository: str | None, *, restore: str) -> Store:
    """Read the store of the container ``reader``, with all documents of ``repository``, or with the manifests of all.

    ``restore`` is the command that restores the container.

    Raises:
        Failure: if the host does not answer, if the reader is gone, or if a file cannot be read.
    """
    inspected = inspected_reader(host, reader, restore=restore)
    answer = docker(host, *throwaway(inspected, repository), within=None)
    if answer.returncode == 125:  # Docker's own failure
        raise unreachable(host, said(answer))
    if answer.returncode:
        raise Failure(f"cannot read the registry's data on {host}: {said(answer)}", _fix(host, inspected, said(answer)))
    return parsed(answer.stdout)


def inspected_reader(host: str, reader: str, *, restore: str) -> dict[str, Any]:
    """Return what Docker knows about the container ``reader``, for ``alongside``. Remove what killed commands left.

    Raises:
        Failure: if the host does not answer, or if the reader or its data is gone.
    """
    answer = docker(host, "container", "inspect", reader)
    if b"no such container" in answer.stderr.lower():
        raise Failure(f"the container {reader} of the registry is gone from {host}", restore)
    if answer.returncode:
        raise unreachable(host, said(answer))
    inspected: dict[str, Any] = json.loads(answer.stdout)[0]
    if not _data(inspected):
        raise Failure(f"the container {reader} on {host} has no data in {DATA_DIRECTORY}", restore)
    docker(host, *PRUNE)
    return inspected


def throwaway(reader: Mapping[str, Any], repository: str | None) -> list[str]:
    """Return the arguments of ``docker`` that read the data of the inspected container ``reader``."""
    return alongside(reader, SCRIPT, DATA_DIRECTORY, f"{repository}/_manifests/" if repository else "")


def alongside(reader: Mapping[str, Any], script: str, *arguments: str, writes: bool = False) -> list[str]:
    """Return the arguments of ``docker`` that run a script of the shell on the data of the inspected ``reader``.

    A script that ``writes`` gets standard input, and may change the data. The container keeps nothing: its temporary
    files are in memory, and no log of its output is written to the disk.
    """
    ((kind, source),) = _data(reader)
    return [
        "run",
        "--rm",
        *(["--interactive"] if writes else []),
        f"--label={LABEL}",
        "--pull=never",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--log-driver=none",
        "--tmpfs=/tmp",
        f"--user={reader['Config']['User']}",
        f"--mount=type={kind},source={source},target={DATA_DIRECTORY}{'' if writes else ',readonly'}",
        "--entrypoint=",
        reader["Image"],
        *("sh", "-c", script, *arguments),
    ]


def parsed(output: bytes) -> Store:
    """Return the store that the script printed. Files that the registry did not write are left out."""
    listing, _, contents = output.partition(b"\ncontents\n")
    text = listing.decode(errors="replace")
    current = {(repository, tag): digest for repository, tag, digest in _CURRENT.findall(text)}
    moved = {(repository, tag): _moment(time) for time, repository, tag in _MOVED.findall(text)}
    pushed: defaultdict[tuple[str, str], dict[str, datetime.datetime]] = defaultdict(dict)
    for time, repository, tag, algorithm, encoded in _PUSHED.findall(text):
        pushed[repository, tag][f"{algorithm}:{encoded}"] = _moment(time)
    revisions: defaultdict[str, dict[str, datetime.datetime]] = defaultdict(dict)
    for time, repository, algorithm, encoded in _REVISION.findall(text):
        revisions[repository][f"{algorithm}:{encoded}"] = _moment(time)
    blobs = {f"{algorithm}:{encoded}": int(size) for size, algorithm, encoded in _BLOB.findall(text)}
    documents = [f"{algorithm}:{encoded}" for algorithm, encoded in _DOCUMENT.findall(text)]
    repositories: dict[str, dict[str, TagLinks]] = {name: {} for name in (*_REPOSITORY.findall(text), *revisions)}
    for repository, tag in moved.keys() | pushed.keys():
        links = pushed[repository, tag]
        repositories.setdefault(repository, {})[tag] = TagLinks(
            current=current.get((repository, tag)),
            moved=moved.get((repository, tag)) or max(links.values()),
            pushed=links,
        )
    return Store(
        repositories=repositories,
        revisions={name: frozenset(revisions[name]) for name in repositories},
        blobs=blobs,
        documents=dict(_split(contents, documents, blobs)),
        pushed={name: revisions[name] for name in repositories},
    )


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def _split(contents: bytes, documents: list[str], sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield each document with its content."""
    start = 0
    for digest in documents:
        end = start + sizes[digest]
        yield digest, contents[start:end]
        start = end


def _data(reader: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the reader's data mount: its type, with the name of the volume or the path of the folder."""
    return [
        (mount["Type"], mount["Source"] if mount["Type"] == "bind" else mount["Name"])
        for mount in reader["Mounts"]
        if mount["Destination"] == DATA_DIRECTORY
    ]


def _fix(host: str, reader: Mapping[str, Any], reason: str) -> str:
    if "permission denied" not in reason.lower():
        return "run the command again: a delete or a garbage collection may have removed a file meanwhile"
    ((_, source),) = _data(reader)
    owner, image = reader["Config"]["User"], reader["Config"]["Image"]
    run = ("run", "--rm", "--network=none", "--user=0", "--entrypoint=", f"--volume={source}:/data", image)
    return shlex.join(["docker", "--host", host, *run, "chown", "-R", owner, "/data"])
