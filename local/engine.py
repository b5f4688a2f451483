"""Docker engines: find, install or start an engine for `make up`, run throwaway engines for tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

from components.configuration.problems import Failure
from local import images, name_server
from local.sources import apt, go_build, module_version
from local.steps import HOME, ROOT, home, is_root, path_of, run, say, step

SOCKET = "unix:///var/run/docker.sock"
NAMES = ("debian", "modules")
ENGINE = "29.8.1"
ENGINE_PROGRAMS = HOME / "engine-29" / "bin"
START_SECONDS = 60
DEBIAN_PACKAGES = ("docker.io", "iptables")
# runc's seccomp filter is C code. Without the filter, no container starts under the default profile.
RUNC_PACKAGES = ("gcc", "libc6-dev", "libseccomp-dev", "pkg-config")


def address() -> str:
    """The address of this machine's engine: DOCKER_HOST, or the default socket."""
    return os.environ.get("DOCKER_HOST") or SOCKET


def connect(host: str) -> docker.DockerClient | None:
    """Return a client of the engine at `host`, or None if no engine answers."""
    try:
        client = docker.DockerClient(base_url=host, version="auto", timeout=120)
        client.ping()
    except (DockerException, requests.RequestException):
        return None
    return client


def ensure() -> docker.DockerClient:
    """Return a client of the running engine. If no engine answers, install or build an engine and start it.

    Raises:
        Failure: if no engine can be started, for example without root.
    """
    host = address()
    if client := connect(host):
        return client
    if host != SOCKET:
        raise Failure(
            f"no engine answers at DOCKER_HOST={host}", "start that engine on this machine, or unset DOCKER_HOST"
        )
    if not is_root():
        raise Failure(f"no engine answers at {SOCKET}, or you have no access to the socket", _MAY_NOT)
    programs = _install()
    if _is_running("dockerd"):  # The package started the engine.
        return _wait(SOCKET)
    if Path("/run/systemd/system").exists() and programs is None:
        with step("engine: starting the service docker"):
            run("systemctl", "enable", "--now", "docker", fix="journalctl --unit docker")
            return _wait(SOCKET)
    with step("engine: starting dockerd directly, because no service manager is running"):
        return _start(home("engine"), programs)[1]


def stop() -> None:
    """Stop the engine that `ensure` started directly. Other engines keep running."""
    pid = HOME / "engine" / "dockerd.pid"
    if not pid.exists():
        return
    number = int(pid.read_text())
    if _command(number) == "dockerd":
        with step("engine: stopping the dockerd that `make up` started"):
            os.kill(number, signal.SIGTERM)
            if not _comes_true(lambda: _command(number) != "dockerd"):
                raise Failure(f"dockerd does not stop (process {number})", f"kill -KILL {number}")
    pid.unlink(missing_ok=True)
    # dockerd leaves its data folder mounted, and `make purge` cannot remove a mounted folder.
    mounts = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{HOME}/engine/")]):
        run("umount", mount, fix=f"stop the processes that use {mount}")


def prepare(name: str) -> Path | None:
    """Install or build the engine `debian` or `modules`. Return the folder that must come first in PATH, or None."""
    if name == "debian":
        apt(DEBIAN_PACKAGES, purpose="the engine")
        return None
    apt(["iptables", *RUNC_PACKAGES], purpose="building runc")
    programs = [
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/moby/moby/v2/cmd/docker-proxy",
        "github.com/moby/moby/v2/cmd/dockerd",
    ]
    go_build(
        programs,
        folder="engine",
        into=home("engine-29/bin"),
        variables={"github.com/moby/moby/v2/dockerversion.Version": ENGINE},
        tags="exclude_graphdriver_btrfs no_btrfs no_devmapper no_zfs",
    )
    runc = "github.com/opencontainers/runc"
    number = {"main.version": module_version("runc", runc)}
    go_build([runc], folder="runc", into=ENGINE_PROGRAMS, variables=number, tags="seccomp", static=True)
    return ENGINE_PROGRAMS


