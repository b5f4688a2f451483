"""The proxy's configuration: routes made from the settings, rendered for Caddy or for nginx from the same values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.problem import path
from components.render.registry import PORTS, mirror_port
from components.settings import Endpoint, Process, Settings, processes, slug

CERTIFICATES_DIRECTORY = "/etc/proxy-certificates"
DATA_DIRECTORY = "/data"
#: Sockets, process numbers and buffers of the running proxy, on a tmpfs.
RUN_DIRECTORY = "/run/proxy"
#: Root certificate of Caddy's own authority, inside the proxy container.
ROOT_CERTIFICATE = f"{DATA_DIRECTORY}/caddy/pki/authorities/local/root.crt"
#: Port of the health check inside the container; no service may use it.
HEALTH_PORT = 2015
#: How long a stopping proxy lets requests finish.
GRACE_SECONDS = 30

#: ``autoescape`` is for HTML; the settings allow no character that ends a directive.
_TEMPLATES = Environment(  # noqa: S701
    loader=PackageLoader("components.render"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class MirrorRoute:
    """How clients reach the mirror ``name``, and ``address``, its host:port; ``allow`` is empty where anybody may."""

    upstream: str
    name: str
    endpoint: Endpoint
    address: str
    allow: tuple[str, ...]
    official_images: bool


def mirror_alias(name: str) -> str:
    """Network name of the mirror of ``name``."""
    return f"mirror-{slug(name)}"


def endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Every URL under which clients reach something, by its configuration key."""
    registry = settings.registry
    found = {"registry.url": registry.url}
    if registry.anonymous_url:
        found["registry.anonymous_url"] = registry.anonymous_url
    return found | {path("mirrors", name, "url"): mirror.url for name, mirror in settings.mirrors.items()}


def hosts(settings: Settings) -> tuple[str, ...]:
    """Names that certificates must cover, each once."""
    return tuple(dict.fromkeys(url.host for url in endpoints(settings).values()))


def certificate_name(host: str, available: tuple[str, ...]) -> str | None:
    """Which of the given certificates serves ``host``: its own or the wildcard of its domain, or None."""
    wildcard = "*." + host.partition(".")[2]
    return host if host in available else wildcard if wildcard in available else None


def certificate_files(name: str) -> tuple[str, str]:
    """Paths of a certificate chain and its private key in the proxy container."""
    stem = f"{CERTIFICATES_DIRECTORY}/{name.replace('*', '_')}"
    return f"{stem}.crt", f"{stem}.key"


def caddyfile(settings: Settings, certificate_names: tuple[str, ...] = ()) -> str:
    """The Caddyfile; ``certificate_names`` are the keys of the secret ``certificates``, used with ``files``."""
    return _rendered("Caddyfile.j2", settings, certificate_names)


def nginx_conf(settings: Settings, certificate_names: tuple[str, ...]) -> str:
    """nginx.conf for the same routes; arguments as for ``caddyfile``."""
    return _rendered("nginx.conf.j2", settings, certificate_names)


@dataclass(frozen=True, kw_only=True)
class Routes:
    """What either engine serves.

    ``processes`` are those of the private registry, with their host:port behind the proxy; ``certificates`` are the
    files of chain and key for each host, None where the engine gets them by itself.
    """

    registry: Endpoint
    public: Endpoint | None
    processes: Mapping[Process, str]
    mirrors: tuple[MirrorRoute, ...]
    certificates: Mapping[str, tuple[str, str] | None]

    @property
    def sites(self) -> tuple[Endpoint, ...]:
        """Every endpoint, each once."""
        found = (self.registry, self.public, *(mirror.endpoint for mirror in self.mirrors))
        return tuple(site for site in found if site)

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port that clients use."""
        return tuple(sorted({site.port for site in self.sites}))


def routes(settings: Settings, certificate_names: tuple[str, ...]) -> Routes:
    """The routes that the settings ask for."""
    certificates: dict[str, tuple[str, str] | None] = dict.fromkeys(hosts(settings))
    if settings.proxy.certificates.files:
        for host in certificates:
            name = certificate_name(host, certificate_names)
            assert name is not None, "the configuration was checked"
            certificates[host] = certificate_files(name)
    return Routes(
        registry=settings.registry.url,
        public=settings.registry.anonymous_url,
        processes={process: f"{process}:{PORTS[process]}" for process in processes(settings.registry)},
        mirrors=tuple(
            MirrorRoute(
                upstream=name,
                name=mirror_alias(name),
                endpoint=mirror.url,
                address=f"{mirror_alias(name)}:{mirror_port(name)}",
                allow=mirror.allow,
                # Docker Hub alone has official images, under library/.
                official_images=name == "docker.io",
            )
            for name, mirror in sorted(settings.mirrors.items())
        ),
        certificates=certificates,
    )


def _rendered(template: str, settings: Settings, certificate_names: tuple[str, ...]) -> str:
    return _TEMPLATES.get_template(template).render(
        routes=routes(settings, certificate_names),
        acme=settings.proxy.certificates.acme,
        internal=settings.proxy.certificates.internal,
        grace_seconds=GRACE_SECONDS,
        health_port=HEALTH_PORT,
        run_directory=RUN_DIRECTORY,
        certificates_directory=CERTIFICATES_DIRECTORY,
    )
