"""Checks of certificates that the operator hands over as PEM text."""

from __future__ import annotations

from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from components.settings import CertificatePair


def fault(pair: CertificatePair, host: str) -> str | None:  # noqa: PLR0911 - one return for each fault
    """What is wrong with a certificate for ``host``, or None; dates are not looked at, so that no clock decides."""
    try:
        chain = x509.load_pem_x509_certificates(pair.certificate.get_secret_value().encode())
    except ValueError:
        return "a certificate that is not PEM text"
    try:
        key = load_pem_private_key(pair.private_key.get_secret_value().encode(), password=None)
    except (ValueError, TypeError):
        return "a private key that is not PEM text, or that is protected by a passphrase"
    leaf = chain[0]
    if _public_bytes(leaf.public_key()) != _public_bytes(key.public_key()):
        return "a private key that does not fit the certificate"
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "a certificate without subject alternative names, which clients refuse"
    covered = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    covered += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if host not in covered and "*." + host.partition(".")[2] not in covered:
        return f"a certificate for {', '.join(covered)}, which does not cover {host}"
    for issued, issuer in pairwise(chain):
        if issued.issuer != issuer.subject:
            return "a chain out of order: each certificate must be followed by its issuer"
    return None


def _public_bytes(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]
