"""Images in which the jobs of pipelines run, in place of those on Docker Hub.

Such an image has no content of its own: its folders are links into a volume with the programs of this machine. act
mounts a volume `act-toolcache` into every job; the other runners mount the same volume.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from local.pipelines import python_packages
from local.steps import HOME, home
from local.toolchain import settings
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.stack import engine_address

VOLUME, MOUNT = "act-toolcache", "/opt/hostedtoolcache"
#: The base image of the example application, in place of busybox itself.
BASE = "busybox:1.37"
#: Stands for the images of `runs-on: ubuntu-latest`.
RUNNER = "registry-stack-test/runner:1"
#: The folders with what jobs need. The checkout, its programs and its virtual environment can be apart from each other.
_NEEDED = {
    *map(Path, ("/usr", "/etc/ssl", "/etc/alternatives", sys.base_prefix)),
    *(ROOT, HOME.resolve().parent, Path(sys.prefix).resolve().parent),
}
FOLDERS = sorted(path for path in _NEEDED if not _NEEDED & set(path.parents))


@contextlib.contextmanager
def job_images(names: Iterable[str], state: Path) -> Iterator[None]:
    """Provide images under the names of real ones. Jobs find the state of Pulumi in `MOUNT/state`."""
    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="jobs-", dir=home("engines"))))
        (folder / "pulumi").mkdir()
        (folder / "pulumi" / "plugins").symlink_to(Path(settings()["PULUMI_HOME"]).resolve() / "plugins")
        mounts = dict.fromkeys(FOLDERS, "bind,ro") | {state: "bind"}
        for source, options in mounts.items():
            target = folder / ("state" if source == state else str(source).lstrip("/"))
            target.mkdir(parents=True)
            # Read-only, so that nothing that removes the folder after a crash can remove the programs.
            subprocess.run(["mount", "-o", options, source, target], check=True)
            undo.callback(subprocess.run, ["umount", target], check=True)
        options = [f"--opt={option}" for option in ("type=none", "o=rbind", f"device={folder}")]
        docker("volume", "create", *options, VOLUME)
        undo.callback(docker, "volume", "rm", VOLUME)
        undo.callback(_remove_jobs)
        docker("tag", clients.IMAGES.nginx, BASE)
        for name in {RUNNER, *names}:
            _import(name)
            undo.callback(docker, "image", "rm", "--force", name)
        yield


def _remove_jobs() -> None:
    """Remove the jobs that a failed test left."""
    for job in docker("ps", "--all", "--quiet", f"--filter=volume={VOLUME}").split():
        docker("rm", "--force", "--volumes", job)


def docker(*arguments: str) -> str:
    """The output of a docker command on the tests' engine."""
    answer = clients.run("docker", *arguments, variables={"DOCKER_HOST": engine_address()})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def _import(name: str) -> None:
    variables = {
        "PATH": f"{HOME}/bin:{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PULUMI_HOME": f"{MOUNT}/pulumi",
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # A test's engine has a network without package indexes.
        "PIP_NO_INDEX": "true",
        "PIP_FIND_LINKS": str(python_packages()),
        "PIP_ROOT_USER_ACTION": "ignore",
        # Docker's command before version 23 has another default.
        "DOCKER_BUILDKIT": "1",
    }
    changes = [f"--change=ENV {key}={value}" for key, value in variables.items()]
    environment = {"DOCKER_HOST": engine_address(), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    subprocess.run(
        ["docker", "import", *changes, "-", name], input=_root(), check=True, stdout=subprocess.DEVNULL, env=environment
    )


def _root() -> bytes:
    links = {str(path): f"{MOUNT}{path}" for path in FOLDERS}
    links |= {f"/{name}": f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    for plugin in ("docker-buildx", "docker-compose"):
        links[f"/root/.docker/cli-plugins/{plugin}"] = f"{HOME}/bin/{plugin}"
    files = {
        "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:100:sshd:/run/sshd:/bin/false\n",
        "/etc/group": "root:x:0:\n",
        "/etc/ssh/ssh_config": "",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in ("/tmp", "/root", "/run", "/var/tmp"):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if path.endswith("tmp") else 0o700
            archive.addfile(entry)
        for path, target in links.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
