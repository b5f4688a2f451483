"""The meaning of a preview: a headline, what needs attention, and the changes by section."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.configuration.naming import mirror_alias
from components.configuration.problems import HIDDEN, Problem, is_key_material, problems_in, redacted
from components.configuration.settings import DANGERS
from operations.preview.changes import Section, sections
from operations.preview.effects import EFFECTS, effects
from operations.preview.events import Events, Step, recorded
from operations.preview.files import FileChange, file_changes
from operations.preview.retention import unprotected_hosts
from operations.preview.text import SENTENCE, code, counted, joined

#: Most phrases of a headline; above this number, the headline counts the changes.
_PHRASES = 2
#: How the engine refuses to delete or to replace a volume with data.
_PROTECTED = re.compile(r"marked for protection|cannot be deleted")
#: The digest of an image, which is no secret but looks like a key.
_DIGEST = re.compile(r"(\bsha256:)[0-9a-f]{64}\b")
_HASH = re.compile(r"\$2[aby]\$")


@dataclass(frozen=True)
class Report:
    """A preview in words. ``has_changes``: an `up` would change something, a refresh found a difference, or it failed.

    Texts hold values as code spans, so that Markdown and a terminal can show the same texts.

    ``problems`` and ``errors`` are set if the preview failed. The other parts are then empty, unless `protect_data`
    refused the change. ``resources`` maps each operation to the names of its resources.
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes and nothing needs attention, such as a certificate that ends soon."""
        return not self.has_changes and not self.attention


def report(events: Events) -> Report:
    """Return the meaning of a preview."""
    is_protected = bool(events.errors) and all(_PROTECTED.search(error) for error in events.errors)
    if events.errors and not is_protected:
        return _refusal(events)
    before, after = events.before, events.after
    was, now = recorded(before, "settings"), recorded(after, "settings")
    is_first = not before and not events.unchanged
    images = frozenset(_image(name) for name in [*_names(events.steps), *events.images])
    changed = sections({} if is_first else before, after, images)
    noticed = [] if is_first else effects(events.steps, before, after)
    files = file_changes(events.steps, before, after)
    at_risk = _data_at_risk(events, was, now)
    attention = [
        *at_risk,
        *([] if before and not was else _weaker_protection(was, now)),
        *_passwords_not_compared(before, after),
        *_snippets_to_install(files, after),
        *(f"Changed on the Docker host since the last `up`: {code(name)} ({found})." for name, found in events.drifted),
        *(f"Warning: {code(_safe(warning), SENTENCE)}" for warning in events.warnings),
    ]
    headline = _headline(changed, [] if at_risk else noticed, events, is_first=is_first, is_at_risk=bool(at_risk))
    if files and not events.steps and not changed:
        headline = "Changes only the snippet for your own proxy."
    if at_risk:
        headline = f"Read “Attention” first. {headline}"
    operations = {
        operation: tuple(step.name for step in events.steps if step.operation == operation)
        for operation in ("create", "replace", "update", "delete")
    }
    return Report(
        stack=events.stack,
        has_changes=bool(events.steps or changed or events.drifted or files),
        headline=f"Refused: `protect_data` keeps the data. {headline}" if is_protected else headline,
        note=_note(before, was, now),
        attention=tuple(attention),
        sections=tuple(changed),
        clients=tuple(f"{_capital(EFFECTS[key].name)}. {EFFECTS[key].detail}" for key in noticed),
        files=tuple(files),
        resources={operation: names for operation, names in operations.items() if names},
        unchanged=events.unchanged,
        errors=(_KEPT,) if is_protected else (),
    )


_KEPT = """\
This change removes a volume that `protect_data` protects. Nothing was changed. To remove the volume from the stack:

1. Without this change, run: pulumi config set registry-stack:protect_data false && pulumi up
2. Apply this change, and run: pulumi up
3. Run: pulumi config rm registry-stack:protect_data && pulumi up

