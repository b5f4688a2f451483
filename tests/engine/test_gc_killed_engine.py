"""SIGKILL of the Docker Engine at ten moments of a garbage collection."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from components._service import RESTART
from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import SERVE_WITH_PAUSES, on_own_store
from local.engine import _comes_true
from operations.gc.collection import Limits, collect
from operations.gc.script import throwaway
from operations.gc.status import REGISTRY, Status, now
from operations.throwaway import Data
from tests.engine.pauses import until_pause
from tests.engine.second_engine import second_engine
from tests.harness import clients
from tests.harness.configuration import ROOT

CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: ":5000", draintimeout: 10s}
"""
#: Pushes an image, deletes another one, and pulls an image of before. A refused connection is tried again.
CLIENT = """
import sys, time
from pathlib import Path
import httpx
from tests.harness.distribution import MANIFEST, Registry
url, number, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + 60
with httpx.Client(base_url=url, headers={"Accept": MANIFEST}, timeout=60) as client:
    while True:
        try:
            client.get("/v2/").raise_for_status()
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    registry = Registry(Path(), client)
    registry.image("app", f"kept-{number}", f"a layer that stays {number}")
    registry.delete("app", registry.image("app", "gone", f"a layer that goes {number}" * 1000)["digest"])
    for earlier in range(number + 1):
        manifest = client.get(f"/v2/app/manifests/kept-{earlier}").raise_for_status().json()
        for blob in (manifest["config"], *manifest["layers"]):
            client.get(f"/v2/app/blobs/{blob['digest']}").raise_for_status()
"""


class Engine:
    """The second engine, which can be killed and started again in its own network."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._log = Path(address.removeprefix("unix://")).parent / "log"
        self._again: subprocess.Popen[bytes] | None = None
        number = self._number()
        self._words = Path(f"/proc/{number}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
        path = f"{Path(f'/proc/{number}/exe').readlink().parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self._variables = os.environ | {"PATH": path}
        # The namespaces outlive the engine as long as a process is in them.
        self._inside = subprocess.Popen(["nsenter", f"--target={number}", "--net", "--mount", "sleep", "1d"])

    def inside(self, *command: str) -> list[str]:
        """The command that runs another one in the network of the engine."""
        return ["nsenter", f"--target={self._inside.pid}", "--net", "--mount", *command]

    def kill(self) -> None:
        """Kill the engine, and start it again."""
        number = self._number()
        os.kill(number, signal.SIGKILL)
        if self._again:
            self._again.wait()
        else:
            os.waitpid(number, 0)  # the next engine does not start while its predecessor's number is in use
        # The engine's containerd dies with the engine. The first process of these namespaces reaps no orphans, so the
        # dead containerd would look alive.
        (self._log.parent / "run/containerd/containerd.pid").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._again = subprocess.Popen(
                self.inside(*self._words), env=self._variables, stdout=log, stderr=subprocess.STDOUT
            )
        assert _comes_true(self._answers), self._log.read_text()

    def close(self) -> None:
        """Stop the engine."""
        if self._again:
            self._again.terminate()
            self._again.wait(180)
        self._inside.kill()
        self._inside.wait()

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        with contextlib.closing(docker.DockerClient(base_url=self.address, version="auto", timeout=60)) as api:
            yield api

    def _number(self) -> int:
        for one in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (one / "cmdline").read_bytes().split(b"\0")
                if self.address.encode() in words and words[0].endswith(b"dockerd"):
                    return int(one.name)
        raise AssertionError("the second engine does not run")

    def _answers(self) -> bool:
        asked = subprocess.run(["docker", "--host", self.address, "version"], capture_output=True, check=False)
        return asked.returncode == 0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with second_engine() as address, contextlib.closing(Engine(address)) as second:
        yield second


@pytest.fixture(scope="module")
def store(engine: Engine) -> Data:
    """The store of a registry that pauses like those of the stack, and whose container restarts like theirs."""
    with engine.client() as api:
        api.containers.run(
            clients.IMAGES.registry,
            name="writer",
            detach=True,
            restart_policy={"Name": RESTART},
            volumes={"data": {"bind": DATA_DIRECTORY, "mode": "rw"}},
            environment={"CONFIG": CONFIG},
            entrypoint=["/bin/sh", "-c", 'echo "$CONFIG" > /tmp/config.yml && exec "$0" "$@"'],
            command=on_own_store(SERVE_WITH_PAUSES, "/tmp/config.yml", "registry", writes=True),
        )
        image = str(api.images.get(clients.IMAGES.registry).id)
    return Data(image=image, user="0:0", kind="volume", source="data")


def use(engine: Engine, number: int) -> None:
    """Push, delete and pull. Everything succeeds within a minute."""
    deadline = time.monotonic() + 60
    # A started engine shows the former address of a container until it has started the container again.
    while not accepts(engine, address := address_of_writer(engine)):
        assert time.monotonic() < deadline, state_of_writer(engine)
        time.sleep(0.2)
    command = engine.inside(sys.executable, "-c", CLIENT, f"http://{address}:5000", str(number))
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr


def accepts(engine: Engine, address: str) -> bool:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 5000), 2)"
    command = engine.inside(sys.executable, "-c", connect, address)
    return bool(address) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def address_of_writer(engine: Engine) -> str:
    with engine.client() as api, contextlib.suppress(docker.errors.DockerException):
        return str(api.containers.get("writer").attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])
    return ""


def state_of_writer(engine: Engine) -> str:
    with engine.client() as api:
        writer = api.containers.get("writer")
        return f"{writer.attrs['State']} {writer.attrs['NetworkSettings']} {writer.logs(tail=20).decode()}"


@pytest.mark.once
@pytest.mark.any_proxy
def test_a_killed_engine_leaves_a_registry_that_reads_and_writes(engine: Engine, store: Data) -> None:
    command = ["docker", "--host", engine.address, *throwaway(store, 1, checked=True)]
    results: list[Status | Failure] = []
    with engine.client() as api:
        folder = Path(api.volumes.get(store.source).attrs["Mountpoint"])

    def gc() -> None:
        try:
            started = Status(store=REGISTRY, started=now())
            results.append(collect(command, started, Limits(stalled=1, wait=20, pause=20)))
        except Failure as failure:
            results.append(failure)

    for moment in range(10):
        use(engine, moment)
        collecting, began = threading.Thread(target=gc), time.time()
        collecting.start()
        if moment >= 5:
            until_pause(folder, began)
        time.sleep(0.5 * (moment % 5))
        engine.kill()
        collecting.join(60)
        assert not collecting.is_alive()

    use(engine, 10)
    gc()
    print(f"{sum(isinstance(one, Status) for one in results)} of {len(results)} collections ended")
    assert isinstance(results[-1], Status), results[-1]
    use(engine, 11)
