"""A command of the ``docker`` CLI that an ``up`` runs against the Docker host."""

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
    """Run the shell command ``create`` once, and again when it changes.

    Args:
        name: of the resource.
        docker_host: where ``docker`` runs its containers, also over ``ssh://``.
        create: the shell command; it stands in the state and in previews, so it holds no secret.
        update: what a change runs instead of ``create``.
        triggers: values whose change replaces the resource.
        stdin: its standard input, for what no argument may show.
        variables: further variables of its environment.
        logging: what of its output the log shows.
        opts: of the resource.
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
