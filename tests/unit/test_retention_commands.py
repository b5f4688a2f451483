"""`retention plan` and `retention apply`: what they ask, write, delete and refuse."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from operations.__main__ import command_line
from operations.history.running import Container
from operations.retention import applying, commands, deleting, gathering, memory
from operations.retention.plan import Plan
from operations.retention.usage import Memory
from operations.stack import StackConfig
from operations.throwaway import Data
from tests.harness.shelf import Shelf
from tests.harness.simulation import Simulation

OUTPUTS = {
    "registry_url": "https://registry.example.com",
    "docker_host": "ssh://deploy@host1",
    "services": {"reader": "reader-1"},
    "users": {},
}
HOST = "ssh://deploy@web-1"
STACK = StackConfig("prod", None)
DATA = Data(image="registry", user="65532:65532", kind="volume", source="registry-data")
RETENTION: dict[str, Any] = {
    "rules": [{"tags": "pr-*", "keep": {"days": 14}}],
    "most": "100%",
    "overwritten": {"newest": 1},
}


class World:
    """A stack, its registry, and its Docker hosts, in place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.shelf, self.file = Shelf(), folder / "plan.json"
        self.retention: dict[str, Any] | None = RETENTION
        self.hosts: dict[str, list[Container] | Failure] = {}
        self.memory, self.requests, self.busy = Memory(), list[httpx.Request](), list[int]()
        for tag in ("v1", "pr-1", "pr-2"):
            self.shelf.push(tag, self.shelf.image(self.shelf.layer(tag, 1000)))
        self.simulation = Simulation(self.shelf)
        self.now = self.shelf.now + datetime.timedelta(days=30)
        monkeypatch.setattr(StackConfig, "_run", self._pulumi)
        monkeypatch.setattr(gathering, "containers", self._containers)
        for module in (commands, gathering):
            monkeypatch.setattr(module, "read_store", lambda *_, **__: self.simulation.store)
        monkeypatch.setattr(gathering, "data_of", lambda *_: None)
        monkeypatch.setattr(gathering, "read_memory", lambda *_: (self.now, self.memory))
        monkeypatch.setattr(gathering, "write_memory", lambda *given: setattr(self, "memory", given[-1]))
        monkeypatch.setattr(httpx, "Client", functools.partial(httpx.Client, transport=httpx.MockTransport(self._http)))
        monkeypatch.setattr(deleting, "_PAUSES", (0, 0))

    def _pulumi(self, *arguments: str, **_: str) -> str:
        if arguments[0] == "stack":
            return json.dumps(OUTPUTS)
        registry = {"url": "https://registry.example.com", "users": {}}
        registry |= {"retention": self.retention} if self.retention else {}
        entry = {"value": json.dumps(registry), "objectValue": registry}
        return json.dumps({"registry-stack:registry": entry, "registry-stack:stack_secret": {"value": "5" * 64}})

    def _containers(self, host: str) -> list[Container]:
        found = self.hosts[host]
        if isinstance(found, Failure):
            raise found
        return found

    def _http(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        name, _, reference = request.url.path.removeprefix("/v2/").partition("/manifests/")
        if request.method == "HEAD":
            digest = self.simulation.points_to(name, reference)
            return httpx.Response(200, headers={"Docker-Content-Digest": digest}) if digest else httpx.Response(404)
        if self.busy:
            return httpx.Response(self.busy.pop())
        self.simulation.delete(name, reference)
        return httpx.Response(202)

    def runs(self, tag: str, name: str = "my-app/backend") -> Container:
        digest = str(self.simulation.tags[name][tag].current)
        names = frozenset({f"registry.example.com/{name}:{tag}"})
        return Container(
            host=HOST,
            name="app-1",
            state="running",
            image="sha256:0",
            digests=frozenset({digest}),
            names=names,
            service="shop/app",
        )

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(command_line(["retention"]), ["retention", *arguments, "--stack", "prod"])

    def plan(self, *options: str) -> Plan:
        answer = self("plan", "--output", str(self.file), *options)
        assert answer.exit_code == 0, answer.exception
        return Plan.model_validate_json(self.file.read_text())

    def refusal(self, *arguments: str) -> Failure:
        answer = self(*arguments)
        assert isinstance(answer.exception, Failure), answer.output
        return answer.exception

    @property
    def deleted(self) -> list[str]:
        return [request.url.path.rpartition("/")[2] for request in self.requests if request.method == "DELETE"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def test_a_plan_is_printed_and_applied(world: World, tmp_path: Path) -> None:
    answer = world("plan", "--output", str(world.file), "--markdown", str(tmp_path / "plan.md"))
    applied = world("apply", str(world.file))

    assert "rule 1: older than 14 days" in answer.stdout
    assert "registry.example.com: deletes 2 of 3 tags and 2 manifests" in answer.stdout
    assert (tmp_path / "plan.md").read_text().startswith("### Retention of registry.example.com\n")
    assert applied.stdout == ("registry.example.com: deleted 4 of 4 tags and manifests; 0 were gone already\n"), (
        applied.exception
    )
    assert world.deleted[:2] == ["pr-2", "pr-1"]
    assert set(world.simulation.tags["my-app/backend"]) == {"v1"}
    assert {request.method for request in world.requests} == {"HEAD", "DELETE"}


def test_plan_and_apply_print_json(world: World) -> None:
    plan = world("plan", "--output", str(world.file), "--json").stdout
    applied = json.loads(world("apply", str(world.file), "--json").stdout)

    assert plan == world.file.read_text()
    assert applied == {
        "registry": "registry.example.com", "deleted": 4, "gone": 0, "freed": json.loads(plan)["freed"]
    }  # fmt: skip


def test_planning_deletes_nothing(world: World) -> None:
    world.plan()

    assert world.requests == []


def test_an_interrupted_plan_continues(world: World) -> None:
    plan = world.plan()
    world.busy = [500]

    failed = world.refusal("apply", str(world.file))
    world.simulation.delete("my-app/backend", "pr-2")
    world.simulation.delete("my-app/backend", str(plan.deleted_tags[0].digest))
    world.busy = [503, 429]
    again = world("apply", str(world.file))
    nothing = world("apply", str(world.file))

    assert "500" in str(failed)
    assert "continues where it stopped" in failed.fix
    assert "deleted 2 of 4 tags and manifests; 2 were gone already" in again.stdout
    assert "deleted 0 of 4" in nothing.stdout


def test_a_tag_that_was_pushed_again_stops_the_plan(world: World) -> None:
    world.plan()
    world.shelf.push("pr-1", world.shelf.image(world.shelf.layer("new", 1)))
    world.simulation = Simulation(world.shelf)

    refused = world.refusal("apply", str(world.file))

    assert "my-app/backend:pr-1 was pushed again" in str(refused)
    assert world.requests == []


@pytest.mark.parametrize("how", ["tag", "index", "manifest", "run"])
def test_a_new_need_for_what_the_plan_deletes_stops_the_plan(world: World, how: str) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    world.hosts[HOST] = []
    plan = world.plan()
    digest = plan.deleted_tags[0].digest
    world.shelf.now = world.now + datetime.timedelta(minutes=1)
    if how == "tag":
        world.shelf.push("v2", {"digest": digest})
    elif how == "index":
        world.shelf.index({"digest": digest, "mediaType": "application/vnd.oci.image.manifest.v1+json"})
    elif how == "manifest":
        world.shelf.pushed["my-app/backend"][str(digest)] = world.shelf.now
    else:
        world.hosts[HOST] = [world.runs(plan.deleted_tags[0].tag)]
    world.simulation = Simulation(world.shelf)

    refused = world.refusal("apply", str(world.file))

    assert "does not fit the registry any more" in str(refused)
    assert refused.fix == f"make a new plan: python -m operations retention plan --output {world.file} --stack prod"
    assert world.requests == []


def test_a_push_while_the_plan_is_applied_stops_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan()
    monkeypatch.setattr(applying, "CHECK_AGAIN_AFTER", -1)
    delete = world.simulation.delete

    def push_then_delete(name: str, reference: str) -> None:
        delete(name, reference)
        world.shelf.push("v2", {"digest": plan.deleted_manifests[-1].digest})
        world.simulation.tags["my-app/backend"]["v2"] = world.shelf.tags["my-app/backend"]["v2"]

    monkeypatch.setattr(world.simulation, "delete", push_then_delete)

    refused = world.refusal("apply", str(world.file))

    assert "my-app/backend:v2 points to" in str(refused)
    assert len(world.deleted) == 1


def test_a_tag_that_is_pushed_again_between_two_checks_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.plan()
    delete, links = world.simulation.delete, world.simulation.tags["my-app/backend"]

    def delete_then_push(name: str, reference: str) -> None:
        delete(name, reference)
        links["pr-1"] = links["v1"]

    monkeypatch.setattr(world.simulation, "delete", delete_then_push)

    assert "my-app/backend:pr-1 was pushed again" in str(world.refusal("apply", str(world.file)))
    assert world.deleted == ["pr-2"]
    assert set(links) == {"v1", "pr-1"}


def test_a_container_that_starts_while_the_plan_is_applied_stops_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    world.hosts[HOST] = []
    world.plan()
    last = world.runs("pr-1")
    monkeypatch.setattr(applying, "CHECK_AGAIN_AFTER", -1)
    delete = world.simulation.delete

    def delete_then_start(name: str, reference: str) -> None:
        delete(name, reference)
        world.hosts[HOST] = [last]

    monkeypatch.setattr(world.simulation, "delete", delete_then_start)

    assert "a service uses or used" in str(world.refusal("apply", str(world.file)))
    assert world.deleted == ["pr-2"]


def test_what_runs_stays_also_after_the_service_ran_something_else(world: World) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    world.hosts[HOST] = [world.runs("pr-1")]

    running = world.plan()
    world.hosts[HOST] = [dataclasses.replace(world.runs("v1"), image="sha256:1")]
    before = world.plan()
    world.hosts[HOST] = Failure("no answer", "docker info")
    without = world.plan("--without", HOST)

    why = [next(one.why for one in plan.tags if one.tag == "pr-1") for plan in (running, before, without)]
    assert why == ["runs on web-1: app-1", "ran before on web-1: shop/app", "ran before on web-1: shop/app"]
    assert without.without == (HOST,)


def test_a_host_that_does_not_answer_stops_plan_and_apply(world: World) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    silent = Failure(f"{HOST} does not answer: no route", f"docker --host {HOST} info")

    world.hosts[HOST] = []
    world.plan()
    world.hosts[HOST] = silent
    refused = world.refusal("apply", str(world.file))
    planned = world.refusal("plan")
    world.plan("--without", HOST)
    applied = world("apply", str(world.file))

    assert "no route" in str(planned)
    assert planned.fix.endswith(f"; or repeat the command with --without {HOST}")
    assert applied.exit_code == 0, applied.exception
    assert "no route" in str(refused)
    assert refused.fix == (
        f"docker --host {HOST} info; or make a new plan: "
        f"python -m operations retention plan --output {world.file} --stack prod --without {HOST}"
    )


def test_what_a_service_used_between_plan_and_apply_stops_the_plan(world: World) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    world.hosts[HOST] = []
    world.plan()
    text = world.file.read_text()
    for tag in ("pr-1", "v1"):
        world.hosts[HOST] = [dataclasses.replace(world.runs(tag), image=f"sha256:{tag}")]
        world.plan()
    world.file.write_text(text)

    assert "a service uses or used" in str(world.refusal("apply", str(world.file)))
    assert world.requests == []


def test_a_kept_tag_that_is_gone_stops_the_plan(world: World) -> None:
    world.plan()
    world.simulation.delete("my-app/backend", "v1")

    assert "my-app/backend:v1 is gone, which the plan keeps" in str(world.refusal("apply", str(world.file)))
    assert world.requests == []


@pytest.mark.parametrize(
    "settings",
    [
        {"running_on": [HOST]},
        {"most": "50%"},
        {"overwritten": {"newest": 2}},
        {"rules": [{"tags": "pr-1", "keep": "always"}, *RETENTION["rules"]]},
        None,
    ],
)
def test_a_plan_of_other_settings_is_refused(world: World, settings: dict[str, Any] | None) -> None:
    world.plan()
    world.retention = settings and RETENTION | settings

    refused = world.refusal("apply", str(world.file))

    assert "other settings of registry.retention" in str(refused)
    assert refused.fix == f"make a new plan: python -m operations retention plan --output {world.file} --stack prod"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("most", value) for value in ("many", "", "101%", "²%", None)),
        *(("made", value) for value in ("2026-11-30T10:00:00", "yesterday")),
        *(("running_on", value) for value in (["--help"], ["ssh://-oProxyCommand=x"], HOST)),
        *(("bytes", value) for value in (-1, "x")),
        *(("version", value) for value in (0, 2)),
        *(("tags", value) for value in (None, [{}], [5], {})),
        *(("registry", value) for value in ("\x1b[31m", "")),
        ("more", 1),
    ],
)
def test_a_plan_that_somebody_edited_badly_is_refused(world: World, key: str, value: Any) -> None:
    world.plan()
    world.file.write_text(json.dumps(json.loads(world.file.read_text()) | {key: value}))

    refused = world.refusal("apply", str(world.file))

    assert str(refused) == f"{world.file} is not a plan of this version"
    assert refused.fix == f"python -m operations retention plan --output {world.file} --stack prod"
    assert world.requests == []


