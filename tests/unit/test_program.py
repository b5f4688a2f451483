"""The whole program under mocks: what it declares, how it is wired, what is protected and what is secret."""

from __future__ import annotations

import base64
import functools
import io
import json
import signal
import subprocess
import sys
import tarfile
from typing import Any

import pulumi
import pytest
import yaml

from components.configuration.problems import ConfigError
from components.configuration.settings import Secrets, Settings
from operations.stack import DeployedUser
from tests.harness.certificates import certificate_pair
from tests.harness.configuration import ROOT, configuration, example_password, loaded
from tests.unit.recorder import Recording, run_program


@functools.cache
def production() -> Recording:
    """The program with the shipped ``Pulumi.prod.yaml`` and the secrets that it asks for."""
    written = yaml.safe_load((ROOT / "Pulumi.prod.yaml").read_text())["config"]
    values = {key.removeprefix("registry-stack:"): value for key, value in written.items()}
    users = values["registry"]["users"]
    values |= {"stack_secret": "5" * 64, "passwords": {user: example_password(user) for user in users}}
    return run_program(values)


def with_secret_everything() -> dict[str, Any]:
    mirrors = {"ghcr.io": {"url": "https://ghcr.example.com", "allow": ["10.0.0.0/8"], "username": "robot"}}
    return configuration(mirrors=mirrors, upstream_passwords={"ghcr.io": "example-only-upstream-token"})


def test_the_production_example_reports_every_missing_secret_at_once() -> None:
    written = yaml.safe_load((ROOT / "Pulumi.prod.yaml").read_text())["config"]
    values = {key.removeprefix("registry-stack:"): value for key, value in written.items()}

    with pytest.raises(pulumi.RunError) as caught:
        run_program(values)

    for key in ("stack_secret", "passwords.woodpecker", "passwords.production", "passwords.admin"):
        assert key in str(caught.value)


def test_the_inventory_is_exactly_this() -> None:
    kinds = {
        kind: sorted(production().of_type(kind))
        for kind in (":Network", ":Volume", ":RemoteImage", ":Container", ":Command", "pulumi:providers:docker")
    }

    assert kinds == {
        ":Network": ["backend", "edge"],
        ":Volume": [
            "mirror-docker-io-cache",
            "mirror-docker-io-config",
            "mirror-ghcr-io-cache",
            "mirror-ghcr-io-config",
            "proxy-config",
            "proxy-data",
            "proxy-issued-data",
            "registry-admin-secrets",
            "registry-config",
            "registry-data",
            "registry-reader-secrets",
            "registry-writer-secrets",
        ],
        ":RemoteImage": ["caddy-image", "registry-image"],
        ":Container": [
            "mirror-docker-io-config-carrier",
            "mirror-docker-io-container",
            "mirror-ghcr-io-config-carrier",
            "mirror-ghcr-io-container",
            "proxy-config-carrier",
            "proxy-container",
            "registry-admin",
            "registry-config-carrier",
            "registry-reader",
            "registry-secrets-carrier",
            "registry-writer",
        ],
        ":Command": [
            "mirror-docker-io-upstream",
            "mirror-ghcr-io-upstream",
            "process-limit",
            "proxy-reload",
            "proxy-validation",
            "registry-secrets-swap",
            "stores-owner",
        ],
        "pulumi:providers:docker": ["docker-host"],
    }


def test_every_docker_resource_uses_the_explicit_provider() -> None:
    resources = [one for one in production().resources.values() if one.type.startswith("docker:")]

    assert len(resources) == 27
    assert all("docker-host" in one.request.provider for one in resources)


def test_only_the_proxy_publishes_ports() -> None:
    publishing = {name: one.inputs["ports"] for name, one in production().of_type(":Container").items()
                  if "ports" in one.inputs}  # fmt: skip

    assert list(publishing) == ["proxy-container"]
    assert [port["external"] for port in publishing["proxy-container"]] == [80, 443]


def test_the_private_registry_has_no_way_out_and_mirrors_have_one() -> None:
    networks = production().of_type(":Network")
    containers = production().of_type(":Container")

    assert networks["backend"].inputs["internal"] is True
    assert networks["edge"].inputs["internal"] is False
    assert [one["name"] for one in containers["registry-writer"].inputs["networksAdvanced"]] == [
        "registry-stack-backend"
    ]


