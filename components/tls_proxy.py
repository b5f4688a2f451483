"""``TlsProxy``: the only way in."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._docker import Attachment, Mount, Service, StackName, carrier, digest, service, volume
from components.render.proxy import (
    CERTIFICATES_DIRECTORY,
    DATA_DIRECTORY,
    GRACE_SECONDS,
    HEALTH_PORT,
    ROOT_CERTIFICATE,
    RUN_DIRECTORY,
    caddyfile,
    certificate_contents,
    nginx_conf,
    ports,
)
from components.settings import Secrets, Settings


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """How one program is run; ``validate`` reads a configuration on standard input, the others read ``config``."""

    config: str
    render: Callable[[Settings, tuple[str, ...]], str]
    validate: Sequence[str]
    run: Sequence[str]
    reload: Sequence[str]
    user: str | None
    stop_signal: str | None
    capabilities: Sequence[str]
    tmpfs: dict[str, str]


_CADDYFILE = "/etc/caddy/Caddyfile"
_NGINX_CONF = "/etc/nginx-config/nginx.conf"
#: The user of the official image; no root is needed, since containers may bind low ports without it.
_NGINX_USER = "101"
_ENGINES = {
    "caddy": _Engine(
        config=_CADDYFILE,
        render=caddyfile,
        validate=["caddy", "validate", "--adapter=caddyfile", "--config=-"],
        run=["caddy", "run", "--adapter=caddyfile", f"--config={_CADDYFILE}"],
        # Without --force, certificates that changed alone would not be read anew.
        reload=[
            *["caddy", "reload", "--force", "--adapter=caddyfile", f"--config={_CADDYFILE}"],
            f"--address=unix/{RUN_DIRECTORY}/admin.sock",
        ],
        user=None,
        stop_signal=None,
        capabilities=["CAP_NET_BIND_SERVICE"],  # the program's file asks for it, and does not start without
        tmpfs={"/config": "size=1m", RUN_DIRECTORY: "size=1m"},
    ),
    "nginx": _Engine(
        config=_NGINX_CONF,
        render=nginx_conf,
        validate=["sh", "-c", f"cat > {RUN_DIRECTORY}/nginx.conf && exec nginx -t -q -c {RUN_DIRECTORY}/nginx.conf"],
        run=["nginx", "-e", "stderr", "-c", _NGINX_CONF, "-g", "daemon off;"],
        reload=["nginx", "-e", "stderr", "-c", _NGINX_CONF, "-s", "reload"],
        user=_NGINX_USER,
        stop_signal="SIGQUIT",  # SIGTERM cuts what is under way
        capabilities=[],
        tmpfs={RUN_DIRECTORY: f"size=16m,uid={_NGINX_USER},gid={_NGINX_USER},mode=0700"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class TlsProxyArgs:
    """``networks`` are those of the services behind it; ``image`` is pulled before anything is replaced."""

    names: StackName
    settings: Settings
    secrets: Secrets
    image: docker.RemoteImage
    networks: Sequence[docker.Network]


class TlsProxy(pulumi.ComponentResource):
    """Caddy or nginx with TLS in front of the registry and the mirrors; publishes their ports.

    Declares a volume for certificates and accounts, a volume and a carrier for the configuration, with certificates
    given as files the same for them, and the container. A changed configuration is validated in a throwaway container
    before it is delivered, since a bad one would keep a restarted proxy from coming up, and then reloaded without a
    restart. Another engine replaces the container and leaves the volume for certificates as it is.
    """

    container: Output[str]
    """Name of the container."""
    ca_certificate: Output[str] | None
    """Root of Caddy's own authority as PEM; None where certificates come from elsewhere."""

    def __init__(self, name: str, args: TlsProxyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:TlsProxy", name, {}, opts)
        names, settings, acme = args.names, args.settings, args.settings.proxy.certificates.acme
        engine, image_name = _ENGINES[settings.proxy.engine], proxy_image(settings)
        text = engine.render(settings, tuple(args.secrets.certificates))
        config_directory, _, config_file = engine.config.rpartition("/")
        data = volume(
            f"{name}-data", f"{names.prefix}-{name}-data", names, keep=True, protect=settings.protect_data, parent=self
        )
        config = volume(
            f"{name}-config", f"{names.prefix}-{name}-config", names, keep=False, protect=False, parent=self
        )
        mounts = [
            Mount(path=config_directory, volume=config.name),
            Mount(path=DATA_DIRECTORY, volume=data.name, read_only=False),
        ]
        carriers: list[docker.Container] = []
        validate = ["docker", "run", "--rm", "--interactive", "--network=none"]
        validate += [
            f"--tmpfs={folder}:{options}" for folder, options in (engine.tmpfs | {DATA_DIRECTORY: "size=1m"}).items()
        ]
        if engine.user:
            validate.append(f"--user={engine.user}")
        certificates = certificate_contents(settings, args.secrets)
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
                    files={
                        path.removeprefix(f"{CERTIFICATES_DIRECTORY}/"): Output.secret(content)
                        for path, content in certificates.items()
                    },
                    directory=CERTIFICATES_DIRECTORY,
                    parent=self,
                )
            )
            mounts.append(Mount(path=CERTIFICATES_DIRECTORY, volume=store.name))
            validate.append(f"--volume={names.prefix}-{name}-certificates:{CERTIFICATES_DIRECTORY}:ro")
        validate += ["--entrypoint=", image_name, *engine.validate]
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
                files={config_file: text},
                directory=config_directory,
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
                entrypoint=engine.run[:2],
                command=engine.run[2:],
                health_url=f"http://127.0.0.1:{HEALTH_PORT}/healthz",
                # After a reload alone, Caddy would go on with what the authority before has issued (staging, say).
                config=acme.directory_url if acme else "",
                mounts=mounts,
                attachments=[Attachment(network=network) for network in args.networks],
                memory_mb=settings.proxy.memory_mb,
                stop_seconds=GRACE_SECONDS,
                ports=_ports(settings),
                user=engine.user,
                stop_signal=engine.stop_signal,
                tmpfs=engine.tmpfs,
                capabilities=engine.capabilities,
            ),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[args.image, *carriers],
        )
        inside = ["docker", "exec", f"{names.prefix}-{name}"]
        command.local.Command(
            f"{name}-reload",
            create=shlex.join([*inside, *engine.reload]),
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


def proxy_image(settings: Settings) -> str:
    """The image of the engine that the settings choose."""
    return {"caddy": settings.images.caddy, "nginx": settings.images.nginx}[settings.proxy.engine]


def _ports(settings: Settings) -> list[docker.ContainerPortArgs]:
    """The services' ports, and port 80 for HTTP-01 and redirects where certificates come by ACME."""
    published = {*ports(settings), 80} if settings.proxy.certificates.acme else {*ports(settings)}
    return [
        docker.ContainerPortArgs(internal=port, external=port, ip=settings.proxy.address, protocol="tcp")
        for port in sorted(published)
    ]
