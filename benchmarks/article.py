"""Bringing an image to a server: as a tarball, the article's way, and through the registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server
from tests.engine.clients import DockerCli


@dataclass(frozen=True)
class Delivery:
    """What one took: seconds without the removal in between, and bytes between machines if they were two."""

    seconds: float
    moved: int


def build(docker: DockerCli, folder: Path, image: str, layers: int, layer_size: int, last_size: int) -> None:
    """Build an image of random files, one a layer; those that ``folder`` holds already stay, but for the last."""
    folder.mkdir(exist_ok=True)
    names = [f"layer-{number:02}" for number in range(layers)]
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_bytes(os.urandom(layer_size))
    (folder / "release").write_bytes(os.urandom(last_size))
    copies = "".join(f"COPY {name} /\n" for name in [*names, "release"])
    (folder / "Dockerfile").write_text(f"FROM scratch\n{copies}")
    _succeed(docker("build", "--quiet", "--tag", image, str(folder)))


def by_tarball(docker: DockerCli, image: str, folder: Path) -> Delivery:
    """``docker save``, copy the file (here to the same disk), ``docker load``."""
    saved, arrived = folder / "saved.tar", folder / "arrived.tar"
    os.sync()
    seconds = _timed(lambda: _succeed(docker("save", "--output", str(saved), image)))
    seconds += _timed(lambda: shutil.copyfile(saved, arrived))
    _succeed(docker("rmi", image))
    seconds += _timed(lambda: _succeed(docker("load", "--input", str(arrived))))
    moved = saved.stat().st_size
    saved.unlink()
    arrived.unlink()
    return Delivery(seconds, moved)


def by_registry(docker: DockerCli, image: str, server: Server) -> Delivery:
    """``docker push``, ``docker pull``; what both moved is counted."""
    os.sync()
    before = server.client_bytes()
    seconds = _timed(lambda: _succeed(docker("push", image)))
    _succeed(docker("rmi", image))
    seconds += _timed(lambda: _succeed(docker("pull", image)))
    return Delivery(seconds, server.client_bytes() - before)


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _succeed(answer: subprocess.CompletedProcess[str]) -> None:
    if answer.returncode:
        raise RuntimeError(f"{' '.join(answer.args)} failed: {answer.stderr.strip()}")
