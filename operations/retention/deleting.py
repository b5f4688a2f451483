"""Delete tags and manifests through the registry's API, with the internal user of the operations."""

from __future__ import annotations

import ssl
import time

import httpx
from pydantic import SecretStr

from components.configuration.fields import OPERATIONS_USER, Endpoint
from components.configuration.passwords import operations_password
from components.configuration.problems import Failure
from operations.manifests import ACCEPT
from operations.trust import AUTHORITY, is_untrusted

#: Answers of a registry that is busy, such as during a garbage collection, or of a proxy whose process restarts.
_BUSY = (429, 502, 503, 504)
#: Seconds to wait before each new attempt.
_PAUSES = (1, 2, 5, 10, 20, 30)


class Admin:
    """The process ``admin``, behind the proxy. ``up`` is the command that deploys the stack."""

    def __init__(self, url: Endpoint, stack_secret: SecretStr, trust: ssl.SSLContext, *, up: str) -> None:
        password = operations_password(stack_secret).get_secret_value()
        self._url, self._up = str(url), up
        self._client = httpx.Client(
            base_url=self._url, auth=(OPERATIONS_USER, password), headers=ACCEPT, verify=trust, timeout=60
        )

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def points_to(self, repository: str, tag: str) -> str | None:
        """Return the digest to which a tag points now, or None if the registry does not tell."""
        answer, _ = self._ask("HEAD", repository, tag)
        return answer.headers.get("Docker-Content-Digest") if answer and answer.is_success else None

    def delete(self, repository: str, reference: str) -> None:
        """Delete a tag or, by its digest, a manifest. One that is gone is no failure.

        Raises:
            Failure: if the registry does not delete it.
        """
        answer, cause = self._ask("DELETE", repository, reference)
        if answer is not None and answer.status_code in (202, 404):
            return
        fix = "run the command again: it continues where it stopped"
        if answer is not None and answer.status_code in (401, 403, 405):
            fix = f"{self._up}; then run the command again: it continues where it stopped"
        raise Failure(f"{self._url} does not delete {repository}:{reference}: {cause}", fix)

    def _ask(self, method: str, repository: str, reference: str) -> tuple[httpx.Response | None, str]:
        """Return the answer about a tag or manifest, or None; and the answer in words. A busy registry gets time."""
        answer, cause = None, ""
        for pause in (*_PAUSES, None):
            try:
                answer = self._client.request(method, f"/v2/{repository}/manifests/{reference}")
                cause = f"{answer.status_code} {answer.reason_phrase}"
            except httpx.HTTPError as error:
                answer, cause = None, str(error) or type(error).__name__
                if is_untrusted(error):
                    raise Failure(f"{self._url} cannot be reached: {cause}", AUTHORITY) from None
            if pause is None or (answer is not None and answer.status_code not in _BUSY):
                break
            time.sleep(pause)
        return answer, cause
