"""`warm` through a real mirror, killed with SIGKILL at any moment: the next run completes the work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.configuration.naming import COUNTERS_PORT
from components.configuration.settings import MirrorSettings
from components.render.registry import CREDENTIAL_HELPER, DATA_DIRECTORY, credential_helper, mirror_config
from operations.__main__ import command_line
from operations.warm import commands
from tests.harness.certificates import authority, certificate_pair
from tests.harness.configuration import ROOT
from tests.harness.faulty_upstream import FaultyUpstream
from tests.harness.images import random_layer, write_layout
from tests.harness.processes import free_port, running

#: Runs `warm` again and again in a process of its own, with the list N.txt of folder $1. Run N is killed at a call to C
#: that reads from or writes to a connection, ever later, until a run ends. After each killed run comes a line with N.
KILLER = """
import os, signal, sys, threading
from operations.__main__ import command_line
command_line(["warm"])
import httpx
for number in range(1, 100):
    child = os.fork()
    if not child:
        left = 1 + number ** 2 * 2
        def count(_, kind, what):
            global left
            if kind == "c_return" and what.__name__ in ("read", "write", "do_handshake"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        def heard(name, values):
            if name == "socket.connect":
                sys.setprofile(count)
        threading.setprofile(count)
        sys.addaudithook(heard)
        command_line(["warm"])(["warm", f"{sys.argv[1]}/{number}.txt"])
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("killed", number, flush=True)
    input()
"""


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    """A registry without images."""
    with FaultyUpstream("127.0.0.1") as upstream:
        yield upstream


@pytest.fixture
def mirror(binary: Callable[[str], str], tmp_path: Path, upstream: FaultyUpstream) -> Iterator[str]:
    """The URL of a mirror with an empty cache, with the certificate of the stack's authority."""
    port, helper = free_port(), tmp_path / "helper"
    helper.write_text(credential_helper(MirrorSettings()))
    helper.chmod(0o755)
    text = mirror_config("docker.io", MirrorSettings.model_validate({"upstream": upstream.url}))
    text = text.replace(DATA_DIRECTORY, str(tmp_path / "data")).replace(CREDENTIAL_HELPER, str(helper))
    config = yaml.safe_load(re.sub(rf"127\.0\.0\.1:{COUNTERS_PORT}\b", f"127.0.0.1:{free_port()}", text))
    pair = certificate_pair("127.0.0.1")
    for name, part in pair.items():
        (tmp_path / name).write_text(part)
    config["http"]["tls"] = {"certificate": str(tmp_path / "certificate"), "key": str(tmp_path / "private_key")}
    config["http"]["addr"] = f"127.0.0.1:{port}"
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    command = [binary("registry"), "serve", str(tmp_path / "config.yml")]
    with running(command, port, tmp_path / "log", {"OTEL_TRACES_EXPORTER": "none"}):
        yield f"https://127.0.0.1:{port}"


def test_killed_warm_leaves_no_image_that_the_next_run_cannot_complete(
    mirror: str, upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {
        "mirror_urls": {"docker.io": mirror},
        "ca_certificate": authority().pair()["certificate"],
        "configuration": {"settings": {"mirrors": {"docker.io": {}}}},
    }
    pulumi = tmp_path / "bin/pulumi"
    pulumi.parent.mkdir()
    pulumi.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(outputs)}\nEND\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{pulumi.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    for number in range(1, 40):
        names = [f"image{number}-{part}:1" for part in "ab"]
        for name in names:
            write_layout(layout := tmp_path / name, [random_layer(600_000) for _ in range(3)])
            upstream.add(layout, f"library/{name}")
        (tmp_path / f"{number}.txt").write_text("\n".join(names))
    asked = list[int]()

    def warm(number: int) -> int:
        return CliRunner().invoke(command_line(["warm"]), ["warm", f"{tmp_path}/{number}.txt"]).exit_code

    def is_cached(number: int) -> bool:
        with upstream.having("closed"):
            return warm(number) == 0

    with subprocess.Popen(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        for line in process.stdout:
            if not line.startswith("killed"):
                continue
            number = int(line.split()[1])
            asked.append(len(upstream.asked))
            assert warm(number) == 0
            deadline = time.monotonic() + 60
            while not is_cached(number):
                assert time.monotonic() < deadline, f"after the kill at moment {number}, the mirror lacks an image"
            upstream.asked.clear()
            process.stdin.write("\n")
            process.stdin.flush()

    assert process.returncode == 0
    assert len(asked) >= 10
    assert len({*asked}) >= 4, "the moments are before, between and in the requests to the upstream"
