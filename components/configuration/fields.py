"""Types of the configuration values: the syntax of each type, and the text that describes its allowed values.

The text of a ``ValueError`` raised here describes the *allowed* values, and never repeats the refused value. The report
adds the key, the value found and the commands that fix the problem.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, PlainSerializer, SecretStr

#: Configuration of every model of settings: a typo is an error, and no error shows a value.
FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
#: User of the stack's own operations; its password derives from ``stack_secret``.
OPERATIONS_USER = "operations"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - clients must reach the proxy
_HOST = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
#: Folders of the system and of Docker. A data folder must not lie in one of these folders, nor contain such a folder.
SYSTEM_FOLDERS = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys"),
    *(f"/usr/{name}" for name in ("bin", "include", "lib", "lib32", "lib64", "libexec", "sbin", "share", "src")),
    *("/var/lib/containerd", "/var/lib/docker", "/var/log", "/var/run", "/var/spool", "/root/.ssh"),
)


@dataclass(frozen=True)
class Endpoint:
    """Origin under which clients reach a service, e.g. ``https://registry.example.com`` or ``https://localhost:5443``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"https://{self.netloc}"

    @property
    def netloc(self) -> str:
        """Registry part of an image name: ``host`` or ``host:port``."""
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    @property
    def is_public_name(self) -> bool:
        """Whether a public authority can issue a certificate for the host: a DNS name with a dot, not an address."""
        return "." in self.host and not self.is_address

    @property
    def is_address(self) -> bool:
        """Whether the host is an IPv4 address; IPv6 is not accepted."""
        return re.fullmatch(r"[0-9.]+", self.host) is not None


class Conflict(ValueError):
    """Settings that exclude each other.

    Each of ``fixes`` is a change that resolves the conflict: new values by key, None for a key to remove.
    """

    def __init__(self, allowed: str, *fixes: Mapping[str, str | None]) -> None:
        super().__init__(allowed)
        self.fixes = fixes


def is_origin(host: str, port: str | None = None) -> bool:
    """Whether clients can connect to ``host`` at ``port``; ``host`` matches ``_HOST``: a name or an IPv4 address."""
    if port is not None and not 0 < int(port) < 65536:
        return False
    if not host.rpartition(".")[2].isdecimal():
        return True
    try:
        return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):  # parsed before, as the value of a top-level key
        return value
    match = re.fullmatch(rf"https://({_HOST})(?::([0-9]{{1,5}}))?/?", value) if isinstance(value, str) else None
    if not match or not is_origin(match[1], match[2]):
        raise ValueError(
            "a lower-case https:// URL without a path, like https://registry.example.com or https://localhost:5443"
        )
    return Endpoint(match[1], int(match[2] or 443))


def _duration(value: str) -> str:
    if not value or not _DURATION.fullmatch(value):
        raise ValueError("a Go duration in hours, minutes and seconds, like 168h, 30m or 1h30m")
    return value


def seconds(duration: str) -> int:
    """Convert an accepted duration to seconds."""
    match = _DURATION.fullmatch(duration)
    assert match is not None
    hours, minutes, secs = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + secs


def _network(value: str) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError:
        raise ValueError(
            "an IPv4 address range in CIDR notation without host bits, like 10.0.0.0/8. IPv6 is not supported: all IPv6"
            " clients would have the address of Docker's bridge, so the list would allow all of them or none"
        ) from None


def _origin(allowed: str) -> BeforeValidator:
    """Check texts for the origin of a server: a URL without path, trailing slash and login."""

    def check(value: str) -> str:
        match = re.fullmatch(rf"https?://({_HOST})(?::([0-9]{{1,5}}))?", value)
        if not match or not is_origin(match[1], match[2]):
            raise ValueError(allowed)
        return value

    return text(check)


def _no_proxy(value: str) -> str:
    match = re.fullmatch(rf"\.?({_HOST})(?::([0-9]{{1,5}}))?", value)
    try:
        return value if match and is_origin(match[1], match[2]) else str(ipaddress.IPv4Network(value))
    except ValueError:
        raise ValueError("a host, a domain with all its hosts, or an IPv4 address range, like 10.0.0.0/8") from None


def _docker_host(value: str) -> str:
    is_one = re.fullmatch(
        rf"unix:///[\w./-]+|ssh://(?:{_WORD}@)?{_WORD}(?::[0-9]{{1,5}})?|tcp://(?:localhost|127\.[0-9.]+):[0-9]{{1,5}}",
        value,
    )
    port = re.search(r":(\d+)$", value)
    if not is_one or (port and not is_origin("localhost", port[1])):
        raise ValueError(
            "unix:///path/to/docker.sock or ssh://user@host[:port]; tcp:// only with a loopback address,"
            " because the Docker API without TLS gives root access to every client"
        )
    return value


def _date(value: object) -> object:
    # YAML has a date type, and Pulumi passes such a date as midnight of that day.
    match = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T00:00:00Z)?", value) if isinstance(value, str) else None
    try:
        return datetime.date.fromisoformat(match[1] if match else "")
    except ValueError:
        raise ValueError("a date like 2027-01-31") from None


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(
            "an IPv4 address of the Docker host: 0.0.0.0 for all clients, 127.0.0.1 for clients on the host"
        ) from None


