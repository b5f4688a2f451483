"""The preview in words: headline, sections, attention, effects on clients, Markdown that no value can break."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import urllib.parse
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from typer.testing import CliRunner

from components.configuration.problems import ConfigError, Problem, problems_in
from operations.__main__ import command_line
from operations.comment.mark import parse
from operations.preview.changes import Change, Section
from operations.preview.commands import as_json
from operations.preview.effects import EFFECTS
from operations.preview.events import read_events
from operations.preview.files import FileChange
from operations.preview.markdown import LONGEST, markdown
from operations.preview.report import Report, report
from operations.preview.terminal import show
from operations.preview.text import code
from operations.stack import StackConfig
from tests.harness.certificates import certificate_pair
from tests.harness.configuration import ROOT, configuration, example_password, loaded
from tests.unit.previews import events, preview, refusal
from tests.unit.recorder import Recording, run_program

BASE = configuration()
USERS = BASE["registry"]["users"]
MARK = "<!-- mark -->"


@cache
def base() -> Recording:
    return run_program(BASE)


def changed(**changes: Any) -> Report:
    """The report on the usual stack with other values of some keys."""
    return report(read_events(events(base(), run_program(configuration(**changes), preview=True))))


def with_registry(**changes: Any) -> dict[str, Any]:
    return {"registry": {**BASE["registry"], **changes}}


def rows(found: Report, title: str) -> list[tuple[str, str, str]]:
    changes = next(section.changes for section in found.sections if section.title == title)
    return [(f"{change.subject} {change.part}".strip(), change.before, change.after) for change in changes]


def test_first_deployment_counts_users_and_mirrors() -> None:
    found = preview(None, BASE)

    assert found.headline == "First deployment: creates the registry and the proxy with 3 users and 1 mirror."
    assert rows(found, "Rights")[0] == ("`boss`", "–", "`admin`")
    assert "Settings" not in [section.title for section in found.sections]
    assert found.clients == ()


def test_first_deployment_for_the_operators_own_proxy_creates_no_proxy() -> None:
    found = preview(None, configuration(proxy={"server": "none", "address": "127.0.0.1"}))

    assert found.headline == ("First deployment: creates the registry, for your own proxy, with 3 users and 1 mirror.")
    assert "**Your own proxy needs the new snippet.**" in found.attention[0]


def test_unchanged_configuration_has_nothing_to_say() -> None:
    found = changed()

    assert found == Report("test", has_changes=False, headline="Nothing changes.", resources={}, unchanged=34)


RETENTION = {
    "rules": [{"tags": ["v*"], "keep": "always"}, {"repositories": "team/*", "tags": "pr-*", "keep": {"days": 14}}],
    "overwritten": {"newest": 3, "days": 30},
    "running_on": ["ssh://deploy@web-1"],
}


def test_rules_of_retention_are_shown_in_words_and_restart_nothing() -> None:
    before = configuration(**with_registry(retention=RETENTION))
    rules = [RETENTION["rules"][0], {"tags": "latest", "keep": {"newest": 2}}, RETENTION["rules"][1]]
    after = configuration(**with_registry(retention=RETENTION | {"rules": rules, "running_on": [], "most": "10%"}))

    first, change = changed(**with_registry(retention=RETENTION)), preview(before, after)

    day = changed(**with_registry(retention={"overwritten": {"days": 1}}))

    assert first.headline == "Changes 5 retention settings. Nothing restarts."
    assert ("overwritten manifests", "all stay", "keep those of the last 1 day") in rows(day, "Retention")
    assert rows(first, "Retention")[:3] == [
        ("rule 1", "–", "`v*`: keep always"),
        ("rule 2", "–", "`pr-*` in `team/*`: keep those of the last 14 days"),
        ("overwritten manifests", "all stay", "keep the newest 3 and those of the last 30 days"),
    ]
    assert rows(change, "Retention") == [
        ("rule 2", "–", "`latest`: keep the newest 2"),
        ("running on", "`ssh://deploy@web-1`", "removed"),
        ("most", "`25%`", "`10%`"),
    ]
    assert "no longer asks `ssh://deploy@web-1`" in change.attention[0]


def test_one_changed_rule_of_retention_is_the_headline() -> None:
    before = configuration(**with_registry(retention=RETENTION))
    rules = [RETENTION["rules"][0], RETENTION["rules"][1] | {"keep": {"days": 7}}]

    found = preview(before, configuration(**with_registry(retention=RETENTION | {"rules": rules})))

    assert found.headline == "Changes the retention rules. Nothing restarts."
    assert found.attention == ()
    assert rows(found, "Retention") == [
        (
            "rule 2",
            "`pr-*` in `team/*`: keep those of the last 14 days",
            "`pr-*` in `team/*`: keep those of the last 7 days",
        )
    ]


def test_new_user_restarts_nothing() -> None:
    found = changed(
        **with_registry(users={**USERS, "deploy": {"role": "pull", "expires": "2099-01-31"}}),
        passwords={**BASE["passwords"], "deploy": example_password("deploy")},
    )

    assert found.headline == "Adds the user `deploy` (pull). Nothing restarts."
    assert rows(found, "Rights") == [("`deploy`", "–", "`pull` until 2099-01-31")]


def test_role_expiry_removal_and_password_are_told_user_by_user() -> None:
    users = {
        "boss": {"role": "admin"},
        "production": {"role": "push"},
        "woodpecker": {"role": "push", "expires": "2099-01-31"},
    }
    roles = changed(**with_registry(users=users))
    removed = changed(**with_registry(users={"boss": {"role": "admin"}}), passwords={"boss": example_password("boss")})
    password = changed(passwords={**BASE["passwords"], "boss": example_password("other")})
    expired = changed(**with_registry(users={**USERS, "woodpecker": {"role": "push", "expires": "2020-01-31"}}))

    assert rows(roles, "Rights") == [
        ("`production`", "`pull`", "`push`"),
        ("`woodpecker`", "`push`", "`push` until 2099-01-31"),
    ]
    assert rows(removed, "Rights")[0] == ("`production`", "`pull`", "removed: can no longer log in")
    assert removed.headline.startswith("Removes the user `production` and removes the user `woodpecker`.")
    assert rows(password, "Rights") == [("`boss` password", "set", "new value")]
    assert rows(expired, "Rights") == [("`woodpecker`", "`push`", "expired on 2020-01-31: can no longer log in")]
    assert any("user woodpecker expired on 2020-01-31" in text for text in expired.attention) or not expired.attention


def test_allow_list_is_told_entry_by_entry() -> None:
    found = changed(
        mirrors={"docker.io": {"url": "https://mirror.example.com", "allow": ["10.0.0.0/9", "192.168.0.0/16"]}}
    )

    assert rows(found, "Mirrors") == [
        ("`docker.io` `allow`", "`10.0.0.0/8`", "removed"),
        ("`docker.io` `allow`", "–", "`10.0.0.0/9`"),
        ("`docker.io` `allow`", "–", "`192.168.0.0/16`"),
    ]
    assert found.headline.startswith("Changes `allow` of the mirror `docker.io`.")
    assert "remote_ip 10.0.0.0/9" in "\n".join(found.files[0].lines)


def test_mirror_that_opens_to_everyone_needs_attention() -> None:
    found = changed(mirrors={"docker.io": {"url": "https://mirror.example.com"}}, acknowledge=["open_mirror"])

    assert any("open_mirror" in text and "fill its disk" in text for text in found.attention)


def test_upstream_password_is_compared_by_its_fingerprint() -> None:
    mirrors = {"ghcr.io": {"url": "https://ghcr.example.com", "allow": ["10.0.0.0/8"], "username": "robot"}}
    before = configuration(mirrors=mirrors, upstream_passwords={"ghcr.io": "example-only-token"})

    found = preview(before, before | {"upstream_passwords": {"ghcr.io": "example-only-token-2"}})

    assert rows(found, "Mirrors") == [("`ghcr.io` upstream password", "set", "new value")]


def test_certificate_renewal_tells_both_ends() -> None:
    files = {"proxy": {"certificates": {"files": {}}}, "mirrors": None}
    pairs = [
        {"registry.example.com": certificate_pair("registry.example.com", other)} for other in ("a.test", "b.test")
    ]

    found = preview(configuration(**files, certificates=pairs[0]), configuration(**files, certificates=pairs[1]))

    (row,) = rows(found, "Hosts and certificates")
    assert row[0] == "certificate `registry.example.com`"
    assert re.fullmatch(r"ends \d{4}-\d\d-\d\d", row[1])
    assert found.headline.startswith("Renews the certificate `registry.example.com`.")


def test_renewed_certificates_are_no_changed_hosts_in_the_headline() -> None:
    hosts = {"registry.example.com", "public.example.com", "mirror.example.com"}

    def pairs(other: str) -> dict[str, Any]:
        own = with_registry(anonymous_url="https://public.example.com") | {"acknowledge": ["anonymous_pull"]}
        files = {"certificates": {host: certificate_pair(host, other) for host in hosts}}
        return configuration(proxy={"certificates": {"files": {}}}, **own, **files)

    assert preview(pairs("a.test"), pairs("b.test")).headline.startswith("Changes 3 certificates. ")


def test_new_stack_secret_does_not_look_like_new_passwords() -> None:
    found = changed(stack_secret="6" * 64)

    assert [section.title for section in found.sections] == ["Settings"]
    assert "Uploads fail" in found.headline


def test_new_stack_secret_says_that_it_can_hide_a_new_password() -> None:
    passwords = {**BASE["passwords"], "boss": example_password("other")}
    (hidden,) = changed(stack_secret="6" * 64, passwords=passwords).attention
    shown = changed(passwords=passwords)

    assert hidden == changed(stack_secret="6" * 64).attention[0]
    assert hidden.startswith("**Any password may change too:**")
    assert shown.attention == ()
    assert rows(shown, "Rights") == [("`boss` password", "set", "new value")]


def test_preview_with_a_warning_is_not_empty() -> None:
    warning = {"diagnosticEvent": {"severity": "warning", "message": "the certificate expires on 2026-12-09"}}
    quiet, warned = (
        report(read_events([*events(base(), run_program(BASE, preview=True)), *map(json.dumps, more)]))
        for more in ([], [warning])
    )

    assert (quiet.is_empty, warned.is_empty) == (True, False)
    assert not warned.has_changes  # so that `--expect-no-changes` looks only for changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            with_registry(storage={"volume": "other"}),
            "is in the volume `registry-stack-registry-data` and will be read from the volume `other`",
        ),
        (with_registry(storage={"host_path": "/srv/registry"}), "will be read from the folder `/srv/registry`"),
        ({"mirrors": {}}, "stops using the volume `registry-stack-mirror-docker-io-cache`"),
        (
            {"mirrors": {"docker.io": {"url": "https://mirror.example.com"}}, "acknowledge": ["open_mirror"]},
            "**Open mirror:**",
        ),
        ({"protect_data": False}, "`pulumi destroy` is no longer refused"),
    ],
)
def test_danger_for_data_needs_attention(changes: dict[str, Any], words: str) -> None:
    assert any(words in text for text in changed(**changes).attention)


def test_stack_of_an_older_version_is_compared_without_settings() -> None:
    older = Recording(
        base().resources, {name: value for name, value in base().exports.items() if name != "configuration"}
    )
    found = report(read_events(events(older, run_program(BASE, preview=True))))

    assert found.sections == ()
    assert "recorded no settings" in found.note
    assert not found.has_changes


def test_order_of_events_does_not_matter() -> None:
    lines = events(base(), run_program(configuration(mirrors={}, **with_registry(log_level="debug")), preview=True))
    shuffled = random.Random(1).sample(lines, len(lines))

    assert markdown(report(read_events(shuffled)), MARK) == markdown(report(read_events(lines)), MARK)


def test_order_of_errors_does_not_matter() -> None:
    lines = [*refusal("cannot read container b"), *refusal("cannot read container a")]

    assert report(read_events(lines)) == report(read_events(reversed(lines)))


def test_refused_configuration_lists_every_problem_with_its_fixes() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(
            configuration(docker_host="tcp://a", acknowledge=["x"], **with_registry(url="http://a", log_level="loud"))
        )

    found = report(read_events(refusal(str(caught.value))))

    assert found.is_refused
    assert found.problems == tuple(caught.value.problems)
    assert found.headline == "The configuration is refused: 4 problems. Nothing was changed."
    for problem in found.problems:
        assert problem.fix in markdown(found, MARK)


@given(st.builds(Problem, *[st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)] * 4))
def test_problems_are_read_back_from_the_text_of_the_error(problem: Problem) -> None:
    assert problems_in(str(ConfigError([problem, problem]))) == [problem, problem]


def test_other_failure_is_shown_as_it_is_without_logins_and_keys() -> None:
    key = PAIRS[0]["private_key"]
    said = f"cannot reach https://robot:token@host.example/v2\nwith ghp_0123456789abcdefghijklmnopqrstuvwxyz\n{key}"
    found = report(read_events(refusal(f"{said}\nthe end ``` {'x' * 100_000}")))

    shown = markdown(found, MARK)
    assert found.headline == "The preview failed. Nothing was changed."
    assert len(found.errors) == 1, "without the line that only follows"
    assert "the end ```" in shown
    assert len(shown) < LONGEST
    for secret in ("token", "ghp_", *key.splitlines()[1:-1]):
        assert secret not in shown + json.dumps(as_json(found))


def test_failure_that_names_an_image_by_its_digest_is_shown() -> None:
    digest = "a1" * 32
    found = report(read_events(refusal(f"cannot pull registry:3.1.2@sha256:{digest}: not found\nand {digest}")))

    assert found.errors == ("cannot pull registry:3.1.2@sha256:…: not found\na value that is not shown",)


def test_failure_without_a_cause_is_a_failure() -> None:
    found = report(read_events(refusal("x")[1:]))

    assert found.is_refused
    assert "unhandled error" in found.errors[0]


def test_refused_stack_of_an_organization_has_the_mark_of_its_other_previews(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The events of a program that fails at once name no stack. `comment` finds the earlier comment by the mark."""
    monkeypatch.setattr(StackConfig, "preview", lambda *_, **__: refusal("x"))
    monkeypatch.setattr(StackConfig, "_run", lambda *_: "acme/prod\n")

    CliRunner().invoke(command_line(["preview"]), ["preview", "--output", str(tmp_path / "preview.md")])

    found = parse((tmp_path / "preview.md").read_text())
    assert found is not None
    assert found.stack == "prod"


