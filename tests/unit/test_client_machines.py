"""`clients install`, `check` and `uninstall` on images of machines: real shells, real files, no engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.configuration.fields import Endpoint
from components.configuration.problems import Failure
from components.render.clients import Mirror
from operations.__main__ import command_line
from operations.clients import machine as machine_module
from operations.clients import machine_commands
from operations.clients.machine import Machine
from operations.clients.planning import JOURNAL, File
from operations.clients.programs import ask, find
from operations.stack import StackConfig
from tests.harness.configuration import ROOT

OUTPUTS: dict[str, Any] = {
    "mirror_urls": {"docker.io": "https://mirror.example.com", "ghcr.io": "https://ghcr.mirror.example.com"},
    "configuration": {"settings": {"mirrors": {"docker.io": {}, "ghcr.io": {}}}},
    "ca_certificate": "-----BEGIN CERTIFICATE-----\nexample\n-----END CERTIFICATE-----\n",
}
PROGRAMS = ("dockerd", "buildkitd", "podman", "k3s")
DAEMON = "etc/docker/daemon.json"
HOSTS = "etc/docker/certs.d/docker.io/hosts.toml"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """An image of a machine with Docker, BuildKit, Podman and k3s, and without files of theirs."""
    folder = tmp_path / "machine"
    for name in PROGRAMS:
        write(folder, f"usr/bin/{name}", "").chmod(0o755)
    (folder / "etc").mkdir()
    (folder / "var/lib").mkdir(parents=True)
    return folder


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch, machine: Path) -> Callable[..., Result]:
    """Runs a command for the machine."""

    def run(command: str, *arguments: str, root: Path = machine, yes: bool = True, **outputs: Any) -> Result:
        monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(OUTPUTS | outputs))
        words = [
            "clients",
            command,
            "--root",
            str(root),
            *(["--yes"] if yes and command != "check" else []),
            *arguments,
        ]
        return CliRunner().invoke(command_line(words), words)

    return run


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def content(folder: Path) -> dict[str, Any]:
    """Each file with its bytes, mode and link, and each folder."""
    return {
        str(path.relative_to(folder)): (
            path.is_symlink() and str(path.readlink()),
            path.is_file() and path.read_bytes(),
            path.lstat().st_mode,
        )
        for path in folder.rglob("*")
    }


def refused(answer: Result) -> Failure:
    assert isinstance(answer.exception, Failure), answer.output
    return answer.exception


def test_installation_writes_the_files_of_the_programs_that_are_there(
    clients: Callable[..., Result], machine: Path
) -> None:
    answer = clients("install")

    assert answer.exit_code == 0, answer.output
    assert json.loads((machine / DAEMON).read_text()) == {"registry-mirrors": ["https://mirror.example.com"]}
    for name in (HOSTS, "etc/buildkit/buildkitd.toml", "etc/rancher/k3s/registries.yaml"):
        assert "mirror.example.com" in (machine / name).read_text()
        assert f"+++ /{name}" in answer.stdout
    assert not (machine / "etc/containerd").exists()
    assert not (machine / "etc/rancher/rke2").exists()
    assert (machine / JOURNAL[1:]).stat().st_mode & 0o777 == 0o600
    assert "systemctl restart k3s" in answer.stderr


def test_second_installation_changes_nothing(clients: Callable[..., Result], machine: Path) -> None:
    clients("install")
    before = content(machine)

    answer = clients("install")

    assert (answer.exit_code, answer.stdout) == (0, ""), answer.output
    assert content(machine) == before


FOREIGN = {
    DAEMON: '{ "log-level":"debug", "registry-mirrors": ["https://old.example.com"] }',
    HOSTS: '# old\nserver = "https://registry-1.docker.io"\n[host."https://old.example.com"]\n  skip_verify = true\n',
    "etc/buildkit/buildkitd.toml": "# ours\ndebug = true\n",
    "etc/rancher/k3s/registries.yaml": "# k3s\nmirrors:\n  docker.io:\n    endpoint: [https://old.example.com]\n",
    "etc/containers/registries.conf.d/10-team.conf": 'unqualified-search-registries = ["docker.io"]\n',
}


def with_foreign_files(machine: Path) -> None:
    for name, text in FOREIGN.items():
        write(machine, name, text)
    (machine / DAEMON).chmod(0o640)
    (machine / "etc/docker/notes.txt").write_text("mine")


def test_files_of_others_keep_their_keys_comments_and_modes_and_come_back_byte_for_byte(
    clients: Callable[..., Result], machine: Path
) -> None:
    with_foreign_files(machine)
    before = content(machine)

    answer = clients("install")

    assert answer.exit_code == 0, answer.output
    daemon = json.loads((machine / DAEMON).read_text())
    assert daemon["log-level"] == "debug"
    assert daemon["registry-mirrors"] == ["https://mirror.example.com", "https://old.example.com"]
    assert (machine / DAEMON).stat().st_mode & 0o777 == 0o640
    assert list(tomllib.loads((machine / HOSTS).read_text())["host"]) == [
        "https://mirror.example.com",
        "https://old.example.com",
    ]
    assert (machine / "etc/buildkit/buildkitd.toml").read_text().startswith("# ours\ndebug = true\n")
    assert "# k3s\n" in (machine / "etc/rancher/k3s/registries.yaml").read_text()

    assert clients("uninstall").exit_code == 0
    assert content(machine) == before


def test_uninstallation_removes_the_folders_that_the_installation_made(
    clients: Callable[..., Result], machine: Path
) -> None:
    before = content(machine)
    clients("install")

    answer = clients("uninstall")

    assert answer.exit_code == 0, answer.output
    assert content(machine) == before


def test_uninstallation_after_a_change_by_others_removes_only_our_entries(
    clients: Callable[..., Result], machine: Path
) -> None:
    with_foreign_files(machine)
    clients("install")
    daemon = json.loads((machine / DAEMON).read_text()) | {"debug": True}
    daemon["registry-mirrors"].append("https://new.example.com")
    (machine / DAEMON).write_text(json.dumps(daemon))
    with (machine / HOSTS).open("a") as hosts:
        hosts.write('# new\n[host."https://new.example.com"]\n')

    assert clients("uninstall").exit_code == 0

    assert json.loads((machine / DAEMON).read_text()) == {
        "log-level": "debug",
        "registry-mirrors": ["https://old.example.com", "https://new.example.com"],
        "debug": True,
    }
    assert (machine / HOSTS).read_text() == FOREIGN[HOSTS] + '# new\n[host."https://new.example.com"]\n'


def test_later_installation_follows_the_stack_and_remembers_the_first_files(
    clients: Callable[..., Result], machine: Path
) -> None:
    with_foreign_files(machine)
    before = content(machine)
    clients("install")

    answer = clients(
        "install",
        mirror_urls={"docker.io": "https://other.example.com"},
        configuration={"settings": {"mirrors": {"docker.io": {}}}},
    )

    assert answer.exit_code == 0, answer.output
    daemon = json.loads((machine / DAEMON).read_text())
    assert daemon["registry-mirrors"] == ["https://other.example.com", "https://old.example.com"]
    assert not (machine / "etc/docker/certs.d/ghcr.io").exists()
    assert "mirror.example.com" not in (machine / "etc/buildkit/buildkitd.toml").read_text()
    clients("uninstall")
    assert content(machine) == before


def test_symbolic_link_stays_and_its_file_changes(clients: Callable[..., Result], machine: Path) -> None:
    target = write(machine, "opt/daemon.json", "{}")
    (machine / "etc/docker").mkdir()
    (machine / DAEMON).symlink_to("../../opt/daemon.json")
    before = content(machine)

    answer = clients("install")

    assert "/etc/docker/daemon.json -> " in answer.stdout
    assert (machine / DAEMON).is_symlink()
    assert "https://mirror.example.com" in target.read_text()
    clients("uninstall")
    assert content(machine) == before


def bad_json(machine: Path) -> None:
    write(machine, DAEMON, '{\n  "debug": true,\n}\n')


def bad_toml(machine: Path) -> None:
    write(machine, HOSTS, "server = \n")


def bad_yaml(machine: Path) -> None:
    write(machine, "etc/rancher/k3s/registries.yaml", "mirrors: a: b\n")


def bytes_file(machine: Path) -> None:
    write(machine, DAEMON, "").write_bytes(b"\xff\xfe")


def read_only(machine: Path) -> None:
    write(machine, DAEMON, "{}").chmod(0o444)


def dangling(machine: Path) -> None:
    write(machine, "etc/docker/x", "")
    (machine / DAEMON).symlink_to("gone")


def outside(machine: Path) -> None:
    write(machine, "etc/docker/x", "")
    (machine / DAEMON).symlink_to("/etc/hostname")


def odd_name(machine: Path) -> None:
    (machine / "etc/docker").mkdir()
    name = os.fsdecode(b"\xff")
    (machine / DAEMON).symlink_to(name)
    write(machine, f"etc/docker/{name}", "{}")


def folder_outside(machine: Path) -> None:
    (machine.parent / "of-this-machine").mkdir()
    (machine / "etc/docker").symlink_to(machine.parent / "of-this-machine")


def journal_of_other_files(machine: Path) -> None:
    file = "/etc/../../of-this-machine.json"
    write(machine.parent, "of-this-machine.json", "{}")
    entry = {"before": "{}", "after": ["{}"], "folder": "/"}
    write(machine, JOURNAL[1:], json.dumps({"files": {file: entry}}))


def looping_folder(machine: Path) -> None:
    (machine / "etc/docker").symlink_to("docker")


def folder(machine: Path) -> None:
    (machine / DAEMON).mkdir(parents=True)


def foreign_certificate(machine: Path) -> None:
    write(machine, "etc/docker/certs.d/mirror.example.com/ca.crt", "another")


def file_in_the_way(machine: Path) -> None:
    write(machine, "etc/docker/certs.d", "")


@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        (bad_json, "daemon.json", "line 3"),
        (bad_toml, "docker.io/hosts.toml", "not valid TOML"),
        (bad_yaml, "k3s/registries.yaml", "line 1"),
        (bytes_file, "daemon.json", "UTF-8"),
        (read_only, "daemon.json", "is read-only"),
        (dangling, "daemon.json", "symbolic link to a file that does not exist"),
        (outside, "daemon.json", "symbolic link out of the image"),
        (odd_name, "daemon.json", "not a text in UTF-8"),
        (folder_outside, "daemon.json", "is not in the image"),
        (journal_of_other_files, "clients.json", "is not a journal"),
        (looping_folder, "daemon.json", "etc/docker"),
        (folder, "daemon.json", "is not a regular file"),
        (foreign_certificate, "mirror.example.com/ca.crt", "not from this command"),
        (file_in_the_way, "docker.io/hosts.toml", "is not a folder"),
    ],
)
def test_bad_file_leaves_every_file_untouched_and_the_error_names_the_file(
    bad: Callable[[Path], None], name: str, reason: str, clients: Callable[..., Result], machine: Path
) -> None:
    bad(machine)
    before = content(machine)

    failure = refused(clients("install"))

    assert name in str(failure)
    assert reason in str(failure)
    assert "Nothing was changed" in str(failure)
    assert content(machine) == before
    assert not list(machine.parent.glob("of-this-machine/*"))


def test_without_a_terminal_the_difference_is_shown_and_nothing_is_written(
    clients: Callable[..., Result], machine: Path
) -> None:
    before = content(machine)

    answer = clients("install", yes=False)

    assert "https://mirror.example.com" in answer.stdout
    assert "--yes" in refused(answer).fix
    assert content(machine) == before


def test_difference_shows_no_password_of_others(clients: Callable[..., Result], machine: Path) -> None:
    login = "  registry.example.com:\n    auth:\n      username: robot\n      password: hunter2\n"
    write(machine, "etc/rancher/k3s/registries.yaml", f"configs:\n{login}mirrors: {{}}\n")
    write(machine, DAEMON, '{"log-opts": {"splunk-token": "hunter2"},\n "p": "http://me:hunter2@proxy.example.com"}')

    answer = clients("install")

    assert answer.exit_code == 0
    assert "hunter2" not in answer.output
    assert "hunter2" in (machine / "etc/rancher/k3s/registries.yaml").read_text()
    assert "hunter2" in (machine / DAEMON).read_text()


@pytest.mark.parametrize(
    ("hosts", "registries", "daemon"),
    [
        (
            '[host."https://o.example.com".header]\n  Authorization = ["Basic hunter2"]\n',
            "configs:\n  a:\n    auth:\n      password: |\n        hunter2\n",
            '{"log-opts": {"splunk-token": ["hunter2"]}}',
        ),
        (
            'server = "https://o.example.com"\ntoken = """\nhunter2"""\n',
            "configs: {a: {auth: {password: 'x''hunter2'}}}\n",
            '{"proxies": {"http-proxy": "http:\\/\\/me:hunter2@proxy.example.com"}}',
        ),
        (
            'password = "hunter2"',
            "configs:\n  a:\n    auth:\n      password: a,hunter2\n",
            '{"pass\\u0077ord": "hunter2"}',
        ),
        (
            "header = {X-Team = 'hunter2'}",
            "{configs: {a: {auth: {password: 'p]hunter2'}}}, mirrors: {}}\n",
            '{"http-headers": {"X-Team":\n "hunter2"}}',
        ),
    ],
)
def test_difference_shows_no_password_in_any_spelling(
    hosts: str, registries: str, daemon: str, clients: Callable[..., Result], machine: Path
) -> None:
    for name, text in ((HOSTS, hosts), ("etc/rancher/k3s/registries.yaml", registries), (DAEMON, daemon)):
        write(machine, name, text)

    answers = [clients("install"), clients("uninstall")]

    assert answers[0].stdout.count("mirror.example.com") >= 3
    assert all("hunter2" not in f"{answer.output}{answer.exception}" for answer in answers)


def test_file_that_cannot_be_written_puts_the_others_back(
    clients: Callable[..., Result], machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_foreign_files(machine)
    before = content(machine)
    shim(tmp_path, "mv", 'case "$*" in *registries.yaml) echo "disk is full" >&2; exit 1;; esac', monkeypatch)

    failure = refused(clients("install"))

    assert "k3s/registries.yaml" in str(failure)
    assert "disk is full" in str(failure)
    assert "Every file is as before" in str(failure)
    assert content(machine) == before


def test_ctrl_c_puts_the_files_back(
    clients: Callable[..., Result], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_foreign_files(machine)
    before, real = content(machine), Machine.replace

    def replace_until_daemon(self: Machine, file: File, *words: str) -> None:
        real(self, file, *words)
        if file.path == f"/{DAEMON}" and "mirror.example.com" in words[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Machine, "replace", replace_until_daemon)

    answer = clients("install")

    assert answer.exit_code == 1
    assert "Every file is as before" in answer.stderr
    assert content(machine) == before


def test_second_ctrl_c_does_not_say_that_the_files_are_as_before(
    clients: Callable[..., Result], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_foreign_files(machine)
    before, real = content(machine), Machine.replace

    def interrupted(self: Machine, file: File, *words: str) -> None:
        real(self, file, *words)
        if file.path.endswith(".toml"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Machine, "replace", interrupted)

    failure = refused(clients("install"))

    assert "not put back" in str(failure)
    assert "clients uninstall" in failure.fix
    monkeypatch.setattr(Machine, "replace", real)
    assert clients("uninstall").exit_code == 0
    assert content(machine) == before


def test_change_that_goes_on_without_its_connection_comes_too_late(
    clients: Callable[..., Result], machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(machine)
    lines = (
        'case "$*" in *ready*) echo ready; exec cat;; esac\n'  # the shared connection
        f'script=$(mktemp {tmp_path}/XXXXXX); cat >"$script"\n'
        f'if grep -q "^main .*/hosts.toml .* 644 " "$script" && [ ! -e {tmp_path}/reached ]; then\n'
        f'  (setsid sh "$script" >{tmp_path}/log 2>&1; touch {tmp_path}/done) >/dev/null 2>&1 &\n'
        f"  while [ ! -e {tmp_path}/reached ]; do sleep 0.05; done\n"
        "  exit 255\nfi\n"
        'sh "$script"; status=$?\n'
        f'if grep -q readlink "$script" && [ -e {tmp_path}/reached ]; then\n'
        f"  touch {tmp_path}/over; while [ ! -e {tmp_path}/done ]; do sleep 0.05; done\nfi\n"
        "exit $status"
    )
    write(tmp_path, "bin/ssh", f"#!/bin/sh\n{lines}\n").chmod(0o755)
    is_first = f'case "$*" in *hosts.toml.registry-stack.*) [ -e {tmp_path}/reached ] || wait=yes;; esac'
    wait = f"touch {tmp_path}/reached; while [ ! -e {tmp_path}/over ]; do sleep 0.05; done"
    shim(tmp_path, "sync", f'{is_first}\nif [ "$wait" ]; then {wait}; fi', monkeypatch)

    failure = refused(clients("install", "--host", "ssh://root@app.example.com"))

    assert "Every file is as before" in str(failure)
    assert content(machine) == before


def test_run_that_waited_for_its_answer_does_not_undo_another_run(
    clients: Callable[..., Result], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = machine_commands._confirm
    after: list[dict[str, Any]] = []

    def answered_late(*words: Any, **options: Any) -> None:
        monkeypatch.setattr(machine_commands, "_confirm", confirm)
        assert clients("install").exit_code == 0
        after.append(content(machine))

    monkeypatch.setattr(machine_commands, "_confirm", answered_late)

    failure = refused(clients("install"))

    assert "was changed meanwhile" in str(failure)
    assert [content(machine)] == after


def test_run_that_another_run_overtakes_changes_nothing_more(
    clients: Callable[..., Result], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_foreign_files(machine)
    before, real, after = content(machine), Machine.replace, list[dict[str, Any]]()

    def overtaken(self: Machine, file: File, *words: Any) -> None:
        if file.path.endswith(".yaml"):
            monkeypatch.setattr(Machine, "replace", real)
            assert clients("install").exit_code == 0
            after.append(content(machine))
        real(self, file, *words)

    monkeypatch.setattr(Machine, "replace", overtaken)

    failure = refused(clients("install"))

    assert "another run has begun" in str(failure)
    assert [content(machine)] == after
    assert clients("uninstall").exit_code == 0
    assert content(machine) == before


@pytest.mark.parametrize(
    ("sudo", "reason"),
    [
        ("echo 'sudo: unable to resolve host web1' >&2; shift; exec \"$@\"", ""),
        ("echo 'sudo: a password is required' >&2; exit 1", "a password is required"),
    ],
)
def test_warning_of_sudo_is_no_failure(sudo: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "bin/sudo", f"#!/bin/sh\n{sudo}\n").chmod(0o755)
    write(tmp_path, "bin/id", "#!/bin/sh\necho 1000\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def text() -> str | None:
        return Machine(None, "").read([str(tmp_path / "bin/id")])[str(tmp_path / "bin/id")].text

    if reason:
        with pytest.raises(Failure, match=r"needs root.*a password is required"):
            text()
    else:
        assert text() == "#!/bin/sh\necho 1000\n"


def test_words_of_the_start_files_of_a_shell_do_not_matter(
    clients: Callable[..., Result], machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = 'case "$*" in *ready*) echo ready; exec cat;; esac'
    write(tmp_path, "bin/ssh", f"#!/bin/sh\necho 'Welcome! crio is here.'\n{ready}\nexec sh\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    answers = [clients(word, "--host", "ssh://root@app.example.com") for word in ("install", "check")]

    assert [answer.exit_code for answer in answers] == [0, 0], answers[0].output
    assert "mirror.example.com" in (machine / HOSTS).read_text()


@pytest.mark.parametrize(("help_", "is_asked"), [("--ca-certificate=FILE", True), ("-O FILE", False)])
def test_wget_that_knows_no_authority_is_not_asked(
    help_: str, is_asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "bin/wget", f"#!/bin/sh\n[ $1 != --help ] || echo {help_}\n").chmod(0o755)
    for name in ("sh", "id", "grep", "mktemp", "base64", "rm"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setattr(machine_module, "_START", f"PATH={tmp_path}/bin\n")
    mirror = Mirror("ghcr.io", Endpoint("m.example.com", 443))

    assert ask(Machine(None, "/"), mirror, "certificate") is is_asked
    assert ask(Machine(None, "/"), mirror, None)


@pytest.mark.parametrize(
    ("is_shared", "url"),
    [(True, "https://m.example.com/v2/_catalog?n=1&ns=ghcr.io"), (False, "https://m.example.com/v2/")],
)
def test_a_mirror_is_asked_with_its_own_allow_list(
    is_shared: bool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "bin/curl", f'#!/bin/sh\necho "$*" >{tmp_path}/asked\n').chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    assert ask(Machine(None, "/"), Mirror("ghcr.io", Endpoint("m.example.com", 443), is_shared=is_shared), None)

    assert (tmp_path / "asked").read_text().split()[-1] == url


def shim(folder: Path, name: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program before the real one on PATH that runs some lines first."""
    real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
    write(folder, f"bin/{name}", f'#!/bin/sh\n{lines}\nexec {real} "$@"\n').chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