def test_every_running_container_is_hardened() -> None:
    running = {name: one for name, one in production().of_type(":Container").items() if "carrier" not in name}

    assert len(running) == 6
    for name, container in running.items():
        inputs = container.inputs
        assert inputs["readOnly"] is True, name
        assert inputs["capabilities"]["drops"] == ["ALL"], name
        assert inputs["securityOpts"] == ["no-new-privileges:true"], name
        assert inputs["memory"] == inputs["memorySwap"], name
        assert inputs["healthcheck"], name
        assert inputs["wait"] is True, name
        assert inputs["destroyGraceSeconds"] > inputs["stopTimeout"], name
        assert "#initerror" in container.request.replaceOnChanges, name
        assert not any("SECRET" in value or "PASSWORD" in value for value in inputs.get("envs", [])), name


def test_processes_of_the_registry_and_mirrors_know_how_much_memory_they_may_use() -> None:
    containers = run_program(configuration()).of_type(":Container")

    for name in ("registry-reader", "registry-writer", "registry-admin", "mirror-docker-io-container"):
        inputs = containers[name].inputs
        assert f"GOMEMLIMIT={inputs['memory'] * 0.8:.0f}MiB" in inputs["envs"]


def test_the_reader_cannot_write_and_each_process_reads_its_own_configuration() -> None:
    containers = production().of_type(":Container")
    for process in ("reader", "writer", "admin"):
        inputs = containers[f"registry-{process}"].inputs
        data = next(one for one in inputs["volumes"] if one["containerPath"] == "/var/lib/registry")
        assert data["readOnly"] is (process == "reader")
        does = "reads" if process == "reader" else "writes"
        assert inputs["command"][-4:] == [f"/etc/distribution/{process}.yml", "/var/lib/registry", "registry", does]


@pytest.mark.parametrize("sent", [None, signal.SIGTERM, signal.SIGQUIT], ids=["by-itself", "SIGTERM", "SIGQUIT"])
def test_a_service_hands_signals_on_and_ends_with_the_status_of_its_program(sent: signal.Signals | None) -> None:
    start = production().of_type(":Container")["registry-reader"].inputs["entrypoints"]
    program = "import signal, sys, time\n"
    program += f"signal.signal({int(sent or signal.SIGTERM)}, lambda *_: (time.sleep(0.5), sys.exit(7)))\n"
    program += "print('ready', flush=True)\n" + ("time.sleep(120)" if sent else "sys.exit(7)")
    # What `nohup` or a script's `&` started ignores SIGQUIT, and so would this shell, though none in a container.
    start = ["env", "--default-signal=QUIT", *start, sys.executable, "-c", program]

    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        if sent:
            service.send_signal(sent)
        assert service.wait(timeout=60) == 7


def test_processes_are_replaced_create_first_and_the_rest_delete_first() -> None:
    order = {
        name: (one.request.deleteBeforeReplaceDefined, one.request.deleteBeforeReplace, "name" in one.inputs)
        for name, one in production().of_type(":Container").items()
        if "carrier" not in name
    }

    assert order == {
        "registry-reader": (True, False, False),
        "registry-writer": (True, False, False),
        "registry-admin": (True, False, False),
        "mirror-docker-io-container": (True, True, True),
        "mirror-ghcr-io-container": (True, True, True),
        "proxy-container": (True, True, True),
    }


def test_volumes_with_data_are_protected_and_kept_and_the_others_are_not() -> None:
    kept = {
        name
        for name, one in production().of_type(":Volume").items()
        if one.request.protect and one.request.retainOnDelete and "labels" in one.request.ignoreChanges
    }

    assert kept == {
        "registry-data",
        "proxy-data",
        "proxy-issued-data",
        "mirror-docker-io-cache",
        "mirror-ghcr-io-cache",
    }
    former = {
        name: {str(alias.spec.parentUrn).partition(":components:")[2] for alias in one.request.aliases}
        for name, one in production().of_type(":Volume").items()
        if name in kept
    }
    assert former == {
        "registry-data": {"PrivateRegistry::registry"},
        "proxy-data": {"TlsProxy::proxy"},
        "proxy-issued-data": {"TlsProxy::proxy"},
        "mirror-docker-io-cache": {"PullThroughMirror::mirror-docker-io"},
        "mirror-ghcr-io-cache": {"PullThroughMirror::mirror-ghcr-io"},
    }, "a stack of a former program finds its volumes again"


