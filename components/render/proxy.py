"""Configuration of the proxy: routes from the settings, rendered for Caddy or nginx from the same values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.configuration.certificates import canonical, canonical_root
from components.configuration.fields import Endpoint
from components.configuration.naming import (
    HEALTH_PORT,
    cache_alias,
    certificate_name,
    certificates_in_use,
    endpoints,
    mirror_alias,
    ports,
    quick_alias,
    service_ports,
)
from components.configuration.settings import DOCKER_HUB, Secrets, Settings
from components.render.registry import REALM, most_layers

CERTIFICATES_DIRECTORY = "/etc/proxy-certificates"
#: Files for ACME: the root of the ACME server's own certificate, and the MAC key of the account.
ACME_ROOT_FILE = f"{CERTIFICATES_DIRECTORY}/acme-root.crt"
ACME_MAC_KEY_FILE = f"{CERTIFICATES_DIRECTORY}/acme-eab-mac-key"
DATA_DIRECTORY = "/data"
#: Folder in which Caddy keeps obtained or issued certificates, with their keys.
ISSUED_DIRECTORY = f"{DATA_DIRECTORY}/caddy/certificates"
#: Sockets, PID files and buffers of the running proxy, on a tmpfs.
RUN_DIRECTORY = "/run/proxy"
#: File with the address that may use ports published on loopback: Docker's gateway, known when the proxy starts.
GATEWAY_FILE = f"{RUN_DIRECTORY}/gateway"
#: Root certificate of Caddy's own authority, in the container of the issuing Caddy.
ROOT_CERTIFICATE = f"{DATA_DIRECTORY}/caddy/pki/authorities/local/root.crt"
#: Network name of the container that obtains certificates for nginx.
ISSUER = "issuer"
#: Clients on the Docker host use either name.
LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "localhost"}
#: Client text in the logs of the processes: printable ASCII, with at most 16 characters that take seven bytes in the
#: engine's own JSON. ``LONGEST`` limits the length of each text.
_SAFE = r"!#-%\x27-;=?-\x5b\x5d-~"
LOGGED_URL, LOGGED_HEADER = (rf"[{safe}]*(?:[\x22&<>\x5c][{safe}]*){{0,16}}" for safe in (_SAFE, f"{_SAFE} "))
LONGEST = {"url": 1000, "user_agent": 512, "content_type": 128, "login": 256}
#: A parameter of a query other than ``ns`` in any spelling: its name is ``n`` or begins with another letter.
_OTHER = r"(?:n|[a-mo-zA-MO-Z_][\w-]*)=[^&#]*"
#: Most seconds for which each server does not know a new, healthy process that has the name of an old process. nginx
#: caches the addresses of a name for up to 2 seconds, and a process takes at least 0.5 seconds to become healthy. Caddy
#: resolves the name for each connection. With the operator's own proxy, the new process starts after the old process
#: has stopped.
LEARNS_WITHIN = {"caddy": 0.0, "nginx": 1.5, "none": 0.0}
#: Seconds without a byte of a mirror after which a request for a layer fails, and without an answer for any other.
#: distribution gives a layer after up to six answers of the upstream, which it awaits one after the other.
SILENT_AFTER = {"layer": 30, "other": 15}
#: A digest that nobody has.
NO_DIGEST = f"sha256:{'0' * 64}"
#: Seconds that a stopping proxy gives requests to finish.
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
    """The route of clients to the mirror ``name``.

    ``cache`` is the name of the route to its cache alone. ``endpoint`` is the mirror's own address, if any. At the
    address of all mirrors, ``asked`` matches the URLs of its requests. ``allow`` is empty if everyone may pull.
    ``most_layers`` is how many layers the mirror may send at once.
    """

    upstream: str
    name: str
    cache: str
    endpoint: Endpoint | None
    asked: str
    allow: tuple[str, ...]
    official_images: bool
    most_layers: int


@dataclass(frozen=True)
class SharedRoute:
    """The address of all mirrors. ``allow`` has the addresses that may use any mirror; empty if everyone may."""

    endpoint: Endpoint
    allow: tuple[str, ...]
    upstreams: str


def asks_for(upstream: str) -> str:
    """Return a pattern of the URLs that name an upstream in their query, for both servers.

    Exactly one parameter ``ns`` must have the exact name; a port follows ``:`` or, as containerd writes it, ``%3A``.
    Docker Hub also gets URLs without ``ns``. An ambiguous URL matches no mirror: one with a second ``ns``, or with
    another spelling of ``ns``.
    """
    named = "ns=" + re.escape(upstream).replace(":", "(?::|%3A)")
    if upstream == DOCKER_HUB:
        return rf"^[^?#]*(?:\?(?:{_OTHER}&)*(?:{named}|{_OTHER})(?:&{_OTHER})*)?$"
    return rf"^[^?#]*\?(?:{_OTHER}&)*{named}(?:&{_OTHER})*$"


def certificate_files(name: str) -> tuple[str, str]:
    """Return the paths of a certificate chain and its private key in the proxy container."""
    stem = f"{CERTIFICATES_DIRECTORY}/{name.replace('*', '_')}"
    return f"{stem}.crt", f"{stem}.key"


def certificate_contents(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Return every file of ``CERTIFICATES_DIRECTORY`` by path: certificates in use, and the files for ACME."""
    contents: dict[str, str] = {}
    for name, pair in certificates_in_use(settings, secrets).items():
        contents |= dict(zip(certificate_files(name), canonical(pair), strict=True))
    acme = settings.proxy.certificates.acme
    if acme and acme.root:
        contents[ACME_ROOT_FILE] = canonical_root(acme.root)
    if acme and acme.eab:
        contents[ACME_MAC_KEY_FILE] = secrets.acme_eab_mac_key.get_secret_value()
    return contents