def test_protected_data_is_explained_with_the_way_to_go_on() -> None:
    lines = events(base(), run_program(configuration(mirrors={}), preview=True))
    error = 'unable to delete resource "urn:…"\nas it is currently marked for protection.'
    found = report(read_events([*lines, *refusal(error)]))

    assert found.is_refused
    assert found.headline.startswith("Refused: `protect_data` keeps the data.")
    assert "protect_data false" in found.errors[0]
    assert rows(found, "Mirrors")[0][2] == "removed"


@pytest.mark.parametrize(
    ("before", "after", "word"), [("caddy", "none", "own proxy close"), ("none", "caddy", "starts")]
)
def test_proxy_of_the_stack_that_goes_or_comes_is_told(before: str, after: str, word: str) -> None:
    proxies = {"caddy": BASE["proxy"], "none": {"server": "none", "address": "127.0.0.1"}}

    found = preview(configuration(proxy=proxies[before]), configuration(proxy=proxies[after]))

    assert any(word in text for text in found.clients)


def test_new_address_ends_the_old_one() -> None:
    found = changed(**with_registry(url="https://other.example.com"))

    assert any("Clients of the removed address" in text for text in found.clients)
    assert found.headline == "Changes `registry.url`. Clients of the removed address get an error.", "no process stops"


