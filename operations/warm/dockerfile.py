"""The images that a Dockerfile uses: `FROM`, `COPY --from`, `RUN --mount=from=…` and the line `# syntax=…`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from operations.warm.variables import expand

_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=\s*(\S+)\s*", re.IGNORECASE)
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+""")
#: A whole word. In other places, such as `1 << 2` or `'<<x'`, `<<` begins no heredoc.
_HEREDOC = re.compile(r"\d*<<(-?)([^<]+)")
_FROM = re.compile(r"(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_ARG = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:=(\"[^\"]*\"|'[^']*'|\S*))?")
_VARIABLES = re.compile(r"(?:\$\{[^}]*\}|\$[A-Za-z_]\w*)+")
_FLAG = re.compile(r"--(from|mount)=(\S+)")


def images(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the line and the image, for each image of a Dockerfile.

    Stages, `scratch` and arguments are resolved. An image whose variable has no value comes with the variable.
    """
    before: dict[str, str] = {}
    inside: dict[str, str] = {}
    stages: set[str] | None = None
    for number, directive, rest in _instructions(text):
        match directive:
            case "syntax":
                yield number, rest
            case "arg":
                (before if stages is None else inside).update(_arguments(rest, before, inside))
            case "from" if found := _FROM.match(rest):
                stages = set() if stages is None else stages
                image, inside = _name(found[1], before), {}
                if not _is_stage(image, stages):
                    yield number, image
                stages.add((found[2] or "").lower())
            case "copy" | "run" if stages is not None:
                for image in _sources(rest):
                    name = _name(image, inside)
                    if not name.isdecimal() and not _is_stage(name, stages):
                        yield number, name


def _name(word: str, variables: dict[str, str]) -> str:
    return re.sub("[\"']", "", expand(word, variables))


def _is_stage(name: str, stages: set[str]) -> bool:
    """Whether an image is a stage or `scratch`, also if only BuildKit knows a part of the name: `build-$TARGETOS`."""
    literals = _VARIABLES.split(name.lower())
    pattern = ".+".join(map(re.escape, literals)) if any(literals) else "(?!)"
    return any(re.fullmatch(pattern, stage) for stage in {*stages, "scratch"})


def _arguments(rest: str, before: dict[str, str], inside: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the arguments that have a value. A stage repeats an argument from before the first stage by its name."""
    for argument in _ARG.finditer(rest):
        if argument[2] is not None:
            yield argument[1], expand(argument[2].strip("\"'"), before | inside)
        elif argument[1] in before:
            yield argument[1], before[argument[1]]


def _sources(rest: str) -> Iterator[str]:
    """Yield the values of `--from`, also inside `--mount`, of the flags at the start of an instruction."""
    for word in rest.split():
        if not word.startswith("--"):
            return
        if flag := _FLAG.fullmatch(word):
            fields = [flag[2]] if flag[1] == "from" else re.findall(r"(?:^|,)from=([^,]+)", flag[2])
            yield from fields


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and arguments of each instruction, without comments and heredocs, and the syntax directive."""
    escape, lines, number, is_top = "\\", text.splitlines(), int(text.startswith("#!")), True
    while number < len(lines):
        start, line = number + 1, lines[number].strip()
        number += 1
        if is_top and (directive := _DIRECTIVE.fullmatch(line)):
            if directive[1].lower() == "escape":
                escape = directive[2]
            elif directive[1].lower() == "syntax":
                yield start, "syntax", directive[2]
            continue
        is_top = False
        if not line or line.startswith("#"):
            continue
        while line.endswith(escape) and line[-2:-1] != escape and number < len(lines):
            following = lines[number].strip()
            number += 1
            if following and not following.startswith("#"):
                line = f"{line[:-1]} {following}"
        name, rest = (*line.split(maxsplit=1), "")[:2]
        if name.lower() in ("run", "copy", "add"):
            number = _after_heredocs(lines, number, rest)
        yield start, name.lower(), rest


def _after_heredocs(lines: list[str], number: int, rest: str) -> int:
    """Return the number of the line after all heredocs of an instruction.

    BuildKit refuses a heredoc without an end. Such a heredoc hides nothing.
    """
    for heredoc in filter(None, map(_HEREDOC.fullmatch, _WORD.findall(rest))):
        word = re.sub(r"[\"'\\]", "", heredoc[2])
        ends = (at for at in range(number, len(lines)) if (lines[at].lstrip("\t") if heredoc[1] else lines[at]) == word)
        number = next(ends, number - 1) + 1
    return number
