"""Collect the garbage of one store: judge the survey, allow the collection, check the rest before writing resumes."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.configuration.problems import Failure
from operations.gc.conversation import Conversation
from operations.gc.status import REGISTRY, Status, now
from operations.gc.store import Files, Part, absent, files, needed, obstacles, remaining, under_way

#: Most problems that a message lists.
_SHOWN = 10
_AGAIN = "run the command again"
_PUSH_OR_DELETE = (
    "push these images again or delete them, for example:"
    " curl --user ADMIN --request DELETE https://REGISTRY/v2/REPOSITORY/manifests/DIGEST"
)
#: For what no survey finds: links of manifests or layers, which a loss of power leaves empty. distribution serves
#: nothing behind them and deletes none of them.
_REMOVE_LINKS = (
    "remove the empty links of the repository, then push its images again. In the folder of the registry's data:"
    " find docker/registry/v2/repositories/REPOSITORY -name link -size 0"
    " ! -path '*/_manifests/tags/*' -exec rm {} +"
)
_UNCACHE = (
    "remove the folder docker/registry/v2/repositories/REPOSITORY from the data of the mirror, which fetches again what"
    " clients ask for"
)


class _Another(Failure):
    """Another collection of the store runs: the file of the status is its own."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times in seconds: after which an unfinished push no longer counts; to wait for pushes; of the pause."""

    stalled: int
    wait: int
    pause: int


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """A store: its files, what its manifests need, what of that is missing, and a push that has not ended."""

    files: Files
    needed: Sequence[Part]
    missing: Sequence[Part]
    under_way: str | None


def collect(
    command: Sequence[str],
    status: Status,
    limits: Limits,
    progress: Callable[[str], None] = lambda _: None,
    check_writers: Callable[[], None] = lambda: None,
) -> Status:
    """Run the ``command`` of the script, and return the status of the run.

    ``check_writers`` raises a Failure if something else writes to the store. It is asked before each pause.

    Raises:
        Failure: if the collection was refused or failed. The file of the status then says why, if it can be written,
            unless another collection runs.
    """
    give_up = time.monotonic() + limits.wait
    with Conversation(command, give_up + limits.pause) as script:
        try:
            status = _Run(
                script, status, limits, give_up=give_up, progress=progress, check_writers=check_writers
            ).followed()
        except _Another:
            raise
        except Failure as failure:
            script.say(f"status {json.dumps(status.failed(str(failure)).as_json())}")
            raise
        script.say(f"status {json.dumps(status.as_json())}")
    return status


