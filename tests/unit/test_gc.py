"""What a garbage collection needs, refuses and reports: the judgement of a store, and the command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from components.render.registry import DATA_DIRECTORY
from components.render.registry_command import SERVE_WITH_PAUSES
from operations.__main__ import command_line
from operations.gc import commands, conversation
from operations.gc.script import throwaway
from operations.gc.status import REGISTRY, Status, now
from operations.gc.store import Files, absent, files, needed, obstacles, remaining, under_way
from operations.gc.writers import check_writers
from operations.manifests import IMAGE_TYPES
from operations.stack import Deployed, StackConfig
from operations.throwaway import LABEL, data_of
from tests.harness.shelf import NAME, Shelf, digest_of

STACK = StackConfig("prod", None)
SERVICES = {"writer": "writer-1", "admin": "admin-1", "mirror-docker-io": "hub", "mirror-ghcr-io": "ghcr"}
OUTPUTS: dict[str, Any] = {
    "registry_url": "https://registry.example.com",
    "docker_host": "ssh://deploy@registry.example.com",
    "services": SERVICES,
    "mirror_urls": {"docker.io": "https://mirror.example.com"},
    "mirror_url": "https://mirrors.example.com",
    "configuration": {"settings": {"mirrors": {"docker.io": {}, "ghcr.io": {}}}},
}


# --- The store --------------------------------------------------------------------------------------------------------


def stored(shelf: Shelf) -> Files:
    store = shelf.store
    return Files(blobs=store.blobs, revisions=store.revisions)


def parts(shelf: Shelf) -> set[tuple[str, str]]:
    return {(part.repository, part.part) for part in needed(stored(shelf), shelf.documents)}


def test_the_lines_of_the_script_are_read_and_other_lines_are_left_out() -> None:
    found = files(
        [
            "120 blobs/sha256/ab/ab01/data",
            "repositories/team/app/_manifests/revisions/sha256/ab01/link",
            "repositories/team/app/_manifests/tags/1/current/link",
            "rubbish",
        ]
    )

    assert found == Files(blobs={"sha256:ab01": 120}, revisions={"team/app": frozenset({"sha256:ab01"})})
    assert found.size == 120


def test_an_image_needs_its_configuration_and_layers_except_layers_that_lie_elsewhere() -> None:
    shelf = Shelf()
    here, elsewhere = shelf.layer("here", 10), shelf.layer("there", 20, urls=["https://example.com/layer"])
    del shelf.blobs[elsewhere["digest"]]
    image = shelf.image(here, elsewhere)

    config = json.loads(shelf.documents[image["digest"]])["config"]["digest"]
    assert parts(shelf) == {(NAME, digest) for digest in (image["digest"], config, here["digest"])}


def test_an_index_needs_the_images_that_its_own_repository_has() -> None:
    shelf = Shelf()
    own, foreign = shelf.image(shelf.layer("a", 1)), shelf.image(shelf.layer("b", 1), name="other")
    index = shelf.index(own, foreign)

    assert own["digest"] in {
        part.part for part in needed(stored(shelf), shelf.documents) if part.digest == index["digest"]
    }
    assert foreign["digest"] not in {part for name, part in parts(shelf) if name == NAME}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a manifest"),
        (b"[]", "not a manifest"),
        (b"\xff\xfe", "not a manifest"),
        (b'{"schemaVersion": 1}', "schema version 1"),
        (b'{"schemaVersion": 2, "mediaType": "application/x"}', "unknown media type application/x"),
        (None, "larger than any manifest"),
        (
            b'{"schemaVersion": 2, "layers": [{"digest": "sha256:01"}, {"digest": "sha512:02"}]}',
            "needs sha512:02, which distribution would delete",
        ),
        (
            b'{"schemaVersion": 2, "manifests": [{"digest": "sha512:02", "mediaType": "%s"}]}'
            % IMAGE_TYPES[0].encode(),
            None,
        ),
        (b'{"schemaVersion": 2, "manifests": []}', None),
        (b'{"schemaVersion": 2, "manifests": [], "annotations": {"half an emoji": "\\ud83d"}}', None),
        (b'{"schemaVersion": 2, "manifests": [], "subject": {}}', None),
        (b'{"schemaVersion": 2, "manifests": [], "subject": "v1"}', None),
        (b'{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}', None),
    ],
)
def test_a_manifest_that_stops_distribution_is_named(content: bytes | None, reason: str | None) -> None:
    digest = digest_of(content or b"")
    found = Files(blobs={digest: 1}, revisions={NAME: frozenset({digest, "sha256:without-a-blob"})})

    expected = [f"{NAME}@{digest}: {reason}"] if reason else []
    assert obstacles(found, {digest: content} if content is not None else {}) == expected


@given(st.data())
def test_what_is_missing_afterwards_is_exactly_what_a_remaining_manifest_needs_and_is_gone(data: st.DataObject) -> None:
    shelf = Shelf()
    layers = [shelf.layer(f"layer {number}", number + 1) for number in range(5)]
    for repository in ("a", "b"):
        for number in range(data.draw(st.integers(0, 3))):
            chosen = data.draw(st.lists(st.sampled_from(layers), unique_by=lambda layer: str(layer["digest"])))
            shelf.image(*chosen, name=repository, number=f"{repository}{number}")
    before = stored(shelf)
    everything = needed(before, shelf.documents)
    blobs = data.draw(st.sets(st.sampled_from(sorted(before.blobs))))
    links = {
        name: frozenset(data.draw(st.sets(st.sampled_from(sorted(digests)))))
        for name, digests in before.revisions.items()
        if digests
    }

    after = remaining(before, Files(blobs=dict.fromkeys(blobs, 0), revisions=links), files(()))

    kept = [part for part in everything if part.digest not in links.get(part.repository, ())]
    assert absent(everything, after) == [part for part in kept if part.part in blobs]
    assert after.size == sum(size for digest, size in before.blobs.items() if digest not in blobs)


def test_a_push_is_under_way_until_its_manifest_came() -> None:
    shelf = Shelf()
    layer = shelf.layer("layer", 10)
    link = f"repositories/{NAME}/_layers/sha256/{layer['digest'].removeprefix('sha256:')}/link"

    assert (
        under_way([link], needed(stored(shelf), shelf.documents))
        == f"{NAME} has the layer {layer['digest']} without a manifest"
    )
    shelf.image(layer)
    after = needed(stored(shelf), shelf.documents)
    assert under_way([link], after) is None
    assert under_way([link.replace(NAME, "other")], after), "another repository has its own links"
    assert under_way([link, f"repositories/{NAME}/_uploads/1-2/data"], after) == f"an upload to {NAME}"


# --- The conversation -------------------------------------------------------------------------------------------------


def test_a_docker_that_waits_for_a_dead_host_is_killed_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "ALIVE_EVERY", 0.1)
    monkeypatch.setattr(conversation, "_ENDS_WITHIN", 0.1)

    with conversation.Conversation(["sleep", "20"], time.monotonic()) as script:
        assert list(script.lines()) == []
        assert (script.timed_out, script.last_error()) == (True, "exit code -9")


# --- The command ------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, outputs: Any = OUTPUTS, failing: str = "") -> Result:
    """Run the command; every collection succeeds except that of the store ``failing``."""

    def collected(_: StackConfig, deployed: Deployed, role: str, status: Status, limits: object) -> Status:
        if status.store == failing:
            raise Failure("pushes went on\nfor long", "run the command again")
        return Status(
            store=status.store, started=status.started, ended=now(), result="done", freed=1_500_000, freed_blobs=3,
            size=7_000_000, blobs=9, paused=3.41, missing=(f"app@{deployed.services[role]} needs x",),
        )  # fmt: skip

    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(outputs))
    monkeypatch.setattr(commands, "_collect", collected)
    return CliRunner().invoke(command_line(["gc"]), ["gc", *arguments, "--stack", "prod"])


def test_the_result_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run(monkeypatch)

    assert answer.exit_code == 0
    assert answer.stdout == (
        "gc registry: done, freed 1.5 MB in 3 blobs, 7.0 MB left, writing paused for 3.4 s, 1 parts are missing\n"
    )
    assert answer.stderr == "missing before the collection: app@writer-1 needs x\n"


def test_a_time_that_no_shell_can_count_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--stalled", "9" * 19).exit_code == 2, "no push would be seen"


def test_the_switch_for_mirrors_leaves_the_registry_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run(monkeypatch, "--mirrors", "--json")

    found = json.loads(answer.stdout)["stores"]
    assert [(one["store"], one["missing"]) for one in found] == [
        ("docker.io", ["app@hub needs x"]),
        ("ghcr.io", ["app@ghcr needs x"]),
    ]


def test_a_failure_is_one_line_of_the_result_and_does_not_stop_the_other_mirrors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = run(monkeypatch, "--mirrors", failing="docker.io")

    assert isinstance(answer.exception, Failure)
    first, second = answer.stdout.splitlines()
    assert first == "gc docker.io: failed: pushes went on"
    assert second.startswith("gc ghcr.io: done")


def test_a_running_status_says_so_in_json() -> None:
    found = Status(store=REGISTRY, started=now()).as_json()

    assert (found["result"], found["ended"], found["reason"]) == ("running", None, None)
    assert found["started"].endswith("Z")


# --- The store on the Docker host -------------------------------------------------------------------------------------


def container(name: str, *, volume: str = "data", writes: bool = True, **config: Any) -> dict[str, Any]:
    mount = {
        "Type": "volume",
        "Name": volume,
        "Source": f"/volumes/{volume}",
        "Destination": DATA_DIRECTORY,
        "RW": writes,
    }
    cmd = ["/bin/sh", "-c", SERVE_WITH_PAUSES]
    config = {"User": "65532:65532", "Cmd": cmd, "Labels": {"registry-stack.role": name}} | config
    return {"Name": f"/{name}", "Image": "sha256:1", "Config": config, "Mounts": [mount]}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """A Docker host with these containers."""
    found = {name: container(name) for name in ("writer-1", "admin-1")}
    found["reader-1"] = container("reader-1", writes=False, Cmd=["serve"])
    found["backup"] = container("backup", volume="other", Cmd=["backup"], Labels=None)
    program = (
        "import json, os, sys\n"
        "found = json.load(open(os.environ['CONTAINERS']))\n"
        "names = [name for name in sys.argv[5:] if name in found]\n"
        "print('\\n'.join(found) if sys.argv[3] == 'ps' else json.dumps([found[name] for name in names]))\n"
    )
    (tmp_path / "docker").write_text(f"#!/usr/bin/env python3\n{program}")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CONTAINERS", str(tmp_path / "containers.json"))
    return found


def found_on(host: dict[str, dict[str, Any]], tmp_path: Path, role: str = "writer") -> list[str]:
    deployed = Deployed(registry_url=OUTPUTS["registry_url"], docker_host=OUTPUTS["docker_host"], services=SERVICES)
    (tmp_path / "containers.json").write_text(json.dumps(host))
    data = data_of(STACK, deployed, role)
    check_writers(STACK, deployed.docker_host, data)
    return throwaway(data, 60, checked=True)


def test_the_throwaway_container_gets_the_data_and_nothing_else(
    host: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    arguments = found_on(host, tmp_path)

    assert [one for one in arguments if one.startswith(("--mount", "--volume"))] == [
        f"--mount=type=volume,source=data,target={DATA_DIRECTORY}"
    ]
    assert {"--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--user=65532:65532"} < set(arguments)


def test_a_process_of_an_older_version_is_refused(host: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    host["admin-1"]["Config"]["Cmd"] = ["/bin/sh", "-c", "exec registry serve"]

    with pytest.raises(Failure, match="admin-1 cannot pause") as refused:
        found_on(host, tmp_path)

    assert refused.value.fix == "pulumi up --stack prod"


def test_another_container_that_writes_to_the_data_is_refused(host: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    host["backup"] = container("backup", Cmd=["backup"], Labels=None)

    with pytest.raises(Failure, match="backup writes to data") as refused:
        found_on(host, tmp_path)

    assert refused.value.fix == f"docker --host {OUTPUTS['docker_host']} stop backup"


def test_a_command_that_writes_beside_images_is_no_obstacle(host: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    host["backup"] = container("backup", Cmd=["sh", "-c", "cat > .services.json"], Labels={LABEL: ""})

    assert found_on(host, tmp_path)


def test_a_container_that_is_gone_is_refused(host: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    del host["writer-1"]

    with pytest.raises(Failure, match="writer-1 is gone") as refused:
        found_on(host, tmp_path)

    assert refused.value.fix == "pulumi up --refresh --stack prod"


def test_a_stack_without_a_writer_is_refused(host: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Failure, match="`services` has no public") as refused:
        found_on(host, tmp_path, "public")

    assert refused.value.fix == "pulumi up --refresh --stack prod"
