"""An update of a stack that an earlier commit made replaces only what CHANGELOG.md says.

All other resources keep their names, places and inputs.

``former/`` holds the state of ``small_stack`` as 73c91ba made it on Docker 20.10 (``pulumi stack export``, with the
address of a host that does not exist and without stack traces), and the stack file with its ``proxy.engine``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from local.toolchain import environment
from tests.harness.configuration import ROOT

FORMER = Path(__file__).parent / "former"


def test_an_update_of_the_program_replaces_what_stores_data_and_reloads_the_proxy_and_no_more(tmp_path: Path) -> None:
    variables = environment() | {
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "example-only-zq7kx2vw9rj4hbm3",
        "PULUMI_STACK": "test",
    }
    for name in ("Pulumi.yaml", "__main__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FORMER / "Pulumi.test.yaml", tmp_path)
    (tmp_path / ".venv").symlink_to(variables["VIRTUAL_ENV"])
    (tmp_path / "state").mkdir()

    def pulumi(*arguments: str) -> str:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi("stack", "init", "test")
    pulumi("stack", "import", "--file", str(FORMER / "state.json"))
    pulumi("config", "rm", "--path", "registry-stack:proxy.engine")
    pulumi("config", "set", "--path", "registry-stack:proxy.server", "caddy")

    preview = pulumi("preview", "--json")

    steps = {step["urn"].rpartition("::")[2]: step["op"] for step in json.loads(preview)["steps"]}
    assert {name: kind for name, kind in steps.items() if kind != "same"} == {
        "registry-admin": "replace",
        "registry-writer": "replace",
        "registry-reader": "update",  # the restart policy, in place
        "proxy-container": "update",
        "mirror-upstream-test-container": "replace",
        "mirror-upstream-test-config-carrier": "replace",
        "mirror-upstream-test-upstream": "create",  # asks the upstream
        "proxy-config-carrier": "replace",
        "proxy-validation": "update",
        "proxy-reload": "update",
        "process-limit": "update",  # for the new containers
    }
    assert "fingerprint" in pulumi("preview", "--diff", "--color=never"), (
        "the output users, which is an object by name now"
    )
