"""Passwords: required strength, bcrypt hashes, and secrets derived from ``stack_secret``.

Everything is deterministic: the same configuration gives the same bytes, so an unchanged program shows no difference.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from functools import cache
from math import log10

import bcrypt
from pydantic import SecretStr
from zxcvbn import zxcvbn

#: Limit of bcrypt. distribution silently ignores further bytes; Python's bcrypt refuses a longer password.
LONGEST_PASSWORD_BYTES = 72

#: Guesses that a password must withstand. CPUs that answer 1,000 guesses per second need 3,000 years for all guesses.
GUESSES = 10**14
#: bcrypt cost of every hash. The registry spends the same cost on an unknown name (``registry/auth/htpasswd`` of
#: distribution 3.1.2), so that response times do not reveal which names exist. Every request pays this cost.
COST = 5

_BCRYPT_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
#: Prefixes of other hash types, alone, in an htpasswd line or in quotes: ``$apr1$``, ``{SHA}``, ``$6$``.
_ANY_HASH = re.compile(
    r"""[\s"']*(?:[^\s:]{1,64}:)?[\s"']*(\$+[a-z0-9-]{1,20}\$|\{(?:S?SHA|S?MD5|CRYPT|SCRYPT|ARGON2|PBKDF2)[A-Z0-9-]*\})""",
    re.IGNORECASE,
)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BCRYPT64 = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def derive(stack_secret: SecretStr, label: str) -> bytes:
    """Derive 32 bytes for the use ``label`` with HMAC-SHA-256, so that no derived value reveals another value."""
    return hmac.digest(stack_secret.get_secret_value().encode(), label.encode(), hashlib.sha256)


def is_hash(password: SecretStr) -> bool:
    """Whether the value is a bcrypt hash, which is used unchanged (``htpasswd -nB`` makes ``$2y$`` hashes)."""
    return bool(_BCRYPT_HASH.fullmatch(password.get_secret_value()))


def holds_hash(password: SecretStr) -> bool:
    """Whether a value contains one usable bcrypt hash, with other text around it or with doubled dollar signs."""
    costs = _BCRYPT_HASH.findall(re.sub(r"\$+", "$", password.get_secret_value()))
    return not is_hash(password) and len(costs) == 1 and int(costs[0]) == COST


def weakness(user: str, password: SecretStr) -> str | None:
    """Return the fault of a password as the end of a sentence, or None; the text never contains the password."""
    text = password.get_secret_value()
    if match := _BCRYPT_HASH.fullmatch(text):
        return None if int(match[1]) == COST else f"is a bcrypt hash of cost {match[1]}"
    if misread := _misread_hash(user, text):
        return misread
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "contains a control character"
    if len(text.encode()) > LONGEST_PASSWORD_BYTES:
        return f"is longer than {LONGEST_PASSWORD_BYTES} bytes, the limit of bcrypt"
    if _guesses(text, user) < GUESSES:
        return f"can be guessed with fewer than 10^{log10(GUESSES):.0f} tries"
    return None


def _misread_hash(user: str, text: str) -> str | None:
    """Return the fault of a text that is meant as a hash but would become the password itself, or None."""
    if _BCRYPT_HASH.search(re.sub(r"\$+", "$", text)):
        inside = text.strip().strip("\"'")
        around = (
            ("white space", text != text.strip()),
            ("quotes", text.strip() != inside),
            ("the user's name before it (a line of an htpasswd file)", not inside.startswith("$")),
            ("doubled dollar signs (as in a Compose file)", "$$" in inside),
        )
        words = [word for word, is_there in around if is_there] or ["something else"]
        return f"looks like a bcrypt hash with {' and '.join(words)}"
    if match := _ANY_HASH.match(text):
        kind = re.sub(r"\$+", "$", match[1])
        if kind.startswith("$2"):
            return "looks like a bcrypt hash but is not one: bcrypt hashes have 60 characters, first $2a$, $2b$ or $2y$"
        return f"looks like a hash of type {kind}: the registry reads only bcrypt hashes"
    if text.startswith(f"{user}:"):
        return "starts with the user's name and a colon, like a line of an htpasswd file"
    return None


def hash_password(user: str, password: SecretStr, stack_secret: SecretStr) -> str:
    """Return the bcrypt hash for htpasswd; its salt derives from the stack secret and the user, not the password."""
    text = password.get_secret_value()
    return text if is_hash(password) else bcrypt.hashpw(text.encode(), _salt(user, stack_secret)).decode()


def fingerprint(user: str, password: SecretStr, stack_secret: SecretStr) -> str:
    """Return a fingerprint that changes with the password and reveals nothing about it without the stack secret."""
    return derive(stack_secret, f"fingerprint of {user}: {password.get_secret_value()}")[:4].hex()


def operations_password(stack_secret: SecretStr) -> SecretStr:
    """Derive the password of the internal operations user."""
    return SecretStr(derive(stack_secret, "operations password").hex())


def http_secret(stack_secret: SecretStr) -> str:
    """Derive the key that signs upload states; a replaced process shares it, so that an upload survives."""
    return derive(stack_secret, "registry http.secret").hex()


def hashes(passwords: Mapping[str, SecretStr], stack_secret: SecretStr) -> dict[str, str]:
    """Hash each user's password."""
    return {user: hash_password(user, password, stack_secret) for user, password in passwords.items()}


@cache  # one call takes about 20 ms
def _guesses(password: str, user: str) -> float:
    return float(zxcvbn(password, user_inputs=[user])["guesses"]) if password else 0  # zxcvbn fails on empty text


def _salt(user: str, stack_secret: SecretStr) -> bytes:
    digest = derive(stack_secret, f"bcrypt salt of {user}")[:16]
    text = base64.b64encode(digest).rstrip(b"=").translate(bytes.maketrans(_BASE64, _BCRYPT64))
    return b"$2b$%02d$%s" % (COST, text)