@pytest.mark.parametrize("registry", ["registry.example.com", "registry.example.com:443", "Registry.example.com"])
def test_an_image_that_the_registry_does_not_have_stops_the_plan(world: World, registry: str) -> None:
    world.retention = RETENTION | {"running_on": [HOST]}
    lost = Container(
        host=HOST,
        name="lost",
        state="exited",
        image="sha256:1",
        digests=frozenset(),
        names=frozenset({f"{registry}/lost:1"}),
    )
    world.hosts[HOST] = [world.runs("pr-1"), lost]

    refused = world.refusal("plan")
    world.hosts[HOST] = [dataclasses.replace(lost, state="running"), world.runs("pr-1")]
    running = world.refusal("plan")
    found = world.plan("--without", HOST)

    assert running.fix == f"push the image; or repeat the command with --without {HOST}"
    assert f"web-1: lost (exited) uses {registry}/lost:1" in str(refused)
    assert f"docker --host {HOST} rm lost" in refused.fix
    assert next(one.why for one in found.tags if one.tag == "pr-1") == "runs on web-1: app-1"


def test_a_plan_above_most_is_written_and_refused(world: World) -> None:
    world.retention = RETENTION | {"most": "25%"}

    planned = world.refusal("plan", "--output", str(world.file))
    applied = world.refusal("apply", str(world.file))

    assert str(planned) == "the plan deletes 67% of all tags, and registry.retention.most is 25%"
    assert f"retention apply {world.file} --more --stack prod" in planned.fix
    assert str(applied) == str(planned)
    assert world.requests == []
    assert "deleted 4 of 4" in world("apply", str(world.file), "--more").stdout


