"""Ask the upstream of a mirror once, from the Docker host, and warn if that fails."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pulumi
import pulumi_command as command
import pulumi_docker as docker
from pulumi import Output, ResourceHook, ResourceHookArgs, ResourceHookBinding, ResourceOptions

from components._delivery import Delivery, Image, digest
from components._docker_command import docker_command
from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import USER
from components.render.upstream import Upstream, question, warning


def ask_upstream(
    name: str,
    upstream: Upstream,
    *,
    image: Image,
    network: docker.Network,
    config: Delivery,
    login: Delivery | None,
    docker_host: str,
    parent: pulumi.Resource,
) -> command.local.Command:
    """Ask the upstream when its URL, its login, its authority or the way to it changes.

    A throwaway container asks in the mirror's network with the mirror's files, so that an answer counts for the mirror.
    No argument and no variable has the password. Nothing waits for the answer, and a failure is a warning of this `up`.
    """

    def warn(args: ResourceHookArgs) -> None:
        said = (args.new_outputs or {}).get("stdout")
        if text := warning(upstream, said if isinstance(said, str) else ""):
            pulumi.log.warn(text)

    hook = ResourceHook(f"{name}-warning", warn)
    given = [config, *([login] if login else [])]
    user, _, group = USER.partition(":")
    options = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--entrypoint="]
    # The mirror's own limit: an upstream may send an answer without an end.
    options += [f"--memory={upstream.mirror.memory_mb}m", f"--memory-swap={upstream.mirror.memory_mb}m"]
    options += [f"--user={USER}", f"--tmpfs={DATA_DIRECTORY}:size=1m,uid={user},gid={group}"]

    def run(names: Sequence[str]) -> str:
        joined = [f"--network={names[0]}"]
        joined += [f"--volume={volume}:{one.mount.path}:ro" for volume, one in zip(names[1:], given, strict=True)]
        return f"{shlex.join(['docker', 'run', *options, *joined, image.name, *question(upstream)])} 2>&1 || true"

    return docker_command(
        name,
        docker_host,
        Output.all(network.name, *(one.mount.volume for one in given)).apply(run),
        triggers=[login.carrier.id] if login else None,
        variables={"UPSTREAM": digest(f"{upstream.url} {upstream.mirror.username} {upstream.mirror.ca}")},
        logging=command.local.Logging.NONE,
        opts=ResourceOptions(
            parent=parent,
            depends_on=[image.pulled, *(one.carrier for one in given)],
            hooks=ResourceHookBinding(after_create=[hook], after_update=[hook]),
        ),
    )
