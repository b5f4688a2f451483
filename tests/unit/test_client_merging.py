"""Our entries in the files of clients: what is added, what stays, and what is left after the entries are taken out."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.configuration.fields import Endpoint
from components.render.clients import Mirror, buildkitd_toml, daemon_json, hosts_toml, registries_yaml
from operations.clients.merging import Unmergeable, add, contains, data, take_out, without_mirrors

HUB = Mirror("docker.io", Endpoint("mirror.example.com", 443))
GHCR = Mirror("ghcr.io", Endpoint("ghcr.mirror.example.com", 443))
DAEMON = daemon_json(HUB, {})
HOSTS = hosts_toml(HUB, "../mirror.example.com/ca.crt")
BUILDKIT = buildkitd_toml([HUB, GHCR], "/etc/buildkit/ca.crt")
YAML = registries_yaml([HUB, GHCR], "/etc/rancher/k3s/ca.crt")

FOREIGN_HOSTS = """\
# our platform team
server = "https://registry-1.docker.io" # the origin

# the old mirror
[host."https://old.example.com"]  # keep
  capabilities = ["pull"]

  [host."https://old.example.com".header]
    x-team = "a"
"""
FOREIGN_BUILDKIT = """\
debug = true # for now

[registry."docker.io"]
  mirrors = ["old.example.com"] # first the old one

[worker.oci]
  gc = true

# plain
[registry."local:5000"]
  http = true
"""
FOREIGN_YAML = """\
# of the platform team
mirrors:
  docker.io:   # the old mirror
    endpoint:
      - "https://old.example.com"  # Berlin
  "*":
    endpoint: ["https://any.example.com"]
configs:
  # the login
  registry.example.com:
    auth: {username: robot, password: example}
