"""The images that Compose files, Dockerfiles, Kubernetes manifests and lists name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.configuration.problems import Failure
from operations.stack import DeployedMirrors
from operations.warm import dockerfile
from operations.warm.files import references
from operations.warm.mirrors import from_deployed, interval
from operations.warm.references import Reference, parse
from operations.warm.variables import expand, parse_env

DIGEST = f"sha256:{'a' * 64}"


def found(folder: Path, name: str, text: str, **environment: str) -> list[str]:
    """The references of one file."""
    (folder / name).write_text(text)
    return [str(one) for one in references([folder / name], environment)]


def refused(folder: Path, name: str, text: str) -> str:
    with pytest.raises(Failure) as problem:
        found(folder, name, text)
    return str(problem.value)


# --- References -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("team/tool:1.2", "docker.io/team/tool:1.2"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("ghcr.io/owner/name", "ghcr.io/owner/name:latest"),
        ("localhost/name", "localhost/name:latest"),
        ("host:5000/a/b/c:v1", "host:5000/a/b/c:v1"),
        (f"alpine:3.22@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
    ],
)
def test_short_reference_is_completed_as_docker_does(text: str, complete: str) -> None:
    assert str(parse(text)) == complete


@pytest.mark.parametrize(
    "text", ["", "Alpine", "a b", "alpine:", "alpine@sha256:abc", "https://ghcr.io/a/b", "a//b", "-"]
)
def test_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an image such as"):
        parse(text)


@given(
    st.sampled_from(["docker.io", "ghcr.io", "localhost", "host:5000"]),
    st.from_regex(r"[a-z0-9]{1,5}/[a-z0-9]{1,5}(-[a-z]{1,3})?", fullmatch=True),
    st.one_of(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True), st.just(DIGEST)),
)
def test_complete_reference_stays_the_same(registry: str, repository: str, version: str) -> None:
    reference = Reference(registry, repository, version)

    assert parse(str(reference)) == reference


# --- Compose files ----------------------------------------------------------------------------------------------------

COMPOSE = """
services:
  web: {image: "nginx:${NGINX:-1.31}"}
  cache: {image: "redis:$REDIS"}
  app: {image: registry.example.com/app, build: .}
  built: {build: .}
  reset: {image: busybox, ports: !reset []}
"""


def test_compose_file_names_the_images_that_are_not_built(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# comment\nREDIS=8\nexport NGINX='1.30' # why\n")

    assert found(tmp_path, "compose.yaml", COMPOSE, NGINX="1.32") == [
        "docker.io/library/nginx:1.32",
        "docker.io/library/redis:8",
        "docker.io/library/busybox:latest",
    ]


def test_compose_file_can_take_back_an_image_or_a_build(tmp_path: Path) -> None:
    services = "a: {image: !reset null}\n  b: {image: debian, build: !reset null}\n  c: {image: busybox, build: null}"

    names = found(tmp_path, "compose.yaml", f"services:\n  {services}\n")

    assert names == ["docker.io/library/debian:latest", "docker.io/library/busybox:latest"]


@pytest.mark.parametrize("value", ["!!bool x", "!!timestamp x", "!!int ''", "2026-99-99", "[" * 9999 + "]" * 9999])
def test_value_that_does_not_fit_its_tag_is_reported(value: str, tmp_path: Path) -> None:
    text = f"services: {{a: {{image: alpine, x: {value}}}}}"

    assert "compose.yaml: not valid YAML" in refused(tmp_path, "compose.yaml", text)


def test_env_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")

    assert ".env cannot be read" in refused(tmp_path, "compose.yaml", "services: {a: {image: alpine}}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${A}", "1-1"),
        ("${A:-x}${EMPTY:-x}${EMPTY-x}${NONE-x}", "1xx"),
        ("${A:+y}${EMPTY:+y}${EMPTY+y}${NONE+y}", "yy"),
        ("${NONE:-${A}}${NONE:-${GONE:-z}}", "1z"),
        ("${A:?must be set}", "1"),
        ("$NONE ${NONE:?must be set}", "$NONE ${NONE:?must be set}"),
    ],
)
def test_variables_have_the_operators_of_compose(text: str, value: str) -> None:
    assert expand(text, {"A": "1", "EMPTY": ""}) == value


def test_env_file_has_quotes_and_comments() -> None:
    text = "A=1\nB=\"two words\"\nexport C='x#y'\n#D=1\nE=v#1 # note\nF=\nnot a variable\n"

    assert parse_env(text) == {"A": "1", "B": "two words", "C": "x#y", "E": "v#1", "F": ""}


# --- Dockerfiles ------------------------------------------------------------------------------------------------------

DOCKERFILE = r"""# syntax=docker/dockerfile:1
ARG VERSION=3.22 OTHER=${VERSION}.1
# FROM comment
FROM --platform=$BUILDPLATFORM alpine:${VERSION} AS Build
RUN --mount=type=cache,target=/x --mount=type=bind,from=ghcr.io/x/tool:1,target=/y make
RUN <<EOF
FROM heredoc
EOF
ARG VERSION
COPY --from=build /a /a
COPY --from=0 /a /a
COPY --chown=1 \
  # comment
  --from=busybox:1 /a /b