def test_without_rules_every_tag_stays(world: World) -> None:
    world.retention = None

    assert "docs/retention.md" in world.refusal("plan").fix


def test_a_rule_that_can_never_match_stops_the_plan(world: World) -> None:
    late = {"tags": "pr-1", "keep": "always"}
    world.retention = RETENTION | {"rules": [{"tags": "pr-*", "keep": {"days": 14}}, late]}

    refused = world.refusal("plan")

    assert "registry.retention.rules[1] can never match" in str(refused)
    assert refused.fix == "pulumi preview --stack prod"


def test_a_plan_of_another_registry_or_no_plan_is_refused(world: World) -> None:
    world.plan()
    text = world.file.read_text()

    world.file.write_text(text.replace('"registry.example.com"', '"other.example.com"'))
    other = world.refusal("apply", str(world.file))
    world.file.write_text("{}")
    broken = world.refusal("apply", str(world.file))
    world.file.unlink()
    missing = world.refusal("apply", str(world.file))

    assert "other.example.com" in str(other)
    assert "is not a plan" in str(broken)
    assert missing.fix == f"python -m operations retention plan --output {world.file} --stack prod"


@pytest.mark.parametrize("status", [401, 405])
def test_a_registry_that_does_not_let_the_operations_delete_needs_an_up(world: World, status: int) -> None:
    world.plan()
    world.busy = [status]

    refused = world.refusal("apply", str(world.file))

    assert str(status) in str(refused)
    assert refused.fix.startswith("pulumi up --stack prod; then run the command again")


