"""Registries from which clients pull: one behind the mirrors, and one with the names of the public registries."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import httpx

from tests.harness import clients
from tests.harness.certificates import certificate_pair
from tests.harness.images import push_layout, random_layer, write_layout
from tests.harness.processes import running
from tests.harness.small_stack import PREFIX, UPSTREAM, UPSTREAM_PORT

#: The repository at each upstream. Each has images of its own.
REPOSITORIES = {"docker.io": "library/alpine", "ghcr.io": "team/tool", "quay.io": "team/other"}
#: Hosts that the public registries have.
ORIGINS = ["registry-1.docker.io", "ghcr.io", "quay.io"]


@dataclass
class Requests:
    """The requests for manifests and blobs in the access log of a registry."""

    log: Callable[[], str]
    seen: int = field(default=0, init=False)

    def new(self) -> list[tuple[str, str, str]]:
        """Method, repository and kind of each request since the last call."""
        found = re.findall(r'"(GET|HEAD) /v2/(\S+)/(manifests|blobs)/\S+ HTTP', self.log())
        new, self.seen = found[self.seen :], len(found)
        return new


@dataclass(frozen=True)
class Registries:
    """An upstream behind the mirrors, and an origin on port 443 that has the names of the public registries."""

    upstream: Requests
    origin: Requests
    folder: Path

    def put(self, tag: str) -> None:
        """Push a new image of each upstream to both. Later, ``new`` has only the requests of clients."""
        with httpx.Client(verify=False, timeout=60) as client:
            for repository in REPOSITORIES.values():
                layout = Path(tempfile.mkdtemp(dir=self.folder))
                write_layout(layout, [random_layer(10_000)])
                for registry in (f"http://localhost:{UPSTREAM_PORT}", "https://localhost"):
                    push_layout(client, layout, f"{registry}/v2/{repository}", tag)
        self.upstream.new()
        self.origin.new()


@contextlib.contextmanager
def running_registries(client: docker.DockerClient, program: str, folder: Path) -> Iterator[Registries]:
    """Start both registries, the origin from ``program``."""
    for name, text in certificate_pair("localhost", *ORIGINS).items():
        (folder / name).write_text(text)
    tls = {"certificate": str(folder / "certificate"), "key": str(folder / "private_key")}
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:443", "tls": tls},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    serve = [program, "serve", str(folder / "config.yml")]
    with (
        clients.upstream(client, f"{PREFIX}-edge", UPSTREAM, UPSTREAM_PORT) as upstream,
        running(serve, 443, folder / "log", {"OTEL_TRACES_EXPORTER": "none"}),
    ):
        yield Registries(
            Requests(lambda: upstream.logs(stderr=False).decode()), Requests((folder / "log").read_text), folder
        )
