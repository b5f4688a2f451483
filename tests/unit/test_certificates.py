"""Certificates given as files are checked before anything is delivered."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from components.certificates import end, fault, root_fault
from components.settings import CertificatePair
from tests.certificates import Issued, certificate_pair, issue

NOW = datetime.datetime(2026, 6, 1, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
HOST = "registry.example.com"


def issued(*hosts: str, start: datetime.datetime = NOW - DAY, days: int = 90, **keywords: object) -> Issued:
    return issue(*(hosts or (HOST,)), start=start, days=days, **keywords)  # type: ignore[arg-type]


def answer(leaf: Issued, *issuers: Issued, host: str = HOST, **changes: str) -> str | None:
    return fault(CertificatePair.model_validate(leaf.pair(*issuers) | changes), host, NOW)


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
        ({"private_key": certificate_pair("elsewhere.example.com")["private_key"]}, "does not fit"),
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

    assert "was not signed by the one that follows it" in str(found)
    assert "CN=root" in str(found)


def test_a_certificate_is_refused_before_and_after_its_time() -> None:
    assert answer(issued(start=NOW)) is None
    assert answer(issued(start=NOW - 90 * DAY)) is None
    assert answer(issued(start=NOW + DAY)) == "a certificate that is not in force before 2026-06-02 12:00 UTC"
    assert answer(issued(start=NOW - 91 * DAY)) == "a certificate that ended on 2026-05-31 12:00 UTC"


def test_an_issuer_that_ended_is_named() -> None:
    ended = issued(name="middle", start=NOW - 91 * DAY)

    assert (
        answer(issued(issuer=ended), ended) == "an issuer in the chain, CN=middle, that ended on 2026-05-31 12:00 UTC"
    )


def test_a_chain_ends_with_the_first_certificate_that_ends() -> None:
    middle = issued(name="middle", days=31)

    assert (end(CertificatePair.model_validate(issued(issuer=middle).pair(middle))) - NOW).days == 30


def test_the_root_of_an_acme_server_must_be_a_certificate_and_no_key() -> None:
    pair = certificate_pair(HOST)

    assert root_fault(pair["certificate"]) is None
    assert "no certificate in PEM" in str(root_fault("no PEM"))
    assert "a private key" in str(root_fault(pair["certificate"] + pair["private_key"]))
