"""`mirrors`: what containers tell about mirrors, as a table and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.configuration.naming import COUNTERS_PORT
from components.configuration.problems import Failure
from components.render.proxy import NO_DIGEST
from operations.__main__ import command_line
from operations.mirrors import reading
from operations.mirrors.counters import Counters, usage
from operations.mirrors.log import last_error
from operations.mirrors.reading import SCRIPT, cache
from operations.stack import StackConfig

COUNTERS = """process_start_time_seconds 1.7960220872e+09
# TYPE registry_proxy_hits_total counter
registry_proxy_hits_total{type="blob"} 4
registry_proxy_hits_total{type="manifest"} 2
registry_proxy_misses_total{type="blob"} 2
registry_proxy_misses_total{type="manifest"} 1
registry_proxy_pulled_bytes_total{type="blob"} 1.23456789e+09
registry_proxy_pulled_bytes_total{type="manifest"} 415
registry_proxy_pushed_bytes_total{type="blob"} 3.4e+09
registry_proxy_pushed_bytes_total{type="manifest"} 1245
registry_proxy_requests_total{type="blob"} 6
registry_proxy_requests_total{type="manifest"} 3
"""
OUTPUTS = {
    "registry_url": "https://registry.example.com",
    "docker_host": "ssh://deploy@registry.example.com",
    "mirror_urls": {"docker.io": "https://mirror.example.com", "ghcr.io": "https://ghcr.example.com"},
    "mirror_url": None,
    "services": {"reader": "reader-1", "mirror-docker-io": "hub", "mirror-ghcr-io": "ghcr"},
    "configuration": {"settings": {"mirrors": {"docker.io": {}, "ghcr.io": {}}}},
}


def test_counters_of_manifests_and_blobs_are_summed() -> None:
    found = usage(COUNTERS)

    assert found
    assert found.manifests == Counters(requests=3, hits=2, misses=1, bytes_served=1245, bytes_fetched=415)
    assert found.total.bytes_fetched == 1_234_567_890 + 415
    assert (found.total.requests, found.total.hits, found.total.hit_ratio) == (9, 6, 6 / 9)


def test_a_process_without_counters_differs_from_an_unused_one() -> None:
    unused = usage('registry_proxy_requests_total{type="blob"} 0\n')

    assert usage("answers\n") is None
    assert unused
    assert (unused.total.requests, unused.total.hit_ratio) == (0, None)


def entry(level: str, message: str, **more: Any) -> str:
    return json.dumps({"level": level, "msg": message, "time": "2026-11-30T07:01:29.4Z"} | more)


def test_the_last_error_has_the_reason_and_the_request() -> None:
    failed = {
        "err.message": "unknown error",
        "err.detail": 'Get "https://user:secret@upstream.example/v2/": connection refused\x1b[31m',
        "http.request.method": "GET",
        "http.request.uri": "/v2/library/late/manifests/1?token=hidden",
        "http.response.status": 500,
    }
    log = [
        entry("error", "response completed with error", **{"err.message": "earlier"}),
        entry("error", "response completed with error", **failed),
        entry("info", "response completed"),
        "no JSON",
        entry("warning", "Registry does not implement RepositoryRemover. Will not be able to delete repos and tags"),
    ]

    found = last_error("\n".join(log))

    assert found
    assert (found.time, found.level) == ("2026-11-30T07:01:29.4Z", "error")
    assert found.message == (
        'unknown error: Get "https://…@upstream.example/v2/": connection refused[31m'
        " (GET /v2/library/late/manifests/1: 500)"
    )


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "tag unknown (GET /v2/team/tool/manifests/1: 404)"), (500, "no route to host (GET /v2/team/tool: 500)")],
)
def test_the_last_error_is_the_answer_to_the_proxy_if_that_has_the_cause(status: int, message: str) -> None:
    def failed(reference: str, status: int, message: str) -> str:
        uri = f"/v2/team/tool/manifests/{reference}"
        request = {"http.request.method": "GET", "http.request.uri": uri, "http.response.status": status}
        return entry("error", "response completed with error", **{"err.message": message}, **request)

    found = last_error(failed("1", 404, "tag unknown") + "\n" + failed(NO_DIGEST, status, "no route to host"))

    assert found
    assert found.message == message


@pytest.mark.parametrize(
    "line", ["panic: no upstream", "/var/lib/registry has the data of the registry, and this is the mirror docker.io"]
)
def test_a_process_that_does_not_start_tells_why(line: str) -> None:
    found = last_error(f"{line}\n\ngoroutine 1 [running]:\n")

    assert found
    assert (found.time, found.level, found.message) == (None, "fatal", line)


def test_a_detail_of_any_depth_is_read() -> None:
    for depth in (10, *range(800, 1010), 9000):
        line = f'{entry("error", "failed")[:-1]}, "err.detail": {"[" * depth}{"]" * depth}}}'
        found = last_error(f"{entry('error', 'earlier')}\n{line}")

        assert found
        assert found.message.startswith(("failed", "earlier"))


def test_a_log_without_errors_has_no_last_error() -> None:
    assert last_error(entry("info", "listening on :5000")) is None
    assert last_error("") is None


def test_a_line_of_another_form_is_no_error_and_controls_no_terminal() -> None:
    odd = [json.dumps({"level": "error", "msg": "x", "time": time}) for time in (5, "\x1b[2J")]

    found = [last_error(line) for line in (*odd, "[" * 99_999)]

    assert [one and one.time for one in found] == [None, "[2J", None]


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[[], str]:
    """The script on ``tmp_path`` while no mirror answers."""

    def run() -> str:
        words = ["sh", "-c", SCRIPT, "http://127.0.0.1:1/", "1", str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    return run


def stored(store: Path, digest: str, seconds: int) -> None:
    blob = store / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 100_000)
    os.utime(blob, (seconds, seconds))


def test_the_oldest_content_has_not_expired(run_script: Callable[[], str], tmp_path: Path) -> None:
    for digest, seconds in (("aa01", 1000), ("bb02", 2000), ("cc03", 3000)):
        stored(tmp_path, digest, seconds)
    without_expiry = cache(run_script())
    (tmp_path / "scheduler-state.json").write_text('{"library/a@sha256:bb02":{},"library/a@sha256:cc03":{}}')

    found = cache(run_script())

    assert found.size is not None
    assert found.size > 300_000
    assert found.oldest is not None
    assert found.newest is not None
    assert (found.oldest.timestamp(), found.newest.timestamp()) == (2000, 3000)
    assert without_expiry.oldest is not None
    assert without_expiry.oldest.timestamp() == 1000


def test_an_empty_cache_has_a_size_but_no_content(run_script: Callable[[], str]) -> None:
    found = cache(run_script())

    assert found.size is not None
    assert (found.oldest, found.newest) == (None, None)
    assert "answers" not in run_script()


class Host:
    """A Docker host whose containers have these states. The mirrors answer with ``said``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, states: dict[str, str], said: str) -> None:
        inspected = [
            {
                "Name": f"/{name}",
                "State": {
                    "Status": "running" if state in ("healthy", "unhealthy", "starting") else state,
                    "Health": {"Status": state},
                    "StartedAt": "2026-11-30T06:00:00.123456789Z",
                },
                "Config": {"Healthcheck": {"Test": ["CMD", "http://127.0.0.1:12345/"]}},
            }
            for name, state in states.items()
        ]
        (folder / "inspected").write_text(json.dumps(inspected))
        (folder / "said").write_text(said)
        (folder / "log").write_text(entry("error", "disk full") + "\n")
        program = folder / "docker"
        program.write_text(
            f'#!/bin/sh\nshift 2\ncd {folder}\necho "$@" >> calls\n'
            "case $1 in\n"
            f"container) cat inspected; [ {len(states)} = 2 ] || {{ echo 'No such container: ghcr' >&2; exit 1; }} ;;\n"
            "logs) cat log >&2 ;;\nexec) cat said ;;\nesac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


SAID = f"answers\n{COUNTERS}size 2048\ncontent 1796022085 1796022086\n"


def run(monkeypatch: pytest.MonkeyPatch, *options: str, outputs: Any = OUTPUTS) -> Result:
    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(outputs))
    return CliRunner().invoke(command_line(["mirrors"]), ["mirrors", *options, "--stack", "prod"])


