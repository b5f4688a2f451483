"""An sshd on loopback, so that a stack can be deployed over ``ssh://`` as to another machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.harness.processes import free_port, running


@contextlib.contextmanager
def ssh_host(folder: Path, docker_host: str, process: int | None = None) -> Iterator[tuple[str, Path]]:
    """The ``ssh://`` address of this machine, and a folder for PATH with an ``ssh`` that has the key for it.

    With ``process``, commands run in the mount namespace of that process. The user's own ``~/.ssh`` is neither read nor
    written.
    """
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPasswordAuthentication no\n"
        f"PermitRootLogin prohibit-password\nUsePAM no\n"
        # The remote docker command talks to the engine of this test run. Bash reads ~/.bashrc for ssh, and what people
        # have there (pyenv, say, waits up to a minute for a lock) would be in every connection.
        f"SetEnv DOCKER_HOST={docker_host} PATH={os.environ['PATH']} HOME={folder}\n"
        + (f'ForceCommand exec nsenter --target {process} --mount sh -c "$SSH_ORIGINAL_COMMAND"\n' if process else "")
    )
    (folder / "ssh_config").write_text(
        f"Host *\nIdentityFile {folder}/client\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        "StrictHostKeyChecking yes\nBatchMode yes\n"
    )
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    program.chmod(0o755)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert sshd, "sshd is not there: run `.venv/bin/python -m local prepare`"
    with running([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], port, folder / "log"):
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", program.parent
