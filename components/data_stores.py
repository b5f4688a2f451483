"""``DataStores``: what outlives the stack."""

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

#: Gives new volumes to the user $0 and says which of the others, each with its mark, are somebody else's. A new one
#: gets its mark, since an empty one would get the owner of the image's folder from the engine.
_OWN = r"""
for store do
  folder=/stores/${store%%=*}
  listed=$(ls -A "$folder") || exit
  [ -n "$listed" ] || { echo "${store#*=}" > "$folder/.store" && chown -R "$0" "$folder"; } || exit
  [ "$(stat -c %u:%g "$folder")" = "$0" ] ||
    { touch "$folder/.owner" && chown "$0" "$folder/.owner" && echo "${store%%=*}"; } || exit
done
"""
#: Gives both volumes of the proxy to its user, the folders themselves at last, unless they are its own. What lies in
#: the one, of a time when there was one, is copied to the other: each authority's certificates at once, and only once.
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
#: Gives volumes to the user $0, the folder itself at last: then all in it is theirs.
_GIVE = r"""
for store do
  rm -f "/stores/$store/.owner"
  find "/stores/$store" -mindepth 1 -exec chown -h "$0" {} + && chown "$0" "/stores/$store" || exit
done
"""
#: Stops what writes there meanwhile, but not where the owner cannot be changed. What runs as another user stays stopped
#: for its successor: it could no longer write.
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
    """``image`` is that of the registry."""

    names: StackName
    settings: Settings
    image: Image


class DataStores(pulumi.ComponentResource):
    """The registry's data, each mirror's cache, and certificates, authority and accounts of the stack's own proxy.

    Declares a volume for each, unless it lies in a folder of the host, and the command that gives the volumes to the
    users of their services: also those that somebody else's registry or an older version of the program has written,
    while the services that write there are stopped.
    """

    mounts: dict[str, Mount]
    """By component: ``registry`` and each mirror."""
    proxy: list[Mount]
    """All that the proxy keeps, and in a folder of that the certificates; nothing for a proxy of the operator's own."""
    owned: command.local.Command
    """What the services wait for."""

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
        """A volume that was a child of the component ``former`` before there was this one."""
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
