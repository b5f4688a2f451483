"""Post the preview of a stack as a comment of a pull request, and keep it up to date: `comment`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from components.configuration.problems import Failure
from operations.comment.detection import chosen, detect
from operations.comment.forges import Name, PullRequest
from operations.comment.mark import Mark, parse
from operations.comment.refusals import Forbidden
from operations.comment.update import Plan, publish
from operations.console import say

TOKEN_VARIABLE = "COMMENT_TOKEN"  # noqa: S105 - the name of the variable


def comment(
    *,
    file: Annotated[
        Path, typer.Option(metavar="FILE.md", help="The file that `preview --output` wrote.", show_default=False)
    ],
    remove_when_empty: Annotated[
        bool, typer.Option("--remove-when-empty", help="Delete the comment if nothing needs attention or changes.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help=f"Read the token from standard input, not from {TOKEN_VARIABLE}.")
    ] = False,
    forge: Annotated[
        Name | None, typer.Option(help="Kind of the forge. Use gitea for Forgejo too.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the forge, for example https://git.example.com.", show_default=False)
    ] = None,
    repository: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Name of the repository.", show_default=False)
    ] = None,
    number: Annotated[int | None, typer.Option(min=1, help="Number of the pull request.", show_default=False)] = None,
) -> None:
    """Post a preview as a comment of a pull request. A later run replaces the text of the same comment.

    Forge, repository and number come from the variables of GitHub Actions, Gitea Actions, Forgejo Actions, GitLab CI or
    Woodpecker. The token comes from the variable COMMENT_TOKEN. Without a token, the command prints the comment.
    """
    text, mark = _read(file)
    token = _token(sys.stdin.read() if token_stdin else os.environ.get(TOKEN_VARIABLE, ""))
    if not token:
        _print(text, f"There is no token, so the comment was only printed. Set {TOKEN_VARIABLE} to post it.")
        return
    found = detect(os.environ, _event(os.environ))
    request = chosen(found, forge=forge, url=url, repository=repository, number=number)
    _check_length(text, request)
    removes = remove_when_empty and not mark.changes
    try:
        planned = publish(request, token, mark.stack, None if removes else text)
    except Forbidden as failure:
        if not request.fork:
            raise
        _print(text, f"The token of a fork's pipeline cannot post, so the comment was only printed ({failure}).")
        return
    for other in planned.foreign:
        say(f"Note: the comment {other.id} of {other.author} has the mark of this stack too. It was left as it is.")
    typer.echo(_done(planned, removes, f"comment of {mark.stack} on {request}"))


def _read(file: Path) -> tuple[str, Mark]:
    """Read a preview and its mark.

    Raises:
        Failure: if the file is not what `preview` writes.
    """
    fix = f"python -m operations preview --output {file}"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {file}: {getattr(error, 'strerror', None) or 'not a text in UTF-8'}", fix) from None
    if (mark := parse(text)) is None:
        raise Failure(f"{file} does not start with the hidden line that `preview` writes", fix)
    return text, mark


def _token(text: str) -> str:
    """Remove white space around a token.

    Raises:
        Failure: if the token cannot be part of a header. The token is not shown.
    """
    token = text.strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise Failure(
            "the token contains a space, a line break or a character outside ASCII", "copy the token alone, on one line"
        )
    return token


def _event(variables: Mapping[str, str]) -> Mapping[str, Any]:
    """Read the file that describes the event to GitHub Actions. The other variables may be enough without the file."""
    try:
        event = json.loads(Path(variables["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}


def _check_length(text: str, request: PullRequest) -> None:
    """Refuse a text that the forge would refuse, with a clearer message.

    Raises:
        Failure: if the text is too long.
    """
    if len(text) > request.forge.longest:
        raise Failure(
            f"the comment has {len(text):,} characters, and {request.forge.title} accepts {request.forge.longest:,}",
            "post a file of `python -m operations preview --output FILE.md`: it has at most 60,000 characters",
        )


def _print(text: str, note: str) -> None:
    typer.echo(text, nl=not text.endswith("\n"))
    say(note)


def _done(planned: Plan, removes: bool, what: str) -> str:
    if planned.create:
        return f"posted {what}"
    if planned.edit:
        return f"updated {what}"
    if removes:
        return f"removed {what}" if planned.delete else f"nothing to remove: there is no {what}"
    return f"nothing to update: the text of {what} is the same"
