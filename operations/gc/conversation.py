"""Talk to a running script by its standard streams. The script ends with the conversation, however that ends."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from components.configuration.problems import Failure
from operations.gc.script import ALIVE_EVERY

#: Seconds that the script gets to end by itself. Then its standard input ends, which stops everything in its container.
_ENDS_WITHIN = 10


class Conversation:
    """A running command. A thread sends signs of life until ``deadline``, a time of ``time.monotonic``."""

    def __init__(self, command: Sequence[str], deadline: float) -> None:
        self.deadline, self.timed_out = deadline, False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open until the conversation ends
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            fix = "install the docker command, or add it to PATH"
            raise Failure(f"cannot start `{command[0]}`: {error.strerror}", fix) from None
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        self._ended, self._writing = threading.Event(), threading.Lock()
        threading.Thread(target=self._live, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Failure):
            self.say("end")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDS_WITHIN)
        self._stop()
        self._output.close()
        self._errors.close()

    def say(self, text: str) -> None:
        """Send a line, unless the script has ended."""
        with self._writing, contextlib.suppress(OSError, ValueError):
            self._input.write(text.encode() + b"\n")
            self._input.flush()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the script to its end."""
        for line in iter(self._output.readline, b""):
            yield line.decode(errors="replace").rstrip("\n")

    def read(self, size: int) -> bytes:
        """Read the next bytes of the script."""
        return self._output.read(size)

    def last_error(self) -> str:
        """Return the last line that the ended command printed on standard error."""
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def _live(self) -> None:
        while not self._ended.wait(ALIVE_EVERY):
            if time.monotonic() > self.deadline:
                self.timed_out = True
                self._stop()
            self.say("alive")

    def _stop(self) -> None:
        """End the command, which may wait for a host that does not answer. The script then ends without a sign."""
        self._ended.set()
        with self._writing, contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