def run_with(name: str, command: Sequence[str]) -> int:
    """Run `command` with a throwaway engine in new namespaces. Return the exit code of the command.

    The engine has its own network, /run and process numbers, so other engines do not conflict with it. When the engine
    ends, all its processes end. Without root, the command uses the engine that already answers.
    """
    if not is_root():
        say(f"engine {name}: only root can start an engine; using the engine at {address()}")
        with _alone():
            images.ensure(ensure())
            return subprocess.call(command, cwd=ROOT)
    with _alone():
        prepare(name)
        for reference in images.references():
            images.archive(reference)
    # Ctrl-C in the terminal reaches the command too. The command must end by itself, before the engine.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=home("engines")) as folder:
        inside = [sys.executable, "-m", "local", "inside-namespaces", name, folder, "--", *command]
        return subprocess.call([*namespaces, *inside], cwd=ROOT)


def run_inside(name: str, folder: Path, command: Sequence[str]) -> int:
    """Run the part of `run_with` that needs the new namespaces. The engine's data is in `folder`."""
    signal.signal(signal.SIGINT, lambda *_: None)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run", fix="unmount the file system on /run")
    Path("/run/sshd").mkdir(mode=0o755)  # sshd needs this folder, and the tmpfs hides the original
    run("ip", "link", "set", "lo", "up", fix="apt-get install iproute2")
    run("ip", "address", "add", f"{name_server.ADDRESS}/32", "dev", "lo", fix="apt-get install iproute2")
    name_server.start()
    with step("engine: starting a throwaway engine"):
        engine, client = _start(folder, ENGINE_PROGRAMS if name == "modules" else None, "--dns", name_server.ADDRESS)
    say(f"engine: {client.version()['Version']} answers")
    try:
        images.ensure(client, may_pull=False)
        variables = os.environ | {"DOCKER_HOST": SOCKET}
        variables.pop("DOCKER_CONTEXT", None)
        code = subprocess.call(command, cwd=ROOT, env=variables)
        return code if code >= 0 else 128 - code  # the exit code that a shell gives for a signal
    finally:
        engine.terminate()
        # An engine that ends slowly changes no result: it ends with its namespaces.
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(START_SECONDS)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Take a lock. Parallel commands would write the same files and create containers with the same names."""
    with (home("engines") / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> Path | None:
    """Install an engine if none is installed. Return the folder of the programs if they are not on PATH."""
    if path_of("dockerd"):
        return None
    if (ENGINE_PROGRAMS / "dockerd").exists():
        return ENGINE_PROGRAMS
    say(f"engine: no engine answers at {SOCKET}; installing the distribution's package docker.io")
    try:
        return prepare("debian")
    except Failure as failure:
        say(f"engine: {failure}; building {ENGINE} from Go modules (about 4 minutes)")
        return prepare("modules")


def _start(folder: Path, programs: Path | None, *more: str) -> tuple[subprocess.Popen[bytes], docker.DockerClient]:
    """Start dockerd with its data, log and process number in `folder`, and `more` options. Wait until it answers."""
    path = f"{programs or ''}:{os.environ['PATH']}:/usr/sbin:/sbin".lstrip(":")
    dockerd = shutil.which("dockerd", path=path) or "dockerd"
    options = ["--data-root", str(folder / "data"), "--pidfile", str(folder / "dockerd.pid"), "--host", SOCKET, *more]
    log = folder / "log"
    with log.open("ab") as output:
        # A new session: Ctrl-C in the terminal must not stop an engine that outlives the command.
        engine = subprocess.Popen(
            [dockerd, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"PATH": path},
            start_new_session=True,
        )
    if _comes_true(lambda: engine.poll() is not None or connect(SOCKET) is not None) and engine.poll() is None:
        return engine, _wait(SOCKET)
    engine.kill()
    last = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise Failure("\n".join(["dockerd does not start. The last lines of its log:", *last]), f"read {log}")


def _wait(host: str) -> docker.DockerClient:
    _comes_true(lambda: connect(host) is not None)
    if client := connect(host):
        return client
    raise Failure(
        f"the engine started, but does not answer at {host} after {START_SECONDS} s", "read the log of the engine"
    )


def _comes_true(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


def _is_running(command: str) -> bool:
    return any(_command(int(process.name)) == command for process in Path("/proc").glob("[0-9]*"))


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/comm").read_text().strip()
    except OSError:
        return ""


_MAY_NOT = (
    "if no engine is running, run `make up` as root to install and start an engine; if an engine is running, run"
    " `sudo usermod --append --groups docker $USER` and log in again"
)
