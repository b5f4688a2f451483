"""The pipelines of examples/ on real engines: comments, `up`, drift, and an application on its way to a server."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import pytest
import yaml

from tests.engine.ci_systems import FORGES, PLACES, Repository
from tests.engine.job_images import MOUNT, job_images
from tests.engine.second_engine import second_engine
from tests.engine.sshd import ssh_host
from tests.harness import clients
from tests.harness.configuration import ROOT
from tests.harness.forge import TOKEN, forge
from tests.harness.small_stack import PREFIX, PROXIES, REGISTRY_PORT, DockerHost, running_stack, small_stack
from tests.harness.stack import STACK, Stack, engine_address

pytestmark = [
    pytest.mark.once,
    pytest.mark.any_proxy,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount the programs of the jobs"),
]

EXAMPLES = ROOT / "examples"
USERS = small_stack()["registry"]["users"] | {"woodpecker": {"role": "push"}}
each_system = pytest.mark.parametrize("system", PLACES)


@dataclass(frozen=True)
class Server:
    """A machine with an engine of its own, which a pipeline reaches by ssh."""

    address: str
    key: str
    known_hosts: str
    engine: str


def edited(text: str, values: Mapping[str, str]) -> str:
    """A file of examples/ with the names that docs/pipelines.md says to replace."""
    for name, value in values.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """The stack's Docker host, which is reached over ssh."""
    folder = tmp_path_factory.mktemp("host")
    with ssh_host(folder, engine_address()) as (address, path):
        yield server(folder, address, engine_address()), f"{path}:"


def server(folder: Path, address: str, engine: str) -> Server:
    return Server(address, (folder / "client").read_text(), (folder / "known_hosts").read_text(), engine)


