"""The question for Docker Hub's quota through the real busybox, as in the container of a mirror."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from operations.mirrors.quota import NoQuota, read_quota
from tests.harness.processes import free_port
from tests.unit.test_mirror_quota import HOST, DockerHub, hub

__all__ = ["hub"]


def test_nc_of_busybox_carries_the_question(hub: DockerHub, binary: Callable[[str], str]) -> None:
    busybox = binary("busybox")
    hub.docker(f"exec {busybox} timeout 60 {busybox} nc 127.0.0.1 $port")

    assert read_quota(HOST, "hub", None).remaining == 76


def test_nc_of_busybox_names_the_fault(hub: DockerHub, binary: Callable[[str], str]) -> None:
    hub.docker(f"exec {binary('busybox')} nc 127.0.0.1 {free_port()}")

    with pytest.raises(NoQuota, match=r"^auth.docker.io does not answer: nc: .*Connection refused$"):
        read_quota(HOST, "hub", None)
