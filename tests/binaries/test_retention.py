"""Plans on stores of the real distribution, applied through its API and followed by its garbage collection."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from operations.history.reading import SCRIPT, parsed
from operations.history.store import Store
from operations.retention.applying import apply
from operations.retention.plan import Plan
from tests.harness.processes import free_port, running
from tests.harness.shelf import Shelf
from tests.harness.simulation import Simulation
from tests.unit.test_retention_planner import Case

CASES = 100
CONFIG = """
version: 0.1
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "127.0.0.1:%d"}
"""


class Registry:
    """One distribution for all cases. The files of its store are written as distribution writes them."""

    def __init__(self, folder: Path, binary: str, busybox: str, client: httpx.Client) -> None:
        self.client, self._binary, self._config = client, binary, folder / "config.yml"
        self._data, self._programs = folder / "data", folder / "bin"
        self._programs.mkdir()
        shutil.copy(busybox, self._programs)
        subprocess.run([self._programs / "busybox", "--install", "-s", self._programs], check=True)

    def fill(self, shelf: Shelf) -> None:
        """Replace the store."""
        shutil.rmtree(self._data / "docker", ignore_errors=True)
        root = self._data / "docker/registry/v2"
        for digest, content in (shelf.contents | shelf.documents).items():
            if digest in shelf.blobs:
                write(root / "blobs/sha256" / digest[7:9] / digest[7:] / "data", content)
        for name, digests in Simulation(shelf).layers.items():
            below = root / "repositories" / name
            (below / "_layers").mkdir(parents=True)
            for digest in digests:
                write(below / "_layers/sha256" / digest[7:] / "link", digest.encode())
            for digest in shelf.revisions[name]:
                link = write(below / "_manifests/revisions/sha256" / digest[7:] / "link", digest.encode())
                moment = shelf.pushed[name][digest].timestamp()
                os.utime(link, (moment, moment))
            for tag, links in shelf.tags.get(name, {}).items():
                for digest, pushed in links.pushed.items():
                    link = below / "_manifests/tags" / tag / "index/sha256" / digest[7:] / "link"
                    os.utime(write(link, digest.encode()), (pushed.timestamp(), pushed.timestamp()))
                link = write(below / "_manifests/tags" / tag / "current/link", str(links.current).encode())
                os.utime(link, (links.moved.timestamp(), links.moved.timestamp()))

    def store(self) -> Store:
        """The store, as the commands read it."""
        command = [self._programs / "sh", "-c", SCRIPT, self._data, ""]
        return parsed(
            subprocess.run(command, env={"PATH": str(self._programs)}, capture_output=True, check=True).stdout
        )

    def points_to(self, name: str, tag: str) -> str | None:
        return self.client.head(f"/v2/{name}/manifests/{tag}").headers.get("Docker-Content-Digest")

    def delete(self, name: str, reference: str) -> None:
        assert self.client.delete(f"/v2/{name}/manifests/{reference}").status_code == 202

    def collect_garbage(self) -> None:
        command = [self._binary, "garbage-collect", "--quiet", self._config]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def has(self, path: str) -> bool:
        answer = self.client.head(f"/v2/{path}")
        assert answer.status_code in (200, 404)
        return answer.status_code == 200


def write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.fixture(scope="module")
def registry(binary: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "config.yml").write_text(CONFIG % (folder / "data", port))
    accept = {"Accept": "*/*, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"}
    with (
        running(
            [binary("registry"), "serve", str(folder / "config.yml")],
            port,
            folder / "log",
            {"OTEL_TRACES_EXPORTER": "none"},
        ),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=accept, timeout=20) as client,
    ):
        yield Registry(folder, binary("registry"), binary("busybox"), client)


def decisions(plan: Plan) -> list[tuple[object, ...]]:
    """What a plan says, without the sizes: layers in memory are larger than those on the disk."""
    tags = [(one.repository, one.tag, one.digest, one.pushed, one.keep, one.why) for one in plan.tags]
    return [*tags, *((one.repository, one.digest, one.keep, one.why) for one in plan.manifests)]


def apply_to(registry: Registry | Simulation, plan: Plan, read: Callable[[], Store]) -> int:
    """Apply a plan; the number of deletions."""
    return apply(
        plan, read=read, points_to=registry.points_to, delete=registry.delete, running=list, again="make a new plan"
    )


def test_the_real_registry_keeps_and_loses_what_the_simulation_does(registry: Registry) -> None:
    deleted = 0
    for seed in range(CASES):
        case = Case(seed, 3 + seed % 10, damage=False)
        registry.fill(case.shelf)
        plan, expected = case.plan_of(registry.store()), case.plan_of(case.before.store)
        assert decisions(plan) == decisions(expected), seed

        after = case.before.copy()
        apply_to(after, expected, lambda after=after: after.store)
        assert after.collect_garbage()
        deleted += apply_to(registry, plan, registry.store)
        registry.collect_garbage()

        for name in case.before.revisions:
            found = registry.client.get(f"/v2/{name}/tags/list").json().get("tags")
            assert set(found or ()) == set(after.tags.get(name, {})), seed
            for digest in case.shelf.documents:
                assert registry.has(f"{name}/manifests/{digest}") == after.has(name, digest), (seed, name, digest)
            for digest in case.shelf.blobs:
                stays = digest in after.blobs and digest in after.layers[name]
                assert registry.has(f"{name}/blobs/{digest}") == stays, (seed, name, digest)
    assert deleted > CASES
