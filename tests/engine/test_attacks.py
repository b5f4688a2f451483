"""Attempts to do more than a login allows, through the proxy and past it.

Each table says what is sent by whom, which status it gets, and which process answers: ``reader``, ``writer``, ``admin``
and ``public`` are registry processes, each with the users who hold its right. Nobody sends no credentials, wrong the
password of another user. A 403 by a process is its 401, put into words by the proxy, for who sent credentials.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import re
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import docker
import httpx
import pytest
from docker.models.containers import Container

from components.configuration.naming import PORTS
from tests.engine.attacks import (
    PATIENCE,
    Attack,
    basic,
    carried_out,
    connected,
    exchange,
    header,
    http1,
    http2,
    logged,
    statuses,
)
from tests.engine.transfers import proxy_address
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import (
    MIRROR_PORT,
    PREFIX,
    PUBLIC_PORT,
    REGISTRY_PORT,
    UPSTREAM,
    DockerHost,
    running_stack,
    small_stack,
)
from tests.harness.stack import Stack

pytestmark = pytest.mark.once

METRICS_PORT = 25480
PROCESSES = ("reader", "writer", "admin", "public")
Login = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, docker_host: DockerHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack with everything that can be attacked: a host without login, two users who push, a closed mirror."""
    plain = small_stack()
    users = plain["registry"]["users"] | {"colleague": {"role": "push"}}
    registry = plain["registry"] | {"users": users, "anonymous_url": f"https://localhost:{PUBLIC_PORT}"}
    proxy = {**docker_host.proxy, "metrics_port": METRICS_PORT}
    mirrors = {UPSTREAM: plain["mirrors"][UPSTREAM] | {"allow": ["192.0.2.0/24"]}}
    folder = tmp_path_factory.mktemp("stack")
    with running_stack(client, docker_host, folder, registry=registry, mirrors=mirrors, proxy=proxy) as running:
        yield running


@pytest.fixture(scope="module")
def trust(stack: Stack) -> ssl.SSLContext:
    return stack.trust


@pytest.fixture(scope="module")
def login(stack: Stack) -> Login:
    """The headers by which somebody logs in."""
    known = {"pull": "production", "push": "ci", "colleague": "colleague", "admin": "boss"}
    headers = {who: [basic(user, stack.users[user])] for who, user in known.items()}
    return (headers | {"nobody": [], "wrong": [basic("ci", stack.users["production"])]}).__getitem__


@pytest.fixture(scope="module")
def digests(stack: Stack, tmp_path_factory: pytest.TempPathFactory, trust: ssl.SSLContext) -> dict[str, str]:
    """What lies in the registry before any attack: team/app:1, and team/secret:1 of which a layer is wanted."""
    found = {}
    for name in ("app", "secret"):
        folder = tmp_path_factory.mktemp(name)
        write_layout(folder / "layout", [random_layer(1000)])
        pushed = clients.Skopeo(stack, folder, "ci").push(folder / "layout", f"team/{name}:1")
        assert pushed.returncode == 0, pushed.stderr
        url = f"https://{stack.registry}/v2/team/{name}/manifests/1"
        accepted = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        answer = httpx.get(url, headers=accepted, auth=("ci", stack.users["ci"]), verify=trust, timeout=PATIENCE)
        found[f"{name}_manifest"] = answer.headers["docker-content-digest"]
        found[f"{name}_blob"] = answer.json()["layers"][0]["digest"]
    return found


def stored(client: docker.DockerClient, *, sessions: bool) -> dict[str, str]:
    """Hash of every file in the registry's store, those of uploads that are under way only if wanted."""
    listing = "find /var/lib/registry/docker -type f -exec sha256sum {} +"
    output = clients.execute(clients.containers(client, PREFIX)["reader"], "sh", "-c", listing)
    lines = (line.split(maxsplit=1) for line in output.splitlines())
    files = {path: digest for digest, path in lines if sessions or "/_uploads/" not in path}
    assert any("/tags/1/" in path for path in files), "a store without a tag proves nothing"
    return files


@pytest.fixture
def upload(trust: ssl.SSLContext, login: Login, digests: dict[str, str]) -> str:
    """An upload that somebody who may push has started: its path and query."""
    return started(trust, login("push"))


@pytest.fixture
def nothing_written(client: docker.DockerClient, digests: dict[str, str], upload: str) -> Iterator[None]:
    """No tag, no blob and no upload comes, goes or changes."""
    before = stored(client, sessions=True)
    yield
    assert stored(client, sessions=True) == before


@pytest.fixture
def nothing_changed(client: docker.DockerClient, digests: dict[str, str]) -> Iterator[None]:
    """No tag and no blob comes, goes or changes; uploads may be started by who may push."""
    before = stored(client, sessions=False)
    yield
    assert stored(client, sessions=False) == before


def started(trust: ssl.SSLContext, headers: list[str], repository: str = "team/app") -> str:
    """Start an upload; where it goes on."""
    with connected(trust, REGISTRY_PORT) as connection:
        answer = exchange(connection, http1("POST", f"/v2/{repository}/blobs/uploads/", *headers))
    assert statuses(answer) == ["202"], answer
    return header(answer, "Location")


# --- Every method on every endpoint -----------------------------------------------------------------------------------

