"""Pebble, the ACME server that Let's Encrypt tests clients with, on this machine; it knows every name as 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.harness.certificates import authority, certificate_pair
from tests.harness.processes import free_port, running

KEY_ID = "kid-1"
HTTP_PORT, TLS_PORT = 80, 443
#: Nothing listens there, so that a challenge over it fails.
CLOSED = 1


@dataclass(frozen=True)
class AcmeServer:
    """A running authority, known by a certificate of its own, with one account that may register by its MAC key."""

    directory: str
    management: str
    certificate: str
    mac_key: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def settings(self) -> dict[str, Any]:
        """``proxy.certificates.acme`` of a stack that uses it."""
        return {
            "email": "ops@example.com",
            "directory": self.directory,
            "root": self.certificate,
            "eab": {"key_id": KEY_ID},
        }

    @property
    def port(self) -> int:
        """Its port on every address of this machine."""
        return urlsplit(self.directory).port or 443

    def root(self) -> ssl.SSLContext:
        """Trust in what it issues, and in nothing else."""
        trust = ssl.create_default_context(cadata=self.certificate)
        return ssl.create_default_context(cadata=httpx.get(f"{self.management}/roots/0", verify=trust, timeout=60).text)

    def orders(self) -> int:
        """How many certificates were asked for."""
        return self.log.read_text().count("POST /order-plz")

    def stop(self) -> None:
        """Let it go away for good."""
        self.process.terminate()
        self.process.wait(timeout=60)


@contextlib.contextmanager
def acme_server(
    binary: Callable[[str], str],
    folder: Path,
    address: str,
    *,
    valid_seconds: int = 90 * 86400,
    http_port: int = HTTP_PORT,
    tls_port: int = TLS_PORT,
) -> Iterator[AcmeServer]:
    """An ACME server that containers reach at ``address`` and that validates on the given ports of 127.0.0.1."""
    folder.mkdir()
    pair, port, management, names = certificate_pair("127.0.0.1", address), free_port(), free_port(), free_port()
    (folder / "server.crt").write_text(pair["certificate"])
    (folder / "server.key").write_text(pair["private_key"])
    mac_key = base64.urlsafe_b64encode(secrets.token_bytes(48)).decode()
    config = {
        "listenAddress": f"0.0.0.0:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": f"{folder}/server.crt",
        "privateKey": f"{folder}/server.key",
        "httpPort": http_port,
        "tlsPort": tls_port,
        "externalAccountBindingRequired": True,
        "externalAccountMACKeys": {KEY_ID: mac_key},
        "retryAfter": {"authz": 1, "order": 1},
        "keyAlgorithm": "ecdsa",
        "profiles": {"default": {"description": "the only one", "validityPeriod": valid_seconds}},
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    resolver = [binary("pebble-challtestsrv"), f"-dnsserver=127.0.0.1:{names}", "-defaultIPv4=127.0.0.1"]
    resolver += [
        "-defaultIPv6=",
        "-http01=",
        "-https01=",
        "-tlsalpn01=",
        "-doh=",
        f"-management=127.0.0.1:{free_port()}",
    ]
    server = [binary("pebble"), f"-config={folder}/pebble.json", f"-dnsserver=127.0.0.1:{names}"]
    # Without these it is slow and refuses a part of all requests, to see how clients take it.
    calm = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (
        running(resolver, names, folder / "resolver.log"),
        running(server, port, folder / "pebble.log", calm) as process,
    ):
        yield AcmeServer(
            directory=f"https://{address}:{port}/dir",
            management=f"https://127.0.0.1:{management}",
            certificate=authority().pair()["certificate"],
            mac_key=mac_key,
            log=folder / "pebble.log",
            process=process,
        )
