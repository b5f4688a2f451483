"""Manage the users of a stack: list, add, rotate and retire users, hand over logins.

These commands change the configuration of the stack. Run `pulumi up` to deploy the change.
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
from operations.credentials.state import DEPLOYED, EXPIRED, is_expired, password_kind, state
from operations.options import ConfigFile, Stack
from operations.stack import Change, Credentials, StackConfig, fault

app = typer.Typer(help=__doc__, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the user.", show_default=False)]

#: Days by which the printed fix extends an expired login.
_RENEWAL_DAYS = 90
_TOOL = ("python", "-m", "operations", "credentials")


@app.command("list")
def list_(stack: Stack = None, config_file: ConfigFile = None) -> None:
    """Show all users, upstream logins and unfinished rotations. Passwords are never shown."""
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
    screen.print(f"Logins at {found.url or 'the registry (registry.url is not set)'}\n", markup=False)
    screen.print(table)
    if gone or any(state(name, found, deployed, _today()) not in (DEPLOYED, EXPIRED) for name in found.users):
        update = config.command("pulumi", "up")
        screen.print(
            f"\nSome changes are not deployed yet. To deploy the changes, run: {update}", markup=False, soft_wrap=True
        )
    upstream = {name: mirror for name, mirror in found.mirrors.items() if mirror.username is not None}
    if upstream:
        table = Table("Mirror", "Upstream login", "Password", box=None, pad_edge=False)
        for name, mirror in upstream.items():
            table.add_row(name, mirror.username, "set" if name in found.upstream_passwords else "missing")
        screen.print()
        screen.print(table)
    for older, newest in rotations(found.users):
        screen.print(
            f"\nUnfinished rotation: {newest} replaces {', '.join(older)}. When all clients use {newest}, run:",
            *(config.command(*_TOOL, "retire", name) for name in older),
            sep="\n  ",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def add(
    name: Name,
    role: Annotated[
        Role, typer.Option(help="push includes pull; admin includes both and can delete.", show_default=False)
    ],
    expires: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Last day of the login in UTC, for example 2027-01-31.", show_default=False),
    ] = None,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Add a user. The command generates a password and prints it once, on standard output."""
    config = StackConfig(stack, config_file)
    _check_name(name)
    if is_successor(name):
        raise Failure(
            f"the name {name} ends in a dot and a number: a rotation uses such a name for the successor of a user",
            "choose a name with another ending, or add a successor: "
            + config.command(*_TOOL, "rotate", first_name(name)),
        )
    user = _user(role, expires)
    found = config.read()
    if name in found.users or (members := family(name, found.users)):
        taken = name if name in found.users else members[-1]
        raise Failure(
            f"the user {taken} already exists with the role {found.users[taken].role}",
            f"choose another name, or give {taken} a new password: {config.command(*_TOOL, 'rotate', taken)}",
        )
    password = _create(config, found, name, user)
    say(
        f"added {name} with the role {role}. To make the login valid, run: {config.command('pulumi', 'up')}\n"
        f"{_printed_once(config, name)}"
    )
    typer.echo(password)


@app.command()
def rotate(
    name: Name,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Keep the name and replace the password. The registry refuses clients with the old password.",
        ),
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Add a successor to a user: NAME.2 with the same role and expiry. NAME stays valid until you retire it.

    The next rotation adds NAME.3 beside NAME.2, and so on. After you retire NAME, the name NAME selects the newest
    successor. The command prints the new password once, on standard output.
    """
    config = StackConfig(stack, config_file)
    found = config.read()
    name = _current(name, found.users)
    user = found.users[name]
    if is_expired(user, _today()):
        raise Failure(
            f"{name} expired on {user.expires}: a new password would be expired too",
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
            f"replaced the password of {name}. To make the new password valid, run: {config.command('pulumi', 'up')}\n"
            f"The registry then refuses the clients of {name} until they have the new password.\n"
            f"{_printed_once(config, name)}"
        )
        typer.echo(password)
        return
    first = first_name(name)
    *older, newest = family(first, found.users)
    if older:
        raise Failure(
            f"the rotation of {first} is not finished: {newest} exists beside {', '.join(older)}",
            "finish the rotation first: " + " && ".join(config.command(*_TOOL, "retire", each) for each in older),
        )
    successor = next_name(name)
    _check_name(successor)
    password = _create(config, found, successor, user)
    say(
        f"added {successor} with the role {user.role}, like {name}."
        f" To make both logins valid, run: {config.command('pulumi', 'up')}\n"
        f"To give the new login to the clients of {name}, run: {config.command(*_TOOL, 'show-login', successor)}\n"
        f"When all clients use {successor}, run: {config.command(*_TOOL, 'retire', name)}\n"
        "The password is printed only once:"
    )
    typer.echo(password)


@app.command()
def retire(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also remove the last admin, or a user whose successor is not deployed yet.")
    ] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Remove a user and its password. In a rotation, retire the old user, or the new user to cancel the rotation."""
    config = StackConfig(stack, config_file)
    found = config.read()
    if name not in found.users:
        _unknown(name, found.users)
    user, others = found.users[name], {each: user for each, user in found.users.items() if each != name}
    if not others:
        raise Failure(
            f"{name} is the only user. `pulumi up` refuses a registry without users, because nobody could push or pull",
            f"add another user first: {config.command(*_TOOL, 'add', _example_name(name), '--role', user.role)}",
        )
    if not force:
        _check_nobody_is_locked_out(config, found, name, others)
    config.change(
        Change(("registry", "users", name), _plain(user), None),
        Change(("passwords", name), found.passwords.get(name), None),
    )
    remaining = family(first_name(name), others)
    end = f" Remaining: {', '.join(remaining)}." if remaining else ""
    say(f"removed {name}.{end} To revoke the login of {name}, run: {config.command('pulumi', 'up')}")


