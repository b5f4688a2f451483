"""The credentials of a stack: who may log in, new users, new passwords, retirement.

These commands change the configuration of the stack; `pulumi up` makes the change true.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr, TypeAdapter, ValidationError
from rich.table import Table

from components.configuration.fields import UserName
from components.configuration.passwords import is_hash
from components.configuration.problems import Failure, path, set_command
from components.configuration.settings import ROLES_OF, Role, UserSettings
from operations.console import say, screen
from operations.credentials.docker_config import write_login
from operations.credentials.rotation import family, first_name, is_successor, next_name, rotations
from operations.credentials.state import EXPIRED, IN_FORCE, is_expired, password_kind, state
from operations.stack import Change, Credentials, StackConfig, fault

app = typer.Typer(help=__doc__, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the user.", show_default=False)]
Stack = Annotated[str | None, typer.Option("--stack", "-s", help="The stack; if not given, the selected one.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config-file", help="The stack's configuration file, if it is not beside Pulumi.yaml.")
]

#: How long an expired login is renewed by the command that a refusal prints.
_RENEWAL_DAYS = 90
_TOOL = ("python", "-m", "operations", "credentials")


@app.command("list")
def list_(stack: Stack = None, config_file: ConfigFile = None) -> None:
    """Show all users and upstream logins, and which rotations wait to be finished; never a password."""
    config = StackConfig(stack, config_file)
    found, deployed = config.read(), config.deployed_users()
    table = Table("User", "Role", "Accepted by", "Expires", "Password", "State", box=None, pad_edge=False)
    for name, user in found.users.items():
        table.add_row(
            name,
            user.role,
            ", ".join(process for process, roles in ROLES_OF.items() if user.role in roles),
            str(user.expires or "never"),
            password_kind(found.passwords.get(name)),
            state(name, found, deployed, _today()),
        )
    gone = sorted(deployed.keys() - found.users.keys())
    for name in gone:
        table.add_row(name, deployed[name].role, "", "", "", "retired")
    screen.print(f"Logins at {found.url or 'the registry, whose registry.url is not set'}\n", markup=False)
    screen.print(table)
    if gone or any(state(name, found, deployed, _today()) not in (IN_FORCE, EXPIRED) for name in found.users):
        update = config.command("pulumi", "up")
        screen.print(f"\nWhat is new, changed or retired waits for: {update}", markup=False, soft_wrap=True)
    upstream = {name: mirror for name, mirror in found.mirrors.items() if mirror.username is not None}
    if upstream:
        table = Table("Mirror", "Login at its upstream", "Password", box=None, pad_edge=False)
        for name, mirror in upstream.items():
            table.add_row(name, mirror.username, "set" if name in found.upstream_passwords else "missing")
        screen.print()
        screen.print(table)
    for older, newest in rotations(found.users):
        screen.print(
            f"\nA rotation waits to be finished: {newest} takes the place of {', '.join(older)}."
            f" When the clients use {newest}:",
            *(config.command(*_TOOL, "retire", name) for name in older),
            sep="\n  ",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="push holds pull, admin holds both and deletes.", show_default=False)],
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last day of the login, like 2027-01-31.", show_default=False)
    ] = None,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Add a user with a generated password, which is printed on standard output, once."""
    config = StackConfig(stack, config_file)
    _check_name(name)
    if is_successor(name):
        raise Failure(
            f"{name} ends in a dot and a number, which is how the successor of a user is called in a rotation",
            "choose a name with another ending, or add a successor: "
            + config.command(*_TOOL, "rotate", first_name(name)),
        )
    user = _user(role, expires)
    found = config.read()
    if name in found.users or (members := family(name, found.users)):
        taken = name if name in found.users else members[-1]
        raise Failure(
            f"there is a user {taken} already, with the role {found.users[taken].role}",
            f"choose another name, or give {taken} a new password: {config.command(*_TOOL, 'rotate', taken)}",
        )
    password = _create(config, found, name, user)
    say(
        f"added {name} with the role {role}. Run this to make the login valid: {config.command('pulumi', 'up')}\n"
        f"The password is printed only once; to hand it over later: {config.command(*_TOOL, 'show-login', name)}"
    )
    typer.echo(password)


