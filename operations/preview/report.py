"""The meaning of a preview: a headline, what needs attention, and the changes by section."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.configuration.naming import mirror_alias
from components.configuration.problems import Problem, problems_in, redacted
from components.configuration.settings import DANGERS
from operations.preview.changes import Section, sections
from operations.preview.effects import EFFECTS, effects
from operations.preview.events import Events, Step
from operations.preview.files import FileChange, file_changes
from operations.preview.text import code, counted, joined

#: Most phrases of a headline; above this number, the headline counts the changes.
_PHRASES = 2
#: The line with which the CLI follows the error of a program.
_FOLLOW_UP = re.compile(r"an unhandled error occurred: program exited with non-zero exit code: \d+")


@dataclass(frozen=True)
class Report:
    """A preview in words. ``has_changes``: an `up` would change something, a refresh found a difference, or it failed.

    Texts hold values as code spans, so that Markdown and a terminal can show the same texts.

    ``problems`` and ``errors`` are set if the preview failed; then nothing else is known. ``resources`` maps each
    operation to the names of its resources.
    """

    stack: str
    has_changes: bool
    headline: str
    note: str = ""
    attention: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    clients: tuple[str, ...] = ()
    files: tuple[FileChange, ...] = ()
    resources: Mapping[str, tuple[str, ...]] | None = None
    unchanged: int = 0
    problems: tuple[Problem, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the preview failed."""
        return bool(self.problems or self.errors)


def report(events: Events) -> Report:
    """Return the meaning of a preview."""
    if events.errors:
        return _refusal(events)
    before, after = events.before, events.after
    is_first = not before and not events.unchanged
    images = frozenset(_image(name) for name in [*_names(events.steps), *events.images])
    changed = sections({} if is_first else before, after, images)
    noticed = [] if is_first else effects(events.steps, before, after)
    at_risk = _data_at_risk(events.steps, _settings(before), _settings(after))
    headline = _headline(is_first, changed, noticed, events)
    attention = [
        *at_risk,
        *_weaker_protection(_settings(before), _settings(after)),
        *(f"Changed on the Docker host since the last `up`: {code(name)} ({found})." for name, found in events.drifted),
        *(f"Warning of the program: {code(redacted(warning))}" for warning in events.warnings),
    ]
    note = ""
    if before and not _settings(before) and _settings(after):
        note = (
            "The deployed version of the program recorded no settings, so this preview compares only users, files and"
            " resources. The next `up` records the settings."
        )
    operations = {
        operation: tuple(step.name for step in events.steps if step.operation == operation)
        for operation in ("create", "replace", "update", "delete")
    }
    return Report(
        stack=events.stack,
        has_changes=bool(events.steps or changed or events.drifted),
        headline=f"Read “Attention” first. {headline}" if at_risk else headline,
        note=note,
        attention=tuple(attention),
        sections=tuple(changed),
        clients=tuple(f"{_capital(EFFECTS[key].name)}. {EFFECTS[key].detail}" for key in noticed),
        files=tuple(file_changes(events.steps, before, after)),
        resources={operation: names for operation, names in operations.items() if names},
        unchanged=events.unchanged,
    )


def _refusal(events: Events) -> Report:
    problems = [problem for error in events.errors for problem in problems_in(error)]
    others = [redacted(error) for error in events.errors if not problems_in(error) and not _FOLLOW_UP.fullmatch(error)]
    if problems and not others:
        headline = f"The configuration is refused: {counted(len(problems), 'problem')}. Nothing was changed."
    else:
        headline = "The preview failed. Nothing was changed."
    return Report(events.stack, has_changes=True, headline=headline, problems=tuple(problems), errors=tuple(others))


def _headline(is_first: bool, changed: Sequence[Section], noticed: Sequence[str], events: Events) -> str:
    if is_first:
        counts = [
            counted(len({change.subject for change in section.changes}), section.noun)
            for section in changed
            if section.noun in ("user", "mirror")
        ]
        return f"First deployment: creates the registry and the proxy{' with ' if counts else ''}{joined(counts)}."
    phrases = list(dict.fromkeys(change.phrase for section in changed for change in section.changes))
    if not events.steps and not phrases:
        return "The Docker host differs from the last `up`." if events.drifted else "Nothing changes."
    if not phrases:
        text = "Changes no setting, but the resources of the stack"
        text = "Restores what changed on the Docker host" if events.drifted else text
    elif len(phrases) <= _PHRASES:
        text = _capital(joined(phrases))
    else:
        text = f"Changes {joined([counted(_subjects(section), section.noun) for section in changed])}"
    return f"{text}. {EFFECTS[noticed[0]].headline if noticed else 'Nothing restarts.'}"


def _subjects(section: Section) -> int:
    return len({change.subject for change in section.changes})


def _data_at_risk(steps: Sequence[Step], was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for another Docker host, and for each store that the stack stops using or finds elsewhere."""
    found = []
    if was and was.get("docker_host") != now.get("docker_host"):
        found.append(
            f"**The Docker host changes** from {code(was.get('docker_host'))} to {code(now.get('docker_host'))}. No"
            " data moves by itself: follow docs/moving.md."
        )
    earlier, later = _places(was), _places(now)
    moved = {store for store in earlier.keys() & later.keys() if earlier[store] != later[store]}
    found += [
        f"**Data does not move.** The data of {code(store)} is in {earlier[store]} and will be read from"
        f" {later[store]}. Nothing is copied."
        for store in sorted(moved)
    ]
    for step in steps:
        is_volume = step.component == "DataStores" and step.type.endswith(":Volume")
        if is_volume and step.operation in ("replace", "delete") and step.name not in moved:
            found.append(
                f"**Data is no longer used.** The stack stops using the volume {code(step.before.get('name'))}"
                f" ({code(step.name)}). The volume and its data stay on the host."
            )
    return found


def _places(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the place of each store by the name of its resource."""
    if not settings:
        return {}
    stores = {"registry-data": settings["registry"].get("storage", {})} | {
        f"{mirror_alias(name)}-cache": mirror.get("storage", {}) for name, mirror in settings.get("mirrors", {}).items()
    }
    prefix = settings.get("name_prefix")
    return {name: _place(storage, f"{prefix}-{name}") for name, storage in stores.items()}


def _place(storage: Mapping[str, Any], default: str) -> str:
    if folder := storage.get("host_path"):
        return f"the folder {code(folder)}"
    return f"the volume {code(storage.get('volume', default))}"


def _weaker_protection(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    if now.get("protect_data") is False and was.get("protect_data", True):
        found.append(
            "**`protect_data` is switched off:** `pulumi destroy` is no longer refused. The volumes stay on the host."
        )
    found += [
        f"**Dangerous choice {code(danger)}:** {DANGERS.get(danger, '')}."
        for danger in now.get("acknowledge", [])
        if danger not in was.get("acknowledge", [])
    ]
    return found


def _settings(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return (outputs.get("configuration") or {}).get("settings") or {}


def _names(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps if step.type.endswith(":RemoteImage") and step.operation != "delete"]


def _image(name: str) -> str:
    return name.removesuffix("-image")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
