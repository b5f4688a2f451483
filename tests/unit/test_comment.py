"""The comment of a pull request, on a forge that refuses each call outside its documentation."""

from __future__ import annotations

import datetime
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.configuration.problems import Failure
from operations.__main__ import command_line
from operations.comment import update
from operations.comment.api import Comment
from operations.comment.forges import Name
from operations.comment.mark import mark
from operations.comment.update import plan
from tests.harness.certificates import issue
from tests.harness.forge import TOKEN, Answer, Forge, forge

KINDS: tuple[Name, ...] = ("github", "gitea", "gitlab")
OTHER = "mallory"
NO_CI = dict.fromkeys(
    "CI CI_FORGE_TYPE COMMENT_TOKEN FORGEJO_ACTIONS GITEA_ACTIONS GITHUB_ACTIONS GITHUB_EVENT_PATH GITLAB_CI"
    " HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy SSL_CERT_DIR SSL_CERT_FILE".split()
)
each_forge = pytest.mark.parametrize("server", KINDS, indirect=True)


def preview(text: str, stack: str = "prod", changes: bool = True) -> str:
    return f"{mark(stack, changes=changes)}\n{text}\n"


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """A forge: Gitea, unless the test names another kind. Repeated tries do not wait."""
    monkeypatch.setattr(update, "RETRY_SECONDS", (0.0, 0.0))
    with forge(getattr(request, "param", "gitea")) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Run `comment` with a text, for pull request 7 of owner/name on a forge."""

    def comment(server: Forge, text: str, *options: str, stdin: str = "", **variables: str | None) -> Result:
        file = tmp_path / "preview.md"
        file.write_text(text)
        where = ("--forge", server.kind, "--url", server.url, "--repository", "owner/name", "--number", "7")
        return CliRunner().invoke(
            command_line(["comment"]),
            ["comment", "--file", str(file), *where, *options],
            input=stdin,
            env={**NO_CI, "COMMENT_TOKEN": TOKEN, **variables},
        )

    return comment


def done(result: Result) -> str:
    assert result.exit_code == 0, result.exception
    return result.stdout


def refused(result: Result) -> Failure:
    assert isinstance(result.exception, Failure), result.output
    assert TOKEN not in str(result.exception) + result.exception.fix + result.output
    return result.exception


# --- One comment ------------------------------------------------------------------------------------------------------


@each_forge
def test_three_runs_leave_one_comment_with_the_last_text(server: Forge, run: Callable[..., Result]) -> None:
    server.write("a person's comment", OTHER)
    server.write("<!-- registry-stack preview: stack=staging changes=yes -->\nof another stack")
    server.write("a second comment", OTHER)

    said = [done(run(server, preview(text))) for text in ("first", "second", "third")]

    assert server.bodies()[3:] == [preview("third")]
    assert [line.split()[0] for line in said] == ["posted", "updated", "updated"]
    assert "registry-stack" not in "".join(server.bodies()[0:3:2])


@each_forge
def test_unchanged_text_is_not_written_again(server: Forge, run: Callable[..., Result]) -> None:
    server.write(preview("text").rstrip())  # GitLab removes the white space at the end

    assert "nothing to update" in done(run(server, preview("text")))
    assert "edit" not in server.calls


@each_forge
def test_comment_of_another_account_with_the_mark_stays(server: Forge, run: Callable[..., Result]) -> None:
    copied = server.write(preview("nothing to worry about"), OTHER)
    quoted = server.write(f"> {preview('quoted')}")

    for text in ("first", "second"):
        result = run(server, preview(text))
        done(result)
        assert f"comment {copied} of {OTHER}" in result.stderr

    assert server.bodies() == [preview("nothing to worry about"), f"> {preview('quoted')}", preview("second")]
    assert quoted in server.comments


@each_forge
def test_two_comments_of_two_pipelines_become_one(server: Forge, run: Callable[..., Result]) -> None:
    oldest = server.write(preview("of one pipeline"))
    server.write("between", OTHER)
    server.write(preview("of the other pipeline"))
    server.write(preview("of a third pipeline"))

    done(run(server, preview("new")))

    assert server.comments[oldest]["body"] == preview("new")
    assert server.bodies() == [preview("new"), "between"]


@each_forge
def test_comment_is_removed_when_nothing_changes_any_more(server: Forge, run: Callable[..., Result]) -> None:
    empty = preview("No changes.", changes=False)
    done(run(server, preview("text")))

    assert "updated" in done(run(server, empty))
    assert server.bodies() == [empty]
    assert "removed" in done(run(server, empty, "--remove-when-empty"))
    assert server.bodies() == []
    assert "nothing to remove" in done(run(server, empty, "--remove-when-empty"))
    assert "posted" in done(run(server, preview("text"), "--remove-when-empty"))


def test_remark_of_gitlab_itself_is_no_comment(run: Callable[..., Result]) -> None:
    with forge("gitlab") as server:
        server.write(preview("remark"), system=True)

        done(run(server, preview("text")))

        assert server.bodies() == [preview("remark"), preview("text")]


def test_plan_compares_accounts_and_stacks_and_keeps_the_oldest_comment() -> None:
    own, newer, foreign = (
        Comment(11, "Bot", preview("a")),
        Comment(12, "bot", preview("a")),
        Comment(10, OTHER, preview("a")),
    )

    planned = plan([newer, own, foreign, Comment(1, "bot", preview("b", "staging"))], "bot", "prod", preview("b"))

    assert (planned.create, planned.edit, planned.delete, planned.foreign) == (False, own, (newer,), (foreign,))


# --- Tokens and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--token-stdin",)])
def test_pipeline_without_a_token_prints_the_comment(
    server: Forge, run: Callable[..., Result], options: tuple[str, ...]
) -> None:
    result = run(server, preview("text"), *options, COMMENT_TOKEN="")

    assert done(result) == preview("text")
    assert len(result.stderr.strip().splitlines()) == 1
    assert server.calls == []


@pytest.mark.parametrize("fork", [True, False])
def test_read_only_token_of_a_fork_prints_the_comment(
    server: Forge, run: Callable[..., Result], tmp_path: Path, fork: bool
) -> None:
    sides = {"base": {"repo": {"full_name": "owner/name"}}, "head": {"repo": {"full_name": f"{OTHER}/name"}}}
    event = {"pull_request": {"number": 7, **sides, **({} if fork else {"head": sides["base"]})}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    server.scripted["create"] = [Answer(403, {"message": "Resource not accessible by integration"})]

    result = run(
        server, preview("text"), GITEA_ACTIONS="true", GITHUB_EVENT_PATH=str(tmp_path / "event.json"), GITHUB_REF=""
    )

    if fork:
        assert done(result) == preview("text")
        assert "not accessible" in result.stderr
    else:
        assert "write:issue" in refused(result).fix


def test_token_from_standard_input_replaces_the_variable(server: Forge, run: Callable[..., Result]) -> None:
    done(run(server, preview("text"), "--token-stdin", stdin=f" {TOKEN}\n", COMMENT_TOKEN="other"))

    assert server.bodies() == [preview("text")]


@pytest.mark.parametrize("token", [f"{TOKEN} two", f"{TOKEN}\n{TOKEN}", f"{TOKEN}é"])
def test_token_that_is_no_token_is_refused_and_not_shown(server: Forge, run: Callable[..., Result], token: str) -> None:
    assert "token contains" in str(refused(run(server, preview("text"), COMMENT_TOKEN=token)))
    assert server.calls == []


@pytest.mark.parametrize("text", ["", "text\n", f"> {preview('quoted')}"])
def test_file_without_the_mark_is_refused(server: Forge, run: Callable[..., Result], text: str) -> None:
    assert refused(run(server, text)).fix.startswith("python -m operations preview --output ")


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")

    for name, words in (("missing.md", "No such file"), ("bytes.md", "UTF-8")):
        result = CliRunner().invoke(command_line(["comment"]), ["comment", "--file", str(tmp_path / name)])
        assert words in str(refused(result))


@pytest.mark.parametrize(("server", "limit"), [("github", "65,536"), ("gitlab", "1,000,000")], indirect=["server"])
def test_too_long_text_is_refused_with_the_limit(server: Forge, run: Callable[..., Result], limit: str) -> None:
    text = preview("é" * (int(limit.replace(",", "")) - len(preview(""))))
    done(run(server, text))

    assert limit in str(refused(run(server, text + "é")))


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "answer", "cause", "fix"),
    [
        ("account", Answer(401, {"message": f"bad {TOKEN}"}), "does not accept the token: bad [secret]", "write:issue"),
        ("account", Answer(403, {"message": "required=[read:user]"}), "required=[read:user]", "read:user"),
        ("account", Answer(200, {}), "which account", "read:user"),
        ("account", Answer(200, "<html>"), "not its JSON", "--url"),
        ("list", Answer(200, {"message": "?"}), "not its JSON", "--forge"),
        ("list", Answer(404, {"message": "Not\x1b[31m found"}), "no pull request 7 of owner/name", "--number"),
        ("create", Answer(403), "refuses this to the token", "write:issue"),
        ("create", Answer(404), "cannot see it", "--repository"),
        ("create", Answer(404, f"{'[' * 9999}{']' * 9999}"), "cannot see it", "--repository"),
        ("create", Answer(423, {"message": "archived"}), "status 423: archived", "archived"),
        ("create", Answer(429, "", {"Retry-After": "later"}), "for at least one minute", "again"),
        ("create", Answer(429, "", {"RateLimit-Reset": "1796000000"}), "until 2026-11-30 00:53:20 UTC", "again"),
        (
            "create",
            Answer(403, "", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1796000000"}),
            "until 2026-11-30 00:53:20 UTC",
            "again",
        ),
        ("create", Answer(403, {"message": "a secondary rate limit"}), "for at least one minute", "again"),
    ],
)
def test_refusal_says_what_to_do(
    server: Forge, run: Callable[..., Result], call: str, answer: Answer, cause: str, fix: str
) -> None:
    server.scripted[call] = [answer]

    failure = refused(run(server, preview("text")))

    assert cause in str(failure)
    assert str(failure).isprintable()
    assert fix in failure.fix
    assert server.calls.count(call) == 1


def test_github_says_when_it_hides_the_account(run: Callable[..., Result]) -> None:
    with forge("github") as server:
        server.scripted["account"] = [Answer(200, {"data": None, "errors": [{"message": "no"}]})]

        assert "pull-requests: write" in refused(run(server, preview("text"))).fix


@pytest.mark.parametrize("failing", [Answer(502), Answer(None)], ids=["status 502", "no answer"])
@pytest.mark.parametrize("after", [True, False], ids=["written", "not written"])
@pytest.mark.parametrize("call", ["account", "list", "create"])
def test_failure_that_passes_leaves_one_comment(
    server: Forge, run: Callable[..., Result], call: str, after: bool, failing: Answer
) -> None:
    server.scripted[call] = [Answer(failing.status, after=after)] * 2

    done(run(server, preview("text")))

    assert server.bodies() == [preview("text")]


def test_forge_that_keeps_failing_is_asked_three_times(server: Forge, run: Callable[..., Result]) -> None:
    server.scripted["list"] = [Answer(503, {"message": "down"})] * 9

    assert "status 503: down" in str(refused(run(server, preview("text"))))
    assert server.calls.count("list") == 3


def test_comment_that_is_deleted_during_the_run_is_posted_again(server: Forge, run: Callable[..., Result]) -> None:
    server.write(preview("old"))
    server.write(preview("twice"))
    server.scripted["delete"] = [Answer(404, {"message": "gone"}, after=True)]
    server.scripted["edit"] = [Answer(404, {"message": "gone"})]

    done(run(server, preview("new")))

    assert server.bodies() == [preview("new")]


def test_server_that_is_down_is_a_failure_with_its_address(server: Forge, run: Callable[..., Result]) -> None:
    url = server.url
    server.shutdown()
    server.server_close()

    assert f"{url.removeprefix('http://')} does not answer" in str(refused(run(server, preview("text"))))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "[1]"),
        Answer(200, [{}]),
        Answer(200, [{"id": "x", "body": None}]),
        Answer(200, [{"id": 1, "body": "", "user": "name"}]),
        Answer(200, "[" * 100_000),
        Answer(200, [], {"Link": '<http://[::1>; rel="next"'}),
        Answer(200, [], {"Link": '<https://forge.example/?page=1>; rel="next"'}),
    ],
    ids=["numbers", "empty", "no id", "no author", "deep", "bad link", "endless pages"],
)
def test_answer_that_is_not_of_the_forge_is_a_failure(
    server: Forge, run: Callable[..., Result], answer: Answer
) -> None:
    server.scripted["list"] = [answer] * 3

    assert "the answer is not its JSON" in str(refused(run(server, preview("text"))))
    assert server.bodies() == []


def test_token_does_not_follow_a_redirect(server: Forge, run: Callable[..., Result]) -> None:
    with forge("gitea") as other:
        server.scripted["account"] = [Answer(301, "", {"Location": f"{other.url}/api/v1/user?a=b"})]

        failure = refused(run(server, preview("text")))

        assert f"redirects to {other.url}/api/v1/user," in str(failure)
        assert "--url" in failure.fix
        assert other.calls == other.refused == []


def test_private_authority_is_trusted_with_ssl_cert_file(run: Callable[..., Result], tmp_path: Path) -> None:
    pair = issue("127.0.0.1", start=datetime.datetime.now(datetime.UTC)).pair()
    for name, content in pair.items():
        (tmp_path / name).write_text(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "private_key")

    with forge("gitea", context) as server:
        untrusted = refused(run(server, preview("text")))
        unreadable = refused(run(server, preview("text"), SSL_CERT_FILE=str(tmp_path / "missing")))
        done(run(server, preview("text"), SSL_CERT_FILE=str(tmp_path / "certificate")))

        assert server.bodies() == [preview("text")]
    for failure in (untrusted, unreadable):
        assert "SSL_CERT_FILE" in failure.fix
