"""The proxies to compare: the stack's Caddy and nginx, the nginx of a usual recipe, and no proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import docker
import httpx
from docker.models.containers import Container
from docker.models.networks import Network

from benchmarks.containers import NAMES, certificates, network, proxy, registries, registry, start, wait
from components.configuration.settings import Settings
from components.render.proxy import certificate_files
from components.render.registry import DATA_DIRECTORY
from tests.harness import clients
from tests.harness.small_stack import remove_everything
from tests.harness.stack import engine_address

BARE_PORT, CADDY_PORT, NGINX_PORT, RECIPE_PORT = 26442, 26443, 26444, 26445
#: The nginx configuration of a usual recipe, with nginx's defaults otherwise. The number of workers is an exception:
#: one per processor, as in the file of every distribution. The user is root, because every image has the user root.
RECIPE = """\
user root;
worker_processes auto;
events {{
    worker_connections 1024;
}}
http {{
    access_log /dev/stdout;
    server {{
        listen {port} ssl;
        server_name localhost;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{
            client_max_body_size 0;
            proxy_pass http://{registry};
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 900;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Front:
    """A server that clients use at ``origin``.

    ``container`` answers there. ``store`` is a container that can write the registry's data.
    """

    name: str
    origin: str
    container: Container
    store: Container

    def begin_upload(self, client: httpx.Client, repository: str) -> str:
        """Begin an upload and return the URL for the blob."""
        answer = client.post(f"{self.origin}/v2/{repository}/blobs/uploads/")
        if answer.status_code != 202:
            raise RuntimeError(f"{self.name} answers the start of an upload with {answer.status_code} instead of 202")
        return str(answer.url.join(answer.headers["Location"]))

    def empty(self) -> None:
        """Remove all uploaded data."""
        clients.execute(self.store, "rm", "-rf", f"{DATA_DIRECTORY}/docker")


@dataclass(frozen=True)
class Fronts:
    """All fronts, on one engine. Caddy and nginx share a registry. The recipe's nginx uses the bare registry."""

    caddy: Front
    nginx: Front
    recipe: Front
    bare: Front

    def all(self) -> list[Front]:
        """All fronts, the one without a proxy first."""
        return [self.bare, self.caddy, self.nginx, self.recipe]


@contextmanager
def running(api: docker.DockerClient) -> Iterator[Fronts]:
    """Start the four fronts, and remove them with their data at the end."""
    remove_everything(api, NAMES.prefix)
    try:
        edge, backend = network(api, "open-edge"), network(api, "open-backend", internal=True)
        writer = registries(api, backend, _settings(CADDY_PORT, "caddy"))["writer"]
        plain = network(api, "bare")
        bare = registry(api, plain, "bare", "writer", _settings(BARE_PORT, "nginx"), store="bare-data", port=BARE_PORT)
        fronts = Fronts(
            caddy=Front(
                "Caddy",
                f"https://localhost:{CADDY_PORT}",
                proxy(api, edge, backend, "caddy", _settings(CADDY_PORT, "caddy")),
                writer,
            ),
            nginx=Front(
                "nginx",
                f"https://localhost:{NGINX_PORT}",
                proxy(api, edge, backend, "nginx", _settings(NGINX_PORT, "nginx")),
                writer,
            ),
            recipe=Front("the recipe's nginx", f"https://localhost:{RECIPE_PORT}", _recipe(api, plain), bare),
            bare=Front("bare registry", f"http://localhost:{BARE_PORT}", bare, bare),
        )
        for front in fronts.all():
            wait(front.origin)
        yield fronts
    finally:
        remove_everything(api, NAMES.prefix)


def _settings(port: int, server: str) -> Settings:
    return Settings.model_validate(
        {
            "docker_host": engine_address(),
            "name_prefix": NAMES.prefix,
            "registry": {"url": f"https://localhost:{port}", "users": {}},
            "proxy": {"server": server, "address": "127.0.0.1", "certificates": {"files": {}}},
        }
    )


def _recipe(api: docker.DockerClient, network: Network) -> Container:
    chain, key = certificate_files("localhost")
    file, registry = "/etc/nginx/nginx.conf", f"writer:{BARE_PORT}"
    settings = _settings(RECIPE_PORT, "nginx")
    return start(
        api,
        network,
        "recipe",
        settings.images.nginx,
        ["nginx", "-e", "stderr", "-c", file, "-g", "daemon off;"],
        {file: RECIPE.format(port=RECIPE_PORT, chain=chain, key=key, registry=registry)} | certificates(),
        memory_mb=settings.proxy.memory_mb,
        port=RECIPE_PORT,
    )
