"""``TlsProxy``: the TLS proxy, the only container with published ports."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._delivery import (
    Delivery,
    Image,
    Mount,
    deliver,
    digest,
    throwaway,
    validation,
)
from components._docker_command import docker_command
from components._service import Attachment, Service, network, published, service
from components.certificate_issuer import CertificateIssuer, CertificateIssuerArgs
from components.configuration.certificates import end
from components.configuration.naming import HEALTH_PORT, StackName, certificates_in_use, ports
from components.configuration.settings import Secrets, Settings
from components.render.proxy import (
    CERTIFICATES_DIRECTORY,
    GRACE_SECONDS,
    ROOT_CERTIFICATE,
    certificate_contents,
    issuer_caddyfile,
    needs_issuer,
)
from components.render.proxy_command import DATA_TMPFS, SERVERS, USER, way_to_authority


@dataclass(frozen=True, kw_only=True)
class TlsProxyArgs:
    """``images`` come from ``proxy_images`` and are pulled before anything is replaced; ``edge`` has a route out.

    ``kept`` has two mounts that outlive the stack: all data and, below that folder, certificates. After ``owned``, the
    proxy's user owns both.
    """

    names: StackName
    settings: Settings
    secrets: Secrets
    images: Mapping[str, Image]
    backend: docker.Network
    edge: docker.Network
    kept: Sequence[Mount]
    owned: pulumi.Resource


class TlsProxy(pulumi.ComponentResource):
    """Caddy or nginx with TLS in front of the registry and the mirrors; publishes their ports.

    Declares a volume and a carrier for the configuration, the same for certificates given as files, the container and,
    for nginx, a CertificateIssuer with a network. A throwaway container validates a changed configuration together with
    changed files before the delivery, because bad files would prevent a restarted proxy from starting. Then the proxy
    reloads. Another server replaces the container and reuses the certificates.
    """

    containers: dict[str, docker.Container]
    """Each container by its role."""
    ca_certificate: Output[str] | None
    """Root of Caddy's own authority as PEM; None with another source of certificates."""

    def __init__(self, name: str, args: TlsProxyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:TlsProxy", name, {}, opts)
        names, settings, docker_host = args.names, args.settings, args.settings.docker_host
        server, image = SERVERS[settings.proxy.server], args.images[settings.proxy.server]
        in_use = certificates_in_use(settings, args.secrets)
        text = server.render(settings, {host: int(end(pair).timestamp()) for host, pair in in_use.items()})
        contents = certificate_contents(settings, args.secrets)
        validated = _validations(name, args, text, contents, parent=self)
        given = []
        if contents:
            files = {path: Output.secret(content) for path, content in contents.items()}
            given.append(
                deliver(f"{name}-certificates", names, image=image, files=files, parent=self, depends_on=validated)
            )
        delivered = [one.carrier for one in given]
        config = deliver(
            f"{name}-config",
            names,
            image=image,
            files={server.config: text},
            parent=self,
            depends_on=[*validated, *delivered],
        )
        delivered.append(config.carrier)
        networks = [args.backend, args.edge]
        if needs_issuer(settings):
            # A separate network, so that no mirror can reach the issuer.
            networks.append(network(f"{name}-issuer", names, internal=False, opts=ResourceOptions(parent=self)))
        container = service(
            f"{name}-container",
            names,
            _proxy_service(name, args, [config.mount, *_certificate_mounts(args, given)], networks),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[image.pulled, args.owned, *delivered],
        )
        reload = docker_command(
            f"{name}-reload",
            docker_host,
            "true",  # a new container has already read the configuration
            update=shlex.join(["docker", "exec", f"{names.prefix}-{name}", *server.reload]),
            triggers=[container.id],
            variables={"CONFIGURATION": digest(text + "".join(contents.values()))},
            opts=ResourceOptions(parent=self, depends_on=[container]),
        )
        if contents:
            _remove_former(name, args, contents, reload, parent=self)
        self.containers = {name: container}
        issuers = list[pulumi.Resource]()
        if needs_issuer(settings):
            # Start after the proxy, which forwards ACME challenges to the issuer: a retry comes much later.
            issuer = CertificateIssuer(
                f"{name}-issuer",
                CertificateIssuerArgs(
                    names=names,
                    settings=settings,
                    image=args.images["caddy"],
                    mounts=[*args.kept, *(one.mount for one in given)],
                    network=networks[-1],
                ),
                ResourceOptions(parent=self, depends_on=[container, *delivered]),
            )
            self.containers[f"{name}-issuer"] = issuer.container
            issuers.append(issuer.container)
        self.ca_certificate = None
        if settings.proxy.certificates.internal:
            issues = f"{names.prefix}-{list(self.containers)[-1]}"
            self.ca_certificate = docker_command(
                f"{name}-ca-certificate",
                docker_host,
                shlex.join(["docker", "exec", issues, "cat", ROOT_CERTIFICATE]),
                triggers=[container.id],
                logging=command.local.Logging.NONE,
                opts=ResourceOptions(parent=self, depends_on=issuers),
            ).stdout
        named = {role: one.name for role, one in self.containers.items()}
        self.register_outputs({"containers": named, "ca_certificate": self.ca_certificate})


def _certificate_mounts(args: TlsProxyArgs, given: Sequence[Delivery]) -> list[Mount]:
    """Return the server's mounts; only the issuing Caddy, here or beside nginx, gets keys of authority and accounts."""
    if needs_issuer(args.settings):
        return [replace(args.kept[-1], read_only=True)]
    return [*(one.mount for one in given), *(args.kept if args.settings.proxy.server == "caddy" else [])]


def _proxy_service(
    name: str, args: TlsProxyArgs, mounts: Sequence[Mount], networks: Sequence[docker.Network]
) -> Service:
    settings, acme = args.settings, args.settings.proxy.certificates.acme
    server = SERVERS[settings.proxy.server]
    return Service(
        role=name,
        image=args.images[settings.proxy.server].name,
        command=server.run,
        health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
        # A new authority needs a restart: after a reload, Caddy would keep the old certificates (staging, for example).
        config=acme.directory_url if acme and not needs_issuer(settings) else "",
        mounts=mounts,
        attachments=[Attachment(network=joined) for joined in networks],
        memory_mb=settings.proxy.memory_mb,
        stop_seconds=GRACE_SECONDS,
        # Port 80 for HTTP-01 and redirects.
        ports=published(settings.proxy.address, {*ports(settings), 80} if acme else ports(settings))
        + published("127.0.0.1", filter(None, [settings.proxy.metrics_port])),
        environment=[] if needs_issuer(settings) else way_to_authority(settings),
        user=f"{USER}:{USER}",
        stop_signal=server.stop_signal,
        tmpfs=server.tmpfs,
        capabilities=server.capabilities,
    )


def _validations(
    name: str, args: TlsProxyArgs, text: str, contents: Mapping[str, str], *, parent: pulumi.Resource
) -> list[pulumi.Resource]:
    """Validate ``contents`` with each program that will read the files, together with its configuration."""
    trials = {name: (args.settings.proxy.server, text)}
    if needs_issuer(args.settings):
        trials[f"{name}-issuer"] = ("caddy", issuer_caddyfile(args.settings))
    return [
        validation(
            trial,
            image=args.images[server],
            files={SERVERS[server].config: configuration, **contents},
            validate=SERVERS[server].validate,
            user=USER,
            tmpfs={**DATA_TMPFS, **SERVERS[server].tmpfs},
            docker_host=args.settings.docker_host,
            parent=parent,
        )
        for trial, (server, configuration) in trials.items()
    ]


def _remove_former(
    name: str, args: TlsProxyArgs, contents: Mapping[str, str], reload: pulumi.Resource, *, parent: pulumi.Resource
) -> None:
    """Remove the keys of former hosts from the volume, after the reload of a configuration without those hosts."""
    kept = [word for path in contents for word in ("!", "-path", path)]
    docker_command(
        f"{name}-certificates-cleanup",
        args.settings.docker_host,
        throwaway(
            args.images[args.settings.proxy.server].name,
            {f"{args.names.prefix}-{name}-certificates": CERTIFICATES_DIRECTORY},
            (),
            *("find", CERTIFICATES_DIRECTORY, "-type", "f", *kept, "-exec", "rm", "{}", "+"),
        ),
        opts=ResourceOptions(parent=parent, depends_on=[reload]),
    )
