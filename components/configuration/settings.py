"""Settings of a stack: frozen models of its configuration, with every default.

A field has the name of its key in ``Pulumi.<stack>.yaml``; ``loading.py`` reads the values and reports every problem.
The text of a ``ValueError`` raised here describes the *allowed* values, and never repeats the refused value. The report
adds the key, the value found and the commands that fix the problem.
"""

from __future__ import annotations

import datetime
import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, PlainSerializer, SecretStr, model_validator

from components.configuration.fields import (
    ANY_ADDRESS,
    EMPTY_OBJECT,
    FROZEN,
    AcmeDirectory,
    AcmeKeyId,
    Address,
    Conflict,
    DockerHost,
    DockerName,
    Duration,
    Email,
    HostPath,
    HttpProxy,
    LastDay,
    LogLevel,
    MemoryMb,
    Network,
    NoProxy,
    Port,
    StackSecret,
    Upstream,
    UpstreamLogin,
    UpstreamName,
    Url,
    UserName,
)
from components.configuration.images import CaddyImage, NginxImage, RegistryImage
from components.configuration.retention import RetentionSettings

Role = Literal["pull", "push", "admin"]
Process = Literal["reader", "writer", "admin", "public"]

#: Roles of the users in the htpasswd file of each registry process. ``public``, the process without a login, can only
#: read.
ROLES_OF: dict[Process, tuple[Role, ...]] = {
    "reader": ("pull", "push", "admin"),
    "writer": ("push", "admin"),
    "admin": ("admin",),
}


#: The only upstream whose mirrors Docker's ``registry-mirrors`` can name. Docker's requests then name no upstream.
DOCKER_HUB = "docker.io"
#: API origins of well-known registries; for docker.io and lscr.io, the origin is not ``https://NAME``.
KNOWN_UPSTREAMS = {
    DOCKER_HUB: "https://registry-1.docker.io",
    "gcr.io": "https://gcr.io",
    "ghcr.io": "https://ghcr.io",
    "lscr.io": "https://ghcr.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "quay.io": "https://quay.io",
    "registry.gitlab.com": "https://registry.gitlab.com",
    "registry.k8s.io": "https://registry.k8s.io",
}
#: API origins of the registries behind hosts that send clients for a token to another domain. A mirror of such a host
#: answers every pull with 404: distribution ignores a token service outside the domain of its upstream.
REAL_UPSTREAMS = {
    "docker.io": "https://registry-1.docker.io",
    "lscr.io": "https://ghcr.io",
    "registry.hub.docker.com": "https://registry-1.docker.io",
}


class UserSettings(BaseModel):
    """A person or machine that logs in to the private registry."""

    model_config = FROZEN
    role: Role = "pull"
    expires: LastDay | None = None
    """Last day of the login; the first ``up`` after that day removes the user from all files."""


class StorageSettings(BaseModel):
    """Location of data: a named volume (``volume``, with a default name) or a folder of the host (``host_path``)."""

    model_config = FROZEN
    volume: DockerName | None = None
    host_path: HostPath | None = None

    @model_validator(mode="after")
    def _one_place(self) -> StorageSettings:
        if self.volume and self.host_path:
            raise Conflict("either volume or host_path", {"volume": None}, {"host_path": None})
        return self


class RegistrySettings(BaseModel):
    """The private registry.

    ``drain_timeout`` is the longest time that a replaced process has to finish a push or pull. ``memory_mb`` limits
    each process. Each layer in transfer takes 4 MB, so the default serves 200 layers at once.

    ``anonymous_url`` is a second, read-only host without a login: on a shared host, clients without a login stop at the
    login challenge.
    """

    model_config = FROZEN
    url: Url
    anonymous_url: Url | None = None
    users: dict[UserName, UserSettings]
    storage: StorageSettings = StorageSettings()
    log_level: LogLevel = "info"
    drain_timeout: Duration = "5m"
    upload_purge_age: Duration = "168h"
    memory_mb: MemoryMb = 1024
    retention: RetentionSettings | None = None


