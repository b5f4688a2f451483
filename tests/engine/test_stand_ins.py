"""The stand-in for the docker plugin does to a real engine what was recorded of the official plugin.

These tests call the stand-in's classes, so they mean the same whichever plugins the other tests use.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest
from docker.errors import NotFound
from google.protobuf import empty_pb2
from pulumi.provider.experimental import provider as protocol
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, status_pb2

from components.configuration.settings import ImageSettings
from local.stand_ins._plugin import InitializationError, StandInError, plain, plain_map, pulumi_value
from local.stand_ins.docker import DockerStandIn

pytestmark = pytest.mark.any_proxy

ROOT = Path(__file__).parent.parent.parent
PREFIX = "standin-test-"
REGISTRY_IMAGE = ImageSettings().registry
RECORDED = (
    (ROOT / "tests/data/docker-plugin.json")
    .read_text()
    .replace("contract-", PREFIX)
    # An older one was used for the recording.
    .replace("registry:3.1.1", REGISTRY_IMAGE)
)
CONTRACT = json.loads(RECORDED)
NETWORK, VOLUME, IMAGE, CONTAINER = CONTRACT["cases"]
FAILURES = [error for error in CONTRACT["errors"] if not error["check_failures"]]
OF_THIS_ENGINE = {"id", "hostname", "imageId", "repoDigest", "mountpoint", "entrypoints"}
OF_THIS_NETWORK = {"gateway", "subnet", "ipAddress", "ipPrefixLength", "macAddress"}


def urn(type_token: str) -> str:
    return f"urn:pulumi:dev::contract::{type_token}::x"


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


def values(properties: dict[str, Any]) -> dict[str, PropertyValue]:
    return {key: pulumi_value(value) for key, value in properties.items()}


@pytest.fixture(scope="module")
def docker_client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def clean_engine(docker_client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    def clean() -> None:
        for container in docker_client.containers.list(all=True, filters={"name": PREFIX}):
            container.remove(force=True, v=True)
        for network in docker_client.networks.list(names=[PREFIX]):
            network.remove()
        for volume in docker_client.volumes.list(filters={"name": PREFIX}):
            volume.remove(force=True)

    clean()
    yield docker_client
    clean()


@pytest.fixture
def stand_in(clean_engine: docker.DockerClient) -> Iterator[DockerStandIn]:
    provider = DockerStandIn()
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    run(provider.configure(protocol.ConfigureRequest({}, values({"host": host}), True, True)))
    yield provider
    provider._engine.close()


@pytest.fixture
def make(stand_in: DockerStandIn) -> Callable[..., Any]:
    def make(type_token: str, inputs: dict[str, Any]) -> Any:
        response = run(stand_in.check(protocol.CheckRequest(urn(type_token), {}, values(inputs), b"seed")))
        assert not response.failures
        return run(stand_in.create(protocol.CreateRequest(urn(type_token), response.inputs, timeout=0, preview=False)))

    return make


@pytest.fixture
def container(make: Callable[..., Any]) -> Any:
    """The recorded container, on the recorded network and volume."""
    make(NETWORK["type"], NETWORK["inputs"])
    make(VOLUME["type"], VOLUME["inputs"])
    return make(CONTAINER["type"], CONTAINER["inputs"])


def comparable(outputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs without what differs from engine to engine: ids, addresses, places on the disk."""

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(element) for element in value]
        if isinstance(value, dict):
            return {key: strip(element) for key, element in value.items() if key not in OF_THIS_NETWORK}
        return value

    return {key: strip(value) for key, value in outputs.items() if key not in OF_THIS_ENGINE}


def read(stand_in: DockerStandIn, made: Any) -> Any:
    return run(stand_in.read(protocol.ReadRequest(urn(CONTAINER["type"]), made.resource_id, made.properties, {})))


def differences(stand_in: DockerStandIn, properties: dict[str, Any]) -> Any:
    news = run(
        stand_in.check(protocol.CheckRequest(urn(CONTAINER["type"]), {}, values(CONTAINER["inputs"]), b""))
    ).inputs
    return run(stand_in.diff(protocol.DiffRequest(urn(CONTAINER["type"]), "id", properties, news, [])))


def delete(stand_in: DockerStandIn, resource_id: str, properties: dict[str, Any]) -> None:
    run(stand_in.delete(protocol.DeleteRequest(urn(CONTAINER["type"]), resource_id, properties, 0)))


@pytest.mark.parametrize("case", [NETWORK, VOLUME, IMAGE], ids=["Network", "Volume", "RemoteImage"])
def test_the_outputs_are_the_recorded_ones(make: Callable[..., Any], case: dict[str, Any]) -> None:
    made = make(case["type"], case["inputs"])
    outputs = {key: plain(value) for key, value in made.properties.items()}
    assert comparable(outputs) == comparable(case["outputs"])
    assert outputs["id"] == made.resource_id


