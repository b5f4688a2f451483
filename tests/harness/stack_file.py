"""A stack file in memory: the effect of `pulumi config set`, `get` and `rm`, and the program's problems with the file.

Each command of the CLI takes half a second. ``tests/binaries/test_fixes.py`` compares this model with the CLI.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

from components.configuration.loading import load
from components.configuration.problems import ConfigError, Problem
from components.configuration.settings import Secrets
from tests.harness.certificates import certificate_pair

Parts = tuple[str | int, ...]


class Secure(str):
    """A value that is encrypted in the file."""

    __slots__ = ()


def files() -> dict[str, str]:
    """The files that commands read."""
    pair = certificate_pair("registry.example.com", "*.example.com", "*.mirror.example.com", "localhost", "192.0.2.1")
    return {
        "chain.pem": pair["certificate"],
        "key.pem": pair["private_key"],
        "root.pem": pair["certificate"],
        "token.txt": "example-only-token\n",
        "mac-key.txt": "c2VjcmV0c2VjcmV0c2VjcmV0\n",
    }


class StackFile:
    """The keys of one stack. Secret keys are encrypted, except the key ``plain``."""

    def __init__(self, values: Mapping[str, Any], plain: str = "", **environment: str) -> None:
        copied = json.loads(json.dumps(values))
        self.config = {
            key: _encrypted(value) if key in Secrets.model_fields and key != plain else value
            for key, value in copied.items()
        }
        self.environment = environment

    def problems(self) -> list[Problem]:
        """The problems that the program reports."""
        try:
            load(
                values={key: _handed_over(value) for key, value in self.config.items()},
                encrypted=frozenset(key for key, value in self.config.items() if _has_secure(value)),
                written=_written(self.config),
                environment=self.environment,
                now=datetime.datetime.now(datetime.UTC),
            )
        except ConfigError as error:
            return error.problems
        return []

    def run(self, line: str) -> None:
        """Run a line as a shell would.

        Raises:
            ValueError: if the CLI would refuse the line.
        """
        for step in steps(line):
            text = ""
            for stage in step:
                *words, file = stage if "<" in stage else (*stage, "")
                text = self._stage(words, files()[file] if file else text)

    def accepts(self, line: str) -> bool:
        """Whether a line runs without a failure. Changes before the failure remain."""
        try:
            self.run(line)
        except ValueError:
            return False
        return True

    def _stage(self, words: list[str], text: str) -> str:
        match words:
            case ["pulumi", "config", "rm", "--path", key]:
                remove(self.config, path_of(key))
            case ["pulumi", "config", "get", "--path", key]:
                return str(value_at(self.config, path_of(key))) + "\n"
            case ["pulumi", "config", "set", "--secret", "--path", key, *_]:
                put(self.config, path_of(key), Secure(text.removesuffix("\n")))
            case ["pulumi", "config", "set", "--path", key, "<"]:
                put(self.config, path_of(key), text.removesuffix("\n"))
            case ["pulumi", "config", "set", "--path", key, value]:
                put(self.config, path_of(key), value)
            case ["unset", variable]:
                del self.environment[variable]
            case ["openssl" | "tr" | "grep", *_]:
                return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout
            case _:
                raise ValueError(f"not a command of the report: {shlex.join(words)}")
        return ""


def steps(line: str) -> list[list[list[str]]]:
    """The words of each program in a line: a list of steps, each a pipe of programs."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&<")
    words.whitespace_split = True
    return [_split(step, "|") for step in _split(list(words), "&&")]


def path_of(key: str) -> Parts:
    """The segments of ``registry-stack:a["b.c"][0]``."""
    rest = key.removeprefix("registry-stack:")
    assert rest != key, f"{key} is not a key of the project"
    parts: list[str | int] = []
    while rest:
        match = re.match(r'\["((?:\\"|[^"])*)"\]|\[(\d+)\]|\.?([^.\[]+)', rest)
        assert match, f"{key} is not a path"
        quoted, index, name = match.groups()
        parts.append(quoted.replace('\\"', '"') if quoted is not None else int(index) if index else name)
        rest = rest[match.end() :]
    return tuple(parts)


def put(config: dict[str, Any], parts: Parts, text: str) -> None:
    """`pulumi config set --path`: create missing parts, append to a list, replace a text only at the top."""
    first, *rest = parts
    if not rest:
        config[str(first)] = text
        return
    value = text if isinstance(text, Secure) else _coerced(text)
    root = config.get(str(first))
    if not isinstance(root, dict | list):
        root = _container(rest[0])
    config[str(first)] = root
    holder: Any = root
    for at, part in enumerate(rest):
        is_list = isinstance(holder, list)
        if not isinstance(holder, dict | list) or is_list != isinstance(part, int):
            raise ValueError(f"{parts[: at + 1]}: expected {'an array' if isinstance(part, int) else 'a map'}")
        if is_list and part > len(holder):
            raise ValueError(f"{parts[: at + 1]}: array index out of range")
        if is_list and part == len(holder):
            holder.append(None)
        if at == len(rest) - 1:
            holder[part] = value
            return
        inner = holder[part] if is_list else holder.get(part)
        holder[part] = _container(rest[at + 1]) if inner is None else inner
        holder = holder[part]


def remove(config: dict[str, Any], parts: Parts) -> None:
    """`pulumi config rm --path`: ignore a missing key."""
    holder: Any = config
    for part in parts[:-1]:
        holder = _member(holder, part)
    if isinstance(holder, dict):
        holder.pop(parts[-1], None)
    elif isinstance(holder, list) and isinstance(parts[-1], int) and parts[-1] < len(holder):
        del holder[parts[-1]]


def value_at(config: dict[str, Any], parts: Parts) -> Any:
    """`pulumi config get --path`."""
    value: Any = config
    for part in parts:
        value = _member(value, part)
    return value


def _member(holder: Any, part: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(part)
    is_there = isinstance(holder, list) and isinstance(part, int) and part < len(holder)
    return holder[part] if is_there else None


def _container(part: str | int) -> Any:
    return [None] * (part + 1) if isinstance(part, int) else {}


def _coerced(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"0|-?[1-9]\d{0,17}", text) else text


def _split(words: list[str], mark: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == mark:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _encrypted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _encrypted(inner) for name, inner in value.items()}
    return Secure(value) if isinstance(value, str) else value


def _has_secure(value: Any) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Secure) or any(map(_has_secure, members))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _written(inner) for name, inner in value.items()}
    return {"secure": "v1:ciphertext"} if isinstance(value, Secure) else value


def _handed_over(value: Any) -> str:
    return str(value) if isinstance(value, str) else "" if value is None else json.dumps(value)
