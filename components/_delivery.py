"""Files and secrets into Docker volumes: volume, carrier, validation, swap."""

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

#: Inputs that the provider "updates" without any effect, and the mark of a container that failed to become healthy:
#: without them a changed health check is ignored, and the ``up`` after a failed one reports success and does nothing.
REPLACE_ON = ["healthcheck", "tmpfs", "init", "#initerror"]
#: Moves what a carrier brought to where it belongs, in its volumes. Renaming replaces a file at once; copying gives it
#: a time of modification of its own, by which distribution notices that it is another file.
_STAGE = "/delivery"
_SWAP = f"""cd {_STAGE} && find . -type f | while read -r file; do
  cp "$file" "/${{file%/*}}/.new" && mv "/${{file%/*}}/.new" "/$file" || exit
done"""
#: Puts what ``archive`` packed where it belongs, then runs the program that follows.
_UNPACK = 'base64 -d | tar -x -C / && exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume (or, with ``host_path``, a folder of the host) in a container."""

    path: str
    volume: pulumi.Input[str] | None = None
    host_path: str | None = None
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image by its literal name, which a preview shows, and as the resource that pulls it."""

    name: str
    pulled: docker.RemoteImage


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Files in a volume: how a service mounts them, and the carrier that must have run before it starts."""

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
    image: Image,
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
        image=image.name,
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
    """Let the program ``validate`` read ``files``, by path, in a throwaway container before anything is delivered.

    Where it fails, the ``up`` does: a bad file in a volume would keep a restarted service from coming up. The files
    come on standard input and lie in memory, since private keys are among them.
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
    """A tar archive of files by path, as base64 for a standard input that takes text; same files, same archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return base64.encodebytes(packed.getvalue()).decode()


def volume_for_files(name: str, names: StackName, parent: pulumi.Resource) -> docker.Volume:
    """A volume for what the program delivers anew at any time; it goes with the stack."""
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
    """``files`` of one folder, by path, in a volume of their own; the one at the path ``executable`` may be run."""
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
    """Let a ``swapped`` carrier replace its files in the volume, each in one step; a new carrier does it anew."""
    start = Output.concat("docker start --attach ", carrier.id)
    return docker_command(name, docker_host, start, opts=ResourceOptions(parent=parent))


def digest(text: str) -> str:
    """Short fingerprint of a file, so that a changed one shows as a change of what depends on it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