METHODS = """
endpoint                               methods         nobody      wrong       pull        push
/v2/                                   GET HEAD        401 proxy   401 reader  200 reader  200 reader
/v2/                                   POST PUT PATCH  401 proxy   403 writer  403 writer  200 writer
/v2/                                   DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/_catalog                           GET             401 proxy   401 reader  200 reader  200 reader
/v2/_catalog                           HEAD            401 proxy   401 reader  405 reader  405 reader
/v2/_catalog                           POST PUT PATCH  401 proxy   403 writer  403 writer  405 writer
/v2/_catalog                           DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/team/app/tags/list                 GET             401 proxy   401 reader  200 reader  200 reader
/v2/team/app/tags/list                 HEAD            401 proxy   401 reader  405 reader  405 reader
/v2/team/app/tags/list                 POST PUT PATCH  401 proxy   403 writer  403 writer  405 writer
/v2/team/app/tags/list                 DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/team/app/manifests/1               GET HEAD        401 proxy   401 reader  200 reader  200 reader
/v2/team/app/manifests/1               POST PATCH      401 proxy   403 writer  403 writer  405 writer
/v2/team/app/manifests/1               PUT             401 proxy   403 writer  403 writer  400 writer
/v2/team/app/manifests/1               DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/team/app/manifests/{app_manifest}  GET HEAD        401 proxy   401 reader  200 reader  200 reader
/v2/team/app/manifests/{app_manifest}  POST PATCH      401 proxy   403 writer  403 writer  405 writer
/v2/team/app/manifests/{app_manifest}  PUT             401 proxy   403 writer  403 writer  400 writer
/v2/team/app/manifests/{app_manifest}  DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/team/app/blobs/{app_blob}          GET HEAD        401 proxy   401 reader  200 reader  200 reader
/v2/team/app/blobs/{app_blob}          POST PUT PATCH  401 proxy   403 writer  403 writer  405 writer
/v2/team/app/blobs/{app_blob}          DELETE          401 proxy   403 admin   403 admin   403 admin
/v2/team/app/blobs/uploads/            GET HEAD        401 proxy   403 writer  403 writer  404 writer
/v2/team/app/blobs/uploads/            POST            401 proxy   403 writer  403 writer  202 writer
/v2/team/app/blobs/uploads/            PUT PATCH       401 proxy   403 writer  403 writer  404 writer
/v2/team/app/blobs/uploads/            DELETE          401 proxy   403 writer  403 writer  404 writer
{upload}                               GET HEAD        401 proxy   403 writer  403 writer  204 writer
{upload}                               POST            401 proxy   403 writer  403 writer  202 writer
{upload}                               PATCH           401 proxy   403 writer  403 writer  202 writer
{upload}                               PUT             401 proxy   403 writer  403 writer  400 writer
{upload}                               DELETE          401 proxy   403 writer  403 writer  204 writer
/v2/                                   OPTIONS TRACE   401 proxy   405 proxy   405 proxy   405 proxy
/v2/team/app/manifests/1               OPTIONS TRACE   401 proxy   405 proxy   405 proxy   405 proxy
/v2/team/app/manifests/1               get delete X    401 proxy   405 proxy   405 proxy   405 proxy
/v2/team/app/blobs/uploads/            OPTIONS         401 proxy   403 writer  403 writer  200 writer
/v2/team/app/blobs/uploads/            TRACE           401 proxy   403 writer  403 writer  405 writer
/v2/team/app/blobs/uploads/            post delete X   401 proxy   403 writer  403 writer  405 writer
"""


def methods_table(who: str, login: Login, values: dict[str, str]) -> list[Attack]:
    """The rows of ``METHODS`` for one column."""
    titles, *rows = [re.split(r"\s{2,}", line) for line in METHODS.strip().splitlines()]
    attacks = []
    for row in rows:
        cells = dict(zip(titles, row, strict=True))
        for method in cells["methods"].split():
            what = f"{method} {cells['endpoint'].replace('{upload}', '(an upload)')}"
            request = http1(method, cells["endpoint"].format(**values), *login(who))
            attacks.append(Attack(what, who, cells[who], request, REGISTRY_PORT))
    return attacks


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("who", ["nobody", "wrong", "pull"])
def test_who_may_not_push_changes_nothing_by_any_method_on_any_endpoint(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str], upload: str, who: str
) -> None:
    attacks = methods_table(who, login, digests | {"upload": upload})

    assert carried_out(client, trust, attacks) == []


@pytest.mark.usefixtures("nothing_changed")
def test_who_may_push_deletes_nothing_by_any_method_on_any_endpoint(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str], upload: str
) -> None:
    attacks = methods_table("push", login, digests | {"upload": upload})

    assert carried_out(client, trust, attacks) == []


# --- Uploads of others, mounts, and methods in disguise ---------------------------------------------------------------


@pytest.mark.usefixtures("nothing_written")
def test_an_upload_belongs_to_who_may_push_and_holds_its_state(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str], upload: str
) -> None:
    path, _, query = upload.partition("?")
    finish = f"{upload}&digest={digests['secret_blob']}"
    elsewhere = upload.replace("/team/app/", "/team/secret/")
    forged = f"{path}?_state={query.removeprefix('_state=')[::-1]}"
    rows = [
        ("ask how far an upload of another is", "GET", upload, "401 proxy", "403 writer"),
        ("send to it", "PATCH", upload, "401 proxy", "403 writer"),
        ("finish it", "PUT", finish, "401 proxy", "403 writer"),
        ("cancel it", "DELETE", upload, "401 proxy", "403 writer"),
    ]
    attacks = [
        Attack(what, who, expected, http1(method, target, *login(who), body=body), REGISTRY_PORT)
        for what, method, target, for_nobody, for_others in rows
        for who, expected in (("nobody", for_nobody), ("wrong", for_others), ("pull", for_others))
        for body in [b"junk" if method in ("PATCH", "PUT") else b""]
    ]
    rows_of_a_colleague = [
        ("send to an upload of another without its state", "PATCH", path, "404 writer"),
        ("finish it without its state", "PUT", f"{path}?digest={digests['secret_blob']}", "404 writer"),
        ("cancel it without its state", "DELETE", path, "404 writer"),
        ("send to it with a forged state", "PATCH", forged, "404 writer"),
        ("take it to another repository", "PATCH", elsewhere, "404 writer"),
        ("finish it in another repository", "PUT", elsewhere + "&digest=sha256:" + "0" * 64, "404 writer"),
    ]
    attacks += [
        Attack(what, "colleague", expected, http1(method, target, *login("colleague"), body=body), REGISTRY_PORT)
        for what, method, target, expected in rows_of_a_colleague
        for body in [b"" if method == "DELETE" else b"junk"]
    ]
    attacks.append(
        Attack("go on with one's own", "push", "204 writer", http1("GET", upload, *login("push")), REGISTRY_PORT)
    )

    assert carried_out(client, trust, attacks) == []


