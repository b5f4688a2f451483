"""Show for each mirror whether clients reach it and use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer
from pydantic import SecretStr

from components.configuration.naming import mirror_alias
from components.configuration.problems import new_secret_command
from components.configuration.settings import KNOWN_UPSTREAMS
from operations.console import say, screen, show_table, waiting
from operations.mirrors.presentation import errors, mirrors_json, mirrors_table
from operations.mirrors.quota import HUB_URL, NoQuota, Quota, read_quota
from operations.mirrors.reading import Mirror, read_mirrors
from operations.options import ConfigFile, Stack
from operations.stack import Deployed, DeployedMirrors, StackConfig


def mirrors(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/mirrors.md describes the fields.")] = False,
    quota: Annotated[bool, typer.Option("--quota", help="Ask Docker Hub how many pulls are left.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show for each mirror: its state, requests, hits, bytes, cache and last error.

    The exit status is 1 if a mirror is not reachable. The command asks the containers on the Docker host. Only
    with --quota, it asks an upstream: Docker Hub. A mirror with a login needs the passphrase then.
    """
    config = StackConfig(stack, config_file)
    deployed, mirrors = config.deployed(), config.deployed_mirrors()
    containers = _containers(deployed, mirrors)
    with waiting(f"Asking the mirrors on {deployed.docker_host} …"):
        answers = read_mirrors(deployed.docker_host, list(containers.values()))
    found = dict(zip(containers, answers, strict=True))
    quotas = _quotas(config, deployed.docker_host, mirrors, found) if quota else {}
    urls = {name: str(url) for name in mirrors.upstreams if (url := mirrors.address(name))}
    if as_json:
        typer.echo(json.dumps(mirrors_json(deployed.docker_host, urls, found, quotas), indent=2))
    else:
        _print(found, quotas)
    _explain(config, deployed.docker_host, found)
    if not all(mirror.reachable for mirror in found.values()):
        raise typer.Exit(1)


def _containers(deployed: Deployed, mirrors: DeployedMirrors) -> dict[str, str]:
    """Return the container of each mirror by the name of the upstream."""
    names = {mirror_alias(name): name for name in mirrors.upstreams}
    return {names[role]: container for role, container in deployed.services.items() if role in names}


def _quotas(config: StackConfig, host: str, mirrors: DeployedMirrors, found: Mapping[str, Mirror]) -> dict[str, Quota]:
    """Return the quota of each reachable mirror of Docker Hub. Say why a mirror has none."""
    quotas = {}
    settings = {name: mirrors.mirrors[name] for name, mirror in found.items() if mirror.reachable}
    hub = [name for name, one in settings.items() if (one.upstream or KNOWN_UPSTREAMS.get(name)) == HUB_URL]
    if not hub:
        say("no mirror of Docker Hub is reachable, so there is no quota to show")
    for name in hub:
        try:
            login = _login(config, name, username) if (username := settings[name].username) else None
            with waiting("Asking Docker Hub …"):
                quotas[name] = read_quota(host, found[name].container, login)
        except NoQuota as reason:
            say(f"{name}: the quota is not known: {reason}")
    return quotas


def _login(config: StackConfig, name: str, username: str) -> tuple[str, SecretStr]:
    password = config.read().upstream_passwords.get(name)
    if password is None:
        fix = config.on_this_stack(new_secret_command("upstream_passwords", name))
        raise NoQuota(f"the stack has no password for {username}\n  fix: {fix}")
    return username, password


def _print(found: Mapping[str, Mirror], quotas: Mapping[str, Quota]) -> None:
    if not found:
        screen.print("The stack has no mirrors.")
        return
    show_table(mirrors_table(found, quotas))
    for line in errors(found):
        screen.print(line, markup=False, soft_wrap=True)


def _explain(config: StackConfig, host: str, found: Mapping[str, Mirror]) -> None:
    """Say for each mirror without an answer or without counters what to do."""
    for name, mirror in found.items():
        if mirror.state == "missing":
            restore = config.command("pulumi", "up", "--refresh")
            say(f"{name}: the container {mirror.container} is missing\n  fix: {restore}")
        elif not mirror.reachable:
            why = "does not answer" if mirror.state == "healthy" else f"is {mirror.state}"
            logs = f"docker --host {host} logs --tail 50 {mirror.container}"
            say(f"{name}: the mirror {why}\n  to see the reason, run: {logs}")
        elif mirror.usage is None:
            up = config.command("pulumi", "up")
            say(f"{name}: an older version of the program started this mirror, without counters\n  fix: {up}")
