"""Whether the engine keeps ports on loopback for the Docker host itself, checked before anything is replaced."""

from __future__ import annotations

import pulumi_command as command
from pulumi import ResourceOptions

from components._docker_command import docker_command
from components.configuration.problems import Problem, path, set_command
from components.configuration.settings import DANGERS, Danger, Settings

DANGER: Danger = "routed_loopback"
#: From then on it drops what comes for a container's address from outside (moby, release notes of 28.0.0).
_KEEPS_LOOPBACK = 28
_CHECK = """version=$(docker version --format '{{{{.Server.Version}}}}') || exit
[ "${{version%%.*}}" -ge {least} ] 2> /dev/null && exit
printf '%s\\n' "{problem}" >&2
exit 1"""


def loopback(settings: Settings) -> command.local.Command:
    """Fails the ``up`` where neighbours of the Docker host would reach the services past the operator's own proxy.

    The stack's own proxy looks at where a client comes from; the services themselves do not.
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
        opts=ResourceOptions(ignore_changes=["create"]),  # the advice in it
    )
