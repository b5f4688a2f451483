"""The question to an upstream, with the real distribution and busybox, and what `up` says about each answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.configuration.naming import COUNTERS_PORT, mirror_port
from components.configuration.settings import MirrorSettings, Settings
from components.render import upstream as rendered
from components.render.registry import (
    CONFIG_DIRECTORY,
    CREDENTIAL_HELPER,
    CREDENTIALS_FILE,
    DATA_DIRECTORY,
    SECRETS_DIRECTORY,
    credentials_file,
    mirror_files,
    upstream_environment,
)
from components.render.upstream import Upstream, question, warning
from tests.harness.certificates import authority, certificate_pair
from tests.harness.configuration import configuration, loaded
from tests.harness.processes import free_port
from tests.harness.upstreams import LOGIN, Manner, fake_registry, http_proxy

RIGHT, WRONG = LOGIN[1], "example-only-wrong"
Ask = Callable[..., str | None]


@pytest.fixture
def ask(tmp_path: Path, binary: Callable[[str], str]) -> Ask:
    """Ask an upstream as `up` does, with the files of the mirror in another folder; return the warning."""
    programs = tmp_path / "bin"
    programs.mkdir()
    subprocess.run([binary("busybox"), "--install", "-s", programs], check=True)
    (programs / "registry").symlink_to(binary("registry"))
    port = free_port()
    names = {"CONFIG": CONFIG_DIRECTORY, "SECRETS": SECRETS_DIRECTORY, "DATA": DATA_DIRECTORY, "shm": "/dev/shm"}

    def moved(text: str) -> str:
        for name, folder in names.items():
            text = text.replace(folder + "/", f"{tmp_path / name}/").replace(f"{folder}\n", f"{tmp_path / name}\n")
        text = text.replace(f":{CONFIG_DIRECTORY}", f":{tmp_path / 'CONFIG'}")
        text = re.sub(rf":{COUNTERS_PORT}\b", f":{free_port()}", text)
        return text.replace(f":{mirror_port('images.corp')}", f":{port}").replace("addr: :", "addr: 127.0.0.1:")

    def run(
        url: str,
        password: str | None = None,
        http_proxy: str | None = None,
        variables: Sequence[str] = ("OTEL_TRACES_EXPORTER=none",),
        **settings: Any,
    ) -> str | None:
        login = {"username": LOGIN[0]} if password else {}
        mirror = MirrorSettings.model_validate({"upstream": url, **login, **settings})
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
        for path, text in mirror_files("images.corp", mirror).items():
            Path(moved(path)).write_text(moved(text))
        Path(moved(CREDENTIAL_HELPER)).chmod(0o755)
        if password:
            (tmp_path / "SECRETS" / CREDENTIALS_FILE).write_text(credentials_file(LOGIN[0], password))
        environment = [*variables, *upstream_environment(mirror, stack_with(http_proxy))]
        upstream = Upstream(name="images.corp", mirror=mirror, environment=environment)
        program = [moved(word) for word in question(upstream)]
        answer = subprocess.run(
            [str(programs / program[0]), *program[1:]],
            # A proxy that Docker's client sets for all containers does not count.
            env={"PATH": str(programs), "http_proxy": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert "example-only" not in answer.stdout
        assert len(answer.stdout) < 10_000  # Pulumi keeps it
        assert answer.stdout.isascii()
        return warning(upstream, answer.stdout)

    return run


def stack_with(http_proxy: str | None) -> Settings:
    return loaded(configuration(**{"http_proxy": http_proxy} if http_proxy else {}))[0]


@pytest.mark.parametrize("password", [None, RIGHT])
@pytest.mark.parametrize("manner", ["open", "tokens", "hub"])
def test_an_upstream_that_answers_gives_no_warning(ask: Ask, manner: Manner, password: str | None) -> None:
    with fake_registry(manner) as registry:
        assert ask(registry.url, password) is None

    assert any("/manifests/sha256:" in path for path, _ in registry.requests)


@pytest.mark.parametrize("manner", ["private", "denying"])
def test_an_upstream_may_refuse_an_absent_repository_to_anonymous_mirrors(ask: Ask, manner: Manner) -> None:
    with fake_registry(manner) as registry:
        assert ask(registry.url) is None


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("tokens", "unauthorized: incorrect username or password"),
        ("hub", "unauthorized: incorrect username or password"),
        ("private", "unauthorized: incorrect username or password"),
        ("basic", "authentication required"),
        ("denying", "denied: denied"),
    ],
)
def test_a_refused_login_is_told_in_the_words_of_the_upstream(ask: Ask, manner: Manner, words: str) -> None:
    with fake_registry(manner) as registry:
        told = ask(registry.url, WRONG)

    assert told is not None
    assert told.startswith(f"mirror images.corp: the upstream {registry.url} refuses the login robot ({words}).")
    assert """pulumi config set --secret --path 'registry-stack:upstream_passwords["images.corp"]' < token""" in told


def test_the_right_login_of_an_upstream_without_tokens_gives_no_warning(ask: Ask) -> None:
    with fake_registry("basic") as registry:
        assert ask(registry.url, RIGHT) is None


def test_an_upstream_that_asks_for_a_login_is_told(ask: Ask) -> None:
    with fake_registry("basic") as registry:
        told = ask(registry.url)

    assert "asks for a login, and the mirror has none" in str(told)
    assert """pulumi config set --path 'registry-stack:mirrors["images.corp"].username' robot""" in str(told)


@pytest.mark.parametrize("password", [None, RIGHT])
@pytest.mark.parametrize("manner", ["foreign", "mute"])
def test_an_upstream_whose_login_a_mirror_cannot_use_is_told(ask: Ask, manner: Manner, password: str | None) -> None:
    with fake_registry(manner) as registry:
        told = str(ask(registry.url, password))

    assert f"the upstream {registry.url} answers 401 and offers no login that a mirror can use." in told
    assert f"curl -sI {registry.url}/v2/ | grep -i realm" in told


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("429", "refuses further requests for now (you have reached your pull rate limit)."),
        ("500", "answers with an error (received unexpected HTTP status: 500 Internal Server Error)."),
        ("404", "answers unexpectedly (error parsing HTTP 404 response body: no error details found"),
        ("large", "answers unexpectedly ("),
        ("deep", "answers unexpectedly ([[["),
    ],
)
def test_an_upstream_on_a_bad_day_is_told(ask: Ask, manner: Manner, words: str) -> None:
    with fake_registry(manner) as registry:
        assert words in str(ask(registry.url))


@pytest.mark.parametrize("manner", ["silent", "endless"])
def test_an_upstream_that_does_not_end_its_answer_is_told(
    ask: Ask, manner: Manner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "ANSWERS_WITHIN", 2)
    with fake_registry(manner) as registry:
        assert "gives no answer within 2 seconds." in str(ask(registry.url))


def test_an_upstream_that_nobody_answers_for_is_told(ask: Ask) -> None:
    assert "refuses the connection (dial tcp" in str(ask(f"http://127.0.0.1:{free_port()}"))
    assert "cannot be reached, because its name is not found (dial tcp: lookup" in str(ask("https://nowhere.invalid"))


def test_a_question_that_cannot_be_asked_is_told_with_the_last_words_of_the_program(ask: Ask) -> None:
    told = ask("http://127.0.0.1:1", variables=["OTEL_TRACES_EXPORTER=none", "REGISTRY_HTTP_ADDR=nonsense"])
    assert "could not be asked (" in str(told)
    assert "address nonsense: missing port in address" in str(told)

    upstream = Upstream(name="images.corp", mirror=MirrorSettings(upstream="https://images.corp"), environment=[])
    error = "docker: Error response from daemon: network rs-edge not found."
    assert f"could not be asked ({error})" in str(warning(upstream, f"{error}\n"))
    assert "gives no answer" in str(warning(upstream, "WARNING: Docker has no limits of swap.\nsilent\n"))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of a private authority, with its key."""
    file = tmp_path / "server.pem"
    file.write_text("".join(certificate_pair("localhost", "images.example.com").values()))
    return file


