"""The proxy's configuration: routes made from the settings, rendered for Caddy or for nginx from the same values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from components.configuration.certificates import canonical, canonical_root, certificate_name, certificates_in_use
from components.configuration.fields import Endpoint
from components.configuration.naming import HEALTH_PORT, endpoints, mirror_alias, ports, quick_alias, service_ports
from components.configuration.settings import Secrets, Settings
from components.render.registry import REALM, most_layers

CERTIFICATES_DIRECTORY = "/etc/proxy-certificates"
#: For ACME: the root of the server's own certificate, and the MAC key of the account.
ACME_ROOT_FILE = f"{CERTIFICATES_DIRECTORY}/acme-root.crt"
ACME_MAC_KEY_FILE = f"{CERTIFICATES_DIRECTORY}/acme-eab-mac-key"
DATA_DIRECTORY = "/data"
#: Where Caddy keeps the certificates that it gets or issues, with their keys.
ISSUED_DIRECTORY = f"{DATA_DIRECTORY}/caddy/certificates"
#: Sockets, process numbers and buffers of the running proxy, on a tmpfs.
RUN_DIRECTORY = "/run/proxy"
#: Who may use ports that are published on loopback: Docker's gateway, whose address is known when the proxy starts.
GATEWAY_FILE = f"{RUN_DIRECTORY}/gateway"
#: Root certificate of Caddy's own authority, in the container that issues.
ROOT_CERTIFICATE = f"{DATA_DIRECTORY}/caddy/pki/authorities/local/root.crt"
#: Network name of the container that gets certificates for nginx.
ISSUER = "issuer"
#: Clients on the Docker host use either.
LOOPBACK = {"localhost": "127.0.0.1", "127.0.0.1": "localhost"}
#: What a client may write into the logs of the processes: printable ASCII, with few of the characters that take seven
#: bytes in the engine's own JSON; and how much of it.
_SAFE = r"!#-%\x27-;=?-\x5b\x5d-~"
LOGGED_URL, LOGGED_HEADER = (rf"[{safe}]*(?:[\x22&<>\x5c][{safe}]*){{0,16}}" for safe in (_SAFE, f"{_SAFE} "))
LONGEST = {"url": 1000, "user_agent": 512, "content_type": 128, "login": 256}
#: How long each server may know nothing of a process that is healthy and has a name that another has, too, in seconds.
#: nginx keeps the addresses of a name for up to two, and nothing is healthy within half of one; Caddy asks for each
#: connection. Behind a proxy of the operator's own, a process starts when the other one has stopped.
LEARNS_WITHIN = {"caddy": 0.0, "nginx": 1.5, "none": 0.0}
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
    """How clients reach the mirror ``name``; ``allow`` is empty where anybody may.

    ``most_layers`` is how many it may send at once.
    """

    upstream: str
    name: str
    endpoint: Endpoint
    allow: tuple[str, ...]
    official_images: bool
    most_layers: int


def certificate_files(name: str) -> tuple[str, str]:
    """Paths of a certificate chain and its private key in the proxy container."""
    stem = f"{CERTIFICATES_DIRECTORY}/{name.replace('*', '_')}"
    return f"{stem}.crt", f"{stem}.key"


def certificate_contents(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Every file of ``CERTIFICATES_DIRECTORY`` by its path: certificates that serve a host, and what ACME needs."""
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
    """The Caddyfile; ``given`` leads from the certificates in use to when each ends, in Unix seconds."""
    return _rendered("Caddyfile.j2", settings, given)


def nginx_conf(settings: Settings, given: Mapping[str, int]) -> str:
    """nginx.conf for the same routes; arguments as for ``caddyfile``."""
    return _rendered("nginx.conf.j2", settings, given)


def snippets(settings: Settings) -> dict[str, str]:
    """The same routes by server, for a Caddy or nginx that the operator already has; TLS is its own."""
    return {
        "caddy": _rendered("sites.Caddyfile.j2", settings, {}),
        "nginx": _rendered("sites.nginx.j2", settings, {}),
    }


def needs_issuer(settings: Settings) -> bool:
    """Whether certificates are got by a Caddy beside the proxy, since nginx gets none."""
    return settings.proxy.server == "nginx" and not settings.proxy.certificates.files


def issuer_caddyfile(settings: Settings) -> str:
    """The Caddyfile of that Caddy, which keeps certificates and accounts as one in nginx's place would."""
    return _rendered("issuer.Caddyfile.j2", settings, {})


@dataclass(frozen=True, kw_only=True)
class Routes:
    """What either server serves.

    ``sites`` are the origins of each endpoint: with internal certificates, both names of loopback, since
    docker tries HTTP where the certificate does not fit; ``address`` is the host for clients that send no SNI, if any;
    ``most_layers`` is how many the reader and public each may send at once;
    ``addresses`` are host:port of each process of the registry and each mirror, by name, as the proxy reaches them, and
    ``quick_addresses`` the same under another name;
    ``certificates`` are the files of chain and key for each host, None where the server gets them by itself; ``chains``
    are the files of all, and ``ends`` the Unix times in seconds at which those end that were given as files.
    """

    registry: Endpoint
    public: Endpoint | None
    most_layers: int
    sites: Mapping[Endpoint, tuple[Endpoint, ...]]
    address: str | None
    addresses: Mapping[str, str]
    quick_addresses: Mapping[str, str]
    mirrors: tuple[MirrorRoute, ...]
    certificates: Mapping[str, tuple[str, str] | None]
    chains: Mapping[str, str]
    ends: Mapping[str, int]
    endpoints: tuple[Endpoint, ...]
    ports: tuple[int, ...]


def routes(settings: Settings, given: Mapping[str, int]) -> Routes:
    """The routes that the settings ask for."""
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
                endpoint=mirror.url,
                allow=mirror.allow,
                # Docker Hub alone has official images, under library/.
                official_images=name == "docker.io",
                most_layers=most_layers(mirror.memory_mb),
            )
            for name, mirror in sorted(settings.mirrors.items())
        ),
        certificates=certificates,
        chains=chains,
        ends=ends,
        endpoints=tuple(endpoints(settings.registry, settings.mirrors).values()),
        ports=ports(settings),
    )


def addresses(settings: Settings, alias: Callable[[str], str]) -> dict[str, str]:
    """host:port of each process of the registry and each mirror, by name; the stack's own proxy uses the alias."""
    at = settings.proxy.services_address
    return {name: f"{at or alias(name)}:{port}" for name, port in service_ports(settings).items()}


def _sites(settings: Settings) -> dict[Endpoint, tuple[Endpoint, ...]]:
    own = endpoints(settings.registry, settings.mirrors).values()
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
        realm=REALM,
        acme_root_file=ACME_ROOT_FILE,
        acme_mac_key_file=ACME_MAC_KEY_FILE,
    )


def _issued_directory(settings: Settings) -> str:
    """Where Caddy keeps the certificates of an authority (certmagic, ``ACMEIssuer.issuerKey`` and ``KeyBuilder``)."""
    acme = settings.proxy.certificates.acme
    authority = "local"
    if acme:
        host, _, folder = acme.directory_url.lower().removeprefix("https://").partition("/")
        authority = "-".join(part for part in (host, folder.replace("/", "-").strip("-")) if part)
    return f"{ISSUED_DIRECTORY}/{authority.replace(':', '-')}"
