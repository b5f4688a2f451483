"""Run a pipeline as a CI system does: act for GitHub and Gitea, gitlab-ci-local for GitLab, and Woodpecker's steps."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.engine.job_images import BASE, MOUNT, RUNNER, VOLUME
from tests.harness import woodpecker
from tests.harness.configuration import ROOT
from tests.harness.stack import engine_address

Event = Literal["pull_request", "push", "tag", "schedule", "rollback"]
PROGRAMS = ROOT / ".local" / "bin"
SOCKET = "/var/run/docker.sock"
#: The place of the pipeline in a repository.
PLACES = {
    "github": ".github/workflows/pipeline.yml",
    "gitea": ".gitea/workflows/pipeline.yml",
    "gitlab-ci": ".gitlab-ci.yml",
    "woodpecker": ".woodpecker/pipeline.yml",
}
#: The kind of forge that a CI system works with.
FORGES = {"github": "github", "gitea": "gitea", "gitlab-ci": "gitlab", "woodpecker": "gitea"}
_AUTHOR = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in {"NAME": "A Person", "EMAIL": "person@example.com"}.items()
}


@dataclass(frozen=True)
class Repository:
    """The checkout of a repository of owner/name, with the secrets that its CI system holds."""

    folder: Path
    forge: str
    secrets: Mapping[str, str] = field(repr=False)

    def git(self, *arguments: str) -> str:
        """The output of git."""
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, env=os.environ | _AUTHOR, check=True, capture_output=True, text=True).stdout

    def init(self) -> None:
        """Commit all files to a new branch `main`."""
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", "https://github.com/owner/name.git")
        (self.folder / ".git/info/exclude").write_text(".venv\n.gitlab-ci-local*\npreview.md\n")
        self.commit()

    def commit(self) -> str:
        """Commit all changes. Return the hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=Change", "--allow-empty")
        return self.head

    @property
    def head(self) -> str:
        """The hash of the checked-out commit."""
        return self.git("rev-parse", "HEAD").strip()

    def run(self, system: str, event: Event, reference: str = "") -> subprocess.CompletedProcess[str]:
        """Run the pipeline. `reference` is the name of a tag, or the commit of a rollback."""
        return RUNNERS[system](self, system, event, reference)


def _act(repository: Repository, system: str, event: Event, reference: str) -> subprocess.CompletedProcess[str]:
    """https://nektosact.com: the checkout is the folder itself, and the event is a file."""
    name = {"tag": "push", "rollback": "workflow_dispatch"}.get(event, event)
    side = {"ref": "change", "repo": {"full_name": "owner/name"}}
    content: dict[str, Any] = {
        "repository": {"full_name": "owner/name", "default_branch": "main"},
        "ref": f"refs/tags/{reference}" if event == "tag" else "refs/heads/main",
    }
    if event == "pull_request":
        content |= {"number": 7, "pull_request": {"number": 7, "head": side, "base": side}}
    if event == "rollback":
        content["inputs"] = {"commit": reference}
    payload = repository.folder.with_name("event.json")
    payload.write_text(json.dumps(content))
    own = {"GITEA_ACTIONS": "true"} if system == "gitea" else {"GITHUB_API_URL": f"{repository.forge}/api/v3"}
    variables = {"GITHUB_SERVER_URL": repository.forge} | own
    # A secret without a value comes from the environment, so that it is no argument.
    secrets = dict(repository.secrets)
    if system == "github":
        # GitHub makes a token for every job.
        secrets["GITHUB_TOKEN"] = secrets.pop("COMMENT_TOKEN", "not needed here")
    return _run(
        PROGRAMS / "act",
        name,
        f"--workflows={PLACES[system]}",
        f"--eventpath={payload}",
        "--bind",
        "--pull=false",
        "--no-cache-server",
        f"--platform=ubuntu-latest={RUNNER}",
        *(f"--secret={name}" for name in secrets),
        *(f"--env={name}={value}" for name, value in variables.items()),
        folder=repository.folder,
        variables=secrets,
    )


