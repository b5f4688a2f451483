"""Rules that join sections of the configuration: users and passwords, mirrors and exposure, names and certificates."""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from components import certificates, credentials
from components.fixes import mirror_url, missing
from components.problem import (
    Problem,
    certificate_command,
    extract_hash_command,
    file_command,
    list_command,
    new_secret_command,
    path,
    remove_command,
    set_command,
)
from components.render.proxy import HEALTH_PORT, certificate_name, endpoints, hosts, mirror_alias
from components.render.registry import mirror_port
from components.settings import (
    DANGERS,
    KNOWN_UPSTREAMS,
    Danger,
    Endpoint,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Secrets,
    Settings,
    UserName,
    data_stores,
    lies_in,
)

_ALLOWED_PASSWORD = (
    f"a generated password, or one that 10^{math.log10(credentials.GUESSES):.0f} tries do not find, of at most"
    f" {credentials.LONGEST_PASSWORD_BYTES} bytes; or a bcrypt hash alone, of cost {credentials.COST}"
)

#: Loopback, link-local addresses, RFC 1918 and the addresses of carriers' NAT (RFC 6598), which Tailscale uses.
_PRIVATE_NETWORKS = [
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
]


@dataclass(frozen=True)
class Draft:
    """What could be read so far; the rules that join sections look at it even if another section is broken.

    ``users`` is None where it is no object; ``acknowledged`` is the number of words in ``acknowledge``, None where that
    is broken; ``unreadable`` has the paths of mirrors and secrets that are given, but cannot be used.
    """

    users: Mapping[str, object] | None
    registry: RegistrySettings | None
    proxy: ProxySettings | None
    mirrors: Mapping[str, MirrorSettings]
    unreadable: frozenset[tuple[str, ...]]
    acknowledge: frozenset[str]
    acknowledged: int | None
    name_prefix: str
    secrets: Secrets

    def is_unreadable(self, key: str, name: str) -> bool:
        """Whether ``name`` may be given under ``key``, but was refused there already."""
        return not self.unreadable.isdisjoint({(key,), (key, name)})


def _user_problems(draft: Draft) -> Iterator[Problem]:
    passwords = draft.secrets.passwords
    if draft.users is None:
        return
    if draft.registry is not None and not draft.users:
        yield Problem(
            "registry.users",
            "nobody",
            "at least one user, since without one nobody can push or pull",
            set_command("registry.users.ci.role", "push"),
        )
    for user in draft.users:
        if draft.is_unreadable("passwords", user):
            continue
        if user not in passwords:
            yield Problem(
                path("passwords", user),
                "nothing, although registry.users names the user",
                _ALLOWED_PASSWORD,
                new_secret_command("passwords", user),
            )
        elif weakness := credentials.weakness(user, passwords[user]):
            generated = new_secret_command("passwords", user)
            extracted = extract_hash_command("passwords", user) if credentials.holds_hash(passwords[user]) else None
            yield Problem(
                path("passwords", user),
                f"a password that {weakness}",
                _ALLOWED_PASSWORD,
                extracted or generated,
                (generated,) if extracted else (),
            )
    for user in sorted(passwords.keys() - draft.users.keys()):
        remove = remove_command("passwords", user)
        add = set_command(path("registry", "users", user, "role"), "pull")
        yield Problem(
            path("passwords", user),
            "a password of a user that registry.users does not name",
            "passwords of the users in registry.users",
            *((add, (remove,)) if _is_user_name(user) else (remove,)),
        )


def _is_user_name(name: str) -> bool:
    try:
        TypeAdapter(UserName).validate_python(name)
    except ValidationError:
        return False
    return True


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
        has_password = name in passwords or draft.is_unreadable("upstream_passwords", name)
        if mirror.username is not None and not has_password:
            yield Problem(
                path("upstream_passwords", name),
                f"nothing, although {path('mirrors', name)} has a username",
                "the password or access token of that login, here from the file token.txt",
                new_secret_command("upstream_passwords", name),
            )
        if mirror.username is not None and (mirror.upstream or "").startswith("http://"):
            yield Problem(
                path("mirrors", name, "upstream"),
                f"{mirror.upstream}, with a login",
                "an https:// URL: over http:// everybody on the way reads the login",
                set_command(
                    path("mirrors", name, "upstream"), f"https://{str(mirror.upstream).removeprefix('http://')}"
                ),
            )
    for name in passwords:
        is_used = name in draft.mirrors and draft.mirrors[name].username is not None
        if not is_used and not draft.is_unreadable("mirrors", name):
            remove = remove_command("upstream_passwords", name)
            add = set_command(path("mirrors", name, "username"), "robot")
            yield Problem(
                path("upstream_passwords", name),
                "a password without a mirror that has a username",
                "passwords of mirrors with a username",
                *((add, (remove,)) if name in draft.mirrors else (remove,)),
            )