def test_a_certificate_that_nobody_trusts_is_not_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.plan()
    asked = list[httpx.Request]()

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")

    monkeypatch.setattr(
        httpx,
        "Client",
        functools.partial(httpx.Client.func, transport=httpx.MockTransport(refuse)),  # type: ignore[attr-defined]
    )

    refused = world.refusal("apply", str(world.file))

    assert "self-signed certificate" in str(refused)
    assert "SSL_CERT_FILE" in refused.fix
    assert len(asked) == 1


def test_a_registry_that_accepts_deletions_without_deleting_is_reported(world: World) -> None:
    world.plan()
    world.busy = [202] * 4

    assert "4 of 4 are still there" in str(world.refusal("apply", str(world.file)))


def test_wrong_usage_ends_with_status_2(world: World) -> None:
    assert world("plan", "--without", "ssh://nobody").exit_code == 2
    assert world("apply").exit_code == 2


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[datetime.datetime, Memory]]:
    """Reads the memory of a host with this text, whose clock says what ours says after ``ahead``."""

    def memory_of(text: str, ahead: datetime.timedelta = datetime.timedelta()) -> tuple[datetime.datetime, Memory]:
        seconds = int((datetime.datetime.now(datetime.UTC) + ahead).timestamp())
        monkeypatch.setattr(memory, "on_data", lambda *_, **__: [])
        monkeypatch.setattr(memory, "_run", lambda *_: f"{seconds}\n{text}".encode())
        return memory.read_memory(STACK, "ssh://host1", DATA)

    return memory_of


