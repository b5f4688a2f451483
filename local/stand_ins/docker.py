"""The stand-in for the official `docker` plugin 5.2.0: Network, Volume, RemoteImage and Container.

tests/data/docker-plugin.json records the answers of the official plugin, which the stand-in repeats. `outputs.json`
beside this file has the outputs that neither an input nor the engine decides. Of the official plugin's bookkeeping, the
state contains `__meta`, so that the official plugin can take over the state, and omits `__pulumi_raw_state_delta`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests.exceptions
from docker.errors import APIError, NotFound
from pulumi.provider.experimental import provider as protocol

from local.stand_ins import _container, _plugin
from local.stand_ins._engine import CONCURRENT_OPERATIONS, LOCAL_ENGINE, Engine, attempt, explanation, find_image
from local.stand_ins._plugin import UNKNOWN, InitializationError, Input, StandInError, State, plain_map
from local.stand_ins._serving import serve

VERSION = "5.2.0"
OUTPUTS = json.loads(Path(__file__).with_name("outputs.json").read_text())
IN_USE_TIMEOUT = 30  # seconds to wait for a network or volume in use before its removal fails

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource type: its inputs, and the functions that create, read, update and delete the resource.

    ``initialize`` may fail after ``create``; the state must then record the resource. ``read`` returns None for a
    resource that is gone.
    """

    name: str
    inputs: Mapping[str, Input]
    create: Callable[[Any, State], str]
    read: Callable[[Any, str, State], State | None]
    delete: Callable[[Any, str, State], None]
    initialize: Callable[[Any, str, State], None] = lambda api, resource_id, inputs: None
    update: Callable[[Any, str, State, State], None] = lambda api, resource_id, olds, news: None
    replaced_delete_first: bool | None = None  # None: if the program chose the name

    @property
    def bookkeeping(self) -> State:
        """Values that the official plugin expects in a state, but that plain values leave out."""
        return {"__meta": OUTPUTS[self.name]["__meta"]}

    def decided(self, inputs: State) -> State:
        """The outputs that the inputs decide."""
        unset = {key: value for key, value in OUTPUTS[self.name].items() if value != "computed"}
        return {**unset, **{key: self._completed(key, value) for key, value in inputs.items()}}

    def undecided(self, value: str | None) -> State:
        """``value`` for each output that the engine decides if the program does not."""
        return {key: value for key, default in OUTPUTS[self.name].items() if default == "computed"}

    def _completed(self, key: str, value: Any) -> Any:
        element = OUTPUTS.get(f"{self.name}.{key}")
        return [{**element, **inner} for inner in value] if element and isinstance(value, list) else value


