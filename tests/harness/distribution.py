"""Push images to a distribution process, and look at its store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Registry:
    """A distribution without a login, over a store in a folder."""

    def __init__(self, folder: Path, client: httpx.Client) -> None:
        self.repositories = folder / "docker/registry/v2/repositories"
        self.folder, self._client = folder, client

    def blob(self, name: str, content: bytes, media_type: str) -> dict[str, Any]:
        """Push a blob; its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        upload = self._client.post(f"/v2/{name}/blobs/uploads/").headers["Location"]
        answer = self._client.put(f"{upload}&digest={digest}", content=content)
        assert answer.status_code == 201, answer.text
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def manifest(self, name: str, tag: str, value: Mapping[str, Any], indent: int | None = None) -> dict[str, Any]:
        """Push a manifest under a tag, or under its digest without one; its descriptor."""
        content = json.dumps({"schemaVersion": 2} | value, indent=indent).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        headers = {"Content-Type": value["mediaType"]}
        answer = self._client.put(f"/v2/{name}/manifests/{tag or digest}", content=content, headers=headers)
        assert answer.status_code == 201, answer.text
        return {"mediaType": value["mediaType"], "digest": digest, "size": len(content)}

    def image(self, name: str, tag: str, text: str, **config: Any) -> dict[str, Any]:
        """Push an image with one layer; its descriptor."""
        value = {"os": "linux", "architecture": "arm", "variant": "v7"} | config
        described = self.blob(name, json.dumps(value).encode(), "application/vnd.oci.image.config.v1+json")
        layer = self.blob(name, text.encode(), "application/vnd.oci.image.layer.v1.tar")
        return self.manifest(name, tag, {"mediaType": MANIFEST, "config": described, "layers": [layer]})

    def delete(self, name: str, reference: str) -> None:
        """Delete a tag or, by its digest, a manifest."""
        assert self._client.delete(f"/v2/{name}/manifests/{reference}").status_code == 202

    def link(self, name: str, tag: str) -> Path:
        """The file that says where a tag points to."""
        return self.repositories / name / "_manifests/tags" / tag / "current/link"

    def data(self, digest: str) -> Path:
        """The file of a blob."""
        encoded = digest.removeprefix("sha256:")
        return self.folder / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"
