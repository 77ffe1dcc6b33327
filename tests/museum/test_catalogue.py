"""The catalogue: every bug of the field is a trace here, or is listed as open."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS = range(1, 46)
#: Those in which a file, or another process, was part of the bug.
OF_STORAGE = {1, 3, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 30, 37, 38, 39, 43}


def numbers_of(file: Path) -> set[int]:
    """Return the numbers that the tests of a file carry in their names."""
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^def test_((?:\d\d_(?:and_)?)+)", text, re.MULTILINE)
    return {int(number) for name in names for number in re.findall(r"\d\d", name)}


def numbers_of_tests() -> set[int]:
    """Return the numbers that the tests of this directory carry in their names."""
    return {number for file in HERE.glob("test_*.py") for number in numbers_of(file)}


def readme() -> str:
    return (HERE / "README.md").read_text(encoding="utf-8")


def numbers_listed() -> set[int]:
    """Return the numbers that the README lists as open."""
    return {int(number) for number in re.findall(r"^\| (\d+) \|", readme(), re.MULTILINE)}


def test_catalogue() -> None:
    """Every number from 1 to 45 is shown by a test or listed as open in the README."""
    missing = set(NUMBERS) - numbers_of_tests() - numbers_listed()
    assert not missing
    assert numbers_of_tests() | numbers_listed() <= set(NUMBERS)


def test_what_is_open_has_no_test_and_is_known() -> None:
    """A number leaves this set when its trace arrives; the last one has."""
    assert set(NUMBERS) - numbers_of_tests() == numbers_listed() == set()


def test_what_concerns_storage_is_shown_on_a_file() -> None:
    """And the README says which those are."""
    assert numbers_of(HERE / "test_storage.py") == OF_STORAGE
    assert ", ".join(map(str, sorted(OF_STORAGE))) in readme()


def test_every_file_has_its_theme() -> None:
    files = {file.name for file in HERE.glob("test_*.py")}
    assert files == set(re.findall(r"^\| `(\w+\.py)` \|", readme(), re.MULTILINE))


def test_every_trace_has_its_reference() -> None:
    """Whoever wants to know what happened there finds it in the docstring."""
    for file in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and re.match(r"test_\d\d", node.name):
                assert ast.get_docstring(node), f"{file.name}: {node.name}"
