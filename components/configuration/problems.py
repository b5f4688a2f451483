"""Problems of the configuration, the commands that fix them, and redaction of refused values."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

PROJECT = "registry-stack"
HIDDEN = "a value that is not shown"

_LONGEST_SHOWN = 120
_BY_HAND = "edit the stack file by hand: a command would repeat what an error must not show"
_PEM = re.compile(r"-----|PRIVATE KEY")
#: A key or token, if it contains a digit; base64, if it contains digits, lower-case and upper-case letters.
_TOKEN, _BASE64 = re.compile("[A-Za-z0-9]{24,}"), re.compile("[A-Za-z0-9+/=_-]{40,}")
#: User information of a URL in a sentence, except in the example ``ssh://user@host``.
_LOGIN = re.compile(r"://(?!/|user@host).*@", re.DOTALL)
#: An accepted Docker host, which may be shown: its syntax allows a user but no password.
_DOCKER_HOST = re.compile(r"(ssh://(?:[\w.-]+@)?[\w.-]+(?::\d{1,5})?(?=[\s,;)']|$)(?!(?:(?!://).)*@))", re.DOTALL)
_SEGMENT = re.compile(r'\["((?:\\"|[^"])*)"\]|[^.\[\]]+', re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """A problem of one key: the value found, the allowed values, a command that fixes the problem, and alternatives.

    No text shows key material or the user information of a URL, whatever the text was made from.
    """

    key: str
    found: str
    allowed: str
    fix: str
    alternatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fixes = [self.fix, *self.alternatives]
        if shown_key(self.key) != self.key or any(_harmless(fix) != fix for fix in fixes):
            fixes = [_BY_HAND]
        for name, text in (
            ("key", shown_key(self.key)),
            ("found", _harmless(self.found)),
            ("allowed", _harmless(self.allowed)),
            ("fix", fixes[0]),
            ("alternatives", tuple(fixes[1:])),
        ):
            object.__setattr__(self, name, text)

    def __str__(self) -> str:
        lines = [
            f"  {self.key}",
            f"    found:   {self.found}",
            f"    allowed: {self.allowed}",
            f"    fix:     {self.fix}",
        ]
        return "\n".join([*lines, *(f"    or:      {other}" for other in self.alternatives)])


class ConfigError(Exception):
    """An unusable configuration; ``problems`` lists every problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the configuration has {count}; nothing was changed", *map(str, problems)]))


