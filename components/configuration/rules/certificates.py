"""Rules for the sources of certificates."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from components.configuration.certificates import fault_of, fault_of_root
from components.configuration.naming import certificate_name, hosts
from components.configuration.problems import (
    Problem,
    certificate_command,
    file_command,
    new_secret_command,
    path,
    remove_command,
    set_command,
)
from components.configuration.rules.draft import Draft
from components.configuration.settings import Secrets, Settings


def _acme_problems(draft: Draft) -> Iterator[Problem]:
    if draft.proxy is None:
        return
    acme, mac_key = draft.proxy.certificates.acme, draft.secrets.acme_eab_mac_key.get_secret_value()
    eab = acme.eab if acme else None
    if acme and acme.root is not None and (fault := fault_of_root(acme.root)):
        yield Problem(
            "proxy.certificates.acme.root",
            fault,
            "PEM text of the public certificate of the authority that signed the ACME server's own certificate",
            file_command("proxy.certificates.acme.root", "root.pem"),
        )
    # A length of 4n + 1 is invalid base64url. Without this check, the error appears when the first certificate is due.
    if eab and (not re.fullmatch(r"[A-Za-z0-9_-]{16,}", mac_key) or len(mac_key) % 4 == 1):
        yield Problem(
            "acme_eab_mac_key",
            "a value that is not shown" if mac_key else "nothing, although proxy.certificates.acme.eab sets a key_id",
            "the authority's MAC key for key_id, in base64url without = at the end. The fix reads mac-key.txt",
            new_secret_command("acme_eab_mac_key"),
        )
    if mac_key and not eab:
        yield Problem(
            "acme_eab_mac_key",
            "an unused MAC key",
            "a MAC key only together with proxy.certificates: {acme: {eab: {key_id: …}}}",
            remove_command("acme_eab_mac_key"),
            (set_command("proxy.certificates.acme.eab.key_id", "kid-1"),) if acme else (),
        )


def certificate_problems(settings: Settings, secrets: Secrets, now: datetime.datetime) -> Iterator[Problem]:
    """Find certificates that are unusable at ``now``, and certificates given as files that are missing or unused."""
    for upstream, mirror in settings.mirrors.items():
        if mirror.ca is not None and (fault := fault_of_root(mirror.ca, now)):
            key = path("mirrors", upstream, "ca")
            yield Problem(
                key,
                fault,
                "PEM text of the public certificate of the authority that signed the upstream's certificate",
                file_command(key, "root.pem"),
            )
    given = secrets.certificates
    if not settings.proxy.certificates.files:
        for name in given:
            yield Problem(
                path("certificates", name),
                "an unused certificate",
                "certificates only together with proxy.certificates: {files: {}}",
                remove_command("certificates", name),
            )
        return
    for host in hosts(settings):
        certificate = certificate_name(host, tuple(given))
        if certificate is None:
            yield Problem(
                path("certificates", host),
                "nothing",
                "a certificate chain and private key for this host, or for the wildcard of its domain",
                certificate_command(host),
            )
        elif fault := fault_of(given[certificate], host, now):
            yield Problem(
                path("certificates", certificate),
                fault,
                "PEM text: a valid chain that covers the host, leaf first, and the matching private key"
                " (RSA with 2048 bits or more, P-256, P-384, P-521 or Ed25519)",
                certificate_command(certificate),
            )


RULES = (_acme_problems,)
