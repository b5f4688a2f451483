"""Every rendered registry configuration is started by the real distribution, and behaves as its process should."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import statistics
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from pydantic import SecretStr

from components.configuration.fields import OPERATIONS_USER
from components.configuration.naming import COUNTERS_PORT
from components.configuration.passwords import hashes, operations_password
from components.configuration.settings import ROLES_OF, MirrorSettings, Process, UserSettings
from components.render.htpasswd import htpasswd
from components.render.registry import CONFIG_DIRECTORY, DATA_DIRECTORY, SECRETS_DIRECTORY, credential_helper
from components.render.registry_command import on_own_store
from tests.harness.configuration import configuration, example_password, loaded
from tests.harness.processes import free_port, running
from tests.render.cases import GOLDEN

Binary = Callable[[str], str]
BOSS = ("boss", example_password("boss"))
WRITER = ("woodpecker", example_password("woodpecker"))
READER = ("production", example_password("production"))
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@contextlib.contextmanager
def registry(
    binary: Binary, folder: Path, golden: Path, environment: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """A client of the registry that runs a golden file, with the container's paths mapped into ``folder``."""
    port = free_port()
    text = re.sub(rf"127\.0\.0\.1:{COUNTERS_PORT}\b", f"127.0.0.1:{free_port()}", golden.read_text())
    text = re.sub(r"addr: :\d+", f"addr: 127.0.0.1:{port}", text)
    for path, name in ((SECRETS_DIRECTORY, "secrets"), (CONFIG_DIRECTORY, "config"), (DATA_DIRECTORY, "data")):
        (folder / name).mkdir(exist_ok=True)
        text = text.replace(path, str(folder / name))
    config = folder / "config" / golden.name
    config.write_text(text)
    command = [binary("registry"), "serve", str(config)]
    with (
        running(command, port, folder / "log", {"OTEL_TRACES_EXPORTER": "none"} | (environment or {})),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield client
    assert "provisioning" not in (folder / "log").read_text(), "distribution invented a user"


@pytest.fixture
def secrets_folder(tmp_path: Path) -> Path:
    settings, given = loaded(configuration())
    passwords = given.passwords | {OPERATIONS_USER: operations_password(given.stack_secret)}
    (tmp_path / "secrets").mkdir()
    for process in ROLES_OF:
        text = htpasswd(process, settings.registry.users, hashes(passwords, given.stack_secret))
        (tmp_path / "secrets" / f"{process}.htpasswd").write_text(text)
    return tmp_path


@pytest.mark.parametrize("process", ROLES_OF)
@pytest.mark.parametrize("case", ["local", "production"])
def test_a_process_starts_and_asks_for_a_login(
    binary: Binary, secrets_folder: Path, case: str, process: Process
) -> None:
    with registry(binary, secrets_folder, GOLDEN / case / f"{process}.yml") as client:
        challenge = client.get("/v2/")

        assert challenge.status_code == 401
        assert challenge.headers["www-authenticate"] == 'Basic realm="Registry Realm"'
        assert client.get("/v2/", auth=BOSS).status_code == 200
        assert client.get("/").status_code == 200, "the health check needs no login"


@pytest.mark.parametrize(
    ("process", "welcome", "unknown"),
    [("reader", [READER, WRITER, BOSS], []), ("writer", [WRITER, BOSS], [READER]), ("admin", [BOSS], [READER, WRITER])],
)
def test_a_process_knows_only_those_who_hold_its_right(
    binary: Binary,
    secrets_folder: Path,
    process: Process,
    welcome: list[tuple[str, str]],
    unknown: list[tuple[str, str]],
) -> None:
    with registry(binary, secrets_folder, GOLDEN / "local" / f"{process}.yml") as client:
        assert [client.get("/v2/", auth=login).status_code for login in welcome] == [200] * len(welcome)
        assert [client.get("/v2/", auth=login).status_code for login in unknown] == [401] * len(unknown)


@pytest.mark.parametrize("process", ROLES_OF)
def test_the_time_of_an_answer_does_not_tell_whether_a_name_exists(
    binary: Binary, tmp_path: Path, process: Process
) -> None:
    stack_secret = SecretStr("5" * 64)
    passwords = {
        "generated": secrets.token_hex(16),
        "chosen": "quiet Tuesday marmalade",
        "hashed": bcrypt.hashpw(b"by htpasswd -B", bcrypt.gensalt(5)).decode(),
    }
    everybody = {name: UserSettings(role="admin") for name in passwords}
    users = {OPERATIONS_USER: operations_password(stack_secret)}
    users |= {name: SecretStr(password) for name, password in passwords.items()}
    (tmp_path / "secrets").mkdir()
    text = htpasswd(process, everybody, hashes(users, stack_secret))
    (tmp_path / "secrets" / f"{process}.htpasswd").write_text(text)

    took: dict[str, list[float]] = {name: [] for name in ("unknown", *passwords)}
    with registry(binary, tmp_path, GOLDEN / "local" / f"{process}.yml") as client:
        # Whatever else the machine does, the fastest of many had it to itself. The busier it is, the more that takes.
        fastest = [0.0]
        for turn in range(2000):
            if turn >= 100 and max(fastest) < 1.3 * min(fastest):
                break
            for name, times in took.items():
                answer = client.get("/v2/", auth=(name, "wrong"))
                assert answer.status_code == 401
                times.append(answer.elapsed.total_seconds() * 1000)
            fastest = [min(times) for times in took.values()]

    for name, times in took.items():
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"{process}, a wrong password of {name}: {middle:.2f} ms, half of them {low:.2f} to {high:.2f}")
    # The next cost of bcrypt takes twice as long.
    assert max(fastest) < 1.3 * min(fastest)


