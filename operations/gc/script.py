"""The script that collects the garbage of one store, in a throwaway container beside a process that writes there.

The container ends when its standard input ends or says nothing for 20 seconds. With the container, its locks end, and
the processes that paused serve again. So nothing outlives a killed command or a lost connection.
"""

from __future__ import annotations

from components.render.registry import DATA_DIRECTORY, MIRROR_DRAIN_SECONDS
from components.render.registry_command import PAUSE, WRITING
from operations.throwaway import LISTING, Data, on_data

#: The status of the last run, beside distribution's tree.
STATUS_FILE = ".gc.json"
#: Seconds between two signs of life on standard input. The script gives up after 20 seconds without a sign.
ALIVE_EVERY = 4
#: Tenths of a second in which the processes drain. A longer upload goes on, and the script tries again later. A mirror
#: cuts longer downloads, as at each restart, so that a second pause is not needed.
_DRAIN_WITHIN, _MIRROR_DRAIN_WITHIN = 200, 10 * MIRROR_DRAIN_SECONDS + 50

#: Collects the garbage of the store $0. A file of a push counts as changed for $1 seconds. With $2, a survey has the
#: contents of all manifests. The script needs only busybox and distribution. Words on its input: ``alive`` is a sign of
#: life, ``go`` and ``again`` are answers, ``status TEXT`` writes the status file, ``end`` ends the script. Lines on its
#: output:
#:
#: - empty: nothing was ever pushed. another: another collection runs. unpausable: the image or the store has no locks.
#:   After these lines, the script waits for ``end``;
#: - a survey: "changed PATH" for each file of an upload or link of a layer that changed; "BYTES blobs/…" and
#:   "repositories/…/_manifests/revisions/…/link" for each blob and manifest; "document BYTES PATH" for each manifest
#:   that is new since the last survey; "contents", and the contents of these documents;
#: - eligible DIGEST, for each blob that a rehearsal with --dry-run would delete; then "rehearsed", or "stumbled
#:   REPOSITORY: REASON" if distribution cannot read something. At ``go``, writing pauses, and at ``again``, the script
#:   starts again after a while;
#: - pausing; then "resumed", if a request does not end. The script starts again. Otherwise a survey, then "paused". At
#:   ``go``, the collection begins, and at ``again``, writing resumes, and the script starts again;
#: - "- FILE" or "+ FILE" for each file of the survey that is gone or new after the collection;
#: - collected, or failed REASON. Writing pauses until the command has checked the rest and says ``end``.
#:
#: `find -newer` compares whole seconds. distribution begins the output of each repository with a line of its name. The
#: name can be any word, but does not begin with a slash.
SCRIPT = (
    LISTING
    + rf"""
cd "$0" || exit
counts=$1 checked=$2 ours= work=$(mktemp -d) || exit
tree=docker/registry/v2
printf '%s\n' 'version: 0.1' 'log: {{level: error}}' "storage: {{filesystem: {{rootdirectory: $0}}}}" \
  > "$work/config.yml"
: > "$work/sent"
# Wait for an answer. Return 0 for go.
answered() {{
  until [ -e "$work/go" ] || [ -e "$work/again" ] || [ -e "$work/end" ]; do sleep 0.1; done
  [ -e "$work/go" ]
  answer=$?
  rm -f "$work/go" "$work/again"
  return $answer
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
# The registry accepts no manifest above 4 MiB.
survey() {{
  now=$(date +%s)
  touch -d "@$((now - counts))" "$work/stamp"
  touch -d "@$((now + counts))" "$work/future"  # a file from a time when the clock was wrong would count for ever
  (cd "$tree" && find repositories -name _manifests -prune -o -path '*/_layers/*/*' ! -newer "$work/stamp" -prune -o \
    -newer "$work/stamp" ! -newer "$work/future" -type f -print) 2> /dev/null | sed 's/^/changed /'
  list > "$work/before"
  cat "$work/before"
  : > "$work/documents"
  [ ! "$checked" ] || awk -F / 'FILENAME ~ "sent$" {{ seen[$4]; next }}
    /^[0-9]+ blobs/ {{ split($1, size, " "); if (size[1] <= 4194304) small[$4] = size[1]; next }}
    {{ hex = $(NF - 1) }} hex in small && !(hex in seen) {{
      seen[hex]
      print "document", small[hex], "blobs/" $(NF - 2) "/" substr(hex, 1, 2) "/" hex "/data"
    }}' "$work/sent" "$work/before" > "$work/documents"
  cat "$work/documents"
  echo contents
  cut -d ' ' -f 3 "$work/documents" | tee -a "$work/sent" | (cd "$tree" && xargs -r cat) || exit
}}
# distribution stops at a repository without _layers. A mirror makes one if its clients ask for an index alone.
complete() {{
  find "$tree/repositories" -name _manifests -prune -print | while IFS= read -r found; do
    [ -d "${{found%_manifests}}_layers" ] || mkdir "${{found%_manifests}}_layers"
  done
}}
rehearse() {{
  {{ registry garbage-collect --dry-run "$work/config.yml" 2> "$work/errors"; echo "/status $?"; }} | awk '
    /^blob eligible/ {{ print "eligible", $NF }}
    !/[: ]/ && NF {{ name = $0 }}
    /^\/status / {{ if ($2) printf "stumbled %s: ", name; else print "rehearsed"; status = $2 }}
    END {{ exit status }}' || reason
}}
reason() {{ said=$(grep . "$work/errors" | tail -n 1); echo "${{said:-no reason given}}"; }}
pause() {{
  echo pausing
  truncate -s 1 {PAUSE}  # a hole, because the disk may be full
  [ "$checked" ] && left={_DRAIN_WITHIN} || left={_MIRROR_DRAIN_WITHIN}
  until flock -x -n 9; do
    left=$((left - 1))
    [ $left -gt 0 ] && sleep 0.1 || return
  done
}}
resume() {{ : > {PAUSE}; flock -u 9; }}

collect() {{
  [ -d "$tree/repositories" ] && [ -d "$tree/blobs" ] || {{ echo empty; return; }}
  # Nobody locks the mark of the store, so only an image or a file system without locks fails here.
  [ -e {WRITING} ] && flock -s -n .store true 2> /dev/null || {{ echo unpausable; return; }}
  exec 8>> {PAUSE} 9>> {WRITING}
  left=20  # a process that looks whether somebody holds this lock holds it for a moment
  until flock -x -n 8; do
    left=$((left - 1))
    [ $left -gt 0 ] && sleep 0.1 || {{ echo another; return; }}
  done
  ours=1
  : > {PAUSE}  # the request of a killed collection would take effect with the lock
  while :; do
    survey
    complete
    rehearse
    if answered; then
      if pause; then
        survey
        complete
        echo paused
        answered && break
      else
        echo resumed
      fi
      resume
    fi
    [ ! -e "$work/end" ] || return
    sleep 3
  done
  registry garbage-collect --quiet "$work/config.yml" > /dev/null 2> "$work/errors"
  status=$?
  list > "$work/after"
  awk 'NR == FNR {{ old[$0]; next }} $0 in old {{ delete old[$0]; next }} {{ print "+", $0 }}
    END {{ for (each in old) print "-", each }}' "$work/before" "$work/after"
  [ $status = 0 ] && echo collected || echo "failed $(reason)"
}}

{{ (collect; until [ -e "$work/end" ]; do sleep 0.1; done; [ ! "$ours" ] || resume); touch "$work/ended"; }} &
while read -t 20 -r word rest && [ ! -e "$work/ended" ]; do
  case $word in
    status) printf '%s\n' "$rest" > {STATUS_FILE}.new && mv {STATUS_FILE}.new {STATUS_FILE} ;;
    go | again) touch "$work/$word" ;;
    end)
      touch "$work/end"
      for tenth in $(seq 50); do [ ! -e "$work/ended" ] || exit 0; sleep 0.1; done
      break
      ;;
  esac
done
kill -KILL -$$
exit 1
"""
)


def throwaway(data: Data, stalled: int, *, checked: bool) -> list[str]:
    """Return the arguments of ``docker`` that run the script on a store."""
    return on_data(data, SCRIPT, DATA_DIRECTORY, str(stalled), "checked" if checked else "", writes=True)