from scratch
COPY --from=docker.io/library/node:${NODE:-22} / /
FROM build AS last
FROM debian:${OTHER}
"""


def test_dockerfile_names_images_without_stages_and_scratch(tmp_path: Path) -> None:
    assert [image for _, image in dockerfile.images(DOCKERFILE)] == [
        "docker/dockerfile:1",
        "alpine:3.22",
        "ghcr.io/x/tool:1",
        "busybox:1",
        "docker.io/library/node:22",
        "debian:3.22.1",
    ]
    assert len(found(tmp_path, "Dockerfile.web", DOCKERFILE)) == 6


@pytest.mark.parametrize(
    "run",
    [
        "RUN python -c 'print(1<<x)'",
        'RUN echo "<<EOF"',
        "RUN echo $((1 << B))",
        "RUN cat <<EOF",
        "RUN cat <<END-OF-FILE >/x\nFROM no\nEND-OF-FILE",
        "RUN <<'two words'\nFROM no\ntwo words",
        "COPY <<a.txt <<b.txt /x/\nFROM no\na.txt\nFROM no\nb.txt",
        "RUN cat <<EOF\n  EOF\nFROM no\nEOF",
        "RUN cat <<-EOF\n\tFROM no\n\tEOF",
        r"RUN echo \\",
    ],
)
def test_only_the_lines_of_a_heredoc_are_hidden(run: str) -> None:
    images = dockerfile.images(f"FROM alpine\n{run}\nFROM debian\n")

    assert [image for _, image in images] == ["alpine", "debian"]


def test_stage_may_have_a_part_of_its_name_from_buildkit() -> None:
    stages = "FROM alpine AS build-linux\nFROM debian AS build-windows\n"
    text = f"{stages}FROM build-${{TARGETOS}} AS build\nFROM scratch\nCOPY --from=build-$TARGETOS / /\n"

    assert [image for _, image in dockerfile.images(text)] == ["alpine", "debian"]
    assert [image for _, image in dockerfile.images(f"{stages}FROM $BASE\nFROM tool-$TARGETOS\n")][2:] == [
        "$BASE",
        "tool-$TARGETOS",
    ]


def test_quotes_in_an_argument_are_no_part_of_an_image() -> None:
    text = 'FROM alpine AS tool-on\nARG ON=${OFF:-"on"}\nFROM tool-${OFF:-"on"}\nCOPY --from=\'busybox\' / /\n'

    assert [image for _, image in dockerfile.images(text)] == ["alpine", "busybox"]


def test_tab_separates_an_instruction_as_a_space_does() -> None:
    assert list(dockerfile.images("FROM\talpine\tAS\ta\nCOPY\t--from=busybox / /\n")) == [(1, "alpine"), (2, "busybox")]


@pytest.mark.parametrize("first", ["# check=skip=all", "#!/usr/bin/env buildkit"])
def test_syntax_may_follow_another_directive(first: str) -> None:
    images = dockerfile.images(f"{first}\n# syntax=docker/dockerfile:1\nFROM alpine\n")

    assert [image for _, image in images] == ["docker/dockerfile:1", "alpine"]


def test_argument_can_have_an_empty_default() -> None:
    assert list(dockerfile.images("ARG SUFFIX=\nFROM alpine:3$SUFFIX\n")) == [(2, "alpine:3")]


def test_dockerfile_can_have_another_escape_character() -> None:
    assert list(dockerfile.images("# escape=`\nFROM `\n alpine\n")) == [(2, "alpine")]


def test_argument_without_a_value_is_reported_with_its_line(tmp_path: Path) -> None:
    text = refused(tmp_path, "Dockerfile", "ARG NODE\nFROM node:$NODE\n")

    assert "Dockerfile, line 2" in text
    assert "a value for the variable NODE" in text


@given(st.text(alphabet="FROMARGCOPY-=<$\\{}:# \nab'\"", max_size=200))
def test_any_text_is_read_as_a_dockerfile_without_a_crash(text: str) -> None:
    list(dockerfile.images(text))


# --- Kubernetes manifests, lists, and other files ---------------------------------------------------------------------

KUBERNETES = """
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {
  initContainers: [{name: a, image: busybox:1}],
  containers: [{name: b, image: registry.k8s.io/pause:3.10}],
  volumes: [{name: v, image: {reference: ghcr.io/data/set:1}}]}}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, spec: {containers: [{image: alpine}], ephemeralContainers: [{image: debian:12}]}}
