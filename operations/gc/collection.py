"""Collect the garbage of one store: judge the survey, allow the collection, check the rest before writing resumes."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.configuration.problems import Failure
from operations.gc.conversation import Conversation
from operations.gc.status import REGISTRY, Status, now
from operations.gc.store import Files, Part, absent, files, needed, obstacles, remaining

#: Most problems that a message lists.
_SHOWN = 10
_AGAIN = "run the command again"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times in seconds: without a push before writing pauses; to wait for that; of the pause."""

    quiet: int
    wait: int
    pause: int


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """The store before the collection: what its manifests need, and what of that was missing already."""

    files: Files
    needed: Sequence[Part]
    missing: Sequence[Part]


def collect(command: Sequence[str], status: Status, limits: Limits, progress: Callable[[str], None]) -> Status:
    """Run the ``command`` of the script, and return the status of the run.

    Raises:
        Failure: if the collection was refused or failed. The file of the status then says why, if it can be written.
    """
    with Conversation(command, time.monotonic() + limits.wait) as script:
        script.say(f"status {json.dumps(status.as_json())}")
        try:
            status = _followed(script, status, limits, progress)
        except Failure as failure:
            script.say(f"status {json.dumps(status.failed(str(failure)).as_json())}")
            raise
        script.say(f"status {json.dumps(status.as_json())}")
    return status


def _followed(script: Conversation, status: Status, limits: Limits, progress: Callable[[str], None]) -> Status:
    """Follow the script to its result."""
    survey, differences, waits_for, paused = None, list[str](), "", 0.0
    give_up = script.deadline
    for line in script.lines():
        word, _, rest = line.partition(" ")
        match word:
            case "empty":
                return dataclasses.replace(status, result="done", ended=now())
            case "waiting":
                waits_for = rest
                progress("waiting until no push is under way")
            case "survey":
                progress("reading the store, and rehearsing the collection")
                survey = _survey(script, checked=status.store == REGISTRY)
                script.say("go")
            case "pausing":
                paused, script.deadline = time.monotonic(), time.monotonic() + limits.pause
                progress("collecting, while writing pauses")
            case "interrupted":
                waits_for, paused, script.deadline = "the moment before writing paused", 0.0, give_up
            case "+" | "-":
                differences.append(line)
            case "collected" | "failed" if survey:
                stopped = rest if word == "failed" else None
                return _result(status, survey, differences, paused, stopped)
            case _:
                _refuse(word)
    raise _broken(script, limits, paused=paused > 0, waits_for=waits_for)


def _refuse(word: str) -> None:
    match word:
        case "another":
            raise Failure("another garbage collection of this store runs", "wait until it has ended")
        case "unpausable":
            raise Failure(
                "the processes that write cannot pause: an older version of the program deployed them, or their image"
                " has no `flock`",
                "pulumi up",
            )


def _survey(script: Conversation, *, checked: bool) -> _Survey:
    """Read the survey and the rehearsal.

    Raises:
        Failure: if the collection would stop half way, or if it would delete what a manifest needs.
    """
    listed, sizes, documents, doomed = list[str](), dict[str, int](), dict[str, bytes](), set[str]()
    stumbled = None
    for line in script.lines():
        word, _, rest = line.partition(" ")
        if word == "document":
            size, path = rest.split()
            _, algorithm, _, encoded, _ = path.split("/")
            sizes[f"{algorithm}:{encoded}"] = int(size)
        elif word == "contents":
            documents = {digest: script.read(size) for digest, size in sizes.items()}
        elif word == "eligible":
            doomed.add(rest)
        elif word in ("rehearsed", "stumbled"):
            stumbled = rest if word == "stumbled" else None
            break
        else:
            listed.append(line)
    found = files(listed)
    problems = obstacles(found, documents) if checked else []
    if problems or stumbled:
        raise Failure(
            f"distribution cannot read everything, so nothing was deleted:\n{_shown(problems or [stumbled])}",
            "push these images again or delete them, for example:"
            " curl --user ADMIN --request DELETE REGISTRY/v2/REPOSITORY/manifests/DIGEST",
        )
    parts = needed(found, documents) if checked else []
    if wrong := [part for part in parts if part.part in doomed]:
        raise Failure(
            f"distribution would delete what images need, so nothing was deleted:\n{_shown(wrong)}",
            "keep the registry without a garbage collection, and report this list with the version of its image",
        )
    return _Survey(files=found, needed=parts, missing=absent(parts, found))


def _result(status: Status, survey: _Survey, differences: Sequence[str], paused: float, stopped: str | None) -> Status:
    """Return the status after a collection.

    Raises:
        Failure: if a part is lost, or if distribution stopped.
    """
    gone, new = (files(line[2:] for line in differences if line[0] == sign) for sign in "-+")
    rest = remaining(survey.files, gone, new)
    lost = [part for part in absent(survey.needed, rest) if part not in survey.missing]
    if lost:
        raise Failure(f"the collection deleted what images need:\n{_shown(lost)}", "push these images again")
    if stopped:
        raise Failure(f"distribution stopped: {stopped}. Everything that images need is there", _AGAIN)
    return dataclasses.replace(
        status,
        ended=now(),
        result="done",
        freed=gone.size,
        freed_blobs=len(gone.blobs),
        size=rest.size,
        blobs=len(rest.blobs),
        paused=time.monotonic() - paused,
        missing=tuple(map(str, survey.missing)),
    )


def _broken(script: Conversation, limits: Limits, *, paused: bool, waits_for: str) -> Failure:
    """Return the failure for a script that ended without a result."""
    if script.timed_out and paused:
        return Failure(
            f"the collection took longer than {limits.pause} seconds and was stopped. Writing goes on",
            "run the command again with a longer --pause",
        )
    if script.timed_out:
        return Failure(
            f"pushes went on for {limits.wait} seconds, the last one in {waits_for}"
            if waits_for
            else f"reading the store took longer than {limits.wait} seconds",
            "run the command again when fewer pushes run, or with a longer --wait",
        )
    return Failure(f"the collection ended early: {script.last_error()}. Writing goes on", _AGAIN)


def _shown(problems: Sequence[object]) -> str:
    more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "\n".join(f"  {each}" for each in [*problems[:_SHOWN], *more])
