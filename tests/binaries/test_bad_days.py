"""What clients get from a real mirror behind the real Caddy and nginx while its upstream has a bad day."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from components.configuration.naming import COUNTERS_PORT
from components.configuration.settings import MirrorSettings
from components.render.registry import CONFIG_DIRECTORY, DATA_DIRECTORY, cache_config, credential_helper, mirror_config
from operations.mirrors.log import last_error
from tests.binaries.test_mirror_address import configuration
from tests.binaries.test_proxy import Binary, Proxy, running_proxy
from tests.harness.certificates import certificate_pair
from tests.harness.faulty_upstream import Day, FaultyUpstream
from tests.harness.images import random_layer, write_layout
from tests.harness.processes import free_port, running, until

OCI = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
SHARED, OWN = "5444", "5445"
#: Seconds in place of the time limits of the proxy, so that tests do not wait for long. A good mirror on a slow machine
#: answers within them.
QUICK = {"15s": "3s", "30s": "4s", "35s": "5s"}


@pytest.fixture(scope="module", params=["caddy", "nginx"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def mirror(binary: Binary, folder: Path, upstream: str, port: int, cache_port: int) -> Iterator[None]:
    """A mirror of an upstream and the process that serves its cache; both have their files in the folder."""
    helper = folder / "upstream-credentials"
    helper.write_text(credential_helper(MirrorSettings()))
    helper.chmod(0o755)
    settings = MirrorSettings.model_validate({"upstream": upstream})
    with contextlib.ExitStack() as stack:
        for name, text, at in (
            ("config", mirror_config("docker.io", settings), port),
            ("cache", cache_config("docker.io", settings), cache_port),
        ):
            own = re.sub(r"addr: :\d+", f"addr: 127.0.0.1:{at}", text).replace(DATA_DIRECTORY, str(folder / "data"))
            own = re.sub(rf"127\.0\.0\.1:{COUNTERS_PORT}\b", f"127.0.0.1:{free_port()}", own)
            (folder / f"{name}.yml").write_text(own.replace(CONFIG_DIRECTORY, str(folder)))
            command = [binary("registry"), "serve", str(folder / f"{name}.yml")]
            stack.enter_context(running(command, at, folder / f"{name}.log", {"OTEL_TRACES_EXPORTER": "none"}))
        yield


@dataclass(frozen=True)
class Site:
    """A proxy in front of a mirror, and the mirror's upstream."""

    proxy: Proxy
    upstream: FaultyUpstream
    folder: Path

    def add(self, name: str, size: int = 400_000) -> dict[str, str]:
        """A new image of the upstream; the paths of tag, manifest and layer."""
        layout = Path(tempfile.mkdtemp(dir=self.folder)) / "layout"
        write_layout(layout, [random_layer(size)])
        digest = self.upstream.add(layout, f"{name}:1")
        manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
        return {
            "tag": f"/v2/{name}/manifests/1",
            "manifest": f"/v2/{name}/manifests/{digest}",
            "layer": f"/v2/{name}/blobs/{manifest['layers'][0]['digest']}",
        }

    def get(self, path: str, method: str = "GET") -> httpx.Response:
        return self.proxy(method, path, port=OWN, login=None, headers=OCI)

    def cached(self, name: str) -> dict[str, str]:
        """A new image of the upstream that the mirror has; it answers before it has put the layer into its cache."""
        paths = self.add(name)
        assert self.pull(paths) == [200, 200, 200]
        link = self.folder / "data/docker/registry/v2/repositories" / name / "_layers/sha256"
        deadline = time.monotonic() + 60
        while not (link / paths["layer"].rpartition(":")[2] / "link").exists():
            assert time.monotonic() < deadline, "the mirror did not keep the layer"
            time.sleep(0.02)
        return paths

    def pull(self, paths: dict[str, str]) -> list[int]:
        """Ask for all of an image; the statuses."""
        return [self.get(path).status_code for path in paths.values()]


@contextlib.contextmanager
def running_site(binary: Binary, server: str, folder: Path, upstream: FaultyUpstream) -> Iterator[Site]:
    """A proxy in front of a mirror of this upstream."""
    port, cache_port = free_port(), free_port()
    text = re.sub(r"\bmirror-docker-io(-quick)?:\d+( resolve)?", f"127.0.0.1:{port}", configuration(server))
    text = re.sub(r"\bmirror-docker-io-cache:\d+( resolve)?", f"127.0.0.1:{cache_port}", text)
    text = re.sub(r"\bmirror-[\w-]+:\d+( resolve)?", "127.0.0.1:9", text)
    for limit, quick in QUICK.items():
        text = re.sub(rf"(read_timeout|header_timeout|lb_try_duration) {limit}", rf"\1 {quick}", text)
    with (
        mirror(binary, folder, upstream.url, port, cache_port),
        running_proxy(binary, server, text, folder) as proxy,
    ):
        yield Site(proxy, upstream, folder)


@pytest.fixture(scope="module")
def site(binary: Binary, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        FaultyUpstream("127.0.0.1") as upstream,
        running_site(binary, server, tmp_path_factory.mktemp(server), upstream) as running,
    ):
        yield running


CANNOT = (424, "UNAVAILABLE", "the mirror cannot fetch this: docker.io is unreachable or fails")


