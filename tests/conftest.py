"""Options of the command line, and where the real binaries are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from tests.harness.configuration import ROOT

# Other runs take the processors meanwhile, so how long an example takes says nothing.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--over-ssh", action="store_true", help="deploy the engine tier's stacks over ssh://")
    parser.addoption("--proxy", default="caddy", help="server of the proxy in the engine tier's stacks: caddy or nginx")
    parser.addoption("--requests", default="1000", help="how many requests clients send while processes are replaced")
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files instead of comparing them")


@pytest.fixture(scope="session")
def binary() -> Callable[[str], str]:
    """Path of a real program by its name; its absence fails the test, it does not skip it."""

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{ROOT / '.local' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        assert path, f"{name} is not there: run `.venv/bin/python -m local prepare`"
        return path

    return find
