"""Install the files on a machine, check which upstreams go through a mirror there, and take the files back."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table

from components.configuration.fields import DockerHost
from components.configuration.problems import Failure, redacted
from operations.clients.checking import Use, our_files, uses
from operations.clients.difference import difference
from operations.clients.files import Mirrors
from operations.clients.installing import carry_out, tidy_journal
from operations.clients.machine import Machine
from operations.clients.outputs import deployed_mirrors
from operations.clients.planning import DAEMON, JOURNAL, File, Plan, journal, plan
from operations.clients.programs import Programs, ask, find, validate
from operations.clients.trying import Trial, trials
from operations.console import say, show_table, waiting
from operations.options import ConfigFile, Stack
from operations.stack import StackConfig

Host = Annotated[
    str | None, typer.Option(metavar="ssh://USER@HOST", help="The machine with the clients. Default: this machine.")
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", metavar="ssh://USER@HOST", help="A machine. Repeat the option for more.")
]
Root = Annotated[
    str,
    typer.Option(metavar="DIR", help="Work on an image of a machine that is mounted here. No program is asked or run."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Change the files without a question.")]


def install(
    *,
    host: Host = None,
    try_: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="IMAGE",
            help="Pull this image there, and check that the mirror's counters move. Repeat the option for more.",
        ),
    ] = None,
    root: Root = "",
    yes: Yes = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Make the clients of a machine use the mirrors. Keys of others in the machine's files stay.

    The command shows the difference and asks. If a step fails, every file is put back.
    """
    config = StackConfig(stack, config_file)
    with _machine(host, root) as machine:
        _install(machine, config, deployed_mirrors(config, {}), try_ or [], yes=yes)


def _install(machine: Machine, config: StackConfig, mirrors: Mirrors, images: list[str], *, yes: bool) -> None:
    with waiting(f"Reading the files of {machine.name} …"):
        programs = find(machine)
        tries = trials(config, mirrors, programs, images)
        made, files = _planned(machine, our_files(mirrors, programs.clients))
        _check_before(machine, mirrors, programs, made)
    _confirm(machine, made, yes=yes)
    _carry_out(machine, made, files, tries)
    for client in programs.clients:
        if client.restarts:
            say(f"{client.name}: {client.reload}")
    is_silent = programs.docker is None and not machine.is_image
    if is_silent and any(change.file.path == DAEMON for change in made.changes):
        say("Docker did not answer. If it runs, run `systemctl reload docker` on the machine.")
    for use in uses(mirrors, find(machine), machine.read(our_files(mirrors, programs.clients))):
        if use.reason:
            say(f"{use.client.name} does not use the mirror of {use.mirror.upstream}: {use.reason}")


def check(
    host: Hosts = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON. docs/clients.md describes the fields.")] = False,
    root: Root = "",
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show for each machine which upstreams go through a mirror.

    The exit status is 1 if some do not, or if a machine does not answer.
    """
    mirrors = deployed_mirrors(StackConfig(stack, config_file), {})
    rows, failures = list[tuple[str, Use]](), list[Failure]()
    for machine in [_machine(name, root) for name in host or ()] or [_machine(None, root)]:
        try:
            with waiting(f"Reading the files of {machine.name} …"), machine:
                programs = find(machine)
                found = uses(mirrors, programs, machine.read(our_files(mirrors, programs.clients)))
        except Failure as failure:
            failures.append(failure)
        else:
            rows += [(machine.name, use) for use in found]
    if as_json:
        typer.echo(json.dumps([{"machine": name, **use.as_json()} for name, use in rows], indent=2))
    else:
        table = Table("Machine", "Client", "Upstream", "Mirror", "Through the mirror", box=None, pad_edge=False)
        for name, use in rows:
            state = escape(f"no: {use.reason}") if use.reason else "yes"
            table.add_row(name, use.client.name, use.mirror.upstream, str(use.mirror.address), state)
        show_table(table)
    for each in failures:
        say(f"{redacted(str(each))}\n  fix: {redacted(each.fix)}")
    if failures or any(use.reason for _, use in rows):
        raise typer.Exit(1)


def uninstall(host: Host = None, root: Root = "", yes: Yes = False) -> None:
    """Give a machine back the files from before `install`. In a file that others changed since, only our entries go."""
    with _machine(host, root) as machine:
        with waiting(f"Reading the files of {machine.name} …"):
            made, files = _planned(machine, {})
        if made.begun.files:
            _confirm(machine, made, yes=yes)
            _carry_out(machine, made, files, [])
        else:
            tidy_journal(machine, files[JOURNAL])
            say(f"Nothing is installed on {machine.name}.")


def _machine(host: str | None, root: str) -> Machine:
    try:
        if host and not TypeAdapter(DockerHost).validate_python(host).startswith("ssh://"):
            raise ValueError
    except (ValidationError, ValueError):
        raise Failure("--host is not an address such as ssh://user@host", "correct --host") from None
    if root and not root.startswith("/"):
        raise Failure(f"--root {root} is not an absolute path", "begin the path with /")
    return Machine(host, root)


def _planned(machine: Machine, ours: Mapping[str, str]) -> tuple[Plan, Mapping[str, File]]:
    """Return the plan, and the files that it is for."""
    files = machine.read([JOURNAL, *ours])
    former = journal(files[JOURNAL])
    if not former.complete:
        say(f"An earlier run on {machine.name} was interrupted. This run knows the former files, and completes it.")
    files |= machine.read(former.files.keys() - files.keys())
    if files[JOURNAL].problem:
        raise Failure(f"{JOURNAL} {files[JOURNAL].problem}. Nothing was changed", "make the folder writable")
    return plan(ours, files, former), files


def _check_before(machine: Machine, mirrors: Mirrors, programs: Programs, made: Plan) -> None:
    """Let the programs of the machine check what can be checked before a change."""
    if machine.is_image:
        return
    for change in made.changes:
        if change.file.path == DAEMON and change.text is not None:
            validate(machine, change.text)
    if not all(ask(machine, mirror, mirrors.authority) for mirror in mirrors.every):
        say(f"{machine.name} has no curl and no wget that can ask the mirrors. It may not reach them.")


def _confirm(machine: Machine, made: Plan, *, yes: bool) -> None:
    """Show the changes, and ask.

    Raises:
        Failure: if nobody can answer.
        Exit: if the answer is no.
    """
    for change in made.changes:
        for line in difference(change):
            typer.echo(line)
    if not made.changes:
        say(f"The files of {machine.name} need no change.")
    elif not yes and not sys.stdin.isatty():
        raise Failure("nobody can answer: standard input is not a terminal. Nothing was changed", "add --yes")
    elif not yes and not typer.confirm(f"Change these files on {machine.name}?", err=True):
        say("Nothing was changed.")
        raise typer.Exit(1)


def _carry_out(machine: Machine, made: Plan, files: Mapping[str, File], tries: list[Trial]) -> None:
    def pulls() -> None:
        for each in tries:
            each.run(machine)

    try:
        with waiting(f"Changing the files of {machine.name} …"):
            if made.changes or tries or made.done != journal(files[JOURNAL]):
                carry_out(machine, made, files[JOURNAL], pulls)
            else:
                tidy_journal(machine, files[JOURNAL])
    except KeyboardInterrupt:
        say("Stopped. Every file is as before.")
        raise typer.Exit(1) from None
    if made.changes:
        back = f" The former files are in {JOURNAL} there." if made.done.files else ""
        say(f"changed {len(made.changes)} files on {machine.name}.{back}")