class MirrorSettings(BaseModel):
    """A pull-through cache of one upstream; ``allow`` is the allow-list, because mirror clients cannot log in.

    ``url`` is the mirror's own address; None if clients reach the mirror only at ``mirror_url``. ``ca`` is the PEM text
    of the authority that signed the upstream's certificate, if that authority is not public.
    """

    model_config = FROZEN
    url: Url | None = None
    upstream: Upstream | None = None
    ca: str | None = None
    ttl: Duration = "168h"
    allow: tuple[Network, ...] = ()
    username: UpstreamLogin | None = None
    storage: StorageSettings = StorageSettings()
    log_level: LogLevel = "info"
    memory_mb: MemoryMb = 1024


class MirrorDefaults(BaseModel):
    """Values for every mirror that does not set the same key itself."""

    model_config = FROZEN
    ttl: Duration | None = None
    allow: tuple[Network, ...] | None = None


class InternalCertificates(BaseModel):
    """Certificates from the proxy's own authority, whose root is the stack output ``ca_certificate``."""

    model_config = FROZEN


class FileCertificates(BaseModel):
    """PEM files from the secret key ``certificates``."""

    model_config = FROZEN


class AcmeAccountBinding(BaseModel):
    """An existing account at the authority; the secret ``acme_eab_mac_key`` holds the MAC key of ``key_id``."""

    model_config = FROZEN
    key_id: AcmeKeyId


class AcmeCertificates(BaseModel):
    """Certificates from an ACME authority (Let's Encrypt by default); needs public names and port 80 or 443."""

    model_config = FROZEN
    email: Email
    directory: AcmeDirectory = "https://acme-v02.api.letsencrypt.org/directory"
    staging: bool = False
    """Use Let's Encrypt's staging directory: clients do not trust its certificates, and its rate limits are high."""
    root: str | None = None
    """PEM of the authority that signed the ACME server's own certificate, if that authority is not public."""
    eab: AcmeAccountBinding | None = None

    @model_validator(mode="after")
    def _one_directory(self) -> AcmeCertificates:
        if self.staging and "directory" in self.model_fields_set:
            raise Conflict(
                "either directory or staging: true (Let's Encrypt's own directory)",
                {"directory": None},
                {"staging": None},
            )
        if self.root is not None and "directory" not in self.model_fields_set:
            raise Conflict(
                "root only together with directory: with root alone, the proxy would not trust Let's Encrypt",
                {"root": None},
                *([] if self.staging else [{"directory": "https://ca.example.com/acme/directory"}]),
            )
        return self

    @property
    def directory_url(self) -> str:
        """URL of the ACME directory in use."""
        return "https://acme-staging-v02.api.letsencrypt.org/directory" if self.staging else self.directory


class CertificateSettings(BaseModel):
    """One source of certificates, or none if the operator's own proxy has the certificates."""

    model_config = FROZEN
    internal: Annotated[InternalCertificates, EMPTY_OBJECT] | None = None
    files: Annotated[FileCertificates, EMPTY_OBJECT] | None = None
    acme: AcmeCertificates | None = None

    @model_validator(mode="after")
    def _one_source(self) -> CertificateSettings:
        chosen = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise Conflict(
                "exactly one of acme: {email: …}, files: {} and internal: {}",
                *({name: None for name in chosen if name != kept} for kept in reversed(chosen)),
            )
        return self

    @property
    def source(self) -> str | None:
        """Name of the chosen source, or None."""
        return next((name for name in type(self).model_fields if getattr(self, name) is not None), None)


class ProxySettings(BaseModel):
    """The TLS proxy, the only container that publishes ports, on ``address`` of the Docker host.

    With the server ``none``, the operator runs a proxy on that host, and the services publish ports on ``address``.
    """

    model_config = FROZEN
    server: Literal["caddy", "nginx", "none"] = "caddy"
    address: Address = ANY_ADDRESS
    certificates: CertificateSettings = CertificateSettings()
    metrics_port: Port | None = None
    """Port of ``/metrics`` for Prometheus, on 127.0.0.1 of the Docker host."""
    memory_mb: MemoryMb = 256

    @property
    def services_address(self) -> str | None:
        """Address of the services' ports for the operator's own proxy; None with the stack's own proxy."""
        return self.address if self.server == "none" else None

    @property
    def is_loopback(self) -> bool:
        """Whether only the Docker host itself can reach the proxy."""
        return ipaddress.ip_address(self.address).is_loopback