"""


def test_daemon_json_keeps_its_indentation_its_keys_and_the_other_mirrors() -> None:
    text = '{\n\t"log-level": "debug",\n\t"registry-mirrors": ["https://old.example.com"]\n}'

    merged = add("daemon.json", text, DAEMON)

    assert json.loads(merged) == {
        "log-level": "debug",
        "registry-mirrors": ["https://mirror.example.com", "https://old.example.com"],
    }
    assert '\n\t"log-level"' in merged


def test_hosts_toml_keeps_comments_and_gets_our_host_before_the_others() -> None:
    merged = add("hosts.toml", FOREIGN_HOSTS, HOSTS)

    assert list(tomllib.loads(merged)["host"]) == ["https://mirror.example.com", "https://old.example.com"]
    first, second = FOREIGN_HOSTS.split("\n\n", 1)
    assert merged.startswith(first)
    assert merged.endswith(second)


def test_buildkitd_toml_keeps_comments_and_order() -> None:
    merged = add("buildkitd.toml", FOREIGN_BUILDKIT, BUILDKIT)

    found = tomllib.loads(merged)
    assert found["registry"]["docker.io"]["mirrors"] == ["mirror.example.com", "old.example.com"]
    assert found["registry"]["local:5000"] == {"http": True}
    assert found["worker"] == {"oci": {"gc": True}}
    kept = [line for line in FOREIGN_BUILDKIT.splitlines() if line and "mirrors" not in line]
    assert [line for line in merged.splitlines() if line in kept] == kept
    assert "# first the old one" in merged


def test_registries_yaml_keeps_every_line() -> None:
    merged = add("registries.yaml", FOREIGN_YAML, YAML)

    lines = iter(merged.splitlines())
    assert all(line in lines for line in FOREIGN_YAML.splitlines())  # in the same order
    assert "# the login\n  registry.example.com" in merged
    found = yaml.safe_load(merged)
    assert found["mirrors"]["docker.io"]["endpoint"] == ["https://mirror.example.com", "https://old.example.com"]
    assert found["mirrors"]["ghcr.io"] == {"endpoint": ["https://ghcr.mirror.example.com"]}
    assert found["configs"]["registry.example.com"] == {"auth": {"username": "robot", "password": "example"}}


@pytest.mark.parametrize(
    "text",
    [
        "mirrors: {docker.io: {endpoint: [https://old.example.com]}}\n",
        "mirrors: {}\nconfigs: {}\n",
        "# nothing yet\n",
        "mirrors:\n  docker.io:\n    endpoint:\n    - https://old.example.com",
        "configs:\n  a.example.com:\n    tls: {insecure_skip_verify: true}\n",
    ],
)
def test_registries_yaml_of_any_style_gets_our_entries_and_gives_them_back(text: str) -> None:
    merged = add("registries.yaml", text, YAML)

    assert contains("registries.yaml", merged, YAML)
    assert take_out("registries.yaml", merged, text, merged) == text


@pytest.mark.parametrize(
    ("path", "text", "ours"),
    [
        ("hosts.toml", FOREIGN_HOSTS, HOSTS),
        ("buildkitd.toml", FOREIGN_BUILDKIT, BUILDKIT),
        ("registries.yaml", FOREIGN_YAML, YAML),
        ("daemon.json", '{"debug": true}', DAEMON),
        ("hosts.toml", None, HOSTS),
        ("registries.yaml", None, YAML),
        ("daemon.json", None, DAEMON),
    ],
)
def test_a_second_addition_changes_nothing(path: str, text: str | None, ours: str) -> None:
    once = add(path, text, ours)

    assert add(path, once, ours) == once
    assert contains(path, once, ours)
    assert not contains(path, text, ours)


@pytest.mark.parametrize(
    ("path", "text", "ours", "later"),
    [
        ("hosts.toml", FOREIGN_HOSTS, HOSTS, '\n[host."https://new.example.com"]\n'),
        ("hosts.toml", None, HOSTS, '\n[host."https://new.example.com"]\n'),
        ("buildkitd.toml", FOREIGN_BUILDKIT, BUILDKIT, '\n[registry."new"]\n  http = true\n'),
        ("buildkitd.toml", None, BUILDKIT, '\n[registry."new"]\n  http = true\n'),
        ("registries.yaml", FOREIGN_YAML, YAML, "  new.example.com: {}\n"),
    ],
)
def test_only_our_entries_go_from_a_file_that_others_changed(
    path: str, text: str | None, ours: str, later: str
) -> None:
    after = add(path, text, ours)

    result = take_out(path, after + later, text, after)

    assert result is not None
    assert data(path, result) == data(path, (text or "") + later)
    lines = iter(result.splitlines())
    assert all(line in lines for line in (text or "").splitlines())


def test_entry_of_others_in_a_table_of_ours_stays() -> None:
    after = add("hosts.toml", FOREIGN_HOSTS, HOSTS)
    changed = after.replace('dial_timeout = "3s"', 'dial_timeout = "3s"\n  skip_verify = true')

    result = take_out("hosts.toml", changed.replace("# the old mirror\n", ""), FOREIGN_HOSTS, after)

    assert tomllib.loads(result or "")["host"]["https://mirror.example.com"] == {"skip_verify": True}


def test_entries_that_cannot_be_told_apart_are_left_to_the_operator() -> None:
    after = add("registries.yaml", None, YAML)
    changed = after.replace("mirrors:\n", "mirrors:\n  new.example.com: {}\n")

    with pytest.raises(Unmergeable, match="by hand"):
        take_out("registries.yaml", changed, None, after)


@pytest.mark.parametrize(
    ("path", "ours", "before", "text"),
    [
        ("registries.yaml", YAML, None, "# by hand\nconfigs: {}\n"),
        ("registries.yaml", YAML, FOREIGN_YAML, FOREIGN_YAML + "  new.example.com: {}\n"),
        ("hosts.toml", HOSTS, None, 'server = "https://new.example.com"\n'),
        ("daemon.json", DAEMON, None, '{"debug":   true}'),
        ("daemon.json", DAEMON, '{"registry-mirrors": ["https://a"]}', '{"registry-mirrors":   ["https://a"]}'),
    ],
)
def test_file_from_which_someone_removed_our_entries_stays(path: str, ours: str, before: str | None, text: str) -> None:
    assert take_out(path, text, before, add(path, before, ours)) == text


@pytest.mark.parametrize("before", [None, "{}", '{"registry-mirrors": ["https://old.example.com"]}'])
def test_mirror_with_a_slash_that_someone_added_is_still_ours(before: str | None) -> None:
    after = add("daemon.json", before, DAEMON)

    result = take_out("daemon.json", after.replace("mirror.example.com", "mirror.example.com/"), before, after)

    assert data("daemon.json", result or "") == data("daemon.json", before or "")


def test_entries_that_the_toml_library_cannot_take_out_are_left_to_the_operator() -> None:
    after = add("buildkitd.toml", None, BUILDKIT)
    host = '[registry."mirror.example.com"]'

    with pytest.raises(Unmergeable, match="by hand"):
        take_out("buildkitd.toml", after.replace(host, f"[registry]\n{host}"), None, after)


def test_half_of_a_surrogate_pair_stays_an_escape() -> None:
    assert "\\ud800" in add("daemon.json", '{"labels": ["\\ud800", "ä"]}', DAEMON)


def test_entry_of_ours_that_someone_changed_is_left_to_the_operator() -> None:
    after = add("registries.yaml", None, YAML)

    with pytest.raises(Unmergeable, match="by hand"):
        take_out("registries.yaml", after.replace("https://mirror.", "https://other."), None, after)


@pytest.mark.parametrize(("path", "ours"), [("daemon.json", DAEMON), ("hosts.toml", HOSTS), ("registries.yaml", YAML)])
def test_new_file_that_others_only_formatted_goes(path: str, ours: str) -> None:
    assert take_out(path, ours + "\n", None, ours) is None


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("daemon.json", '{\n  "debug": true,\n}', "line 3"),
        ("daemon.json", "[]", "does not contain an object"),
        ("daemon.json", '{"a": 1, "a": 2}', "a is there twice"),
        ("daemon.json", '{"a": NaN}', "cannot read a value"),
        ("daemon.json", '{"a": 1e999}', "cannot read a value"),
        ("daemon.json", '{"registry-mirrors": "https://a.example.com"}', "registry-mirrors is not a list"),
        ("hosts.toml", "server = \n", "not valid TOML"),
        ("hosts.toml", 'host = "x"\n', "host is not an object"),
        ("hosts.toml", 'host = {"https://a" = {}}\n', "by hand"),
        ("registries.yaml", "a: b: c\n", "line 1"),
        ("registries.yaml", "mirrors:\n", "mirrors is not an object"),
        ("registries.yaml", "a: 2026-99-99\n", "cannot read a value"),
        ("registries.yaml", "a: !!bool x\n", "cannot read a value"),
        ("registries.yaml", "a: !!int ''\n", "cannot read a value"),
        ("registries.yaml", f"a: {'[' * 9999}{']' * 9999}\n", "cannot read a value"),
        ("daemon.json", f'{{"a": {"1" * 5000}}}', "cannot read a value"),
        ("daemon.json", f'{{"a": {"[" * 99999}{"]" * 99999}}}', "cannot read a value"),
        ("hosts.toml", f"a = {'1' * 5000}", "cannot read a value"),
        ("ca.crt", "a certificate of someone else", "not from this command"),
        ("50-registry-stack.conf", "unqualified-search-registries = []", "not from this command"),
    ],
)
def test_file_that_cannot_be_merged_is_refused_with_the_reason(path: str, text: str, reason: str) -> None:
    ours = {"daemon.json": DAEMON, "hosts.toml": HOSTS, "registries.yaml": YAML}.get(path, "ours")

    with pytest.raises(Unmergeable, match=reason):
        add(path, text, ours)


def test_docker_forgets_its_mirrors_by_an_empty_list() -> None:
    assert json.loads(without_mirrors('{"debug": true}') or "") == {"registry-mirrors": [], "debug": True}
    assert json.loads(without_mirrors(None) or "") == {"registry-mirrors": []}
    assert without_mirrors('{"registry-mirrors": []}') is None


_URLS = st.sampled_from([f"https://{name}.example.com{end}" for name in ("a", "b", "mirror") for end in ("", "/")])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_DAEMONS = st.builds(
    lambda others, mirrors: others if mirrors is None else others | {"registry-mirrors": mirrors},
    st.dictionaries(st.text(max_size=8), _VALUES, max_size=4),
    st.none() | st.lists(_URLS, max_size=4, unique=True),
)


@given(_DAEMONS, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_any_daemon_json_keeps_its_keys_and_mirrors_and_is_given_back(
    daemon: dict[str, Any], indent: int | str | None, ascii_only: bool
) -> None:
    text = json.dumps(daemon, indent=indent, ensure_ascii=ascii_only)

    merged = add("daemon.json", text, DAEMON)

    found = json.loads(merged)
    own, *others = found.pop("registry-mirrors")
    expected = dict(daemon)
    assert own == "https://mirror.example.com"
    assert others == [url for url in expected.pop("registry-mirrors", []) if url.rstrip("/") != own]
    assert found == expected
    assert add("daemon.json", merged, DAEMON) == merged


@given(_DAEMONS, st.dictionaries(st.sampled_from(["debug", "labels", "x"]), _VALUES), st.lists(_URLS, max_size=2))
def test_what_others_add_to_a_daemon_json_later_stays_after_ours_is_taken_out(
    daemon: dict[str, Any], keys: dict[str, Any], urls: list[str]
) -> None:
    text = json.dumps(daemon)
    after = add("daemon.json", text, DAEMON)
    found = json.loads(after)
    changed = json.dumps(found | keys | {"registry-mirrors": [*found["registry-mirrors"], *urls]})

    left = json.loads(take_out("daemon.json", changed, text, after) or "{}")

    had_ours = any(url.rstrip("/") == "https://mirror.example.com" for url in daemon.get("registry-mirrors", []))
    mirrors = [url for url in [*found["registry-mirrors"], *urls] if had_ours or url != "https://mirror.example.com"]
    assert left.pop("registry-mirrors", []) == mirrors
    assert left == {key: value for key, value in (daemon | keys).items() if key != "registry-mirrors"}
