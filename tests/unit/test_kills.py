"""Kill the commands with SIGKILL at every moment that matters. Nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from operations.__main__ import command_line
from operations.comment.mark import mark
from tests.harness.configuration import ROOT
from tests.harness.forge import TOKEN, Forge, forge

PREVIEW = mark("prod", changes=True) + "\nthe {} text\n"

#: Runs a command again and again in a process of its own. Run N is killed at its Nth moment, until a run ends.
#: A moment is the start or the end of a call to C, from the first audit event $1 on, that has $2 in its first argument.
#: ``{}`` in the arguments of the command stands for N. After each killed run comes a line with N.
KILLER = """
import os, signal, sys
event, word, names, *arguments = sys.argv[1:]
from operations.__main__ import command_line
command_line(arguments[:1])
import httpx
for moment in range(1, 500):
    child = os.fork()
    if not child:
        left = moment
        def count(_, kind, what):
            global left
            if kind in ("c_call", "c_return") and (not names or what.__name__ in names.split()):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        def heard(name, values):
            if name == event and word in str(values):
                sys.setprofile(count)
        sys.addaudithook(heard)
        command_line(arguments[:1])([each.replace("{}", str(moment)) for each in arguments])
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("killed", moment, flush=True)
    input()
"""


def killer(event: str, word: str, names: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLER, event, word, names, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def continued(process: subprocess.Popen[str]) -> bool:
    """Wait until the next run was killed. False if it ended."""
    assert process.stdout
    return any(line.startswith("killed") for line in iter(process.stdout.readline, ""))


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_killed_preview_leaves_the_old_or_the_new_file(option: str, tmp_path: Path) -> None:
    stack = {"op": "same", "urn": "urn:pulumi:prod::p::pulumi:pulumi:Stack::p-prod", "type": "pulumi:pulumi:Stack"}
    pulumi = tmp_path / "bin" / "pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text(f"#!/bin/sh\necho '{json.dumps({'resOutputsEvent': {'metadata': stack}})}'\n")
    pulumi.chmod(0o755)
    file = tmp_path / "report"
    file.write_text("the old text")
    path = f"{pulumi.parent}:{os.environ['PATH']}"
    found = []

    with killer(
        "open", "report", "open write __exit__ close replace", "preview", option, str(file), PATH=path
    ) as process:
        while continued(process):
            found.append(file.read_text())
            file.write_text("the old text")
            go_on(process)

    assert process.returncode == 0
    new = file.read_text()
    assert new.endswith("\n")
    assert set(found) == {"the old text", new}


@pytest.mark.parametrize("old", [[], [PREVIEW.format("old")]], ids=["new comment", "old comment"])
def test_killed_comment_leaves_one_comment_after_the_next_run(old: list[str], tmp_path: Path) -> None:
    file, moments = tmp_path / "preview.md", "send sendall recv recv_into"
    file.write_text(PREVIEW.format("new"))
    found = []
    with forge("gitea") as server:
        where = ("--forge", "gitea", "--url", server.url, "--repository", "owner/name", "--number", "7")
        comment = ("comment", "--file", str(file), *where)
        for text in old:
            server.write(text)
        with killer("socket.connect", "", moments, *comment, COMMENT_TOKEN=TOKEN) as process:
            while continued(process):
                wait_for_calls(server)
                found.append(server.bodies())
                again = CliRunner().invoke(command_line(["comment"]), comment, env={"COMMENT_TOKEN": TOKEN})
                assert (again.exit_code, server.bodies()) == (0, [PREVIEW.format("new")]), again.output
                server.comments.clear()
                for text in old:
                    server.write(text)
                go_on(process)

    assert process.returncode == 0
    assert old in found
    assert [PREVIEW.format("new")] in found


def wait_for_calls(server: Forge) -> None:
    """Wait until the forge has handled the calls of a killed process. It accepts connections one after the other."""
    with socket.create_connection(server.server_address[:2]) as last:
        last.shutdown(socket.SHUT_WR)
        assert last.recv(1) == b""
    while any("process_request_thread" in thread.name for thread in threading.enumerate()):
        time.sleep(0.01)