def caddyfile(settings: Settings, given: Mapping[str, int]) -> str:
    """Render the Caddyfile; ``given`` maps the certificates in use to their expiry in Unix seconds."""
    return _rendered("Caddyfile.j2", settings, given)


def nginx_conf(settings: Settings, given: Mapping[str, int]) -> str:
    """Render nginx.conf for the same routes; arguments as for ``caddyfile``."""
    return _rendered("nginx.conf.j2", settings, given)


def snippets(settings: Settings) -> dict[str, str]:
    """Render the same routes by server, for a Caddy or nginx that the operator already has, with its own TLS."""
    return {
        "caddy": _rendered("sites.Caddyfile.j2", settings, {}),
        "nginx": _rendered("sites.nginx.j2", settings, {}),
    }


def needs_issuer(settings: Settings) -> bool:
    """Whether a Caddy beside the proxy obtains the certificates, because nginx cannot."""
    return settings.proxy.server == "nginx" and not settings.proxy.certificates.files


def issuer_caddyfile(settings: Settings) -> str:
    """Render the Caddyfile of the issuer, which keeps certificates and accounts like a Caddy in place of nginx."""
    return _rendered("issuer.Caddyfile.j2", settings, {})


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The routes of either server.

    ``most_layers`` is how many layers reader and public may each send at once. ``sites`` has the origins of each
    endpoint: with internal certificates, both names of loopback, because docker tries HTTP if the certificate does not
    match. ``address`` is the host for clients that send no SNI, if any. ``shared`` is the address of
    all mirrors, if any.

    ``addresses`` has the host:port for the proxy of each registry process and each mirror, by name;
    ``quick_addresses`` has the same under a second name.

    ``certificates`` has the files of chain and key for each host, None if the server obtains them itself. ``chains``
    has all chain files. ``ends`` has the expiry of certificates given as files, in Unix seconds.
    """

    registry: Endpoint
    public: Endpoint | None
    most_layers: int
    sites: Mapping[Endpoint, tuple[Endpoint, ...]]
    address: str | None
    addresses: Mapping[str, str]
    quick_addresses: Mapping[str, str]
    mirrors: tuple[MirrorRoute, ...]
    shared: SharedRoute | None
    certificates: Mapping[str, tuple[str, str] | None]
    chains: Mapping[str, str]
    ends: Mapping[str, int]
    endpoints: tuple[Endpoint, ...]
    ports: tuple[int, ...]


def routes(settings: Settings, given: Mapping[str, int]) -> Routes:
    """Return the routes for the settings."""
    sites = _sites(settings)
    certificates: dict[str, tuple[str, str] | None] = {site.host: None for both in sites.values() for site in both}
    issued = _issued_directory(settings)
    chains, ends = {host: f"{issued}/{host}/{host}.crt" for host in certificates}, {}
    if settings.proxy.certificates.files:
        for host in certificates:
            name = certificate_name(host, tuple(given))
            assert name is not None, "the configuration was checked"
            certificates[host] = certificate_files(name)
            chains[host], ends[host] = certificate_files(name)[0], given[name]
    elif settings.proxy.server == "nginx":
        for host in certificates:
            certificates[host] = f"$issued/{host}/{host}.crt", f"$issued/{host}/{host}.key"
    return Routes(
        registry=settings.registry.url,
        public=settings.registry.anonymous_url,
        most_layers=most_layers(settings.registry.memory_mb),
        sites=sites,
        address=next((site.host for both in sites.values() for site in both if site.is_address), None),
        addresses=addresses(settings, str),
        quick_addresses=addresses(settings, quick_alias),
        mirrors=tuple(
            MirrorRoute(
                upstream=name,
                name=mirror_alias(name),
                cache=cache_alias(name),
                endpoint=mirror.url,
                asked=asks_for(name),
                allow=mirror.allow,
                # Only Docker Hub has official images, under library/.
                official_images=name == DOCKER_HUB,
                most_layers=most_layers(mirror.memory_mb),
            )
            for name, mirror in sorted(settings.mirrors.items())
        ),
        shared=_shared(settings),
        certificates=certificates,
        chains=chains,
        ends=ends,
        endpoints=tuple(endpoints(settings.registry, settings.mirrors, settings.mirror_url).values()),
        ports=ports(settings),
    )


def _shared(settings: Settings) -> SharedRoute | None:
    if settings.mirror_url is None:
        return None
    lists = [mirror.allow for _, mirror in sorted(settings.mirrors.items())]
    allow = dict.fromkeys(network for one in lists for network in one) if all(lists) else {}
    return SharedRoute(settings.mirror_url, tuple(allow), ", ".join(sorted(settings.mirrors)))


def addresses(settings: Settings, alias: Callable[[str], str]) -> dict[str, str]:
    """Return host:port of each registry process and each mirror by name; the stack's own proxy uses the alias."""
    at = settings.proxy.services_address
    return {name: f"{at or alias(name)}:{port}" for name, port in service_ports(settings).items()}