@pytest.fixture(scope="module")
def stack(
    client: docker.DockerClient, host: tuple[Server, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A deployed stack."""
    docker_host = DockerHost(host[0].address, PROXIES["caddy"], host[1])
    registry = small_stack()["registry"] | {"users": USERS}
    with running_stack(client, docker_host, tmp_path_factory.mktemp("stack"), registry=registry) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def images(stack: Stack) -> Iterator[None]:
    """The images that the pipelines name."""
    texts = [file.read_text() for file in EXAMPLES.glob("*/*.yml")]
    names = {name for text in texts for name in re.findall(r"\b(?:pulumi/pulumi|docker):[\d.]+(?:-cli)?", text)}
    with job_images(names, stack.folder / "state"):
        yield


@pytest.fixture(scope="module")
def infrastructure(
    stack: Stack, host: tuple[Server, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Repository]:
    """The repository of the stack, with the pipeline of each CI system."""
    folder = tmp_path_factory.mktemp("infrastructure") / "name"
    folder.mkdir()
    for name in ("Pulumi.yaml", "__main__.py", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("components", "operations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stack.file, folder)
    (folder / "known_hosts").write_text(host[0].known_hosts)
    names = {"s3://BUCKET": f"file://{MOUNT}/state", "PULUMI_STACK: prod": f"PULUMI_STACK: {STACK}"}
    install("infrastructure", folder, names)
    secrets = {
        "PULUMI_CONFIG_PASSPHRASE": stack.environment["PULUMI_CONFIG_PASSPHRASE"],
        "AWS_ACCESS_KEY_ID": "not needed here",
        "AWS_SECRET_ACCESS_KEY": "not needed here",
        "SSH_KEY": host[0].key,
        "COMMENT_TOKEN": TOKEN,
    }
    Repository(folder, "", secrets).init()
    return lambda url: Repository(folder, url, secrets)


def install(kind: str, folder: Path, names: Mapping[str, str]) -> None:
    """Copy the pipelines to their places."""
    for system, place in PLACES.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(edited((EXAMPLES / kind / f"{system}.yml").read_text(), names))


def succeeded(done: subprocess.CompletedProcess[str], secrets: Mapping[str, str]) -> str:
    output = done.stdout + done.stderr
    print(output)
    assert done.returncode == 0
    assert not any(secret in output for secret in secrets.values() if len(secret) > 20), "a secret is in the log"
    return output


def accepted(stack: Stack, user: str, password: str) -> bool:
    """Whether the registry accepts a login."""
    url = f"{stack.values['registry']['url']}/v2/"
    return httpx.get(url, auth=(user, password), verify=stack.trust).status_code == 200


@each_system
def test_a_pull_request_gets_a_comment_main_is_deployed_and_drift_is_found(
    system: str, stack: Stack, infrastructure: Callable[[str], Repository], client: docker.DockerClient
) -> None:
    user = f"user-{system}"
    with forge(FORGES[system]) as server:
        repository = infrastructure(server.url)
        added = subprocess.run(
            [*"python -m operations credentials add".split(), user, "--role", "pull", "--stack", STACK],
            cwd=repository.folder,
            env=stack.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        repository.commit()

        succeeded(repository.run(system, "pull_request"), repository.secrets)
        [comment] = server.bodies()
        assert user in comment
        assert not accepted(stack, user, added.stdout.strip()), "a pull request was deployed"

        succeeded(repository.run(system, "push"), repository.secrets)
        assert accepted(stack, user, added.stdout.strip())

        reader = clients.containers(client, PREFIX)["reader"]
        reader.stop()
        try:
            nightly = repository.run(system, "schedule")
        finally:
            reader.start()
        assert nightly.returncode != 0
        assert "reader" in nightly.stdout + nightly.stderr
        assert server.bodies() == [comment]


def test_a_refused_configuration_is_a_comment_and_a_nightly_check_without_drift_passes(
    infrastructure: Callable[[str], Repository],
) -> None:
    with forge("gitea") as server:
        repository = infrastructure(server.url)
        succeeded(repository.run("woodpecker", "schedule"), repository.secrets)
        file = repository.folder / f"Pulumi.{STACK}.yaml"
        before = file.read_text()
        changed = yaml.safe_load(before)
        changed["config"]["registry-stack:registry"]["log_level"] = "loud"
        file.write_text(yaml.safe_dump(changed))
        try:
            refused = repository.run("woodpecker", "pull_request")
        finally:
            file.write_text(before)

        assert refused.returncode == 1, refused.stdout
        assert "registry.log_level" in server.bodies()[0]


@pytest.fixture(scope="module")
def production(stack: Stack, tmp_path_factory: pytest.TempPathFactory, host: tuple[Server, str]) -> Iterator[Server]:
    """A server with an engine that reaches the registry, logged in as docs/pipelines.md says."""
    folder = tmp_path_factory.mktemp("server")
    (folder / ".docker" / "cli-plugins").mkdir(parents=True)
    (folder / ".docker" / "cli-plugins" / "docker-compose").symlink_to(ROOT / ".local" / "bin" / "docker-compose")
    with second_engine(REGISTRY_PORT) as engine, ssh_host(folder, engine) as (address, path):
        login = f"docker login {stack.registry} --username production --password-stdin"
        command = [path / "ssh", address, login]
        subprocess.run(command, input=stack.users["production"], text=True, check=True, capture_output=True)
        yield server(folder, address, engine)


@pytest.fixture
def application(system: str, stack: Stack, production: Server, tmp_path: Path) -> Iterator[Repository]:
    """The repository of an application with the pipeline of a CI system."""
    folder, target = tmp_path / "name", tmp_path / f"app-{system}"
    folder.mkdir()
    target.mkdir()
    for name in ("Dockerfile", "index.html"):
        shutil.copy(EXAMPLES / "application" / name, folder)
    names = {"registry.example.com": stack.registry, "my-app/backend": f"{system}/backend"}
    (folder / "compose.yaml").write_text(edited((EXAMPLES / "application" / "compose.yaml").read_text(), names))
    (folder / "known_hosts").write_text(production.known_hosts)
    install("application", folder, names | {"/opt/my-app": str(target), "deploy@app.example.com": production.address})
    user = "woodpecker" if system == "woodpecker" else "ci"
    secrets = {"REGISTRY_PASSWORD": stack.users[user], "DEPLOY_KEY": production.key}
    repository = Repository(folder, "https://git.example.com", secrets)
    repository.init()
    yield repository
    with connected(production.engine) as api:
        for container in api.containers.list(all=True):
            container.remove(force=True)


def connected(address: str) -> contextlib.closing[docker.DockerClient]:
    return contextlib.closing(docker.DockerClient(base_url=address, version="auto", timeout=300))


@dataclass(frozen=True)
class Running:
    """The application on the server."""

    labels: Mapping[str, str]
    page: str
    built: str
    health: str


def running(production: Server) -> Running:
    with connected(production.engine) as api:
        [container] = api.containers.list()

        def text(path: str) -> str:
            return clients.execute(container, "cat", path, host=production.engine)

        labels = {name: value for name, value in container.labels.items() if name.startswith(label(""))}
        return Running(labels, text("index.html"), text("built"), container.attrs["State"]["Health"]["Status"])


def label(name: str) -> str:
    return f"org.opencontainers.image.{name}"


@each_system
def test_an_application_is_built_pushed_deployed_and_rolled_back(
    system: str,
    application: Repository,
    production: Server,
    client: docker.DockerClient,
    skopeo: Callable[[str | None], clients.Skopeo],
) -> None:
    first = application.head

    succeeded(application.run(system, "push"), application.secrets)

    one = running(production)
    assert (one.health, one.page) == ("healthy", "<p>Hello</p>\n")
    assert one.labels[label("revision")] == first
    assert one.labels[label("version")] == "main"
    assert one.labels[label("source")].endswith("/owner/name")
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(one.labels[label("created")])
    assert datetime.timedelta() <= age < datetime.timedelta(minutes=30)

    forget(client, f"{system}/backend")
    (application.folder / "index.html").write_text("<p>Hello again</p>\n")
    second = application.commit()
    application.git("tag", "v1.0.0")

    succeeded(application.run(system, "tag", "v1.0.0"), application.secrets)

    two = running(production)
    assert (two.page, two.labels[label("revision")], two.labels[label("version")]) == (
        "<p>Hello again</p>\n",
        second,
        "v1.0.0",
    )
    assert two.built == one.built, "the build did not use the cache in the registry"
    tags = json.loads(skopeo("production").list_tags(f"{system}/backend").stdout)["Tags"]
    assert set(tags) == {"main", "v1.0.0", first, second}

    succeeded(application.run(system, "rollback", first), application.secrets)

    assert running(production) == one


def forget(client: docker.DockerClient, name: str) -> None:
    """Remove the images of an application and the cache of builds, as on a runner that never built it."""
    for image in client.images.list():
        if any(f"/{name}:" in tag for tag in image.tags):
            client.images.remove(image.id, force=True)
    client.api.prune_builds(all=True)
