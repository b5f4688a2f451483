"""No error shows key material or the login of a URL, wherever somebody put it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.configuration.problems import ConfigError, Problem, path, shown
from tests.harness.certificates import certificate_pair
from tests.harness.configuration import configuration, loaded

EVERY_KEY: dict[str, Any] = configuration(
    registry={
        "url": "https://registry.example.com",
        "anonymous_url": "https://public.example.com",
        "users": {"woodpecker": {"role": "push"}, "production": {"expires": "2099-01-31"}, "boss": {"role": "admin"}},
        "storage": {"volume": "images"},
        "log_level": "info",
        "drain_timeout": "5m",
        "upload_purge_age": "168h",
        "memory_mb": 1024,
        "retention": {
            "rules": [
                {"repositories": "team-a/*", "tags": ["pr-*", "*-dev"], "keep": {"newest": 5, "days": 14}},
                {"tags": "v*", "keep": "always"},
            ],
            "overwritten": {"newest": 3, "days": 30},
            "running_on": ["ssh://deploy@app.example.com"],
            "most": "25%",
        },
    },
    mirrors={
        "docker.io": {
            "url": "https://mirror.example.com",
            "upstream": "https://registry-1.docker.io",
            "ca": certificate_pair("registry-1.docker.io")["certificate"],
            "ttl": "168h",
            "allow": ["10.0.0.0/8", "192.168.0.0/16"],
            "username": "robot",
            "storage": {"host_path": "/opt/mirror"},
            "log_level": "info",
            "memory_mb": 1024,
        },
    },
    mirror_defaults={"ttl": "24h", "allow": ["10.0.0.0/8"]},
    mirror_url="https://all.example.com",
    http_proxy="http://proxy.example.com:3128",
    no_proxy=["registry.example.org", "10.0.0.0/8"],
    proxy={
        "server": "caddy",
        "address": "0.0.0.0",
        "certificates": {
            "acme": {
                "email": "ops@example.com",
                "directory": "https://ca.example.com/directory",
                "root": certificate_pair("ca.example.com")["certificate"],
                "eab": {"key_id": "kid-1"},
            }
        },
        "metrics_port": 9180,
        "memory_mb": 256,
    },
    images={"registry": "registry:3.1.2", "caddy": "caddy:2.11.7", "nginx": "nginx:1.31.3"},
    name_prefix="registry-stack",
    protect_data=True,
    acknowledge=["anonymous_pull"],
    upstream_passwords={"docker.io": "example-only-token"},
    acme_eab_mac_key="c2VjcmV0c2VjcmV0c2VjcmV0",
)
KEY = certificate_pair("key.example.com")["private_key"]
BODY = "".join(KEY.splitlines()[1:-1])


def places(value: Any, parts: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of each value of a configuration, objects and lists included."""
    if parts:
        yield parts
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in members:
        yield from places(inner, (*parts, name))


def with_text(parts: tuple[str | int, ...], text: str, way: str) -> dict[str, Any]:
    """The configuration with ``text`` at a place: as the value, inside it, or as its name."""
    values = copy.deepcopy(EVERY_KEY)
    holder: Any = values
    for part in parts[:-1]:
        holder = holder[part]
    old = holder[parts[-1]]
    match way:
        case "value":
            holder[parts[-1]] = text
        case "list":
            holder[parts[-1]] = [text]
        case "object":
            holder[parts[-1]] = {"secret": text}
        case "name" if isinstance(holder, dict):
            holder[text] = holder.pop(parts[-1])
        case "name inside":
            holder[parts[-1]] = {text: old}
        case "beside":
            holder[parts[-1]] = [old, text]
    return values


_JUNK = st.text(st.sampled_from("aZ9/?#:%&=.-_+ \t\n\"'\\é\x00"), max_size=12)
_SCHEMES = st.sampled_from(["https://", "http://", "ssh://", "tcp://", "HTTPS://", "https:/", "//", ""])
_HOSTS = st.sampled_from(["ghcr.io", "ghcr.io/team?a=b", "registry.example.com:99999", "[::1]:5000", "", "a@b.example"])


