"""Certificates given as files are checked before anything is delivered."""

from __future__ import annotations

import datetime
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.configuration.certificates import canonical, canonical_root, end, end_of_root, fault_of, fault_of_root
from components.configuration.settings import CertificatePair
from tests.harness.certificates import Issued, certificate_pair, issue

NOW = datetime.datetime(2026, 6, 1, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HOST = "registry.example.com"


def issued(*hosts: str, start: datetime.datetime = NOW - DAY, days: int = 90, **keywords: object) -> Issued:
    return issue(*(hosts or (HOST,)), start=start, days=days, **keywords)  # type: ignore[arg-type]


def answer(leaf: Issued, *issuers: Issued, host: str = HOST, **changes: str) -> str | None:
    return fault_of(CertificatePair.model_validate(leaf.pair(*issuers) | changes), host, NOW)


@pytest.mark.parametrize("host", [HOST, "ghcr.mirror.example.com"])
def test_a_certificate_that_covers_its_host_is_accepted(host: str) -> None:
    assert answer(issued(HOST, "*.mirror.example.com"), host=host) is None


@pytest.mark.parametrize("host", ["other.example.com", "a.b.mirror.example.com", "mirror.example.com"])
def test_a_certificate_for_other_names_is_refused(host: str) -> None:
    found = answer(issued(HOST, "*.mirror.example.com"), host=host)

    assert found == f"a certificate for {HOST}, *.mirror.example.com, which does not cover {host}"


def test_a_certificate_without_names_is_refused() -> None:
    assert "without subject alternative names" in str(answer(issue(start=NOW - DAY)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate": "no PEM"}, "a certificate that is not PEM"),
        ({"private_key": "no PEM"}, "a private key that is not PEM"),
        ({"private_key": certificate_pair("elsewhere.example.com")["private_key"]}, "does not match"),
    ],
)
def test_a_pair_that_is_unreadable_or_does_not_belong_together_is_refused(changes: dict[str, str], words: str) -> None:
    assert words in str(answer(issued(), **changes))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA 2048", "P-384", "Ed25519"],
)
def test_keys_that_clients_take_are_accepted(key: CertificateIssuerPrivateKeyTypes) -> None:
    assert answer(issued(key=key)) is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65537, 1024), "an RSA key of 1024 bits"),
        (ec.generate_private_key(ec.SECP256K1()), "a key on the curve secp256k1"),
        (ed448.Ed448PrivateKey.generate(), "a key of a kind that clients refuse"),
    ],
    ids=["RSA 1024", "secp256k1", "Ed448"],
)
def test_keys_that_clients_refuse_are_refused(key: CertificateIssuerPrivateKeyTypes, words: str) -> None:
    assert words in str(answer(issued(key=key)))


def test_a_chain_is_accepted_in_order_and_refused_in_another() -> None:
    root = issued(name="root")
    middle = issued(name="middle", issuer=root)
    leaf = issued(issuer=middle)

    assert answer(leaf, middle, root) is None
    assert answer(leaf, middle) is None
    assert answer(leaf) is None
    assert "chain out of order" in str(answer(leaf, root, middle))


def test_an_issuer_that_only_has_the_right_name_is_refused() -> None:
    found = answer(issued(issuer=issued(name="root")), issued(name="root"))

    assert "did not sign" in str(found)
    assert "CN=root" in str(found)


def test_a_certificate_is_refused_before_and_after_its_time() -> None:
    assert answer(issued(start=NOW)) is None
    assert answer(issued(start=NOW - 90 * DAY)) is None
    assert answer(issued(start=NOW + DAY)) == "a certificate that is not valid before 2026-06-02 12:00 UTC"
    assert answer(issued(start=NOW - 91 * DAY)) == "a certificate that expired on 2026-05-31 12:00 UTC"


def test_an_issuer_that_ended_is_named() -> None:
    ended = issued(name="middle", start=NOW - 91 * DAY)

    assert (
        answer(issued(issuer=ended), ended) == "an issuer in the chain, CN=middle, that expired on 2026-05-31 12:00 UTC"
    )


def test_a_chain_ends_with_the_first_certificate_that_ends() -> None:
    middle = issued(name="middle", days=31)

    assert (end(CertificatePair.model_validate(issued(issuer=middle).pair(middle))) - NOW).days == 30


def test_the_root_of_an_acme_server_must_be_a_certificate_and_no_key() -> None:
    pair = certificate_pair(HOST)

    assert fault_of_root(pair["certificate"]) is None
    assert "not a PEM certificate" in str(fault_of_root("no PEM"))
    assert "a private key" in str(fault_of_root(pair["certificate"] + pair["private_key"]))


