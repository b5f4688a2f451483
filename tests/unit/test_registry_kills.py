"""Kill `import` and `retention apply` with SIGKILL before each change of the registry. The next run does the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.render.registry import DATA_DIRECTORY
from operations.retention.plan import Plan
from tests.harness import tarballs
from tests.harness.configuration import ROOT, configuration
from tests.harness.disk_registry import DiskRegistry, disk_registry

NAME = "team/app"
HOST = "unix:///run/docker.sock"
#: Runs each command that arrives on standard input in a process of its own, which need not import everything again.
LAUNCHER = """
import json, os, sys
from operations.__main__ import command_line, main
command_line([])
import httpx
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["operations", *json.loads(line)]
        os.dup2(os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        main()
        sys.exit()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
#: Docker on a host with the data of the registry, without containers. The file `deadly` has the call that kills.
DOCKER = """#!/bin/sh
shift 2
echo "$1" >> {0}/calls
[ "$(wc -l < {0}/calls)" = "$(cat {0}/deadly)" ] && kill -9 $PPID
case $1 in
container) [ $2 = prune ] || cat {0}/reader.json ;;
run)
  until [ "$1" = sh ]; do shift; done
  exec sh -c "$3" "{0}/data${{4#{1}}}" "$5" ;;
esac
"""


class Commands:
    """The commands on a stack whose registry is ``registry``."""

    def __init__(self, folder: Path, registry: DiskRegistry) -> None:
        self.registry, self.folder = registry, folder
        rules = [{"tags": "old-*", "keep": {"days": 1}}]
        retention = {"rules": rules, "overwritten": {"days": 1}, "most": "100%", "running_on": [HOST]}
        values = configuration(registry=configuration()["registry"] | {"url": registry.url, "retention": retention})
        outputs = {
            "registry_url": registry.url,
            "docker_host": HOST,
            "services": {"reader": "reader-1"},
            "users": {},
            "ca_certificate": registry.certificate,
        }
        entries = {
            f"registry-stack:{key}": {"value": value if isinstance(value, str) else "", "objectValue": value}
            for key, value in values.items()
        }
        mounts = [{"Type": "bind", "Source": str(registry.data), "Destination": DATA_DIRECTORY}]
        reader = [{"Image": "sha256:1", "Config": {"User": "1:1", "Image": "registry"}, "Mounts": mounts}]
        for name, value in (("config", entries), ("stack", outputs), ("reader", reader)):
            (folder / f"{name}.json").write_text(json.dumps(value))
        (folder / "calls").touch()
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._program("docker", DOCKER.format(folder, DATA_DIRECTORY))
        self._program("pulumi", f"#!/bin/sh\ncat {folder}/$1.json\n")
        path = f"{self.programs}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER],
            cwd=ROOT,
            env=os.environ | {"PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def __call__(self, *arguments: str, change: int = 0, call: int = 0) -> int:
        """Run a command and kill it at a change of the registry or at a call of Docker. Return its exit status."""
        assert self.process.stdin
        assert self.process.stdout
        self.registry.arm(change)
        (self.folder / "deadly").write_text(str(call))
        (self.folder / "calls").write_text("")
        self.process.stdin.write(json.dumps([str(self.folder / "output"), *arguments]) + "\n")
        self.process.stdin.flush()
        self.registry.victim(int(self.process.stdout.readline()))
        return int(self.process.stdout.readline())

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with disk_registry(tmp_path / "data") as registry:
        found = Commands(tmp_path, registry)
        with found.process:
            yield found
            assert found.process.stdin
            found.process.stdin.close()


def backups(folder: Path, *tags: str) -> list[str]:
    """Tarballs of images that share a layer, one for each tag."""
    base = tarballs.layer("base", b"base")
    images = {
        str(folder / f"{place}.tar"): tarballs.saved(([f"{NAME}:{tag}"], [base, tarballs.layer("own", bytes([place]))]))
        for place, tag in enumerate(tags)
    }
    for file, content in images.items():
        tarballs.write(Path(file), content)
    return list(images)


def test_killed_import_continues_to_the_same_end_and_uploads_nothing_twice(commands: Commands, tmp_path: Path) -> None:
    files, registry = backups(tmp_path, "1", "latest", "latest"), commands.registry
    assert commands("import", *files) == 0, commands.output
    whole, number = registry.files(), registry.changes

    for moment in range(1, number + 1):
        shutil.rmtree(registry.root)
        registry.uploads.clear()
        assert commands("import", *files, change=moment) == -9, commands.output
        done = registry.files()
        assert commands("import", *files) == 0, commands.output

        assert registry.files() == whole, moment
        assert set(registry.uploads.values()) == {1}, moment
        for file, content in done.items():
            assert content == whole[file] or file.endswith("latest/current/link"), moment


def test_killed_apply_continues_to_the_same_end_and_deletes_nothing_else(commands: Commands, tmp_path: Path) -> None:
    registry, file = commands.registry, str(tmp_path / "plan.json")
    assert commands("import", *backups(tmp_path, "1", "old-1", "old-2", "moved", "moved")) == 0, commands.output
    for link in registry.root.rglob("link"):
        os.utime(link, (10**9, 10**9 + len(link.parts)))
    assert commands("retention", "plan", "--output", file) == 0, commands.output
    plan, before = Plan.model_validate_json(Path(file).read_text()), registry.data.with_name("before")
    shutil.copytree(registry.data, before)
    assert commands("retention", "apply", file) == 0, commands.output
    whole, number = registry.files(), registry.changes
    assert (set(registry.tags(NAME)), number) == ({"1", "moved"}, 5)
    assert len(plan.deleted_tags) + len(plan.deleted_manifests) == number

    for moment in [*({"change": one} for one in range(1, number + 1)), *({"call": one} for one in (1, 4, 7, 10))]:
        shutil.rmtree(registry.data)
        shutil.copytree(before, registry.data)
        assert commands("retention", "apply", file, **moment) == -9, commands.output
        assert registry.files().items() >= whole.items(), moment
        assert commands("retention", "apply", file) == 0, commands.output

        assert registry.files() == whole, moment

    assert commands("retention", "plan") == 0
    assert "nothing to delete" in commands.output
