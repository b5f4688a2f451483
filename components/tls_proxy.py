"""``TlsProxy``: the only way in."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._delivery import Mount, carrier, config_volume, digest, throwaway, validation, volume
from components._service import Attachment, Service, network, published, service
from components.certificate_issuer import CertificateIssuer, CertificateIssuerArgs
from components.configuration import certificates
from components.configuration.certificates import certificates_in_use
from components.configuration.naming import HEALTH_PORT, StackName, ports
from components.configuration.settings import Secrets, Settings
from components.render.proxy import (
    CERTIFICATES_DIRECTORY,
    GRACE_SECONDS,
    ROOT_CERTIFICATE,
    certificate_contents,
    issuer_caddyfile,
    needs_issuer,
)
from components.render.proxy_command import (
    DATA_TMPFS,
    SERVERS,
    USER,
    proxy_images,
)


@dataclass(frozen=True, kw_only=True)
class TlsProxyArgs:
    """``images`` are those of ``proxy_images``, pulled before anything is replaced; ``edge`` has a way out.

    ``kept`` is all that outlives the stack and, in a folder of that, certificates alone; ``owned`` is done when both
    belong to the proxy's user.
    """

    names: StackName
    settings: Settings
    secrets: Secrets
    images: Mapping[str, docker.RemoteImage]
    backend: docker.Network
    edge: docker.Network
    kept: Sequence[Mount]
    owned: pulumi.Resource


class TlsProxy(pulumi.ComponentResource):
    """Caddy or nginx with TLS in front of the registry and the mirrors; publishes their ports.

    Declares a volume and a carrier for the configuration, with certificates
    given as files the same for them, the container and, for nginx, a CertificateIssuer with a network. A changed
    configuration and changed files are validated together in a throwaway container before they are delivered, since bad
    ones would keep a restarted proxy from coming up, and then reloaded. Another server replaces the container and
    finds the certificates.
    """

    containers: dict[str, docker.Container]
    """Each container by its role."""
    ca_certificate: Output[str] | None
    """Root of Caddy's own authority as PEM; None where certificates come from elsewhere."""

    def __init__(self, name: str, args: TlsProxyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:TlsProxy", name, {}, opts)
        names, settings, acme = args.names, args.settings, args.settings.proxy.certificates.acme
        server, image_name = SERVERS[settings.proxy.server], proxy_images(settings)[settings.proxy.server]
        image = args.images[settings.proxy.server]
        in_use = certificates_in_use(settings, args.secrets)
        text = server.render(settings, {name: int(certificates.end(pair).timestamp()) for name, pair in in_use.items()})
        contents = certificate_contents(settings, args.secrets)
        checked = self._validations(name, args, text, contents)
        mounts, carriers = self._certificates(name, args, contents, checked) if contents else ([], [])
        config, delivery = config_volume(
            name,
            names,
            image=image,
            image_name=image_name,
            path=server.config,
            text=text,
            parent=self,
            depends_on=[*checked, *carriers],
        )
        carriers.append(delivery)
        host = {"DOCKER_HOST": settings.docker_host}
        networks = [args.backend, args.edge]
        if needs_issuer(settings):
            # Of its own, so that no mirror reaches it.
            networks.append(network(f"{name}-issuer", names, internal=False, opts=ResourceOptions(parent=self)))
        container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=image_name,
                command=server.run,
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                # After a reload alone, Caddy would go on with what the authority before has issued (staging, say).
                config=acme.directory_url if acme and not needs_issuer(settings) else "",
                # The keys of authority and accounts are for who issues: Caddy, here or beside nginx.
                mounts=[
                    config,
                    *([replace(args.kept[-1], read_only=True)] if needs_issuer(settings) else mounts),
                    *(args.kept if settings.proxy.server == "caddy" else []),
                ],
                attachments=[Attachment(network=joined) for joined in networks],
                memory_mb=settings.proxy.memory_mb,
                stop_seconds=GRACE_SECONDS,
                # Port 80 for HTTP-01 and redirects.
                ports=published(settings.proxy.address, {*ports(settings), 80} if acme else ports(settings))
                + published("127.0.0.1", filter(None, [settings.proxy.metrics_port])),
                user=f"{USER}:{USER}",
                stop_signal=server.stop_signal,
                tmpfs=server.tmpfs,
                capabilities=server.capabilities,
            ),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[image, args.owned, *carriers],
        )
        inside = ["docker", "exec", f"{names.prefix}-{name}"]
        reload = command.local.Command(
            f"{name}-reload",
            create="true",  # the container that was just made has read it
            update=shlex.join([*inside, *server.reload]),
            triggers=[container.id],
            environment=host | {"CONFIGURATION": digest(text + "".join(contents.values()))},
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[container]),
        )
        if contents:
            self._remove_former(name, args, contents, reload)
        self.containers = {name: container}
        issues, issuers = name, list[pulumi.Resource]()
        if needs_issuer(settings):
            # After the proxy, which leads the authority's questions to it: a failed first try is repeated much later.
            issues = f"{name}-issuer"
            issuer = CertificateIssuer(
                issues,
                CertificateIssuerArgs(
                    names=names,
                    settings=settings,
                    image=args.images["caddy"],
                    mounts=[*args.kept, *mounts],
                    network=networks[-1],
                ),
                ResourceOptions(parent=self, depends_on=[container, *carriers]),
            )
            self.containers[issues] = issuer.container
            issuers.append(issuer.container)
        self.ca_certificate = None
        if settings.proxy.certificates.internal:
            self.ca_certificate = command.local.Command(
                f"{name}-ca-certificate",
                create=shlex.join(["docker", "exec", f"{names.prefix}-{issues}", "cat", ROOT_CERTIFICATE]),
                triggers=[container.id],
                environment=host,
                add_previous_output_in_env=False,
                logging=command.local.Logging.NONE,
                opts=ResourceOptions(parent=self, depends_on=issuers),
            ).stdout
        named = {role: one.name for role, one in self.containers.items()}
        self.register_outputs({"containers": named, "ca_certificate": self.ca_certificate})

    def _validations(
        self, name: str, args: TlsProxyArgs, text: str, contents: Mapping[str, str]
    ) -> list[pulumi.Resource]:
        """Each program that will read ``contents``, with its configuration, reads them in a trial."""
        server = args.settings.proxy.server
        trials = {name: (server, SERVERS[server], text)}
        if needs_issuer(args.settings):
            trials[f"{name}-issuer"] = ("caddy", SERVERS["caddy"], issuer_caddyfile(args.settings))
        return [
            validation(
                trial,
                image=args.images[image],
                image_name=proxy_images(args.settings)[image],
                files={program.config: configuration, **contents},
                validate=program.validate,
                user=USER,
                tmpfs={**DATA_TMPFS, **program.tmpfs},
                docker_host=args.settings.docker_host,
                parent=self,
            )
            for trial, (image, program, configuration) in trials.items()
        ]

    def _certificates(
        self, name: str, args: TlsProxyArgs, contents: Mapping[str, str], checked: Sequence[pulumi.Resource]
    ) -> tuple[list[Mount], list[docker.Container]]:
        """A volume for ``contents`` and the carrier that delivers them."""
        role, server = f"{name}-certificates", args.settings.proxy.server
        store = volume(role, f"{args.names.prefix}-{role}", args.names, keep=False, protect=False, parent=self)
        delivery = carrier(
            f"{role}-carrier",
            args.names,
            image=args.images[server],
            image_name=proxy_images(args.settings)[server],
            volumes={CERTIFICATES_DIRECTORY: store},
            files={path: Output.secret(content) for path, content in contents.items()},
            parent=self,
            depends_on=checked,
        )
        return [Mount(path=CERTIFICATES_DIRECTORY, volume=store.name)], [delivery]

    def _remove_former(
        self, name: str, args: TlsProxyArgs, contents: Mapping[str, str], reload: pulumi.Resource
    ) -> None:
        """Remove the keys of former hosts from the volume, once no configuration in force names them."""
        kept = [word for path in contents for word in ("!", "-path", path)]
        command.local.Command(
            f"{name}-certificates-cleanup",
            create=throwaway(
                proxy_images(args.settings)[args.settings.proxy.server],
                {f"{args.names.prefix}-{name}-certificates": CERTIFICATES_DIRECTORY},
                (),
                *("find", CERTIFICATES_DIRECTORY, "-type", "f", *kept, "-exec", "rm", "{}", "+"),
            ),
            environment={"DOCKER_HOST": args.settings.docker_host},
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[reload]),
        )
