"""What an ``up`` does to a running stack: exactly what was asked, with the data intact and without a failed client."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import docker
import httpx

from tests.harness import clients
from tests.harness.images import random_layer, write_layout
from tests.harness.small_stack import PREFIX
from tests.harness.stack import Stack

As = Callable[[str | None], clients.Skopeo]
MEGABYTE = 1 << 20


def identities(client: docker.DockerClient) -> dict[str, str]:
    """Id of each running container by role."""
    return {role: one.id for role, one in clients.containers(client, PREFIX).items() if one.status == "running"}


def starts(client: docker.DockerClient) -> dict[str, str]:
    """When each process was started, by role."""
    return {
        role: one.attrs["State"]["StartedAt"]
        for role, one in clients.containers(client, PREFIX).items()
        if one.status == "running"
    }


def status(stack: Stack, user: str, password: str, path: str = "/v2/") -> int:
    """What the registry answers to a login."""
    url = f"https://{stack.registry}{path}"
    return httpx.get(url, auth=(user, password), verify=stack.trust, timeout=60).status_code


def test_a_second_up_and_a_refreshed_preview_find_nothing_to_do(stack: Stack, client: docker.DockerClient) -> None:
    before = starts(client)

    stack.up("--expect-no-changes")
    stack.preview("--refresh", "--expect-no-changes")

    assert starts(client) == before


def test_a_changed_password_is_in_force_without_a_restart(stack: Stack, client: docker.DockerClient) -> None:
    before, old, new = starts(client), stack.users["ci"], "example-only-changed-zq7kx2vw9rj4hbm3"
    stack.set_secret("passwords.ci", new)

    assert stack.planned() == {"registry-secrets-carrier": "replace", "registry-secrets-swap": "update"}
    stack.up()
    stack.users["ci"] = new

    assert starts(client) == before
    assert status(stack, "ci", new) == 200
    assert status(stack, "ci", old) == 401


def test_a_changed_role_moves_the_user_between_files_without_a_restart(
    stack: Stack, client: docker.DockerClient, skopeo: As, tmp_path: Path
) -> None:
    before, registry = starts(client), stack.values["registry"]
    write_layout(tmp_path / "layout", [random_layer(10)])
    promoted = registry["users"] | {"production": {"role": "push"}}

    stack.write(registry=registry | {"users": promoted})
    stack.up()
    pushed = skopeo("production").push(tmp_path / "layout", "team/promoted:1")
    stack.write(registry=registry)
    stack.up()
    refused = skopeo("production").push(tmp_path / "layout", "team/promoted:2")

    assert pushed.returncode == 0, pushed.stderr
    assert "may not push" in refused.stderr
    assert starts(client) == before


def test_a_changed_configuration_replaces_exactly_the_processes_it_concerns(
    stack: Stack, client: docker.DockerClient, skopeo: As, tmp_path: Path
) -> None:
    before, registry = identities(client), stack.values["registry"]
    write_layout(tmp_path / "layout", [random_layer(MEGABYTE)])
    assert skopeo("ci").push(tmp_path / "layout", "team/kept:1").returncode == 0

    stack.write(registry=registry | {"log_level": "debug"})
    assert stack.planned() == {
        "registry-config-carrier": "replace",
        "registry-reader": "replace",
        "registry-writer": "replace",
        "registry-admin": "replace",
        "process-limit": "update",
    }
    difference = stack.preview("--diff").stdout
    assert re.search(r'level +: "info" => "debug"', difference), difference
    stack.up()

    after = identities(client)
    assert {role for role in before if before[role] != after[role]} == {"reader", "writer", "admin"}
    assert stack.outputs()["services"]["reader"] == client.containers.get(after["reader"]).name
    assert skopeo("production").pull("team/kept:1", tmp_path / "pulled").returncode == 0


def test_a_changed_route_reloads_the_proxy_without_a_restart(stack: Stack, client: docker.DockerClient) -> None:
    before, mirrors = starts(client), stack.values["mirrors"]
    (name, mirror), *_ = mirrors.items()

    stack.write(mirrors={name: mirror | {"allow": ["0.0.0.0/0"]}})
    assert stack.planned() == {
        "proxy-validation": "update",
        "proxy-config-carrier": "replace",
        "proxy-reload": "update",
    }
    stack.up()
    stack.write(mirrors=mirrors)
    stack.up()

    assert starts(client) == before


def test_stopped_containers_and_a_removed_one_are_put_right(stack: Stack, client: docker.DockerClient) -> None:
    (mirror,) = stack.values["mirrors"].values()
    for stopped in (["writer", "mirror-upstream-test"], ["proxy"]):
        found = clients.containers(client, PREFIX)
        for role in stopped:
            found[role].stop(timeout=1)
        found["reader"].remove(force=True)

        stack.up("--refresh")

        # At once, though the proxy may have looked for the names while nobody had them.
        assert status(stack, "ci", stack.users["ci"]) == 200, f"after {stopped}"
        assert status(stack, "ci", stack.users["ci"], clients.NO_UPLOAD) == 404, f"after {stopped}"
        asked = httpx.get(f"{mirror['url']}/v2/", verify=stack.trust, timeout=60)
        assert asked.status_code == 200, f"after {stopped}"
    stack.preview("--refresh", "--expect-no-changes")
    assert len(identities(client)) == 5


def test_no_push_and_no_pull_fails_while_reader_and_writer_are_replaced(
    stack: Stack, client: docker.DockerClient, skopeo: As, tmp_path: Path
) -> None:
    registry, before = stack.values["registry"], identities(client)
    write_layout(tmp_path / "layout", [random_layer(MEGABYTE) for _ in range(3)])
    assert skopeo("ci").push(tmp_path / "layout", "busy/pull:1").returncode == 0

    with clients.clients_at_work(skopeo("ci"), skopeo("production"), tmp_path) as results:
        for level in ("warn", "info"):
            stack.write(registry=registry | {"log_level": level})
            stack.up()

    assert before.keys() == identities(client).keys()
    assert before["writer"] != identities(client)["writer"]
    print(f"{len(results['done'])} operations through two replacements")
    assert len(results["done"]) >= 4, "a push and a pull for each update"
    assert len(results["failed"]) <= 2 * clients.LOST_BY_REPLACEMENT[stack.proxy], results["failed"]


def test_a_bad_proxy_configuration_fails_the_up_and_the_old_one_serves_on(
    stack: Stack, client: docker.DockerClient
) -> None:
    template, right, wrong, complaint = {
        "caddy": ("Caddyfile.j2", "respond /healthz", "respnd /healthz", "unrecognized directive: respnd"),
        "nginx": ("nginx.conf.j2", "access_log off;", "acces_log off;", 'unknown directive "acces_log"'),
    }[stack.proxy]
    template = stack.folder / "components/render/templates" / template
    good = template.read_text()
    template.write_text(good.replace(right, wrong))
    try:
        failed = stack.up(check=False)
    finally:
        template.write_text(good)

    assert failed.returncode != 0
    assert complaint in failed.stdout + failed.stderr
    clients.containers(client, PREFIX)["proxy"].restart(timeout=1)
    clients.wait_until_healthy(client, stack.outputs()["services"]["proxy"])
    assert status(stack, "ci", stack.users["ci"]) == 200, "a restarted proxy reads the old file"
    stack.up()
    stack.preview("--refresh", "--expect-no-changes")


def test_destroy_leaves_the_volumes_with_data_and_nothing_else(
    stack: Stack, client: docker.DockerClient, skopeo: As, tmp_path: Path
) -> None:
    write_layout(tmp_path / "layout", [random_layer(1000)])
    assert skopeo("ci").push(tmp_path / "layout", "team/survivor:1").returncode == 0

    stack.destroy()

    label = {"label": f"registry-stack.prefix={PREFIX}"}
    assert clients.containers(client, PREFIX) == {}
    assert client.networks.list(filters=label) == []
    assert {volume.name for volume in client.volumes.list(filters=label)} == {
        f"{PREFIX}-registry-data",
        f"{PREFIX}-mirror-upstream-test-cache",
        f"{PREFIX}-proxy-data",
        f"{PREFIX}-proxy-issued-data",
    }
    stack.up()
    assert skopeo("production").pull("team/survivor:1", tmp_path / "pulled").returncode == 0
