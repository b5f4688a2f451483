"""The mirrors of a stack with the addresses that clients use, from the outputs of the last `pulumi up`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.configuration.problems import Failure, set_command
from components.configuration.settings import DOCKER_HUB
from components.render.clients import Mirror
from operations.clients.files import Mirrors
from operations.stack import StackConfig


def deployed_mirrors(config: StackConfig, daemon: Mapping[str, Any]) -> Mirrors:
    """Return the mirrors: each with its own address, or with the shared address. ``daemon`` is Docker's daemon.json.

    Raises:
        Failure: if the stack has no mirror.
    """
    deployed = config.deployed_mirrors()
    found = [
        Mirror(upstream, address, is_shared=upstream not in deployed.mirror_urls)
        for upstream in sorted(deployed.upstreams)
        if (address := deployed.address(upstream))
    ]
    if not found:
        example = set_command(f'mirrors["{DOCKER_HUB}"].url', "https://mirror.example.com")
        raise Failure(
            "the stack has no mirrors", f"{config.on_this_stack(example)} && {config.command('pulumi', 'up')}"
        )
    authority = deployed.ca_certificate and deployed.ca_certificate.rstrip() + "\n"
    return Mirrors(tuple(found), authority, daemon)
