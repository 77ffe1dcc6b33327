"""A command line that is called in this process, on a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sweepstate import SQLiteStorage
from sweepstate.cli import main
from sweepstate.cli.places import VARIABLE


class Said(NamedTuple):
    """What a command line answered."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sweeps.db"


@pytest.fixture
def storage(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteStorage]:
    """Give a storage that the environment names."""
    monkeypatch.setenv(VARIABLE, str(path))
    with SQLiteStorage(path, synchronous="NORMAL") as made:
        yield made


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Give a function that calls the command line with some words."""

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call
