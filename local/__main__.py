"""Commands that the Makefile calls: `python -m local`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from components.configuration.problems import Failure
from local import engine, outdated, pipelines, stack, toolchain
from local.steps import is_root, say

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Command = Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")]


@app.command()
def up() -> None:
    """Start the stack `local`. Install or build missing programs first."""
    stack.up()


@app.command()
def down() -> None:
    """Remove containers and networks; keep the data."""
    stack.down()


@app.command()
def purge() -> None:
    """Remove everything, including pushed images, after a confirmation."""
    confirmation = os.environ.get("CONFIRM")
    if confirmation is None and sys.stdin.isatty():
        confirmation = typer.prompt(
            f"This removes all data of the stack {stack.STACK}. Type the name of the stack to continue"
        )
    if confirmation != stack.STACK:
        raise Failure("you did not confirm the purge; nothing was removed", f"CONFIRM={stack.STACK} make purge")
    stack.purge()


@app.command()
def prepare() -> None:
    """Install or build the programs that the tests need."""
    toolchain.prepare_pulumi()
    toolchain.prepare_tests()
    pipelines.prepare()
    if is_root():  # only root can start an engine
        for name in engine.NAMES:
            engine.prepare(name)


@app.command(name="outdated")
def show_outdated() -> None:
    """Show the pinned versions that are not the newest: Python packages, Go modules, npm packages, images."""
    typer.echo(outdated.report())


@app.command()
def with_engine(name: Annotated[str, typer.Argument(help="debian or modules")], command: Command) -> None:
    """Run a command with a throwaway engine."""
    if name not in engine.NAMES:
        raise Failure(
            f"there is no engine {name}", "use debian (the distribution's package) or modules (a current engine)"
        )
    raise typer.Exit(engine.run_with(name, command))


@app.command(hidden=True)
def inside_namespaces(name: str, folder: Path, command: Command) -> None:
    """Run the part of with-engine that needs the new namespaces."""
    raise typer.Exit(engine.run_inside(name, folder, command))


def main() -> None:
    """Run a command. A failure prints three lines instead of a traceback: step, cause and fix."""
    try:
        app()
    except Failure as failure:
        say(f"\n{failure.step or 'make'} failed\n  cause:  {failure}\n  fix:    {failure.fix}")
        sys.exit(1)


if __name__ == "__main__":
    main()
