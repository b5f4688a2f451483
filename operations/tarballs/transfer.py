"""Send the images of tarballs to the registry. Equal layers are compressed and sent once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO

from pydantic import ValidationError

from components.configuration.problems import Failure
from operations.tarballs.archive import Archive, Broken
from operations.tarballs.images import Blob, Image, Saved, Stored, StoredManifest, blob_path
from operations.tarballs.naming import Target
from operations.tarballs.registry import Registry, digest_of

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_GZIP_LAYERS = (_LAYER, "application/vnd.oci.image.layer.v1.tar+gzip")
#: Never change these numbers: every layer that is compressed again would get another digest.
_LEVEL, _GZIP_WINDOW = 6, 31
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Part:
    """A blob of an image."""

    digest: str
    size: int


class Transfer:
    """Sends images to a registry. ``progress`` receives the number of the bytes that were read from tarballs."""

    def __init__(self, registry: Registry, progress: Callable[[int], None]) -> None:
        self._registry, self._progress = registry, progress
        self._layers: dict[str, _Part] = {}  # compressed layers by their digest without compression
        self.sent = 0
        """Bytes of the blobs that were uploaded."""

    def learn(self, repository: str, image: Image, manifest: bytes) -> dict[str, int]:
        """Learn the compressed layers of an image from its manifest in the registry. Return its parts with their sizes.

        So a command that continues compresses no layer of an earlier tarball again.
        """
        if isinstance(image, Stored):
            return _sizes_of(image)
        try:
            layers = StoredManifest.model_validate_json(manifest).layers or ()
        except ValidationError:
            return {}
        parts = [_Part(layer.digest, layer.size) for layer in layers]
        if len(layers) == len(image.layers):
            for (plain, _), layer, part in zip(image.layers, layers, parts, strict=True):
                if layer.media_type in _GZIP_LAYERS:  # another client may have pushed the image with zstd
                    self._layers.setdefault(plain, part)
                    self._registry.expect(repository, layer.digest)
        return _sizes(image, parts, manifest)

    def push(self, archive: Archive, image: Image, targets: tuple[Target, ...]) -> dict[str, int]:
        """Push an image and its tags. Return the manifests and blobs of the image with their sizes.

        Raises:
            Broken: if a part of the tarball is damaged.
            Failure: if the registry refuses the login, or does not answer.
        """
        parts: dict[str, int] = {}
        for repository in dict.fromkeys(target.repository for target in targets):
            tags = [target.tag for target in targets if target.repository == repository]
            if isinstance(image, Saved):
                parts |= self._push_saved(archive, image, repository, tags)
            else:
                parts |= self._push_stored(archive, image, repository, tags)
        return parts

    def _push_saved(self, archive: Archive, image: Saved, repository: str, tags: list[str]) -> dict[str, int]:
        for plain, file in sorted(image.layers, key=lambda layer: archive.position(layer[1])):
            self._push_layer(archive, repository, plain, file)
        if self._is_new(repository, image.identity):
            self._upload(repository, _Part(image.identity, len(image.config)), lambda: iter([image.config]))
        layers = [self._layers[plain] for plain, _ in image.layers]
        manifest = _manifest(_Part(image.identity, len(image.config)), layers)
        for tag in tags:
            self._registry.put_manifest(repository, tag, MANIFEST, manifest)
        return _sizes(image, layers, manifest)

    def _push_stored(self, archive: Archive, image: Stored, repository: str, tags: list[str]) -> dict[str, int]:
        parts = {_Part(blob.digest, blob.size) for blob in _blobs(image)}
        for part in sorted(parts, key=lambda one: archive.position(blob_path(one.digest))):
            if self._is_new(repository, part.digest):
                self._upload(repository, part, partial(self._read, archive, blob_path(part.digest)))
        for digest, (media_type, content) in image.manifests.items():
            for reference in tags if digest == image.identity else [digest]:
                self._registry.put_manifest(repository, reference, media_type, content)
        return _sizes_of(image)

    def _push_layer(self, archive: Archive, repository: str, plain: str, file: str) -> None:
        if (known := self._layers.get(plain)) and not self._is_new(repository, known.digest):
            return
        with _temporary() as compressed:
            layer = _compress(self._read(archive, file, expand=True), plain, file, compressed)
            self._layers[plain] = layer
            if self._is_new(repository, layer.digest):
                self._upload(repository, layer, partial(_from_start, compressed))

    def _is_new(self, repository: str, digest: str) -> bool:
        return not (self._registry.has(repository, digest) or self._registry.mount(repository, digest))

    def _upload(self, repository: str, part: _Part, content: Callable[[], Iterator[bytes]]) -> None:
        self._registry.upload(repository, part.digest, part.size, content)
        self.sent += part.size

    def _read(self, archive: Archive, file: str, *, expand: bool = False) -> Iterator[bytes]:
        for chunk in archive.chunks(file, expand=expand):
            self._progress(len(chunk))
            yield chunk


def _blobs(image: Stored) -> Iterator[Blob]:
    """Yield the blobs that the tarball has. Other hosts have the base layers of Windows."""
    for _, content in image.manifests.values():
        for blob in StoredManifest.model_validate_json(content).blobs:
            if isinstance(blob, Blob) and not blob.urls:
                yield blob


def _sizes_of(image: Stored) -> dict[str, int]:
    manifests = {digest: len(content) for digest, (_, content) in image.manifests.items()}
    return manifests | {blob.digest: blob.size for blob in _blobs(image)}


def _sizes(image: Saved, layers: list[_Part], manifest: bytes) -> dict[str, int]:
    sizes = {layer.digest: layer.size for layer in layers}
    return sizes | {image.identity: len(image.config), digest_of(manifest): len(manifest)}


def _manifest(config: _Part, layers: list[_Part]) -> bytes:
    """Return a manifest as `docker push` writes it. Equal images get equal bytes."""

    def described(media_type: str, part: _Part) -> dict[str, object]:
        return {"mediaType": media_type, "size": part.size, "digest": part.digest}

    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(_CONFIG, config),
        "layers": [described(_LAYER, layer) for layer in layers],
    }
    return json.dumps(value, indent=3).encode()


def _compress(chunks: Iterator[bytes], plain: str, name: str, target: IO[bytes]) -> _Part:
    """Write a layer to ``target``, compressed. zlib writes no time and no name, so equal layers get equal bytes.

    Raises:
        Broken: if the layer does not fit ``plain``, its digest without compression.
    """
    before, after = hashlib.new(plain.partition(":")[0]), hashlib.sha256()
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    for chunk in chunks:
        before.update(chunk)
        piece = compressor.compress(chunk)
        after.update(piece)
        target.write(piece)
    piece = compressor.flush()
    after.update(piece)
    target.write(piece)
    if f"{before.name}:{before.hexdigest()}" != plain:
        raise Broken(f"{name} does not fit its digest in the configuration of the image")
    return _Part(f"sha256:{after.hexdigest()}", target.tell())


@contextlib.contextmanager
def _temporary() -> Iterator[IO[bytes]]:
    """Open a file without a name: a killed command leaves nothing behind."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        folder = tempfile.tempdir or "a temporary folder"  # gettempdir() fails if no folder is writable
        fix = "free disk space in that folder, or name another folder in the variable TMPDIR"
        raise Failure(f"cannot write a compressed layer to {folder}: {error.strerror}", fix) from None


def _from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(_CHUNK):
        yield chunk
