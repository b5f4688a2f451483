"""Hardened services, networks, published ports and the process limit, shared by all components."""

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

#: Seconds after which a started container that is not healthy counts as failed.
_HEALTHY_WITHIN = 90
#: Most processes and threads of a container. Go uses one thread for each blocked file operation: thousands if a disk
#: hangs. Above 10,000 threads, Go ends the process.
_MOST_PROCESSES = 8192
#: Restart policy. ``unless-stopped`` would leave containers stopped after a crash of the engine: the next engine stops
#: those that survived, and counts them as stopped by hand.
RESTART = "always"

#: Health check of a service at the URL ``$0``. Docker runs the first check one interval after the start; a shorter
#: interval for a starting container needs API 1.44. So the interval is short and the script waits: the script sends ten
#: requests per second until the first answer, then one request every 30 seconds. That costs an idle host less than a
#: check every 5 seconds. The script marks the first answer in /dev/shm, which is writable in every container and empty
#: at its start.
_HEALTH = r"""
if [ -e /dev/shm/answered ]; then
  sleep 30
else
  for tenth in $(seq 50); do wget -q -O /dev/null "$0" 2>/dev/null && exec touch /dev/shm/answered; sleep 0.1; done
fi
exec wget -q -O /dev/null "$0"
"""

#: Runs the program of a service. After the program has ended, the script waits until the kernel has sent the program's
#: last data. The network ends with the container, and a client slower than its server lost up to 4 MB (``tcp_wmem``) of
#: a layer. The script waits for at most 10 seconds, because clients may be gone, and not after SIGKILL, because the
#: program finished nothing. ``wait`` also returns at a signal, so the script calls ``wait`` in a loop.
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
    """A network that a container joins, and the aliases of the container there; the proxy has no alias."""

    network: docker.Network
    aliases: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running container. All times are in seconds.

    After a stop signal, the container first serves for another ``serve_on_seconds``, so that the proxy can find its
    successor. Then the process has ``stop_seconds`` to finish requests. Docker keeps ``log_files`` log files of 20 MB
    and compresses all but the newest.
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
    """Declare a bridge network of the stack. An ``internal`` network has no route out and publishes no ports.

    Without ``masquerade``, the network publishes ports, but no reply reaches the source address of outgoing packets.
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
    """Limit the processes and threads of containers; the provider has no setting for that limit."""
    update = f"docker update --pids-limit={_MOST_PROCESSES} "
    identities = Output.all(*(one.id for one in containers)).apply(" ".join)
    return docker_command("process-limit", docker_host, Output.concat(update, identities))


def published(address: str, ports: Iterable[int]) -> list[docker.ContainerPortArgs]:
    """Publish each port of the container on the same port of ``address``, an address of the Docker host."""
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
    """Declare a hardened container with a health check.

    With a ``fixed_name``, a replacement deletes the old container first. That suits a published port, or a cache that
    only one process may use. Without ``fixed_name``, a replacement creates the new container first: the new container
    is healthy before the old container gets SIGTERM and drains.
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
        # A bind mount does not create a missing folder at a restart; a volume with a host path would create the folder.
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
        restart=RESTART,
        # Equal to `memory`: no swap. If unset, the daemon doubles the value and every preview shows a difference.
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
        # If unset, the provider kills the container at once, whatever the stop timeout is.
        destroy_grace_seconds=spec.stop_seconds + 20,
        opts=ResourceOptions(
            parent=parent,
            depends_on=list(depends_on),
            delete_before_replace=fixed_name is not None,
            replace_on_changes=REPLACE_ON,
        ),
    )
