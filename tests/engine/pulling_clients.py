"""Clients that pull through mirrors, on a machine with its own files in /etc, in the network of the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from local.engine import _comes_true
from local.steps import home
from tests.engine.second_engine import running_dockerd
from tests.harness import clients

#: Pulls one image by its name and forgets it, so that the next pull needs every layer again.
Pull = Callable[[str], None]

#: The copies are in memory: nothing in the real /etc, /run and /var/lib changes.
_START = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/lib
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
cp --recursive "$FILES/." /etc
mount --bind /mnt/lib /var/lib
mount -t tmpfs tmpfs /run
exec "$0" "$@"
"""


@dataclass(frozen=True)
class ClientMachine:
    """Runs programs with the files of ``files`` in /etc. They trust ``authority``, as if it were public."""

    files: Path
    authority: Path

    def run(self, *command: str) -> None:
        """Run a client to its end."""
        answer = subprocess.run(
            self._inside(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._variables(),
            check=False,
            timeout=300,
        )
        assert answer.returncode == 0, f"{' '.join(command)}: {answer.stdout}{answer.stderr}"

    @contextlib.contextmanager
    def running(self, *command: str, socket: Path, log: Path, path: str = "") -> Iterator[int]:
        """Run a daemon that listens on ``socket``, and stop it at the end; its process number.

        ``path`` comes first in its PATH.
        """
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._inside(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._variables(path),
            )
        try:
            assert _comes_true(lambda: socket.exists() or process.poll() is not None), log.read_text()
            assert process.poll() is None, log.read_text()
            yield process.pid
        finally:
            process.terminate()
            process.wait(180)

    def _inside(self, *command: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-ec", _START, *command]

    def _variables(self, path: str = "") -> dict[str, str]:
        found = ":".join([*filter(None, [path]), os.environ["PATH"], "/usr/sbin", "/sbin"])
        return os.environ | {"PATH": found, "FILES": str(self.files), "SSL_CERT_FILE": str(self.authority)}


@contextlib.contextmanager
def docker_engine(machine: ClientMachine) -> Iterator[tuple[str, int]]:
    """The address and the process number of an empty engine of the same version as that of the tests.

    On its machine, it has the usual socket and the usual file with its process number.
    """
    program = running_dockerd()
    with tempfile.TemporaryDirectory(prefix="client-", dir=home("engines")) as name:
        socket = Path(name) / "docker.sock"
        paths = ("--data-root", f"{name}/data", "--exec-root", f"{name}/run", "--pidfile", "/run/docker.pid")
        sockets = ("--host", f"unix://{socket}", "--host", "unix:///run/docker.sock")
        # It uses the bridge of the other engine and changes no rule. With `--bridge=none`, it would delete that bridge.
        network = ("--bridge=docker0", "--iptables=false", "--ip6tables=false")
        command, folder = (str(program), *paths, *sockets, *network), str(program.parent)
        with machine.running(*command, socket=socket, log=Path(name) / "log", path=folder) as process:
            yield f"unix://{socket}", process


def docker_pull(engine: str) -> Pull:
    """The docker command. Names of Docker Hub are short."""

    def pull(name: str) -> None:
        short = name.removeprefix("docker.io/library/")
        _run("docker", "--host", engine, "pull", short)
        _run("docker", "--host", engine, "rmi", short)

    return pull


def docker_build(engine: str, buildx: tuple[str, ...], folder: Path) -> Pull:
    """A build in the engine, which contains BuildKit. There, BuildKit uses the files of the engine."""

    def build(name: str) -> None:
        (folder / "Dockerfile").write_text(f"FROM {name.removeprefix('docker.io/library/')}\n")
        _run(*buildx, "--host", engine, "buildx", "build", "--tag", "built", str(folder))
        _run(*buildx, "--host", engine, "rmi", "built")
        _run(*buildx, "--host", engine, "buildx", "prune", "--all", "--force")

    return build


def ctr_fetch(engine: str, machine: ClientMachine) -> Pull:
    """containerd's own command. The containerd of the engine stores the image."""

    def fetch(name: str) -> None:
        machine.run(*ctr(engine), "content", "fetch", "--hosts-dir", "/etc/containerd/certs.d", name)
        machine.run(*ctr(engine), "images", "remove", "--sync", name)

    return fetch


def ctr(engine: str) -> list[str]:
    """The command for the containerd of an engine."""
    folder = Path(engine.removeprefix("unix://")).parent
    return ["ctr", "--address", str(folder / "run/containerd/containerd.sock")]


def podman_pull(machine: ClientMachine, folder: Path) -> Pull:
    """Podman with its store in ``folder``."""
    podman = ("podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs")

    def pull(name: str) -> None:
        machine.run(*podman, "pull", "--quiet", name)
        machine.run(*podman, "rmi", name)

    return pull


def skopeo_copy(machine: ClientMachine, folder: Path) -> Pull:
    """skopeo, which shares its code for registries with Podman, Buildah and CRI-O."""

    def copy(name: str) -> None:
        machine.run("skopeo", "copy", f"docker://{name}", f"dir:{folder}/copied")
        shutil.rmtree(folder / "copied")

    return copy


@contextlib.contextmanager
def buildkit_build(machine: ClientMachine, buildkitd: str, buildx: tuple[str, ...], folder: Path) -> Iterator[Pull]:
    """A build by buildx in a BuildKit of its own, as a builder in a container has it."""
    context, socket = folder / "context", folder / "socket"
    context.mkdir()
    # This snapshotter works on every file system. The builds run no command, so they need no network of their own.
    options = ("--oci-worker-snapshotter", "native", "--oci-worker-net", "host")
    serve = (buildkitd, "--root", f"{folder}/root", "--addr", f"unix://{socket}", *options)

    def build(name: str) -> None:
        (context / "Dockerfile").write_text(f"FROM {name}\n")
        output = f"type=oci,dest={folder}/built.tar"
        _run(*buildx, "buildx", "build", "--builder", "outside", "--output", output, str(context))
        _run(*buildx, "buildx", "prune", "--builder", "outside", "--all", "--force")

    with machine.running(*serve, socket=socket, log=folder / "log"):
        _run(*buildx, "buildx", "create", "--name", "outside", "--driver", "remote", f"unix://{socket}")
        yield build
        _run(*buildx, "buildx", "rm", "outside")


def _run(*command: str) -> None:
    answer = clients.run(*command)
    assert answer.returncode == 0, f"{' '.join(command)}: {answer.stdout}{answer.stderr}"
