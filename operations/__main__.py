"""Commands for tasks that a Pulumi program cannot declare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from components.configuration.problems import Failure, redacted
from operations.console import say

#: The package and the name of each command, or of a group of commands, in its module ``commands``.
COMMANDS = {
    "credentials": ("credentials", "app"),
    "preview": ("preview", "preview"),
    "comment": ("comment", "comment"),
    "history": ("history", "history"),
    "rollback-line": ("history", "rollback_line"),
    "clients": ("clients", "app"),
    "mirrors": ("mirrors", "mirrors"),
    "warm": ("warm", "warm"),
    "retention": ("retention", "app"),
    "import": ("tarballs", "import_"),
    "usage": ("usage", "usage"),
    "gc": ("gc", "gc"),
}


def command_line(words: Sequence[str]) -> typer.Typer:
    """Return the command that ``words`` begin with, or all commands, for example for ``--help``.

    Importing every command takes longer than some commands run.
    """
    app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # without a callback, an app with one command takes no name of a command
    for name in COMMANDS.keys() & set(words[:1]) or COMMANDS:
        package, attribute = COMMANDS[name]
        found = getattr(import_module(f"operations.{package}.commands"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def main() -> None:
    """Run a command. A failure prints cause and fix without a traceback and without the user information of URLs."""
    try:
        command_line(sys.argv[1:])()
    except Failure as failure:
        say(f"{redacted(str(failure))}\n  fix: {redacted(failure.fix)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
