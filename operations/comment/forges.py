"""What differs between the forges: addresses, headers and limits, as the documentation of each forge gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import httpx

from components.configuration.problems import Failure

Name = Literal["github", "gitea", "gitlab"]

_SEGMENT = r"(?!\.\.?(?:/|\Z))[\w.-]+"
_REPOSITORY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})+|\d+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Forge:
    """How one kind of forge is asked.

    Args:
        title: name of the forge in messages.
        thread: path of all comments of a pull request.
        comment: path of one comment.
        edit: HTTP method that replaces the text of a comment.
        query: parameters of the first page of comments. The answer's header `Link` has those of the next page.
        authorization: name and value of the header with the token.
        headers: other headers.
        author: keys of a comment's author and of the author's login name.
        longest: the longest text of a comment, in characters.
        rights: what the token must be allowed to do, for error messages.
    """

    title: str
    thread: str = "/repos/{repository}/issues/{number}/comments"
    comment: str = "/repos/{repository}/issues/comments/{id}"
    edit: str = "PATCH"
    query: Mapping[str, str] = field(default_factory=dict)
    authorization: tuple[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    author: tuple[str, str] = ("user", "login")
    longest: int
    rights: str


FORGES: Mapping[Name, Forge] = {
    # https://docs.github.com/en/rest/issues/comments: a pull request is an issue.
    "github": Forge(
        title="GitHub",
        query={"per_page": "100"},
        authorization=("Authorization", "Bearer {}"),
        headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
        longest=65_536,
        rights="`permissions: pull-requests: write` in the workflow, the permission `Pull requests: write` of a"
        " fine-grained token, or the scope `repo` of a classic token",
    ),
    # https://docs.gitea.com/api/: issueGetComments, issueCreateComment, issueEditComment, issueDeleteComment.
    # Forgejo has the same paths. Both list all comments at once.
    "gitea": Forge(
        title="Gitea or Forgejo",
        authorization=("Authorization", "token {}"),
        headers={"Accept": "application/json"},
        longest=1_000_000,
        rights="the scopes `write:issue` and `read:user`, of an account that can read the pull requests",
    ),
    # https://docs.gitlab.com/api/notes/#merge-requests
    "gitlab": Forge(
        title="GitLab",
        thread="/projects/{repository}/merge_requests/{number}/notes",
        comment="/projects/{repository}/merge_requests/{number}/notes/{id}",
        edit="PUT",
        query={"per_page": "100", "order_by": "created_at", "sort": "asc"},
        authorization=("PRIVATE-TOKEN", "{}"),
        headers={"Accept": "application/json"},
        author=("author", "username"),
        longest=1_000_000,
        rights="the scope `api` and the role Reporter, such as a project access token (a CI_JOB_TOKEN cannot comment)",
    ),
}


@dataclass(frozen=True)
class PullRequest:
    """A pull request, or merge request, and the address of its forge's API.

    Args:
        name: kind of the forge.
        api: base URL of the API, without a slash at the end.
        repository: ``owner/name``; on GitLab a path with any number of groups, or the project's number.
        number: number in the repository.
        fork: whether the branch is in a fork. The automatic tokens of such pipelines can only read.
    """

    name: Name
    api: str
    repository: str
    number: int
    fork: bool = False

    def __str__(self) -> str:
        return f"{'merge' if self.name == 'gitlab' else 'pull'} request {self.number} of {self.repository}"

    @property
    def forge(self) -> Forge:
        """The kind of the forge."""
        return FORGES[self.name]

    def thread(self) -> str:
        """URL of all comments."""
        return self.api + self.forge.thread.format(repository=self._path, number=self.number)

    def comment(self, identifier: int) -> str:
        """URL of one comment."""
        return self.api + self.forge.comment.format(repository=self._path, number=self.number, id=identifier)

    @property
    def _path(self) -> str:
        return quote(self.repository, safe="" if self.name == "gitlab" else "/")


def api_of(name: Name, url: str) -> str:
    """Return the base URL of the API of the forge at ``url``, the address that people open in a browser.

    Raises:
        Failure: if the URL is not the address of a server.
    """
    root = checked(url)
    match name:
        case "gitea":
            return f"{root}/api/v1"
        case "gitlab":
            return f"{root}/api/v4"
    # https://docs.github.com/en/rest/using-the-rest-api: only GitHub Enterprise Server has the API under a path.
    scheme, host = root.split("://")
    return f"{scheme}://api.{host}" if host == "github.com" or host.endswith(".ghe.com") else f"{root}/api/v3"


def checked(url: str) -> str:
    """Return a URL without a slash at the end.

    Raises:
        Failure: if the URL is not the address of a server.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        raise Failure(
            "the address of the forge is not a URL with http or https and without a login",
            "give the address that people open in a browser: --url https://git.example.com",
        )
    return str(parsed).rstrip("/")


def graphql_of(api: str) -> str:
    """Return the GraphQL address that belongs to a base URL of GitHub's API."""
    return f"{api.removesuffix('/v3')}/graphql"


def is_repository(text: str) -> bool:
    """Whether a text can be the name of a repository."""
    return _REPOSITORY.fullmatch(text) is not None
