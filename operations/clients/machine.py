"""A machine with clients: this machine, or another machine over `ssh://`. It needs only a POSIX shell and coreutils.

Each call runs one shell script. The script and the contents of files go to the shell on standard input: other processes
can see arguments.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from urllib.parse import urlsplit

from components.configuration.problems import Failure
from operations.clients.planning import File
from operations.docker_command import said

_WITHIN = 120
#: The status without root. sudo also warns, for example of a host name that it cannot resolve, where it works.
_NO_ROOT = 254
_ENTER = f'[ "$(id -u)" = 0 ] && exec sh; sudo -n sh </dev/null || exit {_NO_ROOT}; exec sudo -n sh'
_START = 'export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/rke2/bin"\n'
_END = "END_OF_INPUT"
#: The line before the output of a script. The start files of a user's shell may print lines before.
_BEGIN = "BEGIN_OF_OUTPUT\n"
#: The status of a script whose file is not the file that the plan is for.
_OTHER = 75

#: Prints four lines for each path in the image $1: a problem, the path behind links, the nearest folder, the content.
_READ = r"""
outside() { case $(readlink -f "$1")/ in "$(readlink -f "$root")"/*) return 1 ;; esac; }
main() {
  root=$1; shift
  for path; do
    target=$path problem=
    if [ -L "$path" ]; then target=$(readlink -f "$path") || target=$path; fi
    folder=${target%/*}
    while [ -n "$folder" ] && [ ! -e "$folder" ] && [ ! -L "$folder" ]; do folder=${folder%/*}; done
    folder=${folder:-/}
    if [ -L "$path" ] && [ ! -e "$path" ]; then problem='is a symbolic link to a file that does not exist'
    elif [ "$root" ] && [ -L "$path" ] && outside "$target"; then problem='is a symbolic link out of the image'
    elif [ "$root" ] && outside "$folder"; then problem="is not in the image: $folder leads out of it"
    elif [ -e "$target" ] && [ ! -f "$target" ]; then problem='is not a regular file'
    elif [ ! -d "$folder" ]; then problem="cannot be created: $folder is not a folder"
    elif [ ! -w "$folder" ]; then problem="cannot be replaced: the folder $folder is read-only"
    elif [ -f "$target" ]; then
      case $(ls -ld "$target") in ??w*) [ -w "$target" ] || problem='is read-only' ;; *) problem='is read-only' ;; esac
    fi
    printf '%s\n' "$problem" "$target" "$folder"
    if [ -f "$target" ]; then base64 <"$target" | tr -d '\n' && echo; else echo -; fi
  done
}
"""
_SUM = r"""
check() {
  [ "$(if [ -e "$1" ]; then sha256sum <"$1" | cut -d ' ' -f 1; else echo absent; fi)" = "$2" ] || exit 75
}
stored() { sync "$@" 2>/dev/null || sync; }
"""
#: Replaces file $1 if it has the sum $2, and if journal $3 has the sum $4: else another run has begun since. A new file
#: gets the mode $5; another file keeps its mode and owner.
_REPLACE = (
    _SUM
    + r"""
main() {
  set -eu
  umask 022
  new=${1%/*}/.${1##*/}.registry-stack.$$
  check "$1" "$2"
  check "$3" "$4"
  mkdir -p "${1%/*}"
  trap 'rm -f "$new"' EXIT
  rm -f "$new"
  if [ -e "$1" ]; then cp -p "$1" "$new"; else (umask 077 && : >"$new"); chmod "$5" "$new"; fi
  base64 -d >"$new"
  stored "$new"
  mv -f "$new" "$1"
  stored "${1%/*}" "${1%/*}/.."
}
"""
)
#: Removes file $1, with the same conditions.
_REMOVE = (
    _SUM
    + r"""
