"""The command `comment` with a real Gitea: one comment per stack, whoever else comments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from operations.comment.mark import mark
from tests.harness.configuration import ROOT
from tests.harness.processes import free_port, running

CONFIGURATION = """
RUN_MODE = prod
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
STATIC_ROOT_PATH = {files}
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
SQLITE_TIMEOUT = 60000
[security]
INSTALL_LOCK = true
SECRET_KEY = example-only
PASSWORD_HASH_ALGO = pbkdf2
[api]
DEFAULT_PAGING_NUM = 1
MAX_RESPONSE_ITEMS = 1
[oauth2]
ENABLED = false
[indexer]
ISSUE_INDEXER_TYPE = db
[cron]
ENABLED = false
[actions]
ENABLED = false
[packages]
ENABLED = false
[log]
LEVEL = Warn
"""


@dataclass(frozen=True)
class Gitea:
    """A Gitea with the users `owner`, `bot` and `reader`, and pull request 1 of owner/infrastructure."""

    url: str
    tokens: dict[str, str]
    folder: Path

    def api(self, user: str, method: str, path: str, **content: Any) -> Any:
        """Call the API as a user."""
        headers = {"Authorization": f"token {self.tokens[user]}"}
        answer = httpx.request(method, f"{self.url}/api/v1{path}", headers=headers, json=content or None, timeout=60)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def bodies(self) -> list[str]:
        """The texts of all comments of the pull request."""
        listed = self.api("owner", "GET", "/repos/owner/infrastructure/issues/1/comments")
        return [comment["body"] for comment in listed]

    def comment(self, text: str, *options: str, user: str = "bot") -> subprocess.CompletedProcess[str]:
        """Run the command as in a pipeline of Woodpecker, with the token of a user."""
        file = self.folder / "preview.md"
        file.write_text(text)
        variables = {
            "CI": "woodpecker",
            "CI_FORGE_TYPE": "gitea",
            "CI_FORGE_URL": self.url,
            "CI_REPO": "owner/infrastructure",
            "CI_COMMIT_PULL_REQUEST": "1",
            "COMMENT_TOKEN": self.tokens[user],
            "PATH": os.environ["PATH"],
        }
        return subprocess.run(
            [sys.executable, "-m", "operations", "comment", "--file", str(file), *options],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, binary: Callable[[str], str]) -> Iterator[Gitea]:
    """A Gitea with users, tokens and a pull request."""
    folder, port = tmp_path_factory.mktemp("gitea"), free_port()
    file = folder / "app.ini"
    file.write_text(CONFIGURATION.format(port=port, files=ROOT / ".local" / "gitea"))
    environment = {
        "GITEA_WORK_DIR": str(folder),
        "HOME": str(folder),
        # Gitea refuses to run as root. Here it listens on 127.0.0.1, in a folder of its own, for a minute.
        "GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT": "true",
    }
    program = [binary("gitea"), "--config", str(file)]

    def administer(*arguments: str) -> str:
        command = [program[0], "admin", "user", *arguments, "--config", str(file)]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]  # as root, a warning comes first

    with running([*program, "web"], port, folder / "log", environment):
        tokens = {}
        for user, scopes in (("owner", "all"), ("bot", "write:issue,read:user"), ("reader", "read:issue,read:user")):
            mail, password = f"{user}@example.com", ("--random-password", "--must-change-password=false")
            administer("create", "--username", user, "--email", mail, *password)
            tokens[user] = administer("generate-access-token", "--username", user, "--scopes", scopes, "--raw")
        gitea = Gitea(f"http://127.0.0.1:{port}", tokens, folder)
        repository = "/repos/owner/infrastructure"
        gitea.api("owner", "POST", "/user/repos", name="infrastructure", auto_init=True, default_branch="main")
        gitea.api("owner", "POST", f"{repository}/contents/a.txt", content="YQ==", branch="main", new_branch="change")
        gitea.api("owner", "POST", f"{repository}/pulls", head="change", base="main", title="Change")
        yield gitea


@pytest.fixture
def gitea(started: Gitea) -> Gitea:
    """The pull request without comments."""
    repository = "/repos/owner/infrastructure/issues"
    for comment in started.api("owner", "GET", f"{repository}/1/comments"):
        started.api("owner", "DELETE", f"{repository}/comments/{comment['id']}")
    return started


def preview(text: str, stack: str = "prod", changes: bool = True) -> str:
    return f"{mark(stack, changes=changes)}\n{text}\n"


def done(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 1, answer.stdout
    assert "Traceback" not in answer.stderr
    return answer.stderr


def test_comment_posted_three_times_is_one_comment_with_the_third_text(gitea: Gitea) -> None:
    for text in ("first", "second", "third"):
        assert "comment of prod on pull request 1 of owner/infrastructure" in done(gitea.comment(preview(text)))

    assert gitea.bodies() == [preview("third")]


def test_each_stack_has_its_own_comment(gitea: Gitea) -> None:
    for stack in ("prod", "organization/registry-stack/staging", "prod"):
        done(gitea.comment(preview("text", stack)))

    assert gitea.bodies() == [preview("text"), preview("text", "organization/registry-stack/staging")]


def test_comment_is_removed_when_nothing_changes_any_more(gitea: Gitea) -> None:
    done(gitea.comment(preview("text")))

    assert done(gitea.comment(preview("no changes", changes=False), "--remove-when-empty")).startswith("removed")
    assert gitea.bodies() == []


@pytest.mark.parametrize("user", ["bot", "owner"], ids=["may not edit", "may edit"])
def test_comment_of_another_account_with_the_mark_stays(gitea: Gitea, user: str) -> None:
    copied = preview("nothing to worry about")
    gitea.api("owner" if user == "bot" else "bot", "POST", "/repos/owner/infrastructure/issues/1/comments", body=copied)

    for text in ("first", "second"):
        answer = gitea.comment(preview(text), user=user)
        done(answer)
        assert "was left as it is" in answer.stderr

    assert gitea.bodies() == [copied, preview("second")]


def test_other_comments_do_not_hide_the_comment_of_the_stack(gitea: Gitea) -> None:
    path = "/repos/owner/infrastructure/issues/1/comments"  # longer than a page of this Gitea
    gitea.api("owner", "POST", path, body="before")
    done(gitea.comment(preview("first")))
    gitea.api("owner", "POST", path, body="after")

    done(gitea.comment(preview("second")))

    assert gitea.bodies() == ["before", preview("second"), "after"]


def test_comments_of_two_pipelines_become_one(gitea: Gitea) -> None:
    path = "/repos/owner/infrastructure/issues/1/comments"
    for text in ("of one", "of the other"):
        gitea.api("bot", "POST", path, body=preview(text))

    done(gitea.comment(preview("new")))

    assert gitea.bodies() == [preview("new")]


def test_long_text_arrives_whole(gitea: Gitea) -> None:
    text = preview("é" * 60_000)

    done(gitea.comment(text))

    assert gitea.bodies() == [text]


def test_refusals_of_gitea_say_what_to_do(gitea: Gitea) -> None:
    gitea.tokens["nobody"] = "0" * 40

    invalid = refused(gitea.comment(preview("text"), user="nobody"))
    read_only = refused(gitea.comment(preview("text"), user="reader"))
    elsewhere = refused(gitea.comment(preview("text"), "--repository", "owner/nothing"))
    unknown = refused(gitea.comment(preview("text"), "--number", "99"))

    assert "does not accept the token" in invalid
    assert "write:issue" in read_only
    assert "no pull request 1 of owner/nothing" in elsewhere
    assert "check --repository and --number" in unknown
    assert all(
        token not in text for token in gitea.tokens.values() for text in (invalid, read_only, elsewhere, unknown)
    )
    assert gitea.bodies() == []
