"""A long-lived connection to a Docker engine over a socket, TCP or the system's `ssh` program, and its errors."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import docker
import requests.adapters
import requests.exceptions
import urllib3
from docker.errors import APIError, DockerException, NotFound

from local.stand_ins._plugin import StandInError, State

LOCAL_ENGINE = "unix:///var/run/docker.sock"
REQUEST_TIMEOUT = 120  # seconds without a byte from the engine; a stop adds its grace period
SSH_CONNECT_TIMEOUT = 30  # seconds
FIRST_API_VERSION = "1.41"  # for the request that asks for the engine's version, the same in all versions
CONCURRENT_OPERATIONS = 8
"""Over ssh, each operation may need a connection. By default, sshd refuses some of ten simultaneous logins."""

P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """The engine at ``host``. The first use of ``api`` opens the connection. Threads may share the engine."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._api: Any = None
        self._ssh: _SshAdapter | None = None

    @property
    def is_remote_shell(self) -> bool:
        return self.host.startswith("ssh://")

    @property
    def api(self) -> Any:
        """The client of the docker SDK, with the API version of the engine."""
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def unreachable(self, cause: object) -> StandInError:
        said = f"; ssh says: {self._ssh.last_words()}" if self._ssh else ""
        by_ssh = "make sure that `ssh -o BatchMode=yes` can run `docker version` on the host"
        fix = by_ssh if self.is_remote_shell else "start the engine on that host"
        return StandInError(
            f"failed to connect to any docker daemon: {self.host} does not answer ({cause}{said}). "
            f"Check the host of the docker provider. If the host is right, {fix}, then try again."
        )

    def close(self) -> None:
        """Close the connections, if there are any."""
        for opened in (self._api, self._ssh):
            if opened is not None:
                opened.close()

    def _connect(self) -> Any:
        try:
            if not self.is_remote_shell:
                return docker.APIClient(base_url=self.host, version="auto", timeout=REQUEST_TIMEOUT)
            self._ssh = _SshAdapter(dial_command(self.host))
            asked = self._ssh.client(FIRST_API_VERSION).version(api_version=False)
            return self._ssh.client(asked["ApiVersion"])
        except (DockerException, requests.exceptions.RequestException) as error:
            raise self.unreachable(error) from error


class _SshAdapter(requests.adapters.HTTPAdapter):
    """Sends the docker SDK's requests over a few `ssh HOST docker system dial-stdio` processes that stay open.

    The SDK can run `ssh` itself, but then needs another SSH library and starts a process for each request.
    """

    def __init__(self, command: list[str]) -> None:
        super().__init__()
        self._command = command
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # messages of ssh; open as long as the adapter
        self._pool = _SshPool("localhost", maxsize=CONCURRENT_OPERATIONS, block=True, dial=self._dial)

    def client(self, api_version: str) -> Any:
        client = docker.APIClient(base_url="unix:///over-ssh", version=api_version, timeout=REQUEST_TIMEOUT)
        client.mount("http+docker://", self)
        return client

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        return str(request.path_url)

    def close(self) -> None:
        self._pool.close()
        self._log.close()

    def last_words(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read().decode(errors="replace").splitlines()[-3:]) or "nothing"

    def _dial(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(self._command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._log)
        threading.Thread(target=process.wait, daemon=True).start()  # ssh ends when the connection closes
        return ours


class _SshConnection(urllib3.connection.HTTPConnection):
    def __init__(self, *args: Any, dial: Callable[[], socket.socket], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial()


class _SshPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _SshConnection


def dial_command(url: str) -> list[str]:
    """The command that connects standard input and output to the engine at ``ssh://[user@]host[:port][/socket]``."""
    parts = urlsplit(url)
    if parts.password is not None or not parts.hostname:
        raise StandInError("the docker provider's host must look like ssh://user@host:port, without a password")
    command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_CONNECT_TIMEOUT}"]
    command += ["-l", parts.username] if parts.username else []
    command += ["-p", str(parts.port)] if parts.port else []
    remote_socket = f"--host unix://{parts.path} " if parts.path.strip("/") else ""
    return [*command, "--", parts.hostname, f"docker {remote_socket}system dial-stdio"]


def explanation(error: Exception) -> str:
    """The error message of the engine, in the words of the official plugin."""
    if isinstance(error, APIError):
        return f"Error response from daemon: {error.explanation or error}"
    return str(error)


def attempt(what: str, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the engine. If the engine refuses, raise an error that starts with ``what``."""
    try:
        return action(*args, **kwargs)
    except (APIError, StandInError) as error:
        raise StandInError(f"{what}: {explanation(error)}") from error


def find_image(api: Any, name: str, platform: str | None = None) -> State:
    """The image of that name: from the engine, or pulled if the engine has no such image."""
    try:
        return dict(api.inspect_image(name))
    except NotFound:
        pass
    failed = f"unable to pull image {name}: error pulling image {name}"
    for event in attempt(failed, api.pull, name, platform=platform, stream=True, decode=True):
        if "error" in event:
            raise StandInError(f"{failed}: {event['error']}")
    return dict(attempt(f"unable to find or pull image {name}", api.inspect_image, name))
