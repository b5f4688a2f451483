"""Garbage collection of a running registry: clients at work, and SIGKILL of the command and of the engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import httpx
import pytest

from components.render.registry import DATA_DIRECTORY
from operations.gc.script import STATUS_FILE
from operations.throwaway import LABEL
from tests.engine.pauses import until_pause
from tests.engine.transfers import Connection, digest_of
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.images import random_layer, write_layout
from tests.harness.processes import until
from tests.harness.small_stack import PREFIX
from tests.harness.stack import STACK, Stack

Skopeo = Callable[[str | None], clients.Skopeo]
#: An image that was pushed and deleted a moment ago is garbage, not a push under way.
GC = ("gc", "--stalled", "1")
#: A push waits, or is refused with words and succeeds afterwards: at once behind nginx, and behind Caddy if the writer
#: stops as a layer begins. skopeo repeats requests without a body by itself, and others with this option.
RETRIES = ("--retry-times=3",)


@pytest.fixture
def layers() -> list[bytes]:
    return [random_layer(clients.MEGABYTE), random_layer(1000)]


def pushed(skopeo: Skopeo, name: str, layers: list[bytes], folder: Path) -> Path:
    """Push an image; its layout."""
    layout = folder / f"layout-{time.monotonic_ns()}"
    write_layout(layout, layers)
    answer = skopeo("ci").push(layout, name)
    assert answer.returncode == 0, answer.stderr
    return layout


def garbage(skopeo: Skopeo, layers: list[bytes], folder: Path) -> Path:
    """Push an image and delete it; its layout."""
    layout = pushed(skopeo, "my-app/backend:old", layers, folder)
    answer = skopeo("boss").delete("my-app/backend:old")
    assert answer.returncode == 0, answer.stderr
    return layout


def in_data(client: docker.DockerClient, *command: str) -> str:
    return clients.execute(clients.containers(client, PREFIX)["reader"], *command)


def test_pulls_go_on_and_pushes_succeed_while_garbage_is_collected(
    stack: Stack, skopeo: Skopeo, client: docker.DockerClient, layers: list[bytes], tmp_path: Path
) -> None:
    pushed(skopeo, "busy/pull:1", [random_layer(clients.MEGABYTE)], tmp_path)
    freed = []

    with clients.clients_at_work(skopeo("ci"), skopeo("production"), tmp_path, *RETRIES) as results:
        for _ in range(3):
            layout = garbage(skopeo, layers, tmp_path)
            # Not a second: on a busy machine, a push takes a break of that length between its layers and its manifest.
            (status,) = json.loads(stack.operations("gc", "--stalled", "5", "--json").stdout)["stores"]
            freed.append(status["freed"])
            print(f"gc: writing paused for {status['paused_seconds']} s")
            again = skopeo("ci").push(layout, "my-app/backend:old", *RETRIES)
            assert again.returncode == 0, again.stderr
            pulled = skopeo("production").pull("my-app/backend:old", tmp_path / f"pulled-{len(freed)}")
            assert pulled.returncode == 0, pulled.stderr

    print(f"{len(results['done'])} operations of clients")
    assert results["failed"] == []
    assert all(one > clients.MEGABYTE for one in freed), "the layers were deleted, and pushed and pulled again"
    (left,) = [json.loads(in_data(client, "cat", f"{DATA_DIRECTORY}/{STATUS_FILE}"))]
    assert left == status


@pytest.mark.once
@pytest.mark.any_proxy
def test_a_long_upload_goes_on_while_garbage_is_collected(stack: Stack, skopeo: Skopeo, tmp_path: Path) -> None:
    pushed(skopeo, "my-app/backend:1", [random_layer(1000)], tmp_path)
    content = random_layer(1000)
    with Connection(stack, stack.trust, "ci") as connection:
        upload = connection.started("my-app/backend")

        refused = stack.operations("gc", "--wait", "1", check=False)

        assert (refused.returncode, "an upload to my-app/backend" in refused.stderr) == (1, True), refused.stderr
        assert refused.stdout.startswith("gc registry: failed: pushes went on")
        headers, _ = connection.ask("PATCH", upload, 202, body=content)
        connection.finish(headers["Location"], digest_of([content]))


@pytest.mark.once
@pytest.mark.any_proxy
def test_the_cache_of_a_mirror_is_collected_and_the_mirror_serves_again(
    stack: Stack, client: docker.DockerClient
) -> None:
    (status,) = json.loads(stack.operations("gc", "--mirrors", "--json").stdout)["stores"]

    assert (status["store"], status["result"]) == ("upstream.test", "done")
    answer = httpx.get(f"{stack.outputs()['mirror_urls']['upstream.test']}/v2/", verify=stack.trust, timeout=60)
    assert answer.status_code == 200


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def collecting(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A collection under way, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "operations", *GC, "--stack", STACK],
        cwd=stack.folder,
        env=stack.environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def started(client: docker.DockerClient) -> bool:
    return bool(client.containers.list(filters={"label": LABEL}, sparse=True))


def reads_and_writes(stack: Stack, skopeo: Skopeo, layout: Path, *names: str) -> None:
    """A push to the first name and then a pull of each name succeed within a minute each."""
    began = time.monotonic()
    while (answer := skopeo("ci").push(layout, names[0])).returncode:
        # With nginx, a push does not wait. It is refused with words until writing goes on.
        assert (stack.proxy, "the registry is busy" in answer.stderr) == ("nginx", True), answer.stderr
        assert time.monotonic() - began < 60, answer.stderr
    assert time.monotonic() - began < 60
    for name in names:
        began = time.monotonic()
        pulled = skopeo("production").pull(name, layout.parent / f"pulled-{time.monotonic_ns()}")
        assert pulled.returncode == 0, pulled.stderr
        assert time.monotonic() - began < 60


@pytest.mark.once
@pytest.mark.any_proxy
def test_a_killed_collection_leaves_a_registry_that_reads_and_writes(
    stack: Stack, skopeo: Skopeo, client: docker.DockerClient, tmp_path: Path
) -> None:
    kept = "my-app/backend:kept"
    pushed(skopeo, kept, [random_layer(clients.MEGABYTE)], tmp_path)
    folder = Path(client.volumes.get(f"{PREFIX}-registry-data").attrs["Mountpoint"])
    for moment in range(10):
        layout = garbage(skopeo, [random_layer(clients.MEGABYTE), random_layer(1000)], tmp_path)
        began = time.time()
        with collecting(stack) as process:
            until(lambda: started(client))
            if moment >= 5:
                until_pause(folder, began)
            time.sleep(0.5 * (moment % 5))
            print(f"kill {moment}: the collection {'ended' if process.poll() is not None else 'runs'}")
        # The client pushes what the killed collection deletes, and maybe deleted.
        reads_and_writes(stack, skopeo, layout, f"my-app/backend:{moment}", kept)
        until(lambda: not started(client))

    assert stack.operations(*GC).stdout.startswith("gc registry: done")
    reads_and_writes(stack, skopeo, layout, "my-app/backend:new", kept, *(f"my-app/backend:{n}" for n in range(10)))
