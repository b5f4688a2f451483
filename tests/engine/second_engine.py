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
def second_engine() -> Iterator[str]:
    """The address of an empty engine of the same version, which has the stack's images.

    It has a network of its own, since two engines in one would meet in its bridges and iptables. Its published ports
    can only be reached there; the engine itself does so when it pulls.
    """
    program = _running_dockerd()
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
            yield address
        finally:
            process.terminate()
            process.wait(60)


def _running_dockerd() -> Path:
    for process in Path("/proc").glob("[0-9]*"):
        if engine._command(int(process.name)) == "dockerd":
            return (process / "exe").readlink()
    raise AssertionError("the tests' engine does not run on this machine")
