"""Pulls through a mirror that answers well, badly or not at all, and the command `warm` around them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from operations.__main__ import command_line
from operations.stack import StackConfig
from operations.warm import commands, pull
from operations.warm.mirrors import Mirror
from operations.warm.pull import Pulled, Puller, PullError, Stopped
from operations.warm.references import parse
from tests.harness.certificates import authority, certificate_pair
from tests.harness.configuration import ROOT
from tests.harness.processes import serving

INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Fault:
    """An answer in place of the right one."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Bytes that are announced and never come. None: no answer at all.
    absent: int | None = 0


class Upstream(ThreadingHTTPServer):
    """A mirror with one image for two platforms. ``faults`` has the next answers of a path's end."""

    def __init__(self, pair: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pair)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.content: dict[str, tuple[str, bytes]] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.seen = Counter[str]()
        self.released = threading.Event()
        entries = [self.image(architecture) for architecture in ("amd64", "arm64")]
        self.layers = [one for one in self.content if one.startswith("sha256:") and "blob" in self.content[one][0]]
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self.content["1"] = self.content[digest(body)] = (INDEX, body)
        self.digest = digest(body)

    def image(self, architecture: str) -> dict[str, Any]:
        layer, config = f"layer {architecture} ".encode() * 5000, json.dumps({"architecture": architecture}).encode()
        for blob in (layer, config):
            self.content[digest(blob)] = ("blob", blob)
        body = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": {"digest": digest(config), "size": len(config)},
            "layers": [
                {"digest": digest(layer), "size": len(layer)},
                {"digest": f"sha256:{'0' * 64}", "size": 1, "urls": ["https://example.com/foreign"]},
            ],
        }).encode()  # fmt: skip
        self.content[digest(body)] = (MANIFEST, body)
        platform = {"os": "linux", "architecture": architecture, **({"variant": "v8"} if "arm" in architecture else {})}
        return {"mediaType": MANIFEST, "digest": digest(body), "size": len(body), "platform": platform}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name = parts.path.rpartition("/")[2]
        self.server.seen[f"{name}?{parts.query}" if parts.query else name] += 1
        kind, body = self.server.content.get(name, ("", b""))
        if name not in self.server.content or not parts.path.startswith("/v2/library/tool/"):
            fault = Fault(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
        else:
            fault = Fault(body=body, headers={"Content-Type": kind, "Docker-Content-Digest": digest(body)})
        if waiting := self.server.faults.get(name):
            fault = waiting.pop(0)
        if fault.absent is None:
            self.server.released.wait(60)
            self.close_connection = True
            return
        self.send_response(fault.status)
        for key, value in {**fault.headers, "Content-Length": str(len(fault.body) + fault.absent)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(fault.body)
        self.close_connection = bool(fault.absent)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Upstream]:
    """A mirror. Further tries do not wait."""
    monkeypatch.setattr(pull, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    for name in "HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy".split():
        monkeypatch.delenv(name, raising=False)
    pair = tmp_path / "pair.pem"
    pair.write_text("".join(certificate_pair("127.0.0.1").values()))
    server = Upstream(pair)
    with serving(server):
        yield server
        server.released.set()


def pulled(
    mirror: Upstream,
    reference: str = "tool:1",
    *platforms: str,
    is_shared: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Pulled:
    trust = ssl.create_default_context(cadata=authority().pair()["certificate"])
    with Puller(trust, platforms, progress, stop or threading.Event()) as puller:
        return puller.pull(parse(reference), Mirror("docker.io", mirror.url, is_shared, 3600))


def reason(mirror: Upstream, *arguments: str) -> str:
    with pytest.raises(PullError) as error:
        pulled(mirror, *arguments)
    return str(error.value)


def test_every_manifest_and_blob_of_all_platforms_is_read_once(mirror: Upstream) -> None:
    arrived: list[int] = []

    result = pulled(mirror, progress=arrived.append)

    expected = {one for one in mirror.content if one != mirror.digest}
    assert mirror.seen == Counter(dict.fromkeys(expected, 1))
    size = sum(len(mirror.content[one][1]) for one in expected)
    assert result == Pulled(mirror.digest, size)
    assert sum(arrived) == size


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/arm64/v8"])
def test_chosen_platform_alone_is_pulled(platform: str, mirror: Upstream) -> None:
    pulled(mirror, "tool:1", platform)

    assert len(mirror.seen) == 4  # the index, a manifest, its configuration and its layer


def test_platform_that_the_image_lacks_is_named(mirror: Upstream) -> None:
    text = reason(mirror, "tool:1", "linux/s390x", "linux/amd64")

    assert text == "there is no image for linux/s390x; there are images for linux/amd64, linux/arm64/v8"


def test_mirror_with_a_shared_address_gets_the_name_of_the_upstream(mirror: Upstream) -> None:
    pulled(mirror, is_shared=True)

    assert all(name.endswith("?ns=docker.io") for name in mirror.seen)


def test_reference_with_a_digest_is_pulled_by_the_digest(mirror: Upstream) -> None:
    assert pulled(mirror, f"tool@{mirror.digest}").digest == mirror.digest
    assert mirror.seen["1"] == 0


def test_missing_image_is_told_in_the_words_of_the_mirror_without_a_second_try(mirror: Upstream) -> None:
    assert reason(mirror, "other:1") == "the manifest: the mirror answers 404, manifest unknown"
    assert mirror.seen["1"] == 1


@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(503), Fault(429, headers={"Retry-After": "0"}), Fault(body=b"la", absent=7)]
)
@pytest.mark.parametrize("part", ["1", "blob"])
def test_passing_fault_is_tried_again(part: str, fault: Fault, mirror: Upstream) -> None:
    name = part if part == "1" else mirror.layers[0]
    mirror.faults[name] = [fault, fault]

    assert pulled(mirror).digest == mirror.digest
    assert mirror.seen[name] == 3


def test_fault_that_stays_is_a_failure_after_four_tries(mirror: Upstream) -> None:
    mirror.faults["1"] = [Fault(500)] * 9
    assert reason(mirror) == "the manifest: the mirror answers 500"
    assert mirror.seen["1"] == 4

    layer = mirror.layers[0]
    mirror.faults = {layer: [Fault(body=b"la", absent=7)] * 9}
    assert f"the blob {layer}: the connection broke off after" in reason(mirror)
    assert mirror.seen[layer] == 4


def test_long_wait_that_the_server_asks_for_is_a_failure_at_once(mirror: Upstream) -> None:
    mirror.faults["1"] = [Fault(429, headers={"Retry-After": "21600"})]

    assert "429; the server asks to wait 21600 seconds" in reason(mirror)
    assert mirror.seen["1"] == 1


@pytest.mark.parametrize("part", ["blob", "manifest"])
def test_bytes_that_do_not_fit_the_digest_are_a_failure(part: str, mirror: Upstream) -> None:
    name = mirror.layers[0] if part == "blob" else next(k for k, v in mirror.content.items() if v[0] == MANIFEST)
    mirror.faults[name] = [Fault(body=b"{}")]

    assert f"the bytes have the digest {digest(b'{}')}, not {name}" in reason(mirror)


def test_silent_server_ends_the_pull(mirror: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "ANSWER_SECONDS", 0.3)
    mirror.faults[mirror.layers[0]] = [Fault(absent=None)]

    assert "no answer for 0.3 seconds" in reason(mirror)


def test_refusal_of_any_size_and_coding_is_told_by_its_status(mirror: Upstream) -> None:
    mirror.faults["1"] = [
        Fault(404, b" " * (2 << 20), absent=1 << 40),
        Fault(404, b"no gzip", headers={"Content-Encoding": "gzip"}),
    ]

    assert {reason(mirror), reason(mirror)} == {"the manifest: the mirror answers 404"}


def test_answer_that_is_no_manifest_is_a_failure(mirror: Upstream) -> None:
    mirror.content["1"] = ("text/html", b"<html>")

    assert reason(mirror) == "the mirror's answer is no manifest"


def test_stop_ends_a_pull(mirror: Upstream) -> None:
    stop = threading.Event()

    with pytest.raises(Stopped):
        pulled(mirror, stop=stop, progress=lambda _: stop.set())


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def outputs(mirror: Upstream, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = {"registry_url": "https://registry.example.com"} | outputs_of(mirror)
    monkeypatch.setattr(StackConfig, "deployed_outputs", lambda _: found)
    monkeypatch.setattr(commands.signal, "signal", lambda *_: None)
    return found


def outputs_of(mirror: Upstream) -> dict[str, Any]:
    """The stack's outputs with this mirror."""
    return {
        "mirror_urls": {"docker.io": mirror.url},
        "ca_certificate": authority().pair()["certificate"],
        "configuration": {"settings": {"mirrors": {"docker.io": {"ttl": "1h"}}}},
    }


def run(folder: Path, text: str, *options: str) -> Any:
    (folder / "images.txt").write_text(text)
    arguments = ["warm", str(folder / "images.txt"), *options]
    return CliRunner().invoke(command_line(["warm"]), arguments, env={"COLUMNS": "200"})


def test_skipped_images_are_no_failure_and_have_a_reason(
    outputs: dict[str, Any], mirror: Upstream, tmp_path: Path
) -> None:
    answer = run(tmp_path, "tool:1\nregistry.example.com/app\nquay.io/a/b\n")

    assert answer.exit_code == 0, answer.output
    assert mirror.digest[:19] in answer.output
    assert "skipped: the private registry has this image" in answer.output
    assert "skipped: the stack has no mirror of quay.io" in answer.output
    assert "1 pulled, 2 skipped, 0 failed" in answer.output


def test_failed_image_is_in_the_table_and_in_the_exit_status(
    outputs: dict[str, Any], mirror: Upstream, tmp_path: Path
) -> None:
    answer = run(tmp_path, "other:1\ntool:1\n")

    assert answer.exit_code == 1
    assert "failed: the manifest: the mirror answers 404" in answer.output
    assert "1 pulled, 0 skipped, 1 failed" in answer.output


def test_words_of_a_mirror_are_text_and_control_no_terminal(
    outputs: dict[str, Any], mirror: Upstream, tmp_path: Path
) -> None:
    words = json.dumps({"errors": [{"message": "no [/tag] [red]here\x1b]0;title\x07"}]}).encode()
    mirror.faults["1"] = [Fault(404, words)]

    answer = run(tmp_path, "tool:1\n")

    assert answer.exit_code == 1
    assert "404, no [/tag] [red]here]0;title" in answer.output


def test_keep_pulls_again_until_it_is_stopped(
    outputs: dict[str, Any], mirror: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return len(waits) == 2

    monkeypatch.setattr(commands, "threading", SimpleNamespace(Event=Stop, Lock=threading.Lock))

    answer = run(tmp_path, "tool:1\n", "--keep")

    assert answer.exit_code == 0, answer.output
    assert waits == [150, 150]  # a twenty-fourth of an hour
    assert mirror.seen["1"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_real_process_that_keeps_images(number: int, mirror: Upstream, tmp_path: Path) -> None:
    (tmp_path / "pulumi").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(outputs_of(mirror))}\nEND\n")
    (tmp_path / "pulumi").chmod(0o755)
    (tmp_path / "images.txt").write_text("tool:1\nquay.io/a/b\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "operations", "warm", str(tmp_path / "images.txt"), "--keep"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "The next run starts in 150 seconds" not in (line := process.stderr.readline()):
        assert line, "the process ended"
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors
    assert errors == "stopped\n"
    assert "docker.io/library/tool:1" in output
    assert "quay.io/a/b:latest" in output


def test_keep_without_a_ttl_is_refused(outputs: dict[str, Any], tmp_path: Path) -> None:
    outputs["configuration"]["settings"]["mirrors"]["docker.io"]["ttl"] = "0s"

    assert "lets content expire" in str(run(tmp_path, "tool:1\n", "--keep").exception)


def test_text_that_is_no_platform_is_refused(outputs: dict[str, Any], tmp_path: Path) -> None:
    assert "is not a platform" in str(run(tmp_path, "tool:1\n", "--platform", "amd64").exception)
