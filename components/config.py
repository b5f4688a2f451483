"""From the stack's configuration to ``Settings`` and ``Secrets``, or to one error that lists every problem."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pulumi
import yaml
from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from components import certificates, credentials
from components.render.proxy import HEALTH_PORT, certificate_name, hosts
from components.settings import (
    DANGERS,
    KNOWN_UPSTREAMS,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Secrets,
    Settings,
    slug,
    volume_names,
)

PROJECT = "registry-stack"
_EXPIRY_NOTICE_DAYS = 14


@dataclass(frozen=True)
class Problem:
    """One thing to put right: the key, what was found (never a secret), what is allowed, the command that mends it."""

    key: str
    found: str
    allowed: str
    mend: str

    def __str__(self) -> str:
        return f"  {self.key}\n    found:   {self.found}\n    allowed: {self.allowed}\n    mend:    {self.mend}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the configuration has {count}; nothing was changed", *map(str, problems)]))


def load_stack() -> tuple[Settings, Secrets]:
    """Read the configuration of the stack that Pulumi runs.

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
    )


def load(
    values: Mapping[str, str],
    encrypted: frozenset[str],
    written: Mapping[str, Any],
    environment: Mapping[str, str],
) -> tuple[Settings, Secrets]:
    """Check a configuration as a whole.

    Args:
        values: each key without the project's name, as Pulumi hands it over: text, objects as JSON, secrets decrypted.
        encrypted: the keys with an encrypted value somewhere inside.
        written: the same keys as they stand in the stack file, where ``{"secure": …}`` marks an encrypted value.
        environment: the environment of the Pulumi process.

    Raises:
        ConfigError: with every problem.
    """
    known = [*Settings.model_fields, *Secrets.model_fields]
    problems = [
        Problem(key, "a key that the program does not know", f"one of {', '.join(known)}", _rm(key))
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
                problems.append(_missing(key))
            continue
        adapter = _adapter(field)
        problems += _parse(parsed, key, (key,), _decode(values[key], adapter), adapter)
    mirrors: dict[str, MirrorSettings] = {}
    if not isinstance(_decode(values.get("mirrors") or "{}", _adapter(Settings.model_fields["mirrors"])), dict):
        problems.append(Problem("mirrors", "no object", "an object: each upstream with a url", _rm("mirrors")))
    for name, raw in _object(values.get("mirrors", "{}")).items():
        entry: dict[str, Any] = {}
        problems += _parse(entry, "mirrors", ("mirrors",), {name: raw}, _adapter(Settings.model_fields["mirrors"]))
        mirrors |= entry.get("mirrors", {})

    draft = _Draft(
        _object(_object(values.get("registry", "{}")).get("users")),
        parsed.get("registry"),
        parsed.get("proxy"),
        mirrors,
        frozenset(parsed.get("acknowledge", ())),
        Secrets.model_construct(
            stack_secret=parsed.get("stack_secret", SecretStr("")),
            **{key: parsed.get(key, {}) for key in ("passwords", "upstream_passwords", "certificates")},
        ),
    )
    for rule in _RULES:
        problems += rule(draft)
    if not problems:
        settings = Settings(
            mirrors=mirrors, **{key: value for key, value in parsed.items() if key in Settings.model_fields}
        )
        problems += _volume_problems(settings) + list(_certificate_problems(settings, draft.secrets))
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.key))
    return settings, Secrets(**{key: value for key, value in parsed.items() if key in Secrets.model_fields})


def notices(settings: Settings, secrets: Secrets, today: datetime.date) -> list[str]:
    """What an operator should know although nothing is wrong: logins that end, and passwords that cost time."""
    found = []
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
                f" a generated one is free: openssl rand -hex 16 | {_secret('passwords', name)}"
            )
    return found


@dataclass(frozen=True)
class _Draft:
    """What could be read so far; the rules that join sections look at it even if another section is broken."""

    users: Mapping[str, object]
    registry: RegistrySettings | None
    proxy: ProxySettings | None
    mirrors: Mapping[str, MirrorSettings]
    acknowledge: frozenset[str]
    secrets: Secrets


def _user_problems(draft: _Draft) -> Iterator[Problem]:
    passwords = draft.secrets.passwords
    if draft.registry is not None and not draft.users:
        yield Problem(
            "registry.users",
            "nobody",
            "at least one user, since without one nobody can push or pull",
            _set("registry.users.ci.role", "push"),
        )
    for user in draft.users:
        if user not in passwords:
            yield Problem(
                f"passwords.{user}",
                "nothing, although registry.users names the user",
                "a generated password, or one of 12 characters and more that cannot be guessed, or a bcrypt hash",
                f"openssl rand -hex 16 | {_secret('passwords', user)}",
            )
        elif weakness := credentials.weakness(user, passwords[user]):
            yield Problem(
                f"passwords.{user}",
                f"a password that {weakness}",
                "12 characters and more that cannot be guessed, at most 72 bytes; best a generated one",
                f"openssl rand -hex 16 | {_secret('passwords', user)}",
            )
    for user in sorted(passwords.keys() - draft.users.keys()):
        yield Problem(
            f"passwords.{user}",
            "a password of a user that registry.users does not name",
            f"passwords of {', '.join(draft.users) or 'nobody'}",
            f"{_set(_path('registry', 'users', user) + '.role', 'pull')}, or {_rm('passwords', user)}",
        )


