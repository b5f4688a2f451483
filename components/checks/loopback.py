"""Check, before anything is replaced, that only the Docker host itself can reach ports published on loopback."""

from __future__ import annotations

import pulumi_command as command
from pulumi import ResourceOptions

from components._docker_command import docker_command
from components.configuration.problems import Problem, path, set_command
from components.configuration.settings import DANGERS, Danger, Settings

DANGER: Danger = "routed_loopback"
#: Since this version, Docker drops packets from outside to a container's address (moby, release notes of 28.0.0).
_KEEPS_LOOPBACK = 28
_CHECK = """version=$(docker version --format '{{{{.Server.Version}}}}') || exit
[ "${{version%%.*}}" -ge {least} ] 2> /dev/null && exit
printf '%s\\n' "{problem}" >&2
exit 1"""


def loopback(settings: Settings) -> command.local.Command:
    """Fail ``up`` if neighbours of the Docker host could reach the services and bypass the operator's own proxy.

    The stack's own proxy checks the address of a client; the services do not.
    """
    problem = Problem(
        "proxy.server",
        "none, on Docker $version",
        f"Docker {_KEEPS_LOOPBACK} or newer on the Docker host, or `{DANGER}` in `acknowledge`: {DANGERS[DANGER]}",
        " && ".join([set_command("proxy.server", "caddy"), set_command("proxy.certificates.internal", "{}")]),
        (set_command(path("acknowledge", len(settings.acknowledge)), DANGER),),
    )
    text = str(problem).replace("`", r"\`").replace('"', r"\"")
    return docker_command(
        "engine-version",
        settings.docker_host,
        _CHECK.format(least=_KEEPS_LOOPBACK, problem=text),
        opts=ResourceOptions(ignore_changes=["create"]),  # the command contains advice, which changes with the settings
    )
