"""A problem of the configuration, and the commands that mend it."""

from __future__ import annotations

import re
from dataclasses import dataclass

PROJECT = "registry-stack"


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


def path(*parts: str | int) -> str:
    """A configuration path as ``pulumi config --path`` reads it: ``mirrors["docker.io"].allow[0]``."""
    text = str(parts[0])
    for part in parts[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if re.fullmatch(r"[A-Za-z_][\w-]*", part) else f'["{part}"]'
    return text


def set_command(key: str, example: str) -> str:
    """The command that sets a key."""
    return f"pulumi config set --path '{PROJECT}:{key}' {example}"


def secret_command(*parts: str | int) -> str:
    """The command that sets a secret, which it reads from standard input."""
    return f"pulumi config set --secret --path '{PROJECT}:{path(*parts)}'"


def certificate_command(name: str) -> str:
    """The commands that set or replace a certificate given as files."""
    return (
        f"{secret_command('certificates', name, 'certificate')} < chain.pem"
        f" and {secret_command('certificates', name, 'private_key')} < key.pem"
    )


def remove_command(*parts: str | int) -> str:
    """The command that removes a key."""
    return f"pulumi config rm --path '{PROJECT}:{path(*parts)}'"


_EXAMPLES = {
    "docker_host": ("the Docker host", "ssh://deploy@registry.example.com"),
    "registry": ("an object with url and users", "https://registry.example.com"),
    "registry.url": ("the URL that clients use", "https://registry.example.com"),
    "registry.users": ("an object: each user with a role", "push"),
    "proxy": ("an object with certificates", "ops@example.com"),
}
_MENDED_BY = {"registry": "registry.url", "registry.users": "registry.users.ci.role"}


def missing(*parts: str | int) -> Problem:
    """The problem of a key that must be set and is not."""
    key = path(*parts)
    if key == "stack_secret":
        allowed = "32 random bytes as hexadecimal digits, from which salts and internal passwords derive"
        return Problem(key, "nothing", allowed, f"openssl rand -hex 32 | {secret_command(key)}")
    if key in ("proxy", "proxy.certificates"):
        allowed = "a source of certificates: acme, files or internal"
        return Problem(key, "nothing", allowed, set_command("proxy.certificates.acme.email", "ops@example.com"))
    allowed, example = _EXAMPLES.get(key, ("a value", "VALUE"))
    return Problem(key, "nothing", allowed, set_command(_MENDED_BY.get(key, key), example))
