"""The configuration is refused as a whole, with every problem and its fix, and never with a secret."""

from __future__ import annotations

import copy
import datetime
import functools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from components.configuration.loading import load, notices
from components.configuration.problems import ConfigError, path
from components.configuration.settings import upstream_url, without_expired
from tests.harness.certificates import certificate_pair, issue
from tests.harness.configuration import SECRET_KEYS, as_pulumi_hands_over, configuration, example_password, loaded
from tests.unit.test_secrecy import EVERY_KEY, places

NOW = datetime.datetime(2026, 6, 1, 12, 0, tzinfo=datetime.UTC)
BCRYPT = "$2y$05$" + "a" * 53
MIRROR = {"url": "https://mirror.example.com", "allow": ["10.0.0.0/8"]}
OPEN_MIRROR = {"docker.io": {"url": "https://mirror.example.com"}}


def problems(values: dict[str, Any], **keywords: Any) -> dict[str, str]:
    """Text of each problem by its key."""
    with pytest.raises(ConfigError) as caught:
        loaded(values, **keywords)
    return {problem.key: str(problem) for problem in caught.value.problems}


def with_registry(**changes: Any) -> dict[str, Any]:
    return configuration(registry=configuration()["registry"] | changes)


def with_mirror(**changes: Any) -> dict[str, Any]:
    return configuration(mirrors={"docker.io": MIRROR | changes})


def in_folders(registry: str, mirror: str) -> dict[str, Any]:
    return with_registry(storage={"host_path": registry}) | {
        "mirrors": {"docker.io": MIRROR | {"storage": {"host_path": mirror}}}
    }


def with_acme(**acme: Any) -> dict[str, Any]:
    return configuration(proxy={"certificates": {"acme": {"email": "ops@example.com"} | acme}})


def with_files(start: datetime.datetime, days: int) -> dict[str, Any]:
    pair = issue("*.example.com", start=start, days=days).pair()
    return configuration(proxy={"certificates": {"files": {}}}, certificates={"*.example.com": pair})


def test_a_complete_configuration_is_accepted_with_its_defaults() -> None:
    chosen, secrets = loaded(configuration())

    assert chosen.registry.url.netloc == "registry.example.com"
    assert chosen.images.registry == "registry:3.1.2"
    assert chosen.name_prefix == "registry-stack"
    assert chosen.protect_data is True
    assert secrets.passwords["boss"].get_secret_value() == example_password("boss")


def test_empty_defaults_of_the_project_file_count_as_unset() -> None:
    values = configuration(images={}, acknowledge=[], certificates={}, upstream_passwords={})

    assert loaded(values)[0] == loaded(configuration())[0]


def test_everything_that_must_be_set_is_reported_at_once_with_its_command() -> None:
    found = problems({"docker_host": "", "registry": {}, "proxy": {}, "stack_secret": "", "passwords": {}})

    assert set(found) == {"docker_host", "registry.url", "registry.users", "proxy.certificates", "stack_secret"}
    assert (
        "openssl rand -hex 32 | pulumi config set --secret --path 'registry-stack:stack_secret'"
        in (found["stack_secret"])
    )


def test_users_without_passwords_and_passwords_without_users_are_reported_together() -> None:
    found = problems(configuration(passwords={"woodpecker": example_password("x"), "stranger": "y" * 20}))

    assert set(found) == {"passwords.production", "passwords.boss", "passwords.stranger"}
    assert "pulumi config set --secret --path 'registry-stack:passwords.boss'" in found["passwords.boss"]


def test_missing_passwords_are_reported_beside_a_broken_registry_section() -> None:
    found = problems(with_registry(url="http://registry.example.com") | {"passwords": {}})

    assert {"registry.url", "passwords.woodpecker", "passwords.production", "passwords.boss"} == set(found)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "can be guessed"),
        ("short", "can be guessed"),
        ("password1234", "can be guessed"),
        ("woodpeckerwoodpecker", "can be guessed"),
        ("x7" * 40, "longer than 72 bytes"),
        ("é" * 37, "longer than 72 bytes"),
        ("zq7kx2vw9\x00rj4hbm3", "control character"),
        ("$2b$10$tooshort", "looks like a bcrypt hash but is not one"),
        (f"woodpecker:{BCRYPT}", "with the user's name before it (a line of an htpasswd file)"),
        (f"'{BCRYPT}'", "with quotes"),
        (f'"{BCRYPT}"', "with quotes"),
        (f" {BCRYPT}", "with white space"),
        (f"{BCRYPT}\n", "with white space"),
        (BCRYPT.replace("$", "$$"), "with doubled dollar signs"),
        (f"woodpecker:{BCRYPT}".replace("$", "$$"), "doubled dollar signs"),
        *((BCRYPT.replace("$05$", f"${cost}$"), f"a bcrypt hash of cost {cost}") for cost in ("03", "04", "06", "10")),
        ("$apr1$Zk3Yq9h5$ZUglD3CZJT4lBsfEqNCco3", "a hash of type $apr1$"),
        ("$$apr1$$Zk3Yq9h5$$ZUglD3CZJT4lBsfEqNCco3", "a hash of type $apr1$"),
        ("woodpecker:$apr1$Zk3Yq9h5$ZUglD3CZJT4lBsfEqNCco3", "a hash of type $apr1$"),
        ("{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=", "a hash of type {SHA}"),
        ("$5$Zk3Yq9h5$ZUglD3CZJT4lBsfEqNCco3Yq9h5ZUglD3CZJT4lBsfE", "a hash of type $5$"),
        ("$6$Zk3Yq9h5$" + "ZUglD3CZJT4" * 8, "a hash of type $6$"),
        ("'$y$j9T$Zk3Yq9h5$ZUglD3CZJT4lBsfEqNCco3'", "a hash of type $y$"),
        ("$argon2id$v=19$m=65536,t=3,p=4$Zk3Yq9h5$ZUglD3CZJT4", "a hash of type $argon2id$"),
        ("woodpecker:zq7kx2vw9rj4hbm3", "starts with the user's name and a colon"),
    ],
)
def test_a_weak_or_unusable_password_is_refused_without_being_shown(password: str, reason: str) -> None:
    passwords = configuration()["passwords"] | {"woodpecker": password}

    found = problems(configuration(passwords=passwords))

    assert list(found) == ["passwords.woodpecker"]
    assert reason in found["passwords.woodpecker"]
    assert not password or password not in found["passwords.woodpecker"]