def _user_name(value: str) -> str:
    if not _USER.fullmatch(value) or value == OPERATIONS_USER:
        raise ValueError(
            "1 to 64 letters, digits or . _ @ -, starting with a letter or digit."
            f" The name {OPERATIONS_USER} is reserved for the stack"
        )
    return value


def _upstream_name(value: str) -> str:
    match = re.fullmatch(rf"({_HOST})(?::([0-9]{{1,5}}))?", value)
    if not match or not is_origin(match[1], match[2]):
        raise ValueError("the name of a registry as in image names, like ghcr.io")
    return value


def _object_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("a Docker name: 1 to 64 letters, digits or . _ -, starting with a letter or digit")
    return value


def _host_path(value: str) -> str:
    parts = [part for part in value.split("/") if part not in ("", ".")]
    folder = "/" + "/".join(parts)
    if not re.fullmatch(r"/[\w./-]+", value) or ".." in parts or is_system_folder(folder):
        raise ValueError(
            "an absolute folder of the Docker host that contains no other data, like /opt/registry/data. The folder"
            " cannot be /, or a folder of the system or of Docker"
        )
    return folder


def is_system_folder(folder: str) -> bool:
    """Whether a folder, absolute and without ``.`` and ``..``, is in a system folder or contains a system folder."""
    return any(lies_in(folder, one) or lies_in(one, folder) for one in SYSTEM_FOLDERS)


def lies_in(folder: str, other: str) -> bool:
    """Whether an absolute folder is the ``other`` folder or lies in that folder."""
    return f"{folder}/".startswith(f"{other.rstrip('/')}/")


def _email(value: str) -> str:
    match = re.fullmatch(
        rf"[A-Za-z0-9][\w.!#$%&'*+/=?^|~-]{{0,63}}@({_HOST}\.{_HOST})", value, re.ASCII | re.IGNORECASE
    )
    if not match or not is_origin(match[1]):
        raise ValueError("an e-mail address, like ops@example.com")
    return value


def _directory(value: str) -> str:
    match = re.fullmatch(rf"https://({_HOST})(?::(\d{{1,5}}))?(?:/[\w.:~/-]*)?", value, re.ASCII | re.IGNORECASE)
    if not match or not is_origin(match[1], match[2]):
        raise ValueError("the https:// URL of an ACME directory, like https://ca.example.com/acme/directory")
    return value


def _key_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:/+=-]{1,255}", value):
        raise ValueError("the key ID from the certificate authority: 1 to 255 letters, digits or _ . : / + = -")
    return value


def _login(value: str) -> str:
    if not 0 < len(value) <= 255:
        raise ValueError("a user name at the upstream, 1 to 255 characters")
    return value


def text(check: Callable[[str], str]) -> BeforeValidator:
    """Check texts with ``check``; values of other types fail with the same error text."""
    return BeforeValidator(lambda value: check(value if isinstance(value, str) else ""))


def whole(lowest: int, highest: int) -> BeforeValidator:
    """Accept whole numbers between two limits, also as texts."""

    def check(value: object) -> int:
        match = re.fullmatch(r"([0-9]{1,9})(?:\.0)?", str(value))
        if not match or not lowest <= int(match[1]) <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return int(match[1])

    return BeforeValidator(check)


def _empty(value: object) -> object:
    # `pulumi config set` can only set texts, so the text {} counts as an object without keys.
    return {} if value == "{}" else value


def _hexadecimal(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[0-9a-fA-F]{64,}", value.get_secret_value()):
        raise ValueError("at least 64 hexadecimal digits (32 random bytes)")
    return value


Url = Annotated[Endpoint, BeforeValidator(_endpoint), PlainSerializer(str)]
Duration = Annotated[str, text(_duration)]
Network = Annotated[str, text(_network)]
DockerName = Annotated[str, text(_object_name)]
UserName = Annotated[str, text(_user_name)]
UpstreamName = Annotated[str, text(_upstream_name)]
LogLevel = Literal["error", "warn", "info", "debug"]
MemoryMb = Annotated[int, whole(64, 65536)]
HostPath = Annotated[str, AfterValidator(_host_path)]
DockerHost = Annotated[str, AfterValidator(_docker_host)]
Address = Annotated[str, text(_address)]
Port = Annotated[int, whole(1, 65535)]
LastDay = Annotated[datetime.date, BeforeValidator(_date)]
Upstream = Annotated[
    str,
    _origin(
        "the origin of a registry without path, trailing slash or login, like https://registry.example.org. Set a login"
        " with `username` and `upstream_passwords`"
    ),
]
HttpProxy = Annotated[
    str,
    _origin(
        "the URL of an HTTP proxy without path and login, like http://proxy.example.com:3128. Everyone who can read the"
        " stack file could read a login: let the proxy accept the address of the Docker host"
    ),
]
NoProxy = Annotated[str, text(_no_proxy)]
UpstreamLogin = Annotated[str, text(_login)]
Email = Annotated[str, text(_email)]
AcmeDirectory = Annotated[str, text(_directory)]
AcmeKeyId = Annotated[str, text(_key_id)]
StackSecret = Annotated[SecretStr, AfterValidator(_hexadecimal)]
#: Accepts the text `{}` as an object without keys, because `pulumi config set` can only set texts.
EMPTY_OBJECT = BeforeValidator(_empty)
