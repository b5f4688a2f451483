"""``PullThroughMirror``: the cache of one upstream registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
from pulumi import Input, Output, ResourceOptions
from pydantic import SecretStr

from components._delivery import Image, Mount, deliver
from components._service import Attachment, Service, published, service
from components.checks.upstream import ask_upstream
from components.configuration.naming import StackName, cache_alias, cache_port, mirror_alias, mirror_port, quick_alias
from components.configuration.settings import MirrorSettings
from components.render.registry import (
    CONFIG_FILE,
    CREDENTIAL_HELPER,
    CREDENTIALS_FILE,
    MIRROR_DRAIN_SECONDS,
    SECRETS_DIRECTORY,
    credentials_file,
    environment,
    mirror_files,
)
from components.render.registry_command import (
    FREE,
    PRIVATELY,
    SERVE_CACHE,
    SERVE_WITH_PAUSES,
    USER,
    on_own_store,
    store_mark,
)
from components.render.upstream import Upstream


@dataclass(frozen=True, kw_only=True)
class PullThroughMirrorArgs:
    """``upstream`` is the registry's name (``docker.io``); ``password`` belongs to ``settings.username``.

    ``address`` is the address of the Docker host for the mirror's port, with the operator's own proxy. After ``owned``,
    the mirror's user owns ``data``, the cache. ``upstream_environment`` is for the way to the upstream.
    """

    names: StackName
    upstream: str
    settings: MirrorSettings
    password: SecretStr | None
    docker_host: str
    image: Image
    network: docker.Network
    address: str | None
    upstream_environment: Sequence[str]
    data: Mount
    owned: pulumi.Resource


class PullThroughMirror(pulumi.ComponentResource):
    """One distribution process in proxy mode, with the alias ``mirror-<upstream>`` on ``network``.

    A second process in the same container serves the cache while the first waits for its upstream.

    Declares a volume and a carrier for configuration, the same for the credentials of an upstream login, and the
    container. A replacement deletes the old container first: two processes must not share a cache, because both would
    write ``scheduler-state.json``. Meanwhile, requests wait at the proxy. A command asks a new or changed upstream, and
    a failure is a warning.
    """

    container: docker.Container

    def __init__(self, name: str, args: PullThroughMirrorArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:PullThroughMirror", name, {}, opts)
        names, settings, alias = args.names, args.settings, mirror_alias(args.upstream)
        program = FREE + (PRIVATELY if settings.storage.host_path else "") + SERVE_CACHE + SERVE_WITH_PAUSES
        aliases = [alias, quick_alias(alias), cache_alias(args.upstream)]
        own_ports = [mirror_port(args.upstream), cache_port(args.upstream)]
        texts = mirror_files(args.upstream, settings)
        files: dict[str, Mapping[str, Input[str]]] = {"config": texts}
        if settings.username is not None and args.password is not None:
            answer = credentials_file(settings.username, args.password.get_secret_value())
            files["secrets"] = {f"{SECRETS_DIRECTORY}/{CREDENTIALS_FILE}": Output.secret(answer)}
        config, *login = [
            deliver(f"{name}-{kind}", names, image=args.image, files=own, executable=CREDENTIAL_HELPER, parent=self)
            for kind, own in files.items()
        ]
        variables = [*environment(settings.memory_mb), *args.upstream_environment]
        self.container = service(
            f"{name}-container",
            names,
            Service(
                role=name,
                image=args.image.name,
                command=on_own_store(program, CONFIG_FILE, store_mark(args.upstream), writes=True),
                environment=variables,
                health_url=f"http://127.0.0.1:{mirror_port(args.upstream)}/",
                config="".join(texts.values()),
                mounts=[config.mount, args.data, *(one.mount for one in login)],
                attachments=[Attachment(network=args.network, aliases=aliases)],
                memory_mb=settings.memory_mb,
                stop_seconds=MIRROR_DRAIN_SECONDS,
                user=USER,
                ports=published(args.address, own_ports) if args.address else [],
            ),
            fixed_name=f"{names.prefix}-{name}",
            parent=self,
            depends_on=[args.image.pulled, args.owned, *(one.carrier for one in (config, *login))],
        )
        ask_upstream(
            f"{name}-upstream",
            Upstream(name=args.upstream, mirror=settings, environment=variables),
            image=args.image,
            network=args.network,
            config=config,
            login=next(iter(login), None),
            docker_host=args.docker_host,
            parent=self,
        )
        self.register_outputs({"container": self.container.name})
