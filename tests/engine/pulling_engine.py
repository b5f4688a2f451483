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
mkdir --parents /etc/docker
mount --bind "$ETC_DOCKER" /etc/docker
mount --bind "$ETC_HOSTS" /etc/hosts
exec "$0" "$@"
"""


@contextlib.contextmanager
def pulling_engine(etc_docker: Path, names: list[str], authority: Path) -> Iterator[str]:
    """The address of an empty engine of the same version as that of the tests, with the folder as its /etc/docker.

    Its /etc/hosts has ``names`` for loopback. It trusts ``authority``, as if it were public.
    """
    program = running_dockerd()
    with tempfile.TemporaryDirectory(prefix="pulling-", dir=home("engines")) as name:
        folder, address = Path(name), f"unix://{name}/docker.sock"
        (folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(names)}\n")
        paths = {"--data-root": "data", "--exec-root": "run", "--pidfile": "pid"}
        options = [word for option, path in paths.items() for word in (option, str(folder / path))]
        # It uses the bridge of the other engine and changes no rule. With `--bridge=none`, it would delete that bridge.
        options += ["--bridge=docker0", "--iptables=false", "--ip6tables=false", "--host", address]
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
                    "ETC_HOSTS": str(folder / "hosts"),
                    "SSL_CERT_FILE": str(authority),
                },
            )
        try:
            assert engine._comes_true((folder / "docker.sock").exists), (folder / "log").read_text()
            yield address
        finally:
            process.terminate()
            process.wait(60)