def test_the_reader_takes_no_upload_and_the_writer_no_delete(binary: Binary, secrets_folder: Path) -> None:
    digest = "sha256:" + "0" * 64
    with registry(binary, secrets_folder, GOLDEN / "local" / "reader.yml") as client:
        assert client.post("/v2/app/blobs/uploads/", auth=BOSS).status_code == 405
        assert client.delete(f"/v2/app/manifests/{digest}", auth=BOSS).status_code == 405
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml") as client:
        assert client.post("/v2/app/blobs/uploads/", auth=BOSS).status_code == 202
        assert client.delete(f"/v2/app/manifests/{digest}", auth=BOSS).status_code == 405
        assert client.delete("/v2/app/manifests/latest", auth=BOSS).status_code == 405
        assert client.delete(f"/v2/app/blobs/{digest}", auth=BOSS).status_code == 405
    with registry(binary, secrets_folder, GOLDEN / "local" / "admin.yml") as client:
        assert client.delete(f"/v2/app/manifests/{digest}", auth=BOSS).status_code == 404


@pytest.mark.parametrize("secret", ["1" * 64, "5e" + "5" * 62, "0x" + "f" * 62, "ab" * 32])
def test_an_upload_survives_a_restart_whatever_the_digits_of_the_shared_secret(
    binary: Binary, secrets_folder: Path, secret: str
) -> None:
    environment = {"REGISTRY_HTTP_SECRET": secret}
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml", environment) as client:
        location = client.post("/v2/app/blobs/uploads/", auth=WRITER).headers["location"]
    assert location.startswith("/v2/app/blobs/uploads/")
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml", environment) as client:
        assert client.patch(location, auth=WRITER, content=b"layer").status_code == 202