def test_address_of_all_mirrors_is_told_as_a_host_and_a_mirror_that_leaves_it_stops() -> None:
    mirrors = {name: {"allow": ["10.0.0.0/8"]} for name in ("docker.io", "ghcr.io")}
    shared = configuration(mirrors=mirrors, mirror_url="https://mirror.example.com")

    begun = preview(configuration(), shared)
    assert ("`mirror_url`", "–", "`https://mirror.example.com`") in rows(begun, "Hosts and certificates")
    assert rows(begun, "Mirrors") == [("`ghcr.io`", "–", "at `mirror_url`, TTL `168h`, allows `10.0.0.0/8`")]
    assert {section.title for section in begun.sections} == {"Mirrors", "Hosts and certificates"}
    assert not any("Clients of the removed address" in text for text in begun.clients), "the host goes on"

    ended = preview(shared, shared | {"mirrors": {"docker.io": mirrors["docker.io"]}})
    assert any("Clients of the removed address" in text for text in ended.clients)


def test_changed_default_is_told_for_each_mirror_that_has_it() -> None:
    own = {"docker.io": {"url": "https://mirror.example.com"}, "ghcr.io": {"url": "https://g.example.com", "ttl": "1h"}}
    before, after = (
        configuration(mirrors=own, mirror_defaults={"ttl": ttl, "allow": ["10.0.0.0/8"]}) for ttl in ("24h", "48h")
    )

    found = preview(before, after)

    assert [section.title for section in found.sections] == ["Mirrors"]
    assert rows(found, "Mirrors") == [("`docker.io` `ttl`", "`24h`", "`48h`")]


