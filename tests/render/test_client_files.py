"""Each folder of ``client_files/`` holds what `clients` writes for a stack, byte for byte; people read the files.

``make golden`` writes them anew.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from components.configuration.fields import Endpoint
from components.render.clients import Mirror
from operations.clients.files import Mirrors, client_files
from operations.clients.page import PAGE, page

GOLDEN = Path(__file__).parent / "client_files"
OWN = (
    Mirror("docker.io", Endpoint("mirror.example.com", 443)),
    Mirror("ghcr.io", Endpoint("ghcr.mirror.example.com", 8443)),
)
SHARED = Endpoint("mirror.example.com", 443)
CASES = {
    "own-addresses": Mirrors(OWN, None, {"log-level": "info", "registry-mirrors": ["https://other.example.com"]}),
    "internal-authority": Mirrors(OWN, "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n", {}),
    "shared-address": Mirrors(
        (OWN[1], Mirror("quay.io", SHARED, is_shared=True), Mirror("registry.k8s.io", SHARED, is_shared=True)), None, {}
    ),
    "only-shared": Mirrors((Mirror("docker.io", SHARED, is_shared=True),), None, {}),
}


def rendered(case: str) -> dict[str, str]:
    files = client_files(CASES[case])
    return {name: text for own in files.values() for name, text in own.items()} | {PAGE: page(CASES[case], files)}


@pytest.mark.parametrize("case", CASES)
def test_mirrors_render_to_their_golden_files(case: str, request: pytest.FixtureRequest) -> None:
    files, folder = rendered(case), GOLDEN / case
    if request.config.getoption("--rewrite-golden"):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == found


def test_containerd_falls_back_to_the_api_origin_of_each_upstream() -> None:
    files = rendered("internal-authority")

    hub, ghcr = (tomllib.loads(files[f"docker/certs.d/{name}/hosts.toml"]) for name in ("docker.io", "ghcr.io"))
    assert hub["server"] == "https://registry-1.docker.io"
    assert ghcr["server"] == "https://ghcr.io"
    host = ghcr["host"]["https://ghcr.mirror.example.com:8443"]
    assert host["capabilities"] == ["pull", "resolve"]
    assert f"docker/certs.d/ghcr.io/{host['ca']}".replace("ghcr.io/../", "") in files


def test_docker_never_trusts_the_authority_of_the_stack_for_an_upstream() -> None:
    files = rendered("internal-authority")

    folders = {Path(name).parent.name for name in files if name.endswith(".crt") and "certs.d" in name}
    assert folders == {"mirror.example.com", "ghcr.mirror.example.com:8443"}


def test_daemon_json_has_the_mirror_of_docker_hub_first_and_keeps_the_rest() -> None:
    assert json.loads(rendered("own-addresses")["docker/daemon.json"]) == {
        "log-level": "info",
        "registry-mirrors": ["https://mirror.example.com", "https://other.example.com"],
    }
    assert "docker/daemon.json" not in rendered("shared-address"), "registry-mirrors is for Docker Hub alone"


def test_buildkit_has_a_mirror_for_each_upstream_and_trusts_the_authority() -> None:
    files = rendered("internal-authority")

    registries = tomllib.loads(files["buildkit/buildkitd.toml"])["registry"]
    assert registries["ghcr.io"] == {"mirrors": ["ghcr.mirror.example.com:8443"]}
    assert registries["ghcr.mirror.example.com:8443"] == {
        "http": False,
        "ca": ["/etc/buildkit/registry-stack-ca.crt"],
    }
    assert "buildkit/registry-stack-ca.crt" in files


def test_podman_gets_only_mirrors_with_an_address_of_their_own() -> None:
    files = rendered("shared-address")

    (registry,) = tomllib.loads(files["containers/registries.conf.d/50-registry-stack.conf"])["registry"]
    assert registry == {"location": "ghcr.io", "mirror": [{"location": "ghcr.mirror.example.com:8443"}]}
    assert "quay.io, registry.k8s.io: no mirror, because Podman" in files[PAGE]
    assert not any(name.startswith("containers/") for name in rendered("only-shared"))
    assert "## Not covered" in rendered("only-shared")[PAGE]


class Strict(BaseModel):
    """A part of `registries.yaml`, with the documented keys only."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Upstream(Strict):
    endpoint: list[str] = Field(min_length=1)
    rewrite: dict[str, str] = {}


class Auth(Strict):
    username: str = ""
    password: str = ""
    auth: str = ""


class Tls(Strict):
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    insecure_skip_verify: bool = False


class Server(Strict):
    auth: Auth | None = None
    tls: Tls | None = None


class Registries(Strict):
    """`registries.yaml` as k3s and RKE2 document it: upstreams in ``mirrors``, hosts of mirrors in ``configs``."""

    mirrors: dict[str, Upstream]
    configs: dict[str, Server] = {}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("distribution", ["k3s", "rke2"])
def test_k3s_and_rke2_have_an_endpoint_for_each_upstream_and_trust_the_authority(distribution: str, case: str) -> None:
    files, mirrors = rendered(case), CASES[case]

    registries = Registries.model_validate(yaml.safe_load(files[f"rancher/{distribution}/registries.yaml"]))

    assert registries.mirrors == {mirror.upstream: Upstream(endpoint=[str(mirror.address)]) for mirror in mirrors.every}
    trust = Server(tls=Tls(ca_file=f"/etc/rancher/{distribution}/registry-stack-ca.crt"))
    hosts = {mirror.address.netloc for mirror in mirrors.every} if mirrors.authority else set()
    assert registries.configs == dict.fromkeys(hosts, trust)
    assert (f"rancher/{distribution}/registry-stack-ca.crt" in files) == bool(mirrors.authority)


@pytest.mark.parametrize("case", CASES)
def test_page_lists_every_file_and_no_other(case: str) -> None:
    files = rendered(case)

    listed = [line.split("`")[1] for line in files[PAGE].splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(files.keys() - {PAGE})


def test_upstream_that_is_also_the_host_of_a_mirror_has_one_section() -> None:
    mirrors = Mirrors((Mirror("mirror.example.com", SHARED),), "certificate", {})

    text = client_files(mirrors)
    (toml,) = [one["buildkit/buildkitd.toml"] for one in text.values() if "buildkit/buildkitd.toml" in one]
    assert tomllib.loads(toml)["registry"].keys() == {"mirror.example.com"}
