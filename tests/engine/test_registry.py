"""What people do with the private registry, with the clients they use."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import docker
import httpx
import pytest

from tests.engine import transfers
from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX
from tests.harness.stack import Stack

As = Callable[[str | None], clients.Skopeo]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of five layers."""
    folder = tmp_path_factory.mktemp("image") / "layout"
    write_layout(folder, [random_layer(MEGABYTE) for _ in range(5)])
    return folder


def test_every_service_starts_at_the_first_try(stack: Stack, client: docker.DockerClient) -> None:
    """First, before another test restarts one."""
    found = clients.containers(client, PREFIX)

    assert {"reader", "writer", "admin", "proxy"} < found.keys()
    assert {role: one.attrs["RestartCount"] for role, one in found.items() if one.attrs["RestartCount"]} == {}


def test_the_outputs_name_everything_that_a_script_needs(stack: Stack, client: docker.DockerClient) -> None:
    outputs = stack.outputs()

    authority = outputs.pop("ca_certificate", "")
    assert set(outputs) == {"registry_url", "mirror_urls", "docker_host", "services", "users", "configuration"}
    assert authority.startswith("-----BEGIN CERTIFICATE-----") is ("internal" in stack.values["proxy"]["certificates"])
    assert set(outputs["services"]) == {"reader", "writer", "admin", "proxy", "mirror-upstream-test"}
    for name in outputs["services"].values():
        assert client.containers.get(name).status == "running"


def test_no_secret_appears_in_outputs_state_or_containers(stack: Stack, client: docker.DockerClient) -> None:
    exported = stack.pulumi("stack", "export", "--stack", "test").stdout
    inspected = json.dumps([one.attrs for one in clients.containers(client, "rs-test").values()])

    for secret in stack.users.values():
        assert secret not in exported + inspected + json.dumps(stack.outputs())
    assert "$2b$" not in exported + inspected


def test_a_login_is_granted_with_the_right_password_alone(stack: Stack, docker_cli: clients.DockerCli) -> None:
    assert docker_cli.login(stack, "ci", "wrong-password").returncode != 0
    assert docker_cli.login(stack, "nobody", "x").returncode != 0
    for user in stack.users:
        assert docker_cli.login(stack, user).returncode == 0


