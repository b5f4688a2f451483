"""Each folder of ``golden/`` holds a configuration and the files it renders to, byte for byte; people read them.

``make golden`` writes them anew; the binaries tier starts the real programs with them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.harness.configuration import loaded
from tests.render.cases import CASES, GOLDEN, configuration_of, rendered


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_renders_to_its_golden_files(case: str, request: pytest.FixtureRequest) -> None:
    files = rendered(*loaded(configuration_of(case)))
    folder = GOLDEN / case

    if request.config.getoption("--rewrite-golden"):
        for name, text in files.items():
            (folder / name).write_text(text)

    assert files == {path.name: path.read_text() for path in folder.iterdir() if path.name != "stack.yaml"}


@pytest.mark.parametrize("case", CASES)
def test_rendering_twice_gives_the_same_bytes_with_a_final_newline(case: str) -> None:
    first, second = (rendered(*loaded(configuration_of(case))) for _ in range(2))

    assert first == second
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in first.values())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/*.yml")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_registry_configuration_has_known_keys_only(path: Path) -> None:
    """distribution ignores unknown keys without a word: with ``prxy:`` a mirror starts as an open registry."""
    known = {
        "version": {},
        "log": {"level", "formatter", "accesslog"},
        "storage": {"filesystem", "delete", "maintenance"},
        "http": {"addr", "secret", "relativeurls", "draintimeout", "headers", "debug"},
        "catalog": {"maxentries"},
        "health": {"storagedriver"},
        "auth": {"htpasswd"},
        "proxy": {"remoteurl", "ttl", "exec"},
        "validation": {"manifests"},
    }
    config = yaml.safe_load(path.read_text())

    assert config.keys() <= known.keys()
    for section, value in config.items():
        if isinstance(value, dict):
            assert value.keys() <= known[section], section
    assert "cache" not in config["storage"]
    assert config["http"].get("debug", {}).get("addr", "127.0.0.1:").startswith("127.0.0.1:"), "it serves profiles"
    is_open = path.name == "public.yml" or path.name.startswith("mirror-")
    assert ("auth" in config) is not is_open
    assert ("proxy" in config) is (path.name.startswith("mirror-") and not path.name.endswith("-cache.yml"))
    if is_open and "proxy" not in config:
        assert config["storage"]["maintenance"]["readonly"] == {"enabled": True}
