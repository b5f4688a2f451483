"""Garbage collection of stores of three sizes, and how long writing pauses. The blobs are sparse files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Table, counted, seconds
from components.render.registry_command import WRITING
from operations.gc.collection import Limits, collect
from operations.gc.script import throwaway
from operations.gc.status import REGISTRY, Status, now
from operations.manifests import IMAGE_TYPES
from operations.throwaway import Data
from tests.harness import clients
from tests.harness.stack import engine_address

#: Bytes of all blobs of a store, about.
SIZE = 50_000_000_000
IMAGES = (200, 2_000, 10_000)
REPOSITORIES = 40
LIMITS = Limits(stalled=1, wait=600, pause=600)


@dataclass(frozen=True)
class Store:
    """A store of distribution in a folder."""

    folder: Path

    def fill(self, images: int) -> None:
        """Write images with four layers that a repository shares and one of their own. Every tenth image is deleted."""
        for number in range(images):
            repository = f"team/app-{number % REPOSITORIES}"
            names = [*(f"base {number % REPOSITORIES} {layer}" for layer in range(4)), f"own {number}"]
            layers = [self._blob(name.encode(), SIZE // (images + 4 * REPOSITORIES)) for name in names]
            config = self._blob(json.dumps({"number": number}).encode())
            value = {"schemaVersion": 2, "mediaType": IMAGE_TYPES[0], "config": config, "layers": layers}
            digest = self._blob(json.dumps(value).encode())["digest"]
            for blob in (config, *layers):
                self._link(f"{repository}/_layers/sha256", blob["digest"])
            if number % 10:
                self._link(f"{repository}/_manifests/revisions/sha256", digest)
        (self.folder / WRITING).touch()

    def _blob(self, content: bytes, size: int = 0) -> dict[str, str]:
        encoded = hashlib.sha256(content).hexdigest()
        file = self.folder / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.truncate(file, max(size, len(content)))
        return {"digest": f"sha256:{encoded}", "mediaType": "application/octet-stream"}

    def _link(self, folder: str, digest: str) -> None:
        file = self.folder / "docker/registry/v2/repositories" / folder / digest.removeprefix("sha256:") / "link"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(digest)


def collections(folder: Path, rounds: int) -> Table:
    """The time of a run and of its pause for each size of the store."""
    rows = []
    for images in IMAGES:
        runs, pauses, status = list[float](), list[float](), Status(store=REGISTRY, started=now())
        for _ in counted(rounds, f"collecting the garbage of {images} images"):
            store = Store(folder / "collections")
            store.fill(images)
            time.sleep(2)  # a layer without a manifest counts as a push for a second
            data = Data(image=clients.IMAGES.registry, user="0:0", kind="bind", source=str(store.folder))
            command = ["docker", "--host", engine_address(), *throwaway(data, LIMITS.stalled, checked=True)]
            began = time.monotonic()
            status = collect(command, Status(store=REGISTRY, started=now()), LIMITS)
            runs.append(time.monotonic() - began)
            pauses.append(status.paused)
            shutil.rmtree(store.folder)
        size = f"{(status.size + status.freed) / 1e9:.0f} GB"
        rows.append([f"{images} images", str(status.blobs + status.freed_blobs), size, seconds(runs), seconds(pauses)])
    columns = ["store", "blobs", "bytes", "whole run", "writing pauses (aim: below 10 s)"]
    return Table("Garbage collection, without the time in which processes drain", columns, rows)
