"""Deliver files and secrets into Docker volumes: volume, carrier, validation, swap."""

from __future__ import annotations

import base64
import hashlib
import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Alias, Output, ResourceOptions

from components._docker_command import docker_command
from components.configuration.naming import StackName

#: Inputs whose change must replace a container. The provider "updates" the first three without any effect, so it would
#: ignore a changed health check. ``#initerror`` marks a container that did not become healthy: without this entry, the
#: next ``up`` reports success and does nothing.
REPLACE_ON = ["healthcheck", "tmpfs", "init", "#initerror"]
#: Moves the staged files of a carrier into its volumes. ``mv`` replaces a file in one step. ``cp`` sets a new
#: modification time, by which distribution detects a changed file.
_STAGE = "/delivery"
_SWAP = f"""cd {_STAGE} && find . -type f | while read -r file; do
  cp "$file" "/${{file%/*}}/.new" && mv "/${{file%/*}}/.new" "/$file" || exit
done"""
#: Extracts the files of ``archive`` from standard input, then runs the program in the arguments.
_UNPACK = 'base64 -d | tar -x -C / && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mount of a container: a volume or, with ``host_path``, a folder of the host."""

    path: str
    volume: pulumi.Input[str] | None = None
    host_path: str | None = None
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image: the literal name, which a preview shows, and the resource that pulls the image."""

    name: str
    pulled: docker.RemoteImage


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Files in a volume: the mount for a service, and the carrier on which that service must depend."""

    mount: Mount
    carrier: docker.Container


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
    """Declare a named volume.

    ``keep`` leaves the volume on the host when the stack is destroyed. ``protect`` refuses to destroy the volume.
    """
    return docker.Volume(
        name,
        name=physical_name,
        labels=[docker.VolumeLabelArgs(label=key, value=value) for key, value in names.labels(name).items()],
        opts=ResourceOptions(
            parent=parent,
            protect=protect,
            retain_on_delete=keep,
            aliases=list(aliases),
            # A changed label would replace the volume: the provider would delete the volume and its data first.
            ignore_changes=["labels", "driver", "driverOpts"],
        ),
    )


def throwaway(image_name: str, volumes: Mapping[str, str], capabilities: Sequence[str], *program: str) -> str:
    """Return the shell command that runs a program once as root; ``volumes`` maps volume names to mount paths."""
    options = ["--rm", "--network=none", "--user=0", "--entrypoint=", "--cap-drop=ALL"]
    options += [f"--cap-add={each}" for each in capabilities]
    options += [f"--volume={name}:{path}" for name, path in volumes.items()]
    return shlex.join(["docker", "run", *options, image_name, *program])


def carrier(
    name: str,
    names: StackName,
    *,
    image: Image,
    volumes: Mapping[str, docker.Volume],
    files: Mapping[str, pulumi.Input[str]],
    parent: pulumi.Resource,
    executable: str | None = None,
    swapped: bool = False,
    depends_on: Sequence[pulumi.Resource] = (),
) -> docker.Container:
    """Declare a container that delivers ``files`` into volumes through the Docker API, also over ``ssh://``.

    ``volumes`` maps folders to volumes; ``files`` maps paths to contents. The file at ``executable`` gets mode 0755.
    The container never starts, unless ``swap`` starts it.

    Uploads into the services themselves would need a writable root, and every change would replace the service.

    The engine removes a file before it writes the new file. A process that reads at that moment finds no file, or half
    a file. With ``swapped``, the files stay in the carrier until ``swap`` starts the carrier, which moves the files
    into the volume.
    """
    return docker.Container(
        name,
        image=image.name,
        entrypoints=["/bin/sh", "-c", _SWAP] if swapped else ["/bin/true"],
        envs=[],  # with null in the state (from an older stand-in), the official plugin would replace the carrier
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
            depends_on=[image.pulled, *depends_on],
            delete_before_replace=False,
            replace_on_changes=REPLACE_ON,
        ),
    )


def validation(
    name: str,
    *,
    image: Image,
    files: Mapping[str, str],
    validate: Sequence[str],
    user: str,
    tmpfs: Mapping[str, str],
    docker_host: str,
    parent: pulumi.Resource,
) -> command.local.Command:
    """Validate ``files``, by path, with the program ``validate`` in a throwaway container before the delivery.

    If the validation fails, ``up`` fails: a bad file in a volume would prevent a restarted service from starting. The
    container reads the files from standard input and keeps them in memory, because private keys are among the files.
    """
    options = ["--rm", "--interactive", "--network=none", "--entrypoint=", f"--user={user}"]
    own = f"size=1m,uid={user},gid={user},mode=0700"
    folders = {path.rpartition("/")[0]: own for path in files}
    options += [f"--tmpfs={folder}:{option}" for folder, option in {**tmpfs, **folders}.items()]
    return docker_command(
        f"{name}-validation",
        docker_host,
        shlex.join(["docker", "run", *options, image.name, "sh", "-c", _UNPACK, "sh", *validate]),
        stdin=Output.secret(archive(files)),
        opts=ResourceOptions(parent=parent, depends_on=[image.pulled], hide_diffs=["stdin"]),
    )


def archive(files: Mapping[str, str]) -> str:
    """Pack files by path into a tar archive, in base64 because standard input takes text.

    The same files give the same archive.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return base64.encodebytes(packed.getvalue()).decode()


def volume_for_files(name: str, names: StackName, parent: pulumi.Resource) -> docker.Volume:
    """Declare a volume for files that the program can always deliver again; `destroy` removes the volume."""
    return volume(name, f"{names.prefix}-{name}", names, keep=False, protect=False, parent=parent)


def deliver(
    name: str,
    names: StackName,
    *,
    image: Image,
    files: Mapping[str, pulumi.Input[str]],
    parent: pulumi.Resource,
    executable: str | None = None,
    depends_on: Sequence[pulumi.Resource] = (),
) -> Delivery:
    """Deliver ``files`` of one folder, by path, into a new volume; the file at ``executable`` gets mode 0755."""
    (folder,) = {path.rpartition("/")[0] for path in files}
    target = volume_for_files(name, names, parent)
    delivery = carrier(
        f"{name}-carrier",
        names,
        image=image,
        volumes={folder: target},
        files=files,
        executable=executable,
        parent=parent,
        depends_on=depends_on,
    )
    return Delivery(mount=Mount(path=folder, volume=target.name), carrier=delivery)


def swap(name: str, carrier: docker.Container, *, docker_host: str, parent: pulumi.Resource) -> command.local.Command:
    """Start a ``swapped`` carrier, which replaces each file in one step; a new carrier is started again."""
    start = Output.concat("docker start --attach ", carrier.id)
    return docker_command(name, docker_host, start, opts=ResourceOptions(parent=parent))


def digest(text: str) -> str:
    """Return a short fingerprint of a text, to change a resource when the text changes."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
