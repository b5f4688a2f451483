"""The script that collects the garbage of one store, in a throwaway container on the Docker host.

The container has the image, the user and the data mount of a process that writes to the store. It has no network, no
capabilities and no secrets. It ends when its standard input ends or says nothing for 20 seconds. With the container,
its locks end, and the processes that paused serve again. So nothing outlives a killed command or a lost connection.
"""

from __future__ import annotations

from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import PAUSE, WRITING
from operations.gc.target import Target

LABEL = "registry-stack.gc"
#: Removes the containers of commands that were killed before the container started. A started container removes itself.
#: The age spares the containers of commands that run at the same time.
PRUNE = ("container", "prune", "--force", f"--filter=label={LABEL}", "--filter=until=10s")
#: The status of the last run, beside distribution's tree.
STATUS_FILE = ".gc.json"
#: Seconds between two signs of life on standard input. The script gives up after 20 seconds without a sign.
ALIVE_EVERY = 4
#: Half seconds in which the processes drain. A longer upload goes on, and the script tries again later.
_DRAIN_WITHIN = 40

#: Collects the garbage of the store $0. A push counts as under way until nothing was written for $1 seconds. With $2,
#: the survey has the contents of all manifests. The script needs only busybox and distribution. Words on its input:
#: ``alive`` is a sign of life, ``go`` allows the collection, ``status TEXT`` writes the status file, ``end`` ends
#: the script. Lines on standard output:
#:
#: - empty: nothing was ever pushed. another: another collection runs. unpausable: the image or the store has no locks.
#:   After these lines, the script waits for ``end``;
#: - waiting PATH, while pushes are under way: a repository, or a part of it, that changed;
#: - survey. Then come the files of the store, "BYTES blobs/…" and "repositories/…/_manifests/revisions/…/link";
#:   "document BYTES PATH" for each manifest; "contents", and the contents of these documents;
#: - eligible DIGEST, for each blob that a rehearsal with --dry-run would delete; then "rehearsed", or "stumbled
#:   REPOSITORY: REASON". Then the script waits for ``go``;
#: - pausing; then "interrupted", if a push began meanwhile or does not end. The script then starts again;
#: - "- FILE" or "+ FILE" for each file of the survey that is gone or new after the collection;
#: - collected, or failed REASON. Writing pauses until the command has checked the rest and says ``end``.
#:
#: `find -newer` compares whole seconds. distribution begins the output of each repository with a line of its name.
SCRIPT = rf"""
cd "$0" || exit
quiet=$1 checked=$2 ours= work=$(mktemp -d) || exit
tree=docker/registry/v2
printf '%s\n' 'version: 0.1' 'log: {{level: error}}' "storage: {{filesystem: {{rootdirectory: $0}}}}" \
  > "$work/config.yml"
append() {{ sed "s|\$|/$1|"; }}
valid() {{ grep -v '[^a-zA-Z0-9/_.-]'; }}
entries() {{ xargs -r sh -c 'exec find "$@" -mindepth "$0" -maxdepth "$0"' "$1" | valid; }}
# Wait for a word. Return 1 if the script has to end.
await() {{
  until [ -e "$work/$1" ] || [ -e "$work/end" ]; do sleep 0.2; done
  [ -e "$work/$1" ] && rm "$work/$1"
}}

# Print the files and folders of pushes that changed since the survey, down to the folder of each link.
changed() {{
  find "$tree/repositories" -mindepth 1 -path '*/_manifests/tags' -prune -o -newer "$work/stamp" -print -o \
    \( -path '*/_layers/*/*' -o -path '*/_manifests/revisions/*/*' \) -prune 2> /dev/null | head -n 1
}}
wait_for_quiet() {{
  while :; do
    touch -d "@$(($(date +%s) - quiet))" "$work/stamp"
    busy=$(changed)
    [ "$busy" ] || return
    echo "waiting ${{busy#"$tree/repositories/"}}"
    sleep $((quiet < 5 ? quiet : 5))
  done
}}
# List all blobs and the links of all manifests. Files that vanish meanwhile were deleted.
list() {{
  cd "$tree" && {{
    echo blobs | entries 3 | append data | xargs -r stat -c '%s %n'
    find repositories \( -name _layers -o -name _uploads \) -prune -o -name _manifests -prune -print | valid |
      append revisions | entries 2 | append link | xargs -r stat -c %n
  }} 2> /dev/null
  cd "$0"
}}
# Print the manifests among the listed files. The registry accepts no manifest above 4 MiB.
manifests() {{
  awk -F / '/^[0-9]+ blobs/ {{ split($1, size, " "); if (size[1] <= 4194304) small[$4] = size[1]; next }}
    {{ hex = $(NF - 1) }} hex in small && !seen[hex]++ {{
      print "document", small[hex], "blobs/" $(NF - 2) "/" substr(hex, 1, 2) "/" hex "/data"
    }}' "$work/before" > "$work/documents"
  [ "$checked" ] || : > "$work/documents"
  cat "$work/documents"
  echo contents
  cut -d ' ' -f 3 "$work/documents" | (cd "$tree" && xargs -r cat)
}}
# distribution stops at a repository without _layers. A mirror makes one if its clients ask for an index alone.
complete() {{
  find "$tree/repositories" -name _manifests -prune -print | while IFS= read -r found; do
    [ -d "${{found%_manifests}}_layers" ] || mkdir "${{found%_manifests}}_layers"
  done
}}
rehearse() {{
  {{ registry garbage-collect --dry-run "$work/config.yml" 2> "$work/errors"; echo "status $?"; }} | awk '
    /^blob eligible/ {{ print "eligible", $NF }}
    !/[: ]/ && NF {{ name = $0 }}
    /^status/ {{ if ($2) printf "stumbled %s: ", name; else print "rehearsed"; status = $2 }}
    END {{ exit status }}' || reason
}}
reason() {{ said=$(grep . "$work/errors" | tail -n 1) && echo "$said"; }}
pause() {{
  echo pause >&8
  left={_DRAIN_WITHIN}
  until flock -x -n 9; do
    left=$((left - 1))
    [ $left -gt 0 ] && sleep 0.5 || return
  done
  [ ! "$(changed)" ]
}}
resume() {{ : > {PAUSE}; flock -u 9; }}

collect() {{
  [ -d "$tree/repositories" ] && [ -d "$tree/blobs" ] || {{ echo empty; return; }}
  [ -e {WRITING} ] && command -v flock > /dev/null || {{ echo unpausable; return; }}
  exec 8>> {PAUSE} 9>> {WRITING}
  flock -x -n 8 || {{ echo another; return; }}
  ours=1
  while :; do
    complete
    wait_for_quiet
    echo survey
    list > "$work/before"
    cat "$work/before"
    manifests
    rehearse
    await go || return
    echo pausing
    pause && break
    resume
    echo interrupted
    sleep 1
  done
  registry garbage-collect --quiet "$work/config.yml" > /dev/null 2> "$work/errors"
  status=$?
  list > "$work/after"
  awk 'NR == FNR {{ old[$0]; next }} $0 in old {{ delete old[$0]; next }} {{ print "+", $0 }}
    END {{ for (each in old) print "-", each }}' "$work/before" "$work/after"
  [ $status = 0 ] && echo collected || echo "failed $(reason)"
}}

{{ (collect; await end; [ ! "$ours" ] || resume); touch "$work/ended"; }} &
while read -t 20 -r word rest && [ ! -e "$work/ended" ]; do
  case $word in
    status) printf '%s\n' "$rest" > {STATUS_FILE}.new && mv {STATUS_FILE}.new {STATUS_FILE} ;;
    go) touch "$work/go" ;;
    end)
      touch "$work/end"
      for tenth in $(seq 50); do [ ! -e "$work/ended" ] || exit 0; sleep 0.1; done
      break
      ;;
  esac
done
kill -KILL -- -$$
exit 1
"""


def throwaway(target: Target, quiet: int, *, checked: bool) -> list[str]:
    """Return the arguments of ``docker`` that run the script on a store."""
    return [
        "run",
        "--interactive",
        "--rm",
        f"--label={LABEL}",
        "--pull=never",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--log-driver=none",
        "--tmpfs=/tmp",
        f"--user={target.user}",
        f"--mount=type={target.kind},source={target.source},target={DATA_DIRECTORY}",
        "--entrypoint=",
        target.image,
        *("sh", "-c", SCRIPT, DATA_DIRECTORY, str(quiet), "checked" if checked else ""),
    ]
