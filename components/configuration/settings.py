"""What an operator can choose: frozen models of the stack's configuration, with every default.

A field is spelled like its key in ``Pulumi.<stack>.yaml``; ``config.py`` reads the values and reports every problem.
The text of a ``ValueError`` raised here says what is *allowed*, and never repeats the value; the report adds the key,
what was found and the commands that fix it.
"""

from __future__ import annotations

import datetime
import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from components.configuration.fields import (
    ANY_ADDRESS,
    EMPTY_OBJECT,
    AcmeDirectory,
    AcmeKeyId,
    Address,
    CaddyImage,
    Conflict,
    DockerHost,
    DockerName,
    Duration,
    Email,
    HostPath,
    LastDay,
    LogLevel,
    MemoryMb,
    Network,
    NginxImage,
    Port,
    RegistryImage,
    StackSecret,
    Upstream,
    UpstreamLogin,
    UpstreamName,
    Url,
    UserName,
)

FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

Role = Literal["pull", "push", "admin"]
Process = Literal["reader", "writer", "admin", "public"]

#: The right that a registry process with a login exercises, as the roles whose users stand in its htpasswd; the one
#: without a login, ``public``, reads.
ROLES_OF: dict[Process, tuple[Role, ...]] = {
    "reader": ("pull", "push", "admin"),
    "writer": ("push", "admin"),
    "admin": ("admin",),
}


#: API origins of well-known registries, where they are not ``https://NAME`` (docker.io) and where they are.
KNOWN_UPSTREAMS = {
    "docker.io": "https://registry-1.docker.io",
    "gcr.io": "https://gcr.io",
    "ghcr.io": "https://ghcr.io",
    "mcr.microsoft.com": "https://mcr.microsoft.com",
    "public.ecr.aws": "https://public.ecr.aws",
    "quay.io": "https://quay.io",
    "registry.gitlab.com": "https://registry.gitlab.com",
    "registry.k8s.io": "https://registry.k8s.io",
}


class UserSettings(BaseModel):
    """A person or machine that logs in to the private registry."""

    model_config = FROZEN
    role: Role = "pull"
    expires: LastDay | None = None
    """Last day of the login; the first ``up`` after it removes the user from all files."""


class StorageSettings(BaseModel):
    """Where data lies: a named volume (``volume``, with a default name) or a folder of the host (``host_path``)."""

    model_config = FROZEN
    volume: DockerName | None = None
    host_path: HostPath | None = None

    @model_validator(mode="after")
    def _one_place(self) -> StorageSettings:
        if self.volume and self.host_path:
            raise Conflict("either volume or host_path", {"volume": None}, {"host_path": None})
        return self


class RegistrySettings(BaseModel):
    """The private registry. ``drain_timeout`` is the longest push or pull that a replacement lets finish.

    ``memory_mb`` limits each process; a layer under way takes 4 MB of it, so that the default serves 200 at once.

    ``anonymous_url`` is a second, read-only host without a login: on one host, clients stop at the challenge.
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


class MirrorSettings(BaseModel):
    """A pull-through cache of one upstream. ``allow`` names who may pull: mirror clients cannot log in."""

    model_config = FROZEN
    url: Url
    upstream: Upstream | None = None
    ttl: Duration = "168h"
    allow: tuple[Network, ...] = ()
    username: UpstreamLogin | None = None
    storage: StorageSettings = StorageSettings()
    log_level: LogLevel = "info"
    memory_mb: MemoryMb = 1024


class InternalCertificates(BaseModel):
    """Certificates from the proxy's own authority, whose root is the stack output ``ca_certificate``."""

    model_config = FROZEN


class FileCertificates(BaseModel):
    """PEM files from the secret key ``certificates``."""

    model_config = FROZEN


class AcmeAccountBinding(BaseModel):
    """An account that exists at the authority; the MAC key of ``key_id`` is the secret key ``acme_eab_mac_key``."""

    model_config = FROZEN
    key_id: AcmeKeyId