@pytest.mark.usefixtures("nothing_written")
def test_a_blob_of_another_repository_is_not_mounted_without_the_right_to_push(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str]
) -> None:
    target = "/v2/team/app/blobs/uploads/"
    query = f"mount={digests['secret_blob']}&from=team/secret"
    boundary = "\r\n".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'
        for name, value in (("mount", digests["secret_blob"]), ("from", "team/secret"))
    )
    form, multipart = "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=b"
    shapes = {
        "mount by query": ("POST", f"{target}?{query}", [], b""),
        "mount by query with two slashes": ("POST", f"{target}/?{query}", [], b""),
        "mount by query with encoded keys": ("POST", f"{target}?%6dount={query[6:]}", [], b""),
        "mount by query, from twice": ("POST", f"{target}?from=team/app&{query}", [], b""),
        "mount by form": ("POST", target, [form], query.encode()),
        "mount by form of several parts": ("POST", target, [multipart], f"{boundary}\r\n--b--\r\n".encode()),
        "mount by form that is a PUT": ("PUT", target, [form], query.encode()),
    }
    attacks = [
        Attack(
            what,
            who,
            # The process sends an unclean path away before it looks at who asks.
            "301 writer" if "//" in where and who != "nobody" else expected,
            http1(method, where, *login(who), *headers, body=body),
            REGISTRY_PORT,
        )
        for what, (method, where, headers, body) in shapes.items()
        for who, expected in (("nobody", "401 proxy"), ("wrong", "403 writer"), ("pull", "403 writer"))
    ]
    seen = http1("HEAD", f"/v2/team/app/blobs/{digests['secret_blob']}", *login("pull"))
    attacks.append(Attack("the blob of the other repository, afterwards", "pull", "404 reader", seen, REGISTRY_PORT))

    assert carried_out(client, trust, attacks) == []


@pytest.mark.usefixtures("nothing_written")
def test_a_method_is_what_the_request_line_says(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str]
) -> None:
    manifest, uploads = f"/v2/team/app/manifests/{digests['app_manifest']}", "/v2/team/app/blobs/uploads/"
    overrides = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method")
    attacks = []
    for name in overrides:
        for who, method, target, hidden, expected in (
            ("pull", "GET", manifest, "DELETE", "200 reader"),
            ("pull", "GET", "/v2/team/app/tags/list", "POST", "200 reader"),
            ("pull", "POST", manifest, "GET", "403 writer"),
            ("push", "POST", manifest, "DELETE", "405 writer"),
            ("push", "PUT", manifest, "DELETE", "400 writer"),
            ("push", "DELETE", manifest, "PUT", "403 admin"),
        ):
            request = http1(method, target, *login(who), f"{name}: {hidden}")
            attacks.append(Attack(f"{method} with {name}: {hidden}", who, expected, request, REGISTRY_PORT))
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Prefix"):
        request = http1("GET", "/v2/", f"{name}: {uploads}", *login("pull"))
        attacks.append(Attack(f"GET with {name}: {uploads}", "pull", "200 reader", request, REGISTRY_PORT))
    request = http1("GET", f"{manifest}?_method=DELETE", *login("pull"))
    attacks.append(Attack("GET with ?_method=DELETE", "pull", "200 reader", request, REGISTRY_PORT))

    assert carried_out(client, trust, attacks) == []


# --- Credentials in odd spellings -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_written")
def test_odd_credentials_grant_nothing(
    client: docker.DockerClient, trust: ssl.SSLContext, stack: Stack, login: Login
) -> None:
    (pull,) = login("pull")
    code = pull.removeprefix("Authorization: Basic ")
    password = stack.users["production"]

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode("latin-1")).decode()

    # Each starts an upload as somebody who may pull, or as nobody.
    headers = {
        "two logins, the own one first": [pull, f"Authorization: Basic {encoded('ci:x')}"],
        "two logins, the own one last": [f"Authorization: Basic {encoded('ci:x')}", pull],
        "two logins in one header": [f"{pull}, Basic {encoded('ci:x')}"],
        "scheme in small letters": [f"Authorization: basic {code}"],
        "no scheme": [f"Authorization: {code}"],
        "Bearer": [f"Authorization: Bearer {code}"],
        "scheme alone": ["Authorization: Basic"],
        "two spaces": [f"Authorization: Basic  {code}"],
        "a tab after it": [f"Authorization: Basic {code}\t"],
        "without padding": [f"Authorization: Basic {encoded('ci:xy').rstrip('=')}"],
        "too much padding": [f"Authorization: Basic {encoded('ci:xy')}===="],
        "alphabet for URLs": ["Authorization: Basic Y2k6_-_-"],
        "last bits not zero": ["Authorization: Basic Y2k6eB=="],
        "text after the padding": [f"Authorization: Basic {encoded('ci:xy')}Y2k6"],
        "user with a NUL": [f"Authorization: Basic {encoded(chr(0).join(['ci', ':x']))}"],
        "user in capitals": [f"Authorization: Basic {encoded('CI:' + stack.users['production'])}"],
        "user with a line end": [f"Authorization: Basic {encoded('production' + chr(10) + 'ci:' + password)}"],
        "user with a colon": [f"Authorization: Basic {encoded('ci::' + password)}"],
        "no colon": [f"Authorization: Basic {encoded('ci')}"],
        "empty password": [f"Authorization: Basic {encoded('ci:')}"],
        "empty user": [f"Authorization: Basic {encoded(':' + password)}"],
        "own login, password and NUL": [f"Authorization: Basic {encoded('production:' + password + chr(0))}"],
        "password of 180 characters": [f"Authorization: Basic {encoded('ci:' + 'x' * 180)}"],
        "internal user": [f"Authorization: Basic {encoded('operations:operations')}"],
        "own login, dropped on the way by Connection": [pull, "Connection: Authorization"],
        "own login, and X-Remote-User": [pull, "X-Remote-User: ci"],
        "own login, and X-Forwarded-User": [pull, "X-Forwarded-User: ci"],
        "own login, and Remote-User": [pull, "Remote_User: ci"],
    }
    anonymous = {
        "empty": ["Authorization:"],
        "none, and Cookie": [f"Cookie: Authorization=Basic {code}"],
        "none, and Proxy-Authorization": [f"Proxy-Authorization: Basic {code}"],
        "none, and X-Authorization": [f"X-Authorization: Basic {code}"],
    }
    target = "/v2/team/app/blobs/uploads/"
    attacks = [
        Attack(what, "pull", "403 writer", http1("POST", target, *lines), REGISTRY_PORT)
        for what, lines in headers.items()
    ]
    attacks += [
        Attack(what, "nobody", "401 proxy", http1("POST", target, *lines), REGISTRY_PORT)
        for what, lines in anonymous.items()
    ]
    malformed = {
        "password of 10,000 characters": [f"Authorization: Basic {encoded('ci:' + 'x' * 10_000)}"],
        "space before the colon": [pull.replace(":", " :")],
        "NUL in the header": [pull + "\0"],
        "carriage return in the header": [pull + "\rX: y"],
    }
    attacks += [
        Attack(what, "pull", "400 proxy", http1("POST", target, *lines), REGISTRY_PORT)
        for what, lines in malformed.items()
    ]

    assert carried_out(client, trust, attacks) == []


