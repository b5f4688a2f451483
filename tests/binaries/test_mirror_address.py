"""One address for all mirrors: the real Caddy and nginx route by the upstream that a client names in the query."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.binaries.test_proxy import CASE, FILE, Binary, Proxy, running_proxy, stand_ins
from tests.harness.configuration import loaded
from tests.render.cases import configuration_of, rendered

MIRRORS = ("mirror-docker-io", "mirror-ghcr-io", "mirror-images-example-org-5000")
#: The address of all mirrors, and Docker Hub's own.
SHARED, OWN = "5444", "5445"
EVERYONE, NOBODY = ["127.0.0.0/8"], ["192.0.2.0/24"]


def configuration(server: str, memory_mb: int = 1024, **allow: list[str]) -> str:
    """The configuration of a server in front of three mirrors, with an allow-list for each."""
    values: dict[str, Any] = configuration_of(CASE[server])
    values["registry"].pop("anonymous_url", None)
    values["mirror_url"] = f"https://localhost:{SHARED}"
    values["mirrors"] = {
        "docker.io": {"url": f"https://localhost:{OWN}"},
        "ghcr.io": {},
        "images.example.org:5000": {"upstream": "https://images.example.org:5000"},
    }
    for name, mirror in values["mirrors"].items():
        mirror |= {"allow": allow.get(name.partition(".")[0], EVERYONE), "memory_mb": memory_mb}
    return rendered(*loaded(values))[FILE[server]]


@pytest.fixture(scope="module", params=["caddy", "nginx"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(binary: Binary, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        stand_ins(configuration(server), MIRRORS) as text,
        running_proxy(binary, server, text, tmp_path_factory.mktemp(server)) as running,
    ):
        yield running


@pytest.mark.parametrize(
    ("asked", "mirror", "sent"),
    [
        ("/v2/alpine/manifests/latest", "docker-io", "/v2/library/alpine/manifests/latest"),
        ("/v2/alpine/manifests/1?ns=docker.io", "docker-io", "/v2/library/alpine/manifests/1?ns=docker.io"),
        ("/v2/grafana/grafana/blobs/sha256:0", "docker-io", "/v2/grafana/grafana/blobs/sha256:0"),
        ("/v2/alpine/tags/list?last=ns&n=5", "docker-io", "/v2/library/alpine/tags/list?last=ns&n=5"),
        ("/v2/tool/manifests/1?ns=ghcr.io", "ghcr-io", "/v2/tool/manifests/1?ns=ghcr.io"),
        ("/v2/a/tool/tags/list?last=1.0&n=5&ns=ghcr.io", "ghcr-io", "/v2/a/tool/tags/list?last=1.0&n=5&ns=ghcr.io"),
        ("/v2/a/referrers/sha256:0?ns=ghcr.io&x=%26", "ghcr-io", "/v2/a/referrers/sha256:0?ns=ghcr.io&x=%26"),
        ("/v2/a/b/manifests/1?ns=images.example.org%3A5000", "images-example-org-5000", None),
        ("/v2/a/b/manifests/1?ns=images.example.org:5000", "images-example-org-5000", None),
    ],
)
def test_a_request_reaches_the_mirror_of_the_upstream_that_it_names(
    proxy: Proxy, asked: str, mirror: str, sent: str | None
) -> None:
    answer = proxy("GET", asked, port=SHARED).json()

    assert (answer["process"], answer["path"]) == (f"mirror-{mirror}", sent or asked)


@pytest.mark.parametrize(
    "query",
    [
        "ns=quay.io",
        "ns=",
        "ns",
        "ns=GHCR.IO",
        "ns=ghcr.io.",
        "ns=.ghcr.io",
        "ns=ghcrxio",
        "ns=ghcr%2Eio",
        "ns=ghcr.io%00",
        "ns=+ghcr.io",
        "ns=ghcr.io/",
        "ns=ghcr.io:443",
        "ns=images.example.org",
        "ns=images.example.org%3a5000",
        "ns=index.docker.io",
        "ns=registry-1.docker.io",
        "ns=ghcr.io&ns=ghcr.io",
        "ns=ghcr.io&ns=docker.io",
        "ns=docker.io&ns=ghcr.io",
        "ns=ghcr.io&ns",
        "ns=ghcr.io&NS=docker.io",
        "NS=ghcr.io",
        "n%73=ghcr.io",
        "%6es=ghcr.io",
        "ns=ghcr.io&n%73=docker.io",
        "ns=ghcr.io#",
        "#ns=ghcr.io",
        "ns=ghcr.io;ns=docker.io",
        "ns=ghcr.io?ns=docker.io",
        "?ns=ghcr.io",
        "ns=docker.io,ghcr.io",
        "ns[]=ghcr.io",
        f"ns={'a' * 900}",
    ],
)
def test_an_unknown_or_ambiguous_upstream_is_refused_with_the_names_that_there_are(proxy: Proxy, query: str) -> None:
    answer = raw(proxy, f"/v2/team/tool/manifests/1?{query}")

    assert answer[0] == 404, answer
    assert '"code":"NAME_UNKNOWN"' in answer[1]
    assert "there are mirrors of docker.io, ghcr.io, images.example.org:5000" in answer[1]


def raw(proxy: Proxy, target: str) -> tuple[int, str]:
    """Send a request target as it is; httpx would encode it anew. The status, and all that came."""
    port = proxy.ports[SHARED]
    with (
        socket.create_connection(("localhost", port), timeout=60) as plain,
        proxy.trust.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Basic known\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    return int(text.split(" ", 2)[1]), text


def test_an_absolute_url_and_an_encoded_path_change_no_route(proxy: Proxy) -> None:
    absolute = raw(proxy, f"https://localhost:{proxy.ports[SHARED]}/v2/team/tool/manifests/1?ns=ghcr.io")
    encoded = raw(proxy, "/v2/team/tool/manifests/1%3Fns=ghcr.io")

    assert '"process": "mirror-ghcr-io"' in absolute[1]
    assert '"process": "mirror-docker-io"' in encoded[1], "a question mark in the path begins no query"


def test_an_upstream_name_that_is_too_long_is_refused_as_any_long_url(proxy: Proxy) -> None:
    assert raw(proxy, f"/v2/team/tool/manifests/1?ns={'a' * 2000}")[0] == 400


@pytest.mark.parametrize("query", ["", "?ns=ghcr.io", "?ns=quay.io"])
def test_the_version_is_the_proxys_own_answer(proxy: Proxy, query: str) -> None:
    answer = proxy("GET", f"/v2/{query}", port=SHARED, login=None)

    assert (answer.status_code, answer.text) == (200, "{}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/blobs/uploads/", "/v2/app/manifests/1?ns=ghcr.io"])
def test_nothing_can_be_pushed(proxy: Proxy, path: str) -> None:
    answer = proxy("PUT", path, port=SHARED)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")


def test_the_own_address_ignores_the_name_of_an_upstream(proxy: Proxy) -> None:
    assert proxy("GET", "/v2/tool/manifests/1?ns=ghcr.io", port=OWN).json()["process"] == "mirror-docker-io"


def _without_ghcr(text: str) -> str:
    return re.sub(r"\bmirror-ghcr-io(-quick)?:\d+( resolve)?", "127.0.0.1:9", text)


def test_a_mirror_that_does_not_answer_is_named(binary: Binary, server: str, tmp_path: Path) -> None:
    with (
        stand_ins(configuration(server), MIRRORS[:1]) as text,
        running_proxy(binary, server, _without_ghcr(text), tmp_path) as proxy,
    ):
        answer = proxy("GET", "/v2/team/tool/manifests/1?ns=ghcr.io", port=SHARED)

    assert answer.status_code == 503
    assert answer.json()["errors"][0]["message"] == "the mirror of ghcr.io does not answer"


def test_the_allow_list_of_each_mirror_holds_at_the_address_of_all(binary: Binary, server: str, tmp_path: Path) -> None:
    with (
        stand_ins(configuration(server, docker=NOBODY), MIRRORS) as text,
        running_proxy(binary, server, text, tmp_path) as proxy,
    ):
        answers = [
            proxy("GET", f"/v2/{path}", port=SHARED).status_code
            for path in (
                "",
                "alpine/manifests/1",
                "alpine/manifests/1?ns=docker.io",
                "a/b/blobs/sha256:0",
                "alpine/blobs/sha256:0?ns=docker.io",
                "alpine/tags/list?n=1",
                "_catalog?n=1&ns=docker.io",
                "a/manifests/1?ns=ghcr.io",
                "a/blobs/sha256:0?ns=ghcr.io",
                "_catalog?n=1&ns=ghcr.io",
            )
        ]
        odd = [
            raw(proxy, target)[0]
            for target in (
                "/v2//a/b/blobs/sha256:0?ns=docker.io",
                "/v2/x/../a/b/blobs/sha256:0?ns=docker.io",
                "/v2/a/b/%62lobs/sha256:0?ns=docker.io",
                "/v2/a/b/manifests/1?last=;ns=ghcr.io",
                "/v2/a/b/manifests/1;ns=ghcr.io?ns=docker.io",
                f"https://localhost:{proxy.ports[SHARED]}/v2/a/b/manifests/1?ns=docker.io",
            )
        ]

    assert answers == [200, *[403] * 6, 200, 200, 200]
    assert odd == [403] * len(odd)


def test_a_mirror_sends_no_more_layers_at_once_because_it_has_two_addresses(
    binary: Binary, server: str, tmp_path: Path
) -> None:
    login = {"Authorization": "Basic known"}
    with (
        stand_ins(configuration(server, memory_mb=64), MIRRORS) as text,
        running_proxy(binary, server, text, tmp_path) as proxy,
        proxy.client.stream("GET", proxy.url("/v2/large/blobs/sha256:0", OWN), headers=login) as first,
    ):
        same, other = (proxy("GET", f"/v2/small/blobs/sha256:0{query}", port=SHARED) for query in ("", "?ns=ghcr.io"))

    assert first.status_code == 200
    assert (same.status_code, same.headers.get("retry-after")) == (429, "10")
    assert same.json()["errors"][0]["message"] == "the mirror of docker.io is busy, please try again"
    assert other.status_code == 200


def test_who_may_use_no_mirror_learns_no_name(binary: Binary, server: str, tmp_path: Path) -> None:
    text = configuration(server, docker=NOBODY, ghcr=NOBODY, images=NOBODY)
    with stand_ins(text, MIRRORS) as text, running_proxy(binary, server, text, tmp_path) as proxy:
        answers = [proxy("GET", path, port=SHARED) for path in ("/v2/", "/v2/a/manifests/1?ns=quay.io")]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert all("ghcr.io" not in answer.text for answer in answers)
