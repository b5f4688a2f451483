"""Run a command of the ``docker`` CLI against the Docker host during ``up``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_command as command
from pulumi import ResourceOptions


def docker_command(
    name: str,
    docker_host: str,
    create: pulumi.Input[str],
    *,
    update: str | None = None,
    triggers: Sequence[Any] | None = None,
    stdin: pulumi.Input[str] | None = None,
    variables: Mapping[str, str] | None = None,
    logging: command.local.Logging | None = None,
    opts: ResourceOptions | None = None,
) -> command.local.Command:
    """Declare a resource that runs the shell command ``create`` once, and again when the command changes.

    Args:
        name: name of the resource.
        docker_host: address of the Docker host, also ``ssh://``.
        create: the shell command, without secrets: the state and previews show the command.
        update: shell command that a change runs instead of ``create``.
        triggers: values whose change replaces the resource.
        stdin: standard input of the command, for values that no argument may show.
        variables: additional environment variables.
        logging: which output of the command the log shows.
        opts: options of the resource.
    """
    return command.local.Command(
        name,
        create=create,
        update=update,
        triggers=None if triggers is None else list(triggers),
        stdin=stdin,
        environment={"DOCKER_HOST": docker_host, **(variables or {})},
        add_previous_output_in_env=False,
        logging=logging,
        opts=opts,
    )
