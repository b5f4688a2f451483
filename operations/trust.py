"""Trust in the certificates of a stack."""

from __future__ import annotations

import ssl

import httpx

from components.configuration.problems import Failure
from operations.stack import StackConfig

#: What to do if a server's certificate is not trusted.
AUTHORITY = "for a private authority, set SSL_CERT_FILE to a PEM file with the certificate of the authority"


def is_untrusted(error: httpx.HTTPError) -> bool:
    """Whether the server's certificate was refused: another try cannot help."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def trust_in(certificate: str | None, config: StackConfig) -> ssl.SSLContext:
    """Return the trust in public authorities and in the stack's own authority, its output ``ca_certificate``.

    Raises:
        Failure: if the output is no certificate, or if SSL_CERT_FILE names none.
    """
    try:
        trust = httpx.create_ssl_context()
    except OSError as error:
        raise Failure(
            f"cannot read the certificates of SSL_CERT_FILE or SSL_CERT_DIR: {error.strerror or error}",
            "set SSL_CERT_FILE to a PEM file with the certificate of the authority, or unset the variable",
        ) from None
    try:
        if certificate:
            trust.load_verify_locations(cadata=certificate)
    except (OSError, ValueError):
        raise Failure("the stack's output `ca_certificate` is no certificate", config.command("pulumi", "up")) from None
    return trust
