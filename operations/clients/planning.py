"""Plan the changes of a machine's files from their contents, our entries and the journal of the last installation.

The journal is a file on the machine. It has each file as it was before the installation: the way back after an
interruption or a failure, and for an uninstallation.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import normpath

from pydantic import BaseModel

from components.configuration.fields import FROZEN
from components.configuration.problems import Failure
from operations.clients.merging import Unmergeable, add, take_out, without_mirrors

DAEMON = "/etc/docker/daemon.json"
JOURNAL = "/var/lib/registry-stack/clients.json"


@dataclass(frozen=True)
class File:
    """A path of a machine and its text, or None if there is no file.

    ``target`` is the path behind symbolic links. ``problem`` is why the file cannot be changed. ``folder`` is the
    nearest folder above the file that exists.
    """

    path: str
    text: str | None
    target: str
    folder: str
    problem: str = ""


@dataclass(frozen=True)
class Change:
    """The next text of a file, or None if the file goes."""

    file: File
    text: str | None


class Entry(BaseModel):
    """An installed file: its text from before the installation, and each text that this command wrote.

    ``folder`` is the nearest folder above the file that was there before the installation.
    """

    model_config = FROZEN
    before: str | None
    after: tuple[str, ...]
    folder: str


class Journal(BaseModel):
    """The installed files of a machine. While ``complete`` is false, some files may have their former text.

    ``run`` is then a random name of the run. A run that finds the name of another run changes nothing more.
    """

    model_config = FROZEN
    complete: bool = True
    run: str = ""
    files: Mapping[str, Entry] = {}


@dataclass(frozen=True)
class Plan:
    """Changes in their order. ``begun`` is the journal during the changes, ``done`` the journal after the changes.

    ``targets`` has the path behind links of each file.
    """

    changes: tuple[Change, ...]
    targets: Mapping[str, str]
    begun: Journal
    done: Journal


def journal(file: File) -> Journal:
    """Read the journal of a machine.

    Raises:
        Failure: if another version of the program wrote the journal, or if it names a file outside of /etc.
    """
    try:
        found = Journal.model_validate_json(file.text) if file.text is not None else Journal()
        if any(not path.startswith("/etc/") or normpath(path) != path for path in found.files):
            raise ValueError
        return found
    except ValueError:
        raise Failure(
            f"{file.path} is not a journal of this version of the program. Nothing was changed",
            "use the version that installed the files, or restore the files by hand and remove the journal",
        ) from None


def plan(ours: Mapping[str, str], files: Mapping[str, File], former: Journal) -> Plan:
    """Return the changes after which the files have exactly our entries and those of others.

    Raises:
        Failure: if a file cannot be changed. The message names all such files.
    """
    changes: list[Change] = []
    begun, done = dict[str, Entry](), dict[str, Entry]()
    problems: list[str] = []
    for path in sorted({*ours, *former.files}):
        file, entry = files[path], former.files.get(path)
        try:
            base = _original(file, entry)
            wanted = add(path, base, ours[path]) if path in ours else base
        except Unmergeable as reason:
            problems.append(f"{path} {file.problem}" if file.problem else f"{path}: {reason}")
            continue
        folder = entry.folder if entry else _foreign_folder(file, files, former)
        written = list(entry.after if entry else ())
        if wanted is not None and wanted != base:
            done[path] = Entry(before=base, after=(wanted,), folder=folder)
            written.append(wanted)
        if path == DAEMON and (between := without_mirrors(base)):
            written.append(between)
        if written:
            begun[path] = Entry(before=base, after=tuple(dict.fromkeys(written)), folder=folder)
        if wanted != file.text:
            changes.append(Change(file, wanted))
            if file.problem:
                problems.append(f"{path} {file.problem}")
    if problems:
        raise Failure("\n".join([*problems, "Nothing was changed."]), "correct these files, and run the command again")
    return Plan(
        changes=tuple(sorted(changes, key=_turn)),
        targets={path: file.target for path, file in files.items()},
        begun=Journal(complete=False, run=secrets.token_hex(8), files=begun),
        done=Journal(files=done),
    )


def back(made: Plan, now: Mapping[str, File]) -> list[Change]:
    """Return the changes that undo a plan, for the files that have a text of the plan by now."""
    return [
        Change(file, change.file.text)
        for change in reversed(made.changes)
        if (file := now[change.file.path]).text in (change.text, *made.begun.files[file.path].after)
        and file.text != change.file.text
    ]


def _original(file: File, entry: Entry | None) -> str | None:
    """Return the text of a file without our entries."""
    if entry is None or file.text is None or file.text == entry.before:
        return file.text
    if file.text in entry.after:
        return entry.before
    text: str | None = file.text
    for after in reversed(entry.after):
        text = text and take_out(file.path, text, entry.before, after)
    return text


def _foreign_folder(file: File, files: Mapping[str, File], former: Journal) -> str:
    """Return the nearest folder of a new file that the last installation did not make."""
    for path, entry in former.files.items():
        is_above = files[path].target.startswith(f"{file.folder}/")
        if is_above and file.folder.startswith(f"{entry.folder.rstrip('/')}/"):
            return entry.folder
    return file.folder


def _turn(change: Change) -> tuple[bool, bool, str]:
    """Order changes: a certificate is there before a file that needs it, and goes after that file."""
    is_removal = change.text is None
    return is_removal, change.file.path.endswith(".crt") == is_removal, change.file.path
