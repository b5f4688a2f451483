"""Certificates given as files are checked before anything is delivered."""

from __future__ import annotations

import pytest

from components.certificates import fault
from components.settings import CertificatePair
from tests.certificates import certificate_pair


def pair(**changes: str) -> CertificatePair:
    return CertificatePair.model_validate(certificate_pair("registry.example.com", "*.mirror.example.com") | changes)


@pytest.mark.parametrize("host", ["registry.example.com", "ghcr.mirror.example.com"])
def test_a_certificate_that_covers_its_host_is_accepted(host: str) -> None:
    assert fault(pair(), host) is None


@pytest.mark.parametrize(
    ("changed", "host", "words"),
    [
        ({}, "other.example.com", "does not cover other.example.com"),
        ({}, "a.b.mirror.example.com", "does not cover"),
        ({"certificate": "no PEM"}, "registry.example.com", "not PEM"),
        ({"private_key": "no PEM"}, "registry.example.com", "private key that is not PEM"),
        (
            {"private_key": certificate_pair("elsewhere.example.com")["private_key"]},
            "registry.example.com",
            "does not fit",
        ),
        (
            {"certificate": certificate_pair("registry.example.com", "*.mirror.example.com")["certificate"] * 2},
            "registry.example.com",
            None,
        ),
    ],
)
def test_a_certificate_that_would_fail_is_named_as_such(changed: dict[str, str], host: str, words: str | None) -> None:
    answer = fault(pair(**changed), host)

    assert words in answer if words and answer else answer == words
