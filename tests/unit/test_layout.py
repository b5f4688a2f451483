"""What the folders promise: settings and renderers load without Pulumi, and no file needs itself to be loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.harness.configuration import ROOT


def modules(folder: str) -> list[str]:
    """The Python files of a folder as modules."""
    files = (file.relative_to(ROOT).with_suffix("") for file in (ROOT / folder).rglob("*.py"))
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files)


@pytest.mark.parametrize("package", ["components.configuration", "components.render"])
def test_settings_and_renderers_load_no_pulumi(package: str) -> None:
    names = modules(package.replace(".", "/"))
    program = f"import sys, {', '.join(names)}; print([one for one in sys.modules if one.startswith('pulumi')])"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert len(names) > 3
    assert done.stdout == "[]\n", done.stderr


def test_no_import_leads_back_to_its_own_file() -> None:
    names = {name for folder in ("components", "operations", "local", "benchmarks") for name in modules(folder)}
    imports = {name: imported(name) & names - {name} for name in names}

    order = list(TopologicalSorter(imports).static_order())  # raises CycleError

    assert set(order) == names


def imported(name: str) -> set[str]:
    """Modules that a module imports, as far as they could be files."""
    path = ROOT / name.replace(".", "/")
    file = next(one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file())
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
