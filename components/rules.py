"""Rules that join sections of the configuration: users and passwords, mirrors and exposure, names and certificates."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components import certificates, credentials
from components.problem import (
    Problem,
    certificate_command,
    missing,
    path,
    remove_command,
    secret_command,
    set_command,
)
from components.render.proxy import HEALTH_PORT, certificate_name, endpoints, hosts, mirror_alias
from components.render.registry import mirror_port
from components.settings import (
    DANGERS,
    KNOWN_UPSTREAMS,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Secrets,
    Settings,
    volume_names,
)


@dataclass(frozen=True)
class Draft:
    """What could be read so far; the rules that join sections look at it even if another section is broken."""

    users: Mapping[str, object]
    registry: RegistrySettings | None
    proxy: ProxySettings | None
    mirrors: Mapping[str, MirrorSettings]
    acknowledge: frozenset[str]
    secrets: Secrets


def _user_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.passwords
    if draft.registry is not None and not draft.users:
        yield Problem(
            "registry.users",
            "nobody",
            "at least one user, since without one nobody can push or pull",
            set_command("registry.users.ci.role", "push"),
        )
    for user in draft.users:
        if user not in passwords:
            yield Problem(
                path("passwords", user),
                "nothing, although registry.users names the user",
                "a generated password, or one of 12 characters and more that cannot be guessed, or a bcrypt hash",
                f"openssl rand -hex 16 | {secret_command('passwords', user)}",
            )
        elif weakness := credentials.weakness(user, passwords[user]):
            yield Problem(
                path("passwords", user),
                f"a password that {weakness}",
                "12 characters and more that cannot be guessed, at most 72 bytes; best a generated one",
                f"openssl rand -hex 16 | {secret_command('passwords', user)}",
            )
    for user in sorted(passwords.keys() - draft.users.keys()):
        yield Problem(
            path("passwords", user),
            "a password of a user that registry.users does not name",
            f"passwords of {', '.join(draft.users) or 'nobody'}",
            f"{set_command(path('registry', 'users', user, 'role'), 'pull')}, or {remove_command('passwords', user)}",
        )


def _upstream_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.upstream_passwords
    for name, mirror in draft.mirrors.items():
        if mirror.upstream is None and name not in KNOWN_UPSTREAMS:
            yield Problem(
                path("mirrors", name, "upstream"),
                "nothing",
                f"the URL of its API; it is known without for {', '.join(KNOWN_UPSTREAMS)}",
                set_command(path("mirrors", name, "upstream"), f"https://{name}"),
            )
        if mirror.username is not None and name not in passwords:
            yield Problem(
                path("upstream_passwords", name),
                f"nothing, although {path('mirrors', name)} has a username",
                "the password or access token of that login",
                secret_command("upstream_passwords", name),
            )
        if mirror.username is not None and (mirror.upstream or "").startswith("http://"):
            yield Problem(
                path("mirrors", name, "upstream"),
                f"{mirror.upstream}, with a login",
                "an https:// URL, since the login would travel in the clear",
                set_command(path("mirrors", name, "upstream"), f"https://{name}"),
            )
    for name in passwords:
        if name not in draft.mirrors or draft.mirrors[name].username is None:
            yield Problem(
                path("upstream_passwords", name),
                "a password without a mirror that has a username",
                "passwords of mirrors with a username",
                f"{set_command(path('mirrors', name, 'username'), 'NAME')}"
                f", or {remove_command('upstream_passwords', name)}",
            )


def _proxy_problems(draft: Draft) -> Iterator[Problem]:
    """What belongs to an engine of the stack's own, and what to the operator's."""
    if draft.proxy is None:
        return
    source = draft.proxy.certificates.source
    if draft.proxy.engine != "none":
        if source is None:
            yield missing("proxy", "certificates")
        if draft.proxy.metrics_port in (80, HEALTH_PORT):
            yield Problem(
                "proxy.metrics_port",
                str(draft.proxy.metrics_port),
                f"any port but 80 and {HEALTH_PORT}, where challenges and the health check are answered",
                set_command("proxy.metrics_port", "9180"),
            )
        return
    if source is not None:
        yield Problem(
            f"proxy.certificates.{source}",
            "a source of certificates, with proxy.engine none",
            "none, since your own proxy has the certificates",
            f"{remove_command('proxy', 'certificates')}, or {set_command('proxy.engine', 'caddy')}",
        )
    if draft.proxy.metrics_port is not None:
        yield Problem(
            "proxy.metrics_port",
            f"{draft.proxy.metrics_port}, with proxy.engine none",
            "none, since there is no proxy of the stack's own to measure",
            remove_command("proxy", "metrics_port"),
        )
    if not draft.proxy.is_loopback:
        yield Problem(
            "proxy.address",
            f"{draft.proxy.address}, with proxy.engine none",
            "a loopback address, where your own proxy reaches the services and nobody reaches them without TLS",
            set_command("proxy.address", "127.0.0.1"),
        )


def _exposure_problems(draft: Draft) -> Iterator[Problem]:
    # Where the services are on loopback, the operator's own proxy publishes them.
    if draft.proxy is None or (draft.proxy.is_loopback and draft.proxy.engine != "none"):
        return
    if draft.registry and draft.registry.anonymous_url and "anonymous_pull" not in draft.acknowledge:
        yield Problem(
            "registry.anonymous_url",
            str(draft.registry.anonymous_url),
            f"no such host, or a word that it is wanted: {DANGERS['anonymous_pull']}",
            f"{remove_command('registry', 'anonymous_url')}, or {set_command('acknowledge[0]', 'anonymous_pull')}",
        )
    for name, mirror in draft.mirrors.items():
        danger = "open_mirror" if mirror.username is None else "open_upstream_login"
        is_open = not mirror.allow or any(network.endswith("/0") for network in mirror.allow)
        if is_open and danger not in draft.acknowledge:
            yield Problem(
                path("mirrors", name, "allow"),
                "no allow-list" if not mirror.allow else f"{', '.join(mirror.allow)}, which is every address",
                f"the address ranges that may pull; otherwise {DANGERS[danger]}",
                f"{set_command(path('mirrors', name, 'allow') + '[0]', '10.0.0.0/8')}"
                f", or {set_command('acknowledge[0]', danger)} if that is wanted",
            )


def _nginx_problems(draft: Draft) -> Iterator[Problem]:
    """What Caddy does and nginx does not."""
    if draft.proxy is None or draft.proxy.engine != "nginx":
        return
    for key, url in endpoints(draft.registry, draft.mirrors).items():
        if url.is_address:
            yield Problem(
                key,
                f"{url}, with proxy.engine nginx",
                "a name, since clients of an address name no host in TLS, and nginx tells hosts apart by it",
                f"{set_command(key, 'https://registry.example.com')}, or {set_command('proxy.engine', 'caddy')}",
            )


def _endpoint_problems(draft: Draft) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for key, url in endpoints(draft.registry, draft.mirrors).items():
        if (other := seen.setdefault(url.netloc, key)) != key:
            yield Problem(
                key,
                f"{url}, which is also {other}",
                "a host or port of its own for each service",
                set_command(key, f"https://mirror.{url.host}"),
            )
        if draft.proxy and url.port in (HEALTH_PORT, draft.proxy.metrics_port):
            yield Problem(
                key,
                str(url),
                f"any port but {url.port}, where the proxy's health check or its metrics are",
                set_command(key, f"https://{url.host}"),
            )
        if draft.proxy and draft.proxy.certificates.acme and not url.is_public_name:
            yield Problem(
                key,
                f"{url}, with proxy.certificates.acme",
                "a public DNS name, since no authority certifies another",
                set_command(key, "https://registry.example.com"),
            )
    for made, of_it in (("container would be called", mirror_alias), ("port would be", mirror_port)):
        times = Counter(of_it(name) for name in draft.mirrors)
        for name in draft.mirrors:
            if times[of_it(name)] > 1:
                yield Problem(
                    path("mirrors", name),
                    f"a name whose {made} {of_it(name)}, like another's",
                    "names that give each mirror one of its own",
                    remove_command("mirrors", name),
                )


def _acme_problems(draft: Draft) -> Iterator[Problem]:
    if draft.proxy is None:
        return
    acme, mac_key = draft.proxy.certificates.acme, draft.secrets.acme_eab_mac_key.get_secret_value()
    eab = acme.eab if acme else None
    if acme and acme.root is not None and (fault := certificates.root_fault(acme.root)):
        yield Problem(
            "proxy.certificates.acme.root",
            fault,
            "PEM text of the authority that signs the certificate of the ACME server itself; it is public",
            set_command("proxy.certificates.acme.root", "< root.pem"),
        )
    # A last character of its own (4n + 1) encodes nothing, and would be found when the first certificate is due.
    if eab and (not re.fullmatch(r"[A-Za-z0-9_-]{16,}", mac_key) or len(mac_key) % 4 == 1):
        yield Problem(
            "acme_eab_mac_key",
            "a value that is not shown" if mac_key else "nothing, although proxy.certificates.acme.eab names a key",
            f"the MAC key that the authority gave together with {eab.key_id}: whole base64url, without = at its end",
            secret_command("acme_eab_mac_key"),
        )
    if mac_key and not eab:
        yield Problem(
            "acme_eab_mac_key",
            "a MAC key that nothing uses",
            "one only with proxy.certificates: {acme: {eab: {key_id: …}}}",
            f"{set_command('proxy.certificates.acme.eab.key_id', 'KEY_ID')}, or {remove_command('acme_eab_mac_key')}",
        )


RULES = (
    _user_problems,
    _upstream_problems,
    _proxy_problems,
    _exposure_problems,
    _endpoint_problems,
    _acme_problems,
    _nginx_problems,
)


def volume_problems(settings: Settings) -> list[Problem]:
    """Data volumes that would share a name with another or with one of the stack's own."""
    prefix, volumes = settings.name_prefix, volume_names(settings)
    own = {f"{prefix}-registry-config", f"{prefix}-registry-secrets", f"{prefix}-proxy-data"}
    taken = Counter([*volumes.values(), *own])
    return [
        Problem(f"{key}.volume", volume, "a volume that nothing else uses", set_command(f"{key}.volume", f"{volume}-2"))
        for key, volume in volumes.items()
        if taken[volume] > 1
    ]


def certificate_problems(settings: Settings, secrets: Secrets, now: datetime.datetime) -> Iterator[Problem]:
    """Certificates given as files that are missing, unusable at ``now`` or unused."""
    given = secrets.certificates
    if not settings.proxy.certificates.files:
        for name in given:
            yield Problem(
                path("certificates", name),
                "a certificate that nothing uses",
                "certificates only with proxy.certificates: {files: {}}",
                remove_command("certificates", name),
            )
        return
    for host in hosts(settings):
        certificate = certificate_name(host, tuple(given))
        if certificate is None:
            yield Problem(
                path("certificates", host),
                "nothing",
                "its certificate chain and private key, or those of its wildcard",
                certificate_command(host),
            )
        elif fault := certificates.fault(given[certificate], host, now):
            yield Problem(
                path("certificates", certificate),
                fault,
                "PEM text: the chain with the leaf first, in force, covering its hosts, and the key that fits it:"
                " RSA of 2048 bits and more, P-256, P-384, P-521 or Ed25519",
                certificate_command(certificate),
            )
