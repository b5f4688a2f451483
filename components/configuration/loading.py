"""Turn the stack's configuration into ``Settings`` and ``Secrets``, or into one error with every problem."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from components.configuration import certificates
from components.configuration.fixes import intended_dangers, missing, refused, set_secret_command
from components.configuration.naming import certificates_in_use
from components.configuration.problems import (
    ConfigError,
    Problem,
    certificate_command,
    file_command,
    path,
    remove_command,
    shown,
)
from components.configuration.rules import RULES
from components.configuration.rules.certificates import certificate_problems
from components.configuration.rules.draft import Draft
from components.configuration.settings import Secrets, Settings, with_defaults

_EXPIRY_NOTICE_DAYS = 14


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    kind: Any = field.annotation
    return TypeAdapter(Annotated[kind, *field.metadata] if field.metadata else kind)


_FIELDS = Settings.model_fields | Secrets.model_fields
#: Objects with member names that the operator chooses.
_BY_NAME = ("mirrors", "passwords", "upstream_passwords", "certificates")
#: Keys whose absence the rules must tell from a refused value.
_NOTED = (*_BY_NAME, "mirror_url", "mirror_defaults")
_ADAPTERS = {key: _adapter(field) for key, field in _FIELDS.items()}


def load(
    values: Mapping[str, str],
    encrypted: frozenset[str],
    written: Mapping[str, Any],
    environment: Mapping[str, str],
    now: datetime.datetime,
) -> tuple[Settings, Secrets]:
    """Check a configuration as a whole.

    Args:
        values: each key without the project's name, as Pulumi passes it: text, objects as JSON, secrets decrypted.
        encrypted: the keys that contain an encrypted value.
        written: the same keys as in the stack file, where ``{"secure": …}`` marks an encrypted value.
        environment: the environment of the Pulumi process.
        now: time at which certificates given as files must be valid.

    Raises:
        ConfigError: with every problem.
    """
    problems = [
        Problem(path(key), "an unknown key", f"one of {', '.join(_FIELDS)}", remove_command(key))
        for key in values
        if key not in _FIELDS
    ]
    problems += _environment_problems(environment)
    problems += [problem for key in Secrets.model_fields for problem in _plain(key, values, encrypted, written)]

    parsed: dict[str, Any] = {}
    given = {key: _decode(key, values[key]) if key in values else None for key in _FIELDS}
    for key, field in _FIELDS.items():
        if given[key] is None and field.is_required():
            problems.append(missing(key))
        elif given[key] is not None:
            problems += _parse(parsed, key, given[key])
    if (defaults := parsed.get("mirror_defaults")) and "mirrors" in parsed:
        parsed["mirrors"] = {name: with_defaults(each, defaults) for name, each in parsed["mirrors"].items()}
    draft = _draft(given, parsed)
    for rule in RULES:
        problems += rule(draft)
    if not problems:
        settings = Settings(**{key: value for key, value in parsed.items() if key in Settings.model_fields})
        problems += certificate_problems(settings, draft.secrets, now)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.key))
    return settings, Secrets(**{key: value for key, value in parsed.items() if key in Secrets.model_fields})


def notices(settings: Settings, secrets: Secrets, now: datetime.datetime) -> list[str]:
    """Return warnings that stop nothing: logins and certificates that expire soon, and unused certificates."""
    found, today = [], now.date()
    for name, user in settings.registry.users.items():
        if user.expires and user.expires < today:
            found.append(
                f"user {name} expired on {user.expires} and can no longer log in; remove the user or set a later date"
            )
        elif user.expires and (user.expires - today).days <= _EXPIRY_NOTICE_DAYS:
            found.append(f"user {name} expires on {user.expires}, in {(user.expires - today).days} days")
    used = certificates_in_use(settings, secrets)
    for name, pair in used.items():
        if (days := (certificates.end(pair) - now).days) <= certificates.NOTICE_DAYS:
            found.append(f"certificate {name} expires in {days} days; to replace it, run: {certificate_command(name)}")
    for name, mirror in settings.mirrors.items():
        if mirror.ca and (days := (certificates.end_of_root(mirror.ca) - now).days) <= certificates.NOTICE_DAYS:
            key = path("mirrors", name, "ca")
            found.append(
                f"{key} expires in {days} days; then the mirror no longer trusts its upstream. To replace the"
                f" certificate, run: {file_command(key, 'root.pem')}"
            )
    found += [
        f"certificate {name} covers no configured host and is not delivered; to remove it, run: "
        + remove_command("certificates", name)
        for name in sorted(secrets.certificates.keys() - used.keys())
    ]
    return found


def _environment_problems(environment: Mapping[str, str]) -> list[Problem]:
    if not environment.get("DOCKER_CONTEXT"):
        return []
    return [
        Problem(
            "DOCKER_CONTEXT",
            f"{shown(environment['DOCKER_CONTEXT'])}, in the environment",
            "no DOCKER_CONTEXT: the variable would redirect the deployment to another Docker host than docker_host",
            "unset DOCKER_CONTEXT",
        )
    ]


def _plain(
    key: str, values: Mapping[str, str], encrypted: frozenset[str], written: Mapping[str, Any]
) -> Iterator[Problem]:
    """Find unencrypted secrets; the CLI accepts a plain value beside encrypted values."""
    if key in written:
        leaves = _plain_leaves((key,), written[key])
    else:
        leaves = [(key,)] if values.get(key, "{}") not in ("", "{}") and key not in encrypted else []
    for leaf in leaves:
        yield Problem(
            path(*leaf),
            "an unencrypted value in the stack file",
            "an encrypted value (secure: …). Use a new secret: all readers of the repository may know this value",
            set_secret_command(leaf),
        )


def _plain_leaves(parts: tuple[str, ...], value: object) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value.keys() == {"secure"}:
        return []
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _plain_leaves((*parts, str(key)), inner)]
    return [] if value in (None, "") else [parts]


def _draft(given: Mapping[str, Any], parsed: Mapping[str, Any]) -> Draft:
    registry = {} if given["registry"] is None else given["registry"]
    users = registry.get("users") if isinstance(registry, dict) else registry
    words = given["acknowledge"]
    names = {key: set(given[key]) if isinstance(given[key], dict) else set() for key in _BY_NAME}
    defaults, mirrors = parsed.get("mirror_defaults"), parsed.get("mirrors", {})
    own_lists = {
        name for name in mirrors if isinstance(given["mirrors"][name], dict) and "allow" in given["mirrors"][name]
    }
    unreadable = {(key, name) for key in _BY_NAME for name in names[key] - parsed.get(key, {}).keys()}
    return Draft(
        users={} if users is None else users if isinstance(users, dict) else None,
        registry=parsed.get("registry"),
        proxy=parsed.get("proxy"),
        mirrors=mirrors,
        default_lists=frozenset(mirrors.keys() - own_lists if defaults and defaults.allow is not None else ()),
        mirror_url=parsed.get("mirror_url"),
        unreadable=frozenset(unreadable | {(key,) for key in _NOTED if given[key] is not None and key not in parsed}),
        acknowledge=parsed.get("acknowledge", frozenset(intended_dangers(words))),
        acknowledged=len(words or ()) if words is None or "acknowledge" in parsed else None,
        name_prefix=parsed.get("name_prefix", Settings.model_fields["name_prefix"].default),
        secrets=Secrets.model_construct(
            stack_secret=parsed.get("stack_secret", SecretStr("")),
            acme_eab_mac_key=parsed.get("acme_eab_mac_key", SecretStr("")),
            **{key: parsed.get(key, {}) for key in _BY_NAME if key in Secrets.model_fields},
        ),
    )


def _decode(key: str, text: str) -> Any:
    """Decode a value from Pulumi: JSON for objects, numbers and booleans, else text. None means an unset key.

    An empty text means an unset key, unless Pulumi.yaml has a default for that key: then somebody wrote the empty text.
    """
    field = _FIELDS[key]
    if not text and not isinstance(field.default, str):
        return None
    if field.annotation in (str, SecretStr):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse(parsed: dict[str, Any], key: str, value: Any) -> list[Problem]:
    """Add the parsed value of ``key`` to ``parsed``, and return the problems.

    Members with chosen names are parsed one by one, so that a broken member does not hide the others.
    """
    problems, pieces = [], [value]
    if key in _BY_NAME and isinstance(value, dict):
        parsed[key], pieces = {}, [{name: member} for name, member in value.items()]
    for piece in pieces:
        try:
            result = _ADAPTERS[key].validate_python(piece)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
            problems += [refused((key, *detail["loc"]), dict(detail), piece) for detail in details]
        else:
            parsed[key] = parsed[key] | result if key in _BY_NAME else result
    return problems