@st.composite
def logins(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A URL with a login, and what must not be shown of it."""
    user, password = f"xUSERx{draw(_JUNK)}xRESUx", f"xPASSx{draw(_JUNK)}xSSAPx"
    host = draw(_HOSTS)
    scheme = draw(_SCHEMES)
    login = draw(st.sampled_from([f"{user}:{password}", *([user] if scheme else []), f":{password}"]))
    return f"{scheme}{login}@{host}", ["xUSERx", "xRESUx", "xPASSx", "xSSAPx"]


@st.composite
def keys(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A key as people copy it, and what must not be shown of it."""
    start = draw(st.integers(0, len(BODY) - 64))
    line = BODY[start : start + 64]
    copies = (KEY, KEY.replace("\n", "\\n"), KEY.replace("\n", " "), KEY.replace("\n", ""), BODY, f" {BODY}\n", line)
    text = draw(st.sampled_from((*copies, f"{line}=", "\n".join(KEY.splitlines()[3:5]))))
    return text, [BODY[at : at + 20] for at in range(len(BODY) - 20)]


@st.composite
def tokens(draw: st.DrawFn) -> tuple[str, list[str]]:
    """What `openssl rand` prints."""
    octets = draw(st.binary(min_size=32, max_size=32))
    text = octets.hex()
    return text, [text, text[:20], text[-20:]]


SECRETS = st.one_of(logins(), keys(), tokens())
WAYS = st.sampled_from(["value", "list", "object", "name", "name inside", "beside"])


def assert_hidden(text: str, secrets: list[str]) -> None:
    assert [secret for secret in secrets if secret in text] == []


@hypothesis_settings(max_examples=150)
@given(st.sampled_from(sorted(places(EVERY_KEY), key=str)), SECRETS, WAYS)
def test_a_secret_at_any_place_of_the_configuration_is_not_shown(
    parts: tuple[str | int, ...], secret: tuple[str, list[str]], way: str
) -> None:
    text, hidden = secret
    try:
        loaded(with_text(parts, text, way))
    except ConfigError as error:
        assert_hidden(str(error) + repr(error.problems), hidden)


@hypothesis_settings(max_examples=100)
@given(SECRETS, st.sampled_from(["key", "found", "allowed", "fix", "alternatives"]))
def test_a_problem_shows_no_secret_in_any_of_its_texts(secret: tuple[str, list[str]], field: str) -> None:
    text, hidden = secret
    if field != "key" and "@" in text and "://" not in text:
        return  # In a sentence, what is no URL may be the name of a user.
    if re.fullmatch(r"ssh://[\w.-]+@[\w.-]+(:\d{1,5})?", text):
        return  # A Docker host that is accepted.
    texts: dict[str, Any] = {"key": "a.b", "found": "x", "allowed": "y", "fix": "pulumi config rm --path 'a.b'"}
    texts[field] = path("mirrors", text) if field == "key" else (text,) if field == "alternatives" else text

    assert_hidden(str(Problem(**texts)) + repr(Problem(**texts)), hidden)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("https://robot:token@ghcr.io", '"https://…@ghcr.io"'),
        ("https://robot:token@ghcr.io:99999/v2", '"https://…@ghcr.io:99999/v2"'),
        ("https://registry.example.com/v2?token=abc", '"https://registry.example.com/v2…"'),
        ("https://robot:token", '"https://robot:…"'),
        ("http://registry.example.com", '"http://registry.example.com"'),
        (f"registry:3.1.1@sha256:{'a1' * 32}", '"registry:3.1.1@sha256:…"'),
        ("../data", '"../data"'),
        ("Zürich", '"Zürich"'),
        ({"a": "secret"}, "an object"),
        (["secret"], "a list"),
        (5, "5"),
        (None, "null"),
    ],
)
def test_a_refused_value_is_shown_as_far_as_it_helps(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_command_may_name_the_user_of_the_docker_host() -> None:
    fix = "docker --host ssh://deploy@registry.example.org:2222 stop web"

    assert Problem("registry.url", "port 443, in use by container web", "a free port", fix).fix == fix


def test_a_name_that_cannot_be_shown_is_fixed_by_hand() -> None:
    problem = Problem('mirrors["https://robot:token@ghcr.io"].url', "nothing", "a URL", "pulumi config rm --path …")

    assert problem.key == 'mirrors["…"].url'
    assert "by hand" in problem.fix
