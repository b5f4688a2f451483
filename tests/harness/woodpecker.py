"""Read a pipeline of Woodpecker: which steps run for an event, and the script and variables of each step.

Woodpecker's own runner is in no package registry. https://woodpecker-ci.org/docs/usage/workflow-syntax
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Step:
    """One step: a container that runs the commands as one script."""

    name: str
    image: str
    commands: tuple[str, ...]
    environment: Mapping[str, Any]
    volumes: tuple[str, ...]
    #: States of the steps before this step: success, failure.
    after: frozenset[str]

    @property
    def script(self) -> str:
        """The script, without the lines that print each command."""
        return "\n".join(self.commands) + "\n"

    def variables(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The variables of the step. A secret that the project does not have stops Woodpecker, and raises KeyError."""
        return {
            name: secrets[value["from_secret"]] if isinstance(value, dict) else str(value)
            for name, value in self.environment.items()
        }


def all_steps(file: Path) -> list[Step]:
    """Every step of a pipeline."""
    return [_step(name, step) for name, step in yaml.safe_load(file.read_text())["steps"].items()]


def steps(file: Path, event: str, branch: str, cron: str = "nightly", tag: str = "v1.0.0") -> Iterator[Step]:
    """The steps that run for an event; ``cron`` is the name of the cron job."""
    pipeline = yaml.safe_load(file.read_text())
    if _matches(pipeline.get("when"), event, branch, cron, tag):
        for name, step in pipeline["steps"].items():
            if _matches(step.get("when"), event, branch, cron, tag):
                yield _step(name, step)


def _step(name: str, step: Mapping[str, Any]) -> Step:
    known = {"image", "when", "environment", "commands", "volumes"}
    assert step.keys() <= known, f"this reader does not know {step.keys() - known}"
    when = step.get("when", {})
    return Step(
        name,
        step["image"],
        tuple(step["commands"]),
        step.get("environment", {}),
        tuple(step.get("volumes", ())),
        frozenset(_texts(when.get("status", "success"))),
    )


def _matches(when: Any, event: str, branch: str, cron: str, tag: str) -> bool:
    """Whether one of the conditions holds. A branch counts for a push alone."""
    if not when:
        return True
    for condition in when if isinstance(when, list) else [when]:
        assert condition.keys() <= {"event", "branch", "status", "cron", "ref"}
        events, branches = _texts(condition["event"]), _texts(condition.get("branch", branch))
        if event in events and branch in branches and cron in _texts(condition.get("cron", cron)):
            return fnmatch(f"refs/tags/{tag}", condition.get("ref", "*"))
    return False


def _texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
