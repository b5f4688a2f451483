"""Check the data folders of the Docker host before anything is replaced."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pulumi_command as command
from pulumi import ResourceOptions

from components._delivery import Image
from components._docker_command import docker_command
from components.configuration.fields import SYSTEM_FOLDERS
from components.configuration.naming import mirror_alias
from components.configuration.problems import Problem, path, set_command
from components.render.registry_command import OTHER_OWNER, USER, store_mark

#: Checks in the container which rights its process has. $1 of ``may`` is the digit of the rights: 7 is rwx, 4 is r.
_CHECK = r"""
on_host() { awk -v uid="$1" 'uid >= $1 && uid < $1 + $3 { print uid - $1 + $2 }' /proc/self/uid_map; }
user=$(id -u)
owner=$(on_host "$user") groups="( -group $(id -G | sed 's/ / -o -group /g') )"
may() {
  echo "( -user $user -perm -${1}00 -o ! -user $user $groups -perm -0${1}0 -o ! -user $user ! $groups -perm -00$1 )"
}
complain() {
  printf '%%s\n' "%(problem)s" >&2
  exit 1
}
[ -d /folder ] || complain ", which is a file" "%(elsewhere)s"

# Where it really is, whatever links lead there: the kernel tells device and path of what is mounted at $1; of NFS it
# tells the path in another place, as server:/path.
place() {
  awk -v at="$1" '
    $5 == at { path = $4; for (i = 7; $i != "-"; i++); if ($(i + 1) ~ /^nfs/) { path = $(i + 2); sub(/^.*:/, "", path) }
               found = $3 " " path }
    END { print found }' /proc/self/mountinfo
}
lies_in() { case "$1/" in "${2%%/}/"*) ;; *) return 1 ;; esac; }
apart() { ! lies_in "$1" "$2" && ! lies_in "$2" "$1"; }
here=$(place /folder) number=0
for other in %(others)s; do
  apart "$here" "$(place "/other/$number")" || complain ", which shares files with $other" "%(elsewhere)s"
  number=$((number + 1))
done
engine=$(place /etc/hostname) root=$(place /host/passwd)
apart "$here" "${engine%%/containers/*}" || complain ", which shares files with Docker itself" "%(elsewhere)s"
for folder in %(system)s; do
  apart "$here" "${root%%/etc/passwd}$folder" || complain ", which shares files with $folder" "%(elsewhere)s"
done
owner_of_data=$(other_owner /folder "%(service)s")
[ -z "$owner_of_data" ] || complain ", which has the data of the $owner_of_data" "%(elsewhere)s
    or, if it is not so: %(claim)s"

denied=$({
  find /folder -maxdepth 0 ! $(may 7)
  [ ! -d /folder/docker ] || find /folder/docker \( -type d ! $(may 7) -o -type f ! $(may 4) \)
} 2> /dev/null | head -n 1)
[ -z "$denied" ] || complain \
  "${denied#/folder}, which belongs to uid $(on_host "$(stat -c %%u "$denied")") with mode $(stat -c %%a "$denied")" \
  "%(own)s"
said=$({ : > /folder/.writable && rm /folder/.writable; } 2>&1) ||
  complain ", which cannot be written: ${said##*: }" "%(elsewhere)s"
"""
#: Prints the error of ``docker run``, or ``$MISSING`` if the folder is missing: --mount does not create folders.
_RUN = """said=$(%s 2>&1) && exit
end='
'
case $said$end in
  *"source path does not exist: $FOLDER$end"* | *"source path does not exist: $FOLDER.$end"*) said=$MISSING ;;
esac
printf '%%s\\n' "$said" >&2
exit 1"""


def host_folder(
    key: tuple[str, ...],
    folder: str,
    *,
    others: Sequence[str],
    image: Image,
    docker_host: str,
) -> command.local.Command:
    """Fail ``up`` unless a service of ``image`` can read and write everything in a folder of its own.

    A throwaway container checks the folder with the user of the service and without capabilities. The check runs again
    when a folder, the image or the Docker host changes. The check does not create a missing folder: a typo would give
    an empty registry. Despite all links and mounts, the folder must not share files with ``others``, with Docker or
    with the system.

    Args:
        key: configuration path of the folder, for the error.
        folder: path of the folder on the Docker host.
        others: folders of the other data stores.
        image: image of the service.
        docker_host: address of the Docker host.
    """
    name = path(*key)
    problem = Problem(
        name, f"{folder}$1", "a folder of its own in which uid $owner may read and write everything", "$2"
    )
    is_registry = key[0] == "registry"
    service = store_mark(None if is_registry else key[1])
    script = OTHER_OWNER + _CHECK % {
        "others": shlex.join(others),
        "system": shlex.join(SYSTEM_FOLDERS),
        "service": service,
        "claim": _on_host(docker_host, f"echo {service} | sudo tee {folder}/.store"),
        "problem": str(problem).replace('"', r"\""),
        "elsewhere": set_command(name, f"{folder}-data").replace('"', r"\""),
        "own": _on_host(docker_host, f"sudo chown -R $owner {folder} && sudo chmod -R u+rwX {folder}"),
    }
    missing = Problem(
        name,
        f"{folder}, which does not exist on the Docker host",
        "a folder that exists, so that a typo does not give an empty registry",
        _on_host(docker_host, f"sudo mkdir -p {folder} && sudo chown {USER} {folder}"),
    )
    run = ["docker", "run", "--rm", "--interactive", "--network=none", "--read-only", "--cap-drop=ALL"]
    run += [
        "--security-opt=no-new-privileges",
        f"--user={USER}",
        "--entrypoint=",
        f"--mount=type=bind,source={folder},target=/folder",
    ]
    to_compare = {"/etc/passwd": "/host/passwd"} | {other: f"/other/{at}" for at, other in enumerate(others)}
    run += [f"--mount=type=bind,source={source},target={at},readonly" for source, at in to_compare.items()]
    return docker_command(
        f"{'registry' if is_registry else mirror_alias(key[1])}-folder",
        docker_host,
        _RUN % shlex.join([*run, image.name, "sh", "-s"]),
        stdin=script,
        variables={"FOLDER": folder, "MISSING": str(missing)},
        opts=ResourceOptions(depends_on=[image.pulled], hide_diffs=["stdin"]),
    )


def _on_host(docker_host: str, shell: str) -> str:
    """Return the command that runs ``shell`` on the Docker host."""
    if not docker_host.startswith("ssh://"):
        return shell
    login, _, port = docker_host.removeprefix("ssh://").partition(":")
    return f"ssh {f'-p {port} ' if port else ''}{login} '{shell}'"
