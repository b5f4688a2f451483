"""Trust in the certificates of a stack."""

from __future__ import annotations

import ssl

import httpx

from components.configuration.problems import Failure
from operations.stack import StackConfig


def trust_in(certificate: str | None, config: StackConfig) -> ssl.SSLContext:
    """Return the trust in public authorities and in the stack's own authority, its output ``ca_certificate``.

    Raises:
        Failure: if the output is no certificate.
    """
    try:
        trust = httpx.create_ssl_context()
        if certificate:
            trust.load_verify_locations(cadata=certificate)
    except (OSError, ValueError):
        raise Failure("the stack's output `ca_certificate` is no certificate", config.command("pulumi", "up")) from None
    return trust
