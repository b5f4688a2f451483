"""Carry out a plan on a machine, and put every file back if a step fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from components.configuration.problems import Failure
from operations.clients.machine import Machine
from operations.clients.merging import data, without_mirrors
from operations.clients.planning import DAEMON, JOURNAL, Change, File, Journal, Plan, back
from operations.clients.programs import docker_info, reload_crio, reload_docker

#: The folder that stays if the journal and its own folder go.
_FOLDER = "/var/lib"
_ONLY_ROOT = "600"


def carry_out(machine: Machine, made: Plan, journal: File, check: Callable[[], None]) -> None:
    """Change the files, reload the programs, and call ``check``. If a step fails, put every file back.

    The journal is on the machine's disk before the first change, and tells the next run after an interruption the way
    back.

    Raises:
        Failure: if a step fails.
    """
    former = journal
    try:
        journal = _write_journal(machine, journal, made.begun)
        _apply(machine, made.changes, journal)
        check()
        _tidy(machine, made)
        journal = _write_journal(machine, journal, made.done)
        tidy_journal(machine, journal)
    except BaseException as error:
        if journal is former and isinstance(error, Failure):
            # What differs from the plan now is the work of another run.
            raise Failure(f"{error}\nNothing was changed.", error.fix) from None
        try:
            journal = machine.read([JOURNAL])[JOURNAL]
            if journal.text not in {former.text, _text(made.begun)}:
                raise Failure("another run has begun, or this run was complete", "run `clients check`")
            # A script that goes on without its connection needs its unfinished copy, so that it changes nothing later.
            _tidy(machine, made)
            tidy_journal(machine, former)
            files = machine.read(change.file.path for change in made.changes)
            _apply(machine, back(made, files), journal)
            _tidy(machine, made)
            _write(machine, Change(journal, former.text), journal)
            tidy_journal(machine, former)
        except Failure as second:
            raise Failure(
                f"{error}\nThe files could not be put back: {second}",
                f"{second.fix}; then run `clients uninstall` for {machine.name}",
            ) from None
        except KeyboardInterrupt:
            raise Failure(
                f"{error or 'Stopped'}\nThe files were not put back: stopped again",
                f"run `clients uninstall` for {machine.name}",
            ) from None
        if isinstance(error, Failure):
            raise Failure(f"{error}\nEvery file is as before.", error.fix) from None
        raise


def tidy_journal(machine: Machine, journal: File) -> None:
    """Remove what an interruption left of a journal."""
    machine.tidy([(journal.target, machine.path(_FOLDER))])


def _tidy(machine: Machine, made: Plan) -> None:
    """Remove what this run or an interrupted run left beside the files."""
    machine.tidy((made.targets[path], entry.folder) for path, entry in made.begun.files.items())


def _apply(machine: Machine, changes: Iterable[Change], journal: File) -> None:
    paths = set()
    for change in changes:
        if change.file.path == DAEMON and not machine.is_image and docker_info(machine) is not None:
            _change_daemon(machine, change, journal)
        else:
            _write(machine, change, journal)
        paths.add(change.file.path)
    if not machine.is_image and any("/containers/" in path for path in paths):
        reload_crio(machine)


def _change_daemon(machine: Machine, change: Change, journal: File) -> None:
    """Change the ``daemon.json`` of a running Docker, and reload it.

    If the new file has no list of mirrors, Docker must first read an empty list, because it would keep its mirrors.
    """
    file = change.file
    if (between := without_mirrors(change.text)) is not None:
        machine.replace(file, between, journal)
        reload_docker(machine, [])
        _write(machine, dataclasses.replace(change, file=dataclasses.replace(file, text=between)), journal)
    else:
        _write(machine, change, journal)
        reload_docker(machine, data(DAEMON, change.text or "")["registry-mirrors"])


def _write_journal(machine: Machine, file: File, journal: Journal) -> File:
    text = _text(journal)
    _write(machine, Change(file, text), file)
    return dataclasses.replace(file, text=text)


def _text(journal: Journal) -> str | None:
    return journal.model_dump_json(indent=2) + "\n" if journal.files else None


def _write(machine: Machine, change: Change, journal: File) -> None:
    if change.text is None:
        machine.remove(change.file, journal)
    elif change.text != change.file.text:
        machine.replace(change.file, change.text, journal, _ONLY_ROOT if change.file.path == JOURNAL else "644")