main() {
  set -eu
  check "$1" "$2"
  check "$3" "$4"
  rm -f "$1"
  stored "${1%/*}"
}
"""
)
#: For each pair of a file and a folder: removes what an interruption left, and empty folders below that folder.
_TIDY = r"""
main() {
  while [ $# -gt 1 ]; do
    rm -f "${1%/*}/.${1##*/}.registry-stack."*
    folder=${1%/*}
    while [ "${folder#"${2%/}/"}" != "$folder" ] && rmdir "$folder" 2>/dev/null; do folder=${folder%/*}; done
    shift 2
  done
}
"""


class Machine:
    """This machine if ``host`` is None, else the machine at ``ssh://user@host``. ``root`` is a folder with an image.

    In a ``with`` block, all calls share one connection.
    """

    def __init__(self, host: str | None, root: str) -> None:
        self._root, self.name = root.rstrip("/"), host or "this machine"
        self.is_image, self._ssh = bool(root), list[str]()
        self._stop = contextlib.ExitStack()
        self._command = ["sh"] if root else ["sh", "-c", _ENTER]
        if host:
            url = urlsplit(host)
            options = [*(["-p", str(url.port)] if url.port else []), *(["-l", url.username] if url.username else [])]
            self._ssh = ["ssh", *options, "--", str(url.hostname)]
            self._command = self._over_ssh("sh" if root else f"sh -c {shlex.quote(_ENTER)}")

    def __enter__(self) -> Machine:
        """Open the connection. If that fails, the first call says why."""
        if self._ssh:
            socket = f"{self._stop.enter_context(tempfile.TemporaryDirectory(prefix='ssh-'))}/s"
            with contextlib.suppress(OSError):
                # `cat` ends with its input, so the connection ends with this process, also after SIGKILL.
                connection = subprocess.Popen(
                    self._over_ssh("echo ready; exec cat", "-M", "-S", socket),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C must not end the connection: the files go back over it
                )
                self._stop.callback(connection.communicate)
                assert connection.stdout
                connection.stdout.readline()
                self._command = self._over_ssh(self._command[-1], "-S", socket)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()

    def _over_ssh(self, command: str, *options: str) -> list[str]:
        settings = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15"]
        return ["ssh", *settings, *options, *self._ssh[1:], command]

    def run(
        self, script: str, *arguments: str, text: str = "", within: int = _WITHIN
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the function ``main`` of a shell script, with a text on its standard input. The caller judges the status.

        Raises:
            Failure: if the machine cannot be reached.
        """
        encoded = base64.encodebytes(text.encode()).decode()
        # The shell runs nothing before it has read the closing brace. So a broken connection runs no half of a program.
        program = f"{{\n{_START}echo {_BEGIN}{script}\nmain {shlex.join(arguments)} <<'{_END}'\n{encoded}{_END}\n}}\n"
        try:
            answer = subprocess.run(
                self._command, input=program.encode(), capture_output=True, check=False, timeout=within
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not answer within {within} seconds", "run the command again") from None
        except OSError as error:
            raise Failure(f"cannot start `{self._command[0]}`: {error.strerror}", "add the program to PATH") from None
        if answer.returncode == 255 and self._ssh:
            raise Failure(f"{self.name} does not answer: {said(answer)}", shlex.join([*self._ssh, "true"]))
        if answer.returncode == _NO_ROOT:
            raise Failure(
                f"on {self.name}, the command needs root: {said(answer)}",
                "log in as root, or allow the user to run sudo without a password",
            )
        answer.stdout = answer.stdout.partition(_BEGIN.encode())[2]
        return answer

    def path(self, path: str) -> str:
        """Return the place of a path of the machine."""
        return self._root + path

    def read(self, paths: Iterable[str]) -> dict[str, File]:
        """Read files by path.

        Raises:
            Failure: if a file cannot be read, or if it is not a text in UTF-8.
        """
        wanted = list(paths)
        answer = self.run(_READ, self._root, *(self.path(path) for path in wanted))
        lines = answer.stdout.decode(errors="replace").split("\n")
        if answer.returncode or len(lines) != 4 * len(wanted) + 1:
            raise Failure(f"{self.name} cannot read its files: {said(answer)}", "correct the cause and try again")
        found = {}
        for number, path in enumerate(wanted):
            problem, target, folder, content = lines[4 * number : 4 * number + 4]
            if "\N{REPLACEMENT CHARACTER}" in target:
                problem = "leads to a file whose name is not a text in UTF-8"
            try:
                text = None if content == "-" else base64.b64decode(content).decode()
            except UnicodeDecodeError:
                raise Failure(
                    f"{path} is not a text in UTF-8. Nothing was changed", f"correct {path}, or move the file away"
                ) from None
            found[path] = File(path, text, target, folder, problem)
        return found

    def replace(self, file: File, text: str, journal: File, mode: str = "644") -> None:
        """Write a file anew, as a whole: an interruption leaves the former file or the new file.

        Raises:
            Failure: if the file or the journal is not as it was read, or if the file cannot be written.
        """
        words = (file.target, _sum(file.text), journal.target, _sum(journal.text), mode)
        self._change(file, self.run(_REPLACE, *words, text=text))

    def remove(self, file: File, journal: File) -> None:
        """Remove a file.

        Raises:
            Failure: if the file or the journal is not as it was read, or if the file cannot be removed.
        """
        self._change(file, self.run(_REMOVE, file.target, _sum(file.text), journal.target, _sum(journal.text)))

    def tidy(self, files: Iterable[tuple[str, str]]) -> None:
        """Remove unfinished copies of files, given by their targets, and empty folders below a folder of each file."""
        self.run(_TIDY, *(word for pair in files for word in pair))

    def _change(self, file: File, answer: subprocess.CompletedProcess[bytes]) -> None:
        if answer.returncode == _OTHER:
            raise Failure(
                f"{file.path} on {self.name} was changed meanwhile, or another run has begun", "run the command again"
            )
        if answer.returncode:
            raise Failure(
                f"{self.name} cannot change {file.path}: {said(answer)}",
                f"make {file.path} writable, with space on its disk, and try again",
            )


def _sum(text: str | None) -> str:
    return "absent" if text is None else hashlib.sha256(text.encode()).hexdigest()
