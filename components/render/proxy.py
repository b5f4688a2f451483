"""The proxy's configuration: routes made from the settings, rendered for Caddy.

Another engine is another template over the same routes.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.problem import path
from components.settings import CertificateSettings, Endpoint, MirrorSettings, Settings, slug

CONFIG_DIRECTORY = "/etc/caddy"
CERTIFICATES_DIRECTORY = "/etc/caddy-certificates"
DATA_DIRECTORY = "/data"
ADMIN_SOCKET = "unix//run/caddy/admin.sock"
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
    """How clients reach one mirror: ``allow`` is empty where any address may; ``alias`` is its name on the network."""

    upstream: str
    endpoint: Endpoint
    alias: str
    allow: tuple[str, ...]
    official_images: bool


def mirror_alias(name: str) -> str:
    """Network name of the mirror of ``name``."""
    return f"mirror-{slug(name)}"


def mirror_route(name: str, mirror: MirrorSettings) -> MirrorRoute:
    """Route to the mirror of ``name``; Docker Hub alone has official images, under ``library/``."""
    return MirrorRoute(name, mirror.url, mirror_alias(name), mirror.allow, official_images=name == "docker.io")


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
    certificates = settings.proxy.certificates
    return _TEMPLATES.get_template("Caddyfile.j2").render(
        acme=certificates.acme,
        grace_seconds=GRACE_SECONDS,
        health_port=HEALTH_PORT,
        ports=sorted({url.port for url in endpoints(settings).values()}),
        registry=settings.registry.url,
        public=settings.registry.anonymous_url,
        tls={host: _tls(certificates, host, certificate_names) for host in hosts(settings)},
        mirrors=[mirror_route(name, mirror) for name, mirror in sorted(settings.mirrors.items())],
    )


def _tls(certificates: CertificateSettings, host: str, available: tuple[str, ...]) -> list[str]:
    if certificates.internal:
        return ["tls internal"]
    if certificates.files:
        name = certificate_name(host, available)
        assert name is not None, "the configuration was checked"
        return ["tls {} {}".format(*certificate_files(name))]
    return []
