"""Read the registry's store with one throwaway container beside the reader, which cannot write to the data."""

from __future__ import annotations

import datetime
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.docker_command import docker, said, unreachable
from operations.history.store import Store, TagLinks
from operations.stack import Deployed, StackConfig
from operations.throwaway import LISTING, Data, data_of, on_data

#: Prints the store $0 of distribution. ``$1`` selects the documents: those of "repositories/$1", or all manifests if $1
#: is empty. The script needs only busybox. These lines come out:
#:
#: - repositories/NAME/_layers, for each repository;
#: - repositories/NAME/_manifests/tags/TAG/current/link:DIGEST;
#: - TIME repositories/NAME/_manifests/tags/TAG/current/link, and the same with …/TAG/index/ALGORITHM/HEX/link;
#: - TIME BYTES repositories/NAME/_manifests/revisions/ALGORITHM/HEX/link;
#: - BYTES blobs/ALGORITHM/HE/HEX/data;
#: - document blobs/ALGORITHM/HE/HEX/data, for each document whose content follows after the line "contents".
#:
#: Files that vanish meanwhile were deleted, so only other errors make the script fail.
SCRIPT = (
    LISTING
    + r"""
export TZ=UTC0
cd "$0" || exit
[ -d docker/registry/v2/repositories ] || exit 0
cd docker/registry/v2 && work=$(mktemp -d) || exit
exec 3>&2 2> "$work/errors"

find repositories \( -name _layers -o -name _uploads -o -name _manifests \) -prune -print | valid > "$work/folders"
grep '/_layers$' "$work/folders"
grep '/_manifests$' "$work/folders" > "$work/manifests"
append tags < "$work/manifests" | entries 1 > "$work/tags"
append current/link < "$work/tags" > "$work/current"
xargs -r grep -H '' < "$work/current"
append index < "$work/tags" | entries 2 | append link | cat "$work/current" - | xargs -r stat -c '%y %n'
append revisions < "$work/manifests" | entries 2 | append link | xargs -r stat -c '%y %s %n' > "$work/pushed"
cut -d ' ' -f 5 "$work/pushed" > "$work/revisions"
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
)

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
        rf"{_TIME} ([0-9]+) repositories/(.+)/_manifests/revisions/{_HASH}/link",
        "([0-9]+) blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data",
        "document blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data",
    )
)


def read_store(config: StackConfig, deployed: Deployed, repository: str | None = None) -> Store:
    """Read the store of the registry, with all documents of ``repository``, or with the manifests of all.

    Raises:
        Failure: if the host does not answer, if the reader is gone, or if a file cannot be read.
    """
    host, data = deployed.docker_host, data_of(config, deployed, "reader")
    answer = docker(host, *throwaway(data, repository), within=None)
    if answer.returncode == 125:  # Docker's own failure
        raise unreachable(host, said(answer))
    if answer.returncode:
        raise Failure(f"cannot read the registry's data on {host}: {said(answer)}", _fix(host, data, said(answer)))
    return parsed(answer.stdout)


def throwaway(data: Data, repository: str | None) -> list[str]:
    """Return the arguments of ``docker`` that read the data."""
    return on_data(data, SCRIPT, DATA_DIRECTORY, f"{repository}/_manifests/" if repository else "")


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
    damaged: defaultdict[str, set[str]] = defaultdict(set)
    for time, size, repository, algorithm, encoded in _REVISION.findall(text):
        digest = f"{algorithm}:{encoded}"
        revisions[repository][digest] = _moment(time)
        if int(size) != len(digest):  # a link has its digest and no more; a loss of power leaves empty ones
            damaged[repository].add(digest)
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
        damaged={name: frozenset(digests) for name, digests in damaged.items()},
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


def _fix(host: str, data: Data, reason: str) -> str:
    if "permission denied" not in reason.lower():
        return "run the command again: a delete or a garbage collection may have removed a file meanwhile"
    run = ("run", "--rm", "--network=none", "--user=0", "--entrypoint=", f"--volume={data.source}:/data", data.image)
    return shlex.join(["docker", "--host", host, *run, "chown", "-R", data.user, "/data"])