@pytest.mark.parametrize(
    "proxy",
    [
        {"certificates": {"acme": {"email": "ops@example.com"}}},
        {"server": "nginx", "certificates": {"internal": {}}},
        {"certificates": {"files": {}}},
        {"server": "none", "address": "127.0.0.1"},
    ],
)
def test_data_cannot_lie_in_any_volume_of_the_stacks_own(proxy: dict[str, Any]) -> None:
    pairs = {host: certificate_pair(host) for host in ("registry.example.com", "ghcr.example.com")}
    values = with_secret_everything() | {"proxy": proxy}
    if "files" in proxy.get("certificates", {}):
        values["certificates"] = pairs
    declared = {one.inputs["name"]: name for name, one in run_program(values).of_type(":Volume").items()}

    refused: dict[str, set[str]] = {}
    for name in declared:
        for key in ("registry", "mirrors"):
            stored = json.loads(json.dumps(values))
            (stored[key] if key == "registry" else stored[key]["ghcr.io"])["storage"] = {"volume": name}
            try:
                loaded(stored)
            except ConfigError as error:
                refused.setdefault(key, set()).update(one.found for one in error.problems)

    assert refused["registry"] == declared.keys() - {"registry-stack-registry-data"}
    assert refused["mirrors"] == declared.keys() - {"registry-stack-mirror-ghcr-io-cache"}


def test_secrets_are_secret_where_they_travel_and_nowhere_else() -> None:
    recording = run_program(with_secret_everything())

    assert {name: one.secret_paths for name, one in recording.resources.items() if one.secret_paths} == {
        "proxy-validation": {"stdin"},
        "registry-secrets-carrier": {f"uploads.{index}.content" for index in range(4)},
        "mirror-ghcr-io-secrets-carrier": {"uploads.0.content"},
    }


def test_no_secret_value_appears_in_a_plain_input_or_an_export() -> None:
    recording = run_program(with_secret_everything())
    plain = json.dumps(
        [one.inputs for name, one in recording.resources.items() if not name.endswith("secrets-carrier")]
        + [recording.exports]
    )

    for secret in (example_password("boss"), "example-only-upstream-token", "5" * 64):
        assert secret not in plain


def test_the_outputs_have_their_stable_names() -> None:
    exports = production().exports

    assert set(exports) == {"registry_url", "mirror_urls", "docker_host", "services", "users", "configuration"}
    assert exports["registry_url"] == "https://registry.example.com"
    assert exports["mirror_urls"] == {
        "docker.io": "https://mirror.example.com",
        "ghcr.io": "https://ghcr.mirror.example.com",
    }
    assert set(exports["services"]) == {"reader", "writer", "admin", "mirror-docker-io", "mirror-ghcr-io", "proxy"}


def test_the_address_of_all_mirrors_is_an_output_beside_the_own_addresses() -> None:
    mirrors = {"docker.io": {"allow": ["10.0.0.0/8"]}, "ghcr.io": configuration()["mirrors"]["docker.io"]}

    exports = run_program(configuration(mirrors=mirrors, mirror_url="https://all.example.com")).exports

    assert exports["mirror_url"] == "https://all.example.com"
    assert exports["mirror_urls"] == {"ghcr.io": "https://mirror.example.com"}
    assert exports["configuration"]["settings"]["mirror_url"] == "https://all.example.com"


def test_a_preview_shows_each_user_on_a_line_that_changes_with_role_and_password_alone() -> None:
    def users(**changes: Any) -> Any:
        return run_program(configuration(**changes)).exports["users"]

    before = users()
    passwords = configuration()["passwords"] | {"boss": example_password("changed")}
    after = users(passwords=passwords)

    assert DeployedUser.model_validate(before["woodpecker"]).role == "push"
    assert {user for user in before if before[user] != after[user]} == {"boss"}


