"""How a configuration becomes arguments, by W&B's macros."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sweepstate import InvalidValue
from sweepstate.agent._command import Command
from sweepstate.core.values import freeze

CONFIG = freeze(
    {"lr": 0.1, "on": True, "off": False, "none": None, "text": "a b", "o": {"lr": 1e-05, "deep": {"n": [1, [2]]}}},
    "config",
)
ARGS = ["--lr=0.1", "--on=True", "--off=False", "--none=None", "--text=a b", "--o.lr=1e-05", "--o.deep.n=[1, [2]]"]


def filled(parts: Sequence[Any], config: Any = CONFIG, *, program: str | None = None, **options: Any) -> list[str]:
    """Return the arguments that a command becomes."""
    environment = {"HOME": "/home/ada", "EMPTY": ""}
    options.setdefault("arguments", True)
    command = Command(parts, program=program, variables=frozenset(environment), **options)
    return command.fill(config, "/runs/config.json", environment)


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("${args}", ARGS),
        ("${args_no_hyphens}", [text.removeprefix("--") for text in ARGS]),
        ("${args_no_boolean_flags}", ["--lr=0.1", "--on", *ARGS[3:]]),
        ("${args_json_file}", ["/runs/config.json"]),
        ("--config=${args_json_file}", ["--config=/runs/config.json"]),
    ],
)
def test_each_macro_carries_the_configuration_in_its_own_way(macro: str, expected: list[str]) -> None:
    """And then no arguments are added behind it."""
    assert filled(["train", macro, "end"]) == ["train", *expected, "end"]


def test_json_is_one_argument() -> None:
    _, text = filled(["train", "${args_json}"])
    assert json.loads(text) == {**CONFIG, "o": {"lr": 1e-05, "deep": {"n": [1, [2]]}}}


def test_a_command_without_macros_gets_the_arguments_in_the_end() -> None:
    """Unless they are not wanted."""
    assert filled(["train", "--fast"]) == ["train", "--fast", *ARGS]
    assert filled(["train"], arguments=False) == ["train"]
    assert filled([Path("/bin/train")], arguments=False) == ["/bin/train"]


def test_wandbs_own_default_command_works() -> None:
    """The interpreter is the one that executes the agent."""
    command = ["${env}", "${interpreter}", "${program}", "${args}"]
    assert filled(command, {"x": 1}, program="train.py") == ["/usr/bin/env", sys.executable, "train.py", "--x=1"]


def test_variables_of_the_environment_may_stand_anywhere() -> None:
    assert filled(["${envvar:HOME}/bin/train", "${envvar:EMPTY}"], arguments=False) == ["/home/ada/bin/train", ""]


def test_a_variable_that_is_gone_when_it_is_needed_is_told_by_its_run() -> None:
    command = Command(["train", "${envvar:GONE}"], program=None, arguments=False, variables=frozenset({"GONE"}))
    with pytest.raises(InvalidValue, match="GONE"):
        command.fill({}, "config.json", {})


def test_what_is_meant_for_a_shell_is_left_to_it() -> None:
    """Only a whole argument is taken for a macro that may be misspelt."""
    command = ["sh", "-c", "cd ${HOME:-/}; train --config ${args_json_file}"]
    assert filled(command) == ["sh", "-c", "cd ${HOME:-/}; train --config /runs/config.json"]


def test_what_a_value_looks_like_is_never_taken_for_a_macro() -> None:
    """A configuration is data."""
    assert filled(["train"], {"x": "${envvar:HOME} ${args}"}) == ["train", "--x=${envvar:HOME} ${args}"]


def test_a_nested_value_that_is_empty_is_still_passed() -> None:
    assert filled(["train"], {"o": {}, "l": ()}) == ["train", "--o={}", "--l=[]"]


@pytest.mark.parametrize(
    ("parts", "field", "problem"),
    [
        ("python train.py", "command", "shlex.split"),
        ([], "command", "names no program"),
        ([""], "command", "names no program"),
        (["train", 3], "command[1]", "must be a string"),
        (["train", "a\0b"], "command[1]", "NUL"),
        (["train", "${arg}"], "command[1]", "known are env, interpreter"),
        (["train", "--all ${args}"], "command[1]", "by itself"),
        (["${program}"], "command[0]", "no program was given"),
        (["train", "${envvar:NO_SUCH_VARIABLE}"], "command[1]", "no such environment variable"),
        (["train", "x=${envvar:NO_SUCH_VARIABLE}"], "command[1]", "no such environment variable"),
    ],
)
def test_a_bad_command_is_refused_when_it_is_given(parts: Any, field: str, problem: str) -> None:
    """With the place, and what to do."""
    with pytest.raises(InvalidValue) as caught:
        filled(parts)
    assert caught.value.field == field
    assert problem in str(caught.value)


def test_a_value_that_cannot_be_an_argument_is_told_by_its_run() -> None:
    with pytest.raises(InvalidValue, match="SWEEPSTATE_CONFIG_FILE"):
        filled(["train"], {"x": "a\0b"})
