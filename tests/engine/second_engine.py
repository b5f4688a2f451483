"""A second Docker engine beside that of the tests, as another Docker host."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker

from local import engine, images
from local.steps import home

_START = 'ip link set lo up && exec "$0" "$@"'


@contextlib.contextmanager
def second_engine(reached_port: int | None = None) -> Iterator[str]:
    """The address of an empty engine of the same version, which has the stack's images.

    It has a network of its own, since two engines in one would meet in its bridges and iptables. Its published ports
    can only be reached there; the engine itself does so when it pulls. With ``reached_port``, the engine also reaches
    that port of this machine's loopback, as it would reach a registry elsewhere.
    """
    program = running_dockerd()
    with (
        tempfile.TemporaryDirectory(prefix="second-", dir=home("engines")) as name,
        (Path(name) / "log").open("wb") as log,
    ):
        folder, address = Path(name), f"unix://{name}/docker.sock"
        options = ["--data-root", folder / "data", "--exec-root", folder / "run", "--pidfile", folder / "pid"]
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _START, program, *options, "--host", address],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}:/usr/sbin:/sbin"},
        )
        try:
            assert engine._comes_true((folder / "docker.sock").exists), (folder / "log").read_text()
            with contextlib.closing(docker.DockerClient(base_url=address, version="auto", timeout=120)) as client:
                images.ensure(client, may_pull=False)
            with (
                _forwarded(reached_port, process.pid, folder / "port.sock")
                if reached_port
                else contextlib.nullcontext()
            ):
                yield address
        finally:
            process.terminate()
            process.wait(180)  # it stops its containers first


@contextlib.contextmanager
def _forwarded(port: int, process: int, socket: Path) -> Iterator[None]:
    """Forward a loopback port of the network of ``process`` to the same port here. A socket file crosses networks."""
    here = ["socat", f"UNIX-LISTEN:{socket},fork", f"TCP:127.0.0.1:{port}"]
    there = ["nsenter", f"--net=/proc/{process}/ns/net", "socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"]
    with contextlib.ExitStack() as stop:
        for command in (here, [*there, f"UNIX-CONNECT:{socket}"]):
            forwarder = subprocess.Popen(command)
            stop.callback(forwarder.wait, 60)
            stop.callback(forwarder.terminate)
        assert engine._comes_true(socket.exists)
        listens = f":{port:04X} 00000000:0000 0A "
        assert engine._comes_true(lambda: listens in Path(f"/proc/{process}/net/tcp").read_text())
        yield


def running_dockerd() -> Path:
    for process in Path("/proc").glob("[0-9]*"):
        if engine._command(int(process.name)) == "dockerd":
            return (process / "exe").readlink()
    raise AssertionError("the tests' engine does not run on this machine")
