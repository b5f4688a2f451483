"""The stack `local`: its state, passphrase and passwords, all on this machine, and what `make` does with it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import docker
import yaml

from components.configuration.problems import Failure
from local import engine, images, toolchain
from local.steps import HOME, ROOT, home, run, say, step

STACK = "local"
PROJECT = "registry-stack"
#: `pulumi stack init` writes into the folder of its project: here, so that the committed file stays as it is.
OWN_PROJECT = HOME / "project"
CONFIG = OWN_PROJECT / f"Pulumi.{STACK}.yaml"
TEMPLATE = ROOT / f"Pulumi.{STACK}.yaml"
CREDENTIALS = HOME / "credentials.json"
CA_CERTIFICATE = HOME / "ca.crt"
ENVIRONMENT = HOME / "env"
SECRET_KEYS = ("stack_secret", "passwords", "upstream_passwords")


def environment() -> dict[str, str]:
    """The process environment for `pulumi` on this machine's own backend."""
    variables = toolchain.environment() | _backend()
    variables.pop("PULUMI_CONFIG_PASSPHRASE", None)  # It would go before the file.
    return variables


def _backend() -> dict[str, str]:
    return {
        "PULUMI_BACKEND_URL": f"file://{HOME / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(HOME / "passphrase"),
    }


def up() -> None:
    """Make everything that is missing, then let Pulumi bring up the stack."""
    toolchain.prepare_pulumi()
    images.ensure(engine.ensure(), "registry", "caddy")
    _create()
    _configure()
    changed = _pulumi("up", "--yes", "--refresh")  # also what was stopped or removed by hand comes back
    _write_credentials()
    _write_ca_certificate()
    _write_environment()
    say(_how_to_use() if changed else _where_it_is())


def down() -> None:
    """Remove containers and networks; data volumes, passwords and tools stay."""
    if not CONFIG.exists():
        say("there is no local stack to take down")
        return
    _write_config()
    _pulumi("destroy", "--yes")
    engine.stop()
    say("the data volumes stay: `make up` finds them again, `make purge` removes them")


def purge() -> None:
    """Remove every trace on this machine: containers, networks, volumes with their data, our images, `.local`."""
    if client := engine.connect(engine.address()):
        _remove_objects(client)
    engine.stop()
    if HOME.exists():
        with step("purge: removing .local"):
            try:
                shutil.rmtree(HOME)
            except OSError as error:
                raise Failure(f".local cannot be removed: {error}", "stop what uses it, then try again") from None


# --- Configuration ----------------------------------------------------------------------------------------------------


def _create() -> None:
    """Make passphrase, state folder and an empty stack, unless they are there."""
    home("state")
    passphrase = HOME / "passphrase"
    if not passphrase.exists():
        _write_private(passphrase, secrets.token_urlsafe(32))
    if CONFIG.exists():
        return
    with step("stack: creating the stack local"):
        home("project")
        (OWN_PROJECT / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
        run("pulumi", "stack", "init", STACK, fix=_FIX, environment=environment(), folder=OWN_PROJECT)


def _configure() -> None:
    """Bring the machine's stack file up to date and generate the secrets that it lacks."""
    config = _write_config()
    missing = {
        f"passwords.{user}": secrets.token_urlsafe(32)
        for user in config[f"{PROJECT}:registry"]["users"]
        if user not in config.get(f"{PROJECT}:passwords", {})
    }
    if f"{PROJECT}:stack_secret" not in config:
        missing["stack_secret"] = secrets.token_hex(32)
    if not missing:
        return
    with step(f"stack: generating {', '.join(missing)}"):
        for key, value in missing.items():
            _set_secret(key, value)


def _write_config() -> dict[str, Any]:
    """Follow the committed stack file, keep the users and secrets of this machine, name the engine in use."""
    own: dict[str, Any] = yaml.safe_load(CONFIG.read_text()) or {}
    kept = {key: value for key, value in own.get("config", {}).items() if key.rpartition(":")[2] in SECRET_KEYS}
    config: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())["config"]
    config |= {f"{PROJECT}:docker_host": engine.address()} | kept
    if users := own.get("config", {}).get(f"{PROJECT}:registry", {}).get("users"):
        config[f"{PROJECT}:registry"]["users"] = users  # those of `python -m operations credentials`
    if own.get("config") != config:
        _write_private(CONFIG, yaml.safe_dump(own | {"config": config}, sort_keys=False))
    return config


def _set_secret(key: str, value: str) -> None:
    command = ("config", "set", "--secret", "--path", f"{PROJECT}:{key}")
    run("pulumi", *command, *_where(), stdin=value, fix=_FIX, environment=environment())


def _write_credentials() -> None:
    """Write what scripts need to log in; it follows passwords that a person changed."""
    command = ("config", "--json", "--show-secrets")
    shown = json.loads(run("pulumi", *command, *_where(), fix=_FIX, environment=environment()))
    passwords = json.loads(shown[f"{PROJECT}:passwords"]["value"])
    _write_private(CREDENTIALS, json.dumps({"registry": _netloc("registry"), "users": passwords}, indent=2) + "\n")


def _write_ca_certificate() -> None:
    """Write the certificate of the proxy's own authority, which clients other than docker must trust."""
    command = ("stack", "output", "--json", "--stack", STACK)
    outputs = json.loads(run("pulumi", *command, fix=_FIX, environment=environment()))
    if "ca_certificate" in outputs:
        CA_CERTIFICATE.write_text(outputs["ca_certificate"].rstrip() + "\n")
        CA_CERTIFICATE.chmod(0o644)
    else:
        CA_CERTIFICATE.unlink(missing_ok=True)


