"""What is installed is what pyproject.toml promises, and nothing besides."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = {"attrs"}
#: The names under which the run-time dependencies are imported.
IMPORTABLE = {"attr", "attrs"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


@pytest.fixture(scope="module")
def installed() -> metadata.Distribution:
    try:
        return metadata.distribution("sweepstate")
    except metadata.PackageNotFoundError:
        pytest.fail("sweepstate is not installed here; run: python -m pip install -e '.[test]'", pytrace=False)


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_installed_version_is_the_one_in_pyproject(
    project: dict[str, Any], installed: metadata.Distribution
) -> None:
    assert installed.version == project["version"], "run again: python -m pip install -e '.[test]'"


def test_the_changelog_has_a_heading_for_the_version(project: dict[str, Any]) -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    wanted = re.compile(rf"## \[?v?{re.escape(project['version'])}\]?(\s|$)")
    assert any(wanted.match(heading) for heading in headings), headings


def test_py_typed_is_shipped() -> None:
    assert resources.files("sweepstate").joinpath("py.typed").is_file()


def test_the_only_run_time_dependency_is_attrs(project: dict[str, Any], installed: metadata.Distribution) -> None:
    assert {name_of(line) for line in project["dependencies"]} == RUNTIME
    assert {name_of(line) for line in installed.requires or () if "extra ==" not in line} == RUNTIME


def test_every_dependency_of_users_has_a_lower_bound_and_no_upper_one(project: dict[str, Any]) -> None:
    """An upper bound in a library keeps its users from every release of the other that works."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for group in groups for line in group if not line.startswith("sweepstate[")]
    assert [line for line in lines if ">=" not in line or "<" in line or "==" in line] == []


#: The modules that import what only an extra has.
OF_EXTRAS = ("sweepstate.storage.sqlalchemy", "sweepstate.storage._sql_", "sweepstate.cli.tables")

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
before = set(sys.modules)
import sweepstate
for module in pkgutil.walk_packages(sweepstate.__path__, "sweepstate."):
    if not module.name.startswith(tuple(sys.argv[1:])):
        importlib.import_module(module.name)
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - sys.stdlib_module_names - {"sweepstate"}), sep="\\n")
"""


def test_no_module_of_the_package_imports_anything_else() -> None:
    command = [sys.executable, "-c", IMPORT_EVERYTHING, *OF_EXTRAS]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert set(answer.stdout.split()) <= IMPORTABLE
