"""How Caddy and nginx are run: their commands, user, folders and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.configuration.settings import Settings
from components.render.proxy import DATA_DIRECTORY, GATEWAY_FILE, RUN_DIRECTORY, caddyfile, needs_issuer, nginx_conf


@dataclass(frozen=True, kw_only=True)
class Server:
    """How one program is run: it reads ``config``, in a trial and at work."""

    config: str
    render: Callable[[Settings, Mapping[str, int]], str]
    validate: Sequence[str]
    run: Sequence[str]
    reload: Sequence[str]
    stop_signal: str | None
    capabilities: Sequence[str]
    tmpfs: Mapping[str, str]


#: The user of the official nginx image. Nothing here needs root, since containers may bind low ports without it.
USER = "101"
_OWN = f"uid={USER},gid={USER},mode=0700"
RUN_TMPFS = {RUN_DIRECTORY: f"size=16m,{_OWN}"}
CADDY_TMPFS = {"/config": f"size=1m,{_OWN}", **RUN_TMPFS}
#: In a trial, where nothing may reach the volume.
DATA_TMPFS = {DATA_DIRECTORY: f"size=1m,{_OWN}"}
#: Its file asks for it, and it does not start without; it never has it, since it may gain no privileges.
CADDY_CAPABILITIES = ("CAP_NET_BIND_SERVICE",)
CADDYFILE = "/etc/caddy/Caddyfile"
#: Writes who may use ports that are published on loopback, in the words of ``$0``, and runs the program that follows.
#: Docker's gateway is where the default route leads; the kernel prints its address with the lowest byte first.
_WITH_GATEWAY = r"""
gateway=127.0.0.1
while read -r _ destination address _; do
  [ "$destination" != 00000000 ] || gateway=$(printf '%d.%d.%d.%d' \
    $((0x$address & 255)) $((0x$address >> 8 & 255)) $((0x$address >> 16 & 255)) $((0x$address >> 24 & 255)))
done < /proc/net/route
printf "$0" "$gateway" > "$1" && shift && exec "$@"
"""
#: Runs Caddy. The limits follow from the container's memory, so that another memory does not replace it. A connection
#: may take 60 KB, and who opens more than there is memory for waits: without a limit, a thousand clients that did not
#: finish what they sent were the end of Caddy.
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
        # Without --force, certificates that changed alone would not be read anew.
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
        stop_signal="SIGQUIT",  # SIGTERM cuts what is under way
        capabilities=[],
        tmpfs=RUN_TMPFS,
    ),
}


def proxy_images(settings: Settings) -> dict[str, str]:
    """The image of the server that the settings choose, if any, and Caddy's where it gets certificates for nginx."""
    names = {settings.proxy.server, "caddy"} if needs_issuer(settings) else {settings.proxy.server}
    return {name: image for name, image in settings.images if name in names}