def test_a_user_whose_last_day_is_past_is_in_no_file() -> None:
    users = configuration()["registry"]["users"] | {"production": {"role": "pull", "expires": "2020-01-31"}}

    recording = run_program(configuration(registry=configuration()["registry"] | {"users": users}))

    uploads = json.dumps(recording.resources["registry-secrets-carrier"].inputs["uploads"])
    assert "woodpecker:$2b$" in uploads
    assert "production:" not in uploads
    assert "production" not in recording.exports["users"]


def test_anonymous_pull_is_one_more_process_without_a_login_that_cannot_write() -> None:
    registry = configuration()["registry"] | {"anonymous_url": "https://public.example.com"}
    recording = run_program(configuration(registry=registry, acknowledge=["anonymous_pull"]))

    public = recording.resources["registry-public"].inputs
    data = next(one for one in public["volumes"] if one["containerPath"] == "/var/lib/registry")
    assert data["readOnly"] is True
    assert {one["containerPath"] for one in public["volumes"]} == {"/etc/distribution", "/var/lib/registry"}
    assert recording.exports["anonymous_url"] == "https://public.example.com"
    assert "public" in recording.exports["services"]


def test_what_acme_needs_lies_where_the_configuration_looks_for_it_and_the_mac_key_is_nowhere_else() -> None:
    acme = {
        "email": "ops@example.com",
        "directory": "https://ca.example.com/directory",
        "root": certificate_pair("ca.example.com")["certificate"],
        "eab": {"key_id": "kid-1"},
    }
    mac_key = "ZXhhbXBsZS1vbmx5LW1hYy1rZXk"
    recording = run_program(configuration(proxy={"certificates": {"acme": acme}}, acme_eab_mac_key=mac_key))

    carrier = recording.resources["proxy-certificates-carrier"]
    configured = json.dumps(recording.resources["proxy-config-carrier"].inputs)
    assert carrier.secret_paths == {"uploads.0.content", "uploads.1.content"}
    assert {upload["file"].rpartition("/")[2] for upload in carrier.inputs["uploads"]} == {
        "acme-root.crt",
        "acme-eab-mac-key",
    }
    for upload in carrier.inputs["uploads"]:
        assert upload["file"] in configured
    others = {name: one.inputs for name, one in recording.resources.items() if one is not carrier}
    assert mac_key not in json.dumps(others)


def with_files(**others: dict[str, str]) -> dict[str, Any]:
    hosts = ("registry.example.com", "mirror.example.com")
    given = {host: certificate_pair(host) for host in hosts}
    return configuration(proxy={"certificates": {"files": {}}}, certificates=given | others)


def uploads(recording: Recording, carrier: str) -> dict[str, str]:
    """What a carrier delivers, by path."""
    inputs = recording.resources[carrier].inputs
    return {upload["file"]: shown(upload["content"]) for upload in inputs["uploads"]}


def shown(value: Any) -> str:
    return str(value["value"] if isinstance(value, dict) else value)


def tried(recording: Recording, validation: str) -> dict[str, str]:
    """What a program reads before anything is delivered, by path."""
    packed = base64.b64decode(shown(recording.resources[validation].inputs["stdin"]))
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {f"/{entry.name}": tar.extractfile(entry).read().decode() for entry in tar}  # type: ignore[union-attr]


@pytest.mark.parametrize("part", ["no PEM", certificate_pair("former.example.com")["certificate"]])
def test_a_certificate_that_serves_no_host_is_not_delivered_and_harms_nothing(part: str) -> None:
    recording = run_program(with_files(**{"former.example.com": {"certificate": part, "private_key": part}}))

    assert set(uploads(recording, "proxy-certificates-carrier")) == {
        f"/etc/proxy-certificates/{host}.{kind}"
        for host in ("registry.example.com", "mirror.example.com")
        for kind in ("crt", "key")
    }
    assert run_program(with_files()).resources["proxy-reload"].inputs == recording.resources["proxy-reload"].inputs


