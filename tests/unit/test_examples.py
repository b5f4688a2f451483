"""The pipelines in examples/: short, correct in form, with pinned versions and exactly the documented secrets."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.sources import module_version
from local.toolchain import CLI
from tests.harness import woodpecker
from tests.harness.configuration import ROOT

EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs/pipelines.md").read_text()
CLEANING_PAGE = (ROOT / "docs/garbage-collection.md").read_text()
KINDS = ("infrastructure", "application", "cleaning")
UNITS = [EXAMPLES / "cleaning" / f"registry-cleaning.{kind}" for kind in ("service", "timer")]
SYSTEMS = ("github", "gitea", "gitlab-ci", "woodpecker")
PIPELINES = [EXAMPLES / kind / f"{system}.yml" for kind in KINDS for system in SYSTEMS]
each_pipeline = pytest.mark.parametrize("file", PIPELINES, ids=lambda file: f"{file.parent.name}-{file.stem}")
each_workflow = pytest.mark.parametrize(
    "file",
    [file for file in PIPELINES if file.stem in ("github", "gitea")],
    ids=lambda file: f"{file.parent.name}-{file.stem}",
)


def scripts(file: Path) -> Iterator[str]:
    """The shell scripts of a pipeline, as its CI system passes them to a shell."""
    match file.stem:
        case "woodpecker":
            yield from (step.script for step in woodpecker.all_steps(file))
        case "gitlab-ci":
            content = yaml.safe_load(file.read_text())
            before = content["default"].get("before_script", [])
            yield from ("\n".join([*before, *job["script"]]) + "\n" for job in content.values() if "script" in job)
        case _:
            steps = (step for job in yaml.safe_load(file.read_text())["jobs"].values() for step in job["steps"])
            yield from (step["run"] for step in steps if "run" in step)


def images(value: Any) -> Iterator[str]:
    """Each image of a pipeline."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("image", "container") and isinstance(inner, str):
                yield inner
            else:
                yield from images({"image": inner["name"]} if key == "image" else inner)
    elif isinstance(value, list):
        for inner in value:
            yield from images(inner)


def secrets(file: Path) -> set[str]:
    """The names of the secrets that a pipeline needs, in upper case."""
    text = file.read_text()
    match file.stem:
        case "woodpecker":
            return {name.upper() for name in re.findall(r"from_secret: (\w+)", text)}
        case "gitlab-ci":
            comment = re.search(r"((?:^ +#.*\n)+)", text, re.MULTILINE)
            assert comment
            return set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comment[1]))
    return set(re.findall(r"secrets\.(\w+)", text))


def documented(kind: str) -> set[str]:
    """The secrets that the table of the documentation lists for a kind of pipeline."""
    rows = re.findall(r"^\| (`[A-Z].+?) \| (\w+)", PAGE, re.MULTILINE)
    return {name for names, needed in rows if needed == kind for name in re.findall(r"`(\w+)`", names)}


@each_pipeline
def test_a_pipeline_has_at_most_80_lines_and_names_its_place(file: Path) -> None:
    lines = file.read_text().splitlines()

    assert len(lines) <= 80
    assert all(len(line) <= 120 for line in lines)
    place = {"gitlab-ci": ".gitlab-ci.yml", "woodpecker": ".woodpecker/"}.get(file.stem, f".{file.stem}/workflows/")
    assert place in lines[0]


@each_pipeline
def test_every_script_of_a_pipeline_is_valid_shell(file: Path) -> None:
    found = list(scripts(file))

    assert len(found) >= (1 if file.parent.name == "cleaning" else 2)
    for script in found:
        done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_gitlab_adds_a_key_that_lost_the_line_break_at_its_end(kind: str, tmp_path: Path) -> None:
    (tmp_path / "ssh-add").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "ssh-add").chmod(0o755)
    (tmp_path / "key").write_text("BEGIN\nEND")
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | dict.fromkeys(
        ("SSH_KEY", "DEPLOY_KEY"), f"{tmp_path}/key"
    )
    (line,) = [
        line
        for script in scripts(EXAMPLES / kind / "gitlab-ci.yml")
        for line in script.splitlines()
        if "ssh-add" in line
    ]

    assert subprocess.run(["sh", "-c", line], env=variables, capture_output=True, check=True).stdout == b"BEGIN\nEND\n"


