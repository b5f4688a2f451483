"""Create images without a builder: OCI layouts with random layers, for tests and benchmarks."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def random_layer(size: int) -> bytes:
    """An uncompressed layer: a tar archive with one file of ``size`` random bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = os.urandom(size)
        entry = tarfile.TarInfo(f"data-{hashlib.sha256(content).hexdigest()[:12]}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_layout(folder: Path, layers: Sequence[bytes], platforms: Sequence[str] = ("amd64",)) -> None:
    """Write an OCI layout with one image for each platform. Several platforms get an index.

    Layers are gzip files without compression, because random bytes do not shrink. This saves time.
    """
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    descriptors = []
    stored = [(layer, _write(folder, gzip.compress(layer, compresslevel=0, mtime=0))) for layer in layers]
    for architecture in platforms:
        config = _json_blob(
            folder,
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/none"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}" for layer, _ in stored]},
                "history": [{"created_by": "test"} for _ in stored],
            },
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json"} | config,
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"} | descriptor for _, descriptor in stored
            ],
        }
        platform = {"architecture": architecture, "os": "linux"}
        descriptors.append({"mediaType": _MANIFEST} | _json_blob(folder, manifest) | {"platform": platform})
    top: dict[str, Any] = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": descriptors}
    if len(descriptors) > 1:
        top = {"schemaVersion": 2, "manifests": [{"mediaType": _INDEX} | _json_blob(folder, top)]}
    (folder / "index.json").write_text(json.dumps(top))


def push_layout(client: httpx.Client, layout: Path, repository: str, tag: str) -> None:
    """Push the image of a layout to a registry without a login. ``repository`` is a URL: ``http://HOST/v2/NAME``."""
    (top,) = json.loads((layout / "index.json").read_text())["manifests"]
    for blob in (layout / "blobs" / "sha256").iterdir():
        if blob.name != top["digest"].removeprefix("sha256:"):
            begun = client.post(f"{repository}/blobs/uploads/").raise_for_status()
            place = begun.url.join(begun.headers["Location"]).copy_merge_params({"digest": f"sha256:{blob.name}"})
            client.put(place, content=blob.read_bytes()).raise_for_status()
    manifest = (layout / "blobs" / "sha256" / top["digest"].removeprefix("sha256:")).read_bytes()
    headers = {"Content-Type": top["mediaType"]}
    client.put(f"{repository}/manifests/{tag}", content=manifest, headers=headers).raise_for_status()


def _json_blob(folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    return _write(folder, json.dumps(value).encode())


def _write(folder: Path, blob: bytes) -> dict[str, Any]:
    (folder / "blobs" / "sha256" / _sha256(blob)).write_bytes(blob)
    return {"digest": f"sha256:{_sha256(blob)}", "size": len(blob)}


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
