"""What the stack's Docker resources have in common: labels, networks, data volumes, carriers, hardened services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceOptions

from components._delivery import REPLACE_ON, Mount, digest
from components._docker_command import docker_command
from components.configuration.naming import StackName

#: Until a started container counts as failed, in seconds.
_HEALTHY_WITHIN = 90
#: Go takes a thread for each file that it waits for, thousands where a disk hangs, and itself ends above 10,000.
_MOST_PROCESSES = 8192


#: Asks whether a service answers at the URL ``$0``. Docker runs the first check one interval after the start, and a
#: shorter interval for a young container needs API 1.44. So the interval is short and the check itself waits: it asks
#: ten times a second until there is an answer, and from then on every 30 seconds, which costs an idle host less than a
#: check every five seconds. /dev/shm may be written in every container, and is empty when that starts.
_HEALTH = r"""
if [ -e /dev/shm/answered ]; then
  sleep 30
else
  for tenth in $(seq 50); do wget -q -O /dev/null "$0" 2>/dev/null && exec touch /dev/shm/answered; sleep 0.1; done
fi
exec wget -q -O /dev/null "$0"
"""

#: Runs a service's program and, when it has ended, lets the kernel send what the program had written last: with the
#: container its network ends at once, and a client that was slower than its server lost up to 4 MB (``tcp_wmem``) of a
#: layer. Ten seconds at most, since clients may be gone, and not after SIGKILL, since nothing was finished. `wait` also
#: ends at a signal.
_RUN = r"""
for signal in TERM QUIT; do trap "%skill -$signal \$!" "$signal"; done
"$0" "$@" &
wait $!; status=$?
while kill -0 $! 2>/dev/null; do wait $!; status=$?; done
[ $status = 137 ] || for tenth in $(seq 100); do
  grep -Eqs '^ *[0-9]+:( [^ ]+){3} 0*[1-9A-F]' /proc/net/tcp /proc/net/tcp6 || break  # sl local remote st tx_queue
  sleep 0.1
done
exit $status
"""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network that a container joins, under an alias or, for the proxy, under none."""

    network: docker.Network
    aliases: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running container. Times are seconds; ``stop_seconds`` is what its process may take to finish requests.

    Told to stop, it serves on for ``serve_on_seconds``, in which others learn of its successor. ``log_files`` of 20 MB
    are kept, all but the newest compressed.
    """

    role: str
    image: str
    command: Sequence[str]
    health_url: str
    config: str
    mounts: Sequence[Mount]
    attachments: Sequence[Attachment]
    memory_mb: int
    stop_seconds: int
    serve_on_seconds: float = 0
    environment: Sequence[str] = ()
    ports: Sequence[docker.ContainerPortArgs] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    user: str | None = None
    stop_signal: str | None = None
    log_files: int = 5


def network(
    name: str, names: StackName, *, internal: bool, opts: ResourceOptions, masquerade: bool = True
) -> docker.Network:
    """A bridge network of the stack; an internal one has no way out and publishes nothing.

    Without ``masquerade`` it publishes, but what leaves has an address to which nothing comes back.
    """
    return docker.Network(
        name,
        name=f"{names.prefix}-{name}",
        driver="bridge",
        internal=internal,
        options=None if masquerade else {"com.docker.network.bridge.enable_ip_masquerade": "false"},
        labels=[docker.NetworkLabelArgs(label=key, value=value) for key, value in names.labels(name).items()],
        opts=opts,
    )


def process_limit(containers: Iterable[docker.Container], *, docker_host: str) -> command.local.Command:
    """Bound the processes and threads of containers, for which the provider has no setting."""
    update = f"docker update --pids-limit={_MOST_PROCESSES} "
    identities = Output.all(*(one.id for one in containers)).apply(" ".join)
    return docker_command("process-limit", docker_host, Output.concat(update, identities))


def published(address: str, ports: Iterable[int]) -> list[docker.ContainerPortArgs]:
    """The same ports of the Docker host at ``address``."""
    return [
        docker.ContainerPortArgs(internal=port, external=port, ip=address, protocol="tcp") for port in sorted(ports)
    ]


def service(
    name: str,
    names: StackName,
    spec: Service,
    *,
    fixed_name: str | None,
    parent: pulumi.Resource,
    depends_on: Sequence[pulumi.Resource],
) -> docker.Container:
    """A hardened, health-checked container.

    With a ``fixed_name`` it is replaced delete-first: for what holds a published port or a cache that one process may
    use. Without, it is replaced create-first: the new one is healthy before the old one gets SIGTERM and drains.
    """
    labels = names.labels(spec.role) | {"registry-stack.config": digest(spec.config)}
    return docker.Container(
        name,
        name=fixed_name,
        image=spec.image,
        entrypoints=["/bin/sh", "-c", _RUN % (f"sleep {spec.serve_on_seconds}; " if spec.serve_on_seconds else "")],
        command=list(spec.command),
        envs=list(spec.environment),
        labels=[docker.ContainerLabelArgs(label=key, value=value) for key, value in labels.items()],
        volumes=[
            docker.ContainerVolumeArgs(container_path=mount.path, volume_name=mount.volume, read_only=mount.read_only)
            for mount in spec.mounts
            if mount.host_path is None
        ],
        # Unlike a volume with a host path, a mount does not create a folder that is missing at a restart.
        mounts=[
            docker.ContainerMountArgs(target=mount.path, type="bind", source=mount.host_path, read_only=mount.read_only)
            for mount in spec.mounts
            if mount.host_path is not None
        ]
        or None,
        networks_advanced=[
            docker.ContainerNetworksAdvancedArgs(name=attached.network.name, aliases=list(attached.aliases))
            for attached in spec.attachments
        ],
        ports=list(spec.ports) or None,
        tmpfs=dict(spec.tmpfs) or None,
        user=spec.user,
        read_only=True,
        capabilities=docker.ContainerCapabilitiesArgs(adds=list(spec.capabilities), drops=["ALL"]),
        security_opts=["no-new-privileges:true"],
        restart="unless-stopped",
        # Swap equal to memory means none; unset, the daemon doubles it and every preview shows a difference.
        memory=spec.memory_mb,
        memory_swap=spec.memory_mb,
        log_driver="json-file",
        log_opts={"max-size": "20m", "max-file": str(spec.log_files), "compress": "true"},
        healthcheck=docker.ContainerHealthcheckArgs(
            tests=["CMD", "/bin/sh", "-c", _HEALTH, spec.health_url],
            interval="500ms",
            timeout="40s",
            retries=3,
            start_period="1m0s",
        ),
        wait=True,
        wait_timeout=_HEALTHY_WITHIN,
        stop_signal=spec.stop_signal,
        stop_timeout=spec.stop_seconds + 12,
        # Unset, the provider kills without a grace, whatever the stop timeout says.
        destroy_grace_seconds=spec.stop_seconds + 20,
        opts=ResourceOptions(
            parent=parent,
            depends_on=list(depends_on),
            delete_before_replace=fixed_name is not None,
            replace_on_changes=REPLACE_ON,
        ),
    )
