"""`clients install --try`: which program pulls an image, and what the counters of the mirror must do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.configuration.fields import Endpoint
from components.configuration.problems import Failure
from components.render.clients import Mirror
from operations.clients import trying
from operations.clients.files import CLIENTS, Mirrors
from operations.clients.machine import Machine
from operations.clients.programs import Programs
from operations.clients.trying import trials
from operations.mirrors.counters import Counters, Usage
from operations.mirrors.reading import Mirror as Counted
from operations.stack import StackConfig

MIRRORS = Mirrors(
    (
        Mirror("docker.io", Endpoint("mirror.example.com", 443)),
        Mirror("ghcr.io", Endpoint("ghcr.mirror.example.com", 443)),
        Mirror("quay.io", Endpoint("all.example.com", 443), is_shared=True),
    ),
    None,
    {},
)
OUTPUTS = {
    "registry_url": "https://registry.example.com",
    "docker_host": "unix:///var/run/docker.sock",
    "services": {"mirror-docker-io": "rs-hub", "mirror-ghcr-io": "rs-ghcr", "mirror-quay-io": "rs-quay"},
}
CLASSIC: dict[str, Any] = {"ServerVersion": "20.10", "DriverStatus": []}
CONTAINERD = CLASSIC | {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> StackConfig:
    monkeypatch.setattr(StackConfig, "_run", lambda *_: json.dumps(OUTPUTS))
    return StackConfig(None, None)


def programs(*names: str, docker: dict[str, Any] | None = None) -> Programs:
    found = tuple(client for client in CLIENTS if {*client.programs} & {*names})
    return Programs(found, frozenset(names), docker, by_certificates=True)


@pytest.mark.parametrize(
    ("image", "found", "program"),
    [
        ("alpine", programs("dockerd", docker=CLASSIC), "docker"),
        ("ghcr.io/a/b:1", programs("dockerd", docker=CONTAINERD), "docker"),
        ("ghcr.io/a/b:1", programs("dockerd", "podman", docker=CLASSIC), "podman"),
        ("quay.io/a/b:1", programs("podman", "containerd"), "ctr"),
        ("alpine", programs("dockerd", "containerd"), "ctr"),
    ],
)
def test_program_that_uses_the_mirror_pulls_the_image(
    image: str, found: Programs, program: str, config: StackConfig
) -> None:
    (trial,) = trials(config, MIRRORS, found, [image])

    assert trial.program == program
    assert trial.container == OUTPUTS["services"][f"mirror-{trial.image.registry.replace('.', '-')}"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("image", "found", "reason"),
    [
        ("Alpine:", programs("podman"), "is not an image"),
        ("gcr.io/a/b:1", programs("podman"), "the stack has no mirror of gcr.io"),
        ("ghcr.io/a/b:1", programs("dockerd", docker=CLASSIC), "no program"),
        ("quay.io/a/b:1", programs("podman", "skopeo"), "no program"),
        ("alpine", programs("skopeo"), "no program"),
    ],
)
def test_image_that_no_program_can_pull_through_a_mirror_is_refused_before_a_change(
    image: str, found: Programs, reason: str, config: StackConfig
) -> None:
    with pytest.raises(Failure, match=reason):
        trials(config, MIRRORS, found, [image])


def counted(requests: int | None) -> Counted:
    counters = Counters(requests=requests or 0)
    usage = None if requests is None else Usage(manifests=counters, blobs=Counters())
    return Counted(container="rs-hub", state="healthy", usage=usage)


@pytest.mark.parametrize(
    ("counts", "reason"), [([3, 3], "not through the mirror"), ([None, None], "no counters"), ([3, 5], None)]
)
def test_counters_of_the_mirror_must_move(
    counts: list[int | None], reason: str | None, config: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = trials(config, MIRRORS, programs("podman"), ["alpine"])
    left = [counted(count) for count in counts]
    pulled = []
    monkeypatch.setattr(trying, "read_mirrors", lambda *_: [left.pop(0)])
    monkeypatch.setattr(trying, "pull", lambda *words: pulled.append(words[1:]))

    if reason:
        with pytest.raises(Failure, match=reason):
            trial.run(Machine(None, "/image"))
    else:
        trial.run(Machine(None, "/image"))
        assert pulled == [("podman", "docker.io/library/alpine:latest")]
