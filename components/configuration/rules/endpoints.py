"""Rules for the proxy, the URLs for clients, and the allow-lists."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import replace

from components.configuration.fields import Endpoint
from components.configuration.fixes import MIRROR_URL, mirror_url, missing
from components.configuration.naming import HEALTH_PORT, cache_alias, cache_port, endpoints, mirror_alias, mirror_port
from components.configuration.problems import Problem, list_command, path, remove_command, set_command
from components.configuration.rules.draft import Draft
from components.configuration.settings import DANGERS, Danger

#: Loopback, link-local and RFC 1918 addresses, and those of carrier-grade NAT (RFC 6598), which Tailscale uses.
_PRIVATE_NETWORKS = [
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
]


def _proxy_problems(draft: Draft) -> Iterator[Problem]:
    """Check the settings of the stack's own proxy, or refuse them if the operator runs the proxy."""
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
                f"any port except 80 (ACME challenges) and {HEALTH_PORT} (health check)",
                set_command("proxy.metrics_port", str(_free_port(draft, 9180))),
            )
        return
    if source is not None:
        yield Problem(
            f"proxy.certificates.{source}",
            "a source of certificates, with proxy.server none",
            "no source of certificates: your own proxy has the certificates",
            remove_command("proxy", "certificates"),
            (set_command("proxy.server", "caddy"),),
        )
    if draft.proxy.metrics_port is not None:
        yield Problem(
            "proxy.metrics_port",
            f"{draft.proxy.metrics_port}, with proxy.server none",
            "no metrics_port: the stack runs no proxy with metrics",
            remove_command("proxy", "metrics_port"),
        )
    if not draft.proxy.is_loopback:
        yield Problem(
            "proxy.address",
            f"{draft.proxy.address}, with proxy.server none",
            "a loopback address: your own proxy can reach the services there, and clients cannot bypass TLS",
            set_command("proxy.address", "127.0.0.1"),
        )


def _exposure_problems(draft: Draft) -> Iterator[Problem]:
    # Mirrors with the default allow-list have the same problem, at the same key.
    found = [one for one in dict.fromkeys(_exposures(draft)) if one[0] not in draft.acknowledge]
    found.sort(key=lambda one: one[1].key)
    # Indexes follow the order of the report, because `pulumi config set` can only append to a list.
    dangers = list(dict.fromkeys(danger for danger, _ in found))
    for danger, problem in found:
        if draft.acknowledged is None:
            yield problem
        else:
            index = draft.acknowledged + dangers.index(danger)
            yield replace(problem, alternatives=(set_command(path("acknowledge", index), danger),))


def _exposures(draft: Draft) -> Iterator[tuple[Danger, Problem]]:
    # With `none`, services on loopback are exposed, too: the operator's own proxy publishes them.
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
        is_default = name in draft.default_lists
        parts = ("mirror_defaults", "allow") if is_default else ("mirrors", name, "allow")
        narrow = list[str]()
        is_unknown = not mirror.allow and draft.is_unreadable("mirror_defaults", "allow")
        if not _is_narrow(mirror.allow) and not is_unknown:
            for one in mirror.allow:
                narrow += [one] if _is_narrow((*narrow, one)) else []
            yield (
                danger,
                Problem(
                    path(*parts),
                    f"{', '.join(mirror.allow)}, which has more public addresses than a /8 network"
                    if mirror.allow
                    else "no allow-list",
                    f"the address ranges that may pull, or `{danger}` in `acknowledge`: {DANGERS[danger]}",
                    list_command(parts, narrow or ["10.0.0.0/8"])
                    if mirror.allow
                    else set_command(path(*parts, 0), "10.0.0.0/8"),
                ),
            )


def _is_narrow(allow: Sequence[str]) -> bool:
    """Whether an allow-list is not empty and has at most as many public addresses as a /8 network."""
    networks = [ipaddress.IPv4Network(one) for one in allow]
    public = [one for one in networks if not any(one.subnet_of(private) for private in _PRIVATE_NETWORKS)]
    return bool(allow) and sum(one.num_addresses for one in ipaddress.collapse_addresses(public)) <= 1 << 24


