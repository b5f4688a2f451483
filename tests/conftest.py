"""What all tiers share: how a configuration is made for a test, and where the real binaries are."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.configuration.loading import load
from components.configuration.settings import Secrets, Settings

ROOT = Path(__file__).parent.parent
SECRET_KEYS = frozenset(Secrets.model_fields)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--over-ssh", action="store_true", help="deploy the engine tier's stacks over ssh://")
    parser.addoption("--proxy", default="caddy", help="engine of the proxy in the engine tier's stacks: caddy or nginx")
    parser.addoption("--requests", default="1000", help="how many requests clients send while processes are replaced")
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files instead of comparing them")


def example_password(user: str) -> str:
    """A password that passes the checks and that nobody takes for a real one."""
    return f"example-only-{user}-zq7kx2vw9rj4hbm3"


def configuration(**changes: Any) -> dict[str, Any]:
    """A complete, valid configuration as plain values; ``changes`` replace keys, None removes one."""
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
    """Arguments of ``pulumi`` that set several secrets by path in one call; others on the machine may see them."""
    options = [word for path, value in values.items() for word in ("--secret", f"registry-stack:{path}={value}")]
    return ["config", "set-all", "--path", *options]


def as_pulumi_hands_over(values: Mapping[str, Any]) -> dict[str, str]:
    """Objects as JSON, text as it is."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def loaded(
    values: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    now: datetime.datetime | None = None,
) -> tuple[Settings, Secrets]:
    """Settings and secrets of a configuration whose secrets are all encrypted."""
    moment = now or datetime.datetime.now(datetime.UTC)
    return load(as_pulumi_hands_over(values), SECRET_KEYS, {}, environment or {}, moment)


@pytest.fixture(scope="session")
def binary() -> Callable[[str], str]:
    """Path of a real program by its name; its absence fails the test, it does not skip it."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{ROOT / '.local' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        assert path, f"{name} is not there: run `.venv/bin/python -m local prepare`"
        return path

    return find
