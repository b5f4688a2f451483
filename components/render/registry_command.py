"""The command of a distribution process, and whose store it may serve."""

from __future__ import annotations

from components.render.registry import DATA_DIRECTORY

#: Prints whose data the folder $1 holds if it is not that of $2, and nothing otherwise. A store that is older than the
#: mark: of a mirror, distribution keeps a list of what has to be removed when.
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
#: Runs the rest for the store $1 if it is that of $2. A mirror serves all that is in its store without a login, so one
#: that holds the private registry's data, by whatever mistake, must not start. Nothing depends on writing the mark: the
#: processes of the registry start together, those that read cannot write, and the disk may be full.
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
#: Uid and gid of its processes, as of "nonroot" in the images of distroless.
USER = "65532:65532"
#: Runs distribution with the configuration $0.
SERVE = 'exec registry serve "$0"'
#: Before that, where data lies in a folder of the host: no other user there reads what is written.
PRIVATELY = "umask 027; "


def store_mark(upstream: str | None = None) -> str:
    """Whose a store is: the registry's or, with the name of its ``upstream``, a mirror's."""
    return "registry" if upstream is None else f"mirror {upstream}"


def on_own_store(program: str, config: str, service: str, *, writes: bool) -> list[str]:
    """The command that runs a shell ``program`` with its ``config`` as $0, unless the store is that of another service.

    ``service`` is one that ``store_mark`` names. Nor does it run where it ``writes`` and may not.
    """
    return ["/bin/sh", "-c", _GUARD + program, config, DATA_DIRECTORY, service, "writes" if writes else "reads"]