class ImageSettings(BaseModel):
    """Images of all containers; versions are set only here."""

    model_config = FROZEN
    registry: RegistryImage = "registry:3.1.2"
    caddy: CaddyImage = "caddy:2.11.7-alpine"
    nginx: NginxImage = "nginx:1.31.3-alpine"


#: Dangerous choices and their consequences. A preview refuses a choice unless ``acknowledge`` names it.
DANGERS = {
    "open_mirror": "anyone who can reach the proxy can pull through the mirror, use up its quota and fill its disk",
    "open_upstream_login": "anyone who can reach the proxy can read every repository that the upstream login can read",
    "anonymous_pull": "anyone who can reach the proxy can then list and pull every image without a login",
    "routed_loopback": "an older engine lets a host that routes to a container's address bypass your proxy",
}
Danger = Literal["open_mirror", "open_upstream_login", "anonymous_pull", "routed_loopback"]


class Settings(BaseModel):
    """The operator's choices for one stack."""

    model_config = FROZEN
    docker_host: DockerHost
    registry: RegistrySettings
    proxy: ProxySettings
    mirrors: dict[UpstreamName, MirrorSettings] = {}
    """With the values of ``mirror_defaults``: ``loading.py`` applies them."""
    mirror_defaults: MirrorDefaults | None = None
    mirror_url: Url | None = None
    """One address for all mirrors: clients name the upstream in the query (``?ns=ghcr.io``)."""
    http_proxy: HttpProxy | None = None
    """Proxy through which mirrors reach their upstreams, and the proxy with ACME its authority."""
    no_proxy: tuple[NoProxy, ...] = ()
    """Hosts that they reach without ``http_proxy``."""
    images: ImageSettings = ImageSettings()
    name_prefix: DockerName = "registry-stack"
    protect_data: bool = True
    acknowledge: Annotated[frozenset[Danger], PlainSerializer(sorted)] = frozenset()


class CertificatePair(BaseModel):
    """A certificate chain, leaf first, and its private key, both PEM."""

    model_config = FROZEN
    certificate: SecretStr
    private_key: SecretStr


class Secrets(BaseModel):
    """Values that exist only encrypted in the stack file, and in files on the Docker host."""

    model_config = FROZEN
    stack_secret: StackSecret
    passwords: dict[str, SecretStr] = {}
    upstream_passwords: dict[str, SecretStr] = {}
    certificates: dict[str, CertificatePair] = {}
    acme_eab_mac_key: SecretStr = SecretStr("")


def processes(registry: RegistrySettings) -> tuple[Process, ...]:
    """Return the registry processes: one for each right, and one without a login if ``anonymous_url`` is set."""
    return (*ROLES_OF, "public") if registry.anonymous_url else tuple(ROLES_OF)


def without_expired(settings: Settings, today: datetime.date) -> Settings:
    """Return the settings without users whose last day has passed."""
    users = settings.registry.users
    valid = {name: user for name, user in users.items() if user.expires is None or user.expires >= today}
    return settings.model_copy(update={"registry": settings.registry.model_copy(update={"users": valid})})


def with_defaults(mirror: MirrorSettings, defaults: MirrorDefaults) -> MirrorSettings:
    """Return the mirror with the default of each key that the operator did not set for this mirror."""
    given = {key: value for key, value in defaults if value is not None}
    return mirror.model_copy(update={key: given[key] for key in given.keys() - mirror.model_fields_set})


def upstream_url(name: str, mirror: MirrorSettings) -> str:
    """Return the API origin of a mirror's upstream, which checked settings always have."""
    return mirror.upstream or KNOWN_UPSTREAMS[name]