def test_a_private_authority_is_unknown_without_ca_and_trusted_with_it(ask: Ask, certificate: Path) -> None:
    with fake_registry("open", certificate) as registry:
        told = ask(registry.url)
        assert ask(registry.url, ca=authority().pair()["certificate"]) is None

    assert "has a certificate of an unknown authority (tls: failed to verify certificate: x509" in str(told)
    assert """pulumi config set --path 'registry-stack:mirrors["images.corp"].ca' < root.pem""" in str(told)


def test_a_certificate_for_another_host_is_told(ask: Ask, certificate: Path) -> None:
    with fake_registry("open", certificate) as registry:
        told = ask(registry.url.replace("localhost", "127.0.0.1"), ca=authority().pair()["certificate"])

    assert "has a certificate that is not valid (tls: failed to verify certificate: x509: cannot" in str(told)


def test_a_mirror_reaches_its_upstream_through_the_http_proxy(ask: Ask, certificate: Path) -> None:
    ca = authority().pair()["certificate"]
    with fake_registry("tokens", certificate) as registry:
        port = int(registry.url.rpartition(":")[2])
        with http_proxy(port) as (url, asked):
            registry.url = f"https://images.example.com:{port}"
            assert ask(registry.url, RIGHT, http_proxy=url, ca=ca) is None
        with http_proxy(port, "403 Forbidden") as (url, _):
            refused = ask(registry.url, http_proxy=url, ca=ca)
        down = ask(registry.url, http_proxy=url, ca=ca)

    assert set(asked) == {f"CONNECT images.example.com:{port}"}
    assert any(path.startswith("/token") for path, _ in registry.requests)
    assert "cannot be reached (Forbidden)." in str(refused)
    assert "cannot be reached, because `http_proxy` fails (proxyconnect tcp: dial tcp" in str(down)
