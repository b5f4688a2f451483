"""From the stack's configuration to ``Settings`` and ``Secrets``, or to one error that lists every problem."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pulumi
import yaml
from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from components import certificates, credentials
from components.problem import (
    PROJECT,
    ConfigError,
    Problem,
    certificate_command,
    missing,
    path,
    remove_command,
    secret_command,
    set_command,
)
from components.render.proxy import certificate_name, hosts
from components.rules import RULES, Draft, certificate_problems, volume_problems
from components.settings import MirrorSettings, Secrets, Settings

_EXPIRY_NOTICE_DAYS = 14


def load_stack(now: datetime.datetime) -> tuple[Settings, Secrets]:
    """Read the configuration of the stack that Pulumi runs, as it is to be judged at ``now``.

    Raises:
        ConfigError: with every problem of the configuration and of the environment.
    """
    values = {key: value for key, value in pulumi.runtime.config.CONFIG.get().items() if key.startswith(f"{PROJECT}:")}
    stack_file = Path(f"Pulumi.{pulumi.get_stack()}.yaml")
    written = yaml.safe_load(stack_file.read_text()) if stack_file.exists() else None
    return load(
        values={key.removeprefix(f"{PROJECT}:"): value for key, value in values.items()},
        encrypted=frozenset(key.removeprefix(f"{PROJECT}:") for key in values if pulumi.runtime.is_config_secret(key)),
        written={
            key.removeprefix(f"{PROJECT}:"): value
            for key, value in ((written or {}).get("config") or {}).items()
            if key.startswith(f"{PROJECT}:")
        },
        environment=os.environ,
        now=now,
    )


def load(
    values: Mapping[str, str],
    encrypted: frozenset[str],
    written: Mapping[str, Any],
    environment: Mapping[str, str],
    now: datetime.datetime,
) -> tuple[Settings, Secrets]:
    """Check a configuration as a whole.

    Args:
        values: each key without the project's name, as Pulumi hands it over: text, objects as JSON, secrets decrypted.
        encrypted: the keys with an encrypted value somewhere inside.
        written: the same keys as they stand in the stack file, where ``{"secure": …}`` marks an encrypted value.
        environment: the environment of the Pulumi process.
        now: when certificates given as files must be in force.

    Raises:
        ConfigError: with every problem.
    """
    known = [*Settings.model_fields, *Secrets.model_fields]
    problems = [
        Problem(key, "a key that the program does not know", f"one of {', '.join(known)}", remove_command(key))
        for key in values
        if key not in known
    ]
    problems += _environment_problems(environment)
    problems += [problem for key in Secrets.model_fields for problem in _plain(key, values, encrypted, written)]

    parsed: dict[str, Any] = {}
    for key, field in (Settings.model_fields | Secrets.model_fields).items():
        if key == "mirrors":
            continue
        if key not in values or values[key] == "":
            if field.is_required():
                problems.append(missing(key))
            continue
        adapter = _adapter(field)
        problems += _parse(parsed, key, (key,), _decode(values[key], adapter), adapter)
    mirrors: dict[str, MirrorSettings] = {}
    if not isinstance(_decode(values.get("mirrors") or "{}", _adapter(Settings.model_fields["mirrors"])), dict):
        problems.append(
            Problem("mirrors", "no object", "an object: each upstream with a url", remove_command("mirrors"))
        )
    for name, raw in _object(values.get("mirrors", "{}")).items():
        entry: dict[str, Any] = {}
        problems += _parse(entry, "mirrors", ("mirrors",), {name: raw}, _adapter(Settings.model_fields["mirrors"]))
        mirrors |= entry.get("mirrors", {})

    draft = Draft(
        _object(_object(values.get("registry", "{}")).get("users")),
        parsed.get("registry"),
        parsed.get("proxy"),
        mirrors,
        frozenset(parsed.get("acknowledge", ())),
        Secrets.model_construct(
            stack_secret=parsed.get("stack_secret", SecretStr("")),
            acme_eab_mac_key=parsed.get("acme_eab_mac_key", SecretStr("")),
            **{key: parsed.get(key, {}) for key in ("passwords", "upstream_passwords", "certificates")},
        ),
    )
    for rule in RULES:
        problems += rule(draft)
    if not problems:
        settings = Settings(
            mirrors=mirrors, **{key: value for key, value in parsed.items() if key in Settings.model_fields}
        )
        problems += volume_problems(settings) + list(certificate_problems(settings, draft.secrets, now))
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.key))
    return settings, Secrets(**{key: value for key, value in parsed.items() if key in Secrets.model_fields})


def notices(settings: Settings, secrets: Secrets, now: datetime.datetime) -> list[str]:
    """What an operator should know although nothing is wrong: what ends soon, and passwords that cost time."""
    found, today = [], now.date()
    for name, user in settings.registry.users.items():
        if user.expires and user.expires < today:
            found.append(f"user {name} expired on {user.expires} and can no longer log in; remove or renew it")
        elif user.expires and (user.expires - today).days <= _EXPIRY_NOTICE_DAYS:
            found.append(f"user {name} expires on {user.expires}, in {(user.expires - today).days} days")
        cost = credentials.cost_of(name, secrets.passwords[name])
        if cost > credentials.COST_OF_RANDOM:
            found.append(
                f"the password of {name} is hashed at bcrypt cost {cost}: each of its requests takes about"
                f" {credentials.milliseconds(cost)} ms of CPU, a push of 20 layers makes more than 100;"
                f" a generated one is free: openssl rand -hex 16 | {secret_command('passwords', name)}"
            )
    used = {certificate_name(host, tuple(secrets.certificates)) for host in hosts(settings)}
    for name, pair in secrets.certificates.items():
        if name in used and (days := (certificates.end(pair) - now).days) <= certificates.NOTICE_DAYS:
            found.append(f"the certificate {name} ends in {days} days; replace it: {certificate_command(name)}")
    return found


def _environment_problems(environment: Mapping[str, str]) -> list[Problem]:
    if not environment.get("DOCKER_CONTEXT"):
        return []
    return [
        Problem(
            "DOCKER_CONTEXT",
            f"{environment['DOCKER_CONTEXT']}, in the environment",
            "no DOCKER_CONTEXT: it would send the deployment to another Docker host than docker_host",
            "unset DOCKER_CONTEXT",
        )
    ]


def _plain(
    key: str, values: Mapping[str, str], encrypted: frozenset[str], written: Mapping[str, Any]
) -> Iterator[Problem]:
    """Secret values that stand unencrypted; the CLI accepts a plain one beside encrypted ones."""
    if key in written:
        leaves = _plain_leaves((key,), written[key])
    else:
        leaves = [(key,)] if values.get(key, "{}") not in ("", "{}") and key not in encrypted else []
    for leaf in leaves:
        yield Problem(
            path(*leaf),
            "a plain value in the stack file",
            "an encrypted one (secure: …); treat the plain one as known to all who can read the repository",
            secret_command(*leaf),
        )


def _plain_leaves(parts: tuple[str, ...], value: object) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value.keys() == {"secure"}:
        return []
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _plain_leaves((*parts, str(key)), inner)]
    return [] if value in (None, "") else [parts]


def _decode(text: str, adapter: TypeAdapter[Any]) -> Any:
    """Pulumi hands objects, numbers and booleans over as JSON, text as it is."""
    if adapter.json_schema().get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _object(value: object) -> dict[str, Any]:
    """The members of an object, given as such or as JSON; none where the value is something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    kind: Any = field.annotation
    return TypeAdapter(Annotated[kind, *field.metadata] if field.metadata else kind)


