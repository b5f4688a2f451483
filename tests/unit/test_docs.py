"""The documentation agrees with the program: keys, defaults, outputs, commands, paths and links."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from components.configuration.settings import (
    DANGERS,
    CertificatePair,
    ImageSettings,
    MirrorDefaults,
    MirrorSettings,
    ProxySettings,
    RegistrySettings,
    Secrets,
    Settings,
)
from tests.harness.configuration import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "registry": RegistrySettings,
    "mirrors.NAME": MirrorSettings,
    "mirror_defaults": MirrorDefaults,
    "proxy": ProxySettings,
    "images": ImageSettings,
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def section(heading: str) -> str:
    """A section of docs/configuration.md."""
    return CONFIGURATION.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", section("Keys"), re.MULTILINE))


def fields() -> dict[str, Any]:
    """Every key an operator can set, with its field."""
    top = {**Settings.model_fields, **Secrets.model_fields}
    nested = {
        f"{section}.{key}": field for section, model in SECTIONS.items() for key, field in model.model_fields.items()
    }
    return {
        key: field for key, field in top.items() if key not in ("registry", "mirror_defaults", "proxy", "images")
    } | nested


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> list[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def broken_links(page: Path) -> list[str]:
    """The relative links of a page whose file or anchor does not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_the_table_has_exactly_the_keys_that_the_program_knows() -> None:
    assert set(ROWS) == set(fields())


def test_the_table_covers_every_key_of_the_project_file() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]

    assert {key.split(".")[0] for key in ROWS} == {key for key in declared if not key.startswith("pulumi:")}


def test_the_descriptions_of_the_project_file_name_every_key_of_an_object_and_every_choice() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    named = {key: declared[key]["description"].rpartition(": ")[2].split(", ") for key in declared if ":" not in key}

    for prefix, model in SECTIONS.items():
        assert named[prefix.partition(".")[0]] == list(model.model_fields), prefix
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


def test_the_documentation_explains_every_dangerous_choice() -> None:
    assert re.findall(r"^\| `(\w+)` \|", section("Dangerous choices"), re.MULTILINE) == list(DANGERS)


def test_the_documentation_lists_every_output() -> None:
    exported = set(re.findall(r'pulumi\.export\(\s*"(\w+)"', (ROOT / "__main__.py").read_text()))
    bullets = re.findall(r"^- (.*?)(?:;|\.)$", section("Outputs"), re.MULTILINE | re.DOTALL)
    listed = {name for bullet in bullets for name in re.findall(r"`(\w+)`", bullet.partition(":")[0])}

    assert exported
    assert exported <= listed


def test_the_documented_make_commands_are_targets_of_the_makefile() -> None:
    rules = re.findall(r"^([a-z][a-z ]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = "\n".join(page.read_text() for page in PAGES)

    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    assert {"up", "test"} <= named
    assert named <= {target for rule in rules for target in rule.split()}


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_the_readme_links_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose(README))}

    assert {str(page.relative_to(ROOT)) for page in PAGES if page != README} <= linked


@each_page
def test_every_relative_link_and_anchor_of_a_page_resolves(page: Path) -> None:
    assert broken_links(page) == []


@each_page
def test_no_two_headings_of_a_page_have_the_same_anchor(page: Path) -> None:
    assert len(anchors(page)) == len(set(anchors(page)))


@each_page
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|yml))`", page.read_text()))

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_that_the_program_and_its_tests_name_exists() -> None:
    files = [
        *(ROOT / "__main__.py", ROOT / "Makefile", *ROOT.glob("Pulumi*.yaml"), ROOT / "CHANGELOG.md"),
        *(file for name in ("components", "operations", "local", "benchmarks") for file in (ROOT / name).rglob("*.py")),
        *(file for file in (ROOT / "tests").rglob("*.py") if file != Path(__file__)),
    ]
    named = {name for file in files for name in re.findall(r"docs/[\w-]+\.md", file.read_text())}

    assert "docs/moving.md" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page, `code`\n\n[a](#a-page-code) [b](#b) [c](c.md) [d](https://example.com/#d)\n")

    assert broken_links(page) == ["#b", "c.md"]
