"""Measure pulls through a mirror, cold and warm, and compare them with pulls from other servers.

The mirror is that of a declared stack. The others are its upstream, one distribution process as a cache of the same
upstream, and the private registry of the same stack. Only the stack has TLS. Only the private registry has logins.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import yaml
from docker.models.containers import Container

from benchmarks.containers import NAMES, network, output, registry, start, volume, wait
from benchmarks.report import Table, counted, ratio, rotated, seconds
from benchmarks.servers import USER, Server, declared
from benchmarks.transfers import IMAGES, MEGABYTE, Times
from components.configuration.naming import COUNTERS_PORT, mirror_alias
from components.configuration.settings import Settings
from components.render.registry import DATA_DIRECTORY, environment, mirror_config
from operations.mirrors.counters import usage
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import remove_everything
from tests.harness.stack import Stack, engine_address

STACK_PORT, MIRROR_PORT, UPSTREAM_PORT, CACHE_PORT = 26454, 26455, 26456, 26457
UPSTREAM = "upstream.test"
#: Allowed time of a warm pull, as a multiple of the time of the private registry.
AIM = "1.05"
AT_ONCE = (1, 8, 32)
FEW = "4 layers of 1 MB"


@dataclass(frozen=True)
class Mirrors:
    """All servers, on one engine. ``caches`` are the processes that fetch from the upstream."""

    mirror: Server
    upstream: Server
    cache: Server
    private: Server
    caches: dict[Server, Container]

    def all(self) -> list[Server]:
        """All servers, the mirror first."""
        return [self.mirror, self.upstream, self.cache, self.private]


@contextmanager
def running(api: docker.DockerClient, folder: Path) -> Iterator[Mirrors]:
    """Start the servers, and remove them with their data at the end."""
    remove_everything(api, NAMES.prefix)
    try:
        (folder / "mirrors").mkdir()
        stack = Stack(folder / "mirrors", engine_address(), _values())
        stack.up()
        settings = Settings.model_validate({"docker_host": engine_address(), **_values()})
        own = network(api, "upstream")
        upstream = registry(api, own, "upstream", "writer", settings, store="upstream-data", port=UPSTREAM_PORT)
        api.networks.get(f"{NAMES.prefix}-edge").connect(upstream, aliases=[UPSTREAM])
        cache = _cache(api, settings)
        for port in (UPSTREAM_PORT, CACHE_PORT):
            wait(f"http://localhost:{port}")
        private = declared(api, stack, folder)
        mirror = Server(
            "the mirror",
            f"localhost:{MIRROR_PORT}",
            private.front,
            private.network,
            side_options=private.side_options,
        )
        bare = _bare("bare cache", cache, CACHE_PORT)
        containers = {mirror: clients.containers(api, NAMES.prefix)[mirror_alias(UPSTREAM)], bare: cache}
        yield Mirrors(mirror, _bare("upstream", upstream, UPSTREAM_PORT), bare, private, containers)
    finally:
        remove_everything(api, NAMES.prefix)


def mirrors(servers: Mirrors, folder: Path, rounds: int) -> list[Table]:
    """Measure pulls with skopeo, one at a time and several at once."""
    rows = []
    for image, sizes in IMAGES.items():
        cold, warm = _cold_and_warm(servers, image, sizes, folder, rounds)
        rows.append([f"cold pull, {image}", *_ratios(servers, cold), "—", "—"])
        rows.append([f"warm pull, {image}", *_ratios(servers, warm), _to_private(servers, warm), AIM])
    columns = ["", "mirror", "ratio to upstream", "ratio to bare cache", "ratio to private registry", "aim"]
    return [Table("Pulls through a mirror", columns, rows), _at_once(servers, folder, rounds)]


def _cold_and_warm(servers: Mirrors, image: str, sizes: list[int], folder: Path, rounds: int) -> tuple[Times, Times]:
    """Pull a new image twice from each server, in turn. Return the seconds of the first and of the second pulls."""
    cold: Times = defaultdict(list)
    warm: Times = defaultdict(list)
    repository = f"pulls-{len(sizes)}x{sizes[0]}"
    _round(servers, f"{repository}/warm-up", sizes, folder, 0)
    for number in counted(rounds, f"mirrors, {image}"):
        for server, (first, second) in _round(servers, f"{repository}/{number}", sizes, folder, number).items():
            cold[server].append(first)
            warm[server].append(second)
    return cold, warm


def _round(
    servers: Mirrors, repository: str, sizes: list[int], folder: Path, number: int
) -> dict[Server, tuple[float, float]]:
    _provide(servers, repository, sizes, folder)
    times = {}
    for server in rotated(servers.all(), number):
        before = _misses(servers, server)
        first = _pull(server, repository, folder)
        between = _misses(servers, server)
        times[server] = (first, _pull(server, repository, folder))
        after = _misses(servers, server)
        if server in servers.caches and not (between - before >= len(sizes) and after == between):
            raise RuntimeError(
                f"{server.name}: {between - before} misses in a cold pull, {after - between} in a warm one"
            )
    return times


def _at_once(servers: Mirrors, folder: Path, rounds: int) -> Table:
    """Pull a cached image several times at once."""
    compared = [servers.mirror, servers.cache, servers.private]
    _provide(servers, "at-once", [MEGABYTE] * 4, folder)
    for server in compared:
        _pull(server, "at-once", folder)
    times: dict[int, Times] = {count: defaultdict(list) for count in AT_ONCE}
    for number in counted(rounds, "mirrors, at once"):
        for count in AT_ONCE:
            for server in rotated(compared, number):
                target = folder / "pulled"
                target.mkdir()
                times[count][server].append(server.pull_at_once("at-once", target, count))
                shutil.rmtree(target)
    rows = []
    for count, by_server in times.items():
        mirror, cache, private = (by_server[server] for server in compared)
        rows.append([f"× {count}", seconds(mirror), ratio(mirror, cache), ratio(mirror, private), AIM])
    columns = ["", "mirror", "ratio to bare cache", "ratio to private registry", "aim"]
    return Table(f"Warm pulls at once, {FEW}", columns, rows)


def _provide(servers: Mirrors, repository: str, sizes: list[int], folder: Path) -> None:
    """Push a new image to the upstream and to the private registry."""
    layout = folder / "layout"
    write_layout(layout, [random_layer(size) for size in sizes])
    for server in (servers.upstream, servers.private):
        server.push(layout, repository)
    shutil.rmtree(layout)


def _pull(server: Server, repository: str, folder: Path) -> float:
    taken = server.pull(repository, folder / "pulled")
    shutil.rmtree(folder / "pulled")
    return taken


def _misses(servers: Mirrors, server: Server) -> int:
    """How many answers a cache fetched from the upstream so far."""
    if server not in servers.caches:
        return 0
    metrics = f"http://127.0.0.1:{COUNTERS_PORT}/metrics"
    found = usage(output(servers.caches[server], "wget", "-q", "-O-", metrics).decode())
    return found.total.misses if found else 0


def _ratios(servers: Mirrors, times: Times) -> list[str]:
    mirror = times[servers.mirror]
    return [seconds(mirror), ratio(mirror, times[servers.upstream]), ratio(mirror, times[servers.cache])]


def _to_private(servers: Mirrors, times: Times) -> str:
    return ratio(times[servers.mirror], times[servers.private])


def _bare(name: str, container: Container, port: int) -> Server:
    return Server(
        name,
        f"localhost:{port}",
        container,
        f"{NAMES.prefix}-upstream",
        side_options=("tls-verify=false",),
        scheme="http",
    )


def _cache(api: docker.DockerClient, settings: Settings) -> Container:
    """One distribution process in proxy mode, with the configuration of the stack's mirror and without a proxy."""
    mirror = settings.mirrors[UPSTREAM]
    config, file = yaml.safe_load(mirror_config(UPSTREAM, mirror)), "/etc/distribution/config.yml"
    config["http"]["addr"] = f":{CACHE_PORT}"
    config["proxy"] = {"remoteurl": f"http://writer:{UPSTREAM_PORT}", "ttl": mirror.ttl}
    return start(
        api,
        api.networks.get(f"{NAMES.prefix}-upstream"),
        "cache",
        settings.images.registry,
        ["registry", "serve", file],
        {file: yaml.safe_dump(config)},
        memory_mb=mirror.memory_mb,
        environment=environment(mirror.memory_mb),
        port=CACHE_PORT,
        volumes=[f"{volume(api, 'cache-data')}:{DATA_DIRECTORY}"],
        tmpfs={"/tmp": "size=1m"},
    )


def _values() -> dict[str, object]:
    return {
        "name_prefix": NAMES.prefix,
        "registry": {"url": f"https://localhost:{STACK_PORT}", "users": {USER: {"role": "push"}}},
        "mirrors": {
            UPSTREAM: {"url": f"https://localhost:{MIRROR_PORT}", "upstream": f"http://{UPSTREAM}:{UPSTREAM_PORT}"}
        },
        "proxy": {"address": "127.0.0.1", "certificates": {"internal": {}}},
    }
