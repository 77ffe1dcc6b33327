"""How a configuration becomes the arguments of a program: a command is a list, in which macros stand for parts.

The macros are those of W&B's ``command`` list (https://docs.wandb.ai/guides/sweeps/sweep-config-keys#command), and
values are written as W&B's agent writes them: by ``str``. Three things differ. Nested names are dotted,
where W&B passes on a dictionary as one value. ``${interpreter}`` is the interpreter that executes the
agent, so that a virtual environment need not be activated. And what W&B leaves out or leaves as it is, an
unknown macro or a variable that is not set, is refused before anything runs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import attrs

from ..core.errors import InvalidValue
from ..core.values import check_text, show

#: ``${name}``, or ``${envvar:NAME}``.
_MACRO: Final = re.compile(r"\$\{([^{}]*)\}")
_VARIABLE: Final = "envvar:"


@attrs.frozen
class Filling:
    """What fills the macros of a command.

    Attributes:
        config: the configuration.
        config_file: where it is kept as JSON.
        program: what ``${program}`` stands for, if it was given.
        environment: that of the process to be.
    """

    config: Mapping[str, Any]
    config_file: str
    program: str | None
    environment: Mapping[str, str]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a configuration; those of nested ones are dotted, and an empty one is a value."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield prefix + name, value


def write(value: object) -> str:
    """Return a value as an argument: ``0.1``, ``True``, ``None``, ``[1, 2]``."""
    return str(_thaw(value))


def _thaw(value: object) -> object:
    """Return a value of a configuration with lists for its tuples, as it was given."""
    if isinstance(value, tuple):
        return [_thaw(item) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, Mapping):
        return {name: _thaw(item) for name, item in cast("Mapping[str, object]", value).items()}
    return value


def to_json(config: Mapping[str, Any]) -> str:
    """Return a configuration as JSON; NaN and infinities as Python's ``json`` writes them."""
    return json.dumps(config)


def _args(filling: Filling) -> list[str]:
    return [f"--{name}={write(value)}" for name, value in flatten(filling.config)]


def _args_no_hyphens(filling: Filling) -> list[str]:
    return [f"{name}={write(value)}" for name, value in flatten(filling.config)]


def _args_no_boolean_flags(filling: Filling) -> list[str]:
    """``--name`` for what is True, nothing for what is False, and the others as ever."""
    flat = flatten(filling.config)
    return [f"--{name}" if value is True else f"--{name}={write(value)}" for name, value in flat if value is not False]


def _program(filling: Filling) -> list[str]:
    return [] if filling.program is None else [filling.program]


#: What each macro stands for: any number of arguments.
_MACROS: Final[dict[str, Callable[[Filling], list[str]]]] = {
    "env": lambda _: ["/usr/bin/env"],
    "interpreter": lambda _: [sys.executable],
    "program": _program,
    "args": _args,
    "args_no_hyphens": _args_no_hyphens,
    "args_no_boolean_flags": _args_no_boolean_flags,
    "args_json": lambda filling: [to_json(filling.config)],
    "args_json_file": lambda filling: [filling.config_file],
}
#: Those that carry the configuration: a command with none of them gets ``${args}`` in the end.
_CARRIERS: Final = frozenset(name for name in _MACROS if name.startswith("args"))
#: Those that may be part of an argument, such as ``--config=${args_json_file}``: one text, and none to be quoted.
_INLINE: Final = frozenset({"interpreter", "program", "args_json_file"})


class Command:
    """A checked command with macros.

    Args:
        parts: the list; see the module.
        program: what ``${program}`` stands for.
        arguments: whether ``${args}`` is added in the end if no macro carries the configuration.
        variables: names of environment variables that processes will have.

    Raises:
        InvalidValue: it cannot be used.
    """

    def __init__(
        self, parts: Sequence[str], *, program: str | None, arguments: bool, variables: frozenset[str]
    ) -> None:
        self._parts: Final = tuple(_checked(parts, arguments=arguments))
        self._program: Final = None if program is None else _check_argument(program, "program")
        for n, part in enumerate(self._parts):
            _check_macros(part, f"command[{n}]", program=program is not None, variables=variables)
        if not "".join(self._parts[:1]).strip():
            raise InvalidValue("command", "names no program", 'e.g. ["python", "train.py"]')

    def __repr__(self) -> str:
        return f"Command({list(self._parts)!r})"

    def fill(self, config: Mapping[str, Any], config_file: str, environment: Mapping[str, str]) -> list[str]:
        """Return the arguments for a configuration, the program first.

        Raises:
            InvalidValue: a value cannot be an argument.
        """
        filling = Filling(config, config_file, self._program, environment)
        arguments = [argument for part in self._parts for argument in _expand(part, filling)]
        for argument in arguments:
            if "\0" in argument:
                remedy = "pass it by ${args_json_file}, or let the program read SWEEPSTATE_CONFIG_FILE"
                raise InvalidValue("config", f"{show(argument)} has a NUL, which no argument can have", remedy)
        return arguments


def _checked(parts: object, *, arguments: bool) -> list[str]:
    if isinstance(parts, (str, bytes)) or not isinstance(parts, Sequence):
        raise InvalidValue("command", f"must be a list of strings, not {show(parts)}", "split it: shlex.split(...)")
    checked = [_check_argument(part, f"command[{n}]") for n, part in enumerate(cast("Sequence[object]", parts))]
    carried = any(name in _CARRIERS for part in checked for name in _MACRO.findall(part))
    return [*checked, "${args}"] if arguments and not carried and checked else checked


def _check_argument(value: object, field: str) -> str:
    plain = os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value
    text = check_text(plain, field, most=100_000)
    if "\0" in text:
        raise InvalidValue(field, "has a NUL, which no argument can have")
    return text


def _check_macros(part: str, field: str, *, program: bool, variables: frozenset[str]) -> None:
    """Refuse a macro that could not be filled, or not where it stands."""
    whole = _MACRO.fullmatch(part) is not None
    for name in _MACRO.findall(part):
        if name.startswith(_VARIABLE):
            if name.removeprefix(_VARIABLE) not in variables:
                remedy = "set it, or pass it by env={...}"
                raise InvalidValue(field, f"${{{name}}}: there is no such environment variable", remedy)
        elif name == "program" and not program:
            raise InvalidValue(field, "has ${program}, and no program was given", 'program="train.py"')
        elif name in _MACROS and not whole and name not in _INLINE:
            remedy = f'make "${{{name}}}" an item of the list by itself'
            raise InvalidValue(field, f"${{{name}}} cannot be part of an argument", remedy)
        elif name not in _MACROS and whole:
            # As part of an argument it may be meant for a shell: ["sh", "-c", "cd ${HOME}; ..."].
            known = ", ".join([*_MACROS, _VARIABLE + "NAME"])
            raise InvalidValue(field, f"${{{name}}} is no macro", f"known are {known}")


def _expand(part: str, filling: Filling) -> list[str]:
    whole = _MACRO.fullmatch(part)
    if whole is not None and whole[1] in _MACROS:
        return _MACROS[whole[1]](filling)
    return [_MACRO.sub(lambda found: _inline(found, filling), part)]


def _inline(found: re.Match[str], filling: Filling) -> str:
    name = found[1]
    if name.startswith(_VARIABLE):
        variable = name.removeprefix(_VARIABLE)
        if variable not in filling.environment:
            raise InvalidValue("command", f"${{{name}}}: there is no such environment variable for this run")
        return filling.environment[variable]
    if name in _INLINE:
        return _MACROS[name](filling)[0]
    return found[0]