def test_machine_without_a_client_is_refused(clients: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "none of these programs" in str(refused(clients("install", root=tmp_path / "empty")))


def test_host_that_is_no_ssh_address_is_refused(clients: Callable[..., Result]) -> None:
    for host in ("unix:///var/run/docker.sock", "ssh://-oProxyCommand=x", "web1"):
        assert "--host" in str(refused(clients("install", "--host", host)))


def test_check_says_for_each_client_which_upstreams_go_through_a_mirror(
    clients: Callable[..., Result], machine: Path
) -> None:
    before = clients("check")
    clients("install")
    after = clients("check")
    (machine / "etc/containers/registries.conf.d/50-registry-stack.conf").unlink()
    changed = clients("check")

    assert before.exit_code == 1
    assert "yes" not in before.stdout
    assert after.exit_code == 0, after.output
    assert after.stdout.count("yes") == 8
    assert changed.exit_code == 1
    rows = [line for line in changed.stdout.splitlines() if "no:" in line]
    assert [row.split("  ")[1] for row in rows] == ["Podman, CRI-O, Buildah and Skopeo"] * 2


def test_check_shows_a_reason_with_brackets_as_it_is(clients: Callable[..., Result], machine: Path) -> None:
    clients("install")
    write(machine, DAEMON, '{"[/a]": 1, "[/a]": 2}')
    (machine / HOSTS).unlink()

    answer = clients("check")

    assert answer.exit_code == 1
    assert f"/{DAEMON}: the key [/a] is there twice" in answer.output


def test_check_prints_json_and_goes_on_after_a_machine_that_does_not_answer(
    clients: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, shared = 'echo "no route to host" >&2; exit 255', "echo ready; exec cat"
    lines = f'case "$*" in *down*) {down};; *ready*) {shared};; esac; exec sh'
    write(tmp_path, "bin/ssh", f"#!/bin/sh\n{lines}\n").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    clients("install")

    answer = clients("check", "--json", "--host", "ssh://root@down", "--host", "ssh://root@up.example.com:2222")

    assert answer.exit_code == 1
    assert "ssh://root@down does not answer: no route to host" in answer.stderr
    assert "fix: ssh -l root -- down true" in answer.stderr
    rows = json.loads(answer.stdout)
    assert {row["machine"] for row in rows} == {"ssh://root@up.example.com:2222"}
    assert {row["used"] for row in rows} == {True}
    assert {row["reason"] for row in rows} == {None}
    assert len(rows) == 8


def test_check_counts_a_shared_address_as_no_mirror_of_podman(clients: Callable[..., Result]) -> None:
    outputs = {"mirror_urls": {}, "mirror_url": "https://mirror.example.com"}
    clients("install", **outputs)

    answer = clients("check", **outputs)

    assert answer.exit_code == 1
    rows = [line for line in answer.stdout.splitlines() if "no:" in line]
    assert len(rows) == 2
    assert all("Podman" in row and "shared address" in row for row in rows)


def test_image_store_of_docker_decides_which_files_count(
    clients: Callable[..., Result], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROGRAMS[1:]:
        (machine / f"usr/bin/{name}").unlink()
    clients("install")
    classic = {"DriverStatus": [["Backing Filesystem", "extfs"]], "RegistryConfig": {"Mirrors": []}}
    answers = {}
    for name, info in {
        "classic": classic,
        "loaded": classic | {"RegistryConfig": {"Mirrors": ["https://mirror.example.com/"]}},
        "containerd": classic | {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
    }.items():
        monkeypatch.setattr(machine_commands, "find", lambda found, info=info: replace(find(found), docker=info))
        answers[name] = clients("check").stdout

    assert answers["classic"].count("no:") == 2
    assert "systemctl reload docker" in answers["classic"]
    assert answers["loaded"].count("no:") == 1
    assert "docker.io alone" in answers["loaded"]
    assert "no:" not in answers["containerd"]


#: Runs a command again and again, each time in a process group of its own. The whole group is killed before its Nth
#: program starts, for every fourth N, until a run ends. After each killed run comes a line.
KILLER = """
import os, sys
from operations.__main__ import command_line
arguments = sys.argv[1:]
command_line(arguments[:1])
for moment in range(1, 1000, 4):
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.environ["KILL_AT"] = str(moment)
        open(os.environ["COUNTER"], "w").close()
        command_line(arguments[:1])(arguments)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("killed", moment, flush=True)
    input()
"""
COUNT = 'echo x >>"$COUNTER"; [ "$(wc -l <"$COUNTER")" != "$KILL_AT" ] || kill -9 0'


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_killed_command_leaves_old_or_new_files_and_a_way_back(
    command: str, clients: Callable[..., Result], machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {"configuration": {"settings": {"mirrors": {"docker.io": {}}}}, "ca_certificate": None}
    for name in ("buildkitd", "podman"):
        (machine / f"usr/bin/{name}").unlink()
    with_foreign_files(machine)
    old = content(machine)
    shutil.copytree(machine, tmp_path / "old", symlinks=True)
    clients("install", **outputs)
    new = content(machine)
    shutil.copytree(machine, tmp_path / "new", symlinks=True)
    start, end = ("old", "new") if command == "install" else ("new", "old")
    write(tmp_path, "bin/pulumi", f"#!/bin/sh\necho '{json.dumps(OUTPUTS | outputs)}'\n").chmod(0o755)
    for name in ("mkdir", "cp", "base64", "sync", "mv", "rm", "rmdir"):
        shim(tmp_path, name, COUNT, monkeypatch)
    monkeypatch.setenv("COUNTER", str(tmp_path / "counter"))
    states = list[str]()

    def restart() -> None:
        shutil.rmtree(machine)
        shutil.copytree(tmp_path / start, machine, symlinks=True)

    restart()
    words = ("clients", command, "--root", str(machine), "--yes")
    with subprocess.Popen(
        [sys.executable, "-c", KILLER, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        while any(line.startswith("killed") for line in iter(process.stdout.readline, "")):
            now = content(machine)
            for name in (DAEMON, HOSTS, "etc/rancher/k3s/registries.yaml"):
                assert now[name] in (old[name], new[name]), name
                states.append("old" if now[name] == old[name] else "new")
            back = len(states) % 2
            assert clients("uninstall" if back else "install", **outputs).exit_code == 0
            assert content(machine) == (old if back else new)
            restart()
            process.stdin.write("\n")
            process.stdin.flush()

    assert process.returncode == 0
    assert len(states) >= 3 * 10
    assert {*states} == {"old", "new"}
    assert content(machine) == {"old": old, "new": new}[end]