- {apiVersion: v1, kind: ConfigMap, data: {image: not-an-image}}
---
"""


def test_kubernetes_manifests_name_images_at_any_depth(tmp_path: Path) -> None:
    assert sorted(found(tmp_path, "all.yml", KUBERNETES)) == [
        "docker.io/library/alpine:latest",
        "docker.io/library/busybox:1",
        "docker.io/library/debian:12",
        "ghcr.io/data/set:1",
        "registry.k8s.io/pause:3.10",
    ]


def test_list_has_comments_and_each_image_is_named_once(tmp_path: Path) -> None:
    text = "# base images\nalpine:3.22\n\n  debian:12 # why\nalpine:3.22\n"

    assert found(tmp_path, "images.txt", text) == ["docker.io/library/alpine:3.22", "docker.io/library/debian:12"]


def test_all_problems_of_all_files_are_in_one_report(tmp_path: Path) -> None:
    files = {
        "broken.yaml": "services:\n  a: [\n",
        "values.yaml": "image: alpine\n",
        "image.tar": "x",
        "list.txt": "Alpine\n",
        "compose.yaml": "services: {a: {image: 'nginx:$TAG'}}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    with pytest.raises(Failure) as problem:
        references([*(tmp_path / name for name in files), tmp_path / "gone.txt"], {})

    text = str(problem.value)
    assert "6 problems; nothing was pulled" in text
    assert "broken.yaml: line 3: not valid YAML" in text
    assert "values.yaml: found YAML of another kind" in text
    assert 'image.tar: found ".tar", allowed: a Compose file' in text
    assert 'list.txt, line 1: found "Alpine", allowed: an image such as' in text
    assert "services.a.image" in text
    assert "a value for the variable TAG" in text
    assert "gone.txt: cannot be read: No such file" in text


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    assert "name no image" in refused(tmp_path, "images.txt", "# none\n")


# --- Mirrors of a stack -----------------------------------------------------------------------------------------------

DEPLOYED = DeployedMirrors.model_validate(
    {
        "mirrors": {"docker.io": {"ttl": "48h"}, "ghcr.io": {"ttl": "24h"}, "quay.io": {"ttl": "0s"}},
        "mirror_urls": {"docker.io": "https://mirror.example.com:5444"},
        "mirror_url": "https://all.example.com",
        "registry_url": "https://registry.example.com",
    }
)


def test_each_reference_has_the_mirror_of_its_upstream() -> None:
    mirrors = from_deployed(DEPLOYED)

    hub, ghcr = mirrors.find(parse("alpine")), mirrors.find(parse("ghcr.io/a/b:1"))
    assert hub == (parse("alpine"), mirrors.mirrors["docker.io"])
    assert hub == mirrors.find(parse("mirror.example.com:5444/alpine"))
    assert hub == mirrors.find(parse("all.example.com/alpine"))
    assert not isinstance(ghcr, str)
    assert (ghcr[1].url, ghcr[1].is_shared, ghcr[1].ttl) == ("https://all.example.com", True, 24 * 3600)
    assert mirrors.find(parse("gcr.io/a/b")) == "the stack has no mirror of gcr.io"
    assert "private registry" in str(mirrors.find(parse("registry.example.com/app")))


def test_interval_is_a_part_of_the_shortest_ttl() -> None:
    assert interval([168 * 3600, 48 * 3600, 0]) == 2 * 3600
    assert interval([60]) == 60
    assert interval([0]) is None