def test_a_plain_password_beside_encrypted_ones_in_the_stack_file_is_refused() -> None:
    written = {"passwords": {"woodpecker": {"secure": "v1:x"}, "production": "in-plain-sight", "boss": {"secure": "y"}}}

    with pytest.raises(ConfigError) as caught:
        load(as_pulumi_hands_over(configuration()), SECRET_KEYS, written, {}, NOW)

    (problem,) = caught.value.problems
    assert problem.key == "passwords.production"
    assert "in-plain-sight" not in str(caught.value)


def test_a_plain_secret_is_refused_where_the_stack_file_cannot_be_read() -> None:
    with pytest.raises(ConfigError) as caught:
        load(as_pulumi_hands_over(configuration()), frozenset({"passwords"}), {}, {}, NOW)

    assert [problem.key for problem in caught.value.problems] == ["stack_secret"]


#: Configurations with one problem or two, the key that is to be named, and words of what is allowed there.
BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    # Pulumi begins the names of containers with it, and none may begin with a dash.
    (configuration(name_prefix=""), "name_prefix", "a Docker name"),
    (configuration(docker_host="tcp://203.0.113.7:2375"), "docker_host", "gives root access"),
    (configuration(docker_host="localhost"), "docker_host", "ssh://user@host"),
    (configuration(unknown_key="x"), "unknown_key", "an unknown key"),
    (with_registry(port=5000), "registry.port", "an unknown key"),
    (with_registry(url="http://registry.example.com"), "registry.url", "https:// URL"),
    (with_registry(url="https://registry.example.com/v2"), "registry.url", "without a path"),
    (with_registry(url="https://registry.example.com:2015"), "registry.url", "health check"),
    (with_registry(url="https://localhost"), "registry.url", "public DNS name"),
    *(
        (with_registry(retention=retention), f"registry.retention{key}", text)
        for retention, key, text in (
            ("x", "", "an object with rules"),
            ({"rules": {"tags": "v*"}}, ".rules", "a list of rules"),
            ({"rules": ["v*"]}, ".rules[0]", "a rule, like"),
            ({"rules": [{"tags": "v*"}]}, ".rules[0].keep", "always, or an object"),
            ({"rules": [{"keep": "never"}]}, ".rules[0].keep", "an object"),
            ({"rules": [{"keep": {}}]}, ".rules[0].keep", "newest, days or both"),
            ({"rules": [{"keep": {"newest": 0}}]}, ".rules[0].keep.newest", "a whole number from 1"),
            ({"rules": [{"keep": {"count": 5}}]}, ".rules[0].keep.count", "an unknown key"),
            ({"rules": [{"tags": "app:v*", "keep": "always"}]}, ".rules[0].tags", "a tag, in which"),
            ({"rules": [{"tags": [], "keep": "always"}]}, ".rules[0].tags", "a tag, in which"),
            ({"rules": [{"repositories": "Team/*", "keep": "always"}]}, ".rules[0].repositories", "lower-case"),
            ({"rules": [{"keep": "always"}, {"tags": "v*", "keep": {"days": 1}}]}, ".rules[1]", "no earlier rule"),
            ({"rules": [{"tags": ["v*", "w*"], "keep": "always"}, {"tags": "v1", "keep": {"days": 1}}]}, ".rules[1]",
             "no earlier rule"),
            ({"overwritten": "always"}, ".overwritten", "an object with newest"),
            ({"running_on": "ssh://web-1"}, ".running_on", "a list of Docker hosts"),
            ({"running_on": ["web-1"]}, ".running_on[0]", "ssh://user@host"),
            ({"most": 25}, ".most", "a percentage"),
            ({"most": "101%"}, ".most", "a percentage"),
        )
    ),
    (with_registry(drain_timeout="five"), "registry.drain_timeout", "Go duration"),
    (with_registry(memory_mb=4), "registry.memory_mb", "64"),
    (with_registry(log_level="chatty"), "registry.log_level", "'debug'"),
    (with_registry(storage={"volume": "a", "host_path": "/b"}), "registry.storage", "either volume or host_path"),
    *(
        (with_registry(storage={"host_path": folder}), "registry.storage.host_path", "absolute folder")
        for folder in ("../x", "/srv/../etc", "/", "/.", "//", "///.//", "/etc", "/etc/.", "//proc/", "/dev/shm",
                       "/var", "/root", "/var/./lib/docker/volumes", "/var/run/docker.sock", "/var/log/registry",
                       "/usr")
    ),
    *(
        (in_folders(one, other), 'mirrors["docker.io"].storage.host_path', "none inside another")
        for one, other in (("/srv/data", "/srv/data"), ("/srv/data", "/srv/data/."), ("/srv//data/", "/srv/data/cache"),
                           ("/srv/data/registry", "/srv/data"))
    ),
    (configuration(mirrors={name: {"url": f"https://{name}.example.com", "allow": ["10.0.0.0/8"],
                                   "storage": {"host_path": "/srv/mirror"}} for name in ("ghcr.io", "quay.io")}),
     'mirrors["quay.io"].storage.host_path', "none inside another"),
    (with_registry(drain_timeout="١٢m"), "registry.drain_timeout", "Go duration"),
    (with_mirror(allow=["0.0.0.0/1"]), 'mirrors["docker.io"].allow', "address ranges that may pull"),
    (with_mirror(allow=[f"{first}.0.0.0/8" for first in range(1, 224)]), 'mirrors["docker.io"].allow', "than a /8"),
    (
        with_registry(storage={"volume": "registry-stack-mirror-docker-io-cache"}),
        "registry.storage.volume",
        "nothing else uses",
    ),
    (configuration(mirrors={"docker.io": {"url": "https://m.example.com", "allow": ["10.0.0.0/8"],
                                          "storage": {"volume": "registry-stack-registry-data"}}}),
     'mirrors["docker.io"].storage.volume', "nothing else uses"),
    (configuration(images={"registry": "registry:latest"}), "images.registry", "exact tag"),
    (configuration(images={"registry": "registry:3"}), "images.registry", "all three numbers"),
    (configuration(images={"caddy": "caddy:2"}), "images.caddy", "all three numbers"),
    (configuration(images={"nginx": "nginx:1.31-alpine"}), "images.nginx", "all three numbers"),
    (configuration(images={"caddy": "caddy:2.11.4-alpine"}), "images.caddy", "Caddy 2.11.5 or newer"),
    (configuration(images={"nginx": "nginx:1.29.6"}), "images.nginx", "nginx 1.29.7 or newer"),
    (configuration(images={"registry": "registry:3.1.0@sha256:" + "a" * 64}), "images.registry", "3.1.2 or newer"),
    (configuration(images={"registry": "registry:3.1.1"}), "images.registry", "CVE-2026-85747"),
    (configuration(images={"caddy": "caddy"}), "images.caddy", "exact tag"),
    (configuration(proxy={"server": "apache"}), "proxy.server", "'caddy'"),
    (configuration(images={"nginx": "nginx:mainline"}), "images.nginx", "exact tag"),
    (with_registry(url="https://192.0.2.1") | {"proxy": {"server": "nginx", "certificates": {"files": {}}}},
     "registry.url", "clients send no SNI"),
    (configuration(proxy={"certificates": {}}), "proxy.certificates", "acme, files or internal"),
    (configuration(mirrors={"docker.io": {"url": "https://m.example.com", "allow": ["10.0.0.1/8"]}}),
     'mirrors["docker.io"].allow[0]', "CIDR"),
    (configuration(mirrors={"docker.io": {"url": "https://m.example.com", "allow": ["2001:db8::/32"]}}),
     'mirrors["docker.io"].allow[0]', "IPv6 is not supported"),
    (configuration(mirrors={"docker.io": {"url": "https://m.example.com", "allow": ["10.0.0.0/8"], "ttl": "week"}}),
     'mirrors["docker.io"].ttl', "Go duration"),
    (configuration(mirrors={"docker.io": {"url": "https://registry.example.com", "allow": ["10.0.0.0/8"]}}),
     'mirrors["docker.io"].url', "a different host or port for each service"),
    (configuration(mirrors={"docker.io": {"allow": ["10.0.0.0/8"]}}),
     'mirrors["docker.io"].url', "or mirror_url as one address for all mirrors"),
    (configuration(mirror_url="https://mirror.example.com"),
     'mirrors["docker.io"].url', "a different host or port for each service"),
    (configuration(mirror_url="https://registry.example.com"), "mirror_url", "a different host or port"),
    (configuration(mirror_url="https://all.example.com:80"), "mirror_url", "any port except 80"),
    (configuration(mirror_url="https://192.0.2.1"), "mirror_url", "a public DNS name"),
    (configuration(mirror_url="https://all.example.com/v2"), "mirror_url", "https:// URL without a path"),
    (with_mirror(upstream="https://docker.io"), 'mirrors["docker.io"].upstream', "https://registry-1.docker.io: "),
    (with_mirror(upstream="https://registry.hub.docker.com"),
     'mirrors["docker.io"].upstream', "https://registry-1.docker.io: "),
    (configuration(mirrors={"lscr.io": MIRROR | {"upstream": "https://lscr.io:443"}}),
     'mirrors["lscr.io"].upstream', "https://ghcr.io: "),
    (configuration(mirrors={"images.corp": MIRROR | {"upstream": "http://lscr.io", "username": "robot"}},
                   upstream_passwords={"images.corp": "token"}),
     'mirrors["images.corp"].upstream', "https://ghcr.io: "),
    *((configuration(http_proxy=value), "http_proxy", "the URL of an HTTP proxy without path and login") for value in
      ("proxy.example.com:3128", "socks5://proxy.example.com", "http://robot:token@proxy.example.com:3128",
       "http://proxy.example.com:99999", "http://proxy.example.com/", 3128)),
    *((configuration(no_proxy=[value]), "no_proxy[0]", "a domain with all its hosts") for value in
      ("https://registry.example.org", "*.example.org", "a.example.org,b.example.org", "10.0.0.1/8", "", None)),
    (configuration(no_proxy="registry.example.org"), "no_proxy", "a list of hosts"),
    *((with_mirror(ca=value), 'mirrors["docker.io"].ca', fault) for value, fault in (
        ("root.pem", "not a PEM certificate"),
        (certificate_pair("ca.example.com")["private_key"], "a private key, exposed to everyone"),
        (issue(start=NOW, days=1).pair()["certificate"], "a certificate that expired on 2026-06-02"),
        ("", "not a PEM certificate"))),
    (configuration(mirror_defaults={"ttl": "week"}), "mirror_defaults.ttl", "Go duration"),
    (configuration(mirror_defaults={"allow": ["10.0.0.1/8"]}), "mirror_defaults.allow[0]", "CIDR"),
    (configuration(mirror_defaults={"allow": "10.0.0.0/8"}), "mirror_defaults.allow", "a list of address ranges"),
    (configuration(mirror_defaults="24h"), "mirror_defaults", "an object with ttl, allow or both"),
    (configuration(mirror_defaults={"url": "https://all.example.com"}), "mirror_defaults.url", "the keys in the table"),
    (configuration(mirror_defaults={"allow": ["0.0.0.0/0"]}, mirrors=OPEN_MIRROR),
     "mirror_defaults.allow", "more public addresses than a /8 network"),
    (configuration(mirror_defaults={"allow": []}, mirrors=OPEN_MIRROR), "mirror_defaults.allow", "no allow-list"),
    (configuration(mirror_defaults={"allow": ["10.0.0.0/8"]}, mirrors={"docker.io": MIRROR | {"allow": []}}),
     'mirrors["docker.io"].allow', "no allow-list"),
    (configuration(mirror_url="https://all.example.com", mirrors=None), "mirror_url", "only together with mirrors"),
    (configuration(mirrors={"images.corp": {"url": "https://m.example.com", "allow": ["10.0.0.0/8"]}}),
     'mirrors["images.corp"].upstream', "API URL of the upstream"),
    (configuration(mirrors=OPEN_MIRROR), 'mirrors["docker.io"].allow', "fill its disk"),
    (configuration(mirrors={"docker.io": OPEN_MIRROR["docker.io"] | {"allow": ["0.0.0.0/0"]}}),
     'mirrors["docker.io"].allow', "more public addresses than a /8 network"),
    (configuration(mirrors={"docker.io": OPEN_MIRROR["docker.io"] | {"username": "robot"}},
                   upstream_passwords={"docker.io": "token"}, acknowledge=["open_mirror"]),
     'mirrors["docker.io"].allow', "every repository that the upstream login can read"),
    (configuration(mirrors={"docker.io": {"url": "https://m.example.com", "allow": ["10.0.0.0/8"],
                                          "username": "robot"}}),
     'upstream_passwords["docker.io"]', "access token"),
    (configuration(upstream_passwords={"docker.io": "token"}), 'upstream_passwords["docker.io"]', "username"),
    (configuration(stack_secret="abc"), "stack_secret", "64 hexadecimal digits"),
    (configuration(stack_secret="g" * 64), "stack_secret", "64 hexadecimal digits"),
    (configuration(docker_host="ssh://registry.example.com:65536"), "docker_host", "ssh://user@host"),
    (configuration(docker_host="ssh://-v@registry.example.com"), "docker_host", "ssh://user@host"),
    (configuration(images={"registry": "localhost:99999/registry:3.1.2"}), "images.registry", "exact tag"),
    (with_registry(url="https://registry.example.com:80"), "registry.url", "any port except 80"),
    (with_registry(url="https://registry.example.com:80") | {"proxy": {"certificates": {"internal": {}}}},
     "registry.url", "any port except 80"),
    (with_registry(url="https://256.0.0.1") | {"proxy": {"certificates": {"internal": {}}}},
     "registry.url", "https:// URL"),
    (configuration(proxy={"metrics_port": True, "certificates": {"internal": {}}}),
     "proxy.metrics_port", "a whole number from 1 to 65535"),
    (configuration(proxy="caddy"), "proxy", "a source of certificates"),
    (configuration(acknowledge="open_mirror"), "acknowledge", "a list of these words: open_mirror"),
    (configuration(acknowledge={"open_mirror": True}), "acknowledge", "a list of these words: open_mirror"),
    (with_registry(users=["woodpecker"]), "registry.users", "an object with a role for each user"),
    (with_registry(users={"boss": "admin"}), "registry.users.boss", "an object with a role"),
    (with_mirror(allow="10.0.0.0/8"), 'mirrors["docker.io"].allow', "a list of address ranges"),
    (with_mirror(allow=["0.0.0.0/1", "128.0.0.0/1"]), 'mirrors["docker.io"].allow', "address ranges that may pull"),
    (with_mirror(upstream="https://hub.example.com:0"), 'mirrors["docker.io"].upstream', "origin of a registry"),
    (with_mirror(upstream="https://hub.example.com:65536"), 'mirrors["docker.io"].upstream', "origin of a registry"),
    (with_mirror(upstream="https://robot:token@hub.example.com"), 'mirrors["docker.io"].upstream', "`username`"),
    (with_mirror(ttl=5), 'mirrors["docker.io"].ttl', "Go duration"),
    (with_mirror(upstream=5), 'mirrors["docker.io"].upstream', "origin of a registry"),
    (with_mirror(username=""), 'mirrors["docker.io"].username', "1 to 255 characters"),
    (configuration(mirrors={"localhost:65536": {"url": "https://m.example.com", "allow": ["10.0.0.0/8"]}}),
     'mirrors["localhost:65536"]', "name of a registry"),
    (with_acme(email="ops@example"), "proxy.certificates.acme.email", "an e-mail address"),
    (with_acme(email="ops@example..com"), "proxy.certificates.acme.email", "an e-mail address"),
    (with_acme(email="`ops@example.com"), "proxy.certificates.acme.email", "an e-mail address"),
    (with_acme(directory="https://:::///"), "proxy.certificates.acme.directory", "URL of an ACME directory"),
    (with_acme(directory="https://ca.example.com:65536/dir"), "proxy.certificates.acme.directory", "URL of an ACME"),
    *(
        (with_registry(storage={"volume": f"registry-stack-{name}"}), "registry.storage.volume", "nothing else uses")
        for name in ("proxy-config", "proxy-data", "registry-secrets", "mirror-docker-io-config", "mirror-x-cache")
    ),
    (with_mirror(storage={"volume": "registry-stack-registry-data"}), 'mirrors["docker.io"].storage.volume',
     "reserved for the stack"),
    (configuration(name_prefix="a b"), "name_prefix", "Docker name"),
    (with_registry(anonymous_url="https://public.example.com"), "registry.anonymous_url", "without a login"),
    (with_registry(anonymous_url="https://registry.example.com"), "registry.anonymous_url", "a different host"),
    (with_registry(users={"boss": {"role": "admin", "expires": "31.1.2027"}}), "registry.users.boss.expires",
     "a date like 2027-01-31"),
    (configuration(acknowledge=["everything"]), "acknowledge[0]", "open_mirror"),
    (configuration(proxy={"certificates": {"files": {}}}), 'certificates["registry.example.com"]', "chain"),
    (with_acme(directory="https://ca.example.com/dir", staging=True), "proxy.certificates.acme",
     "either directory"),
    (with_acme(root="no PEM"), "proxy.certificates.acme", "root only together with directory"),
    (with_acme(directory="https://ca.example.com", root="no PEM"),
     "proxy.certificates.acme.root", "not a PEM certificate"),
    (with_acme(directory="https://ca.example.com", root=certificate_pair("a.example.com")["private_key"]),
     "proxy.certificates.acme.root", "exposed to everyone"),
    (with_acme(eab={}), "proxy.certificates.acme.eab.key_id", "nothing"),
    (with_acme(eab={"key_id": "a {b}"}), "proxy.certificates.acme.eab.key_id", "the key ID from the"),
    (with_acme(eab={"key_id": "kid-1"}), "acme_eab_mac_key", "nothing, although"),
    (with_acme(eab={"key_id": "kid-1"}) | {"acme_eab_mac_key": "c2hvcnQ="}, "acme_eab_mac_key", "base64url"),
    (with_acme(eab={"key_id": "kid-1"}) | {"acme_eab_mac_key": "a" * 65}, "acme_eab_mac_key", "base64url"),
    (with_acme() | {"acme_eab_mac_key": "c2VjcmV0c2VjcmV0c2VjcmV0"}, "acme_eab_mac_key", "an unused MAC key"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "key", "words"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_key_and_what_is_allowed(values: dict[str, Any], key: str, words: str) -> None:
    found = problems(values)

    assert words in found[key]
    assert "fix:" in found[key]


NAMES = st.lists(
    st.from_regex(r"[a-z0-9_.-]{1,8}", fullmatch=True).filter(lambda one: one not in (".", "..")), max_size=3
)


@st.composite
def spelled(draw: st.DrawFn, parts: list[str]) -> str:
    """A folder with slashes and dots that mean nothing."""
    between = st.sampled_from(["/", "//", "/./", "/././/"])
    return "".join(draw(between) + part for part in parts) + draw(st.sampled_from(["", "/", "/.", "//"]))


@hypothesis_settings(max_examples=60)
@given(NAMES, NAMES, st.booleans(), st.data())
def test_two_spellings_never_lead_two_stores_to_one_folder_nor_into_each_other(
    shared: list[str], deeper: list[str], registry_first: bool, data: st.DataObject
) -> None:
    outer = data.draw(spelled(["srv", *shared]))
    inner = data.draw(spelled(["srv", *shared, *deeper]))
    one, other = (outer, inner) if registry_first else (inner, outer)

    found = problems(in_folders(one, other))

    assert list(found) == ['mirrors["docker.io"].storage.host_path']


@hypothesis_settings(max_examples=60)
@given(st.sampled_from(["/", "/etc", "/usr/lib", "/var", "/var/lib/docker", "/dev/shm", "/run/docker.sock"]), st.data())
def test_no_spelling_of_a_folder_of_the_system_is_accepted(folder: str, data: st.DataObject) -> None:
    text = data.draw(spelled([part for part in folder.split("/") if part])) or "/"

    assert set(problems(with_registry(storage={"host_path": text}))) == {"registry.storage.host_path"}


@pytest.mark.parametrize("digit", ["\u0661", "\u0967", "\uff11"])
def test_a_digit_of_another_script_is_refused_wherever_a_value_may_have_digits(digit: str) -> None:
    tried = []
    for parts in places(EVERY_KEY):
        values: Any = copy.deepcopy(EVERY_KEY)
        *inside, last = parts
        holder = functools.reduce(lambda value, part: value[part], inside, values)
        text = str(holder[last])
        if isinstance(holder[last], dict | list) or not re.search("[0-9]", text) or parts[0] in SECRET_KEYS:
            continue
        holder[last] = re.sub("[0-9]", digit, text, count=1)
        assert path(*parts) in problems(values), text
        tried.append(parts)
    assert len(tried) > 15


def test_several_dangers_are_acknowledged_behind_what_is_there_already() -> None:
    values = with_registry(anonymous_url="https://public.example.com") | {
        "mirrors": {
            "docker.io": {"url": "https://mirror.example.com"},
            "ghcr.io": {"url": "https://ghcr.example.com", "username": "robot"},
            "quay.io": {"url": "https://quay.example.com"},
        },
        "upstream_passwords": {"ghcr.io": "token"},
    }

    for acknowledge, indexes in (([], (0, 1, 0, 2)), (["open_mirror"], (None, 1, None, 2))):
        found = problems(values | {"acknowledge": acknowledge})
        keys = [
            *(path("mirrors", name, "allow") for name in ("docker.io", "ghcr.io", "quay.io")),
            "registry.anonymous_url",
        ]
        commands = [found.get(key, "").partition("acknowledge[")[2].split("]")[0] for key in keys]
        assert commands == ["" if index is None else str(index) for index in indexes]


def test_a_broken_secret_does_not_make_the_others_look_missing() -> None:
    passwords = configuration()["passwords"] | {"boss": ["a", "list"]}

    assert set(problems(configuration(passwords=passwords))) == {"passwords.boss"}


def test_a_broken_list_of_users_does_not_make_passwords_look_unused() -> None:
    assert set(problems(with_registry(users="woodpecker"))) == {"registry.users"}


def test_a_broken_mirror_does_not_make_its_password_look_unused() -> None:
    values = with_mirror(username="robot", ttl="week") | {"upstream_passwords": {"docker.io": "token"}}

    assert set(problems(values)) == {'mirrors["docker.io"].ttl'}


def test_a_mirror_needs_no_address_of_its_own_beside_one_for_all() -> None:
    mirrors = {"docker.io": {"allow": ["10.0.0.0/8"]}, "ghcr.io": {}}
    values = configuration(mirrors=mirrors, mirror_url="https://mirror.example.com", acknowledge=["open_mirror"])

    found = loaded(values)[0]

    assert str(found.mirror_url) == "https://mirror.example.com"
    assert [mirror.url for mirror in found.mirrors.values()] == [None, None]


def test_a_broken_address_for_all_mirrors_does_not_make_their_own_look_missing() -> None:
    values = configuration(mirrors={"docker.io": {"allow": ["10.0.0.0/8"]}}, mirror_url="http://mirror.example.com")

    assert set(problems(values)) == {"mirror_url"}


def test_a_broken_mirror_does_not_make_the_address_for_all_look_unused() -> None:
    values = with_mirror(ttl="week") | {"mirror_url": "https://all.example.com"}

    assert set(problems(values)) == {'mirrors["docker.io"].ttl'}


def test_a_mirror_of_lscr_io_asks_the_registry_that_has_its_images() -> None:
    found = loaded(configuration(mirrors={"lscr.io": MIRROR}))[0]

    assert upstream_url("lscr.io", found.mirrors["lscr.io"]) == "https://ghcr.io"


def test_a_mirror_has_the_defaults_of_the_keys_that_it_does_not_set() -> None:
    mirrors = {
        "docker.io": {"url": "https://mirror.example.com"},
        "ghcr.io": {"url": "https://ghcr.example.com", "ttl": "168h", "allow": ["192.168.0.0/16"]},
    }
    defaults = {"ttl": "24h", "allow": ["10.0.0.0/8"]}

    found = loaded(configuration(mirrors=mirrors, mirror_defaults=defaults))[0].mirrors

    assert [(mirror.ttl, mirror.allow) for mirror in found.values()] == [
        ("24h", ("10.0.0.0/8",)),
        ("168h", ("192.168.0.0/16",)),
    ]


def test_a_default_list_that_is_too_wide_is_one_problem_for_each_danger() -> None:
    mirrors = {name: {"url": f"https://{name}.example.com"} for name in ("docker.io", "ghcr.io", "quay.io")}
    mirrors["ghcr.io"]["username"] = "robot"
    values = configuration(mirrors=mirrors, mirror_defaults={"allow": ["0.0.0.0/0"]})

    with pytest.raises(ConfigError) as caught:
        loaded(values | {"upstream_passwords": {"ghcr.io": "token"}})

    assert [problem.key for problem in caught.value.problems] == ["mirror_defaults.allow"] * 2


def test_broken_defaults_do_not_make_the_mirrors_look_open() -> None:
    assert set(problems(configuration(mirrors=OPEN_MIRROR, mirror_defaults={"ttl": 5}))) == {"mirror_defaults.ttl"}


def test_a_stack_secret_may_have_large_letters_and_more_digits() -> None:
    for stack_secret in ("AB" * 32, "0123456789abcdefABCDEF" * 4):
        assert loaded(configuration(stack_secret=stack_secret))[1].stack_secret.get_secret_value() == stack_secret


def test_certificates_without_choices_may_be_a_text_since_the_cli_sets_texts_alone() -> None:
    chosen = loaded(configuration(proxy={"certificates": {"internal": "{}"}}))[0]

    assert chosen.proxy.certificates.source == "internal"


def test_https_on_port_80_is_possible_with_nginx_and_certificates_of_ones_own() -> None:
    values = with_registry(url="https://registry.example.com:80")
    proxy = {"server": "nginx", "certificates": {"internal": {}}}

    assert loaded(values | {"proxy": proxy})[0].registry.url.port == 80


def test_names_of_users_must_be_safe_and_not_the_internal_one() -> None:
    users = {"a:b": {}, "operations": {}}

    found = problems(with_registry(users=users) | {"passwords": {name: example_password("u") for name in users}})

    assert set(found) == {'registry.users["a:b"]', "registry.users.operations"}


def test_two_upstreams_with_one_container_name_are_refused() -> None:
    mirror = {"upstream": "https://a.example.com", "allow": ["10.0.0.0/8"]}

    found = problems(
        configuration(
            mirrors={
                "a.b": mirror | {"url": "https://m1.example.com"},
                "a-b": mirror | {"url": "https://m2.example.com"},
            }
        )
    )

    assert set(found) == {'mirrors["a.b"]', "mirrors.a-b"}


def test_an_exported_docker_context_is_refused() -> None:
    assert "unset DOCKER_CONTEXT" in problems(configuration(), environment={"DOCKER_CONTEXT": "prod"})["DOCKER_CONTEXT"]


def test_an_open_mirror_is_accepted_by_name_or_on_a_loopback_address() -> None:
    loopback = {"address": "127.0.0.1", "certificates": {"internal": {}}}

    assert loaded(configuration(mirrors=OPEN_MIRROR, acknowledge=["open_mirror"]))[0].mirrors
    assert loaded(configuration(mirrors=OPEN_MIRROR, proxy=loopback))[0].mirrors


def test_all_problems_of_different_sections_come_in_one_report() -> None:
    found = problems(
        configuration(
            docker_host="x",
            registry={"url": "http://a"},
            mirrors={"nowhere": {"url": "https://m.example.com"}, "docker.io": {"url": "https://n", "allow": ["x"]}},
            images={"registry": "registry:latest"},
        ),
        environment={"DOCKER_CONTEXT": "x"},
    )

    assert {
        "DOCKER_CONTEXT",
        "docker_host",
        "registry.url",
        "registry.users",
        "images.registry",
        "mirrors.nowhere.upstream",
        "mirrors.nowhere.allow",
        'mirrors["docker.io"].allow[0]',
        "passwords.boss",
    } <= set(found)


@hypothesis_settings(max_examples=25)
@given(st.text(min_size=1, max_size=40))
def test_no_value_of_a_secret_appears_in_a_report(secret: str) -> None:
    marked = f"<{secret}>"
    values = configuration(
        passwords={"woodpecker": marked, "production": [marked]},
        stack_secret=marked,
        upstream_passwords={"docker.io": {"nested": marked}},
        certificates={"registry.example.com": {"certificate": marked, "private_key": marked, "extra": marked}},
        acme_eab_mac_key=marked,
    )

    with pytest.raises(ConfigError) as caught:
        loaded(values)

    assert marked not in str(caught.value)
    assert json.dumps(marked) not in str(caught.value)


def test_an_expiry_is_announced_for_two_weeks_and_then_the_user_is_gone() -> None:
    users = {"woodpecker": {"role": "push"}, "production": {"expires": "2027-01-31"}, "boss": {"role": "admin"}}
    chosen, secrets = loaded(with_registry(users=users))

    def at(*day: int) -> tuple[list[str], set[str]]:
        now = datetime.datetime(*day, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]
        return notices(chosen, secrets, now), set(without_expired(chosen, now.date()).registry.users)

    assert at(2027, 1, 16) == ([], {"woodpecker", "production", "boss"})
    assert at(2027, 1, 17)[0] == ["user production expires on 2027-01-31, in 14 days"]
    assert "in 0 days" in at(2027, 1, 31)[0][0]
    assert at(2027, 1, 31)[1] == {"woodpecker", "production", "boss"}
    assert "can no longer log in" in at(2027, 2, 1)[0][0]
    assert at(2027, 2, 1)[1] == {"woodpecker", "boss"}


def test_a_date_that_yaml_turned_into_a_time_is_read_as_the_day() -> None:
    users = {user: {"expires": "2027-01-31T00:00:00Z"} for user in configuration()["passwords"]}

    assert loaded(with_registry(users=users))[0].registry.users["boss"].expires == datetime.date(2027, 1, 31)


@pytest.mark.parametrize("days", [21, 1, 0])
def test_the_end_of_a_certificate_is_announced_three_weeks_before_with_the_command_that_replaces_it(days: int) -> None:
    values = with_files(NOW - datetime.timedelta(hours=1), days + 1)

    (found,) = notices(*loaded(values, now=NOW), NOW)

    assert found.startswith(
        f"certificate *.example.com expires in {days} days; to replace it, run: pulumi config set --secret"
    )
    assert 'certificates["*.example.com"].private_key' in found


def test_the_end_of_the_authority_of_an_upstream_is_announced() -> None:
    def announced(*days: int) -> list[str]:
        pem = "".join(issue(start=NOW - datetime.timedelta(hours=1), days=each).pair()["certificate"] for each in days)
        return notices(*loaded(with_mirror(ca=pem), now=NOW), NOW)

    assert announced(2, 90) == [], "a later authority is there already"
    (found,) = announced(1, 2)
    assert found.startswith('mirrors["docker.io"].ca expires in 1 days; then the mirror no longer trusts its upstream.')


def test_a_certificate_with_more_than_three_weeks_left_is_not_mentioned() -> None:
    assert notices(*loaded(with_files(NOW, 22), now=NOW), NOW) == []


@pytest.mark.parametrize(
    "unused",
    [
        certificate_pair("former.example.com"),
        issue("former.example.com", start=NOW - datetime.timedelta(days=90), days=80).pair(),
        {"certificate": "no PEM", "private_key": "no PEM"},
    ],
    ids=["whole", "ended", "broken"],
)
def test_a_certificate_that_serves_no_host_is_named_with_the_command_that_removes_it(unused: dict[str, str]) -> None:
    values = with_files(NOW, 90)
    values["certificates"] = {"former.example.com": unused} | values["certificates"]

    (found,) = notices(*loaded(values, now=NOW), NOW)

    assert found.startswith("certificate former.example.com covers no configured host")
    assert found.endswith("""pulumi config rm --path 'registry-stack:certificates["former.example.com"]'""")


def test_a_certificate_that_ended_stops_the_preview_with_the_command_that_replaces_it() -> None:
    found = problems(with_files(NOW - datetime.timedelta(days=22), 21), now=NOW)

    assert "a certificate that expired on 2026-05-31 12:00 UTC" in found['certificates["*.example.com"]']
    assert 'certificates["*.example.com"].certificate' in found['certificates["*.example.com"]']


def test_acme_asks_the_directory_that_was_chosen() -> None:
    def directory(**acme: Any) -> str:
        chosen = loaded(with_acme(**acme))[0].proxy.certificates.acme
        assert chosen
        return chosen.directory_url

    assert directory() == "https://acme-v02.api.letsencrypt.org/directory"
    assert directory(staging=True) == "https://acme-staging-v02.api.letsencrypt.org/directory"
    assert directory(staging=False, directory="https://ca.example.com/dir") == "https://ca.example.com/dir"


def test_a_proxy_of_ones_own_takes_no_certificates_and_is_on_a_loopback_address() -> None:
    found = problems(configuration(proxy={"server": "none", "certificates": {"internal": {}}}))

    assert set(found) == {"proxy.address", "proxy.certificates.internal"}
    assert "proxy.address' 127.0.0.1" in found["proxy.address"]
    assert loaded(configuration(proxy={"server": "none", "address": "127.0.0.2"}))


def test_a_proxy_of_ones_own_does_not_make_an_open_mirror_less_open() -> None:
    own = {"server": "none", "address": "127.0.0.1"}

    assert set(problems(configuration(mirrors=OPEN_MIRROR, proxy=own))) == {'mirrors["docker.io"].allow'}


def test_a_mirror_section_that_is_no_object_is_refused() -> None:
    assert "mirrors" in problems(configuration(mirrors=["docker.io"]))


def test_settings_and_secrets_never_print_a_secret() -> None:
    chosen, secrets = loaded(configuration())

    assert example_password("boss") not in repr(secrets) + str(secrets) + repr(chosen)


def test_the_former_key_of_the_server_is_renamed_and_not_just_removed() -> None:
    found = problems(configuration(proxy={"engine": "nginx", "certificates": {"files": {}}}))

    assert list(found) == ["proxy.engine"]
    assert "'registry-stack:proxy.server' nginx && pulumi config rm" in found["proxy.engine"]