@app.command()
def rotate(
    name: Name,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Replace the password of the same name: its clients are refused until they have it."
        ),
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Give a user a successor: NAME.2 with the same right and expiry, valid beside NAME until NAME is retired.

    The next rotation adds NAME.3 beside NAME.2, and so on; NAME alone means whichever of them there is. The new
    password is printed on standard output, once.
    """
    config = StackConfig(stack, config_file)
    found = config.read()
    name = _current(name, found.users)
    user = found.users[name]
    if is_expired(user, _today()):
        raise Failure(
            f"{name} expired on {user.expires}, and so would its new password",
            config.on_this_stack(
                set_command(
                    path("registry", "users", name, "expires"), str(_today() + datetime.timedelta(days=_RENEWAL_DAYS))
                )
            ),
        )
    if in_place:
        password = secrets.token_hex(32)
        config.change(Change(("passwords", name), found.passwords.get(name), SecretStr(password)))
        say(
            f"{name} has a new password. Run this to make it valid: {config.command('pulumi', 'up')}\n"
            f"The registry then refuses the clients of {name} until they have the new password. The password is printed"
            f" only once; to hand it over later: {config.command(*_TOOL, 'show-login', name)}"
        )
        typer.echo(password)
        return
    first = first_name(name)
    if len(family(first, found.users)) > 1:
        older, newest = next(pair for pair in rotations(found.users) if pair[1] == family(first, found.users)[-1])
        raise Failure(
            f"a rotation of {first} is not finished: {newest} is valid beside {', '.join(older)}",
            "finish it first: " + " && ".join(config.command(*_TOOL, "retire", each) for each in older),
        )
    successor = next_name(name)
    _check_name(successor)
    password = _create(config, found, successor, user)
    say(
        f"added {successor} with the role {user.role}, like {name}."
        f" Run this to make both valid: {config.command('pulumi', 'up')}\n"
        f"Hand {successor} over to the clients of {name}: {config.command(*_TOOL, 'show-login', successor)}\n"
        f"When the clients use {successor}: {config.command(*_TOOL, 'retire', name)}\n"
        "The password is printed only once:"
    )
    typer.echo(password)


@app.command()
def retire(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also the last admin, and one whose successor is not in force yet.")
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Remove a user and its password; in a rotation, the old one, or the new one to call the rotation off."""
    config = StackConfig(stack, config_file)
    found = config.read()
    if name not in found.users:
        _unknown(name, found.users)
    user, others = found.users[name], {each: user for each, user in found.users.items() if each != name}
    if not others:
        raise Failure(
            f"{name} is the only user, and without one nobody can push or pull: `pulumi up` would refuse it",
            f"add another user first: {config.command(*_TOOL, 'add', _example_name(name), '--role', user.role)}",
        )
    if not force:
        _check_nobody_is_locked_out(config, found, name, others)
    config.change(
        Change(("registry", "users", name), _plain(user), None),
        Change(("passwords", name), found.passwords.get(name), None),
    )
    remaining = family(name, others)
    end = f" {' and '.join(remaining)} stays." if remaining else ""
    say(f"removed {name}.{end} Run this to revoke the login: {config.command('pulumi', 'up')}")


