"""The commands of the record of versions: what they run on the Docker host, print and refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from operations.__main__ import command_line
from operations.docker_command import docker, inspected
from operations.history import commands
from operations.history.reading import parsed, throwaway
from operations.history.running import containers
from operations.history.store import Store
from operations.stack import Deployed, StackConfig
from operations.throwaway import data_of
from tests.harness.shelf import NAME, Shelf, three_pushes


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def reader(*mounts: Mapping[str, str]) -> dict[str, Any]:
    return {"Name": "/reader", "Image": "sha256:1", "Config": {"User": "65532:65532", "Image": "registry:3"}} | {
        "Mounts": [{"Type": "volume", "Name": "secrets", "Destination": "/etc/distribution-secrets"}, *mounts]
    }


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"Type": "volume", "Name": "data", "Source": "/var/lib/docker/x"}, "type=volume,source=data"),
        ({"Type": "bind", "Source": "/opt/registry/data"}, "type=bind,source=/opt/registry/data"),
    ],
)
def test_the_throwaway_container_gets_the_data_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mount: dict[str, str], expected: str
) -> None:
    (tmp_path / "reader.json").write_text(json.dumps([reader(mount | {"Destination": DATA_DIRECTORY})]))
    Host(monkeypatch, tmp_path, f"exec cat {tmp_path}/reader.json")
    arguments = throwaway(data_of(StackConfig("prod", None), Deployed.model_validate(DEPLOYED), "reader"), None)

    assert [one for one in arguments if "mount" in one or "volume" in one] == [
        f"--mount={expected},target={DATA_DIRECTORY},readonly"
    ]
    assert {"--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=65532:65532"} < set(arguments)


class Host:
    """A Docker host: the answers of the docker command by its first two words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
        program = folder / "docker"
        program.write_text(f"#!/bin/sh\nshift 2\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


DEPLOYED = {
    "registry_url": "https://registry.example.com",
    "docker_host": "ssh://deploy@registry.example.com",
    "services": {"reader": "reader-1"},
}
OUTPUTS = DEPLOYED | {"users": {}}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, store: Store | None = None, outputs: Any = OUTPUTS) -> Result:
    """Run a command on a stack with these outputs and, if given, with this store in place of a Docker host."""
    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(outputs))
    if store:
        monkeypatch.setattr(commands, "read_store", lambda *_, **__: store)
    return CliRunner().invoke(command_line(arguments), [*arguments, "--stack", "prod"])


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str, **more: Any) -> Failure:
    answer = run(monkeypatch, *arguments, **more)
    assert isinstance(answer.exception, Failure), answer.output
    assert answer.stdout == ""
    return answer.exception