@pytest.mark.parametrize("server", ["caddy", "nginx"])
@pytest.mark.parametrize("source", ["files", "acme"])
def test_each_program_reads_what_it_gets_before_anything_is_delivered(server: str, source: str) -> None:
    values = with_files()
    if source == "acme":
        root = certificate_pair("ca.example.com")["certificate"]
        acme = {"email": "ops@example.com", "directory": "https://ca.example.com/directory", "root": root}
        values = configuration(proxy={"certificates": {"acme": acme}})
    values["proxy"]["server"] = server
    recording = run_program(values)
    roles = ["proxy", "proxy-issuer"] if server == "nginx" and source == "acme" else ["proxy"]

    given = uploads(recording, "proxy-certificates-carrier")
    for role in roles:
        assert tried(recording, f"{role}-validation") == given | uploads(recording, f"{role}-config-carrier")
    for carrier in ("proxy-certificates-carrier", "proxy-config-carrier"):
        after = {urn.rpartition("::")[2] for urn in recording.resources[carrier].request.dependencies}
        assert {f"{role}-validation" for role in roles} <= after


def test_files_of_former_hosts_are_removed_from_the_volume_after_the_reload() -> None:
    cleanup = run_program(with_files()).resources["proxy-certificates-cleanup"]
    kept = uploads(run_program(with_files()), "proxy-certificates-carrier")

    assert all(f"'!' -path {path} " in cleanup.inputs["create"] for path in kept)
    assert "proxy-reload" in {urn.rpartition("::")[2] for urn in cleanup.request.dependencies}


@pytest.mark.parametrize(
    "source",
    [
        {"internal": {}},
        {"acme": {"email": "ops@example.com"}},
        {"acme": {"email": "ops@example.com", "directory": "https://ca.example.com/dir", "eab": {"key_id": "kid-1"}}},
    ],
)
def test_beside_nginx_an_issuer_writes_the_certificates_that_nginx_alone_may_read(source: dict[str, Any]) -> None:
    key = "c2VjcmV0c2VjcmV0c2VjcmV0" if "eab" in source.get("acme", {}) else None
    recording = run_program(configuration(proxy={"server": "nginx", "certificates": source}, acme_eab_mac_key=key))

    def data(role: str) -> dict[str, tuple[str, bool]]:
        mounted = recording.resources[f"{role}-container"].inputs["volumes"]
        every = {one["containerPath"]: (one["volumeName"], one.get("readOnly", False)) for one in mounted}
        return {path: one for path, one in every.items() if path.startswith("/data")}

    issued = "/data/caddy/certificates", "registry-stack-proxy-issued-data"
    assert data("proxy") == {issued[0]: (issued[1], True)}, "the keys of authority and accounts are not for nginx"
    assert data("proxy-issuer") == {"/data": ("registry-stack-proxy-data", False), issued[0]: (issued[1], False)}
    networks = {
        role: {one["name"] for one in recording.resources[f"{role}-container"].inputs["networksAdvanced"]}
        for role in ("proxy", "proxy-issuer", "mirror-docker-io")
    }
    assert networks["proxy"] > networks["proxy-issuer"]
    assert not networks["proxy-issuer"] & networks["mirror-docker-io"]
    assert set(recording.of_type(":RemoteImage")) == {"caddy-image", "nginx-image", "registry-image"}
    assert {"proxy", "proxy-issuer"} < set(recording.exports["services"])
    volumes = recording.resources["proxy-container"].inputs["volumes"]
    assert {one["containerPath"] for one in volumes} == {"/etc/nginx-config", issued[0]}
    assert ("ca_certificate" in recording.exports) is ("internal" in source)


def test_the_internal_authority_is_an_output() -> None:
    exports = run_program(configuration(proxy={"certificates": {"internal": {}}})).exports

    assert exports["ca_certificate"].startswith("-----BEGIN CERTIFICATE-----")


def inputs_of(recording: Recording, kind: str) -> dict[str, dict[str, Any]]:
    return {name: one.inputs for name, one in recording.of_type(kind).items()}


