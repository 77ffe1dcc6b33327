"""What holds for every command: where the storage is, what is an error and of which kind, what is never shown."""

from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from sweepstate import SQLAlchemyStorage, SQLiteStorage, SubprocessAgent, SweepStatus
from sweepstate.cli import commands
from sweepstate.cli.parser import build_parser
from sweepstate.cli.places import VARIABLE
from sweepstate.cli.text import ago, printable, safe
from tests.cli.conftest import Cli
from tests.support.sqlite import new_sweep

EVERY = [["sweep", "--pause", "s"], ["list"], ["status", "s"], ["agent", "s", "--", "true"]]
each_command = pytest.mark.parametrize("words", EVERY, ids=lambda words: words[0])


def with_storage(words: list[str], place: str) -> list[str]:
    return [words[0], f"--storage={place}", *words[1:]]


# --- where the storage is -------------------------------------------------------------------------


@each_command
def test_no_storage_is_a_usage_error_that_names_both_ways(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"usage: sweepstate {words[0]} ")
    assert "--storage PATH_OR_URL" in said.err
    assert VARIABLE in said.err


@each_command
def test_a_variable_that_is_empty_is_no_storage(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert cli(*words).code == 2


@each_command
def test_a_file_that_is_not_there_is_an_error_and_not_made(cli: Cli, path: Path, words: list[str]) -> None:
    said = cli(*with_storage(words, str(path)))
    assert (said.code, said.out) == (1, "")
    problem = f"SQLite file {str(path)!r}: there is no such file"
    assert said.err == f"sweepstate: {problem}; look at --storage, or at {VARIABLE}\n"
    assert not path.exists()


@each_command
def test_nor_is_one_that_a_url_names(cli: Cli, path: Path, words: list[str]) -> None:
    said = cli(*with_storage(words, f"sqlite:///{path}"))
    assert (said.code, said.out) == (1, "")
    assert "there is no such file" in said.err
    assert not path.exists()


def test_the_option_goes_before_the_variable(cli: Cli, storage: SQLiteStorage, tmp_path: Path) -> None:
    new_sweep(storage)
    with SQLiteStorage(tmp_path / "other.db", synchronous="NORMAL") as other:
        new_sweep(other, id="there")
    assert cli("list", "--storage", str(tmp_path / "other.db")).out.splitlines()[1].startswith("there ")


def test_a_path_may_begin_with_the_home_directory(
    cli: Cli, storage: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves it alone behind an equals sign, and in quotes."""
    new_sweep(storage)
    monkeypatch.setenv("HOME", str(path.parent))
    assert cli("list", f"--storage=~/{path.name}").code == 0


def test_a_url_is_a_database(cli: Cli, path: Path) -> None:
    with SQLAlchemyStorage(f"sqlite:///{path}") as storage:
        storage.create_tables()
        new_sweep(storage)
        assert cli("sweep", "--pause", "s", "--storage", f"sqlite:///{path}").code == 0
        assert storage.sweep("s").status is SweepStatus.PAUSED


@pytest.mark.parametrize("place", ["", "nothing://known", "postgresql://a@b@c", "not a url://x"])
def test_what_is_neither_a_path_nor_a_url_is_a_usage_error(cli: Cli, place: str) -> None:
    said = cli("list", f"--storage={place}")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("sweepstate: ")


def test_a_file_of_another_kind_is_an_error(cli: Cli, path: Path) -> None:
    path.write_text("something else " * 50, encoding="utf-8")
    said = cli("list", "--storage", str(path))
    assert said.code == 1
    assert str(path) in said.err


# --- what is missing ------------------------------------------------------------------------------


@each_command
def test_without_its_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli(*words) == (2, "", "sweepstate: the command line needs an extra: pip install 'sweepstate[cli]'\n")


def test_a_url_without_sqlalchemy_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "sqlalchemy"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("sweepstate.storage.") and "sql" in name]:
        if "sqlite" not in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    said = cli("list", "--storage", "postgresql://u:secret@localhost/x")
    assert said == (2, "", "sweepstate: this storage needs SQLAlchemy: pip install 'sweepstate[sqlalchemy]'\n")


# --- what is never shown --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--storage", "postgresql://ada:tops3cret@127.0.0.1:1/x"],
        ["list", "--storage", "postgresql://127.0.0.1:1/x?password=tops3cret"],
        ["list", "postgresql://ada:tops3cret@h/x"],
        ["list", "--storag=postgresql://ada:tops3cret@h/x"],
        ["list", "--storage", "nothing://ada:tops3cret@h/x"],
        ["status", "s", "--rows", "postgresql://ada:tops3cret@h/x"],
        ["postgresql://ada:a@b/c tops3cret@h/x"],
    ],
)
def test_a_password_is_not_shown(cli: Cli, words: list[str]) -> None:
    """Whether it is used, or stands in the wrong place, where argparse quotes it."""
    said = cli(*words)
    assert said.code in (1, 2)
    assert said.err
    assert "Traceback" not in said.err
    assert "tops3cret" not in said.out + said.err


def test_control_characters_of_the_command_line_are_escaped(cli: Cli, storage: SQLiteStorage) -> None:
    new_sweep(storage)
    for words in (["status", "a\x1b[2Jb"], ["list", "\x1b[2J"], ["sweep", "--pause", "\udcff"]):
        said = cli(*words)
        assert said.code in (1, 2)
        assert all(sign.isprintable() or sign == "\n" for sign in said.err)


def test_an_error_of_the_machine_is_told_in_a_line(
    cli: Cli, storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    new_sweep(storage)
    monkeypatch.setattr(commands, "say", full)
    said = cli("list", "--json")
    assert (said.code, said.err) == (1, "sweepstate: OSError: [Errno 28] No space left on device\n")


def test_a_bug_is_not_hidden(cli: Cli, storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the library refuses on purpose becomes a line."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    new_sweep(storage)
    monkeypatch.setattr(commands, "plain_sweep", broken)
    with pytest.raises(ZeroDivisionError):
        cli("list", "--json")


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["nothing"], ["list", "--what"], ["--storage", "x", "list"]])
def test_what_is_not_understood_exits_2_with_the_usage(cli: Cli, words: list[str]) -> None:
    said = cli(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("usage: sweepstate ")


@pytest.mark.parametrize("words", [["--help"], *([each[0], "--help"] for each in EVERY)])
def test_help_is_no_error_and_shows_nothing_of_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "postgresql://ada:tops3cret@h/x")
    said = cli(*words)
    assert (said.code, said.err) == (0, "")
    assert "SWEEPSTATE_STORAGE" in said.out
    assert "tops3cret" not in said.out


def test_help_of_every_option_can_be_formatted() -> None:
    """A percent sign in a help text is an error only when it is shown."""
    assert build_parser().format_help()


def test_outputs_go_by_default_where_the_agent_of_the_library_puts_them() -> None:
    theirs = signature(SubprocessAgent).parameters["workdir"].default
    assert build_parser().parse_args(["agent", "s"]).workdir == theirs


# --- texts ----------------------------------------------------------------------------------------


def test_what_is_printable_is_left_as_it_is() -> None:
    assert printable("söl ☃ 'x'") == "söl ☃ 'x'"
    assert printable("a\x1b[2J\r\nb\u202e\udcff\U000e0001") == "a\\x1b[2J\\r\\nb\\u202e\\udcff\\U000e0001"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:pw@h/x", "postgresql://ada:***@h/x"),
        ("postgresql://ada:p@ss:w/rd@h/x", "postgresql://ada:***@h/x"),
        ("postgresql://:pw@h/x", "postgresql://:***@h/x"),
        ("postgresql://ada@h/x", "postgresql://ada@h/x"),
        ("mysql://h/x?ssl=1&Password=pw&a=b", "mysql://h/x?ssl=1&Password=***&a=b"),
        ("postgresql://h:5432/x", "postgresql://h:5432/x"),
        ("cannot pause sweep 'a:b@c'", "cannot pause sweep 'a:b@c'"),
    ],
)
def test_passwords_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5.0, "0 s ago"),
        (0.4, "0 s ago"),
        (59.9, "60 s ago"),
        (60, "1 min ago"),
        (7_200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_how_long_ago_is_told_in_the_largest_unit(seconds: float, shown: str) -> None:
    assert ago(seconds) == shown