def test_authority_of_an_upstream_and_the_http_proxy_are_told() -> None:
    def mirrors(*names: str) -> dict[str, Any]:
        text = "".join(certificate_pair(name)["certificate"] for name in names)
        own = {"url": "https://images.example.com", "upstream": "https://a.example.org", "allow": ["10.0.0.0/8"]}
        return {"mirrors": BASE["mirrors"] | {"images.corp": own | {"ca": text}}}

    (new,) = rows(changed(**mirrors("a.test")), "Mirrors")
    assert "authority of the upstream: " in new[2]
    assert " lines, SHA-256 `" in new[2]
    found = preview(configuration(**mirrors("a.test")), configuration(**mirrors("b.test")))
    assert [row[0] for row in rows(found, "Mirrors")] == ["`images.corp` `ca`"]
    assert "CERTIFICATE" not in str(found.sections)

    way_out = changed(http_proxy="http://proxy.example.com:3128", no_proxy=["10.0.0.0/8"])
    assert rows(way_out, "Settings") == [
        ("`http_proxy`", "–", "`http://proxy.example.com:3128`"),
        ("`no_proxy`", "–", "`10.0.0.0/8`"),
    ]


def test_entry_of_a_list_is_added_or_removed_in_the_headline() -> None:
    few, more = (
        configuration(http_proxy="http://proxy.example.com:3128", no_proxy=["10.0.0.0/8", *others])
        for others in ([], ["a.test"])
    )

    assert preview(few, more).headline.startswith("Adds `a.test` to `no_proxy`.")
    assert preview(more, few).headline.startswith("Removes `a.test` from `no_proxy`.")


