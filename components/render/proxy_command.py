"""Commands, user, folders and images of Caddy and nginx."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.configuration.settings import Settings
from components.render.proxy import DATA_DIRECTORY, GATEWAY_FILE, RUN_DIRECTORY, caddyfile, needs_issuer, nginx_conf
from components.render.registry import way_out


@dataclass(frozen=True, kw_only=True)
class Server:
    """Commands and properties of one server; ``config`` is the path of its configuration, also in a validation."""

    config: str
    render: Callable[[Settings, Mapping[str, int]], str]
    validate: Sequence[str]
    run: Sequence[str]
    reload: Sequence[str]
    stop_signal: str | None
    capabilities: Sequence[str]
    tmpfs: Mapping[str, str]


#: The user of the official nginx image. No process needs root, because containers may bind low ports without root.
USER = "101"
_OWN = f"uid={USER},gid={USER},mode=0700"
RUN_TMPFS = {RUN_DIRECTORY: f"size=16m,{_OWN}"}
CADDY_TMPFS = {"/config": f"size=1m,{_OWN}", **RUN_TMPFS}
#: Stands in for the data volume in a validation, which must not write to the volume.
DATA_TMPFS = {DATA_DIRECTORY: f"size=1m,{_OWN}"}
#: Caddy's image sets this file capability, and Caddy does not start in a container without it. The process never gets
#: the capability, because ``no-new-privileges`` is set.
CADDY_CAPABILITIES = ("CAP_NET_BIND_SERVICE",)
CADDYFILE = "/etc/caddy/Caddyfile"
#: Writes the address that may use ports published on loopback, in the format ``$0``, then runs the program in the
#: arguments. The default route leads to Docker's gateway; the kernel prints its address with the lowest byte first.
_WITH_GATEWAY = r"""
gateway=127.0.0.1
while read -r _ destination address _; do
  [ "$destination" != 00000000 ] || gateway=$(printf '%d.%d.%d.%d' \
    $((0x$address & 255)) $((0x$address >> 8 & 255)) $((0x$address >> 16 & 255)) $((0x$address >> 24 & 255)))
done < /proc/net/route
printf "$0" "$gateway" > "$1" && shift && exec "$@"
"""
#: Runs Caddy. The limits follow from the container's memory, so that a changed memory limit does not replace the
#: container. A connection can take 60 KB. Connections beyond the available memory wait: without a limit, 1,000 clients
#: with unfinished requests crashed Caddy.
_RUN_CADDY = r"""
bytes=$(cat /sys/fs/cgroup/memory.max 2> /dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
files=$((bytes >> 17))
most=$(ulimit -H -n)
if [ "$most" = unlimited ] || [ "$files" -lt "$most" ]; then ulimit -n "$files"; fi
export GOMEMLIMIT=$((bytes / 5 * 4))
exec "$0" "$@"
"""
_CADDY_WITH_GATEWAY = ("/bin/sh", "-c", _WITH_GATEWAY, "remote_ip 127.0.0.1 %s", GATEWAY_FILE)
_CADDYFILE = ("--adapter=caddyfile", f"--config={CADDYFILE}")
_NGINX_WITH_GATEWAY = ("/bin/sh", "-c", _WITH_GATEWAY, "%s 0;", GATEWAY_FILE)
_NGINX_CONF = "/etc/nginx-config/nginx.conf"
_NGINX = ("nginx", "-e", "stderr", "-c", _NGINX_CONF)
SERVERS = {
    "caddy": Server(
        config=CADDYFILE,
        render=caddyfile,
        validate=[*_CADDY_WITH_GATEWAY, "caddy", "validate", *_CADDYFILE],
        run=[*_CADDY_WITH_GATEWAY, "/bin/sh", "-c", _RUN_CADDY, "caddy", "run", *_CADDYFILE],
        # Without --force, Caddy does not reload certificates if the configuration is unchanged.
        reload=["caddy", "reload", "--force", *_CADDYFILE, f"--address=unix/{RUN_DIRECTORY}/admin.sock"],
        stop_signal=None,
        capabilities=CADDY_CAPABILITIES,
        tmpfs=CADDY_TMPFS,
    ),
    "nginx": Server(
        config=_NGINX_CONF,
        render=nginx_conf,
        validate=[*_NGINX_WITH_GATEWAY, *_NGINX, "-t", "-q"],
        run=[*_NGINX_WITH_GATEWAY, *_NGINX, "-g", "daemon off;"],
        reload=[*_NGINX, "-s", "reload"],
        stop_signal="SIGQUIT",  # SIGTERM cuts requests in progress
        capabilities=[],
        tmpfs=RUN_TMPFS,
    ),
}


def way_to_authority(settings: Settings) -> list[str]:
    """Return the environment with which Caddy reaches the ACME authority through ``http_proxy``.

    An authority always has an https:// URL. Caddy would also send requests for the services to a proxy for http://.
    """
    return way_out(settings, "https") if settings.proxy.certificates.acme else []


def proxy_images(settings: Settings) -> dict[str, str]:
    """Return the image of the chosen server, if any, and Caddy's image if Caddy obtains certificates for nginx."""
    names = {settings.proxy.server, "caddy"} if needs_issuer(settings) else {settings.proxy.server}
    return {name: image for name, image in settings.images if name in names}
