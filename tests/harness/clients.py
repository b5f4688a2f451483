"""The clients that people use, each with its own credentials. Failures include the client's messages."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import httpx
from docker.models.containers import Container

from components.configuration.settings import ImageSettings
from tests.harness.images import random_layer, write_layout
from tests.harness.stack import Stack, engine_address

#: The images that the stacks run, also used as example images.
IMAGES = ImageSettings()
#: The same images under other names, by their keys, for updates.
OTHER_IMAGES = {name: f"localhost-test/{image}" for name, image in IMAGES}
MEGABYTE = 1 << 20
#: An upload that does not exist. The writer answers 404 to a user that the writer knows.
NO_UPLOAD = f"/v2/busy/push/blobs/uploads/{'0' * 8}-0000-0000-0000-{'0' * 12}"


def run(*command: str, stdin: str = "", variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a client and return its result, also after a failure."""
    return subprocess.run(
        command,
        input=stdin,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def execute(container: Container, *command: str, host: str = "") -> str:
    """The output of a command in a container, by the docker command: the SDK loses output on a busy engine.

    ``host`` is the address of the container's engine, if that is not the tests' engine.
    """
    answer = run("docker", "exec", str(container.id), *command, variables={"DOCKER_HOST": host or engine_address()})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


class DockerCli:
    """The docker command with its own configuration folder."""

    def __init__(self, folder: Path) -> None:
        self._variables = {
            "DOCKER_CONFIG": str(folder),
            "DOCKER_HOST": engine_address(),
            # Every docker command has this builder, also without the buildx plugin.
            "DOCKER_BUILDKIT": "0",
        }

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run("docker", *arguments, stdin=stdin, variables=self._variables)

    def login(self, stack: Stack, user: str, password: str | None = None) -> subprocess.CompletedProcess[str]:
        """``docker login --password-stdin``."""
        arguments = ("login", stack.registry, "--username", user, "--password-stdin")
        return self(*arguments, stdin=stack.users[user] if password is None else password)


class Skopeo:
    """skopeo as one user of the stack or without a login. It trusts the stack's own authority.

    ``registry`` is another host name of the stack.
    """

    def __init__(self, stack: Stack, folder: Path, user: str | None, registry: str = "") -> None:
        self._registry = registry or stack.registry
        self._auth = folder / f"auth-{user}.json"
        login = base64.b64encode(f"{user}:{stack.users[user]}".encode()).decode() if user else None
        self._auth.write_text(json.dumps({"auths": {self._registry: {"auth": login}} if login else {}}))
        self._certificates = stack.certificate_file.parent

    def push(self, layout: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Copy an OCI layout to ``name`` in the registry."""
        return self.copy(f"oci:{layout}", f"docker://{self._registry}/{name}", *options)

    def pull(self, name: str, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Copy ``name`` from the registry into a new OCI layout."""
        return self.copy(f"docker://{self._registry}/{name}", f"oci:{target}", *options)

    def copy(self, source: str, target: str, *options: str) -> subprocess.CompletedProcess[str]:
        """``skopeo copy``."""
        sides = []
        for side, name in (("src", source), ("dest", target)):
            if name.startswith("docker://"):
                sides += [f"--{side}-cert-dir={self._certificates}"]
        return run("skopeo", "copy", f"--authfile={self._auth}", *sides, *options, source, target)

    def delete(self, name: str) -> subprocess.CompletedProcess[str]:
        """``skopeo delete``: the manifest, with every tag of the manifest."""
        return self._one("delete", name)

    def inspect(self, name: str) -> subprocess.CompletedProcess[str]:
        """``skopeo inspect --raw``: the manifest."""
        return self._one("inspect", name, "--raw")

    def list_tags(self, repository: str) -> subprocess.CompletedProcess[str]:
        """``skopeo list-tags``: JSON with every tag."""
        return self._one("list-tags", repository)

    def _one(self, verb: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        certificates = f"--cert-dir={self._certificates}"
        target = f"docker://{self._registry}/{name}"
        return run("skopeo", verb, f"--authfile={self._auth}", certificates, *options, target)


def engine() -> docker.DockerClient:
    """A client of the tests' engine."""
    return docker.DockerClient(base_url=engine_address(), version="auto", timeout=300)


def containers(client: docker.DockerClient, prefix: str) -> dict[str, Container]:
    """The containers of a stack by role, including carriers."""
    label = {"label": f"registry-stack.prefix={prefix}"}
    found = client.containers.list(all=True, filters=label, ignore_removed=True)
    return {container.labels["registry-stack.role"]: container for container in found}


def wait_for_port(port: int, trust: ssl.SSLContext | None = None) -> None:
    """Wait until a loopback port answers HTTP, or HTTPS with a trusted certificate. Fail after 180 seconds."""
    deadline = time.monotonic() + 180
    while True:
        try:
            httpx.get(f"http{'s' if trust else ''}://localhost:{port}/v2/", verify=trust or True, timeout=2)
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def upstream(client: docker.DockerClient, network: str, alias: str, port: int) -> Iterator[Container]:
    """A registry without a login. Mirrors on ``network`` use ``alias``; pushes use a loopback port."""
    run("docker", "rm", "--force", "rs-test-upstream", variables={"DOCKER_HOST": engine_address()})
    config = 'version: 0.1\nstorage: {filesystem: {rootdirectory: /tmp/data}}\nhttp: {addr: ":5000"}\n'
    container = client.containers.run(
        IMAGES.registry,
        name="rs-test-upstream",
        detach=True,
        ports={"5000/tcp": ("127.0.0.1", port)},
        entrypoint=["/bin/sh", "-c", 'echo "$CONFIG" > /tmp/config.yml && exec registry serve /tmp/config.yml'],
        environment={"CONFIG": config},
    )
    try:
        client.networks.get(network).connect(container, aliases=[alias])
        wait_for_port(port)
        yield container
    finally:
        container.remove(force=True, v=True)


def wait_until_healthy(client: docker.DockerClient, name: str) -> None:
    """Wait until a container is healthy. Fail after 180 seconds."""
    deadline = time.monotonic() + 180
    while client.containers.get(name).attrs["State"]["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, f"{name} is not healthy after 180 seconds"
        time.sleep(0.5)


#: Client operations that may fail in one `up` that replaces registry processes or reloads the proxy, per proxy server.
#: The process that stops can close its port on a layer that has just begun to arrive, and what was sent is lost: so it
#: was in 5 of 190 replacements behind Caddy. nginx also aborts a layer if the target container is gone while nginx
#: resolves the name again. A reload of Caddy stops its servers with Go's `http.Server.Shutdown`, which drops a request
#: that arrives at that moment.
LOST_BY_REPLACEMENT = {"caddy": 1, "nginx": 2}
LOST_BY_RELOAD = {"caddy": 2, "nginx": 0}


@contextmanager
def clients_at_work(pusher: Skopeo, puller: Skopeo, folder: Path, *push_options: str) -> Iterator[dict[str, list[str]]]:
    """Push and pull in a loop while the block runs. Yield the failures, and the finished operations under ``done``."""
    results: dict[str, list[str]] = {"done": [], "failed": []}
    stop = threading.Event()

    def loop(work: Callable[[int], str]) -> None:
        number = 0
        # The pause leaves CPU for the `up`: clients without a pause use a small machine completely.
        while not stop.wait(1) and number < 2000:
            number += 1
            error = work(number)
            results["failed" if error else "done"].append(error or str(number))

    def push(number: int) -> str:
        layout = folder / f"push-{number}"
        write_layout(layout, [random_layer(MEGABYTE), random_layer(1000)])
        answer = pusher.push(layout, f"busy/push:{number}", *push_options)
        return f"push: {answer.stderr}" if answer.returncode else ""

    def pull(number: int) -> str:
        answer = puller.pull("busy/pull:1", folder / f"pull-{number}")
        return f"pull: {answer.stderr}" if answer.returncode else ""

    threads = [threading.Thread(target=loop, args=(work,)) for work in (push, pull)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def containers_started(client: docker.DockerClient) -> Iterator[dict[str, float]]:
    """The containers that start while the block runs, with the seconds that they ran."""
    ran: dict[str, float] = {}
    since = time.time()
    yield ran
    events = list(client.events(since=since, until=time.time(), filters={"type": "container"}, decode=True))
    started = {event["Actor"]["ID"]: event["timeNano"] for event in events if event["Action"] == "start"}
    ended = {event["Actor"]["ID"]: event["timeNano"] for event in events if event["Action"] == "die"}
    ran |= {one: (ended[one] - moment) / 1e9 for one, moment in started.items()}