def _nginx_problems(draft: Draft) -> Iterator[Problem]:
    """Refuse IP addresses in URLs with nginx; Caddy supports them."""
    if draft.proxy is None or draft.proxy.server != "nginx":
        return
    for key, url in endpoints(draft.registry, draft.mirrors, draft.mirror_url).items():
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
    names = {path("mirrors", name, "url"): name for name in draft.mirrors}
    urls, acme = (
        endpoints(draft.registry, draft.mirrors, draft.mirror_url),
        draft.proxy is not None and draft.proxy.certificates.acme,
    )
    for key, url in urls.items():
        other_port = set_command(key, str(Endpoint(url.host, _free_port(draft, 8443 + list(urls).index(key)))))
        if (other := seen.setdefault(url.netloc, key)) != key:
            # At `mirror_url`, every mirror can do without an address of its own.
            is_shared = other == "mirror_url"
            yield Problem(
                key,
                f"{url}, which {other} also uses",
                "a different host or port for each service",
                remove_command("mirrors", names[key], "url") if is_shared else other_port,
                (other_port,) if is_shared else (),
            )
        if draft.proxy and url.port in (HEALTH_PORT, draft.proxy.metrics_port):
            yield Problem(
                key,
                str(url),
                f"any port except {url.port}, which the proxy uses for its health check or metrics",
                other_port,
            )
        if draft.proxy and url.port == 80 and (acme or draft.proxy.server == "caddy"):
            yield Problem(
                key,
                str(url),
                "any port except 80, which the proxy uses for plain HTTP and ACME challenges",
                other_port,
            )
        if acme and not url.is_public_name:
            yield Problem(
                key,
                f"{url}, with proxy.certificates.acme",
                "a public DNS name: no authority issues certificates for other hosts",
                set_command(key, _public_examples(draft)[key]),
            )


def _public_examples(draft: Draft) -> dict[str, str]:
    """Return an example URL with a public name for each service, by its key."""
    mirrors = {path("mirrors", name, "url"): mirror_url(name) for name in draft.mirrors}
    own = {"registry.url": "https://registry.example.com", "registry.anonymous_url": "https://public.example.com"}
    return own | mirrors | {"mirror_url": MIRROR_URL}


def _mirror_url_problems(draft: Draft) -> Iterator[Problem]:
    """Refuse a mirror without any address, and an address for all mirrors without a mirror."""
    if draft.mirror_url is None and not draft.is_unreadable("mirror_url", ""):
        for name, mirror in draft.mirrors.items():
            if mirror.url is None:
                yield Problem(
                    path("mirrors", name, "url"),
                    "nothing, and no mirror_url",
                    "the URL that clients use, or mirror_url as one address for all mirrors",
                    set_command(path("mirrors", name, "url"), mirror_url(name)),
                    (set_command("mirror_url", MIRROR_URL),),
                )
    if draft.mirror_url is not None and not draft.mirrors and not any(one[0] == "mirrors" for one in draft.unreadable):
        yield Problem(
            "mirror_url",
            f"{draft.mirror_url}, without mirrors",
            "an address only together with mirrors",
            set_command(path("mirrors", "docker.io", "allow", 0), "10.0.0.0/8"),
            (remove_command("mirror_url"),),
        )


def _free_port(draft: Draft, first: int) -> int:
    """Return the first port from ``first`` that the stack does not use."""
    used = {url.port for url in endpoints(draft.registry, draft.mirrors, draft.mirror_url).values()}
    used |= {draft.proxy.metrics_port or 0} if draft.proxy else set()
    return next(port for port in range(first, 65536) if port not in used)


def _name_problems(draft: Draft) -> Iterator[Problem]:
    """Refuse mirrors with different names that give the same container name or port."""
    for made, of_it in (
        ("container name", lambda name: (mirror_alias(name), cache_alias(name))),
        ("port", lambda name: (mirror_port(name), cache_port(name))),
    ):
        alike: dict[str | int, list[str]] = {}
        for name in draft.mirrors:
            for one in of_it(name):
                alike.setdefault(one, []).append(name)
        for shared, names in alike.items():
            for name in names if len(names) > 1 else ():
                yield Problem(
                    path("mirrors", name),
                    f"a name that gives the same {made} as another mirror, {shared}",
                    "names that give each mirror a different container name and port",
                    " && ".join(remove_command("mirrors", other) for other in names[1:]),
                )


RULES = (_proxy_problems, _exposure_problems, _endpoint_problems, _mirror_url_problems, _name_problems, _nginx_problems)