def test_allow_list_that_closes_an_open_mirror_says_so() -> None:
    opened = {"mirrors": {"docker.io": {"url": "https://mirror.example.com"}}, "acknowledge": ["open_mirror"]}

    found = preview(configuration(**opened), BASE)

    assert ("`docker.io` access", "**open to everyone**", "limited") in rows(found, "Mirrors")


def test_long_values_are_told_apart_by_their_digest() -> None:
    def root(*names: str) -> dict[str, Any]:
        text = "".join(certificate_pair(name)["certificate"] for name in names)
        acme = {"email": "ops@example.com", "directory": "https://ca.example.com/directory", "root": text}
        return configuration(proxy={"certificates": {"acme": acme}})

    (row,) = rows(preview(root("a.test"), root("a.test", "b.test")), "Settings")

    assert row[1] != row[2]
    assert " lines, SHA-256 `" in row[2]


def test_long_names_of_images_show_their_different_digests() -> None:
    name = f"registry.example.com/{'team-a/' * 16}registry:3.1.2@sha256:"
    found = preview(*(configuration(images={"registry": name + digit * 64}) for digit in "12"))

    assert rows(found, "Images") == [("`registry`", f"`{name}{'1' * 64}`", f"`{name}{'2' * 64}`")]
    assert found.headline.startswith("Changes the image of `registry`. ")


