"""``TlsProxy``: the only way in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._docker import Attachment, Mount, Service, StackName, carrier, digest, service, volume
from components.render.proxy import (
    ADMIN_SOCKET,
    CERTIFICATES_DIRECTORY,
    CONFIG_DIRECTORY,
    DATA_DIRECTORY,
    GRACE_SECONDS,
    HEALTH_PORT,
    ROOT_CERTIFICATE,
    caddyfile,
    certificate_files,
    endpoints,
)
from components.settings import Secrets, Settings


@dataclass(frozen=True, kw_only=True)
class TlsProxyArgs:
    """``networks`` are those of the services behind it; ``image`` is pulled before anything is replaced."""

    names: StackName
    settings: Settings
    secrets: Secrets
    image: docker.RemoteImage
    networks: Sequence[docker.Network]


class TlsProxy(pulumi.ComponentResource):
    """Caddy with TLS in front of the registry and the mirrors; publishes their ports.

    Declares a volume for certificates and accounts, a volume and a carrier for the Caddyfile, with certificates given
    as files the same for them, and the container. A changed Caddyfile is validated in a throwaway container before it
    is delivered, since a bad one would keep a restarted proxy from coming up, and then reloaded without a restart.
    """

    container: Output[str]
    """Name of the container."""
    ca_certificate: Output[str] | None
    """Root of Caddy's own authority as PEM; None where certificates come from elsewhere."""

    def __init__(self, name: str, args: TlsProxyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:TlsProxy", name, {}, opts)
        names, settings, image_name = args.names, args.settings, args.settings.images.caddy
        text = caddyfile(settings, tuple(args.secrets.certificates))
        data = volume(
            f"{name}-data", f"{names.prefix}-{name}-data", names, keep=True, protect=settings.protect_data, parent=self
        )
        config = volume(
            f"{name}-config", f"{names.prefix}-{name}-config", names, keep=False, protect=False, parent=self
        )
        mounts = [
            Mount(path=CONFIG_DIRECTORY, volume=config.name),
            Mount(path=DATA_DIRECTORY, volume=data.name, read_only=False),
        ]
        carriers: list[docker.Container] = []
        validate = ["docker", "run", "--rm", "--interactive", "--network=none", "--tmpfs=/data", "--tmpfs=/config"]
        certificates = _certificate_contents(args.secrets)
        if certificates:
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
                    image=args.image,
                    image_name=image_name,
                    target=store,
                    files={file: Output.secret(content) for file, content in certificates.items()},
                    directory=CERTIFICATES_DIRECTORY,
                    parent=self,
                )
            )
            mounts.append(Mount(path=CERTIFICATES_DIRECTORY, volume=store.name))
            validate.append(f"--volume={names.prefix}-{name}-certificates:{CERTIFICATES_DIRECTORY}:ro")
        validate += [image_name, "caddy", "validate", "--adapter=caddyfile", "--config=-"]
        host = {"DOCKER_HOST": settings.docker_host}
        validation = command.local.Command(
            f"{name}-validation",
            create=shlex.join(validate),
            stdin=text,
            environment=host,
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[args.image, *carriers], hide_diffs=["stdin"]),
        )
        carriers.append(
            carrier(
                f"{name}-config-carrier",
                names,
                image=args.image,
                image_name=image_name,
                target=config,
                files={"Caddyfile": text},
                directory=CONFIG_DIRECTORY,
                parent=self,
                depends_on=[validation],
            )
        )
        container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=image_name,
                entrypoint=["caddy", "run"],
                command=["--adapter=caddyfile", f"--config={CONFIG_DIRECTORY}/Caddyfile"],
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                config="",
                mounts=mounts,
                attachments=[Attachment(network=network) for network in args.networks],
                memory_mb=settings.proxy.memory_mb,
                stop_seconds=GRACE_SECONDS,
                ports=_ports(settings),
                tmpfs={"/config": "size=1m", "/run/caddy": "size=1m"},
                capabilities=["CAP_NET_BIND_SERVICE"],
            ),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[args.image, *carriers],
        )
        inside = ["docker", "exec", f"{names.prefix}-{name}"]
        reload = ["caddy", "reload", "--force", "--adapter=caddyfile", f"--config={CONFIG_DIRECTORY}/Caddyfile"]
        command.local.Command(
            f"{name}-reload",
            create=shlex.join([*inside, *reload, f"--address={ADMIN_SOCKET}"]),
            triggers=[digest(text), digest("".join(certificates.values()))],
            environment=host,
            add_previous_output_in_env=False,
            opts=ResourceOptions(parent=self, depends_on=[container]),
        )
        self.container = container.name
        self.ca_certificate = None
        if settings.proxy.certificates.internal:
            self.ca_certificate = command.local.Command(
                f"{name}-ca-certificate",
                create=shlex.join([*inside, "cat", ROOT_CERTIFICATE]),
                triggers=[container.id],
                environment=host,
                add_previous_output_in_env=False,
                logging=command.local.Logging.NONE,
                opts=ResourceOptions(parent=self),
            ).stdout
        self.register_outputs({"container": self.container, "ca_certificate": self.ca_certificate})


def _certificate_contents(secrets: Secrets) -> dict[str, str]:
    contents = {}
    for name, pair in sorted(secrets.certificates.items()):
        for path, content in zip(certificate_files(name), (pair.certificate, pair.private_key), strict=True):
            contents[path.rpartition("/")[2]] = content.get_secret_value()
    return contents


def _ports(settings: Settings) -> list[docker.ContainerPortArgs]:
    """The services' ports, and port 80 for HTTP-01 and redirects where certificates come by ACME."""
    ports = {url.port for url in endpoints(settings).values()}
    if settings.proxy.certificates.acme:
        ports.add(80)
    return [
        docker.ContainerPortArgs(internal=port, external=port, ip=settings.proxy.address, protocol="tcp")
        for port in sorted(ports)
    ]
