"""Complete configurations for tests, and their conversion to settings."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.configuration.loading import load
from components.configuration.settings import Secrets, Settings

ROOT = Path(__file__).parent.parent.parent
SECRET_KEYS = frozenset(Secrets.model_fields)


def example_password(user: str) -> str:
    """A password that passes the checks and is clearly an example."""
    return f"example-only-{user}-zq7kx2vw9rj4hbm3"


def configuration(**changes: Any) -> dict[str, Any]:
    """A complete, valid configuration as plain values. ``changes`` replaces keys; None removes a key."""
    values = {
        "docker_host": "ssh://deploy@registry.example.com",
        "registry": {
            "url": "https://registry.example.com",
            "users": {"woodpecker": {"role": "push"}, "production": {"role": "pull"}, "boss": {"role": "admin"}},
        },
        "mirrors": {"docker.io": {"url": "https://mirror.example.com", "allow": ["10.0.0.0/8"]}},
        "proxy": {"certificates": {"acme": {"email": "ops@example.com"}}},
        "passwords": {user: example_password(user) for user in ("woodpecker", "production", "boss")},
        "stack_secret": "5" * 64,
    } | changes
    return {key: value for key, value in values.items() if value is not None}


def set_all_secrets(values: Mapping[str, str]) -> list[str]:
    """Arguments of ``pulumi`` that set several secrets in one call. Other processes can see the arguments."""
    options = [word for path, value in values.items() for word in ("--secret", f"registry-stack:{path}={value}")]
    return ["config", "set-all", "--path", *options]


def as_pulumi_hands_over(values: Mapping[str, Any]) -> dict[str, str]:
    """The values in the form that Pulumi passes to the program: objects as JSON, text unchanged."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def loaded(
    values: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    now: datetime.datetime | None = None,
) -> tuple[Settings, Secrets]:
    """The settings and secrets of a configuration. All secrets count as encrypted."""
    moment = now or datetime.datetime.now(datetime.UTC)
    return load(as_pulumi_hands_over(values), SECRET_KEYS, {}, environment or {}, moment)
