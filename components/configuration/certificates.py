"""Checks of certificates and keys that the operator hands over as text."""

from __future__ import annotations

import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from components.configuration.naming import hosts
from components.configuration.settings import CertificatePair, Secrets, Settings

#: How long before the end of a certificate every preview says so.
NOTICE_DAYS = 21

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def fault_of(pair: CertificatePair, host: str, now: datetime.datetime) -> str | None:
    """What is wrong with a certificate for ``host`` at ``now``, or None."""
    try:
        chain = _chain(pair)
    except (ValueError, x509.InvalidVersion):
        return "a certificate that is not PEM text, or not the whole of it"
    try:
        key = _key(pair)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "a private key that is not PEM text, or that is protected by a passphrase"
    if refused := _refused_key(chain[0]):
        return refused
    if _public_bytes(chain[0]) != _public_bytes(key):
        return "a private key that does not fit the certificate"
    return _uncovered(chain[0], host) or _broken_chain(chain) or _out_of_force(chain, now)


def end(pair: CertificatePair) -> datetime.datetime:
    """When the first certificate of a chain without fault ends."""
    return min(certificate.not_valid_after_utc for certificate in _chain(pair))


def canonical(pair: CertificatePair) -> tuple[str, str]:
    """Chain and key of a pair without fault as every program reads them: nothing but PEM blocks, the key in PKCS #8."""
    key = _key(pair).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _pem(_chain(pair)), key.decode()


def canonical_root(text: str) -> str:
    """The certificates of a text without fault as every program reads them."""
    return _pem(_certificates(text))


def fault_of_root(text: str) -> str | None:
    """What is wrong with the PEM text of a certificate authority, or None; a text with a private key is never shown."""
    if "PRIVATE KEY" in text:
        return "a private key, which is now known to all who can read the stack file"
    try:
        _certificates(text)
    except (ValueError, x509.InvalidVersion):
        return "no certificate in PEM, or not the whole of it"
    return None


def _chain(pair: CertificatePair) -> list[x509.Certificate]:
    return _certificates(pair.certificate.get_secret_value())


def _certificates(text: str) -> list[x509.Certificate]:
    found = x509.load_pem_x509_certificates(text.encode())
    # The parser passes over a block whose other end is cut off, and over OpenSSL's TRUSTED CERTIFICATE.
    if text.count("CERTIFICATE-----") != 2 * len(found):
        raise ValueError("not each certificate could be read")
    return found


def _key(pair: CertificatePair) -> PrivateKeyTypes:
    return load_pem_private_key(pair.private_key.get_secret_value().encode(), password=None)


def _pem(chain: list[x509.Certificate]) -> str:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain).decode()


def _refused_key(leaf: x509.Certificate) -> str | None:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "a key of a kind that clients refuse"
    match key:
        case rsa.RSAPublicKey(key_size=size):
            return f"an RSA key of {size} bits, which clients refuse" if size < 2048 else None
        case ec.EllipticCurvePublicKey(curve=curve):
            return None if curve.name in _CURVES else f"a key on the curve {curve.name}, which clients refuse"
        case ed25519.Ed25519PublicKey():
            return None
    return "a key of a kind that clients refuse"


def _uncovered(leaf: x509.Certificate, host: str) -> str | None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return "a certificate without subject alternative names, which clients refuse"
    covered = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    covered += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if host in covered or "*." + host.partition(".")[2] in covered:
        return None
    return f"a certificate for {', '.join(covered)}, which does not cover {host}"


def _broken_chain(chain: list[x509.Certificate]) -> str | None:
    for issued, issuer in pairwise(chain):
        if issued.issuer != issuer.subject:
            return "a chain out of order: each certificate must be followed by its issuer"
        try:
            issued.verify_directly_issued_by(issuer)
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            return (
                f"a chain whose certificate of {_name(issued)} was not signed by the one that follows it,"
                f" though that has the name of its issuer, {_name(issuer)}"
            )
    return None


def _out_of_force(chain: list[x509.Certificate], now: datetime.datetime) -> str | None:
    for certificate in chain:
        which = "a certificate" if certificate is chain[0] else f"an issuer in the chain, {_name(certificate)},"
        if now < certificate.not_valid_before_utc:
            return f"{which} that is not in force before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        if now > certificate.not_valid_after_utc:
            return f"{which} that ended on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return None


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _public_bytes(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate_name(host: str, available: tuple[str, ...]) -> str | None:
    """Which of the given certificates serves ``host``: its own or the wildcard of its domain, or None."""
    wildcard = "*." + host.partition(".")[2]
    return host if host in available else wildcard if wildcard in available else None


def certificates_in_use(settings: Settings, secrets: Secrets) -> dict[str, CertificatePair]:
    """The certificates given as files that serve a host, by name; no other was checked, so no other may be read."""
    names = {certificate_name(host, tuple(secrets.certificates)) for host in hosts(settings)}
    return {name: pair for name, pair in sorted(secrets.certificates.items()) if name in names}