def test_rollback_line_is_the_version_before_the_current_one(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    _, second, _ = three_pushes(shelf)

    answer = run(monkeypatch, "rollback-line", NAME, "latest", store=shelf.store)

    assert answer.stdout == f"image: registry.example.com/{NAME}:latest@{second}\n"
    assert "2026-11-29 10:00:02 UTC" in answer.stderr


def test_rollback_line_goes_back_further_and_has_the_port_of_the_registry(
    monkeypatch: pytest.MonkeyPatch, shelf: Shelf
) -> None:
    first, *_ = three_pushes(shelf)
    outputs = OUTPUTS | {"registry_url": "https://registry.example.com:5443"}

    answer = run(monkeypatch, "rollback-line", NAME, "latest", "--back", "2", store=shelf.store, outputs=outputs)

    assert answer.stdout == f"image: registry.example.com:5443/{NAME}:latest@{first}\n"


def test_rollback_line_refuses_a_version_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    three_pushes(shelf)
    shelf.push("v1", shelf.image())

    beyond = refusal(monkeypatch, "rollback-line", NAME, "latest", "--back", "3", store=shelf.store)
    never_moved = refusal(monkeypatch, "rollback-line", NAME, "v1", store=shelf.store)

    assert "has 2 earlier versions" in str(beyond)
    assert f"python -m operations rollback-line {NAME} latest --back 2 --stack prod" in beyond.fix
    assert "has no earlier versions, not 1" in str(never_moved)
    assert never_moved.fix.endswith(f"python -m operations history {NAME} --stack prod")


def test_rollback_line_refuses_a_deleted_version_and_names_the_nearest_other(
    monkeypatch: pytest.MonkeyPatch, shelf: Shelf
) -> None:
    _, second, _ = three_pushes(shelf)
    shelf.revisions[NAME].remove(second)

    refused = refusal(monkeypatch, "rollback-line", NAME, "latest", store=shelf.store)

    assert second[7:19] in str(refused)
    assert "deleted" in str(refused)
    assert "--back 2 --stack prod goes back to another version" in refused.fix


def test_rollback_line_warns_of_an_incomplete_image(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    lost = shelf.layer("lost", 1)
    shelf.push("latest", shelf.image(lost))
    shelf.push("latest", shelf.image())
    del shelf.blobs[lost["digest"]]

    answer = run(monkeypatch, "rollback-line", NAME, "latest", store=shelf.store)

    assert answer.exit_code == 0
    assert "lacks 1 part" in answer.stderr


def test_an_unknown_name_gets_the_nearest_ones(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    three_pushes(shelf)

    repository = refusal(monkeypatch, "history", "my-app/bakend", store=shelf.store)
    reference = refusal(monkeypatch, "history", f"registry.example.com/{NAME}:latest", store=shelf.store)
    tag = refusal(monkeypatch, "rollback-line", NAME, "lates", store=shelf.store)
    neither = refusal(monkeypatch, "history", "zzz", store=shelf.store)

    for refused in (repository, reference):
        assert f"did you mean: python -m operations history {NAME} --stack prod" in refused.fix
    assert f"did you mean: python -m operations rollback-line {NAME} latest --stack prod" in tag.fix
    assert neither.fix == "to list the repositories, run: python -m operations history --stack prod"


def test_tables_and_json_go_to_standard_output(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    three_pushes(shelf)

    table = run(monkeypatch, "history", NAME, store=shelf.store)
    overview = run(monkeypatch, "history", store=shelf.store)
    as_json = run(monkeypatch, "history", NAME, "--json", store=shelf.store)

    assert f"{NAME} at registry.example.com: 1 tag," in table.stdout
    assert overview.stdout.splitlines()[-1].startswith(f"{NAME}  latest  ")
    assert len(json.loads(as_json.stdout)["tags"][0]["versions"]) == 3


def test_an_empty_registry_has_an_empty_record(monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> None:
    table = run(monkeypatch, "history", store=parsed(b""))
    as_json = run(monkeypatch, "history", "--json", store=parsed(b""))

    assert table.stdout == "registry.example.com: no repositories\n"
    assert json.loads(as_json.stdout)["repositories"] == []


@pytest.mark.parametrize(
    "arguments",
    [("history", NAME, "--running-on", "web-1"), ("history", "--running-on", "ssh://web-1"), ("rollback-line", NAME)],
)
def test_wrong_usage_ends_with_status_2(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    assert run(monkeypatch, *arguments).exit_code == 2


def test_a_stack_without_outputs_needs_an_up(monkeypatch: pytest.MonkeyPatch) -> None:
    not_deployed = refusal(monkeypatch, "history", outputs={})
    older = refusal(monkeypatch, "history", outputs={"docker_host": "unix:///var/run/docker.sock"})

    assert "not deployed" in str(not_deployed)
    assert "another version" in str(older)
    assert not_deployed.fix == older.fix == "pulumi up --stack prod"


def test_a_host_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shelf: Shelf) -> None:
    three_pushes(shelf)
    Host(monkeypatch, tmp_path, "echo 'error during connect: no route to host' >&2; exit 1")

    stack_host = refusal(monkeypatch, "history")
    other = refusal(monkeypatch, "history", NAME, "--running-on", "ssh://deploy@web-2", store=shelf.store)

    assert str(stack_host).startswith("ssh://deploy@registry.example.com does not answer: error during connect")
    assert other.fix == "docker --host ssh://deploy@web-2 info"


def test_a_host_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, "exec sleep 60")

    with pytest.raises(Failure, match=r"ssh://web-1 does not answer: no answer within 1 seconds"):
        docker("ssh://web-1", "ps", within=1)


def test_a_reader_that_is_gone_is_restored_by_an_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, "echo 'Error response from daemon: No such container: reader-1' >&2; exit 1")

    refused = refusal(monkeypatch, "history")

    assert "reader-1" in str(refused)
    assert refused.fix == "pulumi up --refresh --stack prod"


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("find: repositories/a: Permission denied", "chown -R 65532:65532 /data"),
        ("cat: can't open 'blobs/sha256/…': No such file or directory", "run the command again"),
    ],
)
def test_a_file_that_cannot_be_read_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, fix: str
) -> None:
    inspected = json.dumps([reader({"Type": "volume", "Name": "data", "Destination": DATA_DIRECTORY})])
    (tmp_path / "reader.json").write_text(inspected)
    Host(monkeypatch, tmp_path, f'[ "$1" = run ] || exec cat {tmp_path}/reader.json\necho "{said}" >&2; exit 1')

    refused = refusal(monkeypatch, "history")

    assert said in str(refused)
    assert fix in refused.fix


def test_each_host_is_asked_once_and_containers_that_vanish_meanwhile_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shelf: Shelf
) -> None:
    *_, third = three_pushes(shelf)
    Host(
        monkeypatch,
        tmp_path,
        f"""case $1 in
        ps) echo a b ;;
        container) echo '["/web","running","sha256:1","app",{{}}]'; echo 'Error: No such container: b' >&2; exit 1 ;;
        image) echo '["sha256:1",["registry.example.com/{NAME}@{third}"],null]' ;;
        esac""",
    )

    twice = ("--running-on", "unix:///run/docker.sock") * 2
    answer = run(monkeypatch, "history", NAME, "--json", *twice, store=shelf.store)

    form = json.loads(answer.stdout)
    assert form["running_on"] == ["unix:///run/docker.sock"]
    assert form["tags"][0]["versions"][0]["running"] == [
        {"host": "unix:///run/docker.sock", "container": "web", "state": "running"}
    ]


@pytest.mark.parametrize(
    "said",
    [
        "Cannot connect to the Docker daemon: dial unix /run/docker.sock: connect: no such file or directory",
        "Error: No such container: a\nerror during connect: dial tcp: lookup web-1: no such host",
        "",
    ],
)
def test_a_host_that_stops_answering_after_the_list_is_not_taken_for_one_without_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    (tmp_path / "said").write_text(said)
    Host(monkeypatch, tmp_path, f"[ $1 = ps ] && echo a b && exit; cat {tmp_path}/said >&2; exit 1")

    with pytest.raises(Failure, match=r"ssh://web-1 does not answer: .+"):
        containers("ssh://web-1")
    with pytest.raises(Failure, match=r"ssh://web-1 does not answer: .+"):
        inspected("ssh://web-1", ["a", "b"])
