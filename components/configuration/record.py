"""The stack output ``configuration``: what the next preview compares its own configuration with."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from components.configuration.certificates import end
from components.configuration.naming import certificates_in_use
from components.configuration.passwords import fingerprint
from components.configuration.problems import path
from components.configuration.settings import Secrets, Settings


def record(settings: Settings, secrets: Secrets) -> dict[str, Any]:
    """Return all settings as plain values, with a fingerprint of each secret that the output ``users`` does not have.

    ``settings`` has every default and no unset key. ``fingerprints`` maps configuration paths to fingerprints.
    ``certificates`` maps the names of the certificates in use to their expiry, in ISO 8601.
    """
    in_use = certificates_in_use(settings, secrets)
    others = {
        "stack_secret": secrets.stack_secret,
        "acme_eab_mac_key": secrets.acme_eab_mac_key,
        **{path("upstream_passwords", name): secret for name, secret in secrets.upstream_passwords.items()},
        **{
            path("certificates", name): SecretStr(
                pair.certificate.get_secret_value() + pair.private_key.get_secret_value()
            )
            for name, pair in in_use.items()
        },
    }
    return {
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "fingerprints": {
            key: fingerprint(key, secret, secrets.stack_secret)
            for key, secret in sorted(others.items())
            if secret.get_secret_value()
        },
        "certificates": {name: end(pair).isoformat() for name, pair in in_use.items()},
    }