def test_json_has_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, SAID)

    answer = run(monkeypatch, "--json")

    assert answer.exit_code == 0, answer.output
    hub, ghcr = json.loads(answer.stdout)["mirrors"]
    assert (hub["upstream"], ghcr["upstream"]) == ("docker.io", "ghcr.io")
    assert hub["url"] == "https://mirror.example.com"
    assert (hub["reachable"], hub["state"], hub["since"]) == (True, "healthy", "2026-11-30T07:01:27Z")
    assert hub["total"] == {
        "requests": 9,
        "hits": 6,
        "misses": 3,
        "bytes_served": 3_400_001_245,
        "bytes_fetched": 1_234_568_305,
        "hit_ratio": 6 / 9,
    }
    assert hub["manifests"]["misses"] == 1
    assert hub["cache_size"] == 2_097_152
    assert (hub["oldest"], hub["newest"]) == ("2026-11-30T07:01:25Z", "2026-11-30T07:01:26Z")
    assert hub["last_error"] == {"time": "2026-11-30T07:01:29.4Z", "level": "error", "message": "disk full"}


def test_the_table_has_a_column_for_each_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, SAID)

    lines = [line.rstrip() for line in run(monkeypatch).stdout.splitlines()]

    assert lines == [
        "Mirror                docker.io            ghcr.io",
        "State                 healthy              healthy",
        "Counted since (UTC)   2026-11-30 07:01:27  2026-11-30 07:01:27",
        "Requests              9                    9",
        "Hits                  6                    6",
        "Misses                3                    3",
        "Hit ratio             67%                  67%",
        "Served                3.4 GB               3.4 GB",
        "Fetched               1.2 GB               1.2 GB",
        "Cache                 2.1 MB               2.1 MB",
        "Oldest content (UTC)  2026-11-30 07:01     2026-11-30 07:01",
        "Newest content (UTC)  2026-11-30 07:01     2026-11-30 07:01",
        "docker.io: last error at 2026-11-30T07:01:29Z: disk full",
        "ghcr.io: last error at 2026-11-30T07:01:29Z: disk full",
    ]


