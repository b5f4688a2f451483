"""Gather what a plan depends on: what the hosts of `running_on` run, what their services ran before, and the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from components.configuration.problems import Failure
from components.configuration.retention import RetentionSettings
from operations.console import say, waiting
from operations.history.reading import read_store
from operations.history.running import Container, containers
from operations.retention.graph import Graph
from operations.retention.memory import read_memory, write_memory
from operations.retention.plan import Plan
from operations.retention.planner import Question
from operations.retention.usage import in_use, remembered, unmapped
from operations.stack import Deployed, StackConfig
from operations.throwaway import data_of

#: Docker hosts that are asked at once.
_AT_A_TIME = 16
#: Most images that an error lists.
_LISTED = 10


def gather(
    config: StackConfig, deployed: Deployed, settings: RetentionSettings, without: tuple[str, ...] = ()
) -> Question:
    """Ask the hosts, read the store, and remember what services run. The hosts come first: they run what was pushed.

    Raises:
        Failure: if a host that is not in ``without`` does not answer or runs an unknown image of ours, or if the store
            or the memory cannot be read.
    """
    hosts = tuple(dict.fromkeys(settings.running_on))
    host = deployed.docker_host
    with waiting(f"Asking {', '.join(hosts) or 'no host'} …"):
        answers = _ask(hosts, without, "repeat the command with")
    asked = [container for answer in answers.values() for container in answer]
    with waiting(f"Reading the registry's data on {host} …"):
        data = data_of(config, deployed, "reader")
        now, memory = read_memory(config, host, data)
        store = read_store(config, deployed)
    graph = Graph(store)
    anonymous = str(config.deployed_outputs().get("anonymous_url") or "").removeprefix("https://")
    names = [name for name in (deployed.registry_url.netloc, anonymous) if name]
    names += [f"{name}:443" for name in names if ":" not in name]
    if strange := [one for one in unmapped(graph.known_as, asked, names) if one[0].host not in without]:
        _refuse_unmapped(strange)
    memory = remembered(memory, graph.known_as, asked, now, answers.keys())
    if hosts:
        write_memory(config, host, data, memory)
    return Question(
        graph=graph,
        settings=settings,
        running=in_use(graph.known_as, asked, memory, hosts),
        now=now,
        registry=deployed.registry_url.netloc,
        without=without,
    )


def running(config: StackConfig, deployed: Deployed, plan: Plan, instead: str) -> set[str]:
    """Return the IDs and digests of the images that run, or that their services used before.

    ``instead`` is the command that does without a host, with the option after it.

    Raises:
        Failure: if a host does not answer that the plan needs, or if the memory cannot be read.
    """
    answers = _ask(plan.running_on, plan.without, instead)
    _, memory = read_memory(config, deployed.docker_host, data_of(config, deployed, "reader"))
    services = [one for host in plan.running_on for one in memory.services.get(host, {}).values()]
    now = {name for answer in answers.values() for one in answer for name in (one.image, *one.digests)}
    return now | {name for service in services for one in service.images for name in (one.image, *one.digests)}


def _ask(hosts: Iterable[str], without: Collection[str], instead: str) -> dict[str, list[Container]]:
    """Return the containers of each host that answers. Only those in ``without`` may be silent.

    ``instead`` is the command that does without a host, with the option after it.
    """

    def ask(host: str) -> list[Container] | None:
        try:
            return containers(host)
        except Failure as failure:
            if host not in without:
                raise Failure(
                    f"{failure}. Without this host, nobody knows which images run",
                    f"{failure.fix}; or {instead} --without {host}",
                ) from None
            say(f"Note: {failure}")
            return None

    every = tuple(dict.fromkeys(hosts))
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        answers = zip(every, pool.map(ask, every), strict=True)
        return {host: answer for host, answer in answers if answer is not None}


def _refuse_unmapped(strange: list[tuple[Container, str]]) -> None:
    names = "; ".join(f"{container} uses {name}" for container, name in strange[:_LISTED])
    more = f"; and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""
    first = strange[0][0]
    stopped = first.state in ("created", "dead", "exited")
    remove = f", or remove the container (docker --host {first.host} rm {first.name})" if stopped else ""
    raise Failure(
        f"the registry has no manifest of these images, which have its name: {names}{more}",
        f"push the image{remove}; or repeat the command with --without {first.host}",
    )
