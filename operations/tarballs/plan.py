"""Plan an import: which tarballs, in which order, and what is in the registry already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from components.configuration.problems import Failure
from operations.tarballs.archive import Archive, Broken
from operations.tarballs.images import Image, StoredManifest, images
from operations.tarballs.naming import ENDINGS, Dated, Target, Templates, dated, order, targets
from operations.tarballs.registry import digest_of


@dataclass(frozen=True, kw_only=True)
class Tarball:
    """A tarball with its images and their tags, or with the reason for which it cannot be imported."""

    file: Path
    size: int
    dated: Dated
    images: tuple[tuple[Image, tuple[Target, ...]], ...] = ()
    problem: str | None = None


def files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the tarballs in the given folders. A link to one of the others is left out.

    Raises:
        Failure: if a path does not exist, or if a folder has no tarball.
    """
    found: list[Path] = []
    for path in paths:
        try:
            within = [one for one in path.iterdir() if one.name.lower().endswith(ENDINGS)] if path.is_dir() else [path]
            others = [one for one in within if not one.is_file()]
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}", "name tarballs, or folders of tarballs") from None
        if others:
            why = "it is no file" if others[0].exists() else "no such file"
            raise Failure(f"cannot read {others[0]}: {why}", "name tarballs, or folders of tarballs")
        if not within:
            raise Failure(f"the folder {path} has no file that ends in {', '.join(ENDINGS)}", "name the files")
        found += within
    # The name of a file has its date. The name of a link, such as latest.tar, may have none.
    links_first = sorted(found, key=lambda one: (not one.is_symlink(), str(one)))
    return list({one.resolve(): one for one in links_first}.values())


def read(file: Path, templates: Templates) -> Tarball:
    """Read the index of a tarball."""
    try:
        about = file.stat()
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", "run the command again") from None
    when = dated(file, about.st_mtime)
    try:
        with Archive(file) as archive:
            found = tuple((image, targets(templates, image.names, file, when)) for image in images(archive))
        _check_apart(found)
    except Broken as error:
        return Tarball(file=file, size=about.st_size, dated=when, problem=str(error))
    return Tarball(file=file, size=about.st_size, dated=when, images=found)


def in_order(tarballs: Iterable[Tarball]) -> list[Tarball]:
    """Return the tarballs, oldest first."""
    return sorted(tarballs, key=lambda one: order(one.file, one.dated))


def _check_apart(found: tuple[tuple[Image, tuple[Target, ...]], ...]) -> None:
    """Refuse one tag for two images of a tarball."""
    owners: dict[Target, str] = {}
    for image, wanted in found:
        for target in wanted:
            if owners.setdefault(target, image.identity) != image.identity:
                raise Broken(f"two images of the tarball get the tag {target}: use {{repository}} or {{tag}}")


@dataclass(frozen=True)
class Present:
    """What a tag in the registry points to. ``steps`` is the number of images in the plan that the tag had already.

    The tag points to the last of these images. Without such an image, another client pushed the tag.
    """

    manifest: bytes
    steps: int


def present(tarballs: Iterable[Tarball], manifests: Mapping[Target, bytes]) -> dict[Target, Present]:
    """Compare the tags of the registry with the images that the tarballs bring to these tags, oldest first."""
    planned = defaultdict[Target, list[str]](list)
    for tarball in tarballs:
        for image, wanted in tarball.images:
            for target in wanted:
                planned[target].append(image.identity)
    found = {}
    for target, manifest in manifests.items():
        known = _identities(manifest)
        steps = [step for step, identity in enumerate(planned[target], 1) if identity in known]
        found[target] = Present(manifest, steps[-1] if steps else 0)
    return found


def _identities(manifest: bytes) -> set[str]:
    """Return the digests by which a tarball may know an image of the registry: of manifest and configuration."""
    try:
        config = StoredManifest.model_validate_json(manifest).config
    except ValidationError:
        config = None
    return {digest_of(manifest), *([config.digest] if config else [])}