def described(kind: str, content: bytes, **more: Any) -> dict[str, Any]:
    """The descriptor of a blob."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(content)} | more


def push_blob(client: httpx.Client, content: bytes) -> None:
    location = client.post("/v2/app/blobs/uploads/", auth=WRITER).headers["location"]
    url = httpx.URL(location).copy_merge_params({"digest": described("", content)["digest"]})
    assert client.put(url, auth=WRITER, content=content).status_code == 201


def push_manifest(client: httpx.Client, reference: str, kind: str, **manifest: Any) -> httpx.Response:
    content = json.dumps({"schemaVersion": 2, "mediaType": kind} | manifest)
    url = f"/v2/app/manifests/{reference}"
    return client.put(url, auth=WRITER, content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    ("index", "layer", "config"),
    [
        (OCI_INDEX, "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.buildkit.cacheconfig.v0"),
        (
            DOCKER_LIST,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.buildkit.cacheconfig.v0",
        ),
    ],
)
def test_an_index_of_layers_is_accepted_and_garbage_collection_keeps_the_layers(
    binary: Binary, secrets_folder: Path, index: str, layer: str, config: str
) -> None:
    """BuildKit writes a build cache in this form, with oci-mediatypes=true and false."""
    blobs = {name: f"{name} of a build cache".encode() for name in ("layer", "config")}
    listed = [described(layer, blobs["layer"]), described(config, blobs["config"])]
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml") as client:
        for content in (*blobs.values(), b"of no manifest"):
            push_blob(client, content)
        pushed = push_manifest(client, "cache", index, manifests=listed)
    assert pushed.status_code == 201, pushed.text

    collect = [binary("registry"), "garbage-collect", str(secrets_folder / "config" / "writer.yml")]
    collected = subprocess.run(collect, capture_output=True, text=True, check=True)

    assert "1 blobs and 0 manifests eligible for deletion" in collected.stdout
    with registry(binary, secrets_folder, GOLDEN / "local" / "reader.yml") as client:
        pulled = client.get("/v2/app/manifests/cache", auth=READER, headers={"Accept": index})
        assert pulled.json()["manifests"] == listed
        for descriptor, content in zip(listed, blobs.values(), strict=True):
            assert client.get(f"/v2/app/blobs/{descriptor['digest']}", auth=READER).content == content


@pytest.mark.parametrize(("index", "image"), [(OCI_INDEX, OCI_IMAGE), (DOCKER_LIST, DOCKER_IMAGE)])
def test_an_index_is_accepted_of_which_some_platforms_were_not_pushed(
    binary: Binary, secrets_folder: Path, index: str, image: str
) -> None:
    missing = described(image, b"an image that was not pushed", platform={"architecture": "s390x", "os": "linux"})
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml") as client:
        pushed = push_manifest(client, "partial", index, manifests=[missing])

    assert pushed.status_code == 201, pushed.text


FOREIGN_LAYERS = {
    DOCKER_IMAGE: ("application/vnd.docker.container.image.v1+json",
                   "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    OCI_IMAGE: ("application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
}  # fmt: skip


def foreign_image(kind: str, url: str) -> dict[str, Any]:
    """An image of Windows, whose base layer lies at a server of Microsoft's."""
    config, layer = FOREIGN_LAYERS[kind]
    return {"config": described(config, b"{}"), "layers": [described(layer, b"a layer elsewhere", urls=[url])]}


@pytest.mark.parametrize("kind", [DOCKER_IMAGE, OCI_IMAGE])
@pytest.mark.parametrize("url", ["https://mcr.microsoft.com/v2/windows/blobs/sha256:0", "http://localhost/layer"])
def test_an_image_with_layers_at_another_server_is_accepted(
    binary: Binary, secrets_folder: Path, kind: str, url: str
) -> None:
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml") as client:
        push_blob(client, b"{}")
        pushed = push_manifest(client, "windows", kind, **foreign_image(kind, url))

    assert pushed.status_code == 201, pushed.text


def test_an_image_without_a_layer_of_its_own_is_refused(binary: Binary, secrets_folder: Path) -> None:
    layer = described("application/vnd.oci.image.layer.v1.tar+gzip", b"a layer that was not pushed")
    config = described("application/vnd.oci.image.config.v1+json", b"{}")
    with registry(binary, secrets_folder, GOLDEN / "local" / "writer.yml") as client:
        push_blob(client, b"{}")
        pushed = push_manifest(client, "broken", OCI_IMAGE, config=config, layers=[layer])

    assert pushed.status_code == 400
    assert pushed.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


