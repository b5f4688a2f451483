"""Measure the time of ``pulumi up`` on a small stack, and the CPU time of an idle stack."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import docker

from benchmarks.containers import NAMES
from benchmarks.report import Table, counted, progress, seconds
from tests.harness import clients
from tests.harness.small_stack import remove_everything, small_stack
from tests.harness.stack import Stack, engine_address

AIMS = {"new stack": 6.0, "log level": 6.0, "password": 2.5, "unchanged": 2.5}


def updates(api: docker.DockerClient, folder: Path, rounds: int) -> Table:
    """Measure each kind of update once per round. Each round removes the stack and creates a new one."""
    times: dict[str, list[float]] = {what: [] for what in AIMS}
    for number in counted(rounds, "updates"):
        remove_everything(api, NAMES.prefix)
        (folder / f"updates-{number}").mkdir()
        stack = Stack(folder / f"updates-{number}", engine_address(), small_stack(name_prefix=NAMES.prefix))
        try:
            # The first run of a copy compiles the program. On an operator's machine, that happens only once.
            stack.preview()
            for what, change in _changes(stack).items():
                change()
                start = time.perf_counter()
                stack.up()
                times[what].append(time.perf_counter() - start)
        finally:
            remove_everything(api, NAMES.prefix)
    rows = [
        [what, seconds(values), f"{min(values):.1f}–{max(values):.1f} s", f"{AIMS[what]:.1f} s"]
        for what, values in times.items()
    ]
    return Table("`pulumi up` with a mirror and three users, without a preview", ["", "time", "extremes", "aim"], rows)


def idle(api: docker.DockerClient, folder: Path, minutes: float) -> Table:
    """Measure the CPU time of an idle stack: the engine and each container, including health checks."""
    remove_everything(api, NAMES.prefix)
    (folder / "idle").mkdir()
    try:
        Stack(folder / "idle", engine_address(), small_stack(name_prefix=NAMES.prefix)).up()
        progress(f"observing an idle stack for {minutes:g} minutes")
        time.sleep(60)  # health checks of new containers run more often
        before, start = _cpu(api), time.monotonic()
        time.sleep(minutes * 60)
        after, passed = _cpu(api), time.monotonic() - start
    finally:
        remove_everything(api, NAMES.prefix)
    used = {role: (after[role] - before[role]) / passed for role in after}
    rows = [[role, f"{share * 1000:.1f} ms"] for role, share in sorted(used.items())]
    rows.append(["all", f"{sum(used.values()) * 1000:.1f} ms"])
    return Table(
        f"CPU time per second of an idle stack, over {minutes:g} minutes", ["container", "CPU per second"], rows
    )


def _changes(stack: Stack) -> dict[str, Callable[[], object]]:
    return {
        "new stack": lambda: None,
        "log level": lambda: stack.write(registry=stack.values["registry"] | {"log_level": "debug"}),
        "password": lambda: stack.set_secret("passwords.ci", secrets.token_urlsafe(32)),
        "unchanged": lambda: None,
    }


def _cpu(api: docker.DockerClient) -> dict[str, float]:
    """CPU seconds of each running container so far, by role."""
    return {
        role: container.stats(stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        for role, container in clients.containers(api, NAMES.prefix).items()
        if container.status == "running"
    } | {"the engine": _engine_cpu()}


def _engine_cpu() -> float:
    """CPU seconds of the engine and of its processes outside containers. The engine starts the health checks."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = process.read_text().partition("(")[2].rpartition(")")
        if name.startswith(("dockerd", "containerd")):
            ticks += sum(map(int, rest.split()[11:15]))  # of the process and its children, in user and in kernel mode
    return ticks / os.sysconf("SC_CLK_TCK")