Read = Callable[..., tuple[datetime.datetime, Memory]]


@pytest.mark.parametrize("text", ["{}\n", '{"version": 1, "services": {}}'])
def test_the_memory_is_read_with_the_clock_of_the_host(read: Read, text: str) -> None:
    ahead = datetime.timedelta(minutes=30)
    now, found = read(text, ahead)

    assert found == Memory()
    assert datetime.timedelta(minutes=25) < now - datetime.datetime.now(datetime.UTC) < ahead


@pytest.mark.parametrize("text", ["x", "", "[]"])
def test_a_damaged_memory_stops_the_plan(read: Read, text: str) -> None:
    with pytest.raises(Failure, match=r"\.services\.json in the registry's data on ssh://host1 is damaged"):
        read(text)


@pytest.mark.parametrize("days", [-30, 30])
def test_a_wrong_clock_stops_the_plan(read: Read, days: int) -> None:
    with pytest.raises(Failure, match=r"the clock of ssh://host1 says .* and the clock of this machine") as refused:
        read("{}", datetime.timedelta(days=days))

    assert "NTP" in refused.value.fix


@pytest.mark.parametrize("arrived", [0, 5, -1, None])
def test_a_plan_that_is_killed_while_it_writes_the_memory_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrived: int | None
) -> None:
    file, run = tmp_path / "services.json", list[Any]()
    monkeypatch.setattr(memory, "FILE", str(file))
    monkeypatch.setattr(memory, "on_data", lambda _, *script, **__: ["-c", *script])
    monkeypatch.setattr(memory, "_run", lambda _, __, *given: run.append(given))
    old = Memory(services={HOST: {}})
    file.write_text(old.model_dump_json())
    memory.write_memory(STACK, "ssh://host1", DATA, Memory())

    arguments, text = run[0]
    done = subprocess.run(["sh", *arguments], input=text[:arrived], check=False)
    monkeypatch.setattr(
        memory, "_run", lambda _, __, script: subprocess.run(["sh", *script], capture_output=True, check=True).stdout
    )

    assert memory.read_memory(STACK, "ssh://host1", DATA)[1] == (Memory() if arrived is None else old)
    assert done.returncode == (arrived is not None)
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_a_full_disk_is_freed_by_a_command_for_this_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    full = subprocess.CompletedProcess([], 1, b"", b"cat: write error: No space left on device\n")
    monkeypatch.setattr(memory, "docker", lambda *_, **__: full)

    with pytest.raises(Failure) as refused:
        memory.write_memory(STACK, "ssh://host1", DATA, Memory())

    assert refused.value.fix == "free space, for example: python -m operations gc --stack prod"
