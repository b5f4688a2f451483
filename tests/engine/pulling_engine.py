"""A Docker engine that only pulls: it has its own files in /etc, and shares the network of the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from local import engine
from local.steps import home
from tests.engine.second_engine import running_dockerd

_START = """
cp --archive /etc "$FOLDER/etc"
mount --bind "$FOLDER/etc" /etc
mkdir --parents /etc/docker "$FOLDER/lib"
mount --bind "$ETC_DOCKER" /etc/docker
mount --bind "$FOLDER/hosts" /etc/hosts
mount --bind "$FOLDER/lib" /var/lib
mount -t tmpfs tmpfs /run
exec "$0" "$@"
"""


@contextlib.contextmanager
def pulling_engine(etc_docker: Path, names: list[str], authority: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of an empty engine of the same version as that of the tests.

    Its mount namespace is like a machine of its own: the folder is its /etc/docker, and other changes of /etc, /run and
    /var/lib are lost. Its /etc/hosts has ``names`` for loopback. It trusts ``authority``, as if it were public.
    """
    program = running_dockerd()
    with tempfile.TemporaryDirectory(prefix="pulling-", dir=home("engines")) as name:
        folder, address = Path(name), f"unix://{name}/docker.sock"
        (folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(names)}\n")
        paths = {"--data-root": "data", "--exec-root": "run"}
        options = [word for option, path in paths.items() for word in (option, str(folder / path))]
        # It uses the bridge of the other engine and changes no rule. With `--bridge=none`, it would delete that bridge.
        options += ["--bridge=docker0", "--iptables=false", "--ip6tables=false"]
        options += ["--host", address, "--host", "unix:///run/docker.sock", "--pidfile", "/run/docker.pid"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-ec", _START, program, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {
                    "PATH": f"{program.parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
                    "ETC_DOCKER": str(etc_docker),
                    "FOLDER": str(folder),
                    "SSL_CERT_FILE": str(authority),
                },
            )
        try:
            assert engine._comes_true((folder / "docker.sock").exists), (folder / "log").read_text()
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(60)
