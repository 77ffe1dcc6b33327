"""The catalogue: every bug of the field is a trace here, or is listed as open."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS = range(1, 46)


def numbers_of_tests() -> set[int]:
    """Return the numbers that the tests of this directory carry in their names."""
    names = [
        name
        for file in sorted(HERE.glob("test_*.py"))
        for name in re.findall(r"^def test_((?:\d\d_(?:and_)?)+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return {int(number) for name in names for number in re.findall(r"\d\d", name)}


def numbers_listed() -> set[int]:
    """Return the numbers that the README lists as open."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}


def test_catalogue() -> None:
    """Every number from 1 to 45 is shown by a test or listed as open in the README."""
    missing = set(NUMBERS) - numbers_of_tests() - numbers_listed()
    assert not missing
    assert numbers_of_tests() | numbers_listed() <= set(NUMBERS)


def test_what_is_open_and_has_no_test_is_known() -> None:
    """Only what truly needs a file or a machine has no trace yet; a number leaves this set when its trace arrives."""
    assert set(NUMBERS) - numbers_of_tests() == {17, 25}
