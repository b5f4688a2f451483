"""What production installs: all that the program imports, and nothing that only tests need."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions

from tests.harness.configuration import ROOT


def imported() -> set[str]:
    """Top-level names of the packages from elsewhere that the program and its commands import."""
    files = [ROOT / "__main__.py", *(ROOT / "components").rglob("*.py"), *(ROOT / "operations").rglob("*.py")]
    names: set[str] = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"components", "operations"}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def wanted(name: str) -> set[str]:
    return {canonical(found) for found in re.findall(r"^\w[\w.-]*", (ROOT / name).read_text(), re.MULTILINE)}


def pins(name: str) -> dict[str, str]:
    """Each pin of a lock file, with its marker and hashes, by the name of the distribution."""
    blocks = re.split(r"^(?=\w)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {canonical(block.partition("==")[0]): block for block in filter(None, blocks)}


def test_the_requirements_of_the_program_are_what_it_imports_and_pip_for_pulumi() -> None:
    distributions = packages_distributions()

    used = {canonical(distribution) for package in imported() for distribution in distributions[package]}

    assert used | {"pip"} == wanted("requirements.in")


def test_production_gets_every_requirement_and_no_test_tool() -> None:
    locked = pins("requirements.lock").keys()

    assert wanted("requirements.in") <= locked
    assert not locked & (wanted("requirements-dev.in") - wanted("requirements.in"))


def test_tests_run_with_the_very_versions_of_production() -> None:
    everything = pins("requirements-dev.lock")

    assert wanted("requirements-dev.in") <= everything.keys()
    assert {name: everything.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")


def test_lock_files_name_no_package_index() -> None:
    locks = ("requirements.lock", "requirements-dev.lock", "local/npm/package-lock.json")

    assert not any("://" in (ROOT / name).read_text() for name in locks)
