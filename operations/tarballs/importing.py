"""Import tarballs one after the other. A damaged tarball does not stop the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from operations.tarballs.archive import Archive, Broken
from operations.tarballs.images import Image
from operations.tarballs.naming import Target
from operations.tarballs.plan import Present, Tarball, present
from operations.tarballs.registry import Registry
from operations.tarballs.transfer import Transfer

State = Literal["imported", "present", "older", "failed"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a tarball.

    ``older`` tells that the registry's tag has a newer tarball already. ``parts`` has the manifests and blobs of each
    image in the registry with their sizes.
    """

    tarball: Tarball
    state: State
    problem: str | None = None
    parts: tuple[Mapping[str, int], ...] = ()


@dataclass(frozen=True)
class Totals:
    """Bytes: of the tarballs, of the images if each had its own blobs, and in the registry, where images share blobs.

    Only tarballs whose images are in the registry count.
    """

    tarballs: int
    separate: int
    shared: int


def run(
    tarballs: list[Tarball],
    registry: Registry,
    transfer: Transfer,
    *,
    overwrite: bool,
    began: Callable[[Tarball], None],
) -> Iterator[Outcome]:
    """Import the tarballs in their order. ``began`` is told each tarball before its import.

    ``overwrite`` allows to move a tag that points to an image of none of the tarballs.
    """
    wanted = dict.fromkeys(target for one in tarballs for _, targets in one.images for target in targets)
    manifests = {target: registry.manifest(target.repository, target.tag) for target in wanted}
    found = present(tarballs, {target: content for target, content in manifests.items() if content is not None})
    steps = Counter[Target]()
    for tarball in tarballs:
        began(tarball)
        if tarball.problem:
            yield Outcome(tarball=tarball, state="failed", problem=tarball.problem)
            continue
        try:
            yield _import(tarball, transfer, found, steps, overwrite=overwrite)
        except Broken as error:
            yield Outcome(tarball=tarball, state="failed", problem=str(error))


def totals(outcomes: Iterable[Outcome]) -> Totals:
    """Return how many bytes the sharing of layers saves."""
    images = [(one, parts) for one in outcomes for parts in one.parts]
    return Totals(
        tarballs=sum({one.tarball.file: one.tarball.size for one, _ in images}.values()),
        separate=sum(sum(parts.values()) for _, parts in images),
        shared=sum({digest: size for _, parts in images for digest, size in parts.items()}.values()),
    )


def _import(
    tarball: Tarball, transfer: Transfer, found: Mapping[Target, Present], steps: Counter[Target], *, overwrite: bool
) -> Outcome:
    wanted = [target for _, targets in tarball.images for target in targets]
    steps.update(wanted)
    if not overwrite and (foreign := [target for target in wanted if target in found and not found[target].steps]):
        raise Broken(f"the tag {foreign[0]} has an image of none of the tarballs: use --overwrite, or another --tag")
    learned: dict[str, Mapping[str, int]] = {}
    missing: list[tuple[Image, tuple[Target, ...]]] = []
    for image, targets in tarball.images:
        for target in targets:
            if target in found and steps[target] == found[target].steps:
                learned[image.identity] = transfer.learn(target.repository, image, found[target].manifest)
        if new := tuple(one for one in targets if one not in found or steps[one] > found[one].steps):
            missing.append((image, new))
    if not missing:
        return Outcome(tarball=tarball, state="present" if learned else "older", parts=tuple(learned.values()))
    with Archive(tarball.file) as archive:
        pushed = {image.identity: transfer.push(archive, image, new) for image, new in missing}
    return Outcome(tarball=tarball, state="imported", parts=tuple({**learned, **pushed}.values()))
