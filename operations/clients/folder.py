"""Write a set of files into a folder, and never replace a file that someone else wrote or changed.

`SHA256SUMS` lists the files of the last run. `sha256sum --check SHA256SUMS` shows later changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from components.configuration.problems import Failure
from operations.clients.files import CLIENTS
from operations.clients.page import PAGE
from operations.files import replace_file

SUMS = "SHA256SUMS"
#: The first part of the name of each file that a run may write.
_NAMES = {PAGE, *(client.folder.partition("/")[0] for client in CLIENTS)}
#: A sum and a name that does not lead out of the folder.
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ((?!.*\.\./)\w[\w.:/-]*)")


def write_folder(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Write each file atomically, and remove files of the last run that have no successor. Return the removed files.

    Raises:
        Failure: if a file exists that this function did not write, or if the folder cannot be written.
    """
    try:
        return _write(folder, files)
    except OSError as error:
        raise Failure(
            f"cannot write {error.filename or folder}: {error.strerror}", "choose a folder that you can write"
        ) from None


def _write(folder: Path, files: Mapping[str, str]) -> list[str]:
    before, now = _recorded(folder), {(name, _sum(text.encode())) for name, text in files.items()}
    known = before | now
    foreign = sorted({name for name, _ in known if not _is_ours(folder, name, known)})
    if foreign:
        raise Failure(
            f"this command did not write these files, or they were changed later: "
            f"{', '.join(str(folder / name) for name in foreign)}. Nothing was written",
            "move these files away, or choose another folder with --output",
        )
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    # First the old sums with the new sums: after an interruption, the next run must know all files of this run.
    replace_file(folder / SUMS, _lines(known))
    for name, text in files.items():
        replace_file(folder / name, text)
    removed = sorted({name for name, _ in before} - files.keys())
    for name in removed:
        _remove(folder, name)
    replace_file(folder / SUMS, _lines(now))
    return removed


def _recorded(folder: Path) -> set[tuple[str, str]]:
    """Return the name and the sum of each file of the last run.

    Raises:
        Failure: if another program wrote the sums. A later run would remove the files that they name.
    """
    file = folder / SUMS
    if not file.is_file():
        return set()
    lines = [_SUM_LINE.fullmatch(line) for line in file.read_text(errors="replace").splitlines()]
    found = {(line[2], line[1]) for line in lines if line}
    if len(found) != len(lines) or any(name.partition("/")[0] not in _NAMES for name, _ in found):
        raise Failure(
            f"this command did not write {file}, or it was changed later. Nothing was written",
            "move this file away, or choose another folder with --output",
        )
    return found


def _is_ours(folder: Path, name: str, known: set[tuple[str, str]]) -> bool:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return not os.path.lexists(path)
    return (name, _sum(path.read_bytes())) in known


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    for parent in list(Path(name).parents)[:-1]:
        with contextlib.suppress(OSError):  # the folder still has other files
            (folder / parent).rmdir()


def _lines(sums: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums))


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
