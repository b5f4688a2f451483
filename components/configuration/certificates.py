"""Check certificates and keys that the operator sets as text."""

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

from components.configuration.settings import CertificatePair

#: Days before the expiry of a certificate from which every preview warns.
NOTICE_DAYS = 21

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def fault_of(pair: CertificatePair, host: str, now: datetime.datetime) -> str | None:
    """Return the fault of a certificate for ``host`` at ``now``, or None."""
    try:
        chain = _chain(pair)
    except (ValueError, x509.InvalidVersion):
        return "a certificate that is not PEM text, or incomplete PEM text"
    try:
        key = _key(pair)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "a private key that is not PEM text, or that has a passphrase"
    if refused := _refused_key(chain[0]):
        return refused
    if _public_bytes(chain[0]) != _public_bytes(key):
        return "a private key that does not match the certificate"
    return _uncovered(chain[0], host) or _broken_chain(chain) or _out_of_force(chain, now)


def end(pair: CertificatePair) -> datetime.datetime:
    """Return the earliest expiry in a chain without fault."""
    return min(certificate.not_valid_after_utc for certificate in _chain(pair))


def canonical(pair: CertificatePair) -> tuple[str, str]:
    """Return chain and key without fault in a form for every program: only PEM blocks, the key in PKCS #8."""
    key = _key(pair).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _pem(_chain(pair)), key.decode()


def canonical_root(text: str) -> str:
    """Return the certificates of a text without fault in a form for every program."""
    return _pem(_certificates(text))


def end_of_root(text: str) -> datetime.datetime:
    """Return when the last certificate of a text without fault expires."""
    return max(certificate.not_valid_after_utc for certificate in _certificates(text))


def fault_of_root(text: str, now: datetime.datetime | None = None) -> str | None:
    """Return the fault in the PEM text of a certificate authority, or None; never show a text with a private key.

    With ``now``, one of the certificates must be valid at that time. The others may be of a former or later authority.
    """
    if "PRIVATE KEY" in text:
        return "a private key, exposed to everyone who can read the stack file"
    try:
        found = _certificates(text)
    except (ValueError, x509.InvalidVersion):
        return "a text that is not a PEM certificate, or incomplete PEM text"
    faults = [_out_of_force([certificate], now) for certificate in found] if now else [None]
    return faults[0] if all(faults) else None


def _chain(pair: CertificatePair) -> list[x509.Certificate]:
    return _certificates(pair.certificate.get_secret_value())


def _certificates(text: str) -> list[x509.Certificate]:
    found = x509.load_pem_x509_certificates(text.encode())
    # The parser skips a block without its start or its end, and OpenSSL's TRUSTED CERTIFICATE blocks.
    if text.count("CERTIFICATE-----") != 2 * len(found):
        raise ValueError("some certificates are unreadable")
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
            return "a chain out of order: the issuer must follow each certificate"
        try:
            issued.verify_directly_issued_by(issuer)
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            return (
                f"a broken chain: the next certificate, {_name(issuer)}, did not sign {_name(issued)},"
                " although the issuer has the same name"
            )
    return None


def _out_of_force(chain: list[x509.Certificate], now: datetime.datetime) -> str | None:
    for certificate in chain:
        which = "a certificate" if certificate is chain[0] else f"an issuer in the chain, {_name(certificate)},"
        if now < certificate.not_valid_before_utc:
            return f"{which} that is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        if now > certificate.not_valid_after_utc:
            return f"{which} that expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return None


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _public_bytes(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