def test_what_the_article_does_works_word_for_word(
    stack: Stack, docker_cli: clients.DockerCli, client: docker.DockerClient, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {clients.IMAGES.registry}\nCOPY Dockerfile /release\n")
    image = f"{stack.registry}/my-app/backend:latest"
    built = docker_cli("build", "-t", image, str(tmp_path))
    assert built.returncode == 0, built.stderr

    assert docker_cli.login(stack, "ci").returncode == 0
    pushed = docker_cli("push", image)
    assert pushed.returncode == 0, pushed.stderr

    client.images.remove(image, force=True)
    assert docker_cli.login(stack, "production").returncode == 0
    pulled = docker_cli("pull", image)
    assert pulled.returncode == 0, pulled.stderr
    client.images.remove(image, force=True)


def test_compose_pulls_and_starts_what_ci_pushed(
    stack: Stack, docker_cli: clients.DockerCli, client: docker.DockerClient, tmp_path: Path
) -> None:
    image = f"{stack.registry}/my-app/web:1"
    client.images.get(clients.IMAGES.registry).tag(image)
    assert docker_cli.login(stack, "ci").returncode == 0
    assert docker_cli("push", image).returncode == 0
    client.images.remove(image, force=True)
    compose = tmp_path / "compose.yaml"
    compose.write_text(f"services: {{web: {{image: '{image}', entrypoint: [sleep, '60']}}}}\n")

    assert docker_cli.login(stack, "production").returncode == 0
    arguments = ("compose", "--project-name", "rs-test-compose", "--file", str(compose))
    try:
        pulled = docker_cli(*arguments, "pull")
        assert pulled.returncode == 0, pulled.stderr
        started = docker_cli(*arguments, "up", "--detach")
        assert started.returncode == 0, started.stderr
    finally:
        docker_cli(*arguments, "down", "--timeout", "0")
        client.images.remove(image, force=True)


def test_a_multi_layer_image_travels_unchanged(stack: Stack, skopeo: As, layout: Path, tmp_path: Path) -> None:
    pushed = skopeo("ci").push(layout, "team/app:1")
    assert pushed.returncode == 0, pushed.stderr

    pulled = skopeo("production").pull("team/app:1", tmp_path / "pulled")

    assert pulled.returncode == 0, pulled.stderr
    assert sorted(path.name for path in (tmp_path / "pulled/blobs/sha256").iterdir()) == sorted(
        path.name for path in (layout / "blobs/sha256").iterdir()
    )


def test_a_layer_of_300_megabytes_travels(stack: Stack, skopeo: As, tmp_path: Path) -> None:
    write_layout(tmp_path / "large", [random_layer(300 * MEGABYTE)])
    pushed = skopeo("ci").push(tmp_path / "large", "team/large:1")
    assert pushed.returncode == 0, pushed.stderr

    pulled = skopeo("production").pull("team/large:1", tmp_path / "pulled")

    assert pulled.returncode == 0, pulled.stderr
    for path in (tmp_path / "large/blobs/sha256").iterdir():
        assert (tmp_path / "pulled/blobs/sha256" / path.name).stat().st_size == path.stat().st_size


def test_a_multi_architecture_index_travels_whole(stack: Stack, skopeo: As, tmp_path: Path) -> None:
    write_layout(tmp_path / "index", [random_layer(1000)], platforms=["amd64", "arm64"])
    pushed = skopeo("ci").push(tmp_path / "index", "team/multi:1", "--all")
    assert pushed.returncode == 0, pushed.stderr

    manifest = json.loads(skopeo("production").inspect("team/multi:1").stdout)

    assert [one["platform"]["architecture"] for one in manifest["manifests"]] == ["amd64", "arm64"]
    assert skopeo("production").pull("team/multi:1", tmp_path / "pulled", "--all").returncode == 0


def test_an_index_travels_without_the_platforms_that_nobody_needs(stack: Stack, skopeo: As, tmp_path: Path) -> None:
    write_layout(tmp_path / "index", [random_layer(1000)], platforms=["amd64", "s390x"])
    ci, production = skopeo("ci"), skopeo("production")

    for pushed in (
        ci.push(tmp_path / "index", "team/partial:1", "--multi-arch=index-only"),
        ci.push(tmp_path / "index", "team/partial:amd64", "--override-arch=amd64"),
    ):
        assert pushed.returncode == 0, pushed.stderr

    pulled = production.pull("team/partial:1", tmp_path / "pulled", "--override-arch=amd64")
    assert pulled.returncode == 0, pulled.stderr
    missing = production.pull("team/partial:1", tmp_path / "missing", "--override-arch=s390x")
    assert "manifest unknown" in missing.stderr


@pytest.mark.parametrize("media_types", ["oci", "docker"])
def test_a_build_cache_travels_as_older_buildkit_writes_it(stack: Stack, tmp_path: Path, media_types: str) -> None:
    """An index whose entries are layers and a configuration, and that no client of images can push."""
    index, kind = {
        "oci": ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        "docker": (
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    }[media_types]
    layer = transfers.Layer(MEGABYTE)
    config = json.dumps({"layers": [{"blob": layer.digest, "parent": -1}], "records": []}).encode()
    digest = transfers.digest_of([config])
    entries = [
        {"mediaType": kind, "digest": layer.digest, "size": layer.size},
        {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": digest, "size": len(config)},
    ]
    content = json.dumps({"schemaVersion": 2, "mediaType": index, "manifests": entries}).encode()
    with transfers.Connection(stack, stack.trust, "ci") as ci:
        ci.push("team/cache", layer)
        ci.ask("PUT", f"{ci.started('team/cache')}&digest={digest}", 201, body=config)
        ci.ask("PUT", "/v2/team/cache/manifests/build", 201, body=content, Content_Type=index)

    with transfers.Connection(stack, stack.trust, "production") as production:
        _, text = production.ask("GET", "/v2/team/cache/manifests/build", 200, Accept=index)
        assert json.loads(text)["manifests"] == entries
        for entry in entries:
            assert transfers.digest_of(production.pull("team/cache", str(entry["digest"]))) == entry["digest"]


def test_an_image_of_windows_travels_without_the_layers_that_lie_at_microsoft(
    stack: Stack, skopeo: As, tmp_path: Path
) -> None:
    source, pulled = tmp_path / "windows", tmp_path / "pulled"
    source.mkdir()
    own, elsewhere = gzip.compress(random_layer(1000)), gzip.compress(random_layer(10))
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "windows",
            "rootfs": {
                "type": "layers",
                "diff_ids": [transfers.digest_of([gzip.decompress(one)]) for one in (elsewhere, own)],
            },
            "history": [{"created_by": "Apply image"}, {"created_by": "COPY"}],
        }
    ).encode()

    def described(kind: str, content: bytes, **more: object) -> dict[str, object]:
        return {"mediaType": f"application/vnd.docker.{kind}", "size": len(content)} | {
            "digest": transfers.digest_of([content]), **more
        }  # fmt: skip

    url = f"https://mcr.microsoft.com/v2/windows/nanoserver/blobs/{transfers.digest_of([elsewhere])}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described("container.image.v1+json", config),
        "layers": [
            described("image.rootfs.foreign.diff.tar.gzip", elsewhere, urls=[url]),
            described("image.rootfs.diff.tar.gzip", own),
        ],
    }
    (source / "manifest.json").write_text(json.dumps(manifest))
    for content in (config, own):
        (source / transfers.digest_of([content]).removeprefix("sha256:")).write_bytes(content)

    pushed = skopeo("ci").copy(f"dir:{source}", f"docker://{stack.registry}/team/windows:1")
    assert pushed.returncode == 0, pushed.stderr

    assert json.loads(skopeo("production").inspect("team/windows:1").stdout) == manifest
    answer = skopeo("production").pull("team/windows:1", pulled, "--override-os=windows")
    assert answer.returncode == 0, answer.stderr
    blobs = [file.read_bytes() for file in (pulled / "blobs/sha256").iterdir()]
    assert own in blobs
    assert elsewhere not in blobs


