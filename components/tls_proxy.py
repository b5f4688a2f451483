"""``TlsProxy``: the only way in."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components import certificates
from components._docker import (
    Attachment,
    Mount,
    Service,
    StackName,
    carrier,
    digest,
    published,
    service,
    validated_config,
    volume,
)
from components.certificate_issuer import (
    CADDY_CAPABILITIES,
    CADDY_TMPFS,
    CADDY_VALIDATE,
    DATA_TMPFS,
    RUN_TMPFS,
    USER,
    CertificateIssuer,
    CertificateIssuerArgs,
)
from components.render.proxy import (
    CERTIFICATES_DIRECTORY,
    DATA_DIRECTORY,
    GRACE_SECONDS,
    HEALTH_PORT,
    ROOT_CERTIFICATE,
    RUN_DIRECTORY,
    caddyfile,
    certificate_contents,
    needs_issuer,
    nginx_conf,
    ports,
)
from components.settings import Secrets, Settings


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """How one program is run; ``validate`` reads a configuration on standard input, the others read ``config``."""

    config: str
    render: Callable[[Settings, Mapping[str, int]], str]
    validate: Sequence[str]
    run: Sequence[str]
    reload: Sequence[str]
    stop_signal: str | None
    capabilities: Sequence[str]
    tmpfs: Mapping[str, str]


_CADDYFILE = "/etc/caddy/Caddyfile"
_NGINX_CONF = "/etc/nginx-config/nginx.conf"
_ENGINES = {
    "caddy": _Engine(
        config=_CADDYFILE,
        render=caddyfile,
        validate=CADDY_VALIDATE,
        run=["caddy", "run", "--adapter=caddyfile", f"--config={_CADDYFILE}"],
        # Without --force, certificates that changed alone would not be read anew.
        reload=[
            *["caddy", "reload", "--force", "--adapter=caddyfile", f"--config={_CADDYFILE}"],
            f"--address=unix/{RUN_DIRECTORY}/admin.sock",
        ],
        stop_signal=None,
        capabilities=CADDY_CAPABILITIES,
        tmpfs=CADDY_TMPFS,
    ),
    "nginx": _Engine(
        config=_NGINX_CONF,
        render=nginx_conf,
        validate=["sh", "-c", f"cat > {RUN_DIRECTORY}/nginx.conf && exec nginx -t -q -c {RUN_DIRECTORY}/nginx.conf"],
        run=["nginx", "-e", "stderr", "-c", _NGINX_CONF, "-g", "daemon off;"],
        reload=["nginx", "-e", "stderr", "-c", _NGINX_CONF, "-s", "reload"],
        stop_signal="SIGQUIT",  # SIGTERM cuts what is under way
        capabilities=[],
        tmpfs=RUN_TMPFS,
    ),
}


@dataclass(frozen=True, kw_only=True)
class TlsProxyArgs:
    """``images`` are those of ``proxy_images``, pulled before anything is replaced; ``edge`` has a way out."""

    names: StackName
    settings: Settings
    secrets: Secrets
    images: Mapping[str, docker.RemoteImage]
    backend: docker.Network
    edge: docker.Network


class TlsProxy(pulumi.ComponentResource):
    """Caddy or nginx with TLS in front of the registry and the mirrors; publishes their ports.

    Declares a volume for certificates and accounts, a volume and a carrier for the configuration, with certificates
    given as files the same for them, the container and, for nginx, a CertificateIssuer. A changed configuration is
    validated in a throwaway container before it is delivered, since a bad one would keep a restarted proxy from coming
    up, and then reloaded without a restart. Another engine replaces the container and finds the certificates.
    """

    containers: dict[str, Output[str]]
    """Name of each container by its role."""
    ca_certificate: Output[str] | None
    """Root of Caddy's own authority as PEM; None where certificates come from elsewhere."""

    def __init__(self, name: str, args: TlsProxyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:TlsProxy", name, {}, opts)
        names, settings, acme = args.names, args.settings, args.settings.proxy.certificates.acme
        engine, image_name = _ENGINES[settings.proxy.engine], proxy_images(settings)[settings.proxy.engine]
        image = args.images[settings.proxy.engine]
        ends = {name: int(certificates.end(pair).timestamp()) for name, pair in args.secrets.certificates.items()}
        text = engine.render(settings, ends)
        data = volume(
            f"{name}-data", f"{names.prefix}-{name}-data", names, keep=True, protect=settings.protect_data, parent=self
        )
        mounts: list[Mount] = []
        carriers: list[docker.Container] = []
        contents = certificate_contents(settings, args.secrets)
        if contents:
            store = volume(
                f"{name}-certificates",
                f"{names.prefix}-{name}-certificates",
                names,
                keep=False,
                protect=False,
                parent=self,
            )
            carriers.append(
                carrier(
                    f"{name}-certificates-carrier",
                    names,
                    image=image,
                    image_name=image_name,
                    target=store,
                    files={
                        path.removeprefix(f"{CERTIFICATES_DIRECTORY}/"): Output.secret(content)
                        for path, content in contents.items()
                    },
                    directory=CERTIFICATES_DIRECTORY,
                    parent=self,
                )
            )
            mounts.append(Mount(path=CERTIFICATES_DIRECTORY, volume=store.name))
        given = {f"{names.prefix}-{name}-certificates": CERTIFICATES_DIRECTORY} if contents else {}
        config, delivery = validated_config(
            name,
            names,
            image=image,
            image_name=image_name,
            path=engine.config,
            text=text,
            validate=engine.validate,
            user=USER,
            tmpfs={**DATA_TMPFS, **engine.tmpfs},
            volumes=given,
            docker_host=settings.docker_host,
            parent=self,
            depends_on=carriers,
        )
        carriers.append(delivery)
        host = {"DOCKER_HOST": settings.docker_host}
        owner = command.local.Command(
            f"{name}-data-owner",
            create=shlex.join(
                [
                    *["docker", "run", "--rm", "--network=none", "--user=0", "--entrypoint=", "--cap-drop=ALL"],
                    *["--cap-add=CHOWN", "--cap-add=DAC_READ_SEARCH"],
                    *[f"--volume={names.prefix}-{name}-data:{DATA_DIRECTORY}", image_name],
                    *["chown", "-R", f"{USER}:{USER}", DATA_DIRECTORY],
                ]
            ),
            environment=host,
            add_previous_output_in_env=False,
            # Once: with the image of another engine it would do the same.
            opts=ResourceOptions(parent=self, depends_on=[image, data], ignore_changes=["create"]),
        )
        container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=image_name,
                command=engine.run,
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                # After a reload alone, Caddy would go on with what the authority before has issued (staging, say).
                config=acme.directory_url if acme and not needs_issuer(settings) else "",
                mounts=[
                    config,
                    Mount(path=DATA_DIRECTORY, volume=data.name, read_only=settings.proxy.engine == "nginx"),
                    *mounts,
                ],
                attachments=[Attachment(network=network) for network in (args.backend, args.edge)],
                memory_mb=settings.proxy.memory_mb,
                stop_seconds=GRACE_SECONDS,
                # Port 80 for HTTP-01 and redirects.
                ports=published(settings.proxy.address, {*ports(settings), 80} if acme else ports(settings))
                + published("127.0.0.1", filter(None, [settings.proxy.metrics_port])),
                user=USER,
                stop_signal=engine.stop_signal,
                tmpfs=engine.tmpfs,
                capabilities=engine.capabilities,
            ),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[image, owner, *carriers],
        )
        inside = ["docker", "exec", f"{names.prefix}-{name}"]
        command.local.Command(
            f"{name}-reload",
            create="true",  # the container that was just made has read it
            update=shlex.join([*inside, *engine.reload]),
            triggers=[container.id],
            environment=host | {"CONFIGURATION": digest(text + "".join(contents.values()))},
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[container]),
        )
        self.containers = {name: container.name}
        issuers: list[pulumi.Resource] = []
        if needs_issuer(settings):
            # After the proxy, which leads the authority's questions to it: a failed first try is repeated much later.
            issuer = CertificateIssuer(
                f"{name}-issuer",
                CertificateIssuerArgs(
                    names=names,
                    settings=settings,
                    image=args.images["caddy"],
                    data=data,
                    mounts=mounts,
                    given=given,
                    network=args.edge,
                ),
                ResourceOptions(parent=self, depends_on=[container, *carriers]),
            )
            self.containers[f"{name}-issuer"] = issuer.container.name
            issuers.append(issuer.container)
        self.ca_certificate = None
        if settings.proxy.certificates.internal:
            self.ca_certificate = command.local.Command(
                f"{name}-ca-certificate",
                create=shlex.join([*inside, "cat", ROOT_CERTIFICATE]),
                triggers=[container.id],
                environment=host,
                add_previous_output_in_env=False,
                logging=command.local.Logging.NONE,
                opts=ResourceOptions(parent=self, depends_on=issuers),
            ).stdout
        self.register_outputs({"containers": self.containers, "ca_certificate": self.ca_certificate})


def proxy_images(settings: Settings) -> dict[str, str]:
    """The image of the engine that the settings choose, if any, and Caddy's where it gets certificates for nginx."""
    names = {settings.proxy.engine, "caddy"} if needs_issuer(settings) else {settings.proxy.engine}
    return {name: image for name, image in settings.images if name in names}
