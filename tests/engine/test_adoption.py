"""A team that followed the usual recipe, one registry container with a data folder and an htpasswd file, moves in."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import bcrypt
import docker
import pytest

from components.render.registry_command import USER as USER_OF_DATA
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import DockerHost, remove_everything, small_stack
from tests.harness.stack import Stack

OLD_PORT = 25501
USER, PASSWORD = "woodpecker", "example-only-old-password"


@pytest.fixture(scope="module")
def old_registry(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Data folder and htpasswd line of the old registry, which holds ``my-app/backend:1`` and no longer runs."""
    remove_everything(client)
    folder = tmp_path_factory.mktemp("opt-registry")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode().replace("$2b$", "$2y$")
    (folder / "auth").mkdir()
    (folder / "auth" / "htpasswd").write_text(f"{USER}:{hashed}\n")
    container = client.containers.run(
        clients.IMAGES.registry,
        name="rs-test-private-registry",
        detach=True,
        ports={"5000/tcp": ("127.0.0.1", OLD_PORT)},
        entrypoint=["/bin/sh", "-c"],
        command=[
            (
                "printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\\n"
                'http: {addr: ":5000"}\\nauth: {htpasswd: {realm: Registry Realm, path: /auth/htpasswd}}\\n\''
                " > /tmp/c.yml && exec registry serve /tmp/c.yml"
            )
        ],
        volumes={
            str(folder / "data"): {"bind": "/var/lib/registry", "mode": "rw"},
            str(folder / "auth"): {"bind": "/auth", "mode": "ro"},
        },
    )
    clients.wait_for_port(OLD_PORT)
    write_layout(folder / "layout", [random_layer(100_000) for _ in range(3)])
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "auth.json").write_text(json.dumps({"auths": {f"localhost:{OLD_PORT}": {"auth": login}}}))
    answer = clients.run(
        "skopeo", "copy", f"--authfile={folder / 'auth.json'}", "--dest-tls-verify=false",
        f"oci:{folder / 'layout'}", f"docker://localhost:{OLD_PORT}/my-app/backend:1",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    container.remove(force=True, v=True)
    # As docs/configuration.md says; the registry ran as root.
    data = {str(folder / "data"): {"bind": "/data", "mode": "rw"}}
    client.containers.run(
        clients.IMAGES.registry, remove=True, entrypoint=["chown", "-R", USER_OF_DATA, "/data"], volumes=data
    )
    return folder / "data", hashed


def test_its_images_and_its_password_go_on_working(
    client: docker.DockerClient, docker_host: DockerHost, old_registry: tuple[Path, str], tmp_path: Path
) -> None:
    data, hashed = old_registry
    registry = small_stack()["registry"] | {"users": {USER: {"role": "push"}}, "storage": {"host_path": str(data)}}
    (tmp_path / "stack").mkdir()
    stack = Stack(
        tmp_path / "stack",
        docker_host.address,
        small_stack(registry=registry, proxy=docker_host.proxy),
        path=docker_host.path,
    )
    stack.set_secret(f"passwords.{USER}", hashed)
    stack.users[USER] = PASSWORD
    try:
        stack.up()
        skopeo = clients.Skopeo(stack, tmp_path, USER)

        pulled = skopeo.pull("my-app/backend:1", tmp_path / "pulled")
        assert pulled.returncode == 0, pulled.stderr
        pushed = skopeo.push(tmp_path / "pulled", "my-app/backend:2")
        assert pushed.returncode == 0, pushed.stderr
        after, before = json.loads(stack.operations("history", "my-app/backend", "--json").stdout)["tags"]

        stack.destroy()
    finally:
        remove_everything(client)
    assert (data / "docker/registry/v2/repositories/my-app/backend/_manifests/tags/2").is_dir()
    assert (after["name"], before["name"]) == ("2", "1"), "the record covers the time before the stack"
    assert after["versions"][0]["other_tags"] == ["1"]
    assert after["versions"][0]["pushed"] > before["versions"][0]["pushed"]