def _sites(settings: Settings) -> dict[Endpoint, tuple[Endpoint, ...]]:
    own = endpoints(settings.registry, settings.mirrors, settings.mirror_url).values()
    other = {url: Endpoint(LOOPBACK.get(url.host, url.host), url.port) for url in own}
    both = settings.proxy.certificates.internal
    return {url: (url,) if not both or other[url] in own else (url, other[url]) for url in own}


def _rendered(template: str, settings: Settings, given: Mapping[str, int]) -> str:
    return _TEMPLATES.get_template(template).render(
        routes=routes(settings, given),
        connections=8 * settings.proxy.memory_mb,
        metrics_port=settings.proxy.metrics_port,
        acme=settings.proxy.certificates.acme,
        internal=settings.proxy.certificates.internal,
        snippet=settings.proxy.services_address is not None,
        issuer=ISSUER,
        issued_directory=_issued_directory(settings) if needs_issuer(settings) else "",
        grace_seconds=GRACE_SECONDS,
        health_port=HEALTH_PORT,
        run_directory=RUN_DIRECTORY,
        gateway_file=GATEWAY_FILE,
        is_loopback=settings.proxy.is_loopback and settings.proxy.server != "none",
        logged_url=LOGGED_URL,
        logged_header=LOGGED_HEADER,
        longest=LONGEST,
        silent_after=SILENT_AFTER,
        no_digest=NO_DIGEST,
        realm=REALM,
        acme_root_file=ACME_ROOT_FILE,
        acme_mac_key_file=ACME_MAC_KEY_FILE,
    )


def _issued_directory(settings: Settings) -> str:
    """Return Caddy's folder for certificates of the authority (certmagic, ``ACMEIssuer.issuerKey``, ``KeyBuilder``)."""
    acme = settings.proxy.certificates.acme
    authority = "local"
    if acme:
        host, _, folder = acme.directory_url.lower().removeprefix("https://").partition("/")
        authority = "-".join(part for part in (host, folder.replace("/", "-").strip("-")) if part)
    return f"{ISSUED_DIRECTORY}/{authority.replace(':', '-')}"
