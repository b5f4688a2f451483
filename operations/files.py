"""Replace files as a whole: an interrupted command leaves the old file or the new file."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def replace_file(file: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a file beside ``file`` and move it there. ``mode`` holds the permissions, before the umask.

    A symbolic link stays in place. What is no regular file, such as /dev/stdout, is written directly.

    Raises:
        OSError: if the file cannot be written. The old file is then unchanged.
    """
    target = file.resolve()
    if target.exists() and not target.is_file():
        file.write_text(text, encoding="utf-8")
        return
    unfinished = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        number = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(number, "w", encoding="utf-8") as opened:
            opened.write(text)
        unfinished.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
