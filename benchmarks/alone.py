"""Compare the stack, with each proxy, with other ways to run a registry with TLS and passwords.

The aims are ratios to one distribution process that does everything by itself, so it is close to a registry that is one
program. The other comparison is the unchanged recipe of an article.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import docker
from docker.models.containers import Container

from benchmarks.containers import NAMES, certificates, network, proxy, registries, registry, start, volume, wait
from benchmarks.fronts import RECIPE
from benchmarks.report import Table, ratio, seconds
from benchmarks.servers import USER, Server, logged_in
from benchmarks.transfers import IMAGES, Times, by_skopeo
from components.configuration.passwords import COST
from components.configuration.settings import Settings
from components.render.proxy import certificate_files
from components.render.registry import DATA_DIRECTORY
from tests.harness.certificates import authority
from tests.harness.small_stack import remove_everything
from tests.harness.stack import engine_address

CADDY_PORT, NGINX_PORT, RECIPE_PORT, ALONE_PORT = 26450, 26451, 26452, 26453
#: Allowed time of each proxy, as a multiple of the time of the single process.
AIMS = {"Caddy": "1.10", "nginx": "1.05"}
PASSWORD = "example-only-benchmark-zq7kx2vw9rj4hbm3"


@dataclass(frozen=True)
class Alternatives:
    """All servers, on one engine."""

    caddy: Server
    nginx: Server
    recipe: Server
    alone: Server

    def all(self) -> list[Server]:
        """All servers, the stack first."""
        return [self.caddy, self.nginx, self.recipe, self.alone]


@contextmanager
def running(api: docker.DockerClient, folder: Path) -> Iterator[Alternatives]:
    """Start the four servers, and remove them with their data at the end."""
    remove_everything(api, NAMES.prefix)
    (folder / "authority").mkdir()
    (folder / "authority" / "ca.crt").write_text(authority().pair()["certificate"])
    try:
        edge, backend = network(api, "edge"), network(api, "backend", internal=True)
        registries(api, backend, _settings(CADDY_PORT, "caddy"), _htpasswd())
        fronts = {}
        for server, port in (("caddy", CADDY_PORT), ("nginx", NGINX_PORT)):
            front = proxy(api, edge, backend, server, _settings(port, server))
            fronts[server] = _server(f"the stack with {server}", front, str(edge.name), port, folder)
        recipe, alone = _recipe(api, folder), _alone(api, folder)
        for port in (CADDY_PORT, NGINX_PORT, RECIPE_PORT, ALONE_PORT):
            wait(f"https://localhost:{port}", status=401)
        yield Alternatives(fronts["caddy"], fronts["nginx"], recipe, alone)
    finally:
        remove_everything(api, NAMES.prefix)


def alternatives(servers: Alternatives, folder: Path, rounds: int) -> Table:
    """Measure pushes and pulls with skopeo."""
    rows = []
    for image, sizes in IMAGES.items():
        for what, times in zip(("push", "pull"), by_skopeo(servers.all(), image, sizes, folder, rounds), strict=True):
            rows.append(_row(f"skopeo {what}, {image}", times, servers))
    columns = [
        "",
        "Caddy to one process",
        "aim",
        "nginx to one process",
        "aim",
        "recipe",
        "Caddy to recipe",
        "nginx to recipe",
    ]
    heading = "Time ratios of the stack to one distribution process with TLS and htpasswd (cost 5), and to the recipe"
    return Table(heading, columns, rows)


def _row(what: str, times: Times, servers: Alternatives) -> list[str]:
    caddy, nginx, recipe, alone = (times[server] for server in servers.all())
    to_alone = [ratio(caddy, alone), AIMS["Caddy"], ratio(nginx, alone), AIMS["nginx"]]
    return [what, *to_alone, seconds(recipe), ratio(caddy, recipe), ratio(nginx, recipe)]


def _recipe(api: docker.DockerClient, folder: Path) -> Server:
    """nginx in front of one registry. The registry has the configuration of its image and a password file."""
    own, settings = network(api, "recipe"), _settings(RECIPE_PORT, "nginx")
    start(
        api,
        own,
        "recipe-registry",
        settings.images.registry,
        ["registry", "serve", "/etc/distribution/config.yml"],
        {"/auth/htpasswd": _htpasswd()},
        memory_mb=settings.registry.memory_mb,
        environment=[
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/var/lib/registry",
            "REGISTRY_STORAGE_DELETE_ENABLED=true",
            "REGISTRY_AUTH=htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM=Registry Realm",
            "REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd",
            "OTEL_TRACES_EXPORTER=none",
        ],
        aliases=["registry"],
        volumes=[f"{volume(api, 'recipe-data')}:{DATA_DIRECTORY}"],
    )
    chain, key = certificate_files("localhost")
    text = RECIPE.format(port=RECIPE_PORT, chain=chain, key=key, registry="registry:5000")
    file = "/etc/nginx/nginx.conf"
    front = start(
        api,
        own,
        "recipe-proxy",
        settings.images.nginx,
        ["nginx", "-e", "stderr", "-c", file, "-g", "daemon off;"],
        {file: text} | certificates(),
        memory_mb=settings.proxy.memory_mb,
        port=RECIPE_PORT,
    )
    return _server("the recipe", front, str(own.name), RECIPE_PORT, folder)


def _alone(api: docker.DockerClient, folder: Path) -> Server:
    """One distribution process that terminates TLS itself."""
    own, settings = network(api, "alone"), _settings(ALONE_PORT, "nginx")
    front: Container = registry(
        api,
        own,
        "alone",
        "writer",
        settings,
        store="alone-data",
        port=ALONE_PORT,
        htpasswd=_htpasswd(),
        tls=True,
    )
    return _server("distribution alone", front, str(own.name), ALONE_PORT, folder)


def _server(name: str, front: Container, network_name: str, port: int, folder: Path) -> Server:
    address = f"localhost:{port}"
    return Server(
        name,
        address,
        front,
        network_name,
        options=(logged_in(address, (USER, PASSWORD), folder),),
        side_options=(f"cert-dir={folder / 'authority'}",),
    )


def _htpasswd() -> str:
    """The password file of a registry. The cost is the stack's cost and the default of ``htpasswd -B``."""
    return f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(COST)).decode()}\n"


def _settings(port: int, server: str) -> Settings:
    return Settings.model_validate(
        {
            "docker_host": engine_address(),
            "name_prefix": NAMES.prefix,
            "registry": {"url": f"https://localhost:{port}", "users": {USER: {"role": "push"}}},
            "proxy": {"server": server, "address": "127.0.0.1", "certificates": {"files": {}}},
        }
    )