class AcmeCertificates(BaseModel):
    """Certificates from an ACME authority (Let's Encrypt by default); needs public names and port 80 or 443."""

    model_config = FROZEN
    email: Email
    directory: AcmeDirectory = "https://acme-v02.api.letsencrypt.org/directory"
    staging: bool = False
    """Let's Encrypt's staging directory, whose certificates nobody trusts and whose limits nobody reaches."""
    root: str | None = None
    """PEM of the authority that signs the certificate of the ACME server itself, where the world does not know it."""
    eab: AcmeAccountBinding | None = None

    @model_validator(mode="after")
    def _one_directory(self) -> AcmeCertificates:
        if self.staging and "directory" in self.model_fields_set:
            raise Conflict(
                "either directory or staging: true, which is Let's Encrypt's", {"directory": None}, {"staging": None}
            )
        if self.root is not None and "directory" not in self.model_fields_set:
            raise Conflict(
                "root only together with directory: the proxy would no longer trust Let's Encrypt",
                {"root": None},
                *([] if self.staging else [{"directory": "https://ca.example.com/acme/directory"}]),
            )
        return self

    @property
    def directory_url(self) -> str:
        """Where the authority is asked."""
        return "https://acme-staging-v02.api.letsencrypt.org/directory" if self.staging else self.directory


class CertificateSettings(BaseModel):
    """One source of certificates; none where the operator's own proxy has them."""

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
        """Which of them was chosen."""
        return next((name for name in type(self).model_fields if getattr(self, name) is not None), None)


class ProxySettings(BaseModel):
    """The TLS proxy, the only container that publishes ports. ``address`` is where on the Docker host.

    With the server ``none`` the operator has a proxy on that host, and the services publish theirs on ``address``.
    """

    model_config = FROZEN
    server: Literal["caddy", "nginx", "none"] = "caddy"
    address: Address = ANY_ADDRESS
    certificates: CertificateSettings = CertificateSettings()
    metrics_port: Port | None = None
    """Where Prometheus finds ``/metrics``, on 127.0.0.1 of the Docker host."""
    memory_mb: MemoryMb = 256

    @property
    def services_address(self) -> str | None:
        """Where the services publish their ports for the operator's own proxy; None with a proxy of the stack's own."""
        return self.address if self.server == "none" else None

    @property
    def is_loopback(self) -> bool:
        """Whether only the Docker host itself can reach the proxy."""
        return ipaddress.ip_address(self.address).is_loopback


class ImageSettings(BaseModel):
    """The images that run; the one place where versions stand."""

    model_config = FROZEN
    registry: RegistryImage = "registry:3.1.2"
    caddy: CaddyImage = "caddy:2.11.7-alpine"
    nginx: NginxImage = "nginx:1.31.3-alpine"


#: Choices that expose something and are refused unless ``acknowledge`` names them, with what they expose.
DANGERS = {
    "open_mirror": "anyone who can reach the proxy can pull through the mirror, use up its quota and fill its disk",
    "open_upstream_login": "anyone who can reach the proxy can read every repository that the upstream login can read",
    "anonymous_pull": "anyone who can reach the proxy can then list and pull every image without a login",
    "routed_loopback": "an older one lets in, past your proxy, whoever routes to a container's address",
}
Danger = Literal["open_mirror", "open_upstream_login", "anonymous_pull", "routed_loopback"]


class Settings(BaseModel):
    """The operator's choices for one stack."""

    model_config = FROZEN
    docker_host: DockerHost
    registry: RegistrySettings
    proxy: ProxySettings
    mirrors: dict[UpstreamName, MirrorSettings] = {}
    images: ImageSettings = ImageSettings()
    name_prefix: DockerName = "registry-stack"
    protect_data: bool = True
    acknowledge: frozenset[Danger] = frozenset()


class CertificatePair(BaseModel):
    """A certificate chain, leaf first, and its private key, both PEM."""

    model_config = FROZEN
    certificate: SecretStr
    private_key: SecretStr


class Secrets(BaseModel):
    """Values that exist only encrypted in the stack file and inside files on the Docker host."""

    model_config = FROZEN
    stack_secret: StackSecret
    passwords: dict[str, SecretStr] = {}
    upstream_passwords: dict[str, SecretStr] = {}
    certificates: dict[str, CertificatePair] = {}
    acme_eab_mac_key: SecretStr = SecretStr("")


def processes(registry: RegistrySettings) -> tuple[Process, ...]:
    """The processes that the private registry runs as: one for each right, and one without a login if wanted."""
    return (*ROLES_OF, "public") if registry.anonymous_url else tuple(ROLES_OF)


def without_expired(settings: Settings, today: datetime.date) -> Settings:
    """The settings without the users whose last day is past."""
    users = settings.registry.users
    valid = {name: user for name, user in users.items() if user.expires is None or user.expires >= today}
    return settings.model_copy(update={"registry": settings.registry.model_copy(update={"users": valid})})


def upstream_url(name: str, mirror: MirrorSettings) -> str:
    """API origin of a mirror's upstream; the settings were checked to have one."""
    return mirror.upstream or KNOWN_UPSTREAMS[name]