def _proxy_problems(draft: Draft) -> Iterator[Problem]:
    """What belongs to the stack's own proxy, and what to the operator's."""
    if draft.proxy is None:
        return
    source = draft.proxy.certificates.source
    if draft.proxy.server != "none":
        if source is None:
            yield missing("proxy", "certificates")
        if draft.proxy.metrics_port in (80, HEALTH_PORT):
            yield Problem(
                "proxy.metrics_port",
                str(draft.proxy.metrics_port),
                f"any port but 80 and {HEALTH_PORT}, where challenges and the health check are answered",
                set_command("proxy.metrics_port", str(_free_port(draft, 9180))),
            )
        return
    if source is not None:
        yield Problem(
            f"proxy.certificates.{source}",
            "a source of certificates, with proxy.server none",
            "none, since your own proxy has the certificates",
            remove_command("proxy", "certificates"),
            (set_command("proxy.server", "caddy"),),
        )
    if draft.proxy.metrics_port is not None:
        yield Problem(
            "proxy.metrics_port",
            f"{draft.proxy.metrics_port}, with proxy.server none",
            "none, since there is no proxy of the stack's own to measure",
            remove_command("proxy", "metrics_port"),
        )
    if not draft.proxy.is_loopback:
        yield Problem(
            "proxy.address",
            f"{draft.proxy.address}, with proxy.server none",
            "a loopback address, where your own proxy reaches the services and nobody reaches them without TLS",
            set_command("proxy.address", "127.0.0.1"),
        )


def _exposure_problems(draft: Draft) -> Iterator[Problem]:
    found = [(danger, problem) for danger, problem in _exposures(draft) if danger not in draft.acknowledge]
    found.sort(key=lambda one: one[1].key)
    # In the order of the report, since `pulumi config set` adds to a list only at its end.
    dangers = list(dict.fromkeys(danger for danger, _ in found))
    for danger, problem in found:
        if draft.acknowledged is None:
            yield problem
        else:
            index = draft.acknowledged + dangers.index(danger)
            yield replace(problem, alternatives=(set_command(path("acknowledge", index), danger),))


def _exposures(draft: Draft) -> Iterator[tuple[Danger, Problem]]:
    # Where the services are on loopback, the operator's own proxy publishes them.
    if draft.proxy is None or (draft.proxy.is_loopback and draft.proxy.server != "none"):
        return
    if draft.registry and draft.registry.anonymous_url:
        yield (
            "anonymous_pull",
            Problem(
                "registry.anonymous_url",
                str(draft.registry.anonymous_url),
                f"remove `anonymous_url`, or add `anonymous_pull` to `acknowledge`: {DANGERS['anonymous_pull']}",
                remove_command("registry", "anonymous_url"),
            ),
        )
    for name, mirror in draft.mirrors.items():
        danger: Danger = "open_mirror" if mirror.username is None else "open_upstream_login"
        parts, narrow = ("mirrors", name, "allow"), list[str]()
        if not _is_narrow(mirror.allow):
            for one in mirror.allow:
                narrow += [one] if _is_narrow((*narrow, one)) else []
            yield (
                danger,
                Problem(
                    path(*parts),
                    f"{', '.join(mirror.allow)}, which is every address or much of the internet"
                    if mirror.allow
                    else "no allow-list",
                    f"the address ranges that may pull; otherwise {DANGERS[danger]}",
                    list_command(parts, narrow or ["10.0.0.0/8"])
                    if mirror.allow
                    else set_command(path(*parts, 0), "10.0.0.0/8"),
                ),
            )


def _is_narrow(allow: Sequence[str]) -> bool:
    """Whether an allow-list lets somebody in and, of the public addresses, no more than a network of class A has."""
    networks = [ipaddress.IPv4Network(one) for one in allow]
    public = [one for one in networks if not any(one.subnet_of(private) for private in _PRIVATE_NETWORKS)]
    return bool(allow) and sum(one.num_addresses for one in ipaddress.collapse_addresses(public)) <= 1 << 24


def _nginx_problems(draft: Draft) -> Iterator[Problem]:
    """What Caddy does and nginx does not."""
    if draft.proxy is None or draft.proxy.server != "nginx":
        return
    for key, url in endpoints(draft.registry, draft.mirrors).items():
        if url.is_address:
            yield Problem(
                key,
                f"{url}, with proxy.server nginx",
                "a DNS name: clients send no SNI for an IP address, and nginx selects the site by SNI",
                set_command(key, _public_examples(draft)[key]),
                (set_command("proxy.server", "caddy"),),
            )


def _endpoint_problems(draft: Draft) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    urls, acme = endpoints(draft.registry, draft.mirrors), draft.proxy is not None and draft.proxy.certificates.acme
    for key, url in urls.items():
        other_port = set_command(key, str(Endpoint(url.host, _free_port(draft, 8443 + list(urls).index(key)))))
        if (other := seen.setdefault(url.netloc, key)) != key:
            yield Problem(
                key, f"{url}, which is also {other}", "a host or port of its own for each service", other_port
            )
        if draft.proxy and url.port in (HEALTH_PORT, draft.proxy.metrics_port):
            yield Problem(
                key,
                str(url),
                f"any port but {url.port}, where the proxy's health check or its metrics are",
                other_port,
            )
        if draft.proxy and url.port == 80 and (acme or draft.proxy.server == "caddy"):
            yield Problem(
                key,
                str(url),
                "any port but 80, where the proxy speaks plain HTTP: it answers the challenges of ACME there",
                other_port,
            )
        if acme and not url.is_public_name:
            yield Problem(
                key,
                f"{url}, with proxy.certificates.acme",
                "a public DNS name, since no authority certifies another",
                set_command(key, _public_examples(draft)[key]),
            )


