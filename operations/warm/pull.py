"""Pull an image through a mirror and throw it away, so that the mirror keeps it.

A mirror stores a blob only if a client reads it to the end with GET.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
from pydantic import Field, ValidationError

from operations.manifests import ACCEPT, Descriptor, Document, Manifest
from operations.warm.mirrors import Mirror
from operations.warm.references import Reference

ANSWER_SECONDS = 60.0
"""Longest silence of a server."""
RETRY_SECONDS = (1.0, 4.0, 15.0)
"""Waits before each further try."""
LONGEST_WAIT_SECONDS = 60.0
"""Longest wait that a server may ask for with `Retry-After`."""
AT_ONCE = 4
_LARGEST_MANIFEST = 4 << 20
_LARGEST_REFUSAL = 1 << 16
_HEADERS = {"User-Agent": "registry-stack", "Accept-Encoding": "identity", **ACCEPT}


class PullError(Exception):
    """An image that could not be pulled. The message is the reason."""


class Stopped(Exception):
    """The operator stopped the command."""


@dataclass(frozen=True)
class Pulled:
    """A pulled image: its digest, and the bytes that arrived."""

    digest: str
    size: int


class _Descriptor(Descriptor):
    """A descriptor whose digest can be checked, and cannot lead to another address."""

    digest: str = Field(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")
    size: int = 0


class _Manifest(Manifest):
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] | None = None
    manifests: tuple[_Descriptor, ...] | None = None


class Puller:
    """Pulls images. ``platforms`` selects images of an index; without platforms, all are pulled.

    ``progress`` receives the number of the bytes that have arrived. ``stop`` ends every pull.
    """

    def __init__(
        self, trust: ssl.SSLContext, platforms: Sequence[str], progress: Callable[[int], None], stop: threading.Event
    ) -> None:
        self._platforms, self._progress, self._stop = platforms, progress, stop
        self._client = httpx.Client(verify=trust, timeout=ANSWER_SECONDS, follow_redirects=False)
        self._workers = ThreadPoolExecutor(AT_ONCE)

    def __enter__(self) -> Puller:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.shutdown(cancel_futures=True)
        self._client.close()

    def pull(self, reference: Reference, mirror: Mirror) -> Pulled:
        """Pull all manifests and blobs of an image.

        Raises:
            PullError: if a part cannot be pulled, or if its bytes do not fit its digest.
            Stopped: if ``stop`` is set.
        """
        base = f"{mirror.url}/v2/{reference.repository}"
        query = {"ns": mirror.upstream} if mirror.is_shared else None
        given = reference.version if reference.is_pinned else None
        body, digest = self._manifest(f"{base}/manifests/{reference.version}", query, given)
        top = _parsed(body)
        size, manifests = len(body), [top]
        for child in self._wanted(top):
            body, _ = self._manifest(f"{base}/manifests/{child.digest}", query, child.digest)
            manifests.append(_parsed(body))
            size += len(body)
        found = [blob for one in manifests for blob in one.blobs]
        blobs = {blob.digest: blob for blob in found if not blob.urls}  # other hosts have the layers with URLs
        pulls = [self._workers.submit(self._blob, f"{base}/blobs/{one}", query, one) for one in blobs]
        try:
            return Pulled(digest, size + sum(pull.result() for pull in pulls))
        finally:
            for pull in pulls:
                pull.cancel()

    def _wanted(self, index: Manifest) -> list[Descriptor]:
        images = index.children
        if not self._platforms or not images:
            return images
        offered = {entry.digest: str(entry.platform or "") for entry in images}
        chosen = {
            platform: [entry for entry in images if f"{offered[entry.digest]}/".startswith(f"{platform}/")]
            for platform in self._platforms
        }
        if absent := [platform for platform, entries in chosen.items() if not entries]:
            known = ", ".join(sorted({one for one in offered.values() if one and not one.startswith("unknown")}))
            raise PullError(f"there is no image for {', '.join(absent)}; there are images for {known or 'no platform'}")
        return list({entry.digest: entry for entries in chosen.values() for entry in entries}.values())

    def _manifest(self, url: str, query: dict[str, str] | None, digest: str | None) -> tuple[bytes, str]:
        """Return a manifest and its digest. Without a given digest, the server's digest must fit."""
        parts: list[bytes] = []

        def keep(chunk: bytes) -> None:
            parts.append(chunk)
            if sum(map(len, parts)) > _LARGEST_MANIFEST:
                raise PullError("the manifest is larger than 4 MiB")

        found = self._fetch(url, query, digest, keep, parts.clear)
        return b"".join(parts), found[0]

    def _blob(self, url: str, query: dict[str, str] | None, digest: str) -> int:
        return self._fetch(url, query, digest, lambda _: None, lambda: None)[1]

    def _fetch(
        self,
        url: str,
        query: dict[str, str] | None,
        digest: str | None,
        keep: Callable[[bytes], None],
        forget: Callable[[], object],
    ) -> tuple[str, int]:
        """GET a document to its end, with further tries. Return its digest and its size."""
        for wait in (*RETRY_SECONDS, None):
            forget()
            try:
                return self._once(url, query, digest, keep)
            except _Temporary as error:
                seconds = wait if error.after is None else error.after
                if wait is None or seconds is None:
                    raise PullError(str(error)) from None
                if seconds > LONGEST_WAIT_SECONDS:
                    raise PullError(f"{error}; the server asks to wait {seconds:.0f} seconds") from None
                if self._stop.wait(seconds):
                    raise Stopped from None
        raise AssertionError("the last try returns or raises")

    def _once(
        self, url: str, query: dict[str, str] | None, digest: str | None, keep: Callable[[bytes], None]
    ) -> tuple[str, int]:
        what = "the manifest" if "/manifests/" in url else f"the blob {digest}"
        size = 0
        try:
            with self._client.stream("GET", url, params=query, headers=_HEADERS) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _refusal(what, answer)
                expected = digest or answer.headers.get("Docker-Content-Digest", "")
                algorithm = expected.partition(":")[0] if expected.startswith(("sha256:", "sha512:")) else "sha256"
                content = hashlib.new(algorithm)
                for chunk in answer.iter_raw():
                    if self._stop.is_set():
                        raise Stopped
                    content.update(chunk)
                    size += len(chunk)
                    keep(chunk)
                    self._progress(len(chunk))
        except httpx.TimeoutException:
            raise PullError(f"{what}: no answer for {ANSWER_SECONDS:g} seconds") from None
        except httpx.ConnectError as error:
            raise PullError(f"the mirror cannot be reached: {error}") from None
        except httpx.TransportError as error:
            raise _Temporary(f"{what}: the connection broke off after {size:,} bytes ({error})") from None
        found = f"{algorithm}:{content.hexdigest()}"
        if expected and found != expected:
            raise PullError(f"{what}: the bytes have the digest {found}, not {expected}")
        return found, size


class _Temporary(Exception):
    """A failure that a further try may not have. ``after`` is the wait in seconds that the server asks for."""

    def __init__(self, cause: str, after: float | None = None) -> None:
        super().__init__(cause)
        self.after = after


def _refusal(what: str, answer: httpx.Response) -> Exception:
    """Return the error for an answer without success, with the server's own words."""
    try:
        # One part is enough: an answer may never end.
        body = next(answer.iter_raw(_LARGEST_REFUSAL), b"")
        words = str(_Refusal.model_validate_json(body).errors[0].message)
    except (ValidationError, IndexError, httpx.TransportError):
        words = ""
    cause = f"{what}: the mirror answers {answer.status_code}" + (f", {words[:200]}" if words else "")
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.status_code >= 500:
        after = answer.headers.get("Retry-After", "")
        return _Temporary(cause, float(after) if after.isdecimal() and len(after) < 10 else None)
    return PullError(cause)


class _RefusalEntry(Document):
    message: str = ""


class _Refusal(Document):
    errors: tuple[_RefusalEntry, ...]


def _parsed(body: bytes) -> Manifest:
    try:
        return _Manifest.model_validate_json(body)
    except ValidationError:
        raise PullError("the mirror's answer is no manifest") from None
