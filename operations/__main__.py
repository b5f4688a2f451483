"""Commands for tasks that a Pulumi program cannot declare."""

from __future__ import annotations

import sys

import typer

from components.configuration.problems import Failure, redacted
from operations.comment.commands import comment
from operations.console import say
from operations.credentials import commands as credentials
from operations.history.commands import history, rollback_line
from operations.preview.commands import preview

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(credentials.app, name="credentials")
for command in (preview, comment, history, rollback_line):
    app.command()(command)


def main() -> None:
    """Run a command. A failure prints cause and fix without a traceback and without the user information of URLs."""
    try:
        app()
    except Failure as failure:
        say(f"{redacted(str(failure))}\n  fix: {redacted(failure.fix)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
