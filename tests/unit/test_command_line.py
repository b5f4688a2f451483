"""`python -m operations`: which commands there are, and which modules a command loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from operations.__main__ import COMMANDS, command_line


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_found_by_its_name_and_listed_in_the_help(name: str) -> None:
    alone, listed = (CliRunner().invoke(command_line(words), words) for words in ([name, "--help"], ["--help"]))

    assert f"Usage: operations {name} " in alone.stdout.replace("root", "operations")
    assert f" {name} " in listed.stdout


def test_help_shows_the_brackets_of_a_regular_expression() -> None:
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(command_line(["import"]), ["import", "--help"])

    assert "'(?P<app>[a-z]+)-v.*'" in answer.stdout


def test_unknown_command_is_refused_with_the_usage() -> None:
    answer = CliRunner().invoke(command_line(["previw"]), ["previw"])

    assert answer.exit_code == 2
    assert "No such command 'previw'" in answer.stderr


def test_a_preview_loads_no_module_of_another_command() -> None:
    loaded = "import sys; from operations.__main__ import command_line; command_line(['preview']); print(*sys.modules)"

    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()

    assert "operations.preview.commands" in modules
    assert {"operations.comment.commands", "operations.credentials.commands", "httpx"}.isdisjoint(modules)