class Failure(Exception):
    """A failed command: its cause, the fix for the operator, and the step that failed."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(cause)
        self.fix = fix
        self.step = ""


def problems_in(text: str) -> list[Problem]:
    """Return the problems in the text of a ``ConfigError``; an empty list for any other text."""
    blocks = re.findall(
        r"^  (\S.*)\n    found:   (.*)\n    allowed: (.*)\n    fix:     (.*)((?:\n    or:      .*)*)", text, re.M
    )
    return [
        Problem(key, found, allowed, fix, tuple(re.findall(r"^    or:      (.*)$", others, re.MULTILINE)))
        for key, found, allowed, fix, others in blocks
    ]


def is_key_material(text: str) -> bool:
    """Whether a text seems to contain a key, a token or a hash, in whole or in part."""
    return bool(
        _PEM.search(text)
        or any(re.search("[0-9]", run) for run in _TOKEN.findall(text))
        or any(all(re.search(kind, run) for kind in ("[0-9]", "[a-z]", "[A-Z]")) for run in _BASE64.findall(text))
    )


def _harmless(text: str) -> str:
    return HIDDEN if is_key_material(text) else redacted(text)


def redacted(text: str) -> str:
    """Remove the user information of URLs from a sentence, or hide the whole sentence if it has a PEM block."""
    if _PEM.search(text):
        return HIDDEN
    parts = _DOCKER_HOST.split(text)
    return "".join(part if _DOCKER_HOST.fullmatch(part) else _LOGIN.sub("://…@", part) for part in parts)


def shown(value: object) -> str:
    """Return a refused value for an error, on one line and without the members of objects and lists."""
    match value:
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case str() if len(value) <= _LONGEST_SHOWN:
            # Text before an @, a query, and text in place of a port may belong to a login.
            text = re.sub(r"^([A-Za-z][\w+.-]*://)?.*(?:@(?!sha256:)|%40)", r"\1…@", value, flags=re.DOTALL)
            text = re.sub(r"(://[^/:]*:)(?!\d{1,5}(?:/|$)).*", r"\1…", re.sub(r"[?#].*", "…", text, flags=re.DOTALL))
            text = re.sub(r"@sha256:[0-9a-f]{64}$", "@sha256:…", text)
            return HIDDEN if is_key_material(text) or not text.isprintable() else json.dumps(text, ensure_ascii=False)
        case str():
            return HIDDEN
    return json.dumps(value, default=str)


def shown_key(key: str) -> str:
    """Return a configuration path for an error, without names that contain a login or key material."""
    return _SEGMENT.sub(lambda segment: '["…"]' if _is_secret_name(segment[1] or segment[0]) else segment[0], key)


def _is_secret_name(name: str) -> bool:
    if len(name) > _LONGEST_SHOWN or not name.isprintable():
        return True
    return re.search("(:|//).*@", name) is not None or is_key_material(name)


def path(*parts: str | int) -> str:
    """Return a configuration path in the syntax of ``pulumi config --path``: ``mirrors["docker.io"].allow[0]``."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part):
            text += f".{part}" if text else part
        else:
            text += '["{}"]'.format(part.replace('"', '\\"'))
    return text


def set_command(key: str, example: str) -> str:
    """Return the command that sets a key."""
    return f"pulumi config set --path {_quoted(key)} {shlex.quote(example)}"


def file_command(key: str, file: str) -> str:
    """Return the command that sets a key to the text of a file."""
    return f"pulumi config set --path {_quoted(key)} < {file}"


def secret_command(*parts: str | int) -> str:
    """Return the command that sets a secret from standard input or from a prompt."""
    return f"pulumi config set --secret --path {_quoted(path(*parts))}"


def new_secret_command(*parts: str | int) -> str:
    """Return the command that sets a secret to a random value or, if others issue the secret, to a file's text."""
    command = secret_command(*parts)
    match parts:
        case ("stack_secret",):
            return f"openssl rand -hex 32 | {command}"
        case ("passwords", *_):
            return f"openssl rand -hex 16 | {command}"
        case ("certificates", *_):
            return f"{command} < {'key.pem' if parts[-1] == 'private_key' else 'chain.pem'}"
        case ("acme_eab_mac_key",):
            return f"{command} < mac-key.txt"
    return f"{command} < token.txt"


def extract_hash_command(*parts: str | int) -> str:
    """Return the command that reduces a secret to the bcrypt hash in it, and makes doubled dollar signs single."""
    pattern = r"\$2[aby]\$[0-9]\{2\}\$[./A-Za-z0-9]\{53\}"
    current = f"pulumi config get --path {_quoted(path(*parts))}"
    return f"{current} | tr -s '$' | grep -o '{pattern}' | {secret_command(*parts)}"


def certificate_command(name: str) -> str:
    """Return the commands that set or replace a certificate given as files."""
    parts = ("certificate", "private_key")
    return " && ".join(new_secret_command("certificates", name, part) for part in parts)


def remove_command(*parts: str | int) -> str:
    """Return the command that removes a key."""
    return f"pulumi config rm --path {_quoted(path(*parts))}"


def list_command(parts: Sequence[str | int], entries: Sequence[str]) -> str:
    """Return the commands that replace the value of a key by a list."""
    added = [set_command(path(*parts, index), entry) for index, entry in enumerate(entries)]
    return " && ".join([remove_command(*parts), *added])


def _quoted(key: str) -> str:
    text = f"{PROJECT}:{key}".replace("'", "'\"'\"'")
    return f"'{text}'"