@pytest.mark.parametrize(("golden", "login"), [("reader", READER), ("public", None)])
def test_a_user_interface_may_ask_for_100000_repositories_at_once(
    binary: Binary, secrets_folder: Path, golden: str, login: tuple[str, str] | None
) -> None:
    with registry(binary, secrets_folder, GOLDEN / "anonymous" / f"{golden}.yml") as client:
        answer = client.get("/v2/_catalog?n=100000", auth=login)

    assert answer.status_code == 200, answer.text
    assert answer.json() == {"repositories": []}


def test_a_changed_htpasswd_is_in_force_at_the_next_request(binary: Binary, secrets_folder: Path) -> None:
    with registry(binary, secrets_folder, GOLDEN / "local" / "reader.yml") as client:
        assert client.get("/v2/", auth=READER).status_code == 200
        (secrets_folder / "secrets" / "reader.htpasswd").write_text("# reader: nobody\n")
        assert client.get("/v2/", auth=READER).status_code == 401


def test_a_mirror_starts_while_its_upstream_is_down_and_refuses_pushes(binary: Binary, tmp_path: Path) -> None:
    golden = tmp_path / "mirror.yml"
    text = (GOLDEN / "local" / "mirror-docker-io.yml").read_text()
    golden.write_text(text.replace("https://registry-1.docker.io", f"http://127.0.0.1:{free_port()}"))
    helper = tmp_path / "config" / "upstream-credentials"
    helper.parent.mkdir()
    helper.write_text(credential_helper(MirrorSettings.model_validate({"url": "https://localhost:5444"})))
    helper.chmod(0o755)

    with registry(binary, tmp_path, golden) as client:
        assert client.get("/v2/").status_code == 200
        assert client.post("/v2/library/alpine/blobs/uploads/").status_code == 405
        assert client.get("/v2/library/alpine/manifests/latest").status_code == 404
        assert client.get("/v2/_catalog?n=100000").status_code == 200


# --- Whose store it is ------------------------------------------------------------------------------------------------


def started_on(store: Path, service: str) -> str:
    """What a service prints that finds its store there; what it complains about otherwise."""
    command = [
        str(store) if word == DATA_DIRECTORY else word
        for word in on_own_store("echo runs", "x.yml", service, writes=True)
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode == 0) is (answer.stdout == "runs\n")
    return answer.stdout + answer.stderr


def private(store: Path) -> None:
    (store / "docker/registry/v2/repositories/team").mkdir(parents=True)


def cache(store: Path) -> None:
    private(store)
    (store / "scheduler-state.json").touch()


def with_an_empty_mark(store: Path) -> None:
    """As a power cut may leave it."""
    private(store)
    (store / ".store").touch()


def empty(store: Path) -> None:
    (store / "lost+found").mkdir()


@pytest.mark.parametrize(
    ("made_by", "fits", "others"),
    [
        (private, "registry", ["mirror docker.io", "mirror ghcr.io"]),
        (with_an_empty_mark, "registry", ["mirror docker.io"]),
        (cache, "mirror docker.io", ["registry"]),
        (empty, "mirror docker.io", []),
        (empty, "registry", []),
    ],
)
def test_a_service_starts_on_no_store_of_another_whether_that_has_marked_it_or_not(
    tmp_path: Path, made_by: Callable[[Path], None], fits: str, others: list[str]
) -> None:
    made_by(tmp_path)
    for other in others:
        assert "/.store" in started_on(tmp_path, other)
    assert not (tmp_path / ".store").exists() or not (tmp_path / ".store").read_text()

    assert started_on(tmp_path, fits) == "runs\n"

    assert (tmp_path / ".store").read_text() == f"{fits}\n"
    for other in {"registry", "mirror docker.io", "mirror ghcr.io"} - {fits}:
        assert f"has the data of the {fits}, and this is the {other}" in started_on(tmp_path, other)
    assert started_on(tmp_path, fits) == "runs\n"


def test_the_processes_of_the_registry_may_start_together(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            store = tmp_path / str(number)
            private(store)
            assert set(pool.map(started_on, [store] * 4, ["registry"] * 4)) == {"runs\n"}