def _upstream_problems(draft: _Draft) -> Iterator[Problem]:
    passwords = draft.secrets.upstream_passwords
    for name, mirror in draft.mirrors.items():
        if mirror.upstream is None and name not in KNOWN_UPSTREAMS:
            yield Problem(
                _path("mirrors", name, "upstream"),
                "nothing",
                f"the URL of its API; it is known without for {', '.join(KNOWN_UPSTREAMS)}",
                _set(_path("mirrors", name, "upstream"), f"https://{name}"),
            )
        if mirror.username is not None and name not in passwords:
            yield Problem(
                _path("upstream_passwords", name),
                f"nothing, although {_path('mirrors', name)} has a username",
                "the password or access token of that login",
                _secret("upstream_passwords", name),
            )
        if mirror.username is not None and (mirror.upstream or "").startswith("http://"):
            yield Problem(
                _path("mirrors", name, "upstream"),
                f"{mirror.upstream}, with a login",
                "an https:// URL, since the login would travel in the clear",
                _set(_path("mirrors", name, "upstream"), f"https://{name}"),
            )
    for name in passwords:
        if name not in draft.mirrors or draft.mirrors[name].username is None:
            yield Problem(
                _path("upstream_passwords", name),
                "a password without a mirror that has a username",
                "passwords of mirrors with a username",
                f"{_set(_path('mirrors', name, 'username'), 'NAME')}, or {_rm('upstream_passwords', name)}",
            )


def _exposure_problems(draft: _Draft) -> Iterator[Problem]:
    if draft.proxy is None or draft.proxy.is_loopback:
        return
    if draft.registry and draft.registry.anonymous_url and "anonymous_pull" not in draft.acknowledge:
        yield Problem(
            "registry.anonymous_url",
            str(draft.registry.anonymous_url),
            f"no such host, or a word that it is wanted: {DANGERS['anonymous_pull']}",
            f"{_rm('registry', 'anonymous_url')}, or {_set('acknowledge[0]', 'anonymous_pull')}",
        )
    for name, mirror in draft.mirrors.items():
        danger = "open_mirror" if mirror.username is None else "open_upstream_login"
        is_open = not mirror.allow or any(network.endswith("/0") for network in mirror.allow)
        if is_open and danger not in draft.acknowledge:
            yield Problem(
                _path("mirrors", name, "allow"),
                "no allow-list" if not mirror.allow else f"{', '.join(mirror.allow)}, which is every address",
                f"the address ranges that may pull; otherwise {DANGERS[danger]}",
                f"{_set(_path('mirrors', name, 'allow') + '[0]', '10.0.0.0/8')}"
                f", or {_set('acknowledge[0]', danger)} if that is wanted",
            )


def _endpoint_problems(draft: _Draft) -> Iterator[Problem]:
    urls = [("registry.url", draft.registry.url)] if draft.registry else []
    if draft.registry and draft.registry.anonymous_url:
        urls.append(("registry.anonymous_url", draft.registry.anonymous_url))
    urls += [(_path("mirrors", name, "url"), mirror.url) for name, mirror in draft.mirrors.items()]
    seen: dict[str, str] = {}
    for key, url in urls:
        if (other := seen.setdefault(url.netloc, key)) != key:
            yield Problem(
                key,
                f"{url}, which is also {other}",
                "a host or port of its own for each service",
                _set(key, f"https://mirror.{url.host}"),
            )
        if url.port == HEALTH_PORT:
            yield Problem(
                key,
                str(url),
                f"any port but {HEALTH_PORT}, where the proxy's health check listens",
                _set(key, f"https://{url.host}"),
            )
        if draft.proxy and draft.proxy.certificates.acme and not url.is_public_name:
            yield Problem(
                key,
                f"{url}, with proxy.certificates.acme",
                "a public DNS name, since no authority certifies another",
                _set(key, "https://registry.example.com"),
            )
    aliases = Counter(slug(name) for name in draft.mirrors)
    for name in draft.mirrors:
        if aliases[slug(name)] > 1:
            yield Problem(
                _path("mirrors", name),
                f"a name whose container would be called mirror-{slug(name)}, like another's",
                "names that differ in more than punctuation",
                _rm("mirrors", name),
            )


_RULES = (_user_problems, _upstream_problems, _exposure_problems, _endpoint_problems)


def _volume_problems(settings: Settings) -> list[Problem]:
    prefix, volumes = settings.name_prefix, volume_names(settings)
    own = {f"{prefix}-registry-config", f"{prefix}-registry-secrets", f"{prefix}-proxy-data"}
    taken = Counter([*volumes.values(), *own])
    return [
        Problem(f"{key}.volume", volume, "a volume that nothing else uses", _set(f"{key}.volume", f"{volume}-2"))
        for key, volume in volumes.items()
        if taken[volume] > 1
    ]