@app.command()
def show_login(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(help="Write a Docker config.json with mode 0600. An existing file keeps its other entries."),
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print only the password, for a pipe.")] = False,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Hand over a login as a Docker config.json, or as the password for `docker login --password-stdin`.

    Without an option, print a command that logs in. The printed command does not contain the password.
    """
    config = StackConfig(stack, config_file)
    found = config.read()
    name = _current(name, found.users)
    password = found.passwords.get(name)
    if password is None or is_hash(password):
        reason = "stored as a bcrypt hash, and nobody can read a password from a hash" if password else "not set"
        raise Failure(
            f"the password of {name} is {reason}",
            f"ask the person who chose the password, or rotate the user: {config.command(*_TOOL, 'rotate', name)}",
        )
    if found.url is None:
        set_url = config.on_this_stack(set_command("registry.url", "https://registry.example.com"))
        raise Failure("registry.url is not set, so nobody can log in yet", set_url)
    if output and stdout:
        raise Failure("--output and --stdout cannot be used together", "use only one of the two options")
    if (now := state(name, found, config.deployed_users(), _today())) != DEPLOYED:
        say(f"Note: the login of {name} is not deployed as configured ({now}).")
    show = config.command(*_TOOL, "show-login", name, "--stdout")
    pipe = f"{show} | docker login {found.url.netloc} --username {name} --password-stdin"
    if output:
        try:
            write_login(output, found.url.netloc, name, password)
        except Failure as failure:
            raise Failure(str(failure), f"{failure.fix}; or log in without a file: {pipe}") from None
        say(f"wrote the login of {name} at {found.url.netloc} to {output}. Only you can read the file.")
    elif stdout:
        typer.echo(password.get_secret_value())
    else:
        typer.echo(pipe)


def _current(name: str, users: Mapping[str, UserSettings]) -> str:
    """Return the user with this name, or the newest successor if the user was retired."""
    if name in users:
        return name
    return members[-1] if (members := family(name, users)) else _unknown(name, users)


def _unknown(name: str, users: Mapping[str, UserSettings]) -> NoReturn:
    kin = family(first_name(name), users)
    raise Failure(
        f"there is no user {name}",
        f"{'did you mean' if kin else 'existing users:'} {', '.join(kin or users) or 'none'}",
    )


def _check_name(name: str) -> None:
    try:
        TypeAdapter(UserName).validate_python(name)
    except ValidationError as error:
        raise Failure(f"{name!r} is not a valid user name", f"choose {fault(error)}") from None


def _user(role: Role, expires: str | None) -> UserSettings:
    try:
        user = UserSettings.model_validate({"role": role, "expires": expires} if expires else {"role": role})
    except ValidationError as error:
        raise Failure(f"--expires {expires} is not valid", f"use {fault(error)}") from None
    if is_expired(user, _today()):
        raise Failure(f"--expires {expires} is in the past: nobody could log in", "use today's date or a later date")
    return user


def _create(config: StackConfig, found: Credentials, name: str, user: UserSettings) -> str:
    """Add a user to the configuration with a password of 256 random bits. Return the password."""
    password = secrets.token_hex(32)
    config.change(
        Change(("passwords", name), found.passwords.get(name), SecretStr(password)),
        Change(("registry", "users", name), None, _plain(user)),
    )
    return password


def _check_nobody_is_locked_out(
    config: StackConfig, found: Credentials, name: str, others: Mapping[str, UserSettings]
) -> None:
    """Refuse a removal that is usually a mistake. The option ``--force`` skips this check.

    Raises:
        Failure: for the last admin, and for a deployed user whose successor is not deployed.
    """
    admins = [each for each, user in others.items() if user.role == "admin" and not is_expired(user, _today())]
    if found.users[name].role == "admin" and not is_expired(found.users[name], _today()) and not admins:
        raise Failure(
            f"{name} is the last admin. Without an admin, nobody can delete an image",
            f"add another admin first: {config.command(*_TOOL, 'add', _example_name(name), '--role', 'admin')};"
            f" or override: {config.command(*_TOOL, 'retire', name, '--force')}",
        )
    kin = family(first_name(name), others)
    deployed = config.deployed_users() if kin else {}
    if name in deployed and kin and all(state(each, found, deployed, _today()) != DEPLOYED for each in kin):
        raise Failure(
            f"the successor of {name} is not deployed yet ({', '.join(kin)}): clients would have no valid login",
            f"run {config.command('pulumi', 'up')};"
            f" hand over the login: {config.command(*_TOOL, 'show-login', kin[-1])};"
            f" then run {config.command(*_TOOL, 'retire', name)}; if no client uses {name}: "
            + config.command(*_TOOL, "retire", name, "--force"),
        )


def _printed_once(config: StackConfig, name: str) -> str:
    show = config.command(*_TOOL, "show-login", name)
    return f"The password is printed only once. To hand over the login later, run: {show}"


def _example_name(name: str) -> str:
    """Return an example name for a second user. A dot in the name would make the user a successor."""
    return f"{first_name(name)}-two"


def _plain(user: UserSettings) -> dict[str, str]:
    values: dict[str, str] = user.model_dump(mode="json", exclude_none=True)
    return values


def _today() -> datetime.date:
    """Return the current day in UTC, the day that `pulumi up` compares with an expiry."""
    return datetime.datetime.now(datetime.UTC).date()
