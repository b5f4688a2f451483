"""Another address of the Docker host is accepted only if the same engine answers there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.checks import docker_host
from components.checks.docker_host import check_same_engine
from components.configuration.naming import StackName
from components.configuration.problems import ConfigError
from tests.harness.configuration import configuration
from tests.unit.recorder import run_program

OLD, NEW = "ssh://deploy@old.example.com:2222", "ssh://deploy@new.example.com"
NAMES = StackName(prefix="registry-stack", stack="test")
ANSWERS = f"""#!/bin/sh
case "$DOCKER_HOST,$*" in
  *,ps*prefix=elsewhere) ;;
  {OLD},ps* | {NEW},ps* | ssh://other,ps*) echo 111; echo 222 ;;
  ssh://clone,ps*) echo 333 ;;
  {OLD},info* | {NEW},info* | ssh://clone,info*) echo AAAA ;;
  ssh://other,info*) echo BBBB ;;
  ssh://hangs,*) exec sleep 30 ;;
  *) echo "a warning
Cannot connect" >&2; exit 1 ;;
esac
"""


@pytest.fixture(autouse=True)
def docker_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker command that knows some engines by their addresses."""
    (tmp_path / "docker").write_text(ANSWERS)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def refusal(old: str, new: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_same_engine(old, new, NAMES)
    (problem,) = caught.value.problems
    assert problem.key == "docker_host"
    return str(problem)


def test_the_same_engine_under_another_address_is_accepted() -> None:
    check_same_engine(OLD, NEW, NAMES)


def test_an_unchanged_address_is_not_asked() -> None:
    check_same_engine("ssh://nobody", "ssh://nobody", NAMES)


def test_an_engine_without_containers_of_the_stack_is_known_by_its_id() -> None:
    check_same_engine(OLD, NEW, StackName(prefix="elsewhere", stack="test"))


def test_an_engine_of_the_same_disk_image_is_another_one_since_it_has_other_containers() -> None:
    assert "another engine" in refusal(OLD, "ssh://clone")


def test_another_engine_is_refused_with_both_ways_out() -> None:
    text = refusal(OLD, "ssh://other")

    assert f"ssh://other is another engine than {OLD}" in text
    assert f"pulumi config set --path 'registry-stack:docker_host' {OLD}" in text
    assert "docs/moving.md" in text


def test_an_old_name_that_is_gone_can_be_kept_alive_by_the_printed_command() -> None:
    text = refusal("ssh://deploy@gone.example.com:2222", NEW)

    assert "ssh://deploy@gone.example.com:2222 does not answer (Cannot connect)" in text
    assert r"printf 'Host gone.example.com\n  HostName new.example.com\n' >> ~/.ssh/config" in text


def test_an_old_socket_that_is_gone_can_be_kept_alive_by_the_printed_command() -> None:
    assert "ln -s /run/new.sock /run/old.sock" in refusal("unix:///run/old.sock", "unix:///run/new.sock")


def test_a_new_address_that_does_not_answer_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_host, "_ANSWERS_WITHIN", 5)  # the old address must answer within this time

    text = refusal(OLD, "ssh://hangs")

    assert "ssh://hangs does not answer" in text
    assert "HostName" not in text


def test_the_check_is_bound_to_updates_of_the_provider() -> None:
    provider = run_program(configuration()).resources["docker-host"]

    assert list(provider.request.hooks.before_update) == ["same-engine"]