@pytest.mark.parametrize(
    ("day", "status", "code", "message"),
    [
        ("closed", *CANNOT),
        ("500", *CANNOT),
        ("silent", 424, "UNAVAILABLE", "the mirror cannot fetch this: docker.io does not answer"),
        ("401", 403, "DENIED", "docker.io refuses this image to its mirror"),
        ("403", 403, "DENIED", "docker.io refuses this image to its mirror"),
        ("429", 429, "TOOMANYREQUESTS", "docker.io limits the pulls of its mirror"),
        ("404", 404, "MANIFEST_UNKNOWN", "docker.io has no such image"),
    ],
)
def test_a_bad_day_is_told_and_the_cache_is_served(site: Site, day: Day, status: int, code: str, message: str) -> None:
    cached, new = site.cached(f"team/cached-{day}"), site.add(f"team/new-{day}")

    with site.upstream.having(day):
        answer, head = site.get(new["tag"]), site.get(new["tag"], "HEAD")
        others = [site.get(new[part]) for part in ("manifest", "layer")]
        held = site.pull(cached)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
    assert answer.json()["errors"][0]["message"].startswith(message)
    assert (head.status_code, head.content) == (status, b"")
    assert [other.status_code for other in others] == [status, status]
    assert held == [200, 200, 200], "also by tag: the upstream's last word is kept"
    assert site.pull(new) == [200, 200, 200], "the next day is a good one"


def test_the_mirrors_log_has_the_cause_for_the_operator(site: Site) -> None:
    new = site.add("team/why")
    with site.upstream.having("closed"):
        site.get(new["tag"])

    error = last_error((site.folder / "config.log").read_text())

    assert error
    assert "connection refused" in error.message


def test_a_wrong_certificate_is_told_and_the_cache_is_served(
    binary: Binary, server: str, site: Site, tmp_path: Path
) -> None:
    cached, new = site.cached("team/cached-certificate"), site.add("team/new-certificate")
    shutil.copytree(site.folder / "data", tmp_path / "data")
    with (
        FaultyUpstream("127.0.0.1", certificate_pair("other.example.com")) as upstream,
        running_site(binary, server, tmp_path, upstream) as strict,
    ):
        answer, held = strict.get(new["tag"]), strict.pull(cached)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == CANNOT[:2]
    assert held == [200, 200, 200]
    error = last_error((tmp_path / "config.log").read_text())
    assert error
    assert "failed to verify certificate" in error.message


@pytest.mark.parametrize("day", ["slow", "redirects"])
def test_a_slow_upstream_and_one_whose_layers_are_elsewhere_work(site: Site, day: Day) -> None:
    with site.upstream.having(day):
        new = site.cached(f"team/{day}")
    with site.upstream.having("closed"):
        assert site.pull(new) == [200, 200, 200]


def test_bytes_that_do_not_fit_the_digest_are_not_kept(site: Site) -> None:
    new = site.add("team/forged")
    with site.upstream.having("wrong bytes"):
        manifest, layer = site.get(new["manifest"]), site.get(new["layer"])

    assert manifest.status_code == 424
    # The mirror checks a layer after its answer.
    until(lambda: "digest mismatch" in (site.folder / "config.log").read_text())
    assert fits(new["layer"], layer) is False, "clients see that, too"
    assert [fits(new[part], site.get(new[part])) for part in ("manifest", "layer")] == [True, True]


def fits(path: str, answer: httpx.Response) -> bool:
    """Whether the content has the digest in the path."""
    return hashlib.sha256(answer.content).hexdigest() == path.rpartition(":")[2]


@pytest.mark.parametrize("day", ["breaks off", "stalls"])
def test_a_layer_that_ends_too_early_is_an_error_and_is_fetched_again(site: Site, day: Day) -> None:
    new = site.add(f"team/{day.replace(' ', '-')}")
    with site.upstream.having(day), pytest.raises(httpx.TransportError):
        site.get(new["layer"])

    assert fits(new["layer"], site.get(new["layer"]))


def test_a_tag_that_moved_is_fetched_anew_and_one_that_vanished_is_served_from_the_cache(site: Site) -> None:
    first = site.cached("team/moving")
    second = site.add("team/moving")

    moved = site.get(first["tag"])
    with site.upstream.having("404"):
        vanished = site.get(first["tag"])

    assert fits(second["manifest"], moved)
    assert fits(second["manifest"], vanished)


@pytest.mark.parametrize("query", ["", "?ns=docker.io"])
def test_an_official_image_is_told_apart_in_the_same_way_at_either_address(site: Site, query: str) -> None:
    new = site.add(f"library/official{len(query)}")
    path = new["tag"].replace("library/", "") + query
    with site.upstream.having("500"):
        answers = [site.proxy("GET", path, port=port, headers=OCI) for port in (OWN, SHARED)]
    absent = site.proxy("GET", path.replace("/1", "/none"), port=SHARED, headers=OCI)

    assert [answer.status_code for answer in answers] == [424, 424]
    assert "docker.io is unreachable or fails" in answers[1].text
    assert (absent.status_code, absent.json()["errors"][0]["message"]) == (404, "docker.io has no such image")
    with site.upstream.having("silent"):
        assert site.proxy("GET", path, port=SHARED, headers=OCI).status_code == 424
    assert site.proxy("GET", path, port=SHARED, headers=OCI).status_code == 200
    with site.upstream.having("silent"):
        assert site.proxy("GET", path, port=SHARED, headers=OCI).status_code == 200