class DockerStandIn(protocol.Provider):
    """Answers the Pulumi engine. A few threads do the blocking work and share one connection."""

    def __init__(self) -> None:
        self._engine = Engine(LOCAL_ENGINE)
        self._threads = ThreadPoolExecutor(CONCURRENT_OPERATIONS)

    async def check_config(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        unknown = sorted(key for key in request.new_inputs if key not in {"host", "version"})
        failures = [protocol.CheckFailure("", _plugin.unknown_input("docker", f"Provider.{key}")) for key in unknown]
        return protocol.CheckResponse(inputs=request.new_inputs, failures=failures)

    async def configure(self, request: protocol.ConfigureRequest) -> protocol.ConfigureResponse:
        """Ask a local or TCP engine for its version. Over ssh, do nothing yet, so that previews need no host."""
        host = plain_map(request.args).get("host") or os.environ.get("DOCKER_HOST") or LOCAL_ENGINE
        self._engine = Engine(host)
        if not self._engine.is_remote_shell and host != UNKNOWN:
            await self._in_thread(lambda: self._engine.api)
        return protocol.ConfigureResponse(accept_secrets=True, supports_preview=True)

    async def invoke(self, request: protocol.InvokeRequest) -> protocol.InvokeResponse:
        raise StandInError(_plugin.unknown_input("docker", f"the function {request.tok}"))

    async def check(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        kind = _resource(request.type)
        return _plugin.check("docker", kind.name, kind.inputs, request)

    async def diff(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        kind = _resource(request.type)
        delete_first = kind.replaced_delete_first
        if delete_first is None:
            delete_first = "name" not in _plugin.plain(request.new_inputs["__defaults"])
        return _plugin.diff(kind.inputs, request, delete_first=delete_first)

    async def create(self, request: protocol.CreateRequest) -> protocol.CreateResponse:
        kind, inputs = _resource(request.type), plain_map(request.properties)
        if request.preview:
            outputs = {**kind.undecided(UNKNOWN), **kind.decided(inputs)}
            return protocol.CreateResponse(properties=_plugin.outputs_like(outputs, request.properties))
        return await self._in_thread(lambda: self._make(kind, request, inputs), secrets_in=request.properties)

    def _make(self, kind: Resource, request: protocol.CreateRequest, inputs: State) -> protocol.CreateResponse:
        api, planned = self._engine.api, {**kind.undecided(None), **kind.decided(inputs)}
        try:
            resource_id = kind.create(api, inputs)
        except StandInError as error:
            raise StandInError(_one_error(error)) from error
        try:
            kind.initialize(api, resource_id, inputs)
            found = kind.read(api, resource_id, planned)
        except (APIError, StandInError, requests.exceptions.RequestException) as error:
            # Record the inputs, not the result, so that the next `up` shows no difference.
            with contextlib.suppress(APIError, requests.exceptions.RequestException):
                planned |= kind.read(api, resource_id, planned) or {}
            reason = _plugin.without_secrets(f"creating {request.urn}: {_one_error(error)}", request.properties)
            values = _plugin.outputs_like({**planned, **kind.decided(inputs)}, request.properties)
            raise InitializationError(reason, resource_id, values) from error
        if found is None:
            raise StandInError(f"{kind.name} {resource_id} was created, but the engine no longer has this resource")
        return protocol.CreateResponse(found["id"], _plugin.outputs_like(found, request.properties))

    async def read(self, request: protocol.ReadRequest) -> protocol.ReadResponse:
        kind, state = _resource(request.type), plain_map(request.properties)
        found = await self._in_thread(lambda: kind.read(self._engine.api, request.resource_id, state))
        if found is None:
            return protocol.ReadResponse(resource_id="")
        values = _plugin.outputs_like({**kind.bookkeeping, **found}, request.properties, request.inputs)
        return protocol.ReadResponse(found["id"], values, request.inputs)

    async def update(self, request: protocol.UpdateRequest) -> protocol.UpdateResponse:
        kind, olds, news = _resource(request.type), plain_map(request.olds), plain_map(request.news)
        if not request.preview:
            await self._in_thread(
                lambda: kind.update(self._engine.api, request.resource_id, olds, news), secrets_in=request.news
            )
        decided = kind.decided(news)
        dropped = {key: decided.get(key) for key, rule in kind.inputs.items() if key not in news and not rule.kept}
        outputs = {**kind.bookkeeping, **olds, **dropped, **{key: decided[key] for key in news}}
        kept = {key: value for key, value in request.olds.items() if key not in news and key not in dropped}
        return protocol.UpdateResponse(_plugin.outputs_like(outputs, kept, request.news))

    async def delete(self, request: protocol.DeleteRequest) -> None:
        kind, state = _resource(request.type), plain_map(request.properties)
        await self._in_thread(lambda: kind.delete(self._engine.api, request.resource_id, state))

    async def _in_thread(self, work: Callable[[], T], *, secrets_in: _plugin.Properties | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except InitializationError:
            raise
        except (APIError, StandInError) as error:
            raise StandInError(_plugin.without_secrets(explanation(error), secrets_in or {})) from error
        except requests.exceptions.RequestException as error:
            raise self._engine.unreachable(error) from error


def _resource(qualified_type: str) -> Resource:
    type_token = qualified_type.rpartition("$")[2]  # a child's URN names its parents' types first
    if type_token not in RESOURCES:
        raise StandInError(_plugin.unknown_input("docker", f"resources of type {type_token}"))
    return RESOURCES[type_token]


def _one_error(error: Exception) -> str:
    """The error in the form of the official plugin."""
    return f"1 error occurred:\n\t* {explanation(error)}\n\n"


def _remove_unused(remove: Callable[..., Any], name: str, **options: Any) -> None:
    """Remove a resource that may already be gone. While the resource is in use, retry for a while."""
    deadline = time.monotonic() + IN_USE_TIMEOUT
    while True:
        try:
            remove(name, **options)
            return
        except NotFound:
            return
        except APIError as error:
            if not re.search("has active endpoints|in use", explanation(error)) or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


# Networks and volumes

LABELS = Input(fields={"label": None, "value": None})


def _label_map(inputs: State) -> dict[str, str]:
    return {pair["label"]: pair["value"] for pair in inputs.get("labels") or ()}


def _label_pairs(labels: dict[str, str] | None) -> list[State]:
    return [{"label": key, "value": value} for key, value in sorted((labels or {}).items())]


def _create_network(api: Any, inputs: State) -> str:
    made = attempt(
        "Unable to create network",
        api.create_network,
        inputs["name"],
        driver=inputs.get("driver"),
        internal=inputs.get("internal", False),
        options=inputs.get("options"),
        ipam={"Driver": inputs["ipamDriver"]},
        labels=_label_map(inputs),
    )
    return str(made["Id"])


def _read_network(api: Any, network: str, state: State) -> State | None:
    try:
        found = api.inspect_network(network)
    except NotFound:
        return None
    ranges = [
        {
            "auxAddress": each.get("AuxiliaryAddresses") or {},
            "gateway": each.get("Gateway", ""),
            "ipRange": each.get("IPRange", ""),
            "subnet": each.get("Subnet", ""),
        }
        for each in found["IPAM"].get("Config") or ()
    ]
    return {
        **state,
        "attachable": found["Attachable"],
        "driver": found["Driver"],
        "id": found["Id"],
        "ingress": found["Ingress"],
        "internal": found["Internal"],
        "ipamConfigs": ranges,
        "ipamDriver": found["IPAM"]["Driver"],
        "ipv6": found["EnableIPv6"],
        "labels": _label_pairs(found["Labels"]),
        "name": found["Name"],
        "options": found["Options"] or {},
        "scope": found["Scope"],
    }


def _create_volume(api: Any, inputs: State) -> str:
    made = attempt(
        "Unable to create volume",
        api.create_volume,
        inputs["name"],
        driver=inputs.get("driver"),
        labels=_label_map(inputs),
    )
    return str(made["Name"])


def _read_volume(api: Any, name: str, state: State) -> State | None:
    try:
        found = api.inspect_volume(name)
    except NotFound:
        return None
    return {
        **state,
        "driver": found["Driver"],
        "driverOpts": found["Options"] or None,
        "id": found["Name"],
        "labels": _label_pairs(found["Labels"]),
        "mountpoint": found["Mountpoint"],
        "name": found["Name"],
    }


# Images


def _create_image(api: Any, inputs: State) -> str:
    failed = "Unable to read Docker image into resource"
    image = attempt(failed, find_image, api, inputs["name"], inputs.get("platform"))
    return f"{image['Id']}{inputs['name']}"


def _read_image(api: Any, image: str, state: State) -> State | None:
    name = state["name"]
    try:
        found = api.inspect_image(name)
    except NotFound:
        return None
    repository = re.sub(r"(:[\w.-]+)?(@.*)?$", "", name)
    digests = [digest for digest in found.get("RepoDigests") or () if digest.startswith(f"{repository}@")]
    return {**state, "id": found["Id"] + name, "imageId": found["Id"], "repoDigest": digests[0] if digests else ""}


def _delete_image(api: Any, image: str, state: State) -> None:
    if not state.get("keepLocally"):
        _remove_unused(api.remove_image, state["name"])


RESOURCES = {
    "docker:index/network:Network": Resource(
        name="Network",
        inputs={
            "name": Input(),
            "driver": Input(kept=True),
            "internal": Input(kept=True),
            "options": Input(kept=True),
            "ipamDriver": Input(default="default"),
            "labels": LABELS,
        },
        create=_create_network,
        read=_read_network,
        delete=lambda api, network, state: _remove_unused(api.remove_network, network),
    ),
    "docker:index/volume:Volume": Resource(
        name="Volume",
        inputs={"name": Input(), "driver": Input(kept=True), "labels": LABELS},
        create=_create_volume,
        read=_read_volume,
        delete=lambda api, name, state: _remove_unused(api.remove_volume, name, force=True),
    ),
    "docker:index/remoteImage:RemoteImage": Resource(
        name="RemoteImage",
        inputs={"name": Input(required=True), "keepLocally": Input(replaces=False), "platform": Input()},
        create=_create_image,
        read=_read_image,
        delete=_delete_image,
        replaced_delete_first=False,
    ),
    "docker:index/container:Container": Resource(
        name="Container",
        inputs=_container.INPUTS,
        create=_container.create,
        initialize=_container.initialize,
        read=_container.read,
        update=_container.update,
        delete=_container.delete,
        replaced_delete_first=True,
    ),
}

if __name__ == "__main__":
    serve(DockerStandIn(), VERSION)
