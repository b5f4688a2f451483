"""Tarballs of the engine's own `docker save` in a running registry, and what they use there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import clients
from tests.harness.stack import Stack

DAYS = ("2026-01-30", "2026-01-31")


@pytest.mark.any_proxy
def test_saved_images_keep_their_image_ids(stack: Stack, docker_cli: clients.DockerCli, tmp_path: Path) -> None:
    def docker(*arguments: str) -> str:
        answer = docker_cli(*arguments)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    ids, saved, built = {}, tmp_path / "saved", "registry.old.example.com/team/app:latest"
    saved.mkdir()
    for day in DAYS:
        (tmp_path / "Dockerfile").write_text(f"FROM {clients.IMAGES.registry}\nCOPY Dockerfile /{day}\n")
        docker("build", "--tag", built, str(tmp_path))
        ids[day] = docker("image", "inspect", "--format", "{{.Id}}", built)
        docker("save", "--output", str(saved / f"app-{day}.tar"), built)
        docker("rmi", built)

    first, again = (
        json.loads(stack.operations("import", str(saved), "--tag", "{date}", "--json").stdout) for _ in "12"
    )

    assert [one["tags"] for one in first["tarballs"]] == [[f"team/app:{day}"] for day in DAYS]
    assert first["bytes"]["shared"] < first["bytes"]["separate"] * 0.6, "the base is stored once"
    assert {one["state"] for one in again["tarballs"]} == {"present"}
    assert again["bytes"] == first["bytes"] | {"uploaded": 0}
    docker_cli.login(stack, "production")
    for day in DAYS:
        image = f"{stack.registry}/team/app:{day}"
        docker("pull", image)
        assert docker("image", "inspect", "--format", "{{.Id}}", image) == ids[day]
        docker("rmi", image)

    used = json.loads(stack.operations("usage", "--json", XDG_STATE_HOME=str(tmp_path)).stdout)
    (repository,) = (one for one in used["repositories"] if one["name"] == "team/app")
    assert [tag["name"] for tag in repository["tags"]] == list(reversed(DAYS))
    assert repository["size"] == first["bytes"]["shared"]
    assert all(0 < tag["own"] < tag["size"] for tag in repository["tags"])
