"""Read and change the configuration of a stack, only through the Pulumi CLI.

Secrets go to the CLI on standard input, because other processes can see arguments and environment variables.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from components.configuration.fields import FROZEN, DockerHost, Duration, Endpoint, UpstreamName, Url, UserName
from components.configuration.problems import (
    PROJECT,
    Failure,
    path,
    remove_command,
    secret_command,
    set_command,
    shown_key,
)
from components.configuration.retention import RetentionSettings
from components.configuration.settings import MirrorSettings, Role, Secrets, UserSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """The logins of a stack's configuration. Other parts of the configuration may be incomplete."""

    url: Endpoint | None
    users: Mapping[str, UserSettings]
    passwords: Mapping[str, SecretStr]
    mirrors: Mapping[str, MirrorSettings]
    upstream_passwords: Mapping[str, SecretStr]
    stack_secret: SecretStr


class DeployedUser(BaseModel):
    """A user that the last ``pulumi up`` deployed, from the stack's output ``users``."""

    model_config = FROZEN
    role: Role
    fingerprint: str


class Deployed(BaseModel):
    """The running stack, from its outputs; ``services`` has the current container of each role.

    ``ca_certificate`` is the authority of ``internal`` certificates.
    """

    model_config = FROZEN
    registry_url: Url
    docker_host: DockerHost
    services: Mapping[str, str]
    ca_certificate: str | None = None


class DeployedMirror(BaseModel):
    """The settings of a deployed mirror that commands read."""

    model_config = FROZEN | {"extra": "ignore"}
    ttl: Duration = MirrorSettings.model_fields["ttl"].default
    upstream: str | None = None
    username: str | None = None


class DeployedMirrors(BaseModel):
    """The deployed mirrors, from the stack's outputs.

    ``mirrors`` has every mirror by its upstream. ``mirror_urls`` has the mirrors with an address of their own.
    ``mirror_url`` is one address for all mirrors. ``registry_url`` and ``anonymous_url`` are the addresses of the
    private registry. ``ca_certificate`` is the authority of ``internal`` certificates.
    """

    model_config = FROZEN
    mirrors: Mapping[UpstreamName, DeployedMirror]
    mirror_urls: Mapping[UpstreamName, Url]
    mirror_url: Url | None = None
    registry_url: Url | None = None
    anonymous_url: Url | None = None
    ca_certificate: str | None = None

    @property
    def upstreams(self) -> frozenset[str]:
        """The upstreams that have a mirror."""
        return frozenset(self.mirrors)

    def address(self, upstream: str) -> Endpoint | None:
        """Return the mirror's own address, else the address of all mirrors."""
        return self.mirror_urls.get(upstream) or self.mirror_url


@dataclass(frozen=True)
class Change:
    """A change of one configuration value: the parts of its path, the old value and the new value.

    A value is a text, an object of texts, or None if the key is absent. The CLI encrypts values under a secret key.
    """

    parts: tuple[str, ...]
    old: Mapping[str, str] | SecretStr | None
    new: Mapping[str, str] | SecretStr | None