class _Run:
    """One run of the script: what it printed so far, and the answers."""

    def __init__(
        self,
        script: Conversation,
        status: Status,
        limits: Limits,
        *,
        give_up: float,
        progress: Callable[[str], None],
        check_writers: Callable[[], None],
    ) -> None:
        self._script, self._status, self._limits, self._progress = script, status, limits, progress
        self._check_writers = check_writers
        self._give_up, self._paused_at = give_up, 0.0
        self._documents = dict[str, bytes]()
        self._unread, self._doomed, self._wrong = list[str](), set[str](), set[str]()

    def followed(self) -> Status:
        """Follow the script to its result.

        Raises:
            Failure: if the collection was refused or failed.
        """
        self._progress("reading the store, and rehearsing the collection")
        survey = None
        for line in self._lines():
            word, _, rest = line.partition(" ")
            match word:
                case "empty":
                    return dataclasses.replace(self._status, result="done", ended=now())
                case "document" | "changed":
                    self._unread.append(line)
                case "contents":
                    survey = self._survey()
                case "eligible":
                    self._doomed.add(rest)
                case "rehearsed" | "stumbled" | "paused" if survey:
                    self._answer(survey, rest)
                case "pausing":
                    self._pause()
                case "resumed":
                    self._resume("an upload that did not end")
                case "collected" | "failed" if survey:
                    return self._result(survey, rest if word == "failed" else None)
                case _:
                    self._unread.append(line)
        raise self._broken()

    def _lines(self) -> Iterator[str]:
        """Yield the lines of the script. The status file is of this run as soon as the first line refuses nothing.

        Raises:
            Failure: if the collection was refused.
        """
        for number, line in enumerate(self._script.lines()):
            _refuse(line)
            if not number:
                self._script.say(f"status {json.dumps(self._status.as_json())}")
            yield line

    def _survey(self) -> _Survey:
        """Read the contents of the documents, and judge the store.

        Raises:
            Failure: if the script ends early, or if distribution cannot read a manifest.
        """
        changed = []
        for line in self._unread:
            word, _, rest = line.partition(" ")
            if word == "document":
                size, path = rest.split()
                _, algorithm, _, encoded, _ = path.split("/")
                content = self._script.read(int(size))
                if len(content) < int(size):
                    raise self._broken()
                self._documents[f"{algorithm}:{encoded}"] = content
            elif word == "changed":
                changed.append(rest)
        found = files(self._unread)
        self._unread.clear()
        if self._status.store != REGISTRY:  # a mirror fetches again what it lost
            return _Survey(files=found, needed=(), missing=(), under_way=None)
        if problems := obstacles(found, self._documents):
            raise _unreadable(problems)
        parts = needed(found, self._documents)
        return _Survey(files=found, needed=parts, missing=absent(parts, found), under_way=under_way(changed, parts))

    def _check(self, survey: _Survey, stumbled: str) -> None:
        """Judge a rehearsal, in which distribution may have ``stumbled``.

        A delete between a survey and its rehearsal looks like a mistake of distribution, but not in two surveys.

        Raises:
            Failure: if distribution cannot read the store, or would delete what a manifest needs.
        """
        doomed = {str(part) for part in survey.needed if part.part in self._doomed}
        wrong = {stumbled} if stumbled else doomed
        self._doomed.clear()
        if sure := sorted(wrong if time.monotonic() > self._give_up else wrong & self._wrong):
            if stumbled:
                raise _unreadable(sure, _REMOVE_LINKS if self._status.store == REGISTRY else _UNCACHE)
            raise Failure(
                f"distribution would delete what images need, so nothing was deleted:\n{_shown(sure)}",
                "do not collect garbage, and report this list with the version of the registry's image",
            )
        self._wrong = wrong

    def _answer(self, survey: _Survey, stumbled: str) -> None:
        """Go on, unless a push is under way or the rehearsal has to be repeated."""
        if not self._paused_at:
            self._check(survey, stumbled)
        if survey.under_way:
            self._resume(survey.under_way)
        goes_on = not (survey.under_way or self._wrong)
        if goes_on and not self._paused_at:
            self._check_writers()
        self._script.say("go" if goes_on else "again")

    def _pause(self) -> None:
        self._progress("collecting, while writing pauses")
        self._paused_at = time.monotonic()
        self._script.deadline = self._paused_at + self._limits.pause

    def _resume(self, waits_for: str) -> None:
        """Wait for a push, but not for ever.

        Raises:
            Failure: if pushes went on for too long.
        """
        if time.monotonic() > self._give_up:
            raise Failure(
                f"pushes went on for {self._limits.wait} seconds. The last one: {waits_for}",
                "run the command again when fewer pushes run, or with a longer --wait",
            )
        self._progress(f"waiting for a push: {waits_for}")
        self._paused_at, self._script.deadline = 0.0, self._give_up + self._limits.pause

    def _result(self, survey: _Survey, stopped: str | None) -> Status:
        """Return the status after a collection.

        Raises:
            Failure: if a part is lost, or if distribution stopped.
        """
        gone, new = (files(line[2:] for line in self._unread if line[0] == sign) for sign in "-+")
        rest = remaining(survey.files, gone, new)
        lost = [part for part in absent(survey.needed, rest) if part not in survey.missing]
        if lost:
            raise Failure(f"the collection deleted what images need:\n{_shown(lost)}", "push these images again")
        if stopped:
            raise Failure(f"distribution stopped: {stopped}. Everything that images need is there", _AGAIN)
        return dataclasses.replace(
            self._status,
            ended=now(),
            result="done",
            freed=gone.size,
            freed_blobs=len(gone.blobs),
            size=rest.size,
            blobs=len(rest.blobs),
            paused=time.monotonic() - self._paused_at,
            missing=tuple(map(str, survey.missing)),
        )

    def _broken(self) -> Failure:
        """Return the failure for a script that ended without a result."""
        script, limits = self._script, self._limits
        if script.timed_out and self._paused_at:
            return Failure(
                f"the collection took longer than {limits.pause} seconds and was stopped. Writing goes on",
                "run the command again with a longer --pause",
            )
        if script.timed_out:
            return Failure(
                f"reading the store took longer than {limits.wait} seconds",
                "run the command again with a longer --wait",
            )
        return Failure(f"the collection ended early: {script.last_error()}. Writing goes on", _AGAIN)


def _refuse(word: str) -> None:
    match word:
        case "another":
            raise _Another("another garbage collection of this store runs", "wait until it has ended")
        case "unpausable":
            raise Failure(
                "the processes that write cannot pause: an older version of the program deployed them, their image has"
                " no `flock`, or the file system of the data has no locks",
                "pulumi up; or, for an image of your own, add the program `flock` to the image; or move the data to a"
                " file system with locks",
            )


def _unreadable(problems: Sequence[str], fix: str = _PUSH_OR_DELETE) -> Failure:
    return Failure(f"distribution cannot read everything, so nothing was deleted:\n{_shown(problems)}", fix)


def _shown(problems: Sequence[object]) -> str:
    more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "\n".join(f"  {each}" for each in [*problems[:_SHOWN], *more])
