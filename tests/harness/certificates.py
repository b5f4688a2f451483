"""Throwaway certificates for tests."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    def pair(self, *issuers: Issued) -> dict[str, str]:
        """The chain and the key in the form of the configuration key ``certificates``."""
        chain = (self, *issuers)
        return {
            "certificate": "".join(
                link.certificate.public_bytes(serialization.Encoding.PEM).decode() for link in chain
            ),
            "private_key": self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
        }


def issue(
    *hosts: str,
    start: datetime.datetime,
    days: int = 2,
    name: str = "registry-stack test",
    organization: x509.NameAttribute | None = None,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    issuer: Issued | None = None,
) -> Issued:
    """A certificate for ``hosts``, signed by ``issuer`` or self-signed."""
    own = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    organizations = [organization] if organization else []
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), *organizations])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        # Public authorities add this point, and testssl.sh complains without it. No client fetches the list.
        revoked = x509.UniformResourceIdentifier("http://crl.example.com/revoked.crl")
        point = x509.DistributionPoint([revoked], relative_name=None, reasons=None, crl_issuer=None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    signer = issuer.key if issuer else own
    # The Edwards curves contain their own hash.
    digest = None if isinstance(signer, ed448.Ed448PrivateKey | ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(builder.sign(signer, digest), own)


@functools.cache
def authority() -> Issued:
    """The authority that the clients of the tests trust."""
    return issue(start=_an_hour_ago(), days=90, name="registry-stack test authority")


@functools.cache
def certificate_pair(*hosts: str) -> dict[str, str]:
    """A currently valid certificate for ``hosts``, signed by ``authority``, and its key."""
    return issue(*hosts, start=_an_hour_ago(), days=90, issuer=authority()).pair()


def odd_pair(*hosts: str) -> dict[str, str]:
    """A pair that Python reads, but Go and OpenSSL refuse: a BMPString cannot encode an emoji."""
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Rocket team \U0001f680", _ASN1Type.BMPString)
    return issue(*hosts, start=_an_hour_ago(), days=90, organization=organization).pair()


def joined_pair(*hosts: str) -> dict[str, str]:
    """The pair of ``certificate_pair`` with its issuer, joined like ``printf %s "$(cat a)" "$(cat b)"``."""
    chain = certificate_pair(*hosts)["certificate"].rstrip() + authority().pair()["certificate"]
    return certificate_pair(*hosts) | {"certificate": chain}


def _an_hour_ago() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
