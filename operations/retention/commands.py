"""Plan what the registry keeps and deletes, and apply a plan: `retention`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
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
from operations.history.running import Container, containers
from operations.options import ConfigFile, Stack
from operations.retention.applying import apply as apply_plan
from operations.retention.deleting import Admin
from operations.retention.graph import Graph
from operations.retention.memory import read_memory, write_memory
from operations.retention.plan import Plan
from operations.retention.planner import Question, make_plan
from operations.retention.presentation import markdown, plan_table, summary
from operations.retention.usage import in_use, remembered, unmapped
from operations.stack import Deployed, StackConfig
from operations.throwaway import data_of
from operations.trust import trust_in

app = typer.Typer(help="Delete old tags and manifests by the rules of `registry.retention`.", no_args_is_help=True)

_TOOL = ("python", "-m", "operations", "retention")
#: Docker hosts that are asked at once.
_AT_A_TIME = 16
#: Most images that an error lists.
_LISTED = 10


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
    found = _plan(config, deployed, settings, tuple(without or ()))
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
            delete=admin.delete,
            again=again,
            running=lambda: _running(config, deployed, found, again),
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


def _plan(config: StackConfig, deployed: Deployed, settings: RetentionSettings, without: tuple[str, ...]) -> Plan:
    """Ask the hosts, read the store, and plan. The hosts come first: they can run only what was pushed before."""
    hosts = tuple(dict.fromkeys(settings.running_on))
    host = deployed.docker_host
    with waiting(f"Asking {', '.join(hosts) or 'no host'} …"):
        answers = _ask(hosts, without, "repeat the command with")
    asked = [container for answer in answers.values() for container in answer]
    with waiting(f"Reading the registry's data on {host} …"):
        data = data_of(config, deployed, "reader")
        now, memory = read_memory(host, data)
        store = read_store(config, deployed)
    known_as = Graph(store).known_as
    anonymous = str(config.deployed_outputs().get("anonymous_url") or "").removeprefix("https://")
    names = [name for name in (deployed.registry_url.netloc, anonymous) if name]
    names += [f"{name}:443" for name in names if ":" not in name]
    if strange := [one for one in unmapped(known_as, asked, names) if one[0].host not in without]:
        _refuse_unmapped(strange)
    memory = remembered(memory, known_as, asked, now, answers.keys())
    if hosts:
        write_memory(host, data, memory)
    return make_plan(
        Question(
            store=store,
            settings=settings,
            running=in_use(known_as, asked, memory, hosts),
            now=now,
            registry=deployed.registry_url.netloc,
            without=without,
        )
    )


def _again(config: StackConfig, file: str, without: Iterable[str]) -> str:
    """Return the command that makes a plan again."""
    options = [word for host in without for word in ("--without", host)]
    return config.command(*_TOOL, "plan", "--output", file, *options)


def _running(config: StackConfig, deployed: Deployed, found: Plan, again: str) -> set[str]:
    """Return the IDs and digests of the images that run, or that their services used before."""
    answers = _ask(found.running_on, found.without, f"make a new plan: {again}")
    _, memory = read_memory(deployed.docker_host, data_of(config, deployed, "reader"))
    services = [one for host in found.running_on for one in memory.services.get(host, {}).values()]
    now = {name for answer in answers.values() for one in answer for name in (one.image, *one.digests)}
    return now | {name for service in services for one in service.images for name in (one.image, *one.digests)}


def _ask(hosts: Iterable[str], without: Collection[str], instead: str) -> dict[str, list[Container]]:
    """Return the containers of each host that answers. Only those in ``without`` may be silent.

    ``instead`` is the command that does without a host, with the option after it.
    """

    def ask(host: str) -> list[Container] | None:
        try:
            return containers(host)
        except Failure as failure:
            if host not in without:
                raise Failure(
                    f"{failure}. Without this host, nobody knows which images run",
                    f"{failure.fix}; or {instead} --without {host}",
                ) from None
            say(f"Note: {failure}")
            return None

    every = tuple(dict.fromkeys(hosts))
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        answers = zip(every, pool.map(ask, every), strict=True)
        return {host: answer for host, answer in answers if answer is not None}


def _refuse_unmapped(strange: list[tuple[Container, str]]) -> None:
    names = "; ".join(f"{container} uses {name}" for container, name in strange[:_LISTED])
    more = f"; and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""
    first = strange[0][0]
    stopped = first.state in ("created", "dead", "exited")
    remove = f", or remove the container (docker --host {first.host} rm {first.name})" if stopped else ""
    raise Failure(
        f"the registry has no manifest of these images, which have its name: {names}{more}",
        f"push the image{remove}; or repeat the command with --without {first.host}",
    )


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
