"""``CertificateIssuer``: a Caddy that obtains the certificates for nginx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi import ResourceOptions

from components._delivery import Image, Mount, deliver
from components._service import Attachment, Service, service
from components.configuration.naming import HEALTH_PORT, StackName
from components.configuration.settings import Settings
from components.render.proxy import ISSUER, issuer_caddyfile
from components.render.proxy_command import CADDY_CAPABILITIES, CADDY_TMPFS, CADDYFILE, USER, way_to_authority

_MEMORY_MB = 128


@dataclass(frozen=True, kw_only=True)
class CertificateIssuerArgs:
    """``mounts`` hold the issuer's data and the files for ACME, validated by TlsProxy; ``network`` has a route out."""

    names: StackName
    settings: Settings
    image: Image
    mounts: Sequence[Mount]
    network: docker.Network


class CertificateIssuer(pulumi.ComponentResource):
    """A Caddy that serves no clients and keeps certificates in a volume, by ACME or from its own authority.

    Declares a volume and a carrier for its configuration, and the container. A changed configuration replaces the
    container, while the proxy is reloaded: no client connects to the issuer.
    """

    container: docker.Container

    def __init__(self, name: str, args: CertificateIssuerArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:CertificateIssuer", name, {}, opts)
        names, text = args.names, issuer_caddyfile(args.settings)
        config = deliver(f"{name}-config", names, image=args.image, files={CADDYFILE: text}, parent=self)
        self.container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=args.image.name,
                command=["caddy", "run", "--adapter=caddyfile", f"--config={CADDYFILE}"],
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                config=text,
                mounts=[config.mount, *args.mounts],
                attachments=[Attachment(network=args.network, aliases=[ISSUER])],
                memory_mb=_MEMORY_MB,
                stop_seconds=0,
                environment=way_to_authority(args.settings),
                user=f"{USER}:{USER}",
                tmpfs=CADDY_TMPFS,
                capabilities=CADDY_CAPABILITIES,
            ),
            # One issuer at a time: ACME challenges for a new issuer would also reach the old issuer, which knows no
            # answer.
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[args.image.pulled, config.carrier],
        )
        self.register_outputs({"container": self.container.name})
