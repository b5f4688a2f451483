"""What the stack's Docker resources have in common: labels, networks, data volumes, carriers, hardened services."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Alias, Output, ResourceOptions

#: Inputs that the provider "updates" without any effect, and the mark of a container that failed to become healthy:
#: without them a changed health check is ignored, and the ``up`` after a failed one reports success and does nothing.
_REPLACE_ON = ["healthcheck", "tmpfs", "init", "#initerror"]
#: Until a started container counts as failed, in seconds.
_HEALTHY_WITHIN = 90
#: Go takes a thread for each file that it waits for, thousands where a disk hangs, and itself ends above 10,000.
_MOST_PROCESSES = 8192
#: Moves what a carrier brought to where it belongs, in its volumes. Renaming replaces a file at once; copying gives it
#: a time of modification of its own, by which distribution notices that it is another file.
_STAGE = "/delivery"
_SWAP = f"""cd {_STAGE} && find . -type f | while read -r file; do
  cp "$file" "/${{file%/*}}/.new" && mv "/${{file%/*}}/.new" "/$file" || exit
done"""

#: Puts what ``archive`` packed where it belongs, then runs the program that follows.
_UNPACK = 'base64 -d | tar -x -C / && exec "$@"'

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
class StackName:
    """Who owns a Docker object: ``prefix`` of its name, and labels by which all objects of a stack can be found."""

    prefix: str
    stack: str

    def labels(self, role: str) -> dict[str, str]:
        """Labels of the object that plays ``role``."""
        return {"registry-stack.stack": self.stack, "registry-stack.prefix": self.prefix, "registry-stack.role": role}


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A network that a container joins, under an alias or, for the proxy, under none."""

    network: docker.Network
    aliases: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume (or, with ``host_path``, a folder of the host) in a container."""

    path: str
    volume: pulumi.Input[str] | None = None
    host_path: str | None = None
    read_only: bool = True


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


def volume(
    name: str,
    physical_name: str,
    names: StackName,
    *,
    keep: bool,
    protect: bool,
    parent: pulumi.Resource,
    aliases: Sequence[Alias] = (),
) -> docker.Volume:
    """A named volume; ``keep`` leaves it on the host when the stack is destroyed, ``protect`` refuses to destroy."""
    return docker.Volume(
        name,
        name=physical_name,
        labels=[docker.VolumeLabelArgs(label=key, value=value) for key, value in names.labels(name).items()],
        opts=ResourceOptions(
            parent=parent,
            protect=protect,
            retain_on_delete=keep,
            aliases=list(aliases),
            # A changed label would replace a named volume, deleting it first.
            ignore_changes=["labels", "driver", "driverOpts"],
        ),
    )


def throwaway(image_name: str, volumes: Mapping[str, str], capabilities: Sequence[str], *program: str) -> str:
    """The shell command that runs a program once as root with ``volumes``, by name the path of each."""
    options = ["--rm", "--network=none", "--user=0", "--entrypoint=", "--cap-drop=ALL"]
    options += [f"--cap-add={each}" for each in capabilities]
    options += [f"--volume={name}:{path}" for name, path in volumes.items()]
    return shlex.join(["docker", "run", *options, image_name, *program])


def carrier(
    name: str,
    names: StackName,
    *,
    image: docker.RemoteImage,
    image_name: str,
    volumes: Mapping[str, docker.Volume],
    files: Mapping[str, pulumi.Input[str]],
    parent: pulumi.Resource,
    executable: str | None = None,
    swapped: bool = False,
    depends_on: Sequence[pulumi.Resource] = (),
) -> docker.Container:
    """A container that delivers ``files``, by path, into volumes through the Docker API, also over ssh://.

    ``volumes`` stand at their folders; of ``files``, the one at the path ``executable`` may be run. It never runs.

    Uploads into the services themselves would need a writable root, and would replace them at every change.

    The engine removes a file before it writes the new one, so a process that reads at that moment finds none, or half
    of it. With ``swapped``, the files wait in the carrier until ``swap`` runs it, and it puts them into the volume.
    """
    return docker.Container(
        name,
        image=image_name,
        entrypoints=["/bin/sh", "-c", _SWAP] if swapped else ["/bin/true"],
        envs=[],  # a state that says null (an older stand-in's) would make the official plugin replace it
        start=False,
        must_run=False,
        network_mode="none",
        labels=[docker.ContainerLabelArgs(label=key, value=value) for key, value in names.labels(name).items()],
        volumes=[
            docker.ContainerVolumeArgs(container_path=folder, volume_name=target.name)
            for folder, target in volumes.items()
        ],
        uploads=[
            docker.ContainerUploadArgs(
                file=f"{_STAGE if swapped else ''}{path}",
                content=content,
                permissions="0755" if path == executable else "0644",
            )
            for path, content in files.items()
        ],
        opts=ResourceOptions(
            parent=parent,
            depends_on=[image, *depends_on],
            delete_before_replace=False,
            replace_on_changes=_REPLACE_ON,
        ),
    )


def validation(
    name: str,
    *,
    image: docker.RemoteImage,
    image_name: str,
    files: Mapping[str, str],
    validate: Sequence[str],
    user: str,
    tmpfs: Mapping[str, str],
    docker_host: str,
    parent: pulumi.Resource,
) -> command.local.Command:
    """Let the program ``validate`` read ``files``, by path, in a throwaway container before anything is delivered.

    Where it fails, the ``up`` does: a bad file in a volume would keep a restarted service from coming up. The files
    come on standard input and lie in memory, since private keys are among them.
    """
    options = ["--rm", "--interactive", "--network=none", "--entrypoint=", f"--user={user}"]
    own = f"size=1m,uid={user},gid={user},mode=0700"
    folders = {path.rpartition("/")[0]: own for path in files}
    options += [f"--tmpfs={folder}:{option}" for folder, option in {**tmpfs, **folders}.items()]
    return command.local.Command(
        f"{name}-validation",
        create=shlex.join(["docker", "run", *options, image_name, "sh", "-c", _UNPACK, "sh", *validate]),
        stdin=Output.secret(archive(files)),
        environment={"DOCKER_HOST": docker_host},
        add_previous_output_in_env=False,
        opts=ResourceOptions(parent=parent, depends_on=[image], hide_diffs=["stdin"]),
    )


def archive(files: Mapping[str, str]) -> str:
    """A tar archive of files by path, as base64 for a standard input that takes text; same files, same archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return base64.encodebytes(packed.getvalue()).decode()


