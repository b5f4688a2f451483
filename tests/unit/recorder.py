"""Runs the whole program under Pulumi mocks and records what it asks the engine for."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime import mocks, settings, stack

from tests.harness.configuration import ROOT, SECRET_KEYS, as_pulumi_hands_over

_SECRET_MARK = "4dabf18193072939515e22adb298388d"  # pulumi's sdk/python: rpc._special_sig_key
_SECRET_VALUE = "1b47061264138c4ac30d75fd1eb44270"


@dataclass
class Registration:
    """One resource as the program registered it; ``inputs`` are on the wire, with marks around secrets."""

    type: str
    name: str
    inputs: dict[str, Any]
    request: Any

    @property
    def secret_paths(self) -> set[str]:
        """Where secrets stand in the inputs, like ``uploads.0.content``."""
        return set(_secret_paths(self.inputs, ""))


@dataclass
class Recording:
    """Everything that a run of the program registered."""

    resources: dict[str, Registration] = field(default_factory=dict)
    exports: dict[str, Any] = field(default_factory=dict)

    def of_type(self, suffix: str) -> dict[str, Registration]:
        """Registrations of one type, by logical name."""
        return {name: one for name, one in self.resources.items() if one.type.endswith(suffix)}


class _Mocks(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        outputs = {"name": args.name, "stdout": "-----BEGIN CERTIFICATE-----"}
        return f"{args.name}-id", outputs | args.inputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        return {}


class _Monitor(mocks.MockMonitor):
    def __init__(self, recording: Recording) -> None:
        super().__init__(_Mocks())
        self._recording = recording

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the name of the RPC
        inputs = json_format.MessageToDict(request.object)
        self._recording.resources[request.name] = Registration(request.type, request.name, inputs, request)
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        if request.urn.split("::")[2] == "pulumi:pulumi:Stack":  # of a component, the type is Stack$…
            self._recording.exports = json_format.MessageToDict(request.outputs)
        return super().RegisterResourceOutputs(request)


def run_program(values: Mapping[str, Any], *, preview: bool = False) -> Recording:
    """Run ``__main__.py`` with a configuration whose secrets are encrypted; everything is drained before it returns."""
    recording = Recording()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(_Mocks(), "registry-stack", "test", preview, monitor=_Monitor(recording))
    settings.set_root_resource(None)  # set_mocks makes a stack of its own, and there may be one alone
    config = {f"registry-stack:{key}": value for key, value in as_pulumi_hands_over(values).items()}
    pulumi.runtime.set_all_config(config, [f"registry-stack:{key}" for key in SECRET_KEYS])
    try:
        loop.run_until_complete(
            stack.run_in_stack(lambda: runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__"))
        )
    finally:
        pulumi.runtime.set_all_config({}, [])
        asyncio.set_event_loop(None)
        loop.close()
    return recording


def _secret_paths(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        if value.get(_SECRET_MARK) == _SECRET_VALUE:
            return [path]
        return [found for key, inner in value.items() for found in _secret_paths(inner, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in _secret_paths(inner, f"{path}.{index}")]
    return []
