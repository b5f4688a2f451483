"""Turn pydantic's errors into problems of a single key, with commands that set an accepted value."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from components.configuration.fields import Conflict
from components.configuration.naming import slug
from components.configuration.problems import (
    HIDDEN,
    Problem,
    certificate_command,
    list_command,
    new_secret_command,
    path,
    remove_command,
    set_command,
    shown,
)
from components.configuration.retention import RetentionSettings
from components.configuration.settings import (
    DANGERS,
    AcmeCertificates,
    ImageSettings,
    MirrorDefaults,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Role,
    Secrets,
    Settings,
    UserSettings,
)

Parts = tuple[str | int, ...]

#: Example of the address for all mirrors.
MIRROR_URL = "https://mirror.example.com"

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "": Settings,
    "registry.": RegistrySettings,
    "registry.users.*.": UserSettings,
    "registry.retention.": RetentionSettings,
    "mirrors.*.": MirrorSettings,
    "mirror_defaults.": MirrorDefaults,
    "proxy.": ProxySettings,
    "proxy.certificates.acme.": AcmeCertificates,
    "images.": ImageSettings,
}
#: Example of each key: the default, or an accepted value if the key has no default. For an object: path and value of
#: the member that completes the object.
_EXAMPLES: Mapping[str, tuple[str, ...]] = {
    f"{section}{key}": (str(field.default).lower() if isinstance(field.default, bool) else str(field.default),)
    for section, model in _SECTIONS.items()
    for key, field in model.model_fields.items()
    if isinstance(field.default, bool | int | str)
} | {
    "docker_host": ("ssh://deploy@registry.example.com",),
    "registry": ("url", "https://registry.example.com"),
    "registry.url": ("https://registry.example.com",),
    "registry.anonymous_url": ("https://public.example.com",),
    "mirror_url": (MIRROR_URL,),
    "http_proxy": ("http://proxy.example.com:3128",),
    "no_proxy.*": ("registry.example.org",),
    "mirror_defaults.ttl": (MirrorSettings.model_fields["ttl"].default,),
    "registry.users": ("ci", "role", "push"),
    "registry.users.*": ("role", "pull"),
    "registry.users.*.expires": ("2099-12-31",),
    "registry.storage.host_path": ("/opt/registry/data",),
    "registry.retention.rules.*.repositories": ("my-app/*",),
    "registry.retention.rules.*.tags": ("v*",),
    "registry.retention.rules.*.keep": ("always",),
    "registry.retention.rules.*.keep.newest": ("10",),
    "registry.retention.rules.*.keep.days": ("30",),
    "registry.retention.overwritten": ("newest", "3"),
    "registry.retention.overwritten.newest": ("3",),
    "registry.retention.overwritten.days": ("30",),
    "registry.retention.running_on.*": ("ssh://deploy@app.example.com",),
    "mirrors.*.upstream": ("https://registry.example.org",),
    "mirrors.*.username": ("robot",),
    "mirrors.*.storage.host_path": ("/opt/registry/mirror",),
    "proxy": ("certificates", "acme", "email", "ops@example.com"),
    "proxy.certificates": ("acme", "email", "ops@example.com"),
    "proxy.certificates.acme": ("email", "ops@example.com"),
    "proxy.certificates.acme.email": ("ops@example.com",),
    "proxy.certificates.acme.directory": ("https://ca.example.com/acme/directory",),
    "proxy.certificates.acme.eab": ("key_id", "kid-1"),
    "proxy.certificates.acme.eab.key_id": ("kid-1",),
    "proxy.certificates.files": ("{}",),
    "proxy.certificates.internal": ("{}",),
    "proxy.metrics_port": ("9180",),
}
_ALLOWED = {
    "docker_host": "the address of the Docker host",
    "registry": "an object with url and users",
    "registry.url": "the URL that clients use",
    "registry.users": "an object with a role for each user",
    "registry.users.*": "an object with a role",
    "registry.retention": "an object with rules, overwritten, running_on or most",
    "registry.retention.rules": "a list of rules, like [{tags: v*, keep: always}]",
    "registry.retention.rules.*": "a rule, like {tags: v*, keep: always}",
    "registry.retention.rules.*.keep": "always, or an object with newest, days or both",
    "registry.retention.overwritten": "an object with newest, days or both",
    "registry.retention.running_on": "a list of Docker hosts, like [ssh://user@host]",
    "registry.retention.running_on.*": "the address of a Docker host, like ssh://user@host",
    "mirrors": "an object with the settings of each upstream",
    "mirrors.*": "an object with the settings of the mirror",
    "mirrors.*.url": "the URL that clients use",
    "mirrors.*.allow": "a list of address ranges, like [10.0.0.0/8]",
    "mirror_defaults": "an object with ttl, allow or both",
    "mirror_defaults.allow": "a list of address ranges, like [10.0.0.0/8]",
    "no_proxy": "a list of hosts, like [registry.example.org]",
    "proxy": "a source of certificates: acme, files or internal",
    "proxy.certificates": "a source of certificates: acme, files or internal",
    "proxy.certificates.files": "an object without keys: {}",
    "proxy.certificates.internal": "an object without keys: {}",
    "acknowledge": f"a list of these words: {', '.join(DANGERS)}",
    "stack_secret": "64 hexadecimal digits (32 random bytes), the source of salts and internal passwords",
    "passwords": "an object with a password for each user",
    "upstream_passwords": "an object with a password for each mirror",
    "certificates": "an object with a certificate and a private_key for each host",
    "certificates.*": "an object with a certificate and a private_key",
}
_KINDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list",
    "frozen_set_type": "a list",
}


def missing(*parts: str | int) -> Problem:
    """Return the problem of a required key that is not set."""
    shape = _shape(parts)
    fixes = [new_secret_command(*parts) if parts[0] in Secrets.model_fields else _set_example(parts)]
    if shape in ("proxy", "proxy.certificates"):
        fixes.append(_set_example(("proxy", "certificates", "internal")))
    return Problem(path(*parts), "nothing", _ALLOWED.get(shape, "a value"), fixes[0], tuple(fixes[1:]))


def refused(parts: Parts, detail: Mapping[str, Any], whole: object) -> Problem:
    """Return the problem for one of pydantic's errors.

    Args:
        parts: the path of the value; pydantic adds ``[key]`` if the name itself is refused.
        detail: the error.
        whole: the value of the top-level key.
    """
    is_name, parts = "[key]" in parts, tuple(part for part in parts if part != "[key]")
    if detail["type"] == "missing":
        return missing(*parts)
    remove = remove_command(*parts)
    if parts == ("proxy", "engine") and detail["input"] in get_args(ProxySettings.model_fields["server"].annotation):
        # The key of before 0.1.0. Removed alone, it would leave the default: another server.
        renamed = f"{set_command('proxy.server', detail['input'])} && {remove}"
        return Problem(path(*parts), "a key that is now called proxy.server", "proxy.server", renamed)
    if detail["type"] == "extra_forbidden":
        return Problem(path(*parts), "an unknown key", "the keys in the table of docs/configuration.md", remove)
    first, *others = [remove] if is_name else _fixes(parts, detail, whole)
    found = HIDDEN if parts[0] in Secrets.model_fields else shown(detail["input"])
    return Problem(path(*parts), found, _allowed(parts, detail), first, tuple(others))


def _allowed(parts: Parts, detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "literal_error":
            return str(detail["ctx"]["expected"])
        case kind:
            return _ALLOWED.get(_shape(parts), _KINDS.get(kind, str(detail["msg"]).removeprefix("Input should be ")))


def _fixes(parts: Parts, detail: Mapping[str, Any], whole: object) -> list[str]:
    shape, value, error = _shape(parts), detail["input"], detail.get("ctx", {}).get("error")
    if isinstance(error, Conflict):
        return [_changes(parts, change) for change in error.fixes]
    if parts[0] in Secrets.model_fields:
        fix = set_secret_command(parts)
    elif parts[0] == "acknowledge":
        fix = list_command(("acknowledge",), intended_dangers(whole))
    elif shape in ("mirrors.*.allow", "mirror_defaults.allow"):
        fix = list_command(parts, _networks(value) or ["10.0.0.0/8"])
    elif shape == "registry.retention.running_on":
        fix = list_command(parts, _EXAMPLES[f"{shape}.*"])
    elif shape in ("mirrors.*.allow.*", "mirror_defaults.allow.*"):
        fix = set_command(path(*parts), (_networks(value) or ["10.0.0.0/8"])[0])
    elif detail["type"] in ("dict_type", "model_type"):
        fix = _replace_by_object(parts, value)
    else:
        fix = _set_example(parts)
    return [fix]


def intended_dangers(value: object) -> list[str]:
    """Return the words that ``acknowledge`` means, even if misspelled or not in a list."""
    words = value if isinstance(value, list) else re.split(r"[,;\s]+", value) if isinstance(value, str) else []
    close = [difflib.get_close_matches(word, DANGERS, 1, 0.8) for word in words if isinstance(word, str)]
    return list(dict.fromkeys(match for matches in close for match in matches))


def mirror_url(name: str) -> str:
    """Return an example URL for the mirror of ``name``, different for each mirror."""
    return f"https://{slug(name)}.mirror.example.com"


def _shape(parts: Parts) -> str:
    """Return the path with ``*`` in place of indexes and of names that the operator chooses."""
    chosen = 1 if parts[0] in ("mirrors", *Secrets.model_fields) else 2 if parts[:2] == ("registry", "users") else None
    return ".".join("*" if isinstance(part, int) or at == chosen else part for at, part in enumerate(parts))


def _set_example(parts: Parts) -> str:
    """Return the command that sets a key to an example, or removes an optional key without an example."""
    shape = _shape(parts)
    if shape in ("mirrors.*", "mirrors.*.url"):
        return set_command(path(*parts[:2], "url"), mirror_url(str(parts[1])))
    if shape not in _EXAMPLES:
        return remove_command(*parts)
    *inside, value = _EXAMPLES[shape]
    return set_command(path(*parts, *inside), value)


def _replace_by_object(parts: Parts, value: object) -> str:
    shape = _shape(parts)
    if shape == "registry.users.*" and value in get_args(Role):
        example = set_command(path(*parts, "role"), str(value))
    else:
        example = _set_example(parts)
    remove = remove_command(*parts)
    return remove if example == remove else f"{remove} && {example}"


def set_secret_command(parts: Parts) -> str:
    """Return the command that replaces a secret, or removes a section of secrets that is not an object."""
    match parts:
        case ("certificates", str(name)):
            return f"{remove_command(*parts)} && {certificate_command(name)}"
        case ("passwords" | "upstream_passwords" | "certificates",):
            return remove_command(*parts)
    return new_secret_command(*parts)


def _changes(parts: Parts, change: Mapping[str, str | None]) -> str:
    return " && ".join(
        remove_command(*parts, name) if value is None else set_command(path(*parts, name), value)
        for name, value in change.items()
    )


def _networks(value: object) -> list[str]:
    """Return the IPv4 address ranges in a text, without host bits."""
    networks = []
    for word in re.split(r"[,;\s]+", value) if isinstance(value, str) else []:
        try:
            networks.append(str(ipaddress.IPv4Network(word, strict=False)))
        except ValueError:
            continue
    return networks
