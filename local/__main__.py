"""`python -m local`: what the Makefile calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from components.configuration.problems import Failure
from local import engine, outdated, stack, toolchain
from local.steps import is_root, say

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Command = Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")]


@app.command()
def up() -> None:
    """Bring up the stack `local`, with everything that it needs."""
    stack.up()


@app.command()
def down() -> None:
    """Remove containers and networks, keep data."""
    stack.down()


@app.command()
def purge() -> None:
    """Remove everything, images that were pushed included, after a confirmation."""
    confirmation = os.environ.get("CONFIRM")
    if confirmation is None and sys.stdin.isatty():
        confirmation = typer.prompt(f"All data of the stack {stack.STACK} will be lost. Type its name to go on")
    if confirmation != stack.STACK:
        raise Failure("purge was not confirmed; nothing was removed", f"CONFIRM={stack.STACK} make purge")
    stack.purge()


@app.command()
def prepare() -> None:
    """Make ready what the tests need."""
    toolchain.prepare_pulumi()
    toolchain.prepare_tests()
    if is_root():  # who else cannot start an engine
        for name in engine.NAMES:
            engine.prepare(name)


@app.command(name="outdated")
def show_outdated() -> None:
    """Show which pinned versions are not the newest: Python packages, Go modules, images."""
    typer.echo(outdated.report())


@app.command()
def with_engine(name: Annotated[str, typer.Argument(help="debian or modules")], command: Command) -> None:
    """Run a command beside a throwaway engine."""
    if name not in engine.NAMES:
        raise Failure(f"there is no engine {name}", "debian (the distribution's package) or modules (a current one)")
    raise typer.Exit(engine.run_with(name, command))


@app.command(hidden=True)
def inside_namespaces(name: str, folder: Path, command: Command) -> None:
    """The second half of with-engine."""
    raise typer.Exit(engine.run_inside(name, folder, command))


def main() -> None:
    """Run a command; a problem ends it with three lines instead of a traceback."""
    try:
        app()
    except Failure as failure:
        say(f"\n{failure.step or 'make'} failed\n  cause:  {failure}\n  fix:    {failure.fix}")
        sys.exit(1)


if __name__ == "__main__":
    main()
