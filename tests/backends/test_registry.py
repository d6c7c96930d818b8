"""The registry of backends: a kind is one module, one YAML and a line; nothing else knows its name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tunerun.backends import gemini, local, openai
from tunerun.backends.registry import BackendModule, capabilities_of, is_hosted, sections
from tunerun.compose import load
from tunerun.schema import json_schema

KINDS = ("local", "gemini", "openai")
_CONFORM: tuple[BackendModule, ...] = (local, gemini, openai)
"""Checked by mypy; in the registry itself this would be an import circle."""
SOURCES = [
    file
    for folder in (REPOSITORY / "tunerun").iterdir()
    if folder.name not in ("backends", "testing")
    for file in ([folder] if folder.suffix == ".py" else folder.rglob("*.py"))
]


@pytest.mark.process
def test_no_code_compares_a_kind_with_a_name() -> None:
    """Outside the package of backends, which `Capabilities` answers for."""
    found = [
        f"{file.relative_to(REPOSITORY)}:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and each.value in KINDS
    ]
    assert found == []


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_section_and_a_yaml(kind: str, tmp_path: Path) -> None:
    """The YAML states the section's own defaults, and its capabilities name the kind."""
    overrides = ["name=numbers", f"dataset.path={tmp_path / 'rows.jsonl'}", f"backend={kind}"]
    section = load(overrides).backend
    assert section == type(section)(kind=kind)
    assert capabilities_of(section).kind == kind
    assert capabilities_of(section).is_hosted is is_hosted(kind)
    assert (
        f"#/$defs/{type(section).__name__}" in json_schema()["properties"]["backend"]["discriminator"]["mapping"][kind]
    )


def test_an_unknown_kind_of_a_record_is_hosted() -> None:
    """A record of a later version is not attributed to this machine's engine."""
    assert is_hosted("of-tomorrow")
    assert len(sections()) == len(KINDS)


@pytest.mark.slow
def test_checking_a_config_imports_no_client() -> None:
    """The sections of all kinds are loaded without httpx."""
    code = "import sys, tunerun.schema as s; s.json_schema(); print('httpx' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.process
def test_another_packages_backend_that_is_broken_is_named(tmp_path: Path) -> None:
    """The error names the kind, the module and what is wrong; a package cannot replace a kind of tunerun."""
    (tmp_path / "sun_raises.py").write_text("raise RuntimeError('no sun')\n")
    (tmp_path / "sun_bare.py").write_text("SECTION = None\n")
    module = (
        "from typing import Literal\nfrom tunerun.schema import BackendSection\n"
        "class SECTION(BackendSection):\n    kind: Literal['{kind}'] = '{kind}'\n"
        "IS_HOSTED = False\ncapabilities = open_backend = print\n"
    )
    (tmp_path / "sun_good.py").write_text(module.format(kind="good"))
    (tmp_path / "sun_moon.py").write_text(module.format(kind="local"))
    info = tmp_path / "sun-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sun\nVersion: 1.0\n")
    kinds = ("missing", "raises", "bare", "moon", "good")
    entries = "".join(f"{kind} = sun_{kind}\n" for kind in kinds)
    (info / "entry_points.txt").write_text(f"[tunerun.backends]\nlocal = sun_missing\n{entries}")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tunerun.backends.registry import is_hosted\nfrom tunerun.errors import ConfigError\n"
        f"for kind in ('local', *{kinds}):\n"
        "    try:\n        print(is_hosted(kind))\n    except ConfigError as error:\n        print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cannot_import, of_package = "cannot be imported", "of another package"
    problems = {
        "missing": f"{of_package} (sun_missing) {cannot_import}: ModuleNotFoundError: No module named 'sun_missing'",
        "raises": f"{of_package} (sun_raises) {cannot_import}: RuntimeError: no sun",
        "bare": f"{of_package} (sun_bare) does not define IS_HOSTED, capabilities, open_backend",
        "moon": f"{of_package} (sun_moon): its SECTION is not a BackendSection whose field kind is Literal['moon']",
    }
    errors = [f"the backend {kind} {problem}; repair or uninstall it" for kind, problem in problems.items()]
    assert ran.stdout.splitlines() == ["False", *errors, "False"]