@pytest.mark.parametrize(
    ("states", "said", "note"),
    [
        ({"hub": "healthy", "ghcr": "exited"}, SAID, "ghcr.io: the mirror is exited"),
        ({"hub": "healthy", "ghcr": "unhealthy"}, SAID, "ghcr.io: the mirror is unhealthy"),
        ({"hub": "healthy"}, SAID, "fix: pulumi up --refresh --stack prod"),
        ({"hub": "healthy", "ghcr": "healthy"}, COUNTERS, "ghcr.io: the mirror does not answer"),
    ],
)
def test_a_mirror_that_is_not_reachable_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, states: dict[str, str], said: str, note: str
) -> None:
    Host(monkeypatch, tmp_path, states, said)

    answer = run(monkeypatch, "--json")

    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["mirrors"][1]["reachable"] is False
    assert note in answer.stderr


def test_a_container_that_hangs_does_not_hide_the_other_mirrors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, SAID)
    monkeypatch.setattr(reading, "_WITHIN", 5)  # the other container must answer within this time
    program = tmp_path / "docker"
    program.write_text(program.read_text().replace("exec) ", 'exec) [ "$2" != ghcr ] || exec sleep 20; '))

    answer = run(monkeypatch, "--json")

    assert answer.exit_code == 1, answer.output
    assert [mirror["reachable"] for mirror in json.loads(answer.stdout)["mirrors"]] == [True, False]
    assert "ghcr.io: the mirror does not answer" in answer.stderr


def test_a_mirror_of_an_older_version_has_no_counters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, "answers\nsize 8\n")

    answer = run(monkeypatch, "--json")

    assert answer.exit_code == 0
    hub, _ = json.loads(answer.stdout)["mirrors"]
    assert (hub["total"], hub["since"]) == (None, "2026-11-30T06:00:00.123456789Z")
    assert "fix: pulumi up --stack prod" in answer.stderr


def test_the_counters_come_from_the_loopback_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, SAID)
    run(monkeypatch)

    calls = (tmp_path / "calls").read_text()

    assert f"http://127.0.0.1:12345/ {COUNTERS_PORT} /var/lib/registry" in calls
    assert calls.count("container inspect hub ghcr") == 1


def test_a_mirror_without_an_own_address_has_the_address_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Host(monkeypatch, tmp_path, {"hub": "healthy", "ghcr": "healthy"}, SAID)
    own, shared = {"docker.io": "https://mirror.example.com"}, "https://all.example.com"

    answer = run(monkeypatch, "--json", outputs=OUTPUTS | {"mirror_urls": own, "mirror_url": shared})

    found = [(mirror["upstream"], mirror["url"]) for mirror in json.loads(answer.stdout)["mirrors"]]
    assert found == [("docker.io", "https://mirror.example.com"), ("ghcr.io", "https://all.example.com")]


def test_a_stack_without_mirrors_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    answer = run(monkeypatch, outputs=OUTPUTS | {"configuration": {"settings": {"mirrors": {}}}, "mirror_urls": {}})

    assert (answer.exit_code, answer.stdout) == (0, "The stack has no mirrors.\n")


def test_a_host_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'error during connect: no route to host' >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    answer = run(monkeypatch)

    assert isinstance(answer.exception, Failure)
    assert "ssh://deploy@registry.example.com does not answer: error during connect" in str(answer.exception)