def _certificate_problems(settings: Settings, secrets: Secrets) -> Iterator[Problem]:
    given = secrets.certificates
    if not settings.proxy.certificates.files:
        for name in given:
            yield Problem(
                _path("certificates", name),
                "a certificate that nothing uses",
                "certificates only with proxy.certificates: {files: {}}",
                _rm("certificates", name),
            )
        return
    for host in hosts(settings):
        certificate = certificate_name(host, tuple(given))
        if certificate is None:
            yield Problem(
                _path("certificates", host),
                "nothing",
                "its certificate chain and private key, or those of its wildcard",
                f"{_secret('certificates', host, 'certificate')} < chain.pem"
                f" and {_secret('certificates', host, 'private_key')} < key.pem",
            )
        elif fault := certificates.fault(given[certificate], host):
            yield Problem(
                _path("certificates", certificate),
                fault,
                "PEM text: the chain with the leaf first, in force, covering its hosts, and the key that fits it",
                f"{_secret('certificates', certificate, 'certificate')} < chain.pem"
                f" and {_secret('certificates', certificate, 'private_key')} < key.pem",
            )


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
        paths = _plain_leaves((key,), written[key])
    else:
        paths = [(key,)] if values.get(key, "{}") not in ("", "{}") and key not in encrypted else []
    for path in paths:
        yield Problem(
            _path(*path),
            "a plain value in the stack file",
            "an encrypted one (secure: …); treat the plain one as known to all who can read the repository",
            _secret(*path),
        )


def _plain_leaves(path: tuple[str, ...], value: object) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value.keys() == {"secure"}:
        return []
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _plain_leaves((*path, str(key)), inner)]
    return [] if value in (None, "") else [path]


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
    parsed: dict[str, Any], key: str, path: tuple[str, ...], value: Any, adapter: TypeAdapter[Any]
) -> list[Problem]:
    try:
        parsed[key] = adapter.validate_python(value)
    except ValidationError as error:
        secret = key in Secrets.model_fields
        return [
            _problem((*path, *map(str, detail["loc"])), dict(detail), secret)
            for detail in error.errors(include_url=False, include_context=True)
        ]
    return []


def _problem(path: tuple[str, ...], detail: dict[str, Any], secret: bool) -> Problem:
    is_name = "[key]" in path
    path = tuple(part for part in path if part != "[key]")
    key = _path(*path)
    found = "a value that is not shown" if secret else json.dumps(detail["input"], default=str)
    match detail["type"]:
        case "missing":
            return _missing(*path) if not secret else Problem(key, "nothing", "a value", _secret(*path))
        case "extra_forbidden":
            return Problem(key, "a key that the program does not know", "see the table in README.md", _rm(*path))
        case "value_error":
            allowed = str(detail["ctx"]["error"])
        case "literal_error" | "enum":
            allowed = detail["ctx"]["expected"]
        case "too_short" | "string_too_short" if secret:
            allowed = "at least 64 hexadecimal digits, 32 random bytes"
        case _:
            allowed = detail["msg"].removeprefix("Input should be ")
    mend = _secret(*path) if secret else _rm(*path) if is_name else _set(key, "VALUE")
    return Problem(key, found, allowed, mend)


_EXAMPLES = {
    "docker_host": ("the Docker host", "ssh://deploy@registry.example.com"),
    "registry": ("an object with url and users", "https://registry.example.com"),
    "registry.url": ("the URL that clients use", "https://registry.example.com"),
    "registry.users": ("an object: each user with a role", "push"),
    "proxy": ("an object with certificates", "ops@example.com"),
}
_MENDED_BY = {"registry": "registry.url", "registry.users": "registry.users.ci.role"}


def _missing(*path: str) -> Problem:
    key = _path(*path)
    if key == "stack_secret":
        allowed = "32 random bytes as hexadecimal digits, from which salts and internal passwords derive"
        return Problem(key, "nothing", allowed, f"openssl rand -hex 32 | {_secret(key)}")
    if key in ("proxy", "proxy.certificates"):
        allowed = "a source of certificates: acme, files or internal"
        return Problem(key, "nothing", allowed, _set("proxy.certificates.acme.email", "ops@example.com"))
    allowed, example = _EXAMPLES.get(key, ("a value", "VALUE"))
    return Problem(key, "nothing", allowed, _set(_MENDED_BY.get(key, key), example))


def _path(*parts: str) -> str:
    """A configuration path as ``pulumi config --path`` reads it: ``mirrors["docker.io"].ttl``."""
    text = parts[0]
    for part in parts[1:]:
        if part.isdigit():
            text += f"[{part}]"
        else:
            text += f".{part}" if part.replace("_", "a").replace("-", "a").isalnum() else f'["{part}"]'
    return text


def _set(key: str, example: str) -> str:
    return f"pulumi config set --path '{PROJECT}:{key}' {example}"


def _secret(*path: str) -> str:
    return f"pulumi config set --secret --path '{PROJECT}:{_path(*path)}'"


def _rm(*path: str) -> str:
    return f"pulumi config rm --path '{PROJECT}:{_path(*path)}'"