def test_longest_report_fits_into_a_comment_and_says_what_is_missing() -> None:
    lines = tuple(f"+{'x' * 400}" for _ in range(2000))
    many = tuple(Change(code(f"user{number}" * 30), "–", code("y" * 400), "adds") for number in range(500))
    found = Report(
        "test",
        has_changes=True,
        headline="Changes 500 users.",
        attention=tuple(code("z" * 400) for _ in range(200)),
        sections=(Section("Rights", "user", many),),
        files=tuple(FileChange(f"file-{number}", "changed", lines) for number in range(8)),
        resources={"replace": tuple(f"resource-{number}" for number in range(300))},
    )

    text = markdown(found, MARK)

    assert len(text) <= LONGEST
    assert "and 440 more" in text
    assert "more lines" in text
    assert text.rstrip().endswith("</details>")


def test_long_names_of_resources_leave_the_report_within_the_limit() -> None:
    """The parts before the files stay below their own limit, and the names of resources would exceed the rest."""
    many = tuple(Change(code("x"), "–", code("y" * 780, 1000), "adds") for _ in range(58))
    names = tuple(f"mirror-{number:02}-{'x' * 60}" for number in range(60))
    found = Report(
        "test",
        has_changes=True,
        headline="Changes 58 mirrors.",
        sections=(Section("Mirrors", "mirror", many),),
        files=(FileChange("file", "changed", ("+x",)),),
        resources=dict.fromkeys(("create", "replace", "update", "delete"), names),
    )

    text = markdown(found, MARK)

    assert len(text) <= LONGEST
    assert "The names of the resources do not fit" in text
    assert "+x" in text


def test_cut_report_closes_every_block_of_code() -> None:
    error = "\n".join("x" * 290 for _ in range(60))
    found = Report("test", has_changes=True, headline="The preview failed.", errors=(error,) * 5)

    text = markdown(found, MARK)

    assert len(text) <= LONGEST
    last = MarkdownIt("commonmark").parse(text)[-2]
    assert (last.type, last.content[:12]) == ("inline", "… The rest d")


def test_long_error_keeps_its_cause_at_the_end_and_says_what_is_left_out() -> None:
    lines = ["Traceback:", *(f"  line {number}" for number in range(100)), f"ValueError: {'x' * 400}"]
    text = markdown(report(read_events(refusal("\n".join(lines)))), MARK)

    assert "\nTraceback:\n" in text
    assert "\n… 42 lines left out …\n" in text
    assert f"\nValueError: {'x' * 288}…\n" in text


def test_names_of_files_with_the_same_difference_are_not_cut() -> None:
    def mirrors(level: str) -> dict[str, Any]:
        common = {"allow": ["10.0.0.0/8"], "log_level": level}
        names = [f"{letter}.example.net" for letter in "abcdef"]
        return configuration(
            mirrors={name: {"url": f"https://m-{name}", **common, "upstream": f"https://{name}"} for name in names}
        )

    text = markdown(preview(mirrors("info"), mirrors("debug")), MARK)

    for letter in "abcdef":
        assert f"mirror-{letter}-example-net-config/config.yml" in text


