"""Command of a distribution process, and the check that the process serves its own store."""

from __future__ import annotations

from components.render.registry import DATA_DIRECTORY

#: Prints the owner of the data in the folder $1 if the owner is not $2, otherwise nothing. A store older than the mark
#: is known by its files: in a mirror's store, distribution keeps ``scheduler-state.json``, the list of expiry times.
OTHER_OWNER = r"""
other_owner() {
  if [ -s "$1/.store" ]; then owner=$(cat "$1/.store")
  elif [ -e "$1/scheduler-state.json" ]; then owner=mirror
  elif [ -n "$(ls -A "$1/docker/registry/v2/repositories" 2> /dev/null)" ]; then owner=registry
  else owner=
  fi
  case $2 in
    "${owner:=$2}" | "$owner "*) ;;
    *) echo "$owner" ;;
  esac
}
"""
#: Runs the rest for the store $1 only if $2 owns the store. A mirror serves everything in its store without a login, so
#: a mirror must not start on the private registry's data. The start does not depend on writing the mark: the registry
#: processes start together, readers cannot write, and the disk may be full.
_GUARD = (
    OTHER_OWNER
    + r"""
owner=$(other_owner "$1" "$2")
if [ -n "$owner" ]; then
  echo "$1 has the data of the $owner, and this is the $2; if it is not so, write '$2' into $1/.store" >&2
  exit 1
fi
if [ ! -s "$1/.store" ]; then
  new=$1/.store.$(hostname)
  { echo "$2" > "$new" && mv "$new" "$1/.store"; } 2> /dev/null || rm -f "$new" 2> /dev/null
fi
if [ "$3" = writes ] && [ ! -w "$1" ]; then
  echo "$1 belongs to uid $(stat -c %u "$1"), and this process, which must write there, has the uid $(id -u);" \
    "for a volume: pulumi up --replace '**::stores-owner'" >&2
  exit 1
fi
"""
)
#: Uid and gid of the processes, the same as "nonroot" in distroless images.
USER = "65532:65532"
#: Runs distribution with the configuration $0.
SERVE = 'exec registry serve "$0"'
#: Files beside distribution's tree, in the store of every process that writes. A process that serves writes holds a
#: shared lock on ``WRITING``. A garbage collection holds an exclusive lock on ``PAUSE``, asks there for a pause, and
#: then holds an exclusive lock on ``WRITING``. The kernel releases the locks of a process that ends, however it ends.
WRITING, PAUSE = ".writing", ".pause"
#: Runs distribution like ``SERVE``, except while a garbage collection of the store $1 asks for a pause. Then
#: distribution drains and ends, and starts again when the garbage collection has ended. A process that drains for long
#: does not delay that start. A request for a pause that nobody holds was left by a killed garbage collection. Without
#: `flock` in the image, or on a file system without locks, a process cannot pause, and a garbage collection refuses.
SERVE_WITH_PAUSES = rf"""
command -v flock > /dev/null || {SERVE}
until [ -e "$1/{WRITING}" ] || touch "$1/{WRITING}"; do sleep 5; done
store=$1 former= serving=
asked() {{ [ -s "$store/{PAUSE}" ] && [ -r "$store/{PAUSE}" ] && ! flock -s -n "$store/{PAUSE}" true; }}
finish() {{
  for each in $former $serving; do kill -TERM "$each"; done 2> /dev/null
  for each in $former $serving; do wait "$each"; status=$?; done
  exit "$status"
}}
trap finish TERM QUIT
while :; do
  while asked; do sleep 1 & wait -n; done
  (flock -s 9; {SERVE}) 9< "$store/{WRITING}" &
  former=$serving serving=$!
  while kill -0 "$serving" 2> /dev/null && ! asked; do sleep 2 & wait -n; done
  asked || finish
  kill -TERM "$serving"
done
"""
#: Runs before ``SERVE`` in a process that takes uploads or fills a cache. While the disk of the store $1 is full, each
#: minute it removes unfinished uploads that got no data for a quarter of an hour: the proxies end a request that is
#: silent for so long. distribution keeps what a failed push or download left until ``upload_purge_age``, and every
#: push would fail for so long. The script empties each file first, because distribution may still hold it open.
FREE = r"""
full() { df -P "$1" | awk 'NR == 2 { used = $5 + 0 } END { exit used < 95 }'; }
while sleep 60; do
  ! full "$1" || find "$1/docker/registry/v2/repositories" \( -name _layers -o -name _manifests \) -prune -o \
    -path '*/_uploads/*/data' -mmin +15 -print 2> /dev/null | while IFS= read -r data; do
      size=$(stat -c %s "$data") && : > "$data" && rm -rf "${data%/data}" &&
        echo "the disk is full: removed ${data%/data}, an unfinished upload of $size bytes" >&2
    done
done &
"""
#: Runs before ``SERVE`` in a mirror: a process beside distribution that serves only the cache. Its errors, all of them
#: that the cache lacks something, would hide those of the mirror.
SERVE_CACHE = r"""
while :; do registry serve "${0%/*}/cache.yml" > /dev/null 2>&1; sleep 1; done &
"""
#: Runs before ``SERVE`` if data lies in a folder of the host: other users of the host cannot read new files.
PRIVATELY = "umask 027; "


def store_mark(upstream: str | None = None) -> str:
    """Return the mark of a store: of the registry or, with the name of its ``upstream``, of a mirror."""
    return "registry" if upstream is None else f"mirror {upstream}"


def on_own_store(program: str, config: str, service: str, *, writes: bool) -> list[str]:
    """Return the command that runs a shell ``program`` with ``config`` as $0, unless another service owns the store.

    ``service`` is a mark from ``store_mark``. With ``writes``, the program also needs the right to write to the store.
    """
    return ["/bin/sh", "-c", _GUARD + program, config, DATA_DIRECTORY, service, "writes" if writes else "reads"]
