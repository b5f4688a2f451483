"""The docker command for benchmarks: with logins, timing and images with random content."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.servers import Servers
from tests.harness.clients import DockerCli


def logged_in(servers: Servers, folder: Path) -> DockerCli:
    """The docker command with a login to every server that needs a login. ``folder`` contains the logins."""
    folder.mkdir()
    docker = DockerCli(folder)
    for server in servers.all():
        if server.login:
            user, password = server.login
            answer = docker("login", server.address, "--username", user, "--password-stdin", stdin=password)
            if answer.returncode:
                raise RuntimeError(f"docker login {server.address} failed: {answer.stderr.strip()}")
    return docker


def build(docker: DockerCli, folder: Path, image: str, layers: int, layer_size: int, last_size: int) -> None:
    """Build an image of random files, one per layer. Files in ``folder`` are reused, except the last file."""
    folder.mkdir(exist_ok=True)
    names = [f"layer-{number:02}" for number in range(layers)]
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_bytes(os.urandom(layer_size))
    (folder / "release").write_bytes(os.urandom(last_size))
    copies = "".join(f"COPY {name} /\n" for name in [*names, "release"])
    (folder / "Dockerfile").write_text(f"FROM scratch\n{copies}")
    run(docker, "build", "--quiet", "--tag", image, str(folder))


def run(docker: DockerCli, *arguments: str) -> float:
    """Run a command and return its duration in seconds.

    Raises:
        RuntimeError: if the command failed, with its error output.
    """
    start = time.perf_counter()
    answer = docker(*arguments)
    seconds = time.perf_counter() - start
    if answer.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)} failed: {answer.stderr.strip()}")
    return seconds
