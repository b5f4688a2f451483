"""Write tarballs of images as `docker save` and OCI tools write them, for tests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(content: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(name: str, content: bytes) -> bytes:
    """A layer with one file."""
    return archive({name: content})


def config(layers: Sequence[bytes], **more: Any) -> bytes:
    """The configuration of an image with these layers."""
    rootfs = {"type": "layers", "diff_ids": [digest(one) for one in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, **more}).encode()


def archive(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar archive with these files and links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                writer.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link in an archive."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def saved(*images: tuple[Sequence[str] | None, Sequence[bytes]], **more: Any) -> dict[str, bytes | tarfile.TarInfo]:
    """The files of `docker save` before Docker 25: images with their tags and layers. A repeated layer is a link."""
    files: dict[str, bytes | tarfile.TarInfo] = {}
    entries = []
    for number, (tags, layers) in enumerate(images):
        names, first = [], dict[str, str]()
        for place, one in enumerate(layers):
            name = f"{number}{place:063d}/layer.tar"
            names.append(name)
            files[name] = link(name, f"../{first[digest(one)]}") if digest(one) in first else one
            first.setdefault(digest(one), name)
        description = config(layers, **more)
        file = f"{digest(description)[7:]}.json"
        files[file] = description
        entries.append({"Config": file, "RepoTags": tags, "Layers": names})
    files["manifest.json"] = json.dumps(entries).encode()
    return files


def layout(
    annotations: Mapping[str, str], platforms: Mapping[str, Sequence[bytes]], *, compressed: bool
) -> dict[str, bytes | tarfile.TarInfo]:
    """The files of an OCI archive: an image, or an index with an image for each of several platforms.

    Without ``compressed``, they are those of `docker save` since Docker 25.
    """
    files: dict[str, bytes | tarfile.TarInfo] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(content: bytes, media_type: str) -> dict[str, Any]:
        files[f"blobs/sha256/{digest(content)[7:]}"] = content
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    images = []
    for architecture, layers in platforms.items():
        stored = [gzip.compress(one, mtime=0) if compressed else one for one in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": blob(config(layers, architecture=architecture), OCI_CONFIG),
            "layers": [blob(one, OCI_LAYER + "+gzip" * compressed) for one in stored],
        }
        platform = {"os": "linux", "architecture": architecture}
        images.append(blob(json.dumps(manifest).encode(), OCI_IMAGE) | {"platform": platform})
    if len(images) > 1:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": images}
        images = [blob(json.dumps(index).encode(), OCI_INDEX)]
    top = {"schemaVersion": 2, "manifests": [one | {"annotations": dict(annotations)} for one in images]}
    files["index.json"] = json.dumps(top).encode()
    return files


def write(file: Path, files: Mapping[str, bytes | tarfile.TarInfo], without: Iterable[str] = ()) -> Path:
    """Write a tarball, compressed if its name ends in gz."""
    content = archive({name: one for name, one in files.items() if name not in without})
    file.write_bytes(gzip.compress(content, compresslevel=1) if file.name.endswith("gz") else content)
    return file