The volume and its data stay on the host."""


def _note(before: Mapping[str, Any], was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before and not was and now:
        return (
            "The deployed version of the program recorded no settings, so this preview compares only users, files and"
            " resources. The next `up` records the settings."
        )
    return ""


def _refusal(events: Events) -> Report:
    problems = [problem for error in events.errors for problem in problems_in(error)]
    others = [_safe(error) for error in events.errors if not problems_in(error)]
    if problems and not others:
        headline = f"The configuration is refused: {counted(len(problems), 'problem')}. Nothing was changed."
    else:
        headline = "The preview failed. Nothing was changed."
    return Report(events.stack, has_changes=True, headline=headline, problems=tuple(problems), errors=tuple(others))


def _safe(text: str) -> str:
    """Return a message of the program or of the engine without key material and without the logins of URLs."""
    lines = [_DIGEST.sub(r"\1…", line) for line in text.splitlines()]
    return "\n".join(HIDDEN if is_key_material(line) or _HASH.search(line) else redacted(line) for line in lines)


def _headline(
    changed: Sequence[Section], noticed: Sequence[str], events: Events, *, is_first: bool, is_at_risk: bool
) -> str:
    if is_first:
        counts = _counts([section for section in changed if section.noun in ("user", "mirror")])
        is_own = recorded(events.after, "settings").get("proxy", {}).get("server") == "none"
        created = "the registry, for your own proxy," if is_own else "the registry and the proxy"
        return f"First deployment: creates {created}{' with ' if counts else ''}{joined(counts)}."
    phrases = list(dict.fromkeys(change.phrase for section in changed for change in section.changes))
    if not events.steps and not phrases:
        return "The Docker host differs from the last `up`." if events.drifted else "Nothing changes."
    if not phrases:
        has_settings = bool(recorded(events.before, "settings"))
        text = (
            "Changes no setting, but the resources of the stack" if has_settings else "Changes resources of the stack"
        )
        text = "Restores what changed on the Docker host" if events.drifted else text
    elif len(phrases) <= _PHRASES:
        text = _capital(joined(phrases))
    else:
        text = f"Changes {joined(_counts(changed))}"
    if noticed:
        return f"{text}. {EFFECTS[noticed[0]].headline}"
    return f"{text}." if is_at_risk else f"{text}. Nothing restarts."


def _counts(changed: Sequence[Section]) -> list[str]:
    found: dict[str, set[str]] = {}
    for section in changed:
        for change in section.changes:
            found.setdefault(change.noun or section.noun, set()).add(change.subject)
    return [counted(len(subjects), noun) for noun, subjects in found.items()]


def _data_at_risk(events: Events, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each store that the stack stops using, finds elsewhere, or that is missing."""
    found = []
    earlier, later = _places(was), _places(now)
    moved = {store for store in earlier.keys() & later.keys() if earlier[store] != later[store]}
    found += [
        f"**Data does not move.** The data of {code(store)} is in {earlier[store]} and will be read from"
        f" {later[store]}. Nothing is copied: clients find only what is there."
        for store in sorted(moved)
    ]
    missing = {name for name, difference in events.drifted if difference == "missing"}
    for step in events.steps:
        is_volume = step.component == "DataStores" and step.type.endswith(":Volume")
        if is_volume and step.operation in ("replace", "delete") and step.name not in moved:
            found.append(
                f"**Data is no longer used.** The stack stops using the volume {code(step.before.get('name'))}"
                f" ({code(step.name)}). The volume and its data stay on the host."
            )
        elif is_volume and step.name in missing:
            found.append(
                f"**Data is missing.** The volume {code(step.after.get('name'))} is gone from the Docker host. `up`"
                " creates an empty volume: restore the data first."
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
    found += unprotected_hosts(was, now)
    opened = {
        name
        for name, mirror in now.get("mirrors", {}).items()
        if not mirror.get("allow") and was.get("mirrors", {}).get(name, {"allow": True}).get("allow")
    }
    found += [
        f"**Open mirror:** anyone who can reach the proxy can pull through the mirror {code(name)}."
        for name in sorted(opened)
    ]
    found += [
        f"**Dangerous choice {code(danger)}:** {DANGERS.get(danger, '')}."
        for danger in now.get("acknowledge", [])
        if danger not in was.get("acknowledge", [])
    ]
    return found


def _passwords_not_compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence if ``stack_secret`` changes: the fingerprints of all other secrets change with it."""
    was, now = (recorded(outputs, "fingerprints").get("stack_secret") for outputs in (before, after))
    if not was or was == now:
        return []
    sentence = (
        "**Any password may change too:** a new `stack_secret` gives every secret a new fingerprint. So this preview"
        " cannot tell whether passwords, upstream passwords or private keys change too."
    )
    return [sentence]


def _snippets_to_install(files: Sequence[FileChange], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each new or changed snippet: the operator's own proxy does not know it yet."""
    names = {name for file in files for name in file.name.split(", ")}
    return [
        f"**Your own proxy needs the new snippet.** After `up`, install {code(f'pulumi stack output {name}')}."
        for name in sorted(names & after.keys())
    ]


def _names(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps if step.type.endswith(":RemoteImage") and step.operation != "delete"]


def _image(name: str) -> str:
    return name.removesuffix("-image")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