def test_one_certificate_of_an_authority_must_be_valid() -> None:
    valid, later = issued(days=10).pair()["certificate"], issued(start=NOW + DAY).pair()["certificate"]
    ended = issued(start=NOW - 91 * DAY).pair()["certificate"]

    assert fault_of_root(ended + valid, NOW) is None
    assert fault_of_root(ended + later, NOW) == "a certificate that expired on 2026-05-31 12:00 UTC"
    assert (end_of_root(ended + valid) - NOW).days == 9


ROOT = issued(name="root")
MIDDLE = issued(name="middle", issuer=ROOT)
LEAF = issued(issuer=MIDDLE)
CHAIN = LEAF.pair(MIDDLE, ROOT)
TRADITIONAL = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def chain_pair(**changes: str) -> CertificatePair:
    return CertificatePair.model_validate(CHAIN | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": CHAIN["certificate"].replace("-----\n-----", "----------")},
        {"certificate": CHAIN["certificate"].rstrip()},
        {"certificate": CHAIN["certificate"].replace("\n", "\r")},
        {"certificate": CHAIN["certificate"].replace("\n", " ")},
        {"certificate": CHAIN["certificate"].replace("\n", "\n  ")},
        {"certificate": CHAIN["certificate"].replace(" CERTIFICATE", " X509 CERTIFICATE")},
        {"certificate": f"\ufeff{CHAIN['certificate']}"},
        {"certificate": CHAIN["private_key"] + CHAIN["certificate"]},
        {"private_key": CHAIN["certificate"] + CHAIN["private_key"]},
        {"private_key": f"key:{CHAIN['private_key']}."},
        {"private_key": TRADITIONAL},
    ],
    ids=[
        *["joined", "no newline at the end", "old Macintosh", "one line", "indented", "X509", "byte order mark"],
        *["key before the chain", "chain before the key", "words around the key", "traditional key"],
    ],
)
def test_what_python_alone_can_read_is_delivered_as_every_program_reads_it(changes: dict[str, str]) -> None:
    assert fault_of(chain_pair(**changes), HOST, NOW) is None
    assert canonical(chain_pair(**changes)) == (CHAIN["certificate"], CHAIN["private_key"])


WORDS = st.one_of(st.text(" \t\r\n", max_size=3), st.text(max_size=12).filter(lambda text: "-" not in text))


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    """PEM blocks with other ends of lines and with other text around them."""
    blocks = re.findall(r"-----BEGIN.+?-----END [A-Z ]+-----", text, re.DOTALL)
    ends = draw(st.sampled_from(["\n", "\r\n", "\r", " ", "\n\n", "\n\t", ""]))
    return draw(WORDS) + "".join(block.replace("\n", ends) + draw(WORDS) for block in blocks)


@settings(max_examples=200)
@given(chain=mangled(CHAIN["certificate"]), key=mangled(CHAIN["private_key"]))
def test_however_a_pair_is_written_the_same_bytes_are_delivered(chain: str, key: str) -> None:
    pair = chain_pair(certificate=chain, private_key=key)
    assume(fault_of(pair, HOST, NOW) is None)

    assert canonical(pair) == (CHAIN["certificate"], CHAIN["private_key"])


@settings(max_examples=100)
@given(text=mangled(MIDDLE.pair(ROOT)["certificate"]))
def test_however_the_root_of_an_acme_server_is_written_the_same_bytes_are_delivered(text: str) -> None:
    assume(fault_of_root(text) is None)

    assert canonical_root(text) == MIDDLE.pair(ROOT)["certificate"]


@pytest.mark.parametrize(
    "spoiled",
    [
        CHAIN["certificate"][:-200],
        CHAIN["certificate"][:-1800],
        CHAIN["certificate"][10:],
        CHAIN["certificate"][::-1].replace("NIGEB-----", "NIGEB----", 1)[::-1],
        LEAF.pair()["certificate"] + MIDDLE.pair()["certificate"].replace(" CERT", " TRUSTED CERT"),
    ],
    ids=["end cut", "middle cut", "start cut", "a dash lost", "trusted"],
)
def test_a_chain_of_which_a_part_cannot_be_read_is_refused(spoiled: str) -> None:
    assert "incomplete PEM text" in str(fault_of(chain_pair(certificate=spoiled), HOST, NOW))
    assert "incomplete PEM text" in str(fault_of_root(spoiled))


def test_what_is_delivered_is_the_very_certificate() -> None:
    (first, *_) = x509.load_pem_x509_certificates(canonical(chain_pair())[0].encode())

    assert first == LEAF.certificate