def _gitlab(repository: Repository, _: str, event: Event, reference: str) -> subprocess.CompletedProcess[str]:
    """https://github.com/firecow/gitlab-ci-local: secrets come from a file, GitLab's variables from options."""
    files = {"SSH_KEY", "DEPLOY_KEY"}
    values = {
        name: {"type": "file", "values": {"*": text}} if name in files else text
        for name, text in repository.secrets.items()
    }
    (repository.folder / ".gitlab-ci-local-variables.yml").write_text(yaml.safe_dump(values))
    variables = {"GITLAB_CI": "true", "CI_DEFAULT_BRANCH": "main", "CI_API_V4_URL": f"{repository.forge}/api/v4"}
    if event == "pull_request":
        variables |= {
            "CI_PIPELINE_SOURCE": "merge_request_event",
            "CI_MERGE_REQUEST_PROJECT_ID": "owner/name",
            "CI_MERGE_REQUEST_IID": "7",
        }
    if event == "schedule":
        variables["CI_PIPELINE_SOURCE"] = "schedule"
    if event == "tag":
        variables |= {"CI_COMMIT_TAG": reference, "CI_COMMIT_REF_NAME": reference}
    if event == "rollback":  # GitLab runs the job of the earlier pipeline again.
        repository.git("checkout", "--quiet", reference)
        variables["CI_COMMIT_BRANCH"] = "main"
    try:
        return _run(
            PROGRAMS / "gitlab-ci-local",
            *(["deploy"] if event == "rollback" else []),
            "--umask",
            "--network=host",
            "--pull-policy=if-not-present",
            f"--helper-image={BASE}",
            f"--volume={VOLUME}:{MOUNT}",
            f"--volume={SOCKET}:{SOCKET}",
            *(f"--variable={name}={value}" for name, value in variables.items()),
            f"--ignore-predefined-vars={','.join(variables)}",
            *(["--unset-variable=CI_COMMIT_BRANCH"] if event in ("pull_request", "tag") else []),
            folder=repository.folder,
        )
    finally:
        repository.git("checkout", "--quiet", "main")


def _woodpecker(repository: Repository, system: str, event: Event, reference: str) -> subprocess.CompletedProcess[str]:
    """Each step in a container of its image, with its script from a variable as Woodpecker's agent does it."""
    name = {"schedule": "cron", "rollback": "deployment"}.get(event, event)
    if event == "rollback":  # Woodpecker starts the pipeline of the earlier commit again.
        repository.git("checkout", "--quiet", reference)
    variables = {
        "CI": "woodpecker",
        "CI_COMMIT_BRANCH": "" if event == "tag" else "main",
        "CI_COMMIT_PULL_REQUEST": "7" if event == "pull_request" else "",
        "CI_COMMIT_REF": {"tag": f"refs/tags/{reference}", "pull_request": "refs/pull/7/head"}.get(
            event, "refs/heads/main"
        ),
        "CI_COMMIT_SHA": repository.head,
        "CI_COMMIT_TAG": reference if event == "tag" else "",
        "CI_FORGE_TYPE": "gitea",
        "CI_FORGE_URL": repository.forge,
        "CI_PIPELINE_EVENT": name,
        "CI_REPO": "owner/name",
        "CI_REPO_URL": f"{repository.forge}/owner/name",
    }
    secrets = {name.lower(): value for name, value in repository.secrets.items()}
    state, code, output = "success", 0, ""
    for step in woodpecker.steps(repository.folder / PLACES[system], name, "main"):
        if state not in step.after:
            continue
        own = variables | step.variables(secrets) | {"CI_SCRIPT": base64.b64encode(step.script.encode()).decode()}
        done = _run(
            *("docker", "run", "--rm", "--network=host", "--entrypoint=/bin/sh"),
            *(
                f"--volume={volume}"
                for volume in (f"{VOLUME}:{MOUNT}", f"{repository.folder}:{repository.folder}", *step.volumes)
            ),
            f"--workdir={repository.folder}",
            *(f"--env={name}" for name in own),
            *(step.image, "-c", "echo $CI_SCRIPT | base64 -d | /bin/sh -e"),
            folder=repository.folder,
            variables=own | {"DOCKER_HOST": engine_address()},
        )
        output += f"--- {step.name}\n{done.stdout}{done.stderr}"
        if done.returncode:
            state, code = "failure", done.returncode
    repository.git("checkout", "--quiet", "main")
    return subprocess.CompletedProcess((), code, output, "")


RUNNERS: dict[str, Callable[[Repository, str, Event, str], subprocess.CompletedProcess[str]]] = {
    "github": _act,
    "gitea": _act,
    "gitlab-ci": _gitlab,
    "woodpecker": _woodpecker,
}


def _run(
    *command: str | Path, folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
