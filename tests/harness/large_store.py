"""The store of a registry with many tags, written without pushes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from typing import Any

from components.render.registry_command import USER
from tests.harness import clients
from tests.harness.stack import engine_address

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def fill(volume: str, repositories: int, tags: int) -> None:
    """Write the files of ``tags`` images, evenly in ``repositories``, into the volume of a registry.

    Each image has four layers of its repository and one of its own. Repository number N is large-M/app-N.
    """
    unpack = [
        "docker", "--host", engine_address(), "run", "--rm", "--interactive", "--network=none", f"--user={USER}",
        f"--volume={volume}:/data", "--entrypoint=", clients.IMAGES.registry, "tar", "-x", "-C", "/data",
    ]  # fmt: skip
    subprocess.run(unpack, input=_packed(repositories, tags), check=True)


def _packed(repositories: int, tags: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def put(path: str, content: bytes) -> None:
            entry = tarfile.TarInfo(f"docker/registry/v2/{path}")
            entry.size, entry.mtime = len(content), 1_796_000_000
            tar.addfile(entry, io.BytesIO(content))

        def blob(content: bytes) -> dict[str, Any]:
            encoded = hashlib.sha256(content).hexdigest()
            put(f"blobs/sha256/{encoded[:2]}/{encoded}/data", content)
            return {"digest": f"sha256:{encoded}", "size": len(content)}

        def document(value: Mapping[str, Any]) -> dict[str, Any]:
            return blob(json.dumps(value, indent=3).encode())

        for number in range(tags):
            application = number % repositories
            repository = f"repositories/large-{application % 7}/app-{application}"
            history = [
                {"created": "2026-11-29T16:19:58Z", "created_by": f"RUN step {step} " + "x" * 80} for step in range(30)
            ]
            labels = {"Labels": {"org.opencontainers.image.revision": f"{number:040x}"}}
            platform = {"os": "linux", "architecture": "amd64"}
            config = {"mediaType": CONFIG} | document(platform | {"config": labels, "history": history})
            layers = [
                {"mediaType": LAYER} | blob(content.encode())
                for content in (*(f"base {application} {layer}" for layer in range(4)), f"own {number}")
            ]
            manifest = document({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
            link = str(manifest["digest"])
            encoded = link.removeprefix("sha256:")
            for layer in (config, *layers):
                put(f"{repository}/_layers/sha256/{layer['digest'][7:]}/link", str(layer["digest"]).encode())
            put(f"{repository}/_manifests/revisions/sha256/{encoded}/link", link.encode())
            put(f"{repository}/_manifests/tags/v{number}/index/sha256/{encoded}/link", link.encode())
            put(f"{repository}/_manifests/tags/v{number}/current/link", link.encode())
    return packed.getvalue()