def _public_examples(draft: Draft) -> dict[str, str]:
    """A URL with a public name for each service, by its key."""
    mirrors = {path("mirrors", name, "url"): mirror_url(name) for name in draft.mirrors}
    own = {"registry.url": "https://registry.example.com", "registry.anonymous_url": "https://public.example.com"}
    return own | mirrors


def _free_port(draft: Draft, first: int) -> int:
    """The first port from ``first`` that nothing of the stack uses."""
    used = {url.port for url in endpoints(draft.registry, draft.mirrors).values()}
    used |= {draft.proxy.metrics_port or 0} if draft.proxy else set()
    return next(port for port in range(first, 65536) if port not in used)


def _name_problems(draft: Draft) -> Iterator[Problem]:
    """Mirrors whose names differ, but not what is made from them."""
    for made, of_it in (("container would be called", mirror_alias), ("port would be", mirror_port)):
        alike: dict[str | int, list[str]] = {}
        for name in draft.mirrors:
            alike.setdefault(of_it(name), []).append(name)
        for shared, names in alike.items():
            for name in names if len(names) > 1 else ():
                yield Problem(
                    path("mirrors", name),
                    f"a name whose {made} {shared}, like that of another mirror",
                    "names that give each mirror a container and a port of its own",
                    " && ".join(remove_command("mirrors", other) for other in names[1:]),
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
            file_command("proxy.certificates.acme.root", "root.pem"),
        )
    # A last character of its own (4n + 1) encodes nothing, and would be found when the first certificate is due.
    if eab and (not re.fullmatch(r"[A-Za-z0-9_-]{16,}", mac_key) or len(mac_key) % 4 == 1):
        yield Problem(
            "acme_eab_mac_key",
            "a value that is not shown" if mac_key else "nothing, although proxy.certificates.acme.eab names a key",
            "the MAC key that the authority gave with key_id, base64url without = at its end; here from mac-key.txt",
            new_secret_command("acme_eab_mac_key"),
        )
    if mac_key and not eab:
        yield Problem(
            "acme_eab_mac_key",
            "a MAC key that nothing uses",
            "one only with proxy.certificates: {acme: {eab: {key_id: …}}}",
            remove_command("acme_eab_mac_key"),
            (set_command("proxy.certificates.acme.eab.key_id", "kid-1"),) if acme else (),
        )


def _volume_problems(draft: Draft) -> Iterator[Problem]:
    """Data volumes that would share a name with another or with one of the stack's own, which `up` may replace."""
    own = tuple(f"{draft.name_prefix}-{component}-" for component in ("registry", "mirror", "proxy"))
    seen: dict[str, str] = {}
    for parts, (storage, default) in data_stores(draft.name_prefix, draft.registry, draft.mirrors).items():
        volume = storage.volume or default
        if storage.host_path:
            continue
        other = seen.setdefault(volume, path(*parts))
        if storage.volume and (other != path(*parts) or (volume != default and volume.startswith(own))):
            yield Problem(
                path(*parts, "volume"),
                volume,
                f"a volume that nothing else uses; names that begin with {', '.join(own)} belong to the stack",
                remove_command(*parts, "volume"),
            )


def _folder_problems(draft: Draft) -> Iterator[Problem]:
    """Data stores that would share a folder: a mirror serves everything in its own without a login."""
    stores = data_stores(draft.name_prefix, draft.registry, draft.mirrors)
    folders = {(*parts, "host_path"): one.host_path for parts, (one, _) in stores.items() if one.host_path}
    seen: dict[str, str] = {}
    for parts, folder in folders.items():
        if other := next((one for one in seen if lies_in(folder, one) or lies_in(one, folder)), None):
            how = (
                "is also that"
                if folder == other
                else f"lies in {other}"
                if lies_in(folder, other)
                else f"holds {other}"
            )
            name = "data" if parts[0] == "registry" else mirror_alias(parts[1])
            beside = f"{min(folder, other, key=len)}-{name}"
            yield Problem(
                path(*parts),
                f"{folder}, which {how} of {seen[other]}",
                "a folder for each store, none inside another: a mirror serves all that is in its own without a login",
                set_command(path(*parts), beside),
                (remove_command(*parts),),
            )
        seen.setdefault(folder, path(*parts))


RULES = (
    _user_problems,
    _upstream_problems,
    _proxy_problems,
    _exposure_problems,
    _endpoint_problems,
    _name_problems,
    _acme_problems,
    _nginx_problems,
    _volume_problems,
    _folder_problems,
)


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
