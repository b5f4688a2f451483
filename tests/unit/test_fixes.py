"""Each printed command fixes the problem it is printed for, and all of them together make a configuration usable."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.configuration import configuration
from tests.harness.stack_file import StackFile
from tests.unit.test_config import BAD_VALUES
from tests.unit.test_secrecy import EVERY_KEY, places

MIRROR = {"url": "https://m.example.com", "allow": ["10.0.0.0/8"]}
BCRYPT = "$2y$05$" + "a" * 53


def with_mirror(**changes: Any) -> dict[str, Any]:
    return configuration(mirrors={"docker.io": MIRROR | changes})


def with_registry(**changes: Any) -> dict[str, Any]:
    return configuration(registry=configuration()["registry"] | changes)


def with_passwords(**changes: Any) -> dict[str, Any]:
    return configuration(passwords=configuration()["passwords"] | changes)


#: Beside the table of test_config.py: several problems at once, and texts where an object or a list belongs.
BROKEN: list[dict[str, Any]] = [values for values, _, _ in BAD_VALUES] + [
    {},
    {"registry": {}, "proxy": {}},
    configuration(registry="https://registry.example.com", mirrors="docker.io", proxy="caddy", images="registry:3.1.2"),
    configuration(registry=[], mirrors=[], proxy=5, images=[], acknowledge={}, name_prefix="-", protect_data="maybe"),
    configuration(passwords="text", upstream_passwords=[], certificates="PEM", acme_eab_mac_key="x"),
    configuration(passwords=["a"], stack_secret=None),
    with_passwords(production=5, boss=["list"]),
    with_passwords(**{"two words": "x", "it's": "y", 'quo"ted': "z", "a.b": "w"}),
    with_registry(users="woodpecker"),
    with_registry(users=["woodpecker"]),
    with_registry(users={"woodpecker": "push", "production": None, "boss": 1}),
    with_registry(users={}),
    with_registry(users={"two words": {}, "it's": {"role": "push"}}),
    with_registry(storage="registry-data", log_level=3, drain_timeout=5),
    with_registry(retention={"rules": [5, {"tags": 5}, {"keep": "x", "tags": ["a b"]}], "running_on": "x", "most": 5}),
    with_registry(retention={"rules": [{"keep": "always"}, {"keep": "always"}, {"keep": "always"}]}),
    with_registry(retention={"overwritten": {}, "running_on": [5], "rules": [{"keep": {"days": "x", "y": 1}}]}),
    with_mirror(allow="10.0.0.0/8"),
    with_mirror(allow="10.1.2.3/8, 192.168.0.0/16"),
    with_mirror(allow={"a": "10.0.0.0/8"}),
    with_mirror(allow=None),
    with_mirror(allow=["10.0.0.0/8", "0.0.0.0/0"]),
    with_mirror(allow=["0.0.0.0/1", "128.0.0.0/1"]),
    with_mirror(allow=["office", 5, None, "10.0.0.1/8"]),
    with_mirror(url=None, upstream="https://robot:token@ghcr.io", username="", storage=7),
    configuration(mirrors={"docker.io": "https://m.example.com", "ghcr.io": None, "quay.io": {}, "Bad Name": MIRROR}),
    configuration(mirrors={"docker.io": {"url": "https://m.example.com"}}, acknowledge="open_mirror"),
    configuration(
        mirrors={"docker.io": {"url": "https://m.example.com"}, "ghcr.io": {"url": "https://g.example.com",
                                                                           "username": "robot"}},
        registry=configuration()["registry"] | {"anonymous_url": "https://public.example.com"},
        upstream_passwords={"ghcr.io": "token"},
    ),
    configuration(
        mirrors={"docker.io": {"url": "https://m.example.com"}},
        registry=configuration()["registry"] | {"anonymous_url": "https://public.example.com"},
        acknowledge=["open_upstream_login"],
    ),
    configuration(mirrors={"docker.io": {"url": "https://m.example.com"}}, acknowledge=["open-mirror", 5, "all"]),
    configuration(mirrors={name: MIRROR | {"upstream": "https://a.example.com"} for name in ("a.b", "a-b", "a--b")}),
    configuration(mirrors=dict.fromkeys(("docker.io", "ghcr.io", "quay.io"), MIRROR)),
    configuration(proxy={"metrics_port": 8443, "certificates": {"internal": {}}},
                  registry=configuration()["registry"] | {"url": "https://localhost:8443"}),
    configuration(proxy={"metrics_port": 2015, "certificates": {"internal": True}}),
    configuration(proxy={"certificates": {"internal": {}, "files": {}, "acme": {"email": "ops@example.com"}}}),
    configuration(proxy={"certificates": {"acme": "ops@example.com"}}),
    configuration(proxy={"certificates": "acme"}),
    configuration(proxy={"certificates": {"files": "yes"}}, certificates={"registry.example.com": "PEM"}),
    configuration(proxy={"certificates": {"files": {}}}, certificates={"registry.example.com": {"private_key": 5}}),
    configuration(proxy={"engine": "caddy", "certificates": {"internal": {}}}),
    configuration(proxy={"server": "none", "metrics_port": 9180, "certificates": {"internal": {}}}),
    configuration(proxy={"certificates": {"acme": {"email": "nobody", "directory": "a", "root": "x", "eab": 5}}}),
    configuration(proxy={"certificates": {"acme": {"email": "ops@example.com", "root": "x", "staging": True}}}),
    configuration(upstream_passwords={"ghcr.io": "token", "docker.io": "token"}),
    configuration(mirrors={"docker.io": MIRROR | {"username": "robot", "upstream": "http://hub.example.com:5000"}}),
    configuration(mirrors={"localhost:5000": {"url": "https://m.example.com", "allow": []}}),
    *(
        with_registry(storage={"volume": f"registry-stack-{name}"})
        for name in ("proxy-config", "mirror-docker-io-config", "registry-secrets")
    ),
    configuration(registry=configuration()["registry"] | {"storage": {"volume": "images"}},
                  mirrors={"docker.io": MIRROR | {"storage": {"volume": "images"}}}),
    *(
        with_passwords(boss=text)
        for text in (
            f"boss:{BCRYPT}", f"'{BCRYPT}'", f'"{BCRYPT}"', f" {BCRYPT} ", BCRYPT.replace("$", "$$"), f"x{BCRYPT}",
            f"boss:{BCRYPT}\nci:{BCRYPT}", BCRYPT.replace("$05$", "$10$"), BCRYPT.replace("$05$", "$04$"), BCRYPT[:-1],
            "$apr1$salt$" + "a" * 22, "boss:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=", "$6$salt$" + "b" * 86,
        )
    ),
]  # fmt: skip


def apply_each(make: Callable[[], StackFile]) -> None:
    """Apply each command alone to the broken configuration: its problem is gone."""
    words: list[str] = []
    for problem in make().problems():
        for fix in (problem.fix, *problem.alternatives):
            if "by hand" in fix:
                assert "…" in problem.key, problem
                continue
            stack = make()
            if "acknowledge[" in fix:
                # A list has no gaps: a word is added behind those of the problems before.
                for before in words:
                    stack.run(before)
                words.append(fix)
            stack.run(fix)
            left = [(each.key, each.allowed) for each in stack.problems()]
            assert (problem.key, problem.allowed) not in left, fix


@pytest.mark.parametrize("values", BROKEN)
def test_each_command_fixes_its_problem(values: dict[str, Any]) -> None:
    assert StackFile(values).problems()

    apply_each(lambda: StackFile(values))


@pytest.mark.parametrize("choice", [0, -1], ids=["the first command", "the last alternative"])
@pytest.mark.parametrize("values", BROKEN)
def test_all_commands_together_make_the_configuration_usable(values: dict[str, Any], choice: int) -> None:
    stack = StackFile(values)
    for _ in range(4):
        for problem in stack.problems():
            stack.run((problem.fix, *problem.alternatives)[choice])

    assert stack.problems() == []


@pytest.mark.parametrize("key", ["stack_secret", "passwords", "upstream_passwords", "certificates", "acme_eab_mac_key"])
def test_the_command_for_a_plain_secret_encrypts_it(key: str) -> None:
    values = EVERY_KEY | {"certificates": {"registry.example.com": {"certificate": "x", "private_key": "y"}}}

    apply_each(lambda: StackFile(values, plain=key))


def test_the_command_for_a_docker_context_unsets_it() -> None:
    apply_each(lambda: StackFile(configuration(), DOCKER_CONTEXT="production"))


VALUES = st.sampled_from(
    [
        "",
        "x",
        "-",
        0,
        5,
        99999999999,
        1.5,
        True,
        None,
        [],
        {},
        ["x"],
        {"x": "y"},
        [None],
        "{}",
        "0.0.0.0/0",
        "https://h:80",
    ]
)


@hypothesis_settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sorted(places(EVERY_KEY), key=str)), VALUES), min_size=1, max_size=3))
@example([(("mirrors",), [])])  # beside mirror_url and mirror_defaults
def test_any_value_at_any_place_is_fixed_by_its_commands(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    values = copy.deepcopy(EVERY_KEY)
    for parts, value in changes:
        holder: Any = values
        for part in parts[:-1]:
            holder = holder[part] if isinstance(holder, dict | list) and _has(holder, part) else None
        if isinstance(holder, dict | list) and _has(holder, parts[-1]):
            holder[parts[-1]] = value
    apply_each(lambda: StackFile(values))


def _has(holder: dict[Any, Any] | list[Any], part: str | int) -> bool:
    return part in holder if isinstance(holder, dict) else isinstance(part, int) and part < len(holder)


def commands() -> list[str]:
    """Every command that is printed for ``BROKEN``."""
    problems = [problem for values in BROKEN for problem in StackFile(values).problems()]
    return list(dict.fromkeys(fix for problem in problems for fix in (problem.fix, *problem.alternatives)))


def test_no_command_has_a_placeholder() -> None:
    text = json.dumps(commands())

    assert [
        word for word in ("VALUE", "PORT", "HOST", "NAME", "KEY_ID", "…", "<", ">") if word in text.replace(" < ", "")
    ] == []
