"""Read a tarball of images. Members are found by name in an index in memory, and nothing is unpacked to the disk."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

#: Most bytes of a manifest or a configuration. The registry accepts no larger manifest.
LARGEST_DOCUMENT = 4 << 20
#: Most bytes of all JSON documents of a tarball, which stay in memory.
_MOST_DOCUMENTS = 256 << 20
_CHUNK = 1 << 20
_MOST_LINKS = 16
#: Bytes in which a JSON document begins, after white space.
_START = 16
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Broken(Exception):
    """A tarball that cannot be imported. The message is the reason."""


class Archive:
    """A tarball: plain, or compressed with gzip, bzip2 or xz.

    The first pass keeps the JSON documents, because a step back in a compressed file means to read it from the start.

    Raises:
        Broken: if the file is no complete tarball.
    """

    def __init__(self, file: Path) -> None:
        self._members: dict[str, tarfile.TarInfo] = {}
        self._documents: dict[str, bytes] = {}
        with _readable():
            with file.open("rb") as opened:
                if opened.read(len(_ZSTD)) == _ZSTD:
                    raise Broken("the file is compressed with zstd: decompress it with `zstd -d` first")
            self._tar = tarfile.open(file)  # noqa: SIM115 - closed by close()
        try:
            with _readable():
                self._read()
        except Broken:
            self.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._tar.close()

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._members

    def document(self, name: str) -> bytes:
        """Return the content of a JSON file.

        Raises:
            Broken: if the file is missing, or if it is no JSON document.
        """
        member = self._member(name)
        if (document := self._documents.get(_key(member.name))) is None:
            raise Broken(f"{name} is no JSON document of at most {LARGEST_DOCUMENT >> 20} MiB")
        return document

    def position(self, name: str) -> int:
        """Return the position of a file's content. Reading in this order needs the fewest steps back."""
        return self._member(name).offset_data

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._member(name).size

    def chunks(self, name: str, *, expand: bool = False) -> Iterator[bytes]:
        """Yield the content of a file piece by piece. With ``expand``, the content of a gzip file is decompressed."""
        member = self._member(name)
        with _readable():
            content = self._tar.extractfile(member)
            assert isinstance(content, io.BufferedReader)
            is_compressed = expand and content.peek(len(_GZIP)).startswith(_GZIP)
            source = gzip.GzipFile(fileobj=content) if is_compressed else content
            while chunk := source.read(_CHUNK):
                yield chunk

    def _read(self) -> None:
        """Read the index, and keep small files that begin like JSON."""
        kept = 0
        for member in self._tar:
            if member.size < 0:  # tarfile would read the same headers for ever
                raise Broken("the header of a file has a negative size")
            self._members[_key(member.name)] = member
            self._documents.pop(_key(member.name), None)
            if member.isreg() and member.size <= LARGEST_DOCUMENT:
                content = self._tar.extractfile(member)
                assert content
                start = content.read(_START)
                if start.lstrip().startswith((b"{", b"[")):
                    kept += member.size
                    if kept > _MOST_DOCUMENTS:
                        raise Broken(f"the file has more than {_MOST_DOCUMENTS >> 20} MiB of JSON documents")
                    self._documents[_key(member.name)] = start + content.read()

    def _member(self, name: str) -> tarfile.TarInfo:
        """Return a file. Versions of `docker save` link layers that occur twice."""
        wanted = name
        for _ in range(_MOST_LINKS):
            member = self._members.get(_key(wanted))
            if member is None:
                raise Broken(f"{name} is missing in the tarball")
            if member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                raise Broken(f"{name} is no file")
            folder = posixpath.dirname(member.name) if member.issym() else ""
            wanted = posixpath.join(folder, member.linkname)
        raise Broken(f"{name} is a link that leads to no file")


def _key(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turn every error of a damaged file into a reason."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":") or "it ends too early"
        raise Broken(f"the file is no tarball, or it is damaged: {reason}") from None
    except (ValueError, OverflowError, IndexError, RecursionError):  # tarfile lets them through for some headers
        raise Broken("the file is no tarball, or it is damaged: a header is not valid") from None
    except OSError as error:
        raise Broken(f"the file cannot be read: {error.strerror or error}") from None