def test_for_a_proxy_of_ones_own_services_publish_on_loopback_and_snippets_are_outputs() -> None:
    recording = run_program(configuration(proxy={"server": "none", "address": "127.0.0.2"}))

    ports = {
        name: [(port["ip"], port["external"]) for port in container.get("ports") or []]
        for name, container in inputs_of(recording, ":Container").items()
        if not name.endswith("carrier")
    }
    assert {address for own in ports.values() for address, _ in own} == {"127.0.0.2"}
    # A mirror also publishes the process that serves its cache alone.
    assert [len(ports[name]) for name in sorted(ports)] == [2, 1, 1, 1]
    assert set(ports) == {"registry-reader", "registry-writer", "registry-admin", "mirror-docker-io-container"}
    for snippet in ("caddy_snippet", "nginx_snippet"):
        used = [f"{address}:{port:.0f}" for own in ports.values() for address, port in own]
        assert all(place in recording.exports[snippet] for place in used)
    assert set(recording.of_type(":RemoteImage")) == {"registry-image"}
    assert "ca_certificate" not in recording.exports
    # Published ports need a network that is not internal; without masquerading nothing leaves it all the same.
    loopback = inputs_of(recording, ":Network")["loopback"]
    assert loopback["options"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


def test_for_a_proxy_of_ones_own_the_engine_is_asked_first_unless_what_it_does_is_acknowledged() -> None:
    values = configuration(proxy={"server": "none", "address": "127.0.0.1"})

    assert "docker version" in inputs_of(run_program(values), ":Command")["engine-version"]["create"]
    recording = run_program(values | {"acknowledge": ["routed_loopback"]})
    assert "engine-version" not in recording.of_type(":Command")


def test_only_mirrors_and_acme_use_the_http_proxy() -> None:
    values = configuration(http_proxy="http://proxy.example.com:3128", no_proxy=["a.example.org", "10.0.0.0/8"])
    every = {
        server: run_program(values | {"proxy": values["proxy"] | {"server": server}}).of_type(":Container")
        for server in ("caddy", "nginx")
    }
    way_out = {
        (server, name): [text for text in one.inputs.get("envs", []) if "_PROXY" in text]
        for server, containers in every.items()
        for name, one in containers.items()
    }

    https, exempt = "HTTPS_PROXY=http://proxy.example.com:3128", "NO_PROXY=a.example.org,10.0.0.0/8"
    mirror = ["HTTP_PROXY=http://proxy.example.com:3128", https, exempt]
    # Caddy would also send requests for the services to HTTP_PROXY.
    assert {name: variables for name, variables in way_out.items() if variables} == {
        ("caddy", "mirror-docker-io-container"): mirror,
        ("caddy", "proxy-container"): [https, exempt],
        ("nginx", "mirror-docker-io-container"): mirror,
        ("nginx", "proxy-issuer-container"): [https, exempt],
    }


def test_http_proxy_is_in_no_container_of_a_proxy_without_acme() -> None:
    values = configuration(http_proxy="http://proxy.example.com:3128", proxy={"certificates": {"internal": {}}})
    assert not run_program(values).resources["proxy-container"].inputs.get("envs")


def test_the_authority_of_an_upstream_is_delivered_and_trusted_beside_public_ones() -> None:
    def mirror(ca: str | None) -> dict[str, Any]:
        own = configuration()["mirrors"]["docker.io"] | ({"ca": ca} if ca else {})
        recording = run_program(configuration(mirrors={"docker.io": own}))
        container = recording.resources["mirror-docker-io-container"].inputs
        label = next(one["value"] for one in container["labels"] if one["label"] == "registry-stack.config")
        trust = [text for text in container["envs"] if text.startswith("SSL")]
        return {"files": uploads(recording, "mirror-docker-io-config-carrier"), "label": label, "trust": trust}

    first, second = (certificate_pair(name)["certificate"] for name in ("a.test", "b.test"))
    none, given, changed = mirror(None), mirror(f"The authority:\n{first}"), mirror(second)

    assert given["files"].items() - none["files"].items() == {("/etc/distribution/upstream-ca.crt", first)}
    assert given["trust"] == ["SSL_CERT_DIR=/etc/ssl/certs:/etc/distribution"]
    assert none["trust"] == []
    assert len({one["label"] for one in (none, given, changed)}) == 3, "Go reads certificates once"


def test_an_upstream_is_asked_when_it_or_its_login_changes_and_without_its_password() -> None:
    values = with_secret_everything()

    def asked(**changes: Any) -> Any:
        mirrors = {"ghcr.io": values["mirrors"]["ghcr.io"] | changes.pop("mirror", {})}
        return run_program(values | {"mirrors": mirrors} | changes).resources["mirror-ghcr-io-upstream"]

    inputs = asked().inputs
    assert asked(mirror={"ttl": "24h", "allow": ["192.168.0.0/16"], "log_level": "debug"}).inputs == inputs
    root = certificate_pair("a.test")["certificate"]
    for change in ({"upstream": "https://a.example.com"}, {"username": "other"}, {"ca": root}):
        assert asked(mirror=change).inputs != inputs, change
    assert asked(http_proxy="http://proxy.example.com:3128").inputs != inputs
    assert inputs["triggers"] == ["mirror-ghcr-io-secrets-carrier-id"], "a new password replaces the carrier"
    assert inputs["create"].endswith(" 2>&1 || true"), "a bad day is no reason for a failed up"
    for text in ("--network=registry-stack-edge", "registry-stack-mirror-ghcr-io-secrets:/etc/distribution-secrets:ro"):
        assert text in inputs["create"]


def test_data_in_a_host_folder_needs_no_volume() -> None:
    registry = configuration()["registry"] | {"storage": {"host_path": "/opt/registry/data"}}
    recording = run_program(configuration(registry=registry))

    assert "registry-data" not in recording.resources
    for process, read_only in (("reader", True), ("writer", False), ("admin", False)):
        assert recording.resources[f"registry-{process}"].inputs["mounts"] == [
            {"target": "/var/lib/registry", "type": "bind", "source": "/opt/registry/data", "readOnly": read_only}
        ]


def test_everything_but_images_waits_for_the_check_of_host_folders() -> None:
    folder, cache = ({"storage": {"host_path": f"/opt/registry/{name}"}} for name in ("data", "cache"))
    mirrors = {"docker.io": configuration()["mirrors"]["docker.io"] | cache}
    recording = run_program(configuration(registry=configuration()["registry"] | folder, mirrors=mirrors))

    checks = {"registry-folder", "mirror-docker-io-folder"}
    assert checks < set(recording.of_type(":Command"))
    for kind in (":Network", ":PrivateRegistry", ":PullThroughMirror", ":TlsProxy"):
        for name, one in recording.of_type(kind).items():
            waits_for = {urn.rpartition("::")[2] for urn in one.request.dependencies}
            assert checks <= waits_for, name


def test_a_changed_http_secret_restarts_the_processes_and_a_changed_password_does_not() -> None:
    def labels(**changes: Any) -> Any:
        return run_program(configuration(**changes)).resources["registry-writer"].inputs["labels"]

    passwords = configuration()["passwords"] | {"woodpecker": example_password("changed")}
    assert labels(passwords=passwords) == labels()
    assert labels(stack_secret="6" * 64) != labels()


def test_two_mirrors_can_be_declared_beside_each_other_in_a_preview() -> None:
    mirrors = {
        name: {"url": f"https://{name}.mirror.example.com", "allow": ["10.0.0.0/8"]} for name in ("quay.io", "ghcr.io")
    }

    assert len(run_program(configuration(mirrors=mirrors), preview=True).of_type(":PullThroughMirror")) == 2


def test_the_project_file_declares_every_key_with_type_and_description() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    own = {key: entry for key, entry in declared.items() if not key.startswith("pulumi:")}

    assert set(own) == {*Settings.model_fields, *Secrets.model_fields}
    for key, entry in own.items():
        assert entry["type"], key
        assert entry["description"], key
        assert entry["description"].startswith("Secret.") is (key in Secrets.model_fields), key
    for key, field in Settings.model_fields.items():
        if key not in ("protect_data", "name_prefix"):
            assert not own[key]["default"], f"{key}: the default is in components/configuration/settings.py"
        else:
            assert own[key]["default"] == field.default