@app.command()
def show_login(
    name: Name,
    output: Annotated[
        Path | None, typer.Option(help="Write a Docker config.json with mode 0600; in an existing one, set the entry.")
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the password alone, for a pipe.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Hand a login over: as a Docker config.json, or as the password for `docker login --password-stdin`.

    Without an option, show the command that logs in, without the password in it.
    """
    config = StackConfig(stack, config_file)
    found = config.read()
    name = _current(name, found.users)
    password = found.passwords.get(name)
    if password is None or is_hash(password):
        reason = "as a bcrypt hash, from which it cannot be found" if password else "nowhere"
        raise Failure(
            f"the password of {name} is stored {reason}",
            f"ask the person who chose it, or give the user a new one: {config.command(*_TOOL, 'rotate', name)}",
        )
    if found.url is None:
        set_url = config.on_this_stack(set_command("registry.url", "https://registry.example.com"))
        raise Failure("registry.url is not set, so nobody can log in yet", set_url)
    if output and stdout:
        raise Failure("--output and --stdout exclude each other", "choose one of them")
    if (now := state(name, found, config.deployed_users(), _today())) != IN_FORCE:
        say(f"Note: {name} is not in force as configured ({now}).")
    show = config.command(*_TOOL, "show-login", name, "--stdout")
    pipe = f"{show} | docker login {found.url.netloc} --username {name} --password-stdin"
    if output:
        try:
            write_login(output, found.url.netloc, name, password)
        except Failure as failure:
            raise Failure(str(failure), f"{failure.fix}; or log in without a file: {pipe}") from None
        say(f"{output} logs in as {name} at {found.url.netloc}; only you can read it.")
    elif stdout:
        typer.echo(password.get_secret_value())
    else:
        typer.echo(pipe)


def _current(name: str, users: Mapping[str, UserSettings]) -> str:
    """The user of this name; for the name of a first one that was retired, its newest successor."""
    if name in users:
        return name
    return members[-1] if (members := family(name, users)) else _unknown(name, users)


def _unknown(name: str, users: Mapping[str, UserSettings]) -> NoReturn:
    kin = family(name, users)
    raise Failure(
        f"there is no user {name}", f"{'did you mean' if kin else 'choose one of'} {', '.join(kin or users) or 'none'}"
    )


def _check_name(name: str) -> None:
    try:
        TypeAdapter(UserName).validate_python(name)
    except ValidationError as error:
        raise Failure(f"{name!r} cannot be the name of a user", f"choose {fault(error)}") from None


def _user(role: Role, expires: str | None) -> UserSettings:
    try:
        user = UserSettings.model_validate({"role": role, "expires": expires} if expires else {"role": role})
    except ValidationError as error:
        raise Failure(f"--expires {expires} cannot be used", f"give {fault(error)}") from None
    if is_expired(user, _today()):
        raise Failure(f"--expires {expires} is past: nobody could log in", "give today's date or a later one")
    return user


def _create(config: StackConfig, found: Credentials, name: str, user: UserSettings) -> str:
    """Put a new user into the configuration; its password of 256 random bits."""
    password = secrets.token_hex(32)
    config.change(
        Change(("passwords", name), found.passwords.get(name), SecretStr(password)),
        Change(("registry", "users", name), None, _plain(user)),
    )
    return password


def _check_nobody_is_locked_out(
    config: StackConfig, found: Credentials, name: str, others: Mapping[str, UserSettings]
) -> None:
    """What can be wanted, but more often is a mistake: --force allows it.

    Raises:
        Failure: for the last admin, and for a user in force whose successor is not.
    """
    admins = [each for each, user in others.items() if user.role == "admin" and not is_expired(user, _today())]
    if found.users[name].role == "admin" and not is_expired(found.users[name], _today()) and not admins:
        raise Failure(
            f"{name} is the last admin, and without one no person can delete an image",
            f"add another admin first: {config.command(*_TOOL, 'add', _example_name(name), '--role', 'admin')};"
            f" or override: {config.command(*_TOOL, 'retire', name, '--force')}",
        )
    kin = family(name, others)
    deployed = config.deployed_users() if kin else {}
    if name in deployed and kin and all(state(each, found, deployed, _today()) != IN_FORCE for each in kin):
        raise Failure(
            f"{' and '.join(kin)}, the successor of {name}, is not in force yet: clients would have no valid login",
            f"{config.command('pulumi', 'up')}, hand the login over: {config.command(*_TOOL, 'show-login', kin[-1])};"
            f" then {config.command(*_TOOL, 'retire', name)}; if nobody uses {name}: "
            + config.command(*_TOOL, "retire", name, "--force"),
        )


def _example_name(name: str) -> str:
    """The name of another user for a command that adds one; a dot would make it a successor."""
    return f"{first_name(name)}-two"


def _plain(user: UserSettings) -> dict[str, str]:
    values: dict[str, str] = user.model_dump(mode="json", exclude_none=True)
    return values


def _today() -> datetime.date:
    """The day by which `pulumi up` judges an expiry."""
    return datetime.datetime.now(datetime.UTC).date()
