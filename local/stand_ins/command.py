"""The stand-in for the official `command` plugin 1.2.1: local.Command, without live logging."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from typing import Any

from pulumi.provider.experimental import provider as protocol

from local.stand_ins import _plugin as plugin
from local.stand_ins._plugin import UNKNOWN, Input, StandInError
from local.stand_ins._serving import serve

VERSION = "1.2.1"
SHELL = ["/bin/sh", "-c"]
ANY = Input(replaces=False)
INPUTS = {
    "triggers": Input(),
    **dict.fromkeys(("create", "update", "delete", "dir", "environment", "interpreter", "logging", "stdin"), ANY),
    "addPreviousOutputInEnv": ANY,
}


class CommandStandIn(protocol.Provider):
    """Runs a shell command when a resource is created, updated or deleted, but never in a preview."""

    async def check(self, request: protocol.CheckRequest) -> protocol.CheckResponse:
        if request.type.rpartition("$")[2] != "command:local:Command":
            raise StandInError(plugin.unknown_input("command", f"resources of type {request.type}"))
        response = plugin.check("command", "Command", INPUTS, request)
        if not response.failures and response.inputs:
            del response.inputs["__defaults"]
        return response

    async def invoke(self, request: protocol.InvokeRequest) -> protocol.InvokeResponse:
        raise StandInError(plugin.unknown_input("command", f"the function {request.tok}"))

    async def diff(self, request: protocol.DiffRequest) -> protocol.DiffResponse:
        return plugin.diff(INPUTS, request, delete_first=False)

    async def create(self, request: protocol.CreateRequest) -> protocol.CreateResponse:
        news = plugin.plain_map(request.properties)
        if request.preview:
            printed = {"stdout": UNKNOWN, "stderr": UNKNOWN}
        else:
            printed = await _run(news.get("create"), news, request.properties, previous={})
        resource_id = f"{request.name}{secrets.token_hex(4)}"
        return protocol.CreateResponse(resource_id, _outputs({**news, **printed}, request.properties))

    async def update(self, request: protocol.UpdateRequest) -> protocol.UpdateResponse:
        olds, news = plugin.plain_map(request.olds), plugin.plain_map(request.news)
        previous = {key: olds.get(key, "") for key in ("stdout", "stderr")}
        printed = {"stdout": UNKNOWN, "stderr": UNKNOWN}
        if not request.preview:
            command = news.get("update") or news.get("create")
            printed = await _run(command, news, request.news, previous=previous)
        return protocol.UpdateResponse(_outputs({**news, **printed}, request.news))

    async def delete(self, request: protocol.DeleteRequest) -> None:
        olds = plugin.plain_map(request.properties)
        await _run(olds.get("delete"), olds, request.properties, previous=olds)


def _outputs(outputs: dict[str, Any], inputs: plugin.Properties) -> dict[str, Any]:
    """The outputs of a command. Its printed text is secret if any input is secret."""
    values = plugin.outputs_like(outputs, inputs)
    hidden = any(value.contains_secret() for value in inputs.values())
    return {key: value.with_secret(value.is_secret or (hidden and key not in inputs)) for key, value in values.items()}


async def _run(
    command: str | None, inputs: dict[str, Any], values: plugin.Properties, *, previous: dict[str, Any]
) -> dict[str, str]:
    """Run the command and return its output. Without a command, return the previous output."""
    if not command:
        return {key: previous.get(key, "") for key in ("stdout", "stderr")}
    environment = {**os.environ, **inputs.get("environment", {})}
    if inputs.get("addPreviousOutputInEnv", True):
        environment |= {
            f"PULUMI_COMMAND_{key.upper()}": previous[key] for key in ("stdout", "stderr") if previous.get(key)
        }
    arguments = [*(inputs.get("interpreter") or SHELL), command]
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            arguments,
            input=inputs.get("stdin", ""),
            cwd=inputs.get("dir"),
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise StandInError(plugin.without_secrets(f'{error}: running "{command}"', values)) from error
    if done.returncode != 0:
        ended = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        said = f'{ended}: running "{command}":\n{done.stdout}{done.stderr}'
        raise StandInError(plugin.without_secrets(said, values))
    return {"stdout": done.stdout.removesuffix("\n"), "stderr": done.stderr.removesuffix("\n")}


if __name__ == "__main__":
    serve(CommandStandIn(), VERSION)