def test_the_id_of_an_image_is_that_of_the_engine_with_the_name(
    make: Callable[..., Any], docker_client: docker.DockerClient
) -> None:
    made = make(IMAGE["type"], IMAGE["inputs"])
    image = docker_client.images.get(IMAGE["inputs"]["name"])
    assert made.resource_id == f"{image.id}{IMAGE['inputs']['name']}"
    assert plain(made.properties["imageId"]) == image.id


def test_a_container_has_the_recorded_outputs_and_looks_as_recorded(
    container: Any, docker_client: docker.DockerClient
) -> None:
    outputs = {key: plain(value) for key, value in container.properties.items()}
    assert comparable(outputs) == comparable(CONTAINER["outputs"])
    shown = docker_client.api.inspect_container(container.resource_id)
    recorded, image = CONTAINER["inspect"], docker_client.images.get(CONTAINER["inputs"]["image"]).attrs["Config"]
    assert outputs["entrypoints"] == image["Entrypoint"]
    for key, value in recorded["HostConfig"].items():
        assert (shown["HostConfig"].get(key) or None) == (value or None), key
    of_image = {
        "Entrypoint": image["Entrypoint"],
        "Env": sorted(["A=1", *image["Env"]]),
        "Labels": {**(image["Labels"] or {}), "a": "1"},
    }
    for key, value in {**recorded["Config"], **of_image}.items():
        found = shown["Config"].get(key)
        assert (sorted(found) if key == "Env" else found or None) == (value or None), key
    assert list(shown["NetworkSettings"]["Networks"]) == list(recorded["Networks"]), "only on its own network"
    (endpoint,) = shown["NetworkSettings"]["Networks"].values()
    assert [alias for alias in endpoint["Aliases"] if not container.resource_id.startswith(alias)] == ["reg"]
    assert shown["State"]["Status"] == recorded["State"]
    assert shown["State"]["Health"]["Status"] == "healthy", "the resource was to wait for this"


def test_a_refresh_of_an_unchanged_container_shows_no_difference(stand_in: DockerStandIn, container: Any) -> None:
    found = read(stand_in, container)
    assert found.properties == container.properties
    assert differences(stand_in, found.properties).changes is False


def test_a_container_stopped_outside_reads_and_differs_as_recorded(
    stand_in: DockerStandIn, container: Any, docker_client: docker.DockerClient
) -> None:
    docker_client.api.stop(container.resource_id, timeout=0)
    found, recorded = read(stand_in, container), CONTAINER["stopped_outside"]
    assert plain(found.properties["mustRun"]) == recorded["read_mustRun"]
    answer = differences(stand_in, found.properties)
    assert (sorted(answer.diffs), answer.replaces) == (recorded["diff"]["diffs"], recorded["diff"]["replaces"])
    assert answer.delete_before_replace == recorded["diff"]["deleteBeforeReplace"]


def test_a_container_removed_outside_reads_as_gone_and_is_deleted_without_an_error(
    stand_in: DockerStandIn, container: Any, docker_client: docker.DockerClient
) -> None:
    docker_client.api.remove_container(container.resource_id, force=True, v=True)
    assert read(stand_in, container).resource_id == CONTAINER["removed_outside"]["read_id"]
    delete(stand_in, container.resource_id, container.properties)


