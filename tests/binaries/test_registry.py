"""Every rendered registry configuration is started by the real distribution, and behaves as its process should."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from components import credentials
from components.render.htpasswd import htpasswd
from components.render.registry import CONFIG_DIRECTORY, DATA_DIRECTORY, SECRETS_DIRECTORY, credential_helper
from components.settings import OPERATIONS_USER, ROLES_OF, MirrorSettings, Process
from tests.binaries.processes import free_port, running
from tests.conftest import configuration, example_password, loaded
from tests.render.cases import GOLDEN

Binary = Callable[[str], str]
BOSS = ("boss", example_password("boss"))
WRITER = ("woodpecker", example_password("woodpecker"))
READER = ("production", example_password("production"))


@contextlib.contextmanager
def registry(
    binary: Binary, folder: Path, golden: Path, environment: dict[str, str] | None = None
) -> Iterator[httpx.Client]:
    """A client of the registry that runs a golden file, with the container's paths mapped into ``folder``."""
    port = free_port()
    text = re.sub(r"addr: :\d+", f"addr: 127.0.0.1:{port}", golden.read_text())
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
    settings, secrets = loaded(configuration())
    passwords = secrets.passwords | {OPERATIONS_USER: credentials.operations_password(secrets.stack_secret)}
    hashes = credentials.hashes(passwords, secrets.stack_secret)
    (tmp_path / "secrets").mkdir()
    for process in ROLES_OF:
        text = htpasswd(process, settings.registry.users, hashes)
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