@each_pipeline
def test_a_pipeline_needs_exactly_the_documented_secrets(file: Path) -> None:
    # GitHub makes the token of the comment itself.
    own = {"COMMENT_TOKEN"} if file.parent.name == "infrastructure" and file.stem == "github" else set()
    expected = documented(file.parent.name)
    if file.parent.name == "cleaning":
        expected = documented("infrastructure") - {"COMMENT_TOKEN"}

    assert secrets(file) | own == expected


@each_pipeline
def test_every_image_of_a_pipeline_has_an_exact_version(file: Path) -> None:
    found = set(images(yaml.safe_load(file.read_text())))

    # The application's jobs of GitHub and Gitea run on the runner itself.
    assert found or (file.parent.name == "application" and file.stem in ("github", "gitea"))
    assert all(re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+(-cli)?", image) for image in found), found
    assert {image for image in found if "pulumi" in image} <= {f"pulumi/pulumi:{module_version('pulumi', CLI)}"}


@each_workflow
def test_actionlint_finds_nothing_in_a_workflow(file: Path, binary: Callable[[str], str]) -> None:
    done = subprocess.run([binary("actionlint"), "-shellcheck=", file], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_actionlint_finds_a_mistake(tmp_path: Path, binary: Callable[[str], str]) -> None:
    file = tmp_path / "workflow.yml"
    file.write_text((EXAMPLES / "application/github.yml").read_text().replace("needs: build", "needs: built"))

    assert subprocess.run([binary("actionlint"), file], capture_output=True, check=False).returncode == 1


@each_workflow
def test_every_action_of_a_workflow_is_pinned_to_a_commit(file: Path) -> None:
    used = re.findall(r"uses: (.+)", file.read_text())

    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used)


@pytest.mark.parametrize("kind", KINDS)
def test_woodpecker_replaces_nothing_in_the_scripts(kind: str) -> None:
    # Woodpecker replaces ${NAME} before the shell sees it, also names that it does not know.
    for script in scripts(EXAMPLES / kind / "woodpecker.yml"):
        assert "${" not in script


@pytest.mark.parametrize(
    ("kind", "event", "branch", "expected"),
    [
        ("infrastructure", "pull_request", "main", ["install", "preview", "comment"]),
        ("infrastructure", "push", "main", ["install", "production"]),
        ("infrastructure", "push", "other", []),
        ("infrastructure", "cron", "main", ["install", "production"]),
        ("cleaning", "push", "main", []),
        ("cleaning", "pull_request", "main", []),
        ("application", "push", "main", ["build", "deploy"]),
        ("application", "push", "other", []),
        ("application", "pull_request", "main", []),
        ("application", "tag", "main", ["build", "deploy"]),
        ("application", "deployment", "main", ["deploy"]),
    ],
)
def test_woodpecker_runs_the_steps_of_an_event(kind: str, event: str, branch: str, expected: list[str]) -> None:
    found = woodpecker.steps(EXAMPLES / kind / "woodpecker.yml", event, branch)

    assert [step.name for step in found] == expected


def test_woodpecker_cleans_only_for_the_cron_job_of_that_name() -> None:
    file = EXAMPLES / "cleaning/woodpecker.yml"

    assert [step.name for step in woodpecker.steps(file, "cron", "main", "cleaning")] == ["clean"]
    assert list(woodpecker.steps(file, "cron", "main", "nightly")) == []


@pytest.mark.parametrize("kind", ["infrastructure", "cleaning"])
def test_one_pipeline_at_a_time_changes_the_stack(kind: str) -> None:
    """A second push must not end a running `pulumi up`, and no cleaning runs beside an update."""
    name = "clean" if kind == "cleaning" else "production"
    github, gitea, gitlab = (
        yaml.safe_load((EXAMPLES / kind / f"{system}.yml").read_text()) for system in ("github", "gitea", "gitlab-ci")
    )

    assert github["jobs"][name]["concurrency"] == gitea["jobs"][name]["concurrency"] == "registry"
    assert gitlab[name]["resource_group"] == "registry"
    for text in (PAGE, (EXAMPLES / "infrastructure/woodpecker.yml").read_text()):
        assert '"Cancel previous pipelines"' in text


def test_preview_of_a_newer_commit_ends_the_older_one() -> None:
    """The slower of two previews would write the comment last. Woodpecker ends the older one by default."""
    github, gitea, gitlab = (
        yaml.safe_load((EXAMPLES / f"infrastructure/{system}.yml").read_text())
        for system in ("github", "gitea", "gitlab-ci")
    )

    own = {"group": "preview-${{ github.ref }}", "cancel-in-progress": True}
    assert github["jobs"]["preview"]["concurrency"] == gitea["jobs"]["preview"]["concurrency"] == own
    assert gitlab["preview"]["interruptible"] is True
    assert "interruptible" not in gitlab["production"]


def test_only_the_tags_of_the_documentation_deploy() -> None:
    """Every other tag may have a name that no tag of an image can have."""
    files = {system: EXAMPLES / "application" / f"{system}.yml" for system in SYSTEMS}
    gitlab = yaml.safe_load(files["gitlab-ci"].read_text())["workflow"]["rules"]

    assert "A tag `v*`" in PAGE
    assert list(woodpecker.steps(files["woodpecker"], "tag", "main", tag="before-move")) == []
    assert [step.name for step in woodpecker.steps(files["woodpecker"], "tag", "main", tag="v2")] == ["build", "deploy"]
    assert {"if": "$CI_COMMIT_TAG =~ /^v/"} in gitlab
    assert {"if": "$CI_COMMIT_TAG"} not in gitlab
    for system in ("github", "gitea"):
        assert 'tags: ["v*"]' in files[system].read_text()


def test_woodpecker_compares_the_docker_host_only_for_its_own_cron_job() -> None:
    """While `cleaning` runs, the writer is stopped for some seconds, which is no drift."""
    file = EXAMPLES / "infrastructure/woodpecker.yml"

    assert [step.name for step in woodpecker.steps(file, "cron", "main", "nightly")] == ["install", "production"]
    assert list(woodpecker.steps(file, "cron", "main", "cleaning")) == []


def test_the_pages_link_to_every_example() -> None:
    linked = set(re.findall(r"\]\(\.\./(examples/[^)]+)\)", PAGE + CLEANING_PAGE))

    assert {str(file.relative_to(ROOT)) for file in (*PIPELINES, *UNITS)} <= linked


CLEANING = [
    "python -m operations retention plan --output PLAN",
    "python -m operations retention apply PLAN",
    "python -m operations gc",
]


@pytest.mark.parametrize(
    "file", [UNITS[0], *(file for file in PIPELINES if file.parent.name == "cleaning")], ids=lambda file: file.name
)
def test_a_cleaning_applies_a_plan_and_then_collects_garbage(file: Path) -> None:
    commands = re.findall(r"python -m operations .+", file.read_text())

    assert [re.sub(r"\S*plan\.json", "PLAN", command) for command in commands] == CLEANING


def test_the_service_finds_pulumi_where_its_install_script_puts_it() -> None:
    text = UNITS[0].read_text()

    found = re.search(r"^Environment=PATH=(.+)$", text, re.MULTILINE)
    user = re.search(r"^User=(.+)$", text, re.MULTILINE)
    assert found
    assert user
    assert {f"/home/{user[1]}/.pulumi/bin", "/usr/local/bin", "/usr/bin", "/bin"} <= {*found[1].split(":")}


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_a_unit_names_its_place_and_has_the_section_of_its_kind(file: Path) -> None:
    unit = configparser.ConfigParser(strict=False, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(file.read_text())

    assert file.read_text().startswith(f"# /etc/systemd/system/{file.name}")
    assert unit.sections()[1] == file.suffix.removeprefix(".").title()
