"""The table of configuration keys in the README says what the program knows, with the same defaults."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel

from components.settings import (
    DANGERS,
    CertificatePair,
    ImageSettings,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Secrets,
    Settings,
)
from tests.harness.configuration import ROOT

README = (ROOT / "README.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", README, re.MULTILINE))
SECTIONS: dict[str, type[BaseModel]] = {
    "registry": RegistrySettings,
    "mirrors.NAME": MirrorSettings,
    "proxy": ProxySettings,
    "images": ImageSettings,
}


def fields() -> dict[str, Any]:
    """Every key an operator can set, with its field."""
    top = {**Settings.model_fields, **Secrets.model_fields}
    nested = {
        f"{section}.{key}": field for section, model in SECTIONS.items() for key, field in model.model_fields.items()
    }
    return {key: field for key, field in top.items() if key not in ("registry", "proxy", "images")} | nested


def test_the_table_has_exactly_the_keys_that_the_program_knows() -> None:
    assert set(ROWS) == set(fields())


def test_the_table_covers_every_key_of_the_project_file() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]

    assert {key.split(".")[0] for key in ROWS} == {key for key in declared if not key.startswith("pulumi:")}


def test_the_descriptions_of_the_project_file_name_every_key_of_an_object_and_every_choice() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    named = {key: declared[key]["description"].rpartition(": ")[2].split(", ") for key in declared if ":" not in key}

    for section, model in SECTIONS.items():
        assert named[section.partition(".")[0]] == list(model.model_fields), section
    assert named["certificates"] == list(CertificatePair.model_fields)
    assert named["acknowledge"] == list(DANGERS)


def test_the_table_has_the_defaults_of_the_settings() -> None:
    for key, field in fields().items():
        if field.is_required():
            assert ROWS[key] == "required", key
        elif isinstance(field.default, bool | int | str):
            assert (
                ROWS[key] == f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
            ), key


def test_the_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    rules = re.findall(r"^([a-z][a-z ]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert named
    assert named <= {target for rule in rules for target in rule.split()}
