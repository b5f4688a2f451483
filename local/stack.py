"""The stack `local` of `make up`, `down` and `purge`. State, passphrase and passwords are on this machine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import docker
import yaml
from docker.models.containers import Container
from docker.models.networks import Network

from components.configuration.problems import Failure
from local import engine, images, toolchain
from local.messages import how_to_use, where_it_is
from local.steps import HOME, ROOT, home, run, say, step

STACK = "local"
PROJECT = "registry-stack"
#: `pulumi stack init` writes into the project folder. A separate folder keeps the committed file unchanged.
OWN_PROJECT = HOME / "project"
CONFIG = OWN_PROJECT / f"Pulumi.{STACK}.yaml"
TEMPLATE = ROOT / f"Pulumi.{STACK}.yaml"
CREDENTIALS = HOME / "credentials.json"
CA_CERTIFICATE = HOME / "ca.crt"
ENVIRONMENT = HOME / "env"
SECRET_KEYS = ("stack_secret", "passwords", "upstream_passwords")


def environment() -> dict[str, str]:
    """The process environment for `pulumi` with the backend on this machine."""
    variables = toolchain.environment() | _backend()
    variables.pop("PULUMI_CONFIG_PASSPHRASE", None)  # This variable would override the file.
    return variables


def _backend() -> dict[str, str]:
    return {
        "PULUMI_BACKEND_URL": f"file://{HOME / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(HOME / "passphrase"),
    }


def up() -> None:
    """Install or build everything that is missing, then run `pulumi up`."""
    toolchain.prepare_pulumi()
    images.ensure(engine.ensure(), "registry", "caddy")
    _create()
    _configure()
    _write_environment()  # first, for a person who must repair what follows
    changed = _pulumi("up", "--yes", "--refresh")  # a refresh also restores containers that somebody stopped or removed
    _write_credentials()
    _write_ca_certificate()
    addresses = _netloc("registry"), _netloc("docker.io")
    say(how_to_use(*addresses, has_authority=CA_CERTIFICATE.exists()) if changed else where_it_is(*addresses))


def down() -> None:
    """Remove containers and networks; data volumes, passwords and tools stay."""
    if not CONFIG.exists():
        say("there is no local stack")
        return
    _write_config()
    _pulumi("destroy", "--yes")
    engine.stop()
    say("the data volumes remain: `make up` uses the volumes again, `make purge` removes the volumes")


def purge() -> None:
    """Remove containers, networks, volumes with their data, images that were built here, and `.local`."""
    if client := engine.connect(engine.address()):
        _remove_objects(client)
    engine.stop()
    if HOME.exists():
        with step("purge: removing .local"):
            try:
                shutil.rmtree(HOME)
            except OSError as error:
                raise Failure(
                    f"cannot remove .local: {error}", "stop the processes that use .local, then try again"
                ) from None


# --- Configuration ----------------------------------------------------------------------------------------------------


def _create() -> None:
    """Create the passphrase, the state folder and an empty stack, if they are missing."""
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
    """Update the stack file of this machine and generate missing secrets."""
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
    """Copy the committed stack file, keep the users and secrets of this machine, set the address of the engine."""
    own: dict[str, Any] = yaml.safe_load(CONFIG.read_text()) or {}
    kept = {key: value for key, value in own.get("config", {}).items() if key.rpartition(":")[2] in SECRET_KEYS}
    config: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())["config"]
    config |= {f"{PROJECT}:docker_host": engine.address()} | kept
    if users := own.get("config", {}).get(f"{PROJECT}:registry", {}).get("users"):
        config[f"{PROJECT}:registry"]["users"] = users  # from `python -m operations credentials`
    if own.get("config") != config:
        _write_private(CONFIG, yaml.safe_dump(own | {"config": config}, sort_keys=False))
    return config


def _set_secret(key: str, value: str) -> None:
    command = ("config", "set", "--secret", "--path", f"{PROJECT}:{key}")
    run("pulumi", *command, *_where(), stdin=value, fix=_FIX, environment=environment())


def _write_credentials() -> None:
    """Write the logins for scripts, with the current passwords of the stack."""
    command = ("config", "--json", "--show-secrets")
    shown = json.loads(run("pulumi", *command, *_where(), fix=_FIX, environment=environment()))
    passwords = json.loads(shown[f"{PROJECT}:passwords"]["value"])
    _write_private(CREDENTIALS, json.dumps({"registry": _netloc("registry"), "users": passwords}, indent=2) + "\n")


def _write_ca_certificate() -> None:
    """Write the certificate of the proxy's own authority. Clients other than docker must trust this certificate."""
    command = ("stack", "output", "--json", "--stack", STACK)
    outputs = json.loads(run("pulumi", *command, fix=_FIX, environment=environment()))
    if "ca_certificate" in outputs:
        CA_CERTIFICATE.write_text(outputs["ca_certificate"].rstrip() + "\n")
        CA_CERTIFICATE.chmod(0o644)
    else:
        CA_CERTIFICATE.unlink(missing_ok=True)