class StackConfig:
    """One stack: ``stack``, or the selected stack. ``config_file`` is the CLI's option ``--config-file``."""

    def __init__(self, stack: str | None, config_file: Path | None) -> None:
        self._stack = ["--stack", stack] if stack else []
        self._file = ["--config-file", str(config_file)] if config_file else []
        self._found: dict[str, Any] | None = None

    def command(self, *words: str) -> str:
        """A command for the operator, with the options that select this stack."""
        return shlex.join([*words, *self._stack, *self._file])

    def on_this_stack(self, fix: str) -> str:
        """A fix whose ``pulumi config`` commands have the options that select this stack and its file."""
        options = "".join(f" {shlex.quote(word)}" for word in (*self._stack, *self._file))
        return re.sub(r"pulumi config (get|rm|set)\b", lambda match: f"{match[0]}{options}", fix)

    def read(self) -> Credentials:
        """Read users, mirrors and their decrypted secrets.

        Raises:
            Failure: if the CLI cannot read the stack, or if the configuration is not valid.
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

    def retention(self) -> RetentionSettings | None:
        """Read ``registry.retention`` from the configuration, deployed or not; None if the key is not set.

        Raises:
            Failure: if the CLI cannot read the stack, or if the rules are not valid.
        """
        shown = json.loads(self._run("config", "--json", *self._file))
        entry = shown.get(f"{PROJECT}:registry", {})
        registry = self._valid("registry", dict[str, Any], entry.get("objectValue") or {})
        rules: RetentionSettings | None = self._valid(
            "registry.retention", RetentionSettings | None, registry.get("retention")
        )
        return rules

    def deployed_users(self) -> dict[str, DeployedUser]:
        """Read the users that the last ``pulumi up`` deployed, by name. Empty before the first ``pulumi up``.

        Raises:
            Failure: if another version of the program wrote the output.
        """
        outputs = self._outputs()
        try:
            return TypeAdapter(dict[str, DeployedUser]).validate_python(outputs.get("users", {}))
        except ValidationError:
            raise Failure(
                "another version of the program wrote the stack's output `users`", self.command("pulumi", "up")
            ) from None

    def name(self) -> str:
        """Return the name of the stack as in URNs: without the organization that the CLI can print before the name."""
        return self._run("stack", "--show-name").strip().rpartition("/")[2]

    def preview(self, *, refresh: bool) -> list[str]:
        """Run `pulumi preview --json` and return its events, one JSON text each, also those of a refused configuration.

        Raises:
            Failure: if the CLI printed no event, for example without a passphrase.
        """
        command = ["pulumi", "preview", "--json", *(["--refresh"] if refresh else []), *self._file, *self._stack]
        done = _start(command, variables={"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"})
        events = [line for line in done.stdout.split("\n") if line.startswith("{")]
        if not events or (done.returncode and not any('"severity":"error"' in event for event in events)):
            raise _failure(command, done)
        return events

    def deployed(self) -> Deployed:
        """Read the registry's URL, the Docker host and the containers of the last ``pulumi up``.

        Raises:
            Failure: if the stack is not deployed, or if another version of the program deployed it.
        """
        outputs = self.deployed_outputs()
        try:
            return Deployed.model_validate({key: outputs[key] for key in Deployed.model_fields if key in outputs})
        except ValidationError:
            raise Failure(
                f"another version of the program wrote the stack's outputs {', '.join(Deployed.model_fields)}",
                self.command("pulumi", "up"),
            ) from None

    def deployed_outputs(self) -> dict[str, Any]:
        """Read all outputs of the last ``pulumi up``.

        Raises:
            Failure: if the stack is not deployed.
        """
        outputs = self._outputs()
        if not outputs:
            raise Failure("the stack is not deployed: it has no outputs", self.command("pulumi", "up"))
        return outputs

    def deployed_mirrors(self) -> DeployedMirrors:
        """Read the mirrors of the last ``pulumi up``, their addresses, and the authority of their certificates.

        Raises:
            Failure: if the stack is not deployed, or if another version of the program deployed it.
        """
        outputs = self.deployed_outputs()
        try:
            mirrors = outputs["configuration"]["settings"]["mirrors"]
            values = {key: outputs.get(key) for key in DeployedMirrors.model_fields}
            return DeployedMirrors.model_validate(values | {"mirrors": mirrors})
        except (KeyError, TypeError, ValidationError):
            others = ", ".join(key for key in DeployedMirrors.model_fields if key != "mirrors")
            raise Failure(
                f"another version of the program wrote the stack's outputs of the mirrors: configuration, {others}",
                self.command("pulumi", "up"),
            ) from None

    def change(self, *changes: Change) -> None:
        """Apply all changes to the stack's configuration, or none.

        Raises:
            Failure: if a change fails. The message describes the resulting configuration.
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
            raise Failure(f"{cause}\nThe configuration is unchanged.", fix) from None

    def _take_back(self, changes: Sequence[Change]) -> list[Change]:
        """Restore the old values, last change first. Return the changes that could not be undone."""
        left = []
        for change in reversed(changes):
            try:
                if isinstance(change.old, Mapping):
                    self._write(change.parts, None)  # remove keys that the old object did not have
                self._write(change.parts, change.old)
            except Failure:
                left.append(change)
        return left

    def _outputs(self) -> dict[str, Any]:
        """Read the outputs once: only ``pulumi up`` changes them."""
        if self._found is None:
            self._found = json.loads(self._run("stack", "output", "--json"))
        return self._found

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
        done = _start(command, stdin)
        if done.returncode:
            raise _failure(command, done)
        return done.stdout

    def _valid(self, key: str, kind: Any, value: object) -> Any:
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = shown_key(path(key, *(part for part in first["loc"] if part != "[key]")))
            raise Failure(f"{where} is not valid: {fault(error)}", self.command("pulumi", "preview")) from None


def fault(error: ValidationError) -> str:
    """The rule that the first refused value breaks, never the value itself."""
    detail = error.errors(include_url=False, include_input=False)[0]
    return str(detail["ctx"]["error"]) if detail["type"] == "value_error" else str(detail["msg"])


def _start(
    command: Sequence[str], stdin: str = "", variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*command, "--non-interactive", "--color=never"],
            input=stdin,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Failure(f"cannot start `pulumi`: {error.strerror}", "install the Pulumi CLI, or add it to PATH") from None


def _failure(command: Sequence[str], done: subprocess.CompletedProcess[str]) -> Failure:
    # Standard output may contain secrets. The CLI prints its errors on standard error.
    said = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
    return Failure(
        f"`{shlex.join(command)}` failed: {said}",
        "run the command in the folder of Pulumi.yaml, with the stack's backend, passphrase and name"
        " (pulumi login, PULUMI_CONFIG_PASSPHRASE_FILE, --stack)",
    )


def _by_hand(change: Change) -> str:
    match change.old:
        case None:
            return remove_command(*change.parts)
        case SecretStr():
            return f"{secret_command(*change.parts)}, and enter the old value"
        case _:
            return " && ".join(set_command(path(*change.parts, key), text) for key, text in change.old.items())