def _write_environment() -> None:
    """Write shell lines with which `pulumi` and `python -m operations` work on this stack without options."""
    selection = {"PULUMI_STACK": STACK, "PULUMI_OPTION_CONFIG_FILE": str(CONFIG)}
    variables = toolchain.settings() | _backend() | selection
    lines = [
        "# Made by `make up`. For a shell in the repository's folder: . .local/env",
        "unset PULUMI_CONFIG_PASSPHRASE",
        f'export PATH={shlex.quote(os.pathsep.join(toolchain.program_folders()))}:"$PATH"',
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]
    _write_private(ENVIRONMENT, "\n".join(lines) + "\n")


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, not even for a moment."""
    unfinished = path.with_suffix(".part")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


# --- Pulumi -----------------------------------------------------------------------------------------------------------

_FIX = "if .local was damaged: `make purge` starts anew, without the images that were pushed"


def _where() -> tuple[str, ...]:
    return ("--stack", STACK, "--config-file", str(CONFIG))


# A resource on which something other than a refresh is done, or an output that becomes another.
_CHANGE = re.compile(r" [-+~]{1,2} +\S+ \S+ (?!refresh)\S|  [-+~] ")


def _pulumi(*command: str) -> bool:
    """Run Pulumi and show what it prints from the first change on; whether there is a change.

    Without a change only warnings and the count of resources are shown, after a failure everything.
    """
    words = ["pulumi", *command, "--suppress-progress", "--color=never", *_where()]
    changed, held = False, list[str]()
    with (
        step(f"stack: pulumi {command[0]}"),
        subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            held.append(line.rstrip())
            changed = changed or _CHANGE.match(line) is not None
            if changed:
                say("\n".join(held))
                held.clear()
        code = process.wait()
        if rest := held if code else _summary(held):
            say("\n".join(rest))
        if code:
            raise Failure(
                f"`pulumi {command[0]}` ended with {code}; it said why above", "fix that and run `make` again"
            )
    return changed


def _summary(lines: list[str]) -> list[str]:
    """The warnings and the count of resources from what Pulumi printed about an update after its preview."""
    sections: dict[str, list[str]] = {}
    for line in lines:
        if line.endswith(f"({STACK}):") and not line.startswith(" "):  # "Previewing update (local):"
            sections.clear()
        if line and not line.startswith(" "):
            sections[line] = []
        elif line and sections:
            sections[list(sections)[-1]].append(line)
    return sections.get("Diagnostics:", []) + sections.get("Resources:", [])


# --- Words and traces -------------------------------------------------------------------------------------------------


def _netloc(section: str) -> str:
    """What stands before the repository in an image name of the registry or of the Docker Hub mirror."""
    config = yaml.safe_load(CONFIG.read_text())["config"]
    entry = config[f"{PROJECT}:registry"] if section == "registry" else config[f"{PROJECT}:mirrors"][section]
    return str(entry["url"]).removeprefix("https://")


def _where_it_is() -> str:
    return f"""
The registry runs at https://{_netloc("registry")}, the Docker Hub mirror at https://{_netloc("docker.io")}.
Passwords are in .local/credentials.json. Before pulumi or python -m operations, run: . .local/env"""


def _how_to_use() -> str:
    registry, mirror = _netloc("registry"), _netloc("docker.io")
    python = "import json; print(json.load(open('.local/credentials.json'))['users']['ci'])"
    trust = f"""
docker trusts localhost. Other clients need .local/ca.crt, the certificate of the proxy's own authority:

  skopeo list-tags --cert-dir .local docker://{registry}/team/app    # podman takes --cert-dir, too
  SSL_CERT_FILE=.local/ca.crt crane ls {registry}/team/app           # any client written in Go
"""
    return f"""
The registry runs at https://{registry}, the Docker Hub mirror at https://{mirror}. Next, from this folder:

  python3 -c "{python}" | docker login {registry} --username ci --password-stdin
  docker tag registry:3.1.2 {registry}/team/app:1.0     # any image that you have
  docker push {registry}/team/app:1.0
  docker pull {registry}/team/app:1.0
  docker pull {mirror}/alpine:latest                    # by the mirror, where Docker Hub can be reached
{trust if CA_CERTIFICATE.exists() else ""}
For pulumi and python -m operations on this stack, in each shell:

  . .local/env
  python -m operations credentials list

Users: ci pushes, production pulls, admin also deletes. Their passwords are in .local/credentials.json.
`make down` stops everything and keeps the data, `make purge` removes it too."""


def _remove_objects(client: docker.DockerClient) -> None:
    ours: dict[str, str | list[str] | bool] = {"label": f"{PROJECT}.stack={STACK}"}
    containers = client.containers.list(all=True, filters=ours)
    networks, volumes = client.networks.list(filters=ours), client.volumes.list(filters=ours)
    built = client.images.list(filters={"label": images.LABEL})
    with step(f"purge: {len(containers)} containers, {len(networks)} networks, {len(volumes)} volumes"):
        for container in containers:
            container.remove(force=True, v=True)
        for network in networks:
            network.remove()
        for volume in volumes:
            volume.remove(force=True)
        for tag in [tag for image in built for tag in image.tags]:
            client.images.remove(tag, force=True)
