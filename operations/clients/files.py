"""The clients that can use the mirrors, and the files of each client. The paths are those below ``/etc``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.configuration.settings import DOCKER_HUB
from components.render.clients import (
    Mirror,
    buildkitd_toml,
    daemon_json,
    hosts_toml,
    registries_conf,
    registries_yaml,
)

CA_FILE = "registry-stack-ca.crt"


@dataclass(frozen=True)
class Mirrors:
    """The mirrors of a stack, and the PEM certificate of their authority if clients do not trust it already.

    ``daemon`` is the content of the ``daemon.json`` that Docker has.
    """

    every: tuple[Mirror, ...]
    authority: str | None
    daemon: Mapping[str, Any]

    @property
    def own(self) -> tuple[Mirror, ...]:
        """The mirrors with an address of their own."""
        return tuple(mirror for mirror in self.every if not mirror.is_shared)

    @property
    def docker_hub(self) -> Mirror | None:
        """The mirror of Docker Hub, if there is one."""
        return next((mirror for mirror in self.every if mirror.upstream == DOCKER_HUB), None)


@dataclass(frozen=True)
class Client:
    """A program and its files in ``/etc/FOLDER``, with what an operator must know before copying them.

    A machine has the client if it has one of the ``programs``. ``reload`` applies the files. ``restarts`` is whether an
    operator must restart a program. ``fallback`` describes what happens if a mirror fails. ``limits`` are exceptions.
    ``names_upstreams`` is whether the program sends ``?ns=``, so that it can use a shared address.
    """

    name: str
    folder: str
    programs: tuple[str, ...]
    files: Callable[[Mirrors], dict[str, str]]
    reload: str
    fallback: str
    limits: tuple[str, ...] = ()
    names_upstreams: bool = True
    restarts: bool = False


def client_files(mirrors: Mirrors) -> dict[Client, dict[str, str]]:
    """Return the files of each client by path. A client without a file cannot use these mirrors."""
    return {
        client: {f"{client.folder}/{name}": text for name, text in client.files(mirrors).items()} for client in CLIENTS
    }


def _authorities(mirrors: tuple[Mirror, ...], authority: str | None) -> dict[str, str]:
    """Return the certificate of the authority in the folder of each mirror's host.

    A certificate in the folder of the upstream would make older engines trust the authority for the upstream itself.
    """
    return {f"certs.d/{mirror.address.netloc}/ca.crt": authority for mirror in mirrors} if authority else {}


def _hosts(mirrors: Mirrors) -> dict[str, str]:
    files = {
        f"certs.d/{mirror.upstream}/hosts.toml": hosts_toml(
            mirror, f"../{mirror.address.netloc}/ca.crt" if mirrors.authority else None
        )
        for mirror in mirrors.every
    }
    return files | _authorities(mirrors.every, mirrors.authority)


def _docker(mirrors: Mirrors) -> dict[str, str]:
    daemon = {"daemon.json": daemon_json(mirrors.docker_hub, mirrors.daemon)} if mirrors.docker_hub else {}
    return daemon | _hosts(mirrors)


def _buildkit(mirrors: Mirrors) -> dict[str, str]:
    ca = f"/etc/buildkit/{CA_FILE}" if mirrors.authority else None
    return {"buildkitd.toml": buildkitd_toml(mirrors.every, ca)} | _certificate(mirrors)


def _containers(mirrors: Mirrors) -> dict[str, str]:
    if not mirrors.own:
        return {}
    conf = {"registries.conf.d/50-registry-stack.conf": registries_conf(mirrors.own)}
    return conf | _authorities(mirrors.own, mirrors.authority)


def _rancher(distribution: str) -> Callable[[Mirrors], dict[str, str]]:
    def files(mirrors: Mirrors) -> dict[str, str]:
        ca = f"/etc/rancher/{distribution}/{CA_FILE}" if mirrors.authority else None
        return {"registries.yaml": registries_yaml(mirrors.every, ca)} | _certificate(mirrors)

    return files


def _certificate(mirrors: Mirrors) -> dict[str, str]:
    return {CA_FILE: mirrors.authority} if mirrors.authority else {}


_DISABLED = "With `--disable-default-registry-endpoint`, pulls do not fall back."
_IMAGE_STORE = (
    "`hosts.toml` needs the containerd image store, the default of a new Engine 29. Then `docker info` shows"
    " `io.containerd.snapshotter.v1`. With another image store, the engine uses `daemon.json`, for docker.io alone."
)
_KUBERNETES = (
    'For Kubernetes, `/etc/containerd/config.toml` needs `config_path = "/etc/containerd/certs.d"` in the section'
    ' `[plugins."io.containerd.cri.v1.images".registry]` or, with containerd 1, in'
    ' `[plugins."io.containerd.grpc.v1.cri".registry]`. Restart containerd after that change.'
)

CLIENTS = (
    Client(
        name="Docker Engine",
        folder="docker",
        programs=("dockerd",),
        files=_docker,
        reload="The engine reads `certs.d` at each pull. For `daemon.json`, run `systemctl reload docker`.",
        fallback="If the mirror fails, the engine pulls from the upstream.",
        limits=(
            _IMAGE_STORE,
            "A builder of `docker buildx` with the driver `docker-container` ignores these files: see BuildKit.",
        ),
    ),
    Client(
        name="containerd",
        folder="containerd",
        programs=("containerd",),
        files=_hosts,
        reload="containerd reads `certs.d` at each pull. For `ctr`, add `--hosts-dir /etc/containerd/certs.d`.",
        fallback="If the mirror fails, containerd pulls from the upstream.",
        limits=(_KUBERNETES,),
    ),
    Client(
        name="BuildKit",
        folder="buildkit",
        programs=("buildkitd",),
        files=_buildkit,
        reload="Create a new builder: `docker buildx create --use --driver docker-container --buildkitd-config"
        " /etc/buildkit/buildkitd.toml`. For a `buildkitd` of your own, restart `buildkitd`.",
        restarts=True,
        fallback="If the mirror fails, BuildKit pulls from the upstream.",
        limits=("The builder runs in a container: `localhost` in an address is then not this machine.",),
    ),
    Client(
        name="Podman, CRI-O, Buildah and Skopeo",
        folder="containers",
        programs=("podman", "crio", "buildah", "skopeo"),
        files=_containers,
        reload="Podman, Buildah and Skopeo read the files at each start. For CRI-O, run `systemctl reload crio`.",
        fallback="If the mirror fails, these programs pull from the upstream.",
        names_upstreams=False,
    ),
    Client(
        name="k3s",
        folder="rancher/k3s",
        programs=("k3s",),
        files=_rancher("k3s"),
        reload="`systemctl restart k3s` (on an agent: `k3s-agent`). Pods keep running.",
        restarts=True,
        fallback=f"If the mirror fails, k3s pulls from the upstream. {_DISABLED}",
    ),
    Client(
        name="RKE2",
        folder="rancher/rke2",
        programs=("rke2",),
        files=_rancher("rke2"),
        reload="`systemctl restart rke2-server` (on an agent: `rke2-agent`). Pods keep running.",
        restarts=True,
        fallback=f"If the mirror fails, RKE2 pulls from the upstream. {_DISABLED}",
    ),
)
