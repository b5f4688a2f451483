"""Progress messages and failures: each step shows its progress; each failure shows step, cause and fix."""

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
    """Print a line on standard error. The text may contain any character."""
    console.print(text, markup=False, emoji=False)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Show `name` during a step, then the duration. A failure carries the name of the innermost step."""
    started = time.monotonic()
    if not console.is_terminal:
        say(f"{name} …")
    try:
        with console.status(name):
            yield
    except (Failure, DockerException) as error:
        problem = (
            error if isinstance(error, Failure) else Failure(f"error of the engine: {error}", "read the engine's log")
        )
        problem.step = problem.step or name
        raise problem from None
    say(f"{name}: done in {time.monotonic() - started:.0f} s")


def home(name: str = "") -> Path:
    """Create the folder `name` in `.local`, which only its owner can enter."""
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
    """Run a command and return its output, without printing the output.

    Raises:
        Failure: if the command fails or does not exist, with the last lines of its output.
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
        raise Failure(f"cannot start `{words[0]}`: {error.strerror}", fix) from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-LINES_OF_A_FAILURE:]
        raise Failure("\n".join([f"`{shlex.join(words)}` failed with exit code {done.returncode}:", *said]), fix)
    return done.stdout


class Stamp:
    """A hash of the recipe of `name`. Nothing is built twice, and a changed recipe causes a new build."""

    def __init__(self, name: str, *recipe: str) -> None:
        self._path = home("stamps") / name
        self._key = sha256("\0".join(recipe).encode()).hexdigest()

    def holds(self) -> bool:
        """Whether the last build used this recipe."""
        return self._path.exists() and self._path.read_text() == self._key

    def set(self) -> None:
        """Record a build with this recipe."""
        self._path.write_text(self._key)


def is_root() -> bool:
    """Whether this process can install packages and engines."""
    return os.geteuid() == 0


def path_of(program: str) -> Path | None:
    """The path of a program on PATH or in the folders of system programs, which are often missing from PATH."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Path(found) if found else None
