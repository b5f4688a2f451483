"""What an answer that is no success means, and what to do about it."""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import Mapping

import httpx

from components.configuration.problems import Failure
from operations.comment.forges import PullRequest

_LONGEST_SAID = 200


class Passing(Failure):
    """A failure that can pass by itself: the same calls can succeed a few seconds later."""


class Forbidden(Failure):
    """The token lacks a right."""


def no_answer(url: str, error: httpx.RequestError) -> Failure:
    """The failure of a call without an answer."""
    host = httpx.URL(url).netloc.decode()
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Failure(
            f"the certificate of {host} is not trusted: {error}",
            "for a private authority, set SSL_CERT_FILE to a PEM file with the certificate of the authority",
        )
    return Passing(
        f"{host} does not answer: {str(error) or type(error).__name__}",
        "check the address (--url), the network and the proxy variables, and run the command again",
    )


def refusal(request: PullRequest, answer: httpx.Response, secret: str) -> Failure:
    """The failure of a call that the forge refused, with the message of the forge, but without the secret."""
    title, rights, status = request.forge.title, request.forge.rights, answer.status_code
    kind: type[Failure] = Failure
    match status:
        case _ if _is_limited(answer):
            end = limit_end(answer.headers, datetime.datetime.now(datetime.UTC))
            until = f"until {end:%Y-%m-%d %H:%M:%S} UTC" if end else "for at least one minute"
            cause, fix = f"{title} limits the requests of this token {until}", "run the command again after that"
        case httpx.codes.UNAUTHORIZED:
            cause, fix = f"{title} does not accept the token", f"use a token with {rights}"
        case httpx.codes.FORBIDDEN:
            kind, cause, fix = Forbidden, f"{title} refuses this to the token", f"use a token with {rights}"
        case httpx.codes.NOT_FOUND:
            cause = f"{title} has no {request}, or the token cannot see it"
            fix = f"check --repository and --number, and use a token with {rights}"
        case _ if answer.is_redirect:
            target = answer.headers.get("Location", "").partition("?")[0]
            cause = f"{title} redirects to {target}, and the command sends the token to no other address"
            fix = "give the new address of the forge (--url) or the new name of the repository (--repository)"
        case _ if answer.is_server_error:
            kind, cause = Passing, f"{title} failed with status {status}"
            # Gitea 1.26 answers 500 for a number that does not exist.
            fix = "run the command again in a few minutes, and check --repository and --number"
        case _:
            cause = f"{title} refuses the request with status {status}"
            fix = "check that the repository is not archived and that the pull request takes comments"
    return kind(f"{cause}{_said(answer)}".replace(secret, "[secret]"), fix)


def limit_end(headers: Mapping[str, str], now: datetime.datetime) -> datetime.datetime | None:
    """Return the end of a rate limit; None if the headers do not tell it.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api and
    https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers
    """
    after = headers.get("Retry-After", "")
    # GitHub sends these headers with a limit of another kind too, while requests are left in this period.
    left = headers.get("X-RateLimit-Remaining") or headers.get("RateLimit-Remaining") or "0"
    reset = headers.get("X-RateLimit-Reset") or headers.get("RateLimit-Reset")
    try:
        if after.isdecimal():
            return now + datetime.timedelta(seconds=int(after))
        if after:
            return email.utils.parsedate_to_datetime(after).astimezone(datetime.UTC)
        return datetime.datetime.fromtimestamp(int(reset), datetime.UTC) if reset and left == "0" else None
    except (ValueError, OverflowError, OSError):
        return None


def _is_limited(answer: httpx.Response) -> bool:
    """Whether the token made too many requests. GitHub also says this with status 403."""
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return True
    signs = "Retry-After" in answer.headers, answer.headers.get("X-RateLimit-Remaining") == "0"
    return answer.status_code == httpx.codes.FORBIDDEN and (any(signs) or "rate limit" in _said(answer))


def _said(answer: httpx.Response) -> str:
    """The message of the forge after a colon, on one line."""
    try:
        content = json.loads(answer.text)
    except (ValueError, RecursionError):
        return ""
    text = content.get("message") or content.get("error") if isinstance(content, dict) else None
    words = "".join(letter for letter in str(text or "") if letter.isprintable())
    return f": {words[:_LONGEST_SAID]}" if words else ""
