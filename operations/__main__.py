"""Commands for what a declaration cannot do, on the stack that Pulumi has selected."""

from __future__ import annotations

import sys

import typer

from components.configuration.problems import Failure, redacted
from operations.console import say
from operations.credentials import commands as credentials

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(credentials.app, name="credentials")


@app.callback()
def _group() -> None:
    """Without a callback, Typer would leave out the only group's name."""


def main() -> None:
    """Run a command; a failure prints its cause and fix, without the user information of URLs, and no traceback."""
    try:
        app()
    except Failure as failure:
        say(f"{redacted(str(failure))}\n  fix: {redacted(failure.fix)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