def config_volume(
    name: str,
    names: StackName,
    *,
    image: docker.RemoteImage,
    image_name: str,
    path: str,
    text: str,
    parent: pulumi.Resource,
    depends_on: Sequence[pulumi.Resource] = (),
) -> tuple[Mount, docker.Container]:
    """A volume for the folder of ``path``, and the carrier that delivers ``text`` to it."""
    directory = path.rpartition("/")[0]
    target = volume(f"{name}-config", f"{names.prefix}-{name}-config", names, keep=False, protect=False, parent=parent)
    delivery = carrier(
        f"{name}-config-carrier",
        names,
        image=image,
        image_name=image_name,
        volumes={directory: target},
        files={path: text},
        parent=parent,
        depends_on=depends_on,
    )
    return Mount(path=directory, volume=target.name), delivery


def swap(name: str, carrier: docker.Container, *, docker_host: str, parent: pulumi.Resource) -> command.local.Command:
    """Let a ``swapped`` carrier replace its files in the volume, each in one step; a new carrier does it anew."""
    return command.local.Command(
        name,
        create=Output.concat("docker start --attach ", carrier.id),
        environment={"DOCKER_HOST": docker_host},
        add_previous_output_in_env=False,
        opts=ResourceOptions(parent=parent),
    )


def process_limit(containers: Iterable[docker.Container], *, docker_host: str) -> command.local.Command:
    """Bound the processes and threads of containers, for which the provider has no setting."""
    return command.local.Command(
        "process-limit",
        create=Output.concat(
            f"docker update --pids-limit={_MOST_PROCESSES} ",
            Output.all(*(one.id for one in containers)).apply(" ".join),
        ),
        environment={"DOCKER_HOST": docker_host},
        add_previous_output_in_env=False,
    )


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
            replace_on_changes=_REPLACE_ON,
        ),
    )


def digest(text: str) -> str:
    """Short fingerprint of a file, so that a changed one shows as a change of what depends on it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
