"""Write images to a registry over HTTP, with further tries."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator

import httpx
from pydantic import SecretStr, ValidationError

from components.configuration.problems import Failure
from operations.manifests import ACCEPT, Document
from operations.tarballs.archive import LARGEST_DOCUMENT, Broken
from operations.trust import AUTHORITY, is_untrusted

ANSWER_SECONDS = 300.0
"""Longest silence of the registry, which may be busy with the end of a large upload."""
CONNECT_SECONDS = 20.0
"""Longest time in which a host may accept a connection."""
RETRY_SECONDS = (1.0, 4.0, 15.0, 40.0)
"""Waits before each further try. The registry refuses uploads for some seconds while it removes old images."""
LONGEST_WAIT_SECONDS = 60.0
"""Longest wait that the registry may ask for with `Retry-After`."""


class Registry:
    """A registry at ``url``, as the user ``login`` or without a login."""

    def __init__(self, url: str, trust: ssl.SSLContext, login: tuple[str, SecretStr] | None) -> None:
        self._client = httpx.Client(
            base_url=url,
            auth=(login[0], login[1].get_secret_value()) if login else None,
            headers={"User-Agent": "registry-stack", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
            verify=trust,
        )
        self._known: dict[str, str] = {}  # a repository that should have the blob, by digest
        self._present: set[tuple[str, str]] = set()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def manifest(self, repository: str, tag: str) -> bytes | None:
        """Return the manifest that a tag points to, or None without the tag."""
        address = f"/v2/{repository}/manifests/{tag}"
        try:
            answer = self._ask(lambda: self._client.get(address, headers=ACCEPT), (200, 404))
        except Broken as error:
            raise Failure(str(error), f"check that a registry answers at {self._client.base_url}") from None
        return answer.content if answer.status_code == httpx.codes.OK else None

    def note(self, repository: str, digest: str) -> None:
        """Remember that a repository has a blob."""
        self._present.add((repository, digest))
        self._known.setdefault(digest, repository)

    def expect(self, repository: str, digest: str) -> None:
        """Remember that a repository should have a blob: a manifest there names it."""
        self._known.setdefault(digest, repository)

    def has(self, repository: str, digest: str) -> bool:
        """Tell whether a repository has a blob."""
        if (repository, digest) not in self._present:
            answer = self._ask(lambda: self._client.head(f"/v2/{repository}/blobs/{digest}"), (200, 404))
            if answer.status_code == httpx.codes.OK:
                self.note(repository, digest)
        return (repository, digest) in self._present

    def mount(self, repository: str, digest: str) -> bool:
        """Let a repository share a blob that another repository is expected to have. Tell whether that worked."""
        if (other := self._known.get(digest)) is None:
            return False
        query = {"mount": digest, "from": other}
        answer = self._ask(lambda: self._client.post(f"/v2/{repository}/blobs/uploads/", params=query), (201, 202))
        if answer.status_code == httpx.codes.ACCEPTED:
            with contextlib.suppress(httpx.TransportError):  # the registry also removes unused uploads by itself
                self._client.delete(_path(answer.headers["Location"]))
            return False
        self.note(repository, digest)
        return True

    def upload(self, repository: str, digest: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Upload a blob. ``content`` begins again with each try."""

        def send() -> httpx.Response:
            started = self._client.post(f"/v2/{repository}/blobs/uploads/")
            if started.status_code != httpx.codes.ACCEPTED:
                return started
            address = _path(started.headers["Location"]).copy_add_param("digest", digest)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            return self._client.put(address, headers=headers, content=content())

        self._ask(send, (201,))
        self.note(repository, digest)

    def put_manifest(self, repository: str, reference: str, media_type: str, content: bytes) -> None:
        """Write a manifest under a tag or under its digest."""
        address = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": media_type}
        self._ask(lambda: self._client.put(address, headers=headers, content=content), (201,))

    def _ask(self, request: Callable[[], httpx.Response], expected: tuple[int, ...]) -> httpx.Response:
        """Send a request until the registry gives an expected answer.

        Raises:
            Failure: if no request can succeed.
            Broken: if the registry refuses this content.
        """
        for wait in (*RETRY_SECONDS, None):
            try:
                answer = request()
            except httpx.TransportError as error:
                cause, seconds = f"the registry cannot be reached: {error}", wait
                if is_untrusted(error):
                    raise Failure(cause, AUTHORITY) from None
            else:
                if answer.status_code in expected:
                    return answer
                cause = f"the registry answers {answer.status_code}{_words(answer)}"
                if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and answer.status_code < 500:
                    raise self._refusal(answer, cause)
                asked = answer.headers.get("Retry-After", "")
                seconds = max(wait, float(asked)) if wait and asked.isdecimal() and len(asked) < 10 else wait
            if seconds is None or seconds > LONGEST_WAIT_SECONDS:
                raise Failure(cause, "run the same command again: it continues where it stopped")
            time.sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def _refusal(self, answer: httpx.Response, cause: str) -> Exception:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return Failure(cause, "deploy the login with `pulumi up`, or choose another user with --user")
        return Broken(cause)


class _Error(Document):
    message: str = ""


class _Errors(Document):
    errors: tuple[_Error, ...]


def digest_of(content: bytes) -> str:
    """Return the digest of a document."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _path(location: str) -> httpx.URL:
    """Return the path and the query of an upload's address. Another host must never see the password."""
    return httpx.URL(raw_path=httpx.URL(location).raw_path)


def _words(answer: httpx.Response) -> str:
    try:
        errors = _Errors.model_validate_json(answer.content[:LARGEST_DOCUMENT]).errors
    except ValidationError:
        return ""
    return f": {errors[0].message[:200]}" if errors else ""
