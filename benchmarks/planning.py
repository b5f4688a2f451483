"""Measure a plan of retention for a registry with many tags."""

from __future__ import annotations

import json
import time
from pathlib import Path

import docker

from benchmarks.containers import NAMES
from benchmarks.report import Table, counted, seconds
from tests.harness import clients
from tests.harness.large_store import fill
from tests.harness.small_stack import remove_everything, small_stack
from tests.harness.stack import Stack, engine_address

REPOSITORIES, TAGS = 200, 5_000
RETENTION = {"rules": [{"tags": "v*", "keep": {"newest": 10}}], "most": "100%", "running_on": [engine_address()]}


def planning(api: docker.DockerClient, folder: Path, rounds: int) -> Table:
    """The time of `retention plan`, of the container that reads the store, and the requests to the registry."""
    remove_everything(api, NAMES.prefix)
    (folder / "planning").mkdir()
    registry = small_stack()["registry"] | {"retention": RETENTION}
    stack = Stack(folder / "planning", engine_address(), small_stack(name_prefix=NAMES.prefix, registry=registry))
    rows = []
    try:
        stack.up()
        for name, tags in (("no tags", 0), (f"{TAGS} tags in {REPOSITORIES} repositories", TAGS)):
            if tags:
                fill(f"{NAMES.prefix}-registry-data", REPOSITORIES, tags)
            whole, reading, before = list[float](), list[float](), _requests(api)
            for _ in counted(rounds, f"planning for {tags} tags"):
                with clients.containers_started(api) as containers:
                    began = time.monotonic()
                    plan = json.loads(stack.operations("retention", "plan", "--json").stdout)
                    whole.append(time.monotonic() - began)
                assert len(plan["tags"]) == tags
                reading.append(sum(containers.values()))
            rows.append([name, seconds(whole), seconds(reading), str(_requests(api) - before)])
    finally:
        remove_everything(api, NAMES.prefix)
    columns = ["registry with", "whole command", "its container, which reads the store", "requests to the registry"]
    return Table("`retention plan`", columns, rows)


def _requests(api: docker.DockerClient) -> int:
    """The requests that the proxy has logged so far."""
    return int(clients.containers(api, NAMES.prefix)["proxy"].logs(stderr=False).count(b'"handled request"'))
