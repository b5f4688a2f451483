"""Telling a person what happens: steps with a progress display, and failures that name step, cause and fix."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from docker.errors import DockerException
from rich.console import Console

from components.configuration.problems import Failure

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".local"
LINES_OF_A_FAILURE = 15

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line for a person; it may hold any character."""
    console.print(text, markup=False, emoji=False)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Show `name` while something happens and how long it took; the innermost step names a failure."""
    started = time.monotonic()
    if not console.is_terminal:
        say(f"{name} …")
    try:
        with console.status(name):
            yield
    except (Failure, DockerException) as error:
        problem = error if isinstance(error, Failure) else Failure(f"the engine says: {error}", "read the engine's log")
        problem.step = problem.step or name
        raise problem from None
    say(f"{name}: done in {time.monotonic() - started:.0f} s")


def home(name: str = "") -> Path:
    """The folder `name` of what is made on this machine; only its owner can look inside."""
    HOME.mkdir(mode=0o700, exist_ok=True)
    folder = HOME / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(
    *command: str | Path,
    fix: str,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> str:
    """Run a command quietly and return its output.

    Raises:
        Failure: if it fails or does not exist, with the last lines that it wrote.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin or "",
            capture_output=True,
            text=True,
            env=dict(environment or os.environ),
            cwd=folder,
            check=False,
        )
    except OSError as error:
        raise Failure(f"`{words[0]}` cannot be started: {error.strerror}", fix) from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-LINES_OF_A_FAILURE:]
        raise Failure("\n".join([f"`{shlex.join(words)}` ended with {done.returncode}:", *said]), fix)
    return done.stdout


class Stamp:
    """What `name` was made from; makes sure that nothing is made twice, and that a changed recipe is followed."""

    def __init__(self, name: str, *recipe: str) -> None:
        self._path = home("stamps") / name
        self._key = sha256("\0".join(recipe).encode()).hexdigest()

    def holds(self) -> bool:
        """Whether the thing was made by this very recipe."""
        return self._path.exists() and self._path.read_text() == self._key

    def set(self) -> None:
        """Note that the thing has been made."""
        self._path.write_text(self._key)


def is_root() -> bool:
    """Whether packages and engines can be installed."""
    return os.geteuid() == 0


def path_of(program: str) -> Path | None:
    """Where a program lies on PATH, with the folders of system programs that users often lack."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Path(found) if found else None
