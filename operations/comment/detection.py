"""Find the forge, repository and number of the pull request in the variables of a CI system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.configuration.problems import Failure
from operations.comment.forges import Name, PullRequest, api_of, checked, is_repository

#: Woodpecker's names of the forges, https://woodpecker-ci.org/docs/usage/environment
_WOODPECKER: Mapping[str, Name] = {"forgejo": "gitea", "gitea": "gitea", "github": "github", "gitlab": "gitlab"}


@dataclass(frozen=True)
class Found:
    """What the variables tell. A value that they do not tell is None."""

    forge: Name | None = None
    api: str | None = None
    repository: str | None = None
    number: str | None = None
    fork: bool = False


def detect(variables: Mapping[str, str], event: Mapping[str, Any]) -> Found:
    """Read the variables of GitHub Actions, Gitea Actions, Forgejo Actions, GitLab CI or Woodpecker.

    Args:
        variables: the environment variables of the pipeline's step.
        event: the content of the file in GITHUB_EVENT_PATH, or nothing.
    """
    # The runners of Gitea and Forgejo set the variables of GitHub Actions too.
    if variables.get("GITEA_ACTIONS") or variables.get("FORGEJO_ACTIONS"):
        server = variables.get("GITHUB_SERVER_URL")
        return _actions("gitea", api_of("gitea", server) if server else None, variables, event)
    if variables.get("GITHUB_ACTIONS"):
        return _actions("github", variables.get("GITHUB_API_URL"), variables, event)
    if variables.get("GITLAB_CI"):
        return Found(
            forge="gitlab",
            api=variables.get("CI_API_V4_URL"),
            # The pipeline of a fork's branch can run in the fork. The merge request is in this project.
            repository=variables.get("CI_MERGE_REQUEST_PROJECT_ID") or variables.get("CI_PROJECT_ID"),
            number=variables.get("CI_MERGE_REQUEST_IID"),
        )
    if variables.get("CI") == "woodpecker":
        forge, url = _WOODPECKER.get(variables.get("CI_FORGE_TYPE", "")), variables.get("CI_FORGE_URL")
        return Found(
            forge=forge,
            api=api_of(forge, url) if forge and url else None,
            repository=variables.get("CI_REPO"),
            number=variables.get("CI_COMMIT_PULL_REQUEST"),
        )
    return Found()


def chosen(
    found: Found, *, forge: Name | None, url: str | None, repository: str | None, number: int | None
) -> PullRequest:
    """Combine the values of the CI system with the options. Each option replaces the value of the CI system.

    Raises:
        Failure: if a value is missing or invalid.
    """
    name = forge or found.forge
    if name is None:
        raise Failure(
            "no variables of GitHub Actions, Gitea Actions, Forgejo Actions, GitLab CI or Woodpecker with one of these"
            " forges were found",
            "give the pull request: --forge gitea --url https://git.example.com --repository OWNER/NAME --number 7",
        )
    if url is not None:
        api = api_of(name, url)
    elif name == found.forge and found.api:
        api = checked(found.api)
    else:
        raise Failure("the address of the forge is not known", "give the address: --url https://git.example.com")
    repository = repository or found.repository or ""
    if not is_repository(repository):
        reason = "invalid" if repository else "not known"
        raise Failure(f"the name of the repository is {reason}", "give the name: --repository OWNER/NAME")
    wanted = str(number) if number is not None else found.number or ""
    if not re.fullmatch(r"[1-9][0-9]{0,17}", wanted):
        raise Failure(
            "the number of the pull request is not known: this pipeline does not run for a pull request",
            "run the command only in pipelines of pull requests, or give the number: --number 7",
        )
    return PullRequest(name, api, repository, int(wanted), found.fork)


def _actions(forge: Name, api: str | None, variables: Mapping[str, str], event: Mapping[str, Any]) -> Found:
    """Read the variables of GitHub Actions: https://docs.github.com/en/actions/reference/workflows-and-actions/variables.

    GITHUB_REF has no number for the event `pull_request_target`, so the event's file comes first.
    """
    request = event.get("pull_request") or event.get("issue") or {}
    number = request.get("number") if "pull_request" in event or "pull_request" in request else None
    reference = re.fullmatch(r"refs/pull/(\d+)/(?:merge|head)", variables.get("GITHUB_REF", ""))
    head, base = (_repository(request.get(side)) for side in ("head", "base"))
    return Found(
        forge=forge,
        api=api,
        repository=variables.get("GITHUB_REPOSITORY"),
        number=str(number) if number else reference[1] if reference else None,
        fork=base is not None and head != base,
    )


def _repository(side: Mapping[str, Any] | None) -> object:
    """The repository of a branch; None if the repository was deleted."""
    return ((side or {}).get("repo") or {}).get("full_name")
