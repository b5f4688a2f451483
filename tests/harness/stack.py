"""A throwaway copy of the project with its own stack, controlled by the real Pulumi CLI."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from local.toolchain import environment
from tests.harness.certificates import authority, certificate_pair
from tests.harness.configuration import ROOT, set_all_secrets

STACK = "test"


class Stack:
    """One stack on a file backend in ``folder``. ``users`` contains the generated password of each user."""

    def __init__(self, folder: Path, docker_host: str, values: Mapping[str, Any], path: str = "") -> None:
        self.folder = folder
        self.values = {"docker_host": docker_host, "protect_data": False} | dict(values)
        for name in ("Pulumi.yaml", "__main__.py"):
            shutil.copy(ROOT / name, folder / name)
        shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "state").mkdir()
        self.environment = environment() | {
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": secrets.token_urlsafe(16),
        }
        self.environment["PATH"] = path + self.environment["PATH"]
        # The virtual environment belongs to the checkout, not to this copy.
        (folder / ".venv").symlink_to(self.environment["VIRTUAL_ENV"])
        self.pulumi("stack", "init", STACK)
        self.write()
        self.users = {name: secrets.token_urlsafe(32) for name in self.values["registry"]["users"]}
        passwords = {f"passwords.{name}": password for name, password in self.users.items()}
        pair = as_paths("localhost", certificate_pair("localhost")) if self.has_files else {}
        self.set_secrets({"stack_secret": secrets.token_hex(32), **passwords, **pair})

    @property
    def has_files(self) -> bool:
        """Whether the stack gets its certificates from files."""
        return "files" in self.values["proxy"].get("certificates", {})

    @property
    def file(self) -> Path:
        """The stack file."""
        return self.folder / f"Pulumi.{STACK}.yaml"

    def pulumi(
        self, *arguments: str, check: bool = True, stdin: str = "", variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI in the copy. A failure shows the output."""
        answer = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.folder,
            env=self.environment | dict(variables or {}),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if check and answer.returncode:
            raise AssertionError(f"pulumi {' '.join(arguments)}: {answer.stdout}\n{answer.stderr}")
        return answer

    def operations(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m operations`` on the stack. A failure shows the output."""
        answer = subprocess.run(
            [sys.executable, "-m", "operations", *arguments, "--stack", STACK],
            cwd=self.folder,
            env=self.environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert not check or answer.returncode == 0, answer.stderr
        return answer

    def write(self, **changes: Any) -> None:
        """Write the plain keys of the stack file and keep its secrets."""
        self.values |= changes
        written = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        config = written.setdefault("config", {})
        for key, value in self.values.items():
            config[f"registry-stack:{key}"] = value
        self.file.write_text(yaml.safe_dump(written))

    def set_secret(self, path: str, value: str) -> None:
        """``pulumi config set --secret``, with the value on standard input."""
        self.pulumi("config", "set", "--stack", STACK, "--secret", "--path", f"registry-stack:{path}", stdin=value)

    def set_secrets(self, values: Mapping[str, str]) -> None:
        """Set several secrets at once, in the time of one."""
        self.pulumi(*set_all_secrets(values), "--stack", STACK)

    def set_certificate(self, host: str, *others: str) -> None:
        """Set a certificate from files for ``host``. The certificate also covers ``others``."""
        self.set_pair(host, certificate_pair(host, *others))

    def set_pair(self, name: str, pair: Mapping[str, str]) -> None:
        """Set a certificate and its key from the texts of files."""
        self.set_secrets(as_paths(name, pair))

    def set_plain(self, path: str, value: str) -> None:
        """``pulumi config set --path``."""
        self.pulumi("config", "set", "--stack", STACK, "--path", f"registry-stack:{path}", value)

    def remove(self, path: str) -> None:
        """``pulumi config rm --path``."""
        self.pulumi("config", "rm", "--stack", STACK, "--path", f"registry-stack:{path}")

    def up(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``pulumi up`` without questions."""
        self.__dict__.pop("certificate_file", None)
        return self.pulumi("up", "--stack", STACK, "--yes", "--skip-preview", "--color=never", *arguments, check=check)

    def preview(self, *arguments: str, check: bool = True, **keywords: Any) -> subprocess.CompletedProcess[str]:
        """``pulumi preview``."""
        return self.pulumi("preview", "--stack", STACK, "--color=never", *arguments, check=check, **keywords)

    def planned(self) -> dict[str, str]:
        """The planned operation for each changed resource, by logical name, from a preview."""
        steps = json.loads(self.preview("--json").stdout)["steps"]
        operations: dict[str, str] = {}
        for step in steps:
            if step["op"] != "same":
                name = step["urn"].rpartition("::")[2]
                operations[name] = "replace" if "replace" in step["op"] else step["op"]
        return operations

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        outputs: dict[str, Any] = json.loads(self.pulumi("stack", "output", "--stack", STACK, "--json").stdout)
        return outputs

    def destroy(self) -> None:
        """``pulumi destroy`` without questions."""
        self.pulumi("destroy", "--stack", STACK, "--yes", "--skip-preview", "--color=never")

    @property
    def proxy(self) -> str:
        """The proxy server: ``caddy`` or ``nginx``."""
        return str(self.values["proxy"]["server"])

    @property
    def registry(self) -> str:
        """The host and port of the registry, as they stand in image names."""
        return str(self.values["registry"]["url"]).removeprefix("https://")

    @cached_property
    def certificate_file(self) -> Path:
        """File with the root that clients must trust: of the internal authority, or of the tests' authority."""
        path = self.folder / "ca" / "ca.crt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.outputs().get("ca_certificate", authority().pair()["certificate"]) + "\n")
        return path

    @property
    def trust(self) -> ssl.SSLContext:
        """A TLS context that trusts ``certificate_file``, for HTTP clients."""
        return ssl.create_default_context(cafile=self.certificate_file)


def as_paths(name: str, pair: Mapping[str, str]) -> dict[str, str]:
    """A certificate and its key, by their configuration paths."""
    return {f'certificates["{name}"].{part}': text for part, text in pair.items()}


def engine_address() -> str:
    """The address of the engine that the tests use."""
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
