"""Find the image references of files: Compose files, Dockerfiles, Kubernetes manifests and lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from components.configuration.problems import Failure, shown
from operations.warm import dockerfile
from operations.warm.documents import compose_images, is_compose, is_kubernetes, kubernetes_images, load
from operations.warm.references import Reference, parse
from operations.warm.variables import expand, missing, parse_env

_DOCKERFILE = re.compile(r"(?:Dockerfile|Containerfile)(?:[.-].*)?|.*\.(?:Dockerfile|Containerfile)", re.IGNORECASE)
KINDS = (
    "a Compose file or Kubernetes manifest (.yaml, .yml), a Dockerfile (Dockerfile, Dockerfile.*, *.Dockerfile,"
    " Containerfile) or a list with one image per line (.txt)"
)


def references(files: Sequence[Path], environment: Mapping[str, str]) -> list[Reference]:
    """Return the references of all files in their order, each once. ``environment`` wins over the files `.env`.

    Raises:
        Failure: with every problem of every file.
    """
    found: dict[Reference, None] = {}
    problems: list[str] = []
    for file in files:
        try:
            images = list(_images(file, environment))
        except ValueError as error:
            problems.append(f"  {file}: {error}")
            continue
        for place, image in images:
            try:
                found[parse(image)] = None
            except ValueError as error:
                problems.append(f"  {file}, {place}: found {shown(image)}, allowed: {missing(image) or error}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise Failure(
            "\n".join([f"the files have {count}; nothing was pulled", *problems]),
            "correct the files, set the variables of Compose files, or name the images in a list (.txt) instead",
        )
    if not found:
        raise Failure("the files name no image", f"name a file with images: {KINDS}")
    return list(found)


def _images(file: Path, environment: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return place and image for each image of a file.

    Raises:
        ValueError: if the file cannot be read or is of no known kind.
    """
    text = _read(file)
    if _DOCKERFILE.fullmatch(file.name):
        return [(f"line {line}", image) for line, image in dockerfile.images(text)]
    if file.suffix == ".txt":
        return _listed(text)
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"found {shown(file.suffix) if file.suffix else 'no ending'}, allowed: {KINDS}")
    try:
        documents = load(text)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}not valid YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise ValueError("not valid YAML") from None
    if is_compose(documents):
        variables = {**_variables(file.parent / ".env"), **environment}
        return [(place, expand(image, variables)) for place, image in compose_images(documents)]
    if is_kubernetes(documents):
        return list(kubernetes_images(documents))
    raise ValueError(
        "found YAML of another kind, allowed: a Compose file (with `services`) or Kubernetes objects (each with"
        " `apiVersion` and `kind`)"
    )


def _variables(file: Path) -> dict[str, str]:
    """Return the variables of a file `.env`, if it is there."""
    try:
        return parse_env(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{file} cannot be read, or has bytes that are not UTF-8") from None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"found bytes that are not UTF-8, allowed: {KINDS}") from None


def _listed(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if image := re.sub(r"(?:^|\s)#.*", "", line).strip():
            yield f"line {number}", image