def _parse(
    parsed: dict[str, Any], key: str, parts: tuple[str, ...], value: Any, adapter: TypeAdapter[Any]
) -> list[Problem]:
    try:
        parsed[key] = adapter.validate_python(value)
    except ValidationError as error:
        secret = key in Secrets.model_fields
        return [
            _problem((*parts, *detail["loc"]), dict(detail), secret)
            for detail in error.errors(include_url=False, include_context=True)
        ]
    return []


def _problem(parts: tuple[str | int, ...], detail: dict[str, Any], secret: bool) -> Problem:
    is_name = "[key]" in parts
    parts = tuple(part for part in parts if part != "[key]")
    key = path(*parts)
    found = "a value that is not shown" if secret else json.dumps(detail["input"], default=str)
    match detail["type"]:
        case "missing":
            return missing(*parts) if not secret else Problem(key, "nothing", "a value", secret_command(*parts))
        case "extra_forbidden":
            return Problem(
                key, "a key that the program does not know", "see the table in README.md", remove_command(*parts)
            )
        case "value_error":
            allowed = str(detail["ctx"]["error"])
        case "literal_error" | "enum":
            allowed = detail["ctx"]["expected"]
        case "too_short" | "string_too_short" if secret:
            allowed = "at least 64 hexadecimal digits, 32 random bytes"
        case _:
            allowed = detail["msg"].removeprefix("Input should be ")
    mend = secret_command(*parts) if secret else remove_command(*parts) if is_name else set_command(key, "VALUE")
    return Problem(key, found, allowed, mend)
