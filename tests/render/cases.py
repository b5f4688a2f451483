"""Golden cases: configurations, and everything that is rendered from one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from components.configuration.naming import slug
from components.configuration.settings import Secrets, Settings, processes
from components.render.proxy import caddyfile, issuer_caddyfile, needs_issuer, nginx_conf, snippets
from components.render.proxy_command import way_to_authority
from components.render.registry import CONFIG_FILE, mirror_files, registry_config, upstream_environment
from tests.harness.certificates import certificate_pair
from tests.harness.configuration import configuration, example_password

GOLDEN = Path(__file__).parent / "golden"
#: When certificates given as files end, in golden files: with the year 2030.
END_OF_FILES = 1924991999
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/stack.yaml"))


def configuration_of(case: str) -> dict[str, Any]:
    """The case's ``stack.yaml`` with the secrets that it needs."""
    values = configuration() | {"mirrors": {}} | yaml.safe_load((GOLDEN / case / "stack.yaml").read_text())
    if "files" in values["proxy"].get("certificates", {}):
        urls = [service.get("url") for service in (values["registry"], *values["mirrors"].values())]
        urls = [url for url in (*urls, values["registry"].get("anonymous_url"), values.get("mirror_url")) if url]
        hosts = [url.removeprefix("https://").partition(":")[0] for url in urls]
        values["certificates"] = {host: certificate_pair(host) for host in hosts}
    logins = [name for name, mirror in values["mirrors"].items() if "username" in mirror]
    return values | {
        "passwords": {user: example_password(user) for user in values["registry"]["users"]},
        "upstream_passwords": dict.fromkeys(logins, "example-only-upstream-token"),
    }


def rendered(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """Every readable file of a stack by its name."""
    ends = dict.fromkeys(secrets.certificates, END_OF_FILES)
    match settings.proxy.server:
        case "caddy":
            files = {"Caddyfile": caddyfile(settings, ends)}
        case "nginx":
            files = {"nginx.conf": nginx_conf(settings, ends)}
        case "none":
            files = {f"{server}-snippet": text for server, text in snippets(settings).items()}
    if needs_issuer(settings):
        files["issuer.Caddyfile"] = issuer_caddyfile(settings)
    files |= {f"{process}.yml": registry_config(process, settings.registry) for process in processes(settings.registry)}
    for name, mirror in settings.mirrors.items():
        mirror_name, texts = f"mirror-{slug(name)}", mirror_files(name, mirror)
        files |= {f"{mirror_name}.yml": texts.pop(CONFIG_FILE)}
        files |= {f"{mirror_name}-{path.rpartition('/')[2]}": text for path, text in texts.items()}
        files |= _lines(f"{mirror_name}.env", upstream_environment(mirror, settings))
    return files | _lines("proxy.env", way_to_authority(settings))


def _lines(name: str, variables: Sequence[str]) -> dict[str, str]:
    return {name: "".join(f"{variable}\n" for variable in variables)} if variables else {}
