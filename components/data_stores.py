"""``DataStores``: the volumes that outlive the stack."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Alias, ResourceOptions

from components._delivery import Image, Mount, throwaway, volume
from components._docker_command import docker_command
from components.configuration.naming import StackName, data_stores, mirror_alias
from components.configuration.settings import Settings
from components.render.proxy import DATA_DIRECTORY as PROXY_DATA_DIRECTORY
from components.render.proxy import ISSUED_DIRECTORY
from components.render.proxy_command import USER as PROXY_USER
from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import USER, store_mark

#: Gives new volumes to the user $0, and prints the names of other volumes with another owner. Each argument is a name
#: with its mark. A new volume gets its mark, because the engine gives an empty volume the owner of the image's folder.
_OWN = r"""
for store do
  folder=/stores/${store%%=*}
  listed=$(ls -A "$folder") || exit
  [ -n "$listed" ] || { echo "${store#*=}" > "$folder/.store" && chown -R "$0" "$folder"; } || exit
  [ "$(stat -c %u:%g "$folder")" = "$0" ] ||
    { touch "$folder/.owner" && chown "$0" "$folder/.owner" && echo "${store%%=*}"; } || exit
done
"""
#: Gives both volumes of the proxy to its user, the top folders last, unless the user already owns both. Older versions
#: kept everything in the first volume, so the script copies certificates from there to the second volume: all
#: certificates of an authority in one step, and only once.
_OWN_PROXY = r"""
owners=$(stat -c %%u:%%g /proxy/data /proxy/issued-data | sort -u)
[ "$owners" = %(user)s ] || {
  [ ! -L /proxy/data/caddy ] && [ ! -L /proxy/data/caddy/certificates ] || exit
  mkdir -p /proxy/data/caddy/certificates && cd /proxy/issued-data || exit
  for authority in /proxy/data/caddy/certificates/*; do
    target=${authority##*/}
    [ ! -e "$authority" ] || [ -e "$target" ] ||
      { rm -rf .new && cp -R "$authority" .new && mv .new "$target"; } || exit
  done
  chown -hR %(user)s /proxy/*
}
"""
#: Gives volumes to the user $0, the top folder last: the owner of that folder owns all files in the volume.
_GIVE = r"""
for store do
  rm -f "/stores/$store/.owner"
  find "/stores/$store" -mindepth 1 -exec chown -h "$0" {} + && chown "$0" "/stores/$store" || exit
done
"""
#: Stops the services that write to the volumes, changes the owner, and starts the services again. If the owner cannot
#: be changed, no service stops. A service that runs as another user stays stopped until its replacement: that service
#: could no longer write.
_COMMAND = r"""
theirs=$(%(own)s) || exit
[ -n "$theirs" ] || exit 0
set --
for role in $(echo "$theirs" | sed 's/^registry$/writer admin/'); do
  running=$(docker ps --quiet %(ours)s --filter="label=registry-stack.role=$role") && set -- "$@" $running || exit
done
{ [ $# = 0 ] || docker stop "$@"; } && %(give)s $theirs
status=$?
for stopped do
  user=$(docker inspect --format='{{.Config.User}}' "$stopped")
  [ $status = 0 ] && [ "$user" != %(user)s ] || docker start "$stopped"
done
exit $status
"""


@dataclass(frozen=True, kw_only=True)
class DataStoresArgs:
    """``image`` is the image of the registry."""

    names: StackName
    settings: Settings
    image: Image


class DataStores(pulumi.ComponentResource):
    """The registry's data, each mirror's cache, and certificates, authority and accounts of the stack's own proxy.

    Declares a volume for each store, except stores in a folder of the host, and the command that gives the volumes to
    the users of their services. The command also changes volumes from another registry or from an older version of the
    program, and stops the services that write to those volumes meanwhile.
    """

    mounts: dict[str, Mount]
    """Mount of each component: ``registry`` and each mirror."""
    proxy: list[Mount]
    """Mounts of the proxy: all its data and, below that folder, certificates. Empty with the operator's own proxy."""
    owned: command.local.Command
    """Command that sets the owner of the volumes; the services depend on it."""

    def __init__(self, name: str, args: DataStoresArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:DataStores", name, {}, opts)
        settings, prefix = args.settings, args.settings.name_prefix
        volumes: list[docker.Volume] = []
        places, marks = dict[str, str](), list[str]()
        script, self.mounts, self.proxy = _OWN, dict[str, Mount](), list[Mount]()
        for parts, (storage, default) in data_stores(prefix, settings.registry, settings.mirrors).items():
            component, former, upstream = "registry", "PrivateRegistry", None
            if parts[0] == "mirrors":
                component, former, upstream = mirror_alias(parts[1]), "PullThroughMirror", parts[1]
            mount = Mount(path=DATA_DIRECTORY, host_path=storage.host_path, read_only=False)
            if storage.host_path is None:
                physical_name = storage.volume or default
                volumes.append(self._volume(args, default, physical_name, f"{former}::{component}"))
                places[physical_name] = f"/stores/{component}"
                marks.append(f"{component}={store_mark(upstream)}")
                mount = replace(mount, volume=volumes[-1].name)
            self.mounts[component] = mount
        if settings.proxy.services_address is None:
            script += _OWN_PROXY % {"user": f"{PROXY_USER}:{PROXY_USER}"}
            for path, role in ((PROXY_DATA_DIRECTORY, "data"), (ISSUED_DIRECTORY, "issued-data")):
                physical_name = f"{prefix}-proxy-{role}"
                volumes.append(self._volume(args, physical_name, physical_name, "TlsProxy::proxy"))
                places[physical_name] = f"/proxy/{role}"
                self.proxy.append(Mount(path=path, volume=volumes[-1].name, read_only=False))

        def run(program: str, *arguments: str) -> str:
            shell = ("sh", "-c", program, USER, *arguments)
            return throwaway(args.image.name, places, ("CHOWN", "DAC_OVERRIDE"), *shell)

        self.owned = docker_command(
            f"{name}-owner",
            settings.docker_host,
            _COMMAND
            % {
                "own": run(script, *marks),
                "give": run(_GIVE),
                "user": USER,
                "ours": f"--filter=label=registry-stack.prefix={prefix}",
            },
            opts=ResourceOptions(parent=self, depends_on=[args.image.pulled, *volumes]),
        )
        self.register_outputs({})

    def _volume(self, args: DataStoresArgs, default: str, physical_name: str, former: str) -> docker.Volume:
        """Declare a volume, with an alias for older versions, where it was a child of the component ``former``."""
        kinds = f"urn:pulumi:{pulumi.get_stack()}::{pulumi.get_project()}::registry-stack:components"
        return volume(
            default.removeprefix(f"{args.settings.name_prefix}-"),
            physical_name,
            args.names,
            keep=True,
            protect=args.settings.protect_data,
            parent=self,
            aliases=[Alias(parent=f"{kinds}:{former}")],
        )
