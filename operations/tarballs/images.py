"""Find the images in a tarball: of `docker save` before and since Docker 25, and OCI archives."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from components.configuration.settings import DOCKER_HUB
from operations.manifests import Descriptor, Document, Manifest, Texts
from operations.tarballs.archive import Archive, Broken
from operations.warm.references import parse

_UNCOMPRESSED = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
_CONFIGURATIONS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
#: Deepest nesting of indexes. Tools write one or two levels.
_DEEPEST = 8
_NAME, _TAG_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"

_Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Name:
    """A name of an image in a tarball. A part that the tarball does not tell is None."""

    repository: str | None
    tag: str | None


@dataclass(frozen=True)
class Saved:
    """An image whose layers are not compressed: the registry's manifest has to be made.

    ``identity`` is the digest of the configuration, which is the image ID in Docker's classic image store. ``layers``
    has the file of each layer by its digest without compression, lowest layer first; a layer may occur twice.
    """

    names: tuple[Name, ...]
    identity: str
    config: bytes
    layers: tuple[tuple[str, str], ...]


class Blob(Descriptor):
    """A descriptor whose digest can be checked, and cannot lead to another address."""

    digest: _Digest
    size: int = Field(ge=0)


class StoredManifest(Manifest):
    """A manifest with sizes."""

    media_type: str = Field("", alias="mediaType")
    config: Blob | None = None
    layers: tuple[Blob, ...] | None = None
    manifests: tuple[Blob, ...] | None = None


@dataclass(frozen=True)
class Stored:
    """An image that is imported byte for byte. ``identity`` is the digest of its manifest or index.

    ``manifests`` has all manifests of the tarball that belong to the image, with their media types and contents,
    children first. Platforms that the tarball lacks are left out.
    """

    names: tuple[Name, ...]
    identity: str
    manifests: Mapping[str, tuple[str, bytes]]


Image = Saved | Stored


class _Entry(Document):
    """An image in ``manifest.json``."""

    config: str = Field(alias="Config")
    tags: tuple[str, ...] | None = Field(None, alias="RepoTags")
    layers: tuple[str, ...] | None = Field(None, alias="Layers")


class _IndexEntry(Blob):
    annotations: Texts | None = None


class _Index(Document):
    manifests: tuple[_IndexEntry, ...]


class _RootFilesystem(Document):
    diff_ids: tuple[_Digest, ...] | None = None


class _Configuration(Document):
    rootfs: _RootFilesystem


def images(archive: Archive) -> list[Image]:
    """Return the images of a tarball, in the order of the tarball.

    Raises:
        Broken: if the tarball has no images, or if a part is missing.
    """
    if "index.json" in archive:
        found = _from_index(archive)
    elif "manifest.json" in archive:
        entries = _parsed(TypeAdapter(tuple[_Entry, ...]), archive.document("manifest.json"), "manifest.json")
        found = [
            _saved(archive, tuple(map(_name, one.tags or ())), archive.document(one.config), one.layers or ())
            for one in entries
        ]
    elif "repositories" in archive:
        raise Broken("Docker before 1.10 wrote the file: load and save the image with a newer Docker")
    else:
        raise Broken("the file has no manifest.json and no index.json, so it is no tarball of images")
    if not found:
        raise Broken("the tarball has no image")
    return found


def blob_path(digest: str) -> str:
    """Return the file of a blob in an OCI layout."""
    return f"blobs/{digest.replace(':', '/')}"


def _from_index(archive: Archive) -> list[Image]:
    """Return the images of ``index.json``. ORAS also lists the manifests there that an index of the file names."""
    index = _parsed(TypeAdapter(_Index), archive.document("index.json"), "index.json")
    names: defaultdict[str, list[Name]] = defaultdict(list)
    for entry in index.manifests:
        names[entry.digest] += _annotated(entry.annotations or {})
    found = dict[str, Image]()
    for entry in {entry.digest: entry for entry in index.manifests}.values():
        known = tuple(dict.fromkeys(names[entry.digest]))
        manifest, _ = _manifest(archive, entry.digest)
        layers, config = manifest.layers or (), manifest.config
        is_image = config and config.media_type in _CONFIGURATIONS  # other artifacts have layers without compression
        if config and is_image and any(layer.media_type in _UNCOMPRESSED for layer in layers):
            files = tuple(blob_path(layer.digest) for layer in layers)
            found[entry.digest] = _saved(archive, known, _document(archive, config.digest), files)
        else:
            manifests = dict[str, tuple[str, bytes]]()
            _collect(archive, entry, manifests)
            found[entry.digest] = Stored(known, entry.digest, manifests)
    parts = {
        digest for one in found.values() if isinstance(one, Stored) for digest in one.manifests.keys() - {one.identity}
    }
    return [one for digest, one in found.items() if one.names or digest not in parts]


def _collect(archive: Archive, entry: Descriptor, found: dict[str, tuple[str, bytes]], depth: int = 1) -> None:
    """Add a manifest with those below that the tarball has, children first, with their media types and contents."""
    if depth > _DEEPEST:
        raise Broken(f"the indexes are nested more than {_DEEPEST} deep")
    manifest, content = _manifest(archive, entry.digest)
    for blob in manifest.blobs:
        path = blob_path(blob.digest)
        if isinstance(blob, Blob) and not blob.urls and archive.size(path) != blob.size:
            raise Broken(f"{path} has {archive.size(path)} bytes, and its manifest says {blob.size}")
    for child in manifest.children:
        if child.digest not in found and blob_path(child.digest) in archive:
            _collect(archive, child, found, depth + 1)
    found[entry.digest] = manifest.media_type or entry.media_type, content


def _manifest(archive: Archive, digest: str) -> tuple[StoredManifest, bytes]:
    content = _document(archive, digest)
    manifest = _parsed(TypeAdapter(StoredManifest), content, f"the manifest {digest}")
    for blob in manifest.blobs:
        if not blob.urls:  # other hosts have the base layers of Windows
            archive.position(blob_path(blob.digest))  # a missing blob is found before the first upload
    return manifest, content


def _document(archive: Archive, digest: str) -> bytes:
    content = archive.document(blob_path(digest))
    algorithm, _, encoded = digest.partition(":")
    if hashlib.new(algorithm, content).hexdigest() != encoded:
        raise Broken(f"{blob_path(digest)} does not fit its digest")
    return content


def _saved(archive: Archive, names: tuple[Name, ...], config: bytes, files: tuple[str, ...]) -> Saved:
    configuration = _parsed(TypeAdapter(_Configuration), config, "the configuration of an image")
    digests = configuration.rootfs.diff_ids or ()
    if len(digests) != len(files):
        raise Broken(f"the image has {len(files)} layers, and its configuration names {len(digests)}")
    for file in files:
        archive.position(file)  # a missing layer is found before the first upload
    identity = f"sha256:{hashlib.sha256(config).hexdigest()}"
    return Saved(names, identity, config, tuple(zip(digests, files, strict=True)))


def _annotated(annotations: Mapping[str, str]) -> list[Name]:
    """Return the name of an entry of ``index.json``: a whole name, or a tag alone."""
    if name := annotations.get(_NAME):
        return [_name(name)]
    text = annotations.get(_TAG_NAME, "")
    if _TAG.fullmatch(text):
        return [Name(None, text)]
    return [_name(text)] if text else []


def _name(text: str) -> Name:
    """Return the repository and the tag of a name, without its registry.

    A name that is not valid counts as a repository. So it is refused only if a template uses it.
    """
    try:
        reference = parse(text)
    except ValueError:
        return Name(text, None)
    repository = reference.repository
    if reference.registry == DOCKER_HUB:
        repository = repository.removeprefix("library/")
    return Name(repository, None if reference.is_pinned else reference.version)


def _parsed(model: TypeAdapter[_T], content: bytes, what: str) -> _T:
    try:
        return model.validate_json(content)
    except ValidationError:
        raise Broken(f"{what} is not valid") from None