# --- Where the request claims to come from and to go to ---------------------------------------------------------------

CLAIMS = [
    ["X-Forwarded-Host: evil.example"],
    ["X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "X-Forwarded-Port: 81"],
    ["X-Forwarded-Proto: javascript"],
    ["X-Forwarded-Prefix: //evil.example"],
    ["Forwarded: for=192.0.2.1;host=evil.example;proto=http"],
    ["Forwarded: host=evil.example", "Forwarded: host=evil.example"],
    ["X-Host: evil.example", "X-Original-Host: evil.example", "X-HTTP-Host-Override: evil.example"],
]


@pytest.mark.usefixtures("nothing_changed")
def test_no_header_of_a_client_says_where_it_is_sent_next(
    trust: ssl.SSLContext, login: Login, digests: dict[str, str]
) -> None:
    print()
    for claim in CLAIMS:
        for method, target, field, path in (
            ("POST", "/v2/team/app/blobs/uploads/", "Location", "/v2/team/app/blobs/uploads/"),
            ("GET", "/v2/team//app/tags/list", "Location", "/v2/team/app/tags/list"),
            ("GET", "/v2/_catalog?n=1", "Link", "</v2/_catalog?last="),
            ("GET", "/v2/team/app/blobs/uploads", "Location", "/v2/team/app/blobs/uploads/"),
        ):
            with connected(trust, REGISTRY_PORT) as connection:
                answer = exchange(connection, http1(method, target, *claim, *login("push")))
            print(f"{method} {target:<30} {claim[0]:<55} {statuses(answer)[0]} {field}: {header(answer, field)[:50]}")
            assert header(answer, field).startswith(path)
            assert b"evil" not in answer


@pytest.mark.usefixtures("nothing_written")
def test_a_path_means_what_it_means_to_the_process(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str]
) -> None:
    manifest = digests["app_manifest"]
    rows = [
        ("nobody", "GET", "/", "404 proxy"),
        ("nobody", "GET", "/metrics", "404 proxy"),
        ("nobody", "GET", "/debug/vars", "404 proxy"),
        ("nobody", "GET", "/debug/pprof/", "404 proxy"),
        ("nobody", "GET", "/healthz", "404 proxy"),
        ("nobody", "POST", "/load", "404 proxy"),
        ("nobody", "GET", "/config/", "404 proxy"),
        ("nobody", "GET", "/v1/_ping", "404 proxy"),
        ("nobody", "GET", "/v2/../", "404 proxy"),
        ("nobody", "GET", "/v2/%2e%2e/", "404 proxy"),
        ("nobody", "GET", "/v2/..%2fdebug/vars", "404 proxy"),
        ("nobody", "GET", "//evil.example/v2/", "404 proxy"),
        ("pull", "GET", "//evil.example/../v2/_catalog", "301 reader"),
        ("nobody", "GET", "/v2//_catalog", "401 proxy"),
        ("nobody", "GET", "/V2/_catalog", "401 proxy"),
        ("pull", "GET", "/v2//_catalog", "301 reader"),
        ("pull", "GET", "/v2/./_catalog", "301 reader"),
        ("pull", "GET", "/V2/_catalog", "404 reader"),
        ("pull", "GET", "/v2/%5fcatalog", "200 reader"),
        ("pull", "GET", "/v2/_catalog/", "301 reader"),
        ("pull", "GET", "/v2/_catalog%00", "404 reader"),
        ("pull", "GET", "/v2/_catalog;x", "404 reader"),
        ("pull", "GET", "/v2/team%2fapp/tags/list", "200 reader"),
        ("pull", "GET", "/v2/team/app/tags%2flist", "200 reader"),
        ("pull", "GET", "/v2/team\\app/tags/list", "404 reader"),
        ("pull", "GET", "/v2/team/app/manifests/..%2f..%2fsecret%2fmanifests%2f1", "301 reader"),
        ("pull", "GET", "/v2/team/app/manifests/..%2f..%2f..%2f..%2fetc%2fpasswd", "404 proxy"),
        ("pull", "GET", "/v2/team/app/blobs/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "404 proxy"),
        ("pull", "GET", "/v2/../../../etc/passwd", "404 proxy"),
        ("pull", "GET", f"/v2/team/app/blobs/{digests['secret_blob']}", "404 reader"),
        ("pull", "POST", "/v2/team/app/blobs/uploads", "301 writer"),
        ("pull", "POST", "/v2/team/app/blobs//uploads/", "301 writer"),
        ("pull", "POST", "/v2/team/app/blobs/uploads//", "301 writer"),
        ("pull", "POST", "/v2/team/app/blobs%2fuploads%2f", "403 writer"),
        ("pull", "POST", "/v2/team/app/x/../blobs/uploads/", "301 writer"),
        ("pull", "POST", "/v2/team/app/BLOBS/UPLOADS/", "404 writer"),
        ("pull", "PUT", "/v2/blobs/uploads/manifests/1", "403 writer"),
        ("pull", "DELETE", "/v2/blobs/uploads/manifests/1", "403 admin"),
        ("pull", "GET", "/v2/blobs/uploads/manifests/1", "404 reader"),
        ("push", "DELETE", f"/v2/team/app/blobs/uploads/..%2f..%2fmanifests%2f{manifest}", "301 admin"),
        ("push", "DELETE", f"/v2/team/app/manifests/{manifest}?/blobs/uploads/", "403 admin"),
        ("push", "DELETE", f"/v2/team/app/manifests/{manifest}%3f/blobs/uploads/", "404 writer"),
        ("push", "DELETE", f"/v2/team/app/manifests/{manifest}#/blobs/uploads/", "404 writer"),
        ("push", "DELETE", f"/v2/team/app/manifests/{manifest};/blobs/uploads/", "404 writer"),
        ("push", "DELETE", f"/v2/team/app/manifests/{manifest}/", "301 admin"),
        ("pull", "GET", f"https://localhost:{REGISTRY_PORT}/v2/", "200 reader"),
        ("pull", "POST", f"https://localhost:{REGISTRY_PORT}/v2/team/app/blobs/uploads/", "403 writer"),
        ("nobody", "GET", "http://evil.example/v2/", "421 proxy"),
        ("nobody", "GET", "file:///etc/passwd", "404 proxy"),
        ("nobody", "OPTIONS", "*", "200 proxy"),
        ("nobody", "CONNECT", "reader:5000", "421 proxy"),
        ("nobody", "CONNECT", f"localhost:{REGISTRY_PORT}", "404 proxy"),
        ("nobody", "GET", "v2/", "400 proxy"),
        ("nobody", "GET", "/v2/%zz", "400 proxy"),
        ("nobody", "GET", "/v2/ HTTP/1.1 x", "400 proxy"),
    ]
    attacks = [
        Attack(f"{method} {target.replace(manifest, 'DIGEST')}", who, expected, request, REGISTRY_PORT)
        for who, method, target, expected in rows
        for request in [http1(method, target, *login(who))]
    ]

    assert carried_out(client, trust, attacks) == []


@pytest.mark.usefixtures("nothing_written")
def test_only_names_of_the_configuration_are_served(
    client: docker.DockerClient, stack: Stack, trust: ssl.SSLContext, login: Login
) -> None:
    hosts = {
        "evil.example": "421 proxy",
        "localhost.": "421 proxy",
        "127.0.0.2": "421 proxy",
        "reader:5000": "421 proxy",
        "sub.localhost": "421 proxy",
        "localhost@evil.example": "400 proxy",
        "evil.example#localhost": "400 proxy",
        "localhost:0": "401 proxy",
        "LOCALHOST": "401 proxy",
        # The port of the host without a login, on that of the registry.
        f"localhost:{PUBLIC_PORT}": "401 proxy",
        "localhost\r\nHost: evil.example": "400 proxy",
        "": "400 proxy",
    }
    attacks = [
        Attack(f"Host: {host!r}", "nobody", expected, http1("GET", "/v2/_catalog", host=host), REGISTRY_PORT)
        for host, expected in hosts.items()
    ]
    assert carried_out(client, trust, attacks) == []

    # The certificate's name is checked by the client alone, so trust in everything asks for the proxy's own refusal.
    gullible = ssl.create_default_context()
    gullible.check_hostname, gullible.verify_mode = False, ssl.CERT_NONE
    refusal = {"caddy": "alert", "nginx": "UNRECOGNIZED_NAME"}[stack.proxy]
    for name in ("evil.example", "sub.localhost"):
        with pytest.raises(ssl.SSLError, match=refusal):
            connected(gullible, REGISTRY_PORT, sni=name)


# --- Hosts without a login --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_written")
def test_the_host_without_a_login_is_for_reading(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login, digests: dict[str, str], upload: str
) -> None:
    manifest, digest = "/v2/team/app/manifests/1", digests["app_manifest"]
    rows = [
        ("GET", manifest, "200 public"),
        ("HEAD", manifest, "200 public"),
        ("GET", f"/v2/team/app/blobs/{digests['app_blob']}", "200 public"),
        ("GET", upload, "405 proxy"),
        ("GET", "/debug/vars", "404 proxy"),
        *[
            (method, target, "405 proxy")
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X", "post")
            for target in ("/v2/", manifest, f"/v2/team/app/manifests/{digest}", "/v2/team/app/blobs/uploads/", upload)
        ],
    ]
    attacks = [
        Attack(f"{method} {target.split('?')[0]}", who, expected, http1(method, target, *login(who)), PUBLIC_PORT)
        for method, target, expected in rows
        for who in ("nobody", "admin")
    ]

    assert carried_out(client, trust, attacks) == []


def test_an_allow_list_believes_in_connections_alone(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login
) -> None:
    claims = [
        "X-Forwarded-For: 192.0.2.1",
        "X-Real-IP: 192.0.2.1",
        "Forwarded: for=192.0.2.1",
        "True-Client-IP: 192.0.2.1",
    ]
    attacks = [
        Attack(f"{method} /v2/, {claim}", "nobody", "403 proxy", http1(method, "/v2/", claim), MIRROR_PORT)
        for claim in claims
        for method in ("GET", "POST", "DELETE")
    ]

    assert carried_out(client, trust, attacks) == []


# --- Malformed requests -----------------------------------------------------------------------------------------------

HIDDEN = b"GET /v2/_catalog HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {mark}-hidden\r\nConnection: close\r\n\r\n"


CHUNKED = "Transfer-Encoding: chunked"


def with_hidden_request(*headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A POST by nobody's login whose body is framed by ``headers``, a second request behind or in it."""
    target, login = "/v2/team/app/blobs/uploads/", basic("ci", "wrong")
    lines = [f"POST {target} HTTP/{version}", "Host: localhost", "User-Agent: {mark}", login, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body + HIDDEN


#: Expected of the proxy, and of a registry process itself. Two statuses are two requests, each checked by itself. Of
#: a body that cannot be read, the proxy tells the process's answer or its own, whichever it has first.
MALFORMED = {
    "both lengths, the body by chunks": (
        with_hidden_request("Content-Length: 200", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        "403 writer",
        "401+401",
    ),
    "both lengths, the body by length": (
        with_hidden_request("Transfer-Encoding: chunked", "Content-Length: 3", body=b"0\r\n"),
        "403/429 writer",
        "401",
    ),
    "two different lengths": (with_hidden_request("Content-Length: 0", "Content-Length: 90"), "400 proxy", "400"),
    "two lengths in one header": (with_hidden_request("Content-Length: 0, 90"), "400 proxy", "400"),
    "negative length": (with_hidden_request("Content-Length: -1"), "400 proxy", "400"),
    "length with a sign": (with_hidden_request("Content-Length: +5"), "400 proxy", "400"),
    "length in hexadecimal": (with_hidden_request("Content-Length: 0x10"), "400 proxy", "400"),
    "length with a space before the colon": (with_hidden_request("Content-Length : 5"), "400 proxy", "400"),
    "length beyond 64 bits": (with_hidden_request("Content-Length: 18446744073709551617"), "400 proxy", "400"),
    "unknown coding": (with_hidden_request("Transfer-Encoding: xchunked"), "501 proxy", "501"),
    "two codings": (with_hidden_request("Transfer-Encoding: chunked, identity"), "501 proxy", "501"),
    "two headers of coding": (
        with_hidden_request("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        "501 proxy",
        "501",
    ),
    "coding behind a vertical tab": (with_hidden_request("Transfer-Encoding: \x0bchunked"), "400 proxy", "400"),
    "coding in a folded line": (with_hidden_request("Transfer-Encoding:\r\n chunked"), "403/429 writer", "401"),
    "chunk without a size": (with_hidden_request(CHUNKED, body=b"zz\r\n"), "403/429 writer", "401"),
    "chunk beyond 64 bits": (with_hidden_request(CHUNKED, body=b"fffffffffffffffff\r\n"), "403/429 writer", "401"),
    "chunk with a negative size": (with_hidden_request(CHUNKED, body=b"-1\r\n"), "403/429 writer", "401"),
    "chunk longer than it says": (with_hidden_request(CHUNKED, body=b"1\r\nabc\r\n0\r\n\r\n"), "403/429 writer", "401"),
    "chunk with a line feed in its extension": (
        with_hidden_request(CHUNKED, body=b"0;\n\r\n\r\n"),
        "403/429 writer",
        "401",
    ),
    "line feeds alone": (with_hidden_request("X: y\nContent-Length: 5\nX: z"), "403 writer", "401+400"),
    "NUL in a header": (with_hidden_request("X: a\0b"), "400 proxy", "400"),
    "header without a name": (with_hidden_request(": x"), "400 proxy", "400"),
    "header without a colon": (with_hidden_request("nonsense"), "400 proxy", "400"),
    "chunks in HTTP/1.0": (with_hidden_request(CHUNKED, body=b"0\r\n\r\n", version="1.0"), "403 writer", "401"),
    "HTTP/0.9": (b"GET /v2/_catalog\r\n\r\n", "400 proxy", "400"),
    "HTTP/3.0": (http1("GET", "/v2/").replace(b"HTTP/1.1", b"HTTP/3.0"), "505 proxy", "505"),
    "the preface of HTTP/2": (http2([(":method", "GET"), (":path", "/v2/")]), "421 proxy", "301"),
    "an upgrade to HTTP/2": (http1("GET", "/v2/", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), "401 proxy", "401"),
    "an upgrade to something else": (http1("GET", "/v2/", "Upgrade: websocket"), "401 proxy", "401"),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n", "400 proxy", "400"),
}


@pytest.mark.usefixtures("nothing_written")
def test_the_proxy_and_a_process_agree_on_where_a_request_ends(
    client: docker.DockerClient, trust: ssl.SSLContext
) -> None:
    attacks = [
        Attack(what, "nobody", expected, request, REGISTRY_PORT) for what, (request, expected, _) in MALFORMED.items()
    ]

    assert carried_out(client, trust, attacks, at_once=8) == []


@pytest.mark.usefixtures("nothing_written")
def test_a_process_refuses_by_itself_what_is_malformed(client: docker.DockerClient) -> None:
    print()
    for what, (request, _, expected) in MALFORMED.items():
        with socket.create_connection((addresses(client)["writer"], PORTS["writer"]), timeout=PATIENCE) as connection:
            answer = "+".join(statuses(exchange(connection, request)))
        print(f"{what:<60} {answer} writer")
        assert answer == expected, what


@pytest.mark.usefixtures("nothing_written")
def test_a_broken_body_is_not_sent_again_and_again(
    client: docker.DockerClient, stack: Stack, trust: ssl.SSLContext, login: Login
) -> None:
    """It looks like a connection that broke, for which Caddy tries again; nginx refuses it by itself."""
    possible = {"caddy": (["403"], ["429"]), "nginx": (["400"],)}[stack.proxy]
    since = time.time()
    attack = Attack("", "wrong", "", with_hidden_request(CHUNKED, body=b"zz\r\n"), REGISTRY_PORT)
    with connected(trust, REGISTRY_PORT) as connection:
        assert statuses(exchange(connection, attack.marked)) in possible

    def checks(lines: list[tuple[str, dict]]) -> int:
        own = [line for _, line in lines if line.get("http.request.useragent") == attack.mark]
        return sum(line["msg"] == "user failed to authenticate" for line in own)

    time.sleep(1)
    checked = checks(logged(client, since, lambda lines: stack.proxy == "nginx" or checks(lines) > 0))
    print(f"\none request with a broken body: {checked} checks of its password")
    assert (0 < checked <= 15) if stack.proxy == "caddy" else not checked


def test_http_2_is_not_spoken_whatever_a_client_offers(stack: Stack) -> None:
    """A layer would take longer by it, and it has attacks of its own."""
    context = stack.trust
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(context, REGISTRY_PORT) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert statuses(exchange(connection, http1("GET", "/v2/"))) == ["401"]
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        connected(context, REGISTRY_PORT).close()


# --- Too much, too slow, without an end -------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_written")
def test_large_heads_are_refused_by_the_proxy(client: docker.DockerClient, trust: ssl.SSLContext, login: Login) -> None:
    sizes = {
        "a header of 10 KB": (http1("GET", "/v2/", "X: " + "x" * 10_000), "401 proxy"),
        "a header of 100 KB": (http1("GET", "/v2/", "X: " + "x" * 100_000), "431 proxy"),
        "a header of 20 MB": (http1("GET", "/v2/", "X: " + "x" * 20_000_000), "431 proxy"),
        "5,000 headers": (http1("GET", "/v2/", *(f"X-{number}: y" for number in range(5000))), "431 proxy"),
        "a login of 100 KB": (http1("GET", "/v2/", basic("ci", "x" * 75_000)), "431 proxy"),
        "a path of 100 KB": (http1("GET", "/v2/" + "x" * 100_000), "431 proxy"),
        "a method of 100 KB": (http1("X" * 100_000, "/v2/"), "431 proxy"),
        "a name of 10 KB": (http1("GET", "/v2/" + "x/" * 5000 + "tags/list", *login("pull")), "400 proxy"),
    }
    attacks = [Attack(what, "nobody", expected, request, REGISTRY_PORT) for what, (request, expected) in sizes.items()]

    assert carried_out(client, trust, attacks) == []


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("who", ["nobody", "wrong", "pull"])
def test_a_body_without_an_end_is_cut_when_its_sender_may_not_push(
    stack: Stack, trust: ssl.SSLContext, login: Login, upload: str, who: str
) -> None:
    print()
    for method, target in (
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PATCH", upload),
        ("PUT", f"{upload}&digest=sha256:{'0' * 64}"),
        ("PUT", "/v2/team/app/manifests/1"),
        ("DELETE", "/v2/team/app/manifests/1"),
    ):
        head = http1(method, target, *login(who), CHUNKED).replace(b"Content-Length: 0\r\n", b"")
        for _ in range(3):
            sent, received = endless(trust, head)
            if received:
                break  # else the connection was reset before this client, on a busy machine, read the answer
        print(f"{method} {target.split('?')[0]:<75} {who:<8} {'+'.join(statuses(received))} after {sent >> 10} KB")
        assert statuses(received) == ["401" if who == "nobody" else "400" if method == "DELETE" else "403"]
        assert sent < 16 << 20


def endless(trust: ssl.SSLContext, head: bytes) -> tuple[int, bytes]:
    """Send chunks until the other side closes, 64 MB at most; how many bytes were taken, and the answer."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent, received = 0, b""
    with connected(trust, REGISTRY_PORT) as connection:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(head)
            while sent < 64 << 20:
                connection.settimeout(PATIENCE)
                connection.sendall(chunk)
                sent += len(chunk)
                connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if not (some := connection.recv(65536)):
                        break
                    received += some
        # An answer can be there although nothing can be sent any more.
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            received += connection.recv(65536)
    return sent, received


@pytest.mark.usefixtures("nothing_written")
def test_slow_clients_neither_hold_up_others_nor_the_proxy(
    client: docker.DockerClient, trust: ssl.SSLContext, login: Login
) -> None:
    """Slow heads end after 30 seconds. Slow bodies may go on, as those of pushes must; they cost memory alone."""
    proxy = clients.containers(client, PREFIX)["proxy"]
    many = 200
    with contextlib.ExitStack() as connections:
        before = used_memory(proxy)
        begun = time.monotonic()  # of the first head, whose time runs while the others are opened
        heads = {connections.enter_context(connected(trust, REGISTRY_PORT)) for _ in range(many)}
        bodies = [connections.enter_context(connected(trust, REGISTRY_PORT)) for _ in range(many)]
        for connection in heads:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: ")
        for connection in bodies:
            request = b"POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65000\r\n\r\n"
            connection.sendall(request + b"x" * 60_000)
        waited = time.monotonic()
        with connected(trust, REGISTRY_PORT) as connection:
            assert statuses(exchange(connection, http1("GET", "/v2/", *login("pull")))) == ["200"]
        waited = time.monotonic() - waited
        during = used_memory(proxy)
        while heads and time.monotonic() < begun + 180:
            time.sleep(1)
            heads = {connection for connection in heads if still_open(connection)}
        ended = time.monotonic() - begun
    print(f"\n{many} slow heads and {many} slow bodies: the proxy's memory grows from {before} to {during} MB,")
    print(f"another request takes {waited * 1000:.0f} ms, slow heads end after {ended:.0f} s")
    assert not heads
    assert ended > 25
    assert proxy.attrs["State"]["StartedAt"] == client.containers.get(proxy.name).attrs["State"]["StartedAt"]


def still_open(connection: ssl.SSLSocket) -> bool:
    """Send one more byte of a head; whether the other side still listens."""
    connection.settimeout(0.001)
    try:
        connection.sendall(b"x")
        return connection.recv(1024) != b""
    except TimeoutError:
        return True
    except (ConnectionError, ssl.SSLError):
        return False


def used_memory(container: Container) -> int:
    """What a container uses, in MB, without the cache of files."""
    memory = container.stats(stream=False)["memory_stats"]
    statistics = memory["stats"]
    return (memory["usage"] - statistics.get("inactive_file", statistics.get("total_inactive_file", 0))) >> 20


# --- Guessing ---------------------------------------------------------------------------------------------------------


def test_a_push_goes_on_while_passwords_are_guessed(
    stack: Stack, client: docker.DockerClient, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    def push(name: str) -> float:
        write_layout(tmp_path / name, [random_layer(1 << 20) for _ in range(20)])
        began = time.monotonic()
        pushed = clients.Skopeo(stack, tmp_path, "ci").push(tmp_path / name, f"team/flood:{name}")
        assert pushed.returncode == 0, pushed.stderr
        return time.monotonic() - began

    alone = push("alone")
    answers: list[int] = []
    over = threading.Event()

    def guess(number: int) -> None:
        with httpx.Client(verify=trust, base_url=f"https://{stack.registry}", timeout=PATIENCE) as session:
            due = time.monotonic()
            while not over.is_set():
                login = ("ci", f"guess-{number}-{len(answers)}")
                request = ("GET", "/v2/") if len(answers) % 2 else ("POST", "/v2/team/app/blobs/uploads/")
                answers.append(session.request(*request, auth=login).status_code)
                due += 4 / 200
                over.wait(max(0.0, due - time.monotonic()))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        guesses = [pool.submit(guess, number) for number in range(4)]
        time.sleep(2)
        try:
            since, began = len(answers), time.monotonic()
            for number in range(1, 11):
                flooded = push(f"flooded-{number}")
                guessed, seconds = len(answers) - since, time.monotonic() - began
                if guessed > 100:
                    break
        finally:
            over.set()
        for future in guesses:
            future.result(timeout=PATIENCE)

    print(f"\npush of 20 MB: {alone:.2f} s alone, {flooded:.2f} s beside {guessed / seconds:.0f} guesses a second")
    assert set(answers) == {401, 403}
    assert guessed > 100, "the guesses did not meet the pushes"
    pulled = clients.Skopeo(stack, tmp_path, "production").pull("team/flood:flooded-1", tmp_path / "pulled")
    assert pulled.returncode == 0, pulled.stderr


# --- Past the proxy ---------------------------------------------------------------------------------------------------


def addresses(client: docker.DockerClient) -> dict[str, str]:
    """Address of each registry process on its network."""
    network = f"{PREFIX}-backend"
    found = clients.containers(client, PREFIX)
    return {role: found[role].attrs["NetworkSettings"]["Networks"][network]["IPAddress"] for role in PROCESSES}


def targets(client: docker.DockerClient) -> list[str]:
    """Where each process listens, by address and by name."""
    return [f"{host}:{PORTS[process]}" for process, address in addresses(client).items() for host in (address, process)]


@pytest.fixture
def foreign_network(client: docker.DockerClient) -> Iterator[str]:
    """A bridge network of somebody else on the same engine."""
    network = client.networks.create(f"{PREFIX}-foreign", labels={"registry-stack.prefix": PREFIX})
    yield network.name
    network.remove()


@contextlib.contextmanager
def stranger(client: docker.DockerClient, network: str, requests: dict[str, bytes]) -> Iterator[Container]:
    """A container of somebody else on a network, with files to send."""
    container = client.containers.create(
        clients.IMAGES.registry,
        entrypoint=["sleep", "300"],
        name=f"{PREFIX}-stranger",
        network=network,
    )
    try:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, request in requests.items():
                entry = tarfile.TarInfo(f"requests/{name}")
                entry.size = len(request)
                archive.addfile(entry, io.BytesIO(request))
        container.put_archive("/", buffer.getvalue())
        container.start()
        yield container
    finally:
        container.remove(force=True)


def answers_from(container: Container, targets: Iterable[str], seconds: int = 3) -> int:
    """Send every request to every target at once, ``seconds`` each; how many were answered."""
    script = (
        f"seconds={seconds}; mkdir /answers;"
        " for target in $0 $@; do host=${target%:*} port=${target#*:}; for request in /requests/*; do"
        " nc -w $seconds $host $port < $request > /answers/$host-${request##*/} 2>/dev/null & done; done; wait;"
        " grep -l ^HTTP/1.1 /answers/* | wc -l"
    )
    return int(clients.execute(container, "sh", "-c", script, *targets).split()[-1])


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("where", ["a bridge of its own", "the default bridge", "the mirrors' network"])
def test_no_process_is_reachable_from_another_network(
    client: docker.DockerClient, login: Login, digests: dict[str, str], upload: str, foreign_network: str, where: str
) -> None:
    networks = {
        "a bridge of its own": foreign_network,
        "the default bridge": "bridge",
        "the mirrors' network": f"{PREFIX}-edge",
    }
    attacks = [
        attack for who in ("nobody", "push") for attack in methods_table(who, login, digests | {"upload": upload})
    ]
    with stranger(client, networks[where], {attack.mark: attack.marked for attack in attacks}) as container:
        answered = answers_from(container, targets(client))

    print(f"\n{len(attacks)} requests to each of {', '.join(PROCESSES)} from {where}: {answered} answers")
    assert len(attacks) > 100
    assert answered == 0


def test_every_process_is_reachable_from_the_proxys_network(client: docker.DockerClient) -> None:
    """Or the test above would prove nothing."""
    request = {"request": http1("GET", "/v2/")}
    with stranger(client, f"{PREFIX}-backend", request) as container:
        assert answers_from(container, targets(client), 60) == 2 * len(PROCESSES)


@contextlib.contextmanager
def neighbour() -> Iterator[list[str]]:
    """Another host beside the Docker host, to which it routes what it sends; what runs a program there."""
    with subprocess.Popen(["unshare", "--net", "sleep", "300"]) as holder:
        try:
            mine, own = Path("/proc/self/ns/net"), Path(f"/proc/{holder.pid}/ns/net")
            deadline = time.monotonic() + 60
            while own.readlink() == mine.readlink():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            there = ["nsenter", f"--target={holder.pid}", "--net"]
            for command in (
                f"ip link add rs-neighbour type veth peer name eth0 netns {holder.pid}",
                "ip address add 192.0.2.1/30 dev rs-neighbour",
                "ip link set rs-neighbour up",
                " ".join([*there, "ip address add 192.0.2.2/30 dev eth0"]),
                " ".join([*there, "ip link set eth0 up"]),
                " ".join([*there, "ip route add default via 192.0.2.1"]),
            ):
                subprocess.run(command.split(), check=True)
            yield there
        finally:
            holder.kill()


def test_a_port_on_loopback_is_for_the_docker_host_alone(stack: Stack, client: docker.DockerClient) -> None:
    """Before version 28, Docker lets in who routes to a container's address."""
    urls = [f"https://localhost:{port}/v2/" for port in (REGISTRY_PORT, PUBLIC_PORT, MIRROR_PORT)]
    urls.append(f"http://localhost:{METRICS_PORT}/metrics")
    ask = ["curl", "--insecure", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "60"]
    ask += ["--connect-to", f"::{proxy_address(client)}:"]

    def asked(*where: str) -> list[tuple[str, int]]:
        answers = [subprocess.run([*where, *ask, url], capture_output=True, text=True, check=False) for url in urls]
        return [(answer.stdout, answer.returncode) for answer in answers]

    assert asked() == [("401", 0), ("200", 0), ("403", 0), ("200", 0)]
    with neighbour() as there:
        # curl's 52 is a connection on which nothing was answered, so the way was open.
        assert asked(*there) == [("000", 52)] * len(urls)