_HOSTILE = st.text(st.sampled_from("`|<>[]()!*_#@&\\\"'{}~-+. \n\r\tab</details><!-- -->\u202e"), max_size=60)


@hypothesis_settings(max_examples=300)
@given(_HOSTILE)
def test_value_cannot_leave_its_code_span(value: str) -> None:
    cell = code(value).replace("|", "\\|")
    table = f"| Setting | Before |\n| --- | --- |\n| {cell} | x |\n"

    tokens = MarkdownIt("commonmark").enable("table").parse(table)

    inline = [token for token in tokens if token.type == "inline"]
    assert [child.type for child in inline[2].children or []] == ["code_inline"]
    assert inline[3].content == "x"


@hypothesis_settings(max_examples=200)
@given(st.lists(_HOSTILE.map(lambda text: f"+{text.splitlines()[0] if text.splitlines() else ''}"), max_size=8))
def test_line_of_a_file_cannot_leave_its_block(lines: list[str]) -> None:
    found = Report("test", True, "x.", files=(FileChange("f", "changed", tuple(lines)),))

    kinds = [token.type for token in MarkdownIt("commonmark").parse(markdown(found, MARK))]

    assert kinds.count("fence") == bool(lines)
    assert kinds.count("html_block") == 3, "the mark, and both ends of the folded part"


def test_terminal_shows_globs_whole_and_bold_words_without_marks() -> None:
    rules = {"rules": [{"repositories": "team/**", "tags": "**", "keep": "always"}], "running_on": []}
    screen = Console(width=200, record=True, file=io.StringIO())

    show(changed(**with_registry(retention=rules), protect_data=False), screen)

    shown = screen.export_text()
    assert "`**` in `team/**`: keep always" in shown
    assert "! `protect_data` is switched off: " in shown


# --- Secrets ----------------------------------------------------------------------------------------------------------

PAIRS = [certificate_pair("registry.example.com", "mirror.example.com", other) for other in ("a.test", "b.test")]
_WORD = st.text(
    st.sampled_from("abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789+/=&%$ \"'<>|`"), min_size=24, max_size=60
)


def traces(secret: str) -> set[str]:
    """A secret, parts of it, and their encodings."""
    parts = {secret, *(secret[at : at + 16] for at in range(0, len(secret) - 15, 8))}
    found = set(parts)
    for part in parts:
        octets = part.encode()
        found |= {octets.hex(), octets.hex().upper(), urllib.parse.quote(part, safe=""), urllib.parse.quote_plus(part)}
        for shift in range(3):
            coded = base64.b64encode(b"\0" * shift + octets).decode()[4 if shift else 0 :].rstrip("=")[:-1]
            found |= {coded, coded.replace("+", "-").replace("/", "_")}
    return {trace for trace in found if len(trace) >= 12}


@st.composite
def secret_values(draw: st.DrawFn) -> dict[str, Any]:
    """Random values of every secret key."""
    pair = draw(st.sampled_from(PAIRS))
    return {
        "stack_secret": draw(st.binary(min_size=32, max_size=32)).hex(),
        "passwords": {user: draw(_WORD) for user in USERS},
        "upstream_passwords": {"ghcr.io": draw(_WORD)},
        "certificates": {"registry.example.com": pair, "mirror.example.com": pair},
        "acme_eab_mac_key": draw(_WORD),
    }


def texts(secrets: dict[str, Any]) -> list[str]:
    keys = [pair["private_key"] for pair in secrets["certificates"].values()]
    lines = [line for key in keys for line in key.splitlines() if not line.startswith("-----")]
    return [
        secrets["stack_secret"],
        *secrets["passwords"].values(),
        *secrets["upstream_passwords"].values(),
        secrets["acme_eab_mac_key"],
        *lines,
    ]


