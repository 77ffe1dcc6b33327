"""The page of the command line: its shell blocks run as they stand, and it names whatever there is.

A ```sh block of ``sweepstate`` is executed by bash, among the page's other blocks and in their order; a ```text block
right behind it is what it prints, on standard output or error.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sweepstate import FailureRule, Grid, Limits, Objective, Sweep
from sweepstate.cli.look import look_at, plain_look
from sweepstate.cli.parser import build_parser
from sweepstate.storage.memory import MemoryStorage
from tests.docs.test_docs import FLAGS, ROOT, Block, blocks_of, run_program

PAGE = ROOT / "docs" / "cli.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give an environment in which ``sweepstate`` is this one, in an empty directory."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("sweepstate", ["-m", "sweepstate"]), ("python", [])):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "SWEEPSTATE_STORAGE": "sweeps.db",  # as the page exports it
    }


def run_shell(block: Block, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_commands_of_the_page_run_and_print_what_it_says(environment: dict[str, str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = 0
    for block, following in pairwise([*blocks_of(TEXT), Block("", "", 0, False, None, False)]):
        shown = following.code if following.language == "text" and following.follows else None
        if block.language == "python":
            assert run_program(PAGE, block, names, shown) == ""
        elif block.language == "sh" and block.code.startswith("sweepstate "):
            if block.code.startswith("sweepstate agent ") and find_spec("sweepstate.agent.subprocess") is None:
                continue  # tests/cli/test_agent.py has the command on a fake of it
            ran += 1
            printed = run_shell(block, environment)
            if shown is not None and not doctest.OutputChecker().check_output(shown, printed, FLAGS):
                pytest.fail(f"{PAGE.name}:{block.line}: it printed\n{printed}\nand the page says\n{shown}")
    assert ran >= 4


def parsers() -> Iterator[ArgumentParser]:
    groups = build_parser()._subparsers
    assert groups is not None
    for action in groups._group_actions:
        choices: Any = action.choices
        yield from choices.values()


def test_the_page_names_every_command_and_every_option() -> None:
    names = {parser.prog for parser in parsers()}
    assert names == {f"sweepstate {name}" for name in ("sweep", "list", "status", "agent")}
    options = {option for parser in parsers() for action in parser._actions for option in action.option_strings}
    assert [name for name in sorted(names) if name not in TEXT] == []
    assert [name for name in sorted(options - {"-h", "--help"}) if re.search(rf"{name}\b", TEXT) is None] == []


def test_the_page_names_no_option_that_is_not_there() -> None:
    options = {option for parser in parsers() for action in parser._actions for option in action.option_strings}
    theirs = {"--lr", "--layers"}  # of the program that is executed
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) - theirs <= options


def keys_of(value: object) -> Iterator[str]:
    """Yield the keys of plain data, but for those of a configuration."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key != "config":
                yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def test_the_page_lists_the_keys_of_json_and_no_others() -> None:
    limits = Limits(run_cap=100, failure=FailureRule(streak=99))
    storage = MemoryStorage()
    search = Grid({"x": [1, 2], "seed": range(40)})
    sweep = Sweep(search, id="s", storage=storage, limits=limits, objective=Objective("loss"))
    for run in sweep:
        if run.index == 70:
            break
        if run.config["x"] == 1:
            run.finish(loss=1.0)
        else:
            run.fail("out of memory")
    sweep.next_run()
    firsts = "id|created|run|seen_at|ended|name|status|agent|parameter"
    rows = re.findall(rf"^\| [^|]+ \| (`(?:{firsts})`.*) \|$", TEXT, re.MULTILINE)
    listed = [key for row in rows for key in re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row))]
    assert set(listed) == set(keys_of(plain_look(look_at(storage, "s", 20))))
