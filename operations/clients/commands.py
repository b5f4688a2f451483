"""Write the files that make clients use the mirrors of a stack; install, check and remove the files on machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from components.configuration.problems import Failure
from components.configuration.settings import DOCKER_HUB
from operations.clients.files import client_files
from operations.clients.folder import SUMS, write_folder
from operations.clients.machine_commands import check, install, uninstall
from operations.clients.merging import Unmergeable, data
from operations.clients.outputs import deployed_mirrors
from operations.clients.page import PAGE, page
from operations.console import say
from operations.options import ConfigFile, Stack
from operations.stack import StackConfig

app = typer.Typer(invoke_without_command=True)
app.command()(install)
app.command()(check)
app.command()(uninstall)


@app.callback()
def clients(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.", file_okay=False)
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the keys and mirrors of this daemon.json of Docker.", dir_okay=False),
    ] = None,
    stack: Stack = None,
    config_file: ConfigFile = None,
) -> None:
    """Write the files with which Docker, containerd, BuildKit, Podman, CRI-O, k3s and RKE2 use the mirrors.

    With --output, the command only writes into that folder. README.md there says where each file goes. A later run
    replaces the files that the command wrote before. The commands below work on the files of a machine.
    """
    if context.invoked_subcommand:
        if output or merge or stack or config_file:
            raise typer.BadParameter(f"write the options behind {context.invoked_subcommand}")
        return
    if output is None:
        raise typer.BadParameter("name the folder for the files", param_hint="--output")
    mirrors = deployed_mirrors(StackConfig(stack, config_file), _daemon(merge) if merge else {})
    if merge and not mirrors.docker_hub:
        raise Failure(
            f"the stack has no mirror of {DOCKER_HUB}, and daemon.json can name no other mirror",
            "run the command without --merge",
        )
    files = client_files(mirrors)
    texts = {name: text for own in files.values() for name, text in own.items()} | {PAGE: page(mirrors, files)}
    removed = write_folder(output, texts)
    for name in removed:
        say(f"removed {output / name}: the stack no longer needs this file")
    for name in (*texts, SUMS):
        typer.echo(output / name)
    say(f"To install the files on a client, read {output / PAGE}")


def _daemon(file: Path) -> dict[str, Any]:
    """Read a ``daemon.json``. Docker accepts an empty file and a byte order mark.

    Raises:
        Failure: if Docker would refuse the file, or if the mirrors in the file are not a list of texts.
    """
    fix = f"correct {file}, or name the daemon.json of the client with --merge"
    try:
        content = data("daemon.json", file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}. Nothing was written", fix) from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is not a text in UTF-8. Nothing was written", fix) from None
    except Unmergeable as reason:
        raise Failure(f"{file}: {reason}. Nothing was written", fix) from None
    others = content.get("registry-mirrors", [])
    if not isinstance(others, list) or not all(isinstance(url, str) for url in others):
        raise Failure(f"registry-mirrors in {file} is not a list of texts. Nothing was written", fix)
    return content