def test_a_user_interface_may_ask_for_100000_repositories_at_once(stack: Stack) -> None:
    url, login = f"https://{stack.registry}/v2/_catalog?n=100000", ("production", stack.users["production"])

    assert httpx.get(url, auth=login, verify=stack.trust).status_code == 200


def test_a_pull_user_is_denied_a_push_at_once(
    stack: Stack, skopeo: As, docker_cli: clients.DockerCli, client: docker.DockerClient, layout: Path
) -> None:
    answer = skopeo("production").push(layout, "team/denied:1")
    assert answer.returncode != 0
    assert "denied: this credential may not push" in answer.stderr

    image = f"{stack.registry}/team/denied:1"
    client.images.get(clients.IMAGES.registry).tag(image)
    docker_cli.login(stack, "production")
    answer = docker_cli("push", image)
    client.images.remove(image)
    assert answer.returncode != 0
    # Engine 29 says "error from registry: …" where the older ones say "denied: …".
    assert "this credential may not push" in answer.stderr + answer.stdout


def test_a_push_user_is_denied_a_delete_and_an_admin_is_not(stack: Stack, skopeo: As, layout: Path) -> None:
    assert skopeo("ci").push(layout, "team/deleted:1").returncode == 0

    refused = skopeo("ci").delete("team/deleted:1")
    assert refused.returncode != 0
    assert "may not delete" in refused.stderr

    deleted = skopeo("boss").delete("team/deleted:1")
    assert deleted.returncode == 0, deleted.stderr
    assert "manifest unknown" in skopeo("production").inspect("team/deleted:1").stderr


def test_one_tag_can_be_deleted_without_its_siblings(stack: Stack, skopeo: As, layout: Path) -> None:
    for tag in ("old", "new"):
        assert skopeo("ci").push(layout, f"team/siblings:{tag}").returncode == 0
    url = f"https://{stack.registry}/v2/team/siblings"
    login = ("boss", stack.users["boss"])
    trust = stack.trust

    assert httpx.delete(f"{url}/manifests/old", auth=login, verify=trust).status_code == 202
    assert httpx.get(f"{url}/tags/list", auth=login, verify=trust).json()["tags"] == ["new"]


def test_nobody_gets_in_without_a_login(stack: Stack, skopeo: As, layout: Path) -> None:
    assert httpx.get(f"https://{stack.registry}/v2/_catalog", verify=stack.trust).status_code == 401
    assert skopeo(None).push(layout, "team/anonymous:1").returncode != 0
    assert skopeo(None).inspect("team/app:1").returncode != 0


def test_only_the_proxy_is_reachable(stack: Stack, client: docker.DockerClient) -> None:
    published = {
        role: container.attrs["NetworkSettings"]["Ports"]
        for role, container in clients.containers(client, "rs-test").items()
        if any((container.attrs["NetworkSettings"]["Ports"] or {}).values())
    }

    assert list(published) == ["proxy"]
    assert {binding["HostIp"] for bindings in published["proxy"].values() for binding in bindings or []} == {
        "127.0.0.1"
    }
