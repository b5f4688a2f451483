"""The commands that errors print, run by a shell with the real Pulumi CLI, do what the model of the stack file does."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration.problems import path
from components.configuration.settings import Secrets
from local.toolchain import environment
from tests.harness.configuration import ROOT, configuration
from tests.harness.stack_file import StackFile, files, path_of, steps
from tests.unit.test_fixes import BCRYPT, MIRROR, commands

#: Many problems at once, whose commands have every form of a path that is printed anywhere.
BROKEN = configuration(
    registry={
        "url": "http://registry.example.com",
        "users": {"it's": {}, "token-bot": "push", "a.b": {"role": "pusher"}, "list": ["push"]},
        "storage": {"volume": "registry-stack-proxy-config"},
    },
    mirrors={
        "docker.io": {"url": "https://mirror.example.com", "allow": "10.1.2.3/8, 192.168.0.0/16", "ttl": 5},
        "token.example.com": MIRROR | {"allow": ["office", "10.0.0.0/8"]},
        "localhost:5000": {"url": "https://m.example.com"},
        "quay.io": "https://quay.example.com",
    },
    proxy={"certificates": {"internal": True}, "metrics_port": 80},
    acknowledge=["open_upstream_login"],
    passwords={"token-bot": f"token-bot:{BCRYPT}".replace("$", "$$"), 'quo"ted': "x"},
    stack_secret="not hexadecimal",
    acme_eab_mac_key="c2VjcmV0c2VjcmV0c2VjcmV0",
    images={"registry": "registry:3", "caddie": "x"},
    name_prefix="0",
    **{"odd.key": "x"},
)


class Cli:
    """A stack on a file backend; what ``openssl rand`` prints is known in advance."""

    def __init__(self, folder: Path, pulumi: str) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "openssl").write_text('#!/bin/sh\nprintf "%0$(($3 * 2))d\\n" 7\n')
        (folder / "bin" / "openssl").chmod(0o755)
        (folder / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
        for name, text in files().items():
            (folder / name).write_text(text)
        self.environment = environment() | {
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "example-only",
            "PULUMI_STACK": "test",
        }
        paths = (str(folder / "bin"), str(Path(pulumi).parent), self.environment["PATH"])
        self.environment["PATH"] = os.pathsep.join(paths)
        self.run("pulumi stack init test")

    @property
    def file(self) -> Path:
        return self.folder / "Pulumi.test.yaml"

    def run(self, line: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=check
        )

    def accepts(self, line: str) -> bool:
        """Whether a shell runs a line without a failure."""
        return self.run(line, check=False).returncode == 0

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the keys to the stack file, with the texts of secret ones encrypted."""
        texts = dict(_secret_texts(values))
        options = "".join(
            f" --secret {shlex.quote(f'registry-stack:{path(*parts)}={texts[parts]}')}" for parts in texts
        )
        self.run(f"pulumi config set-all --path{options}")
        written = yaml.safe_load(self.file.read_text())
        plain = {key: value for key, value in values.items() if key not in Secrets.model_fields}
        written["config"] |= {f"registry-stack:{key}": value for key, value in plain.items()}
        self.file.write_text(yaml.safe_dump(written))

    def config(self) -> dict[str, Any]:
        """What is set, decrypted; defaults of the project file are left out."""
        shown = json.loads(self.run("pulumi config --json --show-secrets").stdout)
        keys = yaml.safe_load(self.file.read_text())["config"]
        values = {key: shown[key].get("objectValue", shown[key]["value"]) for key in keys}
        return {key.removeprefix("registry-stack:"): value for key, value in values.items()}


def _secret_texts(value: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, inner in value.items():
        if parts or name in Secrets.model_fields:
            if isinstance(inner, dict):
                yield from _secret_texts(inner, (*parts, name))
            else:
                yield (*parts, name), inner


def forms(line: str) -> set[tuple[str, ...]]:
    """What the commands do with a path: verb, sort of the value, kinds of the path's segments in turn."""
    found = set()
    for words in (words for step in steps(line) for words in step if words[:2] == ["pulumi", "config"]):
        verb, (key, *value) = words[2 : words.index("--path")], words[words.index("--path") + 1 :]
        sort = "file" if "<" in value else "number" if "".join(value).isdecimal() else "text" if value else "none"
        found.add((*verb, sort, *(kind for kind, _ in groupby(map(_kind, path_of(key))))))
    return found


def _kind(part: str | int) -> str:
    if isinstance(part, int):
        return "index"
    return "name" if re.fullmatch(r"[A-Za-z_][\w-]*", part) else "quotes" if set("\"'") & set(part) else "quoted"


def test_a_shell_with_the_cli_does_what_the_model_does(
    tmp_path: Path, binary: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli, model = Cli(tmp_path, binary("pulumi")), StackFile(BROKEN)
    monkeypatch.setenv("PATH", cli.environment["PATH"])
    cli.write(BROKEN)
    assert cli.config() == model.config

    printed = [fix for problem in model.problems() for fix in (problem.fix, *problem.alternatives)]
    compared: set[tuple[str, ...]] = set()
    for line in (*printed, *commands()):
        if not forms(line) <= compared:
            compared |= forms(line)
            assert cli.accepts(line) == model.accepts(line), line

    assert cli.config() == model.config
