"""Plan what the registry keeps and deletes, and apply a plan: `retention`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from components.configuration.problems import Failure
from components.configuration.retention import RetentionSettings
from components.configuration.rules.retention import unreachable
from operations.console import say, screen, show_table, waiting
from operations.files import replace_file
from operations.history.reading import read_store
from operations.options import ConfigFile, Stack
from operations.retention.applying import apply as apply_plan
from operations.retention.deleting import Admin
from operations.retention.gathering import gather, running
from operations.retention.plan import Plan
from operations.retention.planner import make_plan
from operations.retention.presentation import markdown, plan_table, summary
from operations.stack import StackConfig
from operations.trust import trust_in

app = typer.Typer(help="Delete old tags and manifests by the rules of `registry.retention`.", no_args_is_help=True)

_TOOL = ("python", "-m", "operations", "retention")


@app.command()
def plan(
    *,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan for `retention apply`, as JSON.")
    ] = None,
    as_markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the plan for a comment, as Markdown.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Plan even if this host of `running_on` does not answer, or runs unknown images. Repeat the option.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON: the content of the file.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Show for each tag whether it stays or goes, and why. Nothing is deleted.

    The command reads the registry's data with a throwaway container on the Docker host, and asks the hosts of
    `running_on` for their containers. The exit status is 1 if the plan deletes more than `most` allows.
    """
    config = StackConfig(stack, config_file)
    settings, deployed = config.retention(), config.deployed()
    if settings is None:
        raise Failure(
            "registry.retention is not set, so every tag stays",
            "write rules into the stack file, as docs/retention.md describes",
        )
    if never := unreachable(settings.rules):
        raise Failure(
            f"registry.retention.rules[{never[0]}] can never match: earlier rules match everything that it matches",
            config.command("pulumi", "preview"),
        )
    if strangers := set(without or ()) - set(settings.running_on):
        raise typer.BadParameter(f"{min(strangers)} is not in registry.retention.running_on", param_hint="--without")
    found = make_plan(gather(config, deployed, settings, tuple(without or ())))
    text = found.model_dump_json(indent=2) + "\n"
    if output:
        _write(output, text)
    if as_markdown:
        _write(as_markdown, markdown(found, f"Retention of {found.registry}"))
    if as_json:
        typer.echo(text, nl=False)
    else:
        _print(found)
    if not settings.running_on:
        say("Note: registry.retention.running_on lists no host, so the plan does not know which images run.")
    if found.excess:
        file = str(output or "plan.json")
        apply_it = config.command(*_TOOL, "apply", file, "--more")
        make_it = "" if output else f"{_again(config, file, found.without)}; "
        raise Failure(found.excess, f"check the rules, or apply this plan nevertheless: {make_it}{apply_it}")


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="The file that `retention plan --output` wrote.")],
    more: Annotated[bool, typer.Option("--more", help="Delete even more than `most` allows.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON. docs/retention.md describes the fields.")
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Delete what a plan deletes, and nothing else. After an interruption, run the command again.

    The command refuses the plan if a tag was pushed again, if something new needs what the plan deletes, or if a host
    runs it now. Deletions free no space: `gc` does.
    """
    config = StackConfig(stack, config_file)
    deployed = config.deployed()
    found = _read(file, config)
    registry = deployed.registry_url.netloc
    if found.registry != registry:
        raise Failure(f"{file} is a plan for {found.registry}, and this stack has {registry}", "select the other stack")
    if found.excess and not more:
        raise Failure(
            found.excess, f"check the plan; to apply it: {config.command(*_TOOL, 'apply', str(file), '--more')}"
        )
    again = _again(config, str(file), found.without)
    if config.retention() != RetentionSettings(**{key: getattr(found, key) for key in RetentionSettings.model_fields}):
        raise Failure(f"{file} was made with other settings of registry.retention", f"make a new plan: {again}")
    up = config.command("pulumi", "up")
    with (
        Admin(
            deployed.registry_url, config.read().stack_secret, trust_in(deployed.ca_certificate, config), up=up
        ) as admin,
        waiting("Checking the registry …") as status,
    ):
        done = apply_plan(
            found,
            read=lambda: read_store(config, deployed),
            points_to=admin.points_to,
            delete=admin.delete,
            again=again,
            running=lambda: running(config, deployed, found, f"make a new plan: {again}"),
            progress=lambda number, of: status.update(f"Deleting {number + 1} of {of} …"),
        )
    every = len(found.deleted_tags) + len(found.deleted_manifests)
    if as_json:
        typer.echo(json.dumps({"registry": registry, "deleted": done, "gone": every - done, "freed": found.freed}))
    else:
        typer.echo(f"{registry}: deleted {done} of {every} tags and manifests; {every - done} were gone already")
    if every:
        say(f"To free the space of what was deleted, run: {config.command('python', '-m', 'operations', 'gc')}")


def _print(plan: Plan) -> None:
    if plan.tags or plan.manifests:
        show_table(plan_table(plan))
        screen.print()
    screen.print(f"{plan.registry}: {summary(plan)}", markup=False, soft_wrap=True)


def _again(config: StackConfig, file: str, without: Iterable[str]) -> str:
    """Return the command that makes a plan again."""
    options = [word for host in without for word in ("--without", host)]
    return config.command(*_TOOL, "plan", "--output", file, *options)


def _read(file: Path, config: StackConfig) -> Plan:
    again = _again(config, str(file), ())
    try:
        return Plan.model_validate_json(file.read_bytes())
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", again) from None
    except ValidationError:
        raise Failure(f"{file} is not a plan of this version", again) from None


def _write(file: Path, text: str) -> None:
    try:
        replace_file(file, text)
    except OSError as error:
        raise Failure(f"cannot write {file}: {error.strerror}", "name a file that you may write") from None
