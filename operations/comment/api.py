"""The HTTP calls for the comments of one pull request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from components.configuration.problems import Failure
from operations.comment.forges import PullRequest, graphql_of
from operations.comment.refusals import Passing, no_answer, refusal

ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Comment:
    """A comment, and the login name of its author."""

    id: int
    author: str
    body: str


class Comments:
    """The comments of one pull request. The token goes only to the base URL of the API, never where an answer points.

    Raises:
        Failure: from each call that the forge does not answer with a success.
    """

    def __init__(self, request: PullRequest, token: str) -> None:
        self._request, self._forge, self._token = request, request.forge, token
        header, value = self._forge.authorization
        headers = {"User-Agent": "registry-stack", **self._forge.headers, header: value.format(token)}
        try:
            self._client = httpx.Client(headers=headers, timeout=ANSWER_SECONDS, follow_redirects=False)
        except OSError as error:
            raise Failure(
                f"cannot read the certificates of SSL_CERT_FILE or SSL_CERT_DIR: {error.strerror or error}",
                "set SSL_CERT_FILE to a PEM file with the certificate of the authority, or unset the variable",
            ) from None

    def __enter__(self) -> Comments:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def account(self) -> str:
        """The login name of the token's account.

        On GitHub, only GraphQL answers every kind of token: GITHUB_TOKEN and other tokens of an app may not read /user.
        """
        if self._request.name == "github":
            query = {"query": "query { viewer { login } }"}
            answer = self._content(self._call("POST", graphql_of(self._request.api), query), dict)
            try:
                login = ((answer.get("data") or {}).get("viewer") or {}).get("login")
            except AttributeError:
                raise self._other_answer() from None
        else:
            login = self._content(self._call("GET", f"{self._request.api}/user"), dict).get(self._forge.author[1])
        if not login:
            raise Failure(
                f"{self._forge.title} does not say which account the token belongs to",
                f"use a token with {self._forge.rights}",
            )
        return str(login)

    def all(self) -> Iterator[Comment]:
        """Read all comments, page by page."""
        person, login = self._forge.author
        query: Mapping[str, str] | None = self._forge.query
        read: list[Mapping[str, str]] = []
        while query is not None:
            if query in read:
                raise self._other_answer()
            read.append(query)
            answer = self._call("GET", self._request.thread(), query=query)
            try:
                for found in self._content(answer, list):
                    if not found.get("system"):  # GitLab lists its own remarks beside the comments
                        yield Comment(int(found["id"]), str((found.get(person) or {}).get(login)), str(found["body"]))
                # Only the query counts: the address in the header can be one that this machine does not reach.
                following = answer.links.get("next", {}).get("url")
                query = dict(httpx.URL(following).params) if following else None
            except (AttributeError, KeyError, TypeError, ValueError, httpx.InvalidURL):
                raise self._other_answer() from None

    def create(self, body: str) -> None:
        """Write a new comment."""
        self._call("POST", self._request.thread(), {"body": body})

    def edit(self, comment: Comment, body: str) -> None:
        """Replace the text of a comment."""
        answer = self._call(self._forge.edit, self._request.comment(comment.id), {"body": body}, or_gone=True)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Passing("the comment was deleted in the meantime", "run the command again")

    def delete(self, comment: Comment) -> None:
        """Delete a comment. A comment that is gone already is no error."""
        self._call("DELETE", self._request.comment(comment.id), or_gone=True)

    def _call(
        self,
        method: str,
        url: str,
        content: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        or_gone: bool = False,
    ) -> httpx.Response:
        try:
            answer = self._client.request(method, url, json=content, params=query)
        except httpx.RequestError as error:
            raise no_answer(url, error) from None
        if answer.is_success or (or_gone and answer.status_code == httpx.codes.NOT_FOUND):
            return answer
        raise refusal(self._request, answer, self._token)

    def _content(self, answer: httpx.Response, kind: type) -> Any:
        try:
            content = json.loads(answer.text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, kind):
            raise self._other_answer()
        return content

    def _other_answer(self) -> Failure:
        return Failure(
            f"the API of {self._forge.title} does not answer at {self._request.api}: the answer is not its JSON",
            "give the kind and the address of the forge: --forge and --url",
        )
