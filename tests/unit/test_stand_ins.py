"""The stand-ins give the recorded answers of the official plugins, as far as these need no engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.exceptions
from pulumi.provider.experimental import provider as protocol
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime.proto import provider_pb2

from local.stand_ins import _container, _serving
from local.stand_ins._engine import Engine, dial_command
from local.stand_ins._plugin import UNKNOWN, InitializationError, StandInError, plain, plain_map, pulumi_value
from local.stand_ins.command import CommandStandIn
from local.stand_ins.docker import RESOURCES, DockerStandIn

CONTRACT = json.loads((Path(__file__).parent.parent / "data/docker-plugin.json").read_text())
CONTAINER = next(case for case in CONTRACT["cases"] if case["type"].endswith(":Container"))


def urn(type_token: str) -> str:
    return f"urn:pulumi:dev::contract::{type_token}::x"


def values(properties: dict[str, Any]) -> dict[str, PropertyValue]:
    return {key: pulumi_value(value) for key, value in properties.items()}


def checked(
    type_token: str, inputs: dict[str, Any], olds: dict[str, Any] | None = None, seed: bytes = b"seed"
) -> protocol.CheckResponse:
    request = protocol.CheckRequest(urn(type_token), values(olds or {}), values(inputs), seed)
    provider = CommandStandIn() if type_token.startswith("command:") else DockerStandIn()
    return asyncio.run(provider.check(request))


def everything(properties: dict[str, PropertyValue]) -> dict[str, Any]:
    """The properties as JSON, with `__defaults`, which ``plain`` leaves out."""

    def show(value: Any) -> Any:
        if isinstance(value, PropertyValue):
            return show(value.value)
        if isinstance(value, tuple):
            return [show(element) for element in value]
        return {key: show(element) for key, element in value.items()} if hasattr(value, "items") else value

    return {key: show(value) for key, value in properties.items()}


def difference(case: dict[str, Any], inputs: dict[str, Any], **options: Any) -> protocol.DiffResponse:
    response = checked(case["type"], inputs)
    assert not response.failures, [failure.reason for failure in response.failures]
    old_state, ignored = values(options.get("state", case["outputs"])), options.get("ignore_changes", [])
    request = protocol.DiffRequest(urn(case["type"]), "id", old_state, response.inputs, ignored)
    return asyncio.run(DockerStandIn().diff(request))


def as_recorded(response: protocol.DiffResponse) -> dict[str, Any]:
    return {
        "changes": "DIFF_SOME" if response.changes else "DIFF_NONE",
        "deleteBeforeReplace": response.delete_before_replace,
        "diffs": sorted(response.diffs),
        "replaces": sorted(response.replaces),
    }


def expected(recorded: dict[str, Any]) -> dict[str, Any]:
    return {
        "changes": recorded["changes"],
        "deleteBeforeReplace": recorded["deleteBeforeReplace"],
        "diffs": sorted(recorded["diffs"]),
        "replaces": sorted(set(recorded["replaces"])),
    }


def recorded_changes() -> Iterator[Any]:
    for case in CONTRACT["cases"]:
        for change in [*case["diff"], *case.get("diff_other_spelling", [])]:
            how = "removed" if change.get("removed") else json.dumps(change["new"])
            yield pytest.param(case, change, id=f"{case['type'].split(':')[-1]} {change['property']} {how}")


KNOWN = [p for p in recorded_changes() if p.values[1]["property"] in RESOURCES[p.values[0]["type"]].inputs]
UNKNOWN_CHANGES = [
    p for p in recorded_changes() if p.values[1]["property"] not in RESOURCES[p.values[0]["type"]].inputs
]
BY_TYPE = [pytest.param(case, id=case["type"].split(":")[-1]) for case in CONTRACT["cases"]]


@pytest.mark.parametrize("case", BY_TYPE)
def test_check_fills_in_the_same_defaults(case: dict[str, Any]) -> None:
    assert everything(checked(case["type"], case["inputs"]).inputs) == case["checked"]


@pytest.mark.parametrize("case", BY_TYPE)
def test_an_unchanged_program_has_no_difference(case: dict[str, Any]) -> None:
    assert as_recorded(difference(case, case["inputs"])) == expected(case["unchanged"])


@pytest.mark.parametrize(("case", "change"), KNOWN)
def test_a_change_is_answered_as_recorded(case: dict[str, Any], change: dict[str, Any]) -> None:
    inputs = {key: value for key, value in case["inputs"].items() if key != change["property"]}
    if not change.get("removed"):
        inputs[change["property"]] = change["new"]
    assert as_recorded(difference(case, inputs)) == expected(change)


@pytest.mark.parametrize(("case", "change"), UNKNOWN_CHANGES)
def test_an_input_that_the_stand_in_does_not_know_is_refused_by_name(
    case: dict[str, Any], change: dict[str, Any]
) -> None:
    response = checked(case["type"], {**case["inputs"], change["property"]: change["new"]})
    path = f"{case['type'].split(':')[-1]}.{change['property']}"
    (failure,) = response.failures
    assert failure.property == "", "Pulumi prints the value of a named property"
    assert failure.reason.startswith(f"the stand-in for the docker plugin does not know {path}; ")


def test_most_recorded_changes_concern_inputs_that_the_stand_in_knows() -> None:
    assert len(KNOWN) > 55, "the contract was not read"
    assert len(UNKNOWN_CHANGES) < 40


@pytest.mark.parametrize(
    "error", [pytest.param(e, id=e["what"]) for e in CONTRACT["errors"] if e["check_failures"]]
)  # fmt: skip
def test_bad_inputs_are_refused_in_the_recorded_words(error: dict[str, Any]) -> None:
    response = checked("docker:index/container:Container", error["inputs"])
    assert [[failure.property, failure.reason] for failure in response.failures] == error["check_failures"]


def test_a_preview_shows_the_recorded_outputs_and_asks_no_engine() -> None:
    inputs = checked(CONTAINER["type"], CONTAINER["inputs"]).inputs
    request = protocol.CreateRequest(urn(CONTAINER["type"]), inputs, timeout=0, preview=True)
    stand_in = DockerStandIn()
    stand_in._engine = Engine("unix:///nonexistent")
    shown = {key: plain(value) for key, value in asyncio.run(stand_in.create(request)).properties.items()}
    recorded = dict(CONTAINER["preview_outputs"])
    assert shown.pop("__meta") == CONTAINER["outputs"]["__meta"]
    del recorded["__meta"]
    assert shown == recorded


def test_the_order_of_sets_makes_no_difference() -> None:
    state = {
        **CONTAINER["outputs"],
        "envs": ["A=1", "B=2"],
        "labels": [{"label": "a", "value": "1"}, {"label": "b", "value": "2"}],
        "volumes": [{"containerPath": "/a", "volumeName": "a"}, {"containerPath": "/b", "volumeName": "b"}],
        "capabilities": {"adds": [], "drops": ["CAP_CHOWN", "CAP_KILL"]},
    }
    inputs = {
        **CONTAINER["inputs"],
        "envs": ["B=2", "A=1"],
        "labels": state["labels"][::-1],
        "volumes": state["volumes"][::-1],
        "capabilities": {"drops": ["CAP_KILL", "CAP_CHOWN"]},
    }
    assert difference(CONTAINER, inputs, state=state).changes is False


def test_an_empty_list_where_an_older_state_says_null_makes_no_difference() -> None:
    state = {**CONTAINER["outputs"], "envs": None, "mounts": None}
    inputs = {**CONTAINER["inputs"], "envs": [], "mounts": []}
    assert difference(CONTAINER, inputs, state=state).changes is False


def test_the_order_of_a_command_makes_a_difference() -> None:
    assert difference(CONTAINER, {**CONTAINER["inputs"], "command": ["3600", "sleep"]}).replaces == ["command"]


def test_a_difference_points_at_the_changed_leaf() -> None:
    state = {**CONTAINER["outputs"], "uploads": [{"file": "/a", "content": "x"}, {"file": "/b", "content": "y"}]}
    inputs = {**CONTAINER["inputs"], "uploads": [{"file": "/a", "content": "x"}, {"file": "/b", "content": "z"}]}
    inputs["logOpts"] = {"max-file": "3", "max-size": "20m"}
    detailed = difference(CONTAINER, inputs, state=state).detailed_diff
    assert {path: diff.kind.name for path, diff in detailed.items()} == {
        'logOpts["max-size"]': "UPDATE_REPLACE",
        "uploads[1].content": "UPDATE_REPLACE",
    }


def test_an_ignored_change_is_no_change() -> None:
    inputs = {**CONTAINER["inputs"], "labels": [{"label": "a", "value": "2"}]}
    assert difference(CONTAINER, inputs, ignore_changes=["labels"]).changes is False


def test_a_stopped_container_with_ports_differs_as_recorded() -> None:
    recorded = CONTAINER["stopped_outside"]
    state = {**CONTAINER["outputs"], "mustRun": recorded["read_mustRun"], "ports": []}
    assert as_recorded(difference(CONTAINER, CONTAINER["inputs"], state=state)) == expected(recorded["diff"])


def test_a_container_without_a_name_gets_one_from_its_logical_name_and_keeps_it() -> None:
    first = checked(CONTAINER["type"], {"image": "registry:3.1.2"}).inputs
    name = plain(first["name"])
    assert name.startswith("x-")
    assert len(name) == len("x-") + 7
    assert int(name[2:], 16) >= 0
    again = checked(CONTAINER["type"], {"image": "registry:3.1.2"}, everything(first), b"other").inputs
    assert plain(again["name"]) == name
    replaced = checked(CONTAINER["type"], {"image": "registry:3.1.2"}, seed=b"other").inputs
    assert plain(replaced["name"]) != name


def test_a_name_that_the_engine_proposes_is_taken_for_a_new_container_and_not_for_an_old_one() -> None:
    inputs = {"image": "registry:3.1.2"}
    old = checked(CONTAINER["type"], inputs).inputs

    async def names() -> tuple[str, str]:
        servicer = _serving._Servicer([], "5.2.0", DockerStandIn(), engine_address="")
        found = []
        for olds in ({}, old):
            request = provider_pb2.CheckRequest(
                urn=urn(CONTAINER["type"]),
                olds=PropertyValue.marshal_map(olds),
                news=PropertyValue.marshal_map(values(inputs)),
                autonaming=provider_pb2.CheckRequest.AutonamingOptions(proposed_name="prefix-x-1234567"),
            )
            response = await servicer.Check(request, None)
            found.append(response.inputs["name"])
        return found[0], found[1]

    assert asyncio.run(names()) == ("prefix-x-1234567", plain(old["name"]))


def test_a_given_name_is_not_kept_when_the_program_drops_it() -> None:
    olds = everything(checked(CONTAINER["type"], {"image": "registry:3.1.2", "name": "mine"}).inputs)
    assert plain(checked(CONTAINER["type"], {"image": "registry:3.1.2"}, olds).inputs["name"]) != "mine"


def test_a_network_with_an_automatic_name_is_replaced_create_first() -> None:
    case = CONTRACT["cases"][0]
    inputs = {key: value for key, value in case["inputs"].items() if key != "name"}
    assert difference(case, {**inputs, "internal": True}).delete_before_replace is False


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"uploads": [{"file": "/a", "contnet": "x"}]}, "Container.uploads[0].contnet"),
        ({"healthcheck": {"test": ["CMD"]}}, "Container.healthcheck.test"),
    ],
)
def test_an_unknown_key_of_an_inner_object_is_refused_by_name(inputs: dict[str, Any], path: str) -> None:
    (failure,) = checked(CONTAINER["type"], {"image": "i", **inputs}).failures
    assert f"does not know {path}; " in failure.reason


def test_an_unknown_resource_type_is_refused_by_name() -> None:
    with pytest.raises(StandInError, match="does not know resources of type docker:index/secret:Secret"):
        checked("docker:index/secret:Secret", {})


def test_an_unknown_provider_setting_is_refused_by_name() -> None:
    request = protocol.CheckRequest(urn("pulumi:providers:docker"), {}, values({"registryAuth": "[]"}), b"")
    (failure,) = asyncio.run(DockerStandIn().check_config(request)).failures
    assert "does not know Provider.registryAuth; " in failure.reason


def test_check_keeps_a_secret_leaf_secret_and_create_makes_the_whole_output_secret() -> None:
    upload = PropertyValue({"file": PropertyValue("/a"), "content": PropertyValue("hush", is_secret=True)})
    news = {**values({"image": "registry:3.1.2"}), "uploads": PropertyValue([upload])}
    request = protocol.CheckRequest(urn(CONTAINER["type"]), {}, news, b"seed")
    inputs = asyncio.run(DockerStandIn().check(request)).inputs
    assert inputs["uploads"].value[0].value["content"].is_secret
    assert not inputs["uploads"].value[0].value["file"].is_secret
    create = protocol.CreateRequest(urn(CONTAINER["type"]), inputs, timeout=0, preview=True)
    outputs = asyncio.run(DockerStandIn().create(create)).properties
    assert [key for key, value in outputs.items() if value.contains_secret()] == ["uploads"]


def test_an_unreachable_engine_is_named_with_the_fix() -> None:
    request = protocol.ConfigureRequest({}, values({"host": "tcp://127.0.0.1:1"}), True, True)
    with pytest.raises(StandInError) as failure:
        asyncio.run(DockerStandIn().configure(request))
    assert str(failure.value).startswith("failed to connect to any docker daemon: tcp://127.0.0.1:1")
    assert "start the engine on that host" in str(failure.value)


def test_a_host_over_ssh_is_not_contacted_by_configuring() -> None:
    request = protocol.ConfigureRequest({}, values({"host": "ssh://nobody@nonexistent.invalid"}), True, True)
    asyncio.run(DockerStandIn().configure(request))


def test_what_was_made_is_remembered_when_the_engine_is_lost_right_after(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> Any:
        raise requests.exceptions.ConnectionError("Connection aborted")

    volume = RESOURCES["docker:index/volume:Volume"]
    broken = dataclasses.replace(volume, create=lambda api, inputs: "made", initialize=lost, read=lost)
    monkeypatch.setitem(RESOURCES, "docker:index/volume:Volume", broken)
    stand_in = DockerStandIn()
    stand_in._engine._api = object()
    inputs = checked("docker:index/volume:Volume", {"name": "v"}).inputs
    with pytest.raises(InitializationError, match="Connection aborted") as failure:
        asyncio.run(stand_in.create(protocol.CreateRequest(urn("docker:index/volume:Volume"), inputs, 0, False)))
    assert failure.value.resource_id == "made"
    assert plain(failure.value.outputs["name"]) == "v"


@pytest.mark.parametrize(
    ("url", "ending"),
    [
        ("ssh://host.example", ["--", "host.example", "docker system dial-stdio"]),
        ("ssh://me@host.example:22022", ["-l", "me", "-p", "22022", "--", "host.example", "docker system dial-stdio"]),
        ("ssh://host.example/run/d.sock", ["host.example", "docker --host unix:///run/d.sock system dial-stdio"]),
    ],
)
def test_ssh_runs_dial_stdio_on_the_host(url: str, ending: list[str]) -> None:
    command = dial_command(url)
    assert command[:4] == ["ssh", "-T", "-o", "BatchMode=yes"]
    assert command[-len(ending) :] == ending


def test_a_password_in_an_ssh_url_is_refused_and_not_shown() -> None:
    with pytest.raises(StandInError) as failure:
        dial_command("ssh://me:hunter2@host.example")
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("text", ["0s", "5s", "1m0s", "1m30s", "1h0m0s", "1.5s", "100ms", "2h5m0.25s"])
def test_canonical_durations_survive_the_engine(text: str) -> None:
    assert _container._go_duration(_container._nanoseconds(text)) == text


def test_a_malformed_duration_is_refused() -> None:
    with pytest.raises(StandInError, match="'soon' is not a duration"):
        _container._nanoseconds("soon")


COMMAND = "command:local:Command"


def run_command(inputs: dict[str, PropertyValue], *, preview: bool = False) -> protocol.CreateResponse:
    request = protocol.CreateRequest(urn(COMMAND), inputs, timeout=0, preview=preview)
    return asyncio.run(CommandStandIn().create(request))


def test_a_command_returns_what_it_printed_without_the_last_newline() -> None:
    made = run_command(
        values({"create": "echo out; echo; echo err >&2; cat", "stdin": "in", "environment": {"A": "b"}})
    )
    outputs = plain_map(made.properties)
    assert (outputs["stdout"], outputs["stderr"]) == ("out\n\nin", "err")
    assert made.resource_id.startswith("x")


def test_a_command_does_not_run_in_a_preview(tmp_path: Path) -> None:
    made = run_command(values({"create": f"touch {tmp_path}/made"}), preview=True)
    assert plain(made.properties["stdout"]) == UNKNOWN
    assert not list(tmp_path.iterdir())


def test_a_failing_command_is_quoted_with_status_and_output_but_without_secrets() -> None:
    inputs = {
        **values({"create": "cat; echo why >&2; exit 3"}),
        "stdin": PropertyValue("hush\nhush2\n", is_secret=True),
    }
    with pytest.raises(StandInError) as failure:
        run_command(inputs)
    assert str(failure.value) == 'exit status 3: running "cat; echo why >&2; exit 3":\n[secret]\n[secret]\nwhy\n'


def test_what_a_command_prints_is_secret_if_any_input_is() -> None:
    outputs = run_command({**values({"create": "true"}), "stdin": PropertyValue("hush", is_secret=True)}).properties
    assert sorted(key for key, value in outputs.items() if value.is_secret) == ["stderr", "stdin", "stdout"]


def test_an_update_runs_the_update_command_with_the_previous_output() -> None:
    news = values({"create": "false", "update": "echo then $PULUMI_COMMAND_STDOUT"})
    request = protocol.UpdateRequest(urn(COMMAND), "x", values({"stdout": "before", "stderr": ""}), news, 0, [], False)
    assert plain(asyncio.run(CommandStandIn().update(request)).properties["stdout"]) == "then before"


def test_deleting_runs_the_delete_command(tmp_path: Path) -> None:
    state = values({"delete": f"echo $PULUMI_COMMAND_STDOUT > {tmp_path}/gone", "stdout": "kept", "stderr": ""})
    asyncio.run(CommandStandIn().delete(protocol.DeleteRequest(urn(COMMAND), "x", state, 0)))
    assert (tmp_path / "gone").read_text() == "kept\n"


@pytest.mark.parametrize(
    ("news", "replaces"),
    [({"create": "b", "triggers": ["1"]}, []), ({"create": "a", "triggers": ["2"]}, ["triggers"])],
)
def test_only_triggers_replace_a_command(news: dict[str, Any], replaces: list[str]) -> None:
    state = values({"create": "a", "triggers": ["1"], "stdout": "", "stderr": ""})
    answer = asyncio.run(CommandStandIn().diff(protocol.DiffRequest(urn(COMMAND), "x", state, values(news), [])))
    assert (answer.changes, answer.replaces, answer.delete_before_replace) == (True, replaces, False)


def test_an_unknown_input_of_a_command_is_refused_by_name() -> None:
    (failure,) = checked(COMMAND, {"create": "true", "assetPaths": ["*"]}).failures
    assert failure.reason.startswith("the stand-in for the command plugin does not know Command.assetPaths; ")