def test_restart_policy_and_memory_are_changed_in_place(
    stand_in: DockerStandIn, container: Any, docker_client: docker.DockerClient
) -> None:
    inputs = {**CONTAINER["inputs"], "restart": "always", "memory": 96, "memorySwap": 128}
    news = run(stand_in.check(protocol.CheckRequest(urn(CONTAINER["type"]), {}, values(inputs), b""))).inputs
    request = protocol.UpdateRequest(
        urn(CONTAINER["type"]), container.resource_id, container.properties, news, 0, [], False
    )
    outputs = run(stand_in.update(request)).properties
    host = docker_client.api.inspect_container(container.resource_id)["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "always"
    assert (host["Memory"], host["MemorySwap"]) == (96 * 2**20, 128 * 2**20)
    assert outputs == read(stand_in, protocol.CreateResponse(container.resource_id, outputs)).properties


def test_a_stopped_container_that_must_run_is_started_by_an_update(
    stand_in: DockerStandIn, make: Callable[..., Any], docker_client: docker.DockerClient
) -> None:
    made = make(CONTAINER["type"], {"image": REGISTRY_IMAGE, "name": f"{PREFIX}c", "command": ["sleep", "60"]})
    docker_client.api.stop(made.resource_id, timeout=0)
    found = read(stand_in, made).properties
    news = {**made.properties, "mustRun": PropertyValue(True)}
    run(stand_in.update(protocol.UpdateRequest(urn(CONTAINER["type"]), made.resource_id, found, news, 0, [], False)))
    assert docker_client.api.inspect_container(made.resource_id)["State"]["Running"]


def made_or_failure(make: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    try:
        return make(CONTAINER["type"], inputs)
    except StandInError as error:
        return error


@pytest.mark.parametrize("recorded", FAILURES, ids=[error["what"] for error in FAILURES])
def test_a_failure_has_the_recorded_words_and_leaves_the_recorded_container_behind(
    stand_in: DockerStandIn, make: Callable[..., Any], docker_client: docker.DockerClient, recorded: dict[str, Any]
) -> None:
    outcome = made_or_failure(make, recorded["inputs"])
    if recorded.get("created"):
        assert not isinstance(outcome, StandInError)
        delete(stand_in, outcome.resource_id, outcome.properties)
        return
    assert isinstance(outcome, StandInError), "the official plugin fails here"
    words, separator, _ = recorded["create_error"].partition("Error response from daemon:")
    assert str(outcome).partition(separator or "\0")[0] == words, "up to the words of the engine"
    assert isinstance(outcome, InitializationError) == recorded["left_behind"]
    if isinstance(outcome, InitializationError):
        left = docker_client.api.inspect_container(outcome.resource_id)
        assert left["Name"] == f"/{recorded['inputs']['name']}"
        assert plain(outcome.outputs["name"]) == recorded["inputs"]["name"]
        delete(stand_in, outcome.resource_id, outcome.outputs)
    with pytest.raises(NotFound):
        docker_client.api.inspect_container(recorded["inputs"]["name"])


def test_a_container_without_environment_and_labels_has_empty_ones_before_and_after_a_refresh(
    stand_in: DockerStandIn, make: Callable[..., Any]
) -> None:
    """The official plugin records empty sets. It replaces a container whose state says null instead."""
    made = make(CONTAINER["type"], {"image": REGISTRY_IMAGE, "name": f"{PREFIX}c", "start": False, "mustRun": False})
    for properties in (made.properties, read(stand_in, made).properties):
        assert (plain(properties["envs"]), plain(properties["labels"])) == ([], [])


def test_a_mounted_folder_must_exist_and_is_read_back_as_it_was_given(
    stand_in: DockerStandIn, make: Callable[..., Any], docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    mount = {"target": "/data", "type": "bind", "source": str(tmp_path), "readOnly": True}
    inputs = {"image": REGISTRY_IMAGE, "name": f"{PREFIX}c", "start": False, "mustRun": False, "mounts": [mount]}
    made = make(CONTAINER["type"], inputs)
    read_back = plain(read(stand_in, made).properties["mounts"])

    nothing = dict.fromkeys(("bindOptions", "tmpfsOptions", "volumeOptions"))
    assert read_back == [mount | nothing], "the engine adds options, so every preview would replace the container"
    missing = {**mount, "source": str(tmp_path / "missing")}
    with pytest.raises(StandInError, match="bind source path does not exist"):
        make(CONTAINER["type"], {**inputs, "name": f"{PREFIX}d", "mounts": [missing]})
    assert not (tmp_path / "missing").exists()


def test_an_upload_lands_in_the_volume_with_its_mode(
    make: Callable[..., Any], docker_client: docker.DockerClient
) -> None:
    volume = {"containerPath": "/data", "volumeName": f"{PREFIX}v"}
    upload = {"file": "/data/d/a", "content": "grüße\n", "permissions": "0600"}
    inputs = {"image": REGISTRY_IMAGE, "entrypoints": ["/bin/true"], "start": False, "mustRun": False}
    make(CONTAINER["type"], {**inputs, "name": f"{PREFIX}carrier", "uploads": [upload], "volumes": [volume]})
    reader = docker_client.containers.run(
        REGISTRY_IMAGE,
        entrypoint=["/bin/sh", "-c", "stat -c %a:%u:%g /data/d/a; cat /data/d/a"],
        volumes={f"{PREFIX}v": {"bind": "/data", "mode": "ro"}},
        name=f"{PREFIX}reader",
        detach=True,
    )
    reader.wait()  # without it, the SDK reads the output while it is written, and may miss the end
    assert reader.logs().decode() == "600:0:0\ngrüße\n"


def test_without_a_grace_period_a_container_is_killed_and_with_one_it_may_end(
    stand_in: DockerStandIn, make: Callable[..., Any], tmp_path: Path
) -> None:
    """A trap that takes a second tells the two apart."""
    last_words = "trap 'sleep 1; touch /said/bye; exit' TERM; touch /said/hello; while true; do sleep 0.1; done"
    for grace, farewell in ((None, False), (60, True)):
        said = tmp_path / str(grace)
        said.mkdir()
        inputs = {
            "image": REGISTRY_IMAGE,
            "name": f"{PREFIX}c",
            "entrypoints": ["/bin/sh", "-c", last_words],
            "volumes": [{"containerPath": "/said", "hostPath": str(said)}],
            "healthcheck": {"tests": ["CMD", "test", "-f", "/said/hello"], "interval": "1s"},
            "wait": True,
        }
        made = make(CONTAINER["type"], {**inputs, **({"destroyGraceSeconds": grace} if grace else {})})
        delete(stand_in, made.resource_id, made.properties)
        assert (said / "bye").exists() is farewell


def test_the_engine_is_told_what_exists_when_a_container_did_not_come_up(
    clean_engine: docker.DockerClient, tmp_path: Path
) -> None:
    """Through the real process and protocol, as `pulumi` would do it; and no secret is in the error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "local.stand_ins.docker", "127.0.0.1:1"]
    upload = PropertyValue({"file": PropertyValue("/a"), "content": PropertyValue("hush", is_secret=True)})
    inputs = {"image": REGISTRY_IMAGE, "name": f"{PREFIX}c", "command": ["hush"], "entrypoints": ["/hush"]}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                plugin = provider_pb2_grpc.ResourceProviderStub(channel)
                assert plugin.GetPluginInfo(empty_pb2.Empty()).version == "5.2.0"
                plugin.Configure(provider_pb2.ConfigureRequest(acceptSecrets=True))
                news = PropertyValue.marshal_map({**values(inputs), "uploads": PropertyValue([upload])})
                checked = plugin.Check(provider_pb2.CheckRequest(urn=urn(CONTAINER["type"]), news=news))
                with pytest.raises(grpc.RpcError) as failure:
                    plugin.Create(provider_pb2.CreateRequest(urn=urn(CONTAINER["type"]), properties=checked.inputs))
        finally:
            process.terminate()
    assert "Unable to start container" in failure.value.details()
    assert "hush" not in failure.value.details()
    assert "Traceback" not in failure.value.details()
    (details,) = (value for key, value in failure.value.trailing_metadata() if key == "grpc-status-details-bin")
    failed = provider_pb2.ErrorResourceInitFailed()
    assert status_pb2.Status.FromString(details).details[0].Unpack(failed)
    assert failed.id == clean_engine.containers.get(f"{PREFIX}c").id
    properties = PropertyValue.unmarshal_map(failed.properties)
    assert properties["uploads"].is_secret
    assert plain_map(properties)["name"] == f"{PREFIX}c"


def test_over_ssh_a_few_processes_serve_all_requests_and_a_preview_starts_none(
    clean_engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `ssh` program is one that notes its arguments and joins us to the engine on this machine."""
    ssh, calls = tmp_path / "ssh", tmp_path / "calls"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec docker system dial-stdio\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stand_in = DockerStandIn()
    host = values({"host": "ssh://deploy@registry.example.com:2222"})
    run(stand_in.configure(protocol.ConfigureRequest({}, host, True, True)))
    inputs = {"labels": [], "ipamDriver": "default", "name": f"{PREFIX}v"}
    preview = protocol.CreateRequest(urn(VOLUME["type"]), values(inputs), timeout=0, preview=True)
    run(stand_in.create(preview))
    assert not calls.exists(), "a preview must need no access to the host"

    async def together() -> list[Any]:
        names = [{**inputs, "name": f"{PREFIX}{number}"} for number in range(30)]
        requests = [protocol.CreateRequest(urn(VOLUME["type"]), values(each), 0, False) for each in names]
        return await asyncio.gather(*map(stand_in.create, requests))

    made = run(together())
    assert len(clean_engine.volumes.list(filters={"name": PREFIX})) == len(made) == 30
    lines = calls.read_text().splitlines()
    assert 1 <= len(lines) <= 8, "sshd refuses some of ten that log in at once"
    assert lines[0].endswith("-l deploy -p 2222 -- registry.example.com docker system dial-stdio")
    stand_in._engine.close()


def test_a_failing_ssh_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'Host key verification failed.' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    stand_in = DockerStandIn()
    run(stand_in.configure(protocol.ConfigureRequest({}, values({"host": "ssh://deploy@h.example"}), True, True)))
    with pytest.raises(StandInError) as failure:
        run(stand_in.read(protocol.ReadRequest(urn(VOLUME["type"]), "v", {}, {})))
    assert "ssh://deploy@h.example does not answer" in str(failure.value)
    assert "ssh says: Host key verification failed." in str(failure.value)
    stand_in._engine.close()
