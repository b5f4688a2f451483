"""The configuration of a stack, read and changed through the Pulumi CLI alone.

Secrets go to the CLI on standard input: arguments and environment can be seen by other processes of the machine.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from components.configuration.fields import Endpoint, UpstreamName, Url, UserName
from components.configuration.problems import (
    PROJECT,
    Failure,
    path,
    remove_command,
    secret_command,
    set_command,
    shown_key,
)
from components.configuration.settings import FROZEN, MirrorSettings, Role, Secrets, UserSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """The part of a stack's configuration that is about logins; the rest may still be incomplete."""

    url: Endpoint | None
    users: Mapping[str, UserSettings]
    passwords: Mapping[str, SecretStr]
    mirrors: Mapping[str, MirrorSettings]
    upstream_passwords: Mapping[str, SecretStr]
    stack_secret: SecretStr


class DeployedUser(BaseModel):
    """A user as of the last ``pulumi up``, from the stack's output ``users``."""

    model_config = FROZEN
    role: Role
    fingerprint: str


@dataclass(frozen=True)
class Change:
    """A value of the configuration: ``parts`` of its path, what it was and what it shall be; None is nothing.

    A value is a text, or the texts of an object by their keys. What lies under a secret key is encrypted.
    """

    parts: tuple[str, ...]
    old: Mapping[str, str] | SecretStr | None
    new: Mapping[str, str] | SecretStr | None


class StackConfig:
    """One stack: the selected one unless ``stack`` names another; ``config_file`` is the CLI's ``--config-file``."""

    def __init__(self, stack: str | None, config_file: Path | None) -> None:
        self._stack = ["--stack", stack] if stack else []
        self._file = ["--config-file", str(config_file)] if config_file else []

    def command(self, *words: str) -> str:
        """A command on this stack, for a person to type."""
        return shlex.join([*words, *self._stack, *self._file])

    def on_this_stack(self, fix: str) -> str:
        """The commands of a fix, with the stack and the file that ``pulumi config`` needs to know."""
        options = "".join(f" {shlex.quote(word)}" for word in (*self._stack, *self._file))
        return re.sub(r"pulumi config (get|rm|set)\b", lambda match: f"{match[0]}{options}", fix)

    def read(self) -> Credentials:
        """Users, mirrors and their secrets, decrypted.

        Raises:
            Failure: if the CLI cannot read the stack, or if what it reads is not valid.
        """
        shown = json.loads(self._run("config", "--json", "--show-secrets", *self._file))
        values = {key: entry.get("objectValue", entry["value"]) for key, entry in shown.items()}
        registry = self._valid("registry", dict[str, Any], values.get(f"{PROJECT}:registry") or {})
        url = registry.get("url")
        return Credentials(
            url=self._valid("registry.url", Url, url) if url else None,
            users=self._valid("registry.users", dict[UserName, UserSettings], registry.get("users") or {}),
            mirrors=self._valid("mirrors", dict[UpstreamName, MirrorSettings], values.get(f"{PROJECT}:mirrors") or {}),
            stack_secret=SecretStr(values.get(f"{PROJECT}:stack_secret") or ""),
            **{
                key: self._valid(key, dict[str, SecretStr], values.get(f"{PROJECT}:{key}") or {})
                for key in ("passwords", "upstream_passwords")
            },
        )

    def deployed_users(self) -> dict[str, DeployedUser]:
        """The users of the last ``pulumi up``, by name; empty before the first.

        Raises:
            Failure: if another version of the program made the output.
        """
        outputs = json.loads(self._run("stack", "output", "--json"))
        try:
            return TypeAdapter(dict[str, DeployedUser]).validate_python(outputs.get("users", {}))
        except ValidationError:
            raise Failure(
                "the stack's output `users` was made by another version of the program", self.command("pulumi", "up")
            ) from None

    def change(self, *changes: Change) -> None:
        """Make all changes of the stack's configuration, or none.

        Raises:
            Failure: if one fails; it says what the configuration is then.
        """
        begun: list[Change] = []
        try:
            for change in changes:
                begun.append(change)
                self._write(change.parts, change.new)
        except (Failure, KeyboardInterrupt) as error:
            cause = str(error) or "interrupted"
            left = self._take_back(begun)
            if left:
                state = f"These changes could not be undone: {'; '.join(path(*change.parts) for change in left)}."
                by_hand = "; ".join(self.on_this_stack(_by_hand(change)) for change in left)
                raise Failure(f"{cause}\n{state}", by_hand) from None
            fix = error.fix if isinstance(error, Failure) else "run the command again"
            raise Failure(f"{cause}\nThe configuration is as it was before.", fix) from None

    def _take_back(self, changes: Sequence[Change]) -> list[Change]:
        """Restore the old values, the last change first; the changes for which that failed."""
        left = []
        for change in reversed(changes):
            try:
                if isinstance(change.old, Mapping):
                    self._write(change.parts, None)  # a key that the old object lacked must not stay
                self._write(change.parts, change.old)
            except Failure:
                left.append(change)
        return left

    def _write(self, parts: tuple[str, ...], value: Mapping[str, str] | SecretStr | None) -> None:
        key = f"{PROJECT}:{path(*parts)}"
        match value:
            case None:
                self._run("config", "rm", "--path", key, *self._file)
            case SecretStr():
                assert parts[0] in Secrets.model_fields
                self._run("config", "set", "--secret", "--path", key, *self._file, stdin=value.get_secret_value())
            case _:
                for name, text in value.items():
                    self._run("config", "set", "--path", f"{PROJECT}:{path(*parts, name)}", text, *self._file)

    def _run(self, *arguments: str, stdin: str = "") -> str:
        command = ["pulumi", *arguments, *self._stack]
        try:
            done = subprocess.run(
                [*command, "--non-interactive", "--color=never"],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise Failure(
                f"`pulumi` cannot be started: {error.strerror}", "install the Pulumi CLI, or add it to PATH"
            ) from None
        if done.returncode:
            # Standard output may hold secrets; the CLI explains itself on standard error.
            said = done.stderr.strip().removeprefix("error: ") or f"it ended with {done.returncode}"
            raise Failure(
                f"`{shlex.join(command)}` failed: {said}",
                "run this in the folder of Pulumi.yaml, with the stack's backend, passphrase and name"
                " (pulumi login, PULUMI_CONFIG_PASSPHRASE_FILE, --stack)",
            )
        return done.stdout

    def _valid(self, key: str, kind: Any, value: object) -> Any:
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = shown_key(path(key, *(part for part in first["loc"] if part != "[key]")))
            raise Failure(f"{where} is not valid: {fault(error)}", self.command("pulumi", "preview")) from None


def fault(error: ValidationError) -> str:
    """What is allowed instead of the first refused value, never the value."""
    detail = error.errors(include_url=False, include_input=False)[0]
    return str(detail["ctx"]["error"]) if detail["type"] == "value_error" else str(detail["msg"])


def _by_hand(change: Change) -> str:
    match change.old:
        case None:
            return remove_command(*change.parts)
        case SecretStr():
            return f"{secret_command(*change.parts)}, and enter the old value"
        case _:
            return " && ".join(set_command(path(*change.parts, key), text) for key, text in change.old.items())