def _write_environment() -> None:
    """Write shell lines that select this stack for `pulumi` and `python -m operations`, without options."""
    selection = {"PULUMI_STACK": STACK, "PULUMI_OPTION_CONFIG_FILE": str(CONFIG)}
    variables = toolchain.settings() | _backend() | selection
    lines = [
        "# Written by `make up`. In a shell in the repository's folder, run: . .local/env",
        "unset PULUMI_CONFIG_PASSPHRASE",
        f'export PATH={shlex.quote(os.pathsep.join(toolchain.program_folders()))}:"$PATH"',
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]
    _write_private(ENVIRONMENT, "\n".join(lines) + "\n")


def _write_private(path: Path, text: str) -> None:
    """Write a file. No other user can read the file at any time."""
    unfinished = path.with_suffix(".part")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)


# --- Pulumi -----------------------------------------------------------------------------------------------------------

_FIX = "if .local is damaged, run `make purge`, which also removes the pushed images, then `make up`"


def _where() -> tuple[str, ...]:
    return ("--stack", STACK, "--config-file", str(CONFIG))


# Matches a resource operation other than a refresh, or a changed output.
_CHANGE = re.compile(r" [-+~]{1,2} +\S+ \S+ (?!refresh)\S|  [-+~] ")


def _pulumi(*command: str) -> bool:
    """Run Pulumi and show its output from the first change on. Return whether there was a change.

    Without a change, show only warnings and the number of resources. After a failure, show everything.
    """
    _clean_up_after_kill()
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
        interrupted = False
        while True:
            try:
                for line in process.stdout:
                    held.append(line.rstrip())
                    changed = changed or _CHANGE.match(line) is not None
                    if changed or interrupted:
                        say("\n".join(held))
                        held.clear()
                code = process.wait()
                break
            except KeyboardInterrupt:  # Pulumi got it, too. It needs its output until it has saved its state.
                interrupted = True
        if rest := held if code else _summary(held):
            say("\n".join(rest))
        if code:
            raise Failure(
                f"`pulumi {command[0]}` failed with exit code {code}; see the errors above",
                "fix the errors, then run `make` again",
            )
    return changed


def _clean_up_after_kill() -> None:
    """If `pulumi` was killed on this machine, remove what its state does not know, then its lock.

    The state does not know containers and networks that the engine created at that moment.
    """
    locks = {path: json.loads(path.read_text()) for path in (HOME / "state" / ".pulumi" / "locks").rglob("*.json")}
    stale = [
        path
        for path, owner in locks.items()
        if owner["hostname"] == socket.gethostname() and not _is_pulumi(owner["pid"])
    ]
    if not stale or not (client := engine.connect(engine.address())):
        return
    with step("stack: cleaning up after a `pulumi` process that was killed"):
        export = json.loads(run("pulumi", "stack", "export", "--stack", STACK, fix=_FIX, environment=environment()))
        known = {resource.get("id") for resource in export["deployment"].get("resources", [])}
        containers, networks = _containers_and_networks(client)
        _remove([one for one in containers if one.id not in known], [one for one in networks if one.id not in known])
        client.close()
        for path in stale:
            path.unlink()


def _is_pulumi(pid: int) -> bool:
    """Whether a process runs `pulumi`. A killed process may remain for a while, without a program."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "pulumi"
    except PermissionError:  # a process of another user
        return True
    except OSError:
        return False


def _summary(lines: list[str]) -> list[str]:
    """The warnings and the number of resources that Pulumi printed for an update, without those of its preview."""
    sections: dict[str, list[str]] = {}
    for line in lines:
        if line.endswith(f"({STACK}):") and not line.startswith(" "):  # "Previewing update (local):"
            sections.clear()
        if line and not line.startswith(" "):
            sections[line] = []
        elif line and sections:
            sections[list(sections)[-1]].append(line)
    warnings = [line for line in lines if line.startswith("warning:")]
    return warnings + sections.get("Diagnostics:", []) + sections.get("Resources:", [])


# --- Removal ---------------------------------------------------------------------------------------------------------


def _netloc(section: str) -> str:
    """The host and port of the registry or of the Docker Hub mirror, as they stand in image names."""
    config = yaml.safe_load(CONFIG.read_text())["config"]
    entry = config[f"{PROJECT}:registry"] if section == "registry" else config[f"{PROJECT}:mirrors"][section]
    return str(entry["url"]).removeprefix("https://")


_OURS: dict[str, str | list[str] | bool] = {"label": f"{PROJECT}.stack={STACK}"}


def _containers_and_networks(client: docker.DockerClient) -> tuple[list[Container], list[Network]]:
    """The containers and networks of the stack, also those that Pulumi's state does not know."""
    return client.containers.list(all=True, filters=_OURS), client.networks.list(filters=_OURS)


def _remove(containers: list[Container], networks: list[Network]) -> None:
    for container in containers:
        container.remove(force=True, v=True)
    for network in networks:
        network.remove()


def _remove_objects(client: docker.DockerClient) -> None:
    containers, networks = _containers_and_networks(client)
    volumes = client.volumes.list(filters=_OURS)
    built = client.images.list(filters={"label": images.LABEL})
    with step(f"purge: {len(containers)} containers, {len(networks)} networks, {len(volumes)} volumes"):
        _remove(containers, networks)
        for volume in volumes:
            volume.remove(force=True)
        for tag in [tag for image in built for tag in image.tags]:
            client.images.remove(tag, force=True)
