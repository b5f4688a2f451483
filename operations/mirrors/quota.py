"""Ask Docker Hub what remains of the pull quota of a mirror.

Without a login, the quota belongs to the address of the Docker host. So the bytes go through the mirror's container, by
its way out. TLS starts in this command, so a login is in no argument and no variable of another process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from components.configuration.settings import DOCKER_HUB, KNOWN_UPSTREAMS
from operations.docker_command import docker

#: API origin of the only registry that tells a quota.
HUB_URL = KNOWN_UPSTREAMS[DOCKER_HUB]
_REGISTRY = urlsplit(HUB_URL).netloc
_TOKENS = "auth.docker.io"
#: The repository that Docker offers for this question.
_REPOSITORY = "ratelimitpreview/test"
#: Seconds of silence after which Docker Hub counts as unreachable.
_WITHIN = 20
_LARGEST_TOKEN = 1 << 20
_HEADER = re.compile(r"(\d{1,12});w=([1-9]\d{0,11})", re.ASCII)


class NoQuota(Exception):
    """A mirror without a known quota. The message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """``remaining`` of the ``limit`` pulls that Docker Hub allows within any ``seconds``."""

    limit: int
    remaining: int
    seconds: int

    def __str__(self) -> str:
        unit, size = next((one for one in (("h", 3600), ("min", 60)) if self.seconds % one[1] == 0), ("s", 1))
        return f"{self.remaining} of {self.limit} in {self.seconds // size} {unit}"


def quota(limit: str | None, remaining: str | None) -> Quota | None:
    """Return the quota in Docker Hub's headers ``ratelimit-limit`` and ``ratelimit-remaining``, like 100;w=21600."""
    allowed, left = _HEADER.fullmatch(limit or ""), _HEADER.fullmatch(remaining or "")
    if not allowed or not left:
        return None
    return Quota(limit=int(allowed[1]), remaining=int(left[1]), seconds=int(allowed[2]))


def read_quota(host: str, container: str, login: tuple[str, SecretStr] | None) -> Quota:
    """Return the quota of the login, or without a login the quota of the address that the container has for Docker Hub.

    The request is HEAD, because each GET of a manifest counts as a pull. wget in the container can send only GET.

    Raises:
        NoQuota: if Docker Hub does not answer, or tells no quota.
    """
    way = _Way(host, container)
    basic = {}
    if login:
        words = f"{login[0]}:{login[1].get_secret_value()}".encode()
        basic = {"Authorization": f"Basic {base64.b64encode(words).decode()}"}
    path = f"/token?service=registry.docker.io&scope=repository:{_REPOSITORY}:pull"
    with way.answer(_TOKENS, "GET", path, basic) as answer:
        if login and answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise NoQuota(f"Docker Hub refuses the login {login[0]}")
        token = _token(answer)
    bearer = {"Authorization": f"Bearer {token}"}
    with way.answer(_REGISTRY, "HEAD", f"/v2/{_REPOSITORY}/manifests/latest", bearer) as answer:
        found = quota(answer.getheader("ratelimit-limit"), answer.getheader("ratelimit-remaining"))
        if found is None and answer.status == HTTPStatus.OK:
            raise NoQuota("Docker Hub answers without a quota, as for a paid plan")
        if found is None:
            raise NoQuota(f"{_REGISTRY} answers with status {answer.status}")
        return found


def _token(answer: HTTPResponse) -> str:
    if answer.status != HTTPStatus.OK:
        raise NoQuota(f"{_TOKENS} answers with status {answer.status}")
    try:
        token = str(json.loads(answer.read(_LARGEST_TOKEN))["token"])
    except (ValueError, KeyError, TypeError, RecursionError):
        token = ""
    if not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):
        raise NoQuota(f"{_TOKENS} answers without a token")
    return token


class _Way:
    """The way of a container to Docker Hub, through the HTTP proxy of the container if it has one."""

    def __init__(self, host: str, container: str) -> None:
        self._exec = ["docker", "--host", host, "exec", "--interactive", container]
        said = docker(host, "exec", container, "sh", "-c", 'echo "$HTTPS_PROXY"').stdout
        self._proxy = said.decode(errors="replace").strip()
        self._trust = httpx.create_ssl_context()

    @contextlib.contextmanager
    def answer(self, server: str, method: str, path: str, headers: dict[str, str]) -> Iterator[HTTPResponse]:
        """Send a request to a server.

        Raises:
            NoQuota: if the server does not answer.
        """
        target = urlsplit(self._proxy or f"//{server}:443")
        if target.scheme == "https":
            raise NoQuota(f"the command cannot ask through an HTTP proxy with TLS ({self._proxy})")
        ours, theirs = socket.socketpair()
        with theirs:
            # timeout ends nc in the container even if nobody ends it.
            relay = [*self._exec, "timeout", "60", "nc", str(target.hostname), str(target.port or 80)]
            process = subprocess.Popen(relay, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE)
        with process, ours:
            try:
                ours.settimeout(_WITHIN)
                if self._proxy:
                    _connect(ours, server)
                with self._trust.wrap_socket(ours, server_hostname=server) as tls:
                    connection = HTTPConnection(server)
                    connection.sock = tls
                    connection.request(method, path, headers={**headers, "Connection": "close"})
                    with connection.getresponse() as answer:
                        yield answer
            except (OSError, HTTPException) as error:
                process.kill()
                said = process.communicate()[1].decode(errors="replace")
                raise NoQuota(f"{server} does not answer: {_cause(error, said)}") from None
            finally:
                process.kill()


def _connect(stream: socket.socket, server: str) -> None:
    """Let an HTTP proxy open the connection to the server."""
    stream.sendall(f"CONNECT {server}:443 HTTP/1.1\r\nHost: {server}:443\r\n\r\n".encode())
    with HTTPResponse(stream, method="CONNECT") as answer:
        answer.begin()
        if answer.status != HTTPStatus.OK:
            raise OSError(f"the HTTP proxy answers with status {answer.status}")


def _cause(error: Exception, said: str) -> str:
    """Return why there is no answer. If nc ends early, its last words say more than the error of the stream."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return "".join(filter(str.isprintable, said.strip().rpartition("\n")[2])) or str(error)
