"""Docker engines: the one that answers, one installed or started for `make up`, and throwaway ones for tests."""

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
from local import images
from local.sources import apt, go_build, module_version
from local.steps import HOME, ROOT, home, is_root, path_of, run, say, step

SOCKET = "unix:///var/run/docker.sock"
NAMES = ("debian", "modules")
ENGINE = "29.8.1"
ENGINE_PROGRAMS = HOME / "engine-29" / "bin"
START_SECONDS = 60
DEBIAN_PACKAGES = ("docker.io", "iptables")
# runc's seccomp filter is C code; without it no container starts under the default profile.
RUNC_PACKAGES = ("gcc", "libc6-dev", "libseccomp-dev", "pkg-config")


def address() -> str:
    """Where the engine of this machine listens: DOCKER_HOST, else the usual socket."""
    return os.environ.get("DOCKER_HOST") or SOCKET


def connect(host: str) -> docker.DockerClient | None:
    """A client of the engine at `host`, or nothing if no engine answers there."""
    try:
        client = docker.DockerClient(base_url=host, version="auto", timeout=120)
        client.ping()
    except (DockerException, requests.RequestException):
        return None
    return client


def ensure() -> docker.DockerClient:
    """The engine that answers; else one that is installed, or built, and started.

    Raises:
        Failure: if that is impossible, for example without root's rights.
    """
    host = address()
    if client := connect(host):
        return client
    if host != SOCKET:
        raise Failure(f"no engine answers at DOCKER_HOST={host}", "start that engine of this machine, or unset it")
    if not is_root():
        raise Failure(f"no engine answers at {SOCKET}, or you may not use it", _MAY_NOT)
    programs = _install()
    if _is_running("dockerd"):  # The package started it.
        return _wait(SOCKET)
    if Path("/run/systemd/system").exists() and programs is None:
        with step("engine: starting the service docker"):
            run("systemctl", "enable", "--now", "docker", fix="journalctl --unit docker")
            return _wait(SOCKET)
    with step("engine: starting dockerd by hand, since no service manager runs here"):
        return _start(home("engine"), programs)[1]


def stop() -> None:
    """Stop the engine that `ensure` started by hand; any other goes on."""
    pid = HOME / "engine" / "dockerd.pid"
    if not pid.exists():
        return
    number = int(pid.read_text())
    if _command(number) == "dockerd":
        with step("engine: stopping the dockerd that `make up` started"):
            os.kill(number, signal.SIGTERM)
            if not _comes_true(lambda: _command(number) != "dockerd"):
                raise Failure(f"dockerd {number} does not stop", f"kill -KILL {number}")
    pid.unlink(missing_ok=True)
    # dockerd leaves its data folder mounted on itself, and then `make purge` could not remove it.
    mounts = [line.split()[1].replace("\\040", " ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{HOME}/engine/")]):
        run("umount", mount, fix=f"stop what uses {mount}")


def prepare(name: str) -> Path | None:
    """Have the programs of the engine `debian` or `modules`; the folder that must stand first in PATH, if any."""
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
    """Run `command` beside a throwaway engine in namespaces of its own; its exit code.

    The engine has its own network, its own /run and process numbers, so it meets no other engine, and all that it
    started is gone with it. Without root's rights the command runs on the engine that answers.
    """
    if not is_root():
        say(f"engine {name}: only root can start one; using the one at {address()}")
        with _alone():
            images.ensure(ensure())
            return subprocess.call(command, cwd=ROOT)
    with _alone():
        prepare(name)
        for reference in images.references():
            images.archive(reference)
    # A terminal's Ctrl-C reaches the command, too: it shall end in its own way, and the engine after it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=home("engines")) as folder:
        inside = [sys.executable, "-m", "local", "inside-namespaces", name, folder, "--", *command]
        return subprocess.call([*namespaces, *inside], cwd=ROOT)


def run_inside(name: str, folder: Path, command: Sequence[str]) -> int:
    """The part of `run_with` that runs in the new namespaces, with the engine's data in `folder`."""
    signal.signal(signal.SIGINT, lambda *_: None)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run", fix="unmount what is mounted on /run")
    Path("/run/sshd").mkdir(mode=0o755)  # the tmpfs hid it, and sshd does not start without
    run("ip", "link", "set", "lo", "up", fix="apt-get install iproute2")
    with step("engine: starting a throwaway one"):
        engine, client = _start(folder, ENGINE_PROGRAMS if name == "modules" else None)
    say(f"engine: {client.version()['Version']} answers")
    try:
        images.ensure(client, may_pull=False)
        variables = os.environ | {"DOCKER_HOST": SOCKET}
        variables.pop("DOCKER_CONTEXT", None)
        code = subprocess.call(command, cwd=ROOT, env=variables)
        return code if code >= 0 else 128 - code  # as a shell says that a signal ended it
    finally:
        engine.terminate()
        engine.wait(START_SECONDS)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for commands beside this one: they would make the same files, and containers of the same names."""
    with (home("engines") / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> Path | None:
    """Install an engine where there is none; the folder of its programs if they are not on PATH."""
    if path_of("dockerd"):
        return None
    if (ENGINE_PROGRAMS / "dockerd").exists():
        return ENGINE_PROGRAMS
    say(f"engine: none answers at {SOCKET}; installing the distribution's package docker.io")
    try:
        return prepare("debian")
    except Failure as failure:
        say(f"engine: {failure}; building {ENGINE} from Go modules, about 4 minutes")
        return prepare("modules")


def _start(folder: Path, programs: Path | None) -> tuple[subprocess.Popen[bytes], docker.DockerClient]:
    """Start dockerd with its data, log and process number in `folder`, and wait until it answers."""
    path = f"{programs or ''}:{os.environ['PATH']}:/usr/sbin:/sbin".lstrip(":")
    dockerd = shutil.which("dockerd", path=path) or "dockerd"
    options = ["--data-root", str(folder / "data"), "--pidfile", str(folder / "dockerd.pid"), "--host", SOCKET]
    log = folder / "log"
    with log.open("ab") as output:
        # A session of its own: Ctrl-C in the terminal must not stop an engine that outlives the command.
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
    raise Failure("\n".join(["dockerd does not come up; its last words:", *last]), f"read {log}")


def _wait(host: str) -> docker.DockerClient:
    _comes_true(lambda: connect(host) is not None)
    if client := connect(host):
        return client
    raise Failure(f"an engine was started, but does not answer at {host} after {START_SECONDS} s", "read its log")


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
    "as root: `make up` installs and starts an engine; with one running: `sudo usermod --append --groups docker $USER`"
    " and a new login"
)
