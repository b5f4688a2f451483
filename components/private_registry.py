"""``PrivateRegistry``: the team's own registry, one process for each right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pulumi
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._delivery import Image, Mount, carrier, deliver, digest, swap, volume_for_files
from components._service import Attachment, Service, published, service
from components.configuration.fields import OPERATIONS_USER, seconds
from components.configuration.naming import PORTS, StackName, quick_alias
from components.configuration.passwords import hashes, http_secret, operations_password
from components.configuration.settings import ROLES_OF, Process, RegistrySettings, Secrets, processes
from components.render.htpasswd import htpasswd
from components.render.registry import (
    CONFIG_DIRECTORY,
    HTTP_SECRET_FILE,
    READ_ONLY,
    SECRETS_DIRECTORY,
    environment,
    registry_config,
)
from components.render.registry_command import (
    FREE,
    PRIVATELY,
    SERVE,
    SERVE_WITH_PAUSES,
    USER,
    on_own_store,
    store_mark,
)

#: Reads ``http.secret`` from a separate file. distribution accepts the secret only in its environment or in its
#: configuration file. ``docker inspect`` shows the environment of the container, and previews show the configuration.
_WITH_SECRET = f'export REGISTRY_HTTP_SECRET="$(cat {SECRETS_DIRECTORY}/{HTTP_SECRET_FILE})"; '


@dataclass(frozen=True, kw_only=True)
class PrivateRegistryArgs:
    """The operator's choices, the image and the network.

    ``address`` is the address of the Docker host for the ports of the processes, with the operator's own proxy.
    ``proxy_learns_within`` is the time in seconds until the proxy knows the replacement of a process. After ``owned``,
    the user of the processes owns ``data``.
    """

    names: StackName
    settings: RegistrySettings
    secrets: Secrets
    image: Image
    network: docker.Network
    address: str | None
    proxy_learns_within: float
    docker_host: str
    data: Mount
    owned: pulumi.Resource


class PrivateRegistry(pulumi.ComponentResource):
    """Reader, writer and admin: processes over one store, each with the users of its right; public has no users.

    Declares a volume and a carrier for configuration, a volume for the secrets of each process, their carrier, the
    command that swaps the secrets in, and a container for each process. The process name is the alias on ``network``. A
    replacement deletes the old container first if the process publishes a port. TLS is TlsProxy's job.
    """

    containers: dict[str, docker.Container]
    """The current container of each process."""

    def __init__(self, name: str, args: PrivateRegistryArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("registry-stack:components:PrivateRegistry", name, {}, opts)
        names, settings = args.names, args.settings
        running = processes(settings)
        configs = {process: registry_config(process, settings) for process in running}
        config = deliver(
            f"{name}-config",
            names,
            image=args.image,
            files={f"{CONFIG_DIRECTORY}/{process}.yml": text for process, text in configs.items()},
            parent=self,
        )
        files = _secret_files(args)
        secrets = {process: volume_for_files(f"{name}-{process}-secrets", names, self) for process in files}
        secrets_carrier = carrier(
            f"{name}-secrets-carrier",
            names,
            image=args.image,
            volumes={f"{SECRETS_DIRECTORY}/{process}": target for process, target in secrets.items()},
            files={
                f"{SECRETS_DIRECTORY}/{process}/{file}": Output.secret(text)
                for process, own in files.items()
                for file, text in own.items()
            },
            swapped=True,  # the registry reads the password files at every request
            parent=self,
        )
        secrets_swap = swap(f"{name}-secrets-swap", secrets_carrier, docker_host=args.docker_host, parent=self)
        mounts = {
            process: [
                config.mount,
                *([Mount(path=SECRETS_DIRECTORY, volume=secrets[process].name)] if process in secrets else []),
            ]
            for process in running
        }
        self.containers = {
            process: service(
                f"{name}-{process}",
                names,
                _process_service(
                    process, args, configs[process], files.get(process, {}).get(HTTP_SECRET_FILE), mounts[process]
                ),
                fixed_name=f"{names.prefix}-{name}-{process}" if args.address else None,
                parent=self,
                depends_on=[args.image.pulled, args.owned, config.carrier, secrets_swap],
            )
            for process in running
        }
        self.register_outputs({"containers": {process: one.name for process, one in self.containers.items()}})


def _process_service(
    process: Process, args: PrivateRegistryArgs, config: str, http_secret: str | None, mounts: Sequence[Mount]
) -> Service:
    """Return the service of one process; ``mounts`` hold its configuration and its secrets."""
    settings = args.settings
    program = SERVE if process in READ_ONLY else SERVE_WITH_PAUSES
    program = (PRIVATELY if settings.storage.host_path else "") + (_WITH_SECRET if http_secret else "") + program
    if process == "writer":
        program = FREE + program
    return Service(
        role=process,
        image=args.image.name,
        command=on_own_store(
            program, f"{CONFIG_DIRECTORY}/{process}.yml", store_mark(), writes=process not in READ_ONLY
        ),
        environment=environment(settings.memory_mb),
        health_url=f"http://127.0.0.1:{PORTS[process]}/",
        # A changed http.secret needs a restart, a changed htpasswd does not.
        config=config + (digest(http_secret) if http_secret else ""),
        mounts=[*mounts, replace(args.data, read_only=process in READ_ONLY)],
        attachments=[Attachment(network=args.network, aliases=[process, quick_alias(process)])],
        memory_mb=settings.memory_mb,
        stop_seconds=seconds(settings.drain_timeout),
        serve_on_seconds=args.proxy_learns_within,
        user=USER,
        # 30 files keep the log of pushes and deletes despite 100,000 wrong logins of the longest kind, 5 KB each.
        log_files=30 if process in ("writer", "admin") else 5,
        ports=published(args.address, [PORTS[process]]) if args.address else [],
    )


def _secret_files(args: PrivateRegistryArgs) -> dict[Process, dict[str, str]]:
    """Return the secret files of each process with a login: its htpasswd file and, for the writer, the upload key."""
    passwords = args.secrets.passwords | {OPERATIONS_USER: operations_password(args.secrets.stack_secret)}
    hashed = hashes(passwords, args.secrets.stack_secret)
    files = {process: {f"{process}.htpasswd": htpasswd(process, args.settings.users, hashed)} for process in ROLES_OF}
    files["writer"][HTTP_SECRET_FILE] = http_secret(args.secrets.stack_secret)
    return files
