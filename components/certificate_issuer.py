"""``CertificateIssuer``: certificates for a proxy that gets none by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi import ResourceOptions

from components._docker import Attachment, Mount, Service, StackName, config_volume, service
from components.render.proxy import DATA_DIRECTORY, HEALTH_PORT, ISSUER, RUN_DIRECTORY, issuer_caddyfile
from components.settings import Settings

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
_MEMORY_MB = 128


@dataclass(frozen=True, kw_only=True)
class CertificateIssuerArgs:
    """``mounts`` hold what it keeps and what ACME needs, which TlsProxy validated; ``network`` has a way out."""

    names: StackName
    settings: Settings
    image: docker.RemoteImage
    mounts: Sequence[Mount]
    network: docker.Network


class CertificateIssuer(pulumi.ComponentResource):
    """A Caddy that serves nothing and keeps certificates in a volume, by ACME or from its own authority.

    Declares a volume and a carrier for its configuration, and the container. It is replaced where the proxy is
    reloaded: no client asks it.
    """

    container: docker.Container

    def __init__(self, name: str, args: CertificateIssuerArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:CertificateIssuer", name, {}, opts)
        names, image_name, text = args.names, args.settings.images.caddy, issuer_caddyfile(args.settings)
        config, delivery = config_volume(
            name, names, image=args.image, image_name=image_name, path=CADDYFILE, text=text, parent=self
        )
        self.container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=image_name,
                command=["caddy", "run", "--adapter=caddyfile", f"--config={CADDYFILE}"],
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                config=text,
                mounts=[config, *args.mounts],
                attachments=[Attachment(network=args.network, aliases=[ISSUER])],
                memory_mb=_MEMORY_MB,
                stop_seconds=0,
                user=f"{USER}:{USER}",
                tmpfs=CADDY_TMPFS,
                capabilities=CADDY_CAPABILITIES,
            ),
            # One at a time: the authority's questions to a new one would also reach the old one, which knows no answer.
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[args.image, delivery],
        )
        self.register_outputs({"container": self.container.name})
