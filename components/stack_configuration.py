"""Load the configuration of the stack that Pulumi runs."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pulumi
import yaml

from components.configuration.loading import load
from components.configuration.problems import PROJECT
from components.configuration.settings import Secrets, Settings


def load_stack(now: datetime.datetime) -> tuple[Settings, Secrets]:
    """Load the configuration of the stack that Pulumi runs, and check all dates against ``now``.

    Raises:
        ConfigError: with every problem of the configuration and of the environment.
    """
    values = {key: value for key, value in pulumi.runtime.config.CONFIG.get().items() if key.startswith(f"{PROJECT}:")}
    stack_file = Path(f"Pulumi.{pulumi.get_stack()}.yaml")
    written = yaml.safe_load(stack_file.read_text()) if stack_file.exists() else None
    return load(
        values={key.removeprefix(f"{PROJECT}:"): value for key, value in values.items()},
        encrypted=frozenset(key.removeprefix(f"{PROJECT}:") for key in values if pulumi.runtime.is_config_secret(key)),
        written={
            key.removeprefix(f"{PROJECT}:"): value
            for key, value in ((written or {}).get("config") or {}).items()
            if key.startswith(f"{PROJECT}:")
        },
        environment=os.environ,
        now=now,
    )
