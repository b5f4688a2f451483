"""The pull request of a comment: marks, CI variables, options, addresses and limits."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from components.configuration.problems import Failure
from operations.comment.detection import Found, chosen, detect
from operations.comment.forges import PullRequest, api_of
from operations.comment.mark import Mark, mark, parse
from operations.comment.refusals import limit_end


def preview(text: str, stack: str = "prod", changes: bool = True) -> str:
    return f"{mark(stack, changes=changes)}\n{text}\n"


# --- The mark ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["prod", "organization/registry-stack/prod-2.b_c"])
@pytest.mark.parametrize("changes", [True, False])
def test_mark_names_the_stack_and_says_whether_something_changes(stack: str, changes: bool) -> None:
    assert parse(preview("text", stack, changes)) == Mark(stack, changes)
    assert mark(stack, changes=changes).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"> {mark('prod', changes=True)}\n",
        f"\n{mark('prod', changes=True)}\n",
        f"{mark('prod', changes=True)} and more\n",
        "<!-- registry-stack preview: stack=a b changes=yes -->\n",
        "<!-- registry-stack preview: stack=a/b/c/d changes=no -->\n",
    ],
)
def test_text_with_the_mark_elsewhere_or_with_another_line_has_no_mark(text: str) -> None:
    assert parse(text) is None


# --- Variables and options --------------------------------------------------------------------------------------------

GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_API_URL": "https://api.github.com",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "owner/name",
    "GITHUB_REF": "refs/pull/7/merge",
}
GITEA = GITHUB | {"GITHUB_SERVER_URL": "https://git.example.com/gitea", "GITHUB_REF": "refs/pull/7/head"}
GITLAB = {
    "CI": "true",
    "GITLAB_CI": "true",
    "CI_API_V4_URL": "https://gitlab.example.com/api/v4",
    "CI_PROJECT_ID": "99",  # of the fork in which the pipeline runs
    "CI_MERGE_REQUEST_PROJECT_ID": "42",
    "CI_MERGE_REQUEST_IID": "7",
}
WOODPECKER = {"CI": "woodpecker", "CI_REPO": "owner/name", "CI_COMMIT_PULL_REQUEST": "7"}


def detected(variables: dict[str, str], event: dict[str, Any] | None = None) -> PullRequest:
    return chosen(detect(variables, event or {}), forge=None, url=None, repository=None, number=None)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (GITHUB, PullRequest("github", "https://api.github.com", "owner/name", 7)),
        (
            GITEA | {"GITEA_ACTIONS": "true"},
            PullRequest("gitea", "https://git.example.com/gitea/api/v1", "owner/name", 7),
        ),
        (
            GITEA | {"FORGEJO_ACTIONS": "true"},
            PullRequest("gitea", "https://git.example.com/gitea/api/v1", "owner/name", 7),
        ),
        (GITLAB, PullRequest("gitlab", "https://gitlab.example.com/api/v4", "42", 7)),
        (
            WOODPECKER | {"CI_FORGE_TYPE": "forgejo", "CI_FORGE_URL": "https://git.example.com"},
            PullRequest("gitea", "https://git.example.com/api/v1", "owner/name", 7),
        ),
        (
            WOODPECKER | {"CI_FORGE_TYPE": "github", "CI_FORGE_URL": "https://github.com"},
            PullRequest("github", "https://api.github.com", "owner/name", 7),
        ),
        (
            WOODPECKER | {"CI_FORGE_TYPE": "gitlab", "CI_FORGE_URL": "https://gitlab.com", "CI_REPO": "a/b/c"},
            PullRequest("gitlab", "https://gitlab.com/api/v4", "a/b/c", 7),
        ),
    ],
    ids=["github", "gitea", "forgejo", "gitlab", "woodpecker-forgejo", "woodpecker-github", "woodpecker-gitlab"],
)
def test_variables_of_a_ci_system_name_the_pull_request(variables: dict[str, str], found: PullRequest) -> None:
    assert detected(variables) == found


def test_event_file_gives_the_number_and_tells_a_fork() -> None:
    base, fork = {"repo": {"full_name": "owner/name"}}, {"repo": {"full_name": "mallory/name"}}
    on_target = GITHUB | {"GITHUB_REF": "refs/heads/main"}  # as for pull_request_target

    own = detected(on_target, {"pull_request": {"number": 8, "head": base, "base": base}})
    foreign = detected(on_target, {"pull_request": {"number": 8, "head": fork, "base": base}})
    deleted = detected(on_target, {"pull_request": {"number": 8, "head": {"repo": None}, "base": base}})
    remark = detected(on_target, {"issue": {"number": 8, "pull_request": {}}})

    assert [request.number for request in (own, foreign, deleted, remark)] == [8, 8, 8, 8]
    assert [request.fork for request in (own, foreign, deleted, remark)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("variables", "event"),
    [
        ({}, {}),
        (GITHUB | {"GITHUB_REF": "refs/heads/main"}, {}),
        (GITHUB | {"GITHUB_REF": "refs/heads/main"}, {"issue": {"number": 8}}),
        ({**GITHUB, "GITHUB_REPOSITORY": ""}, {}),
        ({**GITLAB, "CI_MERGE_REQUEST_IID": ""}, {}),
        (WOODPECKER | {"CI_FORGE_TYPE": "bitbucket", "CI_FORGE_URL": "https://bitbucket.org"}, {}),
    ],
)
def test_pipeline_without_a_pull_request_is_told_the_missing_option(
    variables: dict[str, str], event: dict[str, Any]
) -> None:
    with pytest.raises(Failure) as problem:
        detected(variables, event)

    assert "--" in problem.value.fix


def test_each_option_replaces_a_variable() -> None:
    found = detect(GITHUB, {})

    assert chosen(found, forge=None, url=None, repository="a/b", number=9).thread() == (
        "https://api.github.com/repos/a/b/issues/9/comments"
    )
    moved = chosen(found, forge="gitlab", url="https://gitlab.example.com/", repository="a/b/c", number=None)
    assert moved.thread() == "https://gitlab.example.com/api/v4/projects/a%2Fb%2Fc/merge_requests/7/notes"
    with pytest.raises(Failure, match="address"):
        chosen(found, forge="gitlab", url=None, repository=None, number=None)


@pytest.mark.parametrize("name", ["owner/.github", "a/b", "a/b-c/d.e_f", "42"])
def test_repository_can_have_dots_and_groups(name: str) -> None:
    assert detected({**GITHUB, "GITHUB_REPOSITORY": name}).repository == name


@pytest.mark.parametrize(
    "name", ["name", "..", "../name", "owner/..", "owner/./name", "owner/", "owner/na me", "a/b?c"]
)
def test_name_that_is_no_repository_is_refused(name: str) -> None:
    with pytest.raises(Failure, match="repository is invalid"):
        detected({**GITHUB, "GITHUB_REPOSITORY": name})


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://octo.ghe.com/", "https://api.octo.ghe.com"),
        ("https://github.example.com", "https://github.example.com/api/v3"),
    ],
)
def test_address_of_github_gives_the_address_of_its_api(url: str, api: str) -> None:
    assert api_of("github", url) == api


@pytest.mark.parametrize(
    "url", ["git.example.com", "ssh://git@host", "https://user:secret@host", "https://", "https://host:port"]
)
def test_address_without_http_or_with_a_login_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(Failure) as problem:
        chosen(Found(), forge="gitea", url=url, repository="a/b", number=1)

    assert "secret" not in f"{problem.value}{problem.value.fix}"


NOW = datetime.datetime(2026, 11, 30, 5, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("headers", "end"),
    [
        ({"Retry-After": "60"}, NOW + datetime.timedelta(minutes=1)),
        ({"Retry-After": "Mon, 30 Nov 2026 06:00:00 GMT"}, NOW + datetime.timedelta(hours=1)),
        ({"X-RateLimit-Remaining": "12", "X-RateLimit-Reset": "1796000000"}, None),
        ({"Retry-After": "9" * 40}, None),
        ({}, None),
    ],
)
def test_end_of_a_rate_limit_is_in_the_headers(headers: dict[str, str], end: datetime.datetime | None) -> None:
    assert limit_end(headers, NOW) == end