def with_secrets(secrets: dict[str, Any], *, is_valid: bool) -> dict[str, Any]:
    mirrors = {
        "docker.io": BASE["mirrors"]["docker.io"],
        "ghcr.io": {"url": "https://mirror.example.com:444", "allow": ["10.0.0.0/8"], "username": "robot"},
    }
    usable = {key: value for key, value in secrets.items() if key != "acme_eab_mac_key"} if is_valid else secrets
    return configuration(mirrors=mirrors, proxy={"certificates": {"files": {}}}, **usable)


@cache
def former() -> Recording:
    secrets = {
        "stack_secret": "5" * 64,
        "passwords": BASE["passwords"],
        "upstream_passwords": {"ghcr.io": "example-only-token"},
        "certificates": {"registry.example.com": PAIRS[0], "mirror.example.com": PAIRS[0]},
    }
    return run_program(with_secrets(secrets, is_valid=True))


def report_on(values: dict[str, Any], *, is_first: bool) -> Report:
    """The report on a change to ``values``, or on its refusal."""
    try:
        loaded(values)
    except ConfigError as error:
        return report(read_events(refusal(str(error))))
    return report(read_events(events(None if is_first else former(), run_program(values, preview=True))))


@hypothesis_settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(secret_values(), st.booleans(), st.booleans())
def test_report_shows_no_secret_no_part_and_no_encoding(
    secrets: dict[str, Any], is_valid: bool, is_first: bool
) -> None:
    found = report_on(with_secrets(secrets, is_valid=is_valid), is_first=is_first)
    shown = markdown(found, MARK) + json.dumps(as_json(found)) + json.dumps(as_json(found), ensure_ascii=False)

    for secret in texts(secrets):
        assert not [trace for trace in traces(secret) if trace in shown]
    assert not re.search(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{8}|PRIVATE KEY", shown)


# --- Documentation ----------------------------------------------------------------------------------------------------


def test_documentation_lists_the_same_effects_as_the_preview() -> None:
    text = (ROOT / "docs/updates.md").read_text()
    section = text.partition("## What clients notice")[2].partition("\n## ")[0].replace("\n  ", " ")
    listed = re.findall(r"^- \*\*(.+?)\.\*\* (.+?)$", section, re.MULTILINE)

    assert [(name.lower(), detail) for name, detail in listed] == [
        (effect.name, effect.detail) for effect in EFFECTS.values()
    ]


def test_measured_costs_name_only_effects_of_the_preview() -> None:
    names = {effect.name for effect in EFFECTS.values()}
    table = (ROOT / "docs/updates.md").read_text().partition("## Cost of each change")[2]
    cells = re.findall(r"^\| [^|]+ \| ([^|]+) \| (?:\d+ of|refused)", table, re.MULTILINE)

    assert len(cells) == 14
    assert [cell for cell in cells if not set(cell.strip().split("; ")) <= names] == []


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (
            "registry: log level, drain timeout, memory",
            with_registry(log_level="debug", drain_timeout="40s", memory_mb=300),
        ),
        (
            "an anonymous host added",
            with_registry(anonymous_url="https://public.example.com") | {"acknowledge": ["anonymous_pull"]},
        ),
        ("a mirror removed", {"mirrors": {}}),
        ("a mirror's allow-list", {"mirrors": {"docker.io": BASE["mirrors"]["docker.io"] | {"allow": ["10.0.0.0/9"]}}}),
        (
            "a mirror's ttl, log level, memory",
            {
                "mirrors": {
                    "docker.io": BASE["mirrors"]["docker.io"] | {"ttl": "24h", "log_level": "warn", "memory_mb": 300}
                }
            },
        ),
    ],
)
def test_measured_costs_name_all_effects_of_the_preview(row: str, changes: dict[str, Any]) -> None:
    table = (ROOT / "docs/updates.md").read_text().partition("## Cost of each change")[2]
    (cell,) = re.findall(rf"^\| {re.escape(row)} \| ([^|]+) \|", table, re.MULTILINE)

    names = {text.partition(". ")[0].lower() for text in changed(**changes).clients}

    assert names == set(cell.strip().split("; "))
