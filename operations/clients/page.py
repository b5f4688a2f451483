"""The page beside the files: where each file goes, how to apply it, and what falls back to the upstream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from operations.clients.files import Client, Mirrors

PAGE = "README.md"
_INTRODUCTION = """\
`python -m operations clients install` does what this page describes, and keeps the entries of other people.
Each folder here belongs into `/etc` of a client, under the same name. Run the commands below as root, in this folder.
`cp` replaces files of the same name, so read the output of `diff` first."""
_TRUST = """\
The mirrors have certificates of the stack's own authority. Copy the certificate of the authority with the other files.
Without the file, each pull of containerd, and of Docker with the containerd image store, fails, without a fallback."""
_FALLBACK = """\
A mirror fails if no program answers at its address, or if the answer is an error: 403 if `allow` of the mirror does not
contain the client's address, 404 if the upstream does not have the image, 424 if the upstream is unreachable or fails,
503 if the mirror is down. Then the client needs access to the upstream. Each answer takes 15 seconds if only the
container of the mirror is stopped or if the upstream is silent, and a client asks several times. A pull of an image
whose name contains the mirror's address, like `{address}/…`, does not fall back."""


def page(mirrors: Mirrors, files: Mapping[Client, Mapping[str, str]]) -> str:
    """Render the page for the clients that have files."""
    written = {client: paths for client, paths in files.items() if paths}
    parts = [
        "# Files for clients of the mirrors",
        _INTRODUCTION,
        _table(mirrors),
        *_trust(mirrors),
        *(_section(client, paths, mirrors) for client, paths in written.items()),
        "## Fallback",
        _FALLBACK.format(address=mirrors.every[0].address.netloc),
        *_not_covered(client for client in files if client not in written),
    ]
    return "\n\n".join(parts) + "\n"


def _table(mirrors: Mirrors) -> str:
    rows = [
        f"| {mirror.upstream} | {mirror.address} | {'shared, chosen by `?ns=`' if mirror.is_shared else 'own'} |"
        for mirror in mirrors.every
    ]
    return "\n".join(["| Upstream | Mirror | Address |", "| --- | --- | --- |", *rows])


def _trust(mirrors: Mirrors) -> list[str]:
    notes = []
    if mirrors.authority:
        notes.append(_TRUST)
    if any(mirror.address.host in ("localhost", "127.0.0.1") for mirror in mirrors.every):
        notes.append("An address of `localhost` works only on the Docker host itself.")
    return notes


def _section(client: Client, paths: Iterable[str], mirrors: Mirrors) -> str:
    folder = client.folder
    covered = mirrors.every if client.names_upstreams else mirrors.own
    rows = [f"| `{path}` | `/etc/{path}` |" for path in paths]
    limits = [*client.limits]
    if folder == "docker" and mirrors.docker_hub and not mirrors.daemon:
        limits.append(
            "`daemon.json` contains only the mirror. If `/etc/docker/daemon.json` exists, run the command again with"
            " `--merge /etc/docker/daemon.json`."
        )
    if folder == "docker" and not mirrors.docker_hub:
        limits.append("There is no `daemon.json`, because no mirror is for docker.io.")
    if missing := [mirror.upstream for mirror in mirrors.every if mirror not in covered]:
        limits.append(f"{', '.join(missing)}: no mirror, because {client.name} cannot use a shared address.")
    return "\n".join(
        [
            f"## {client.name}",
            "",
            f"For {', '.join(mirror.upstream for mirror in covered)}.",
            "",
            "| File | Place |",
            "| --- | --- |",
            *rows,
            "",
            "```sh",
            f"mkdir --parents /etc/{folder}",
            f"diff --recursive --unidirectional-new-file /etc/{folder} {folder}",
            f"cp --recursive {folder}/. /etc/{folder}/",
            "```",
            "",
            f"- Apply: {client.reload}",
            f"- Fallback: {client.fallback}",
            *(f"- {limit}" for limit in limits),
        ]
    )


def _not_covered(clients: Iterable[Client]) -> list[str]:
    lines = [
        f"- {client.name}: these programs cannot use a shared address. Set `url` of the mirrors." for client in clients
    ]
    return ["## Not covered", "\n".join(lines)] if lines else []
