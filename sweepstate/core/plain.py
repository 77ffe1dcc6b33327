"""The plain-data form of snapshots and events: ``to_dict`` and ``from_dict``.

Both work from the classes' own annotations, so a new field cannot be forgotten
in one of them. Reading rejects what it does not understand, with the path of
the field; nothing is ever evaluated.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from .errors import InvalidValue
from .events import EVENTS, Event
from .limits import FailureRule, Limits, Objective
from .state import RunState, SweepState
from .values import EMPTY, MAX_BITS, FrozenDict, check_count, check_number, freeze, freeze_mapping, freeze_metrics, show

#: Rises whenever the form changes so that an older reader would misunderstand it.
FORMAT: Final = 1

T = TypeVar("T")
_Reader = Callable[[Any, str], Any]
_Writer = Callable[[Any], Any]

_MOST = 2**63


def to_dict(value: SweepState | RunState | Event | Limits | Objective) -> dict[str, Any]:
    """Return the plain-data form of a snapshot or an event.

    Args:
        value: a ``SweepState``, a ``RunState``, any ``Event``, or ``Limits`` or an ``Objective`` by themselves.

    Returns:
        A dictionary of JSON-able values, with ``format`` and ``kind``; changing it changes nothing
        else. Floats may be NaN or infinite in configurations and metrics, as Python's ``json`` writes them.

    Raises:
        InvalidValue: it has no such form; handles have not, their ``state`` has.
    """
    cls: Any = type(value)
    name: str = cls.__name__
    if _KINDS.get(name) is not cls:
        remedy = "give a snapshot or an event, such as sweep.state or run.state"
        raise InvalidValue("value", f"{show(value)} has no plain-data form of its own", remedy)
    return {"format": FORMAT, "kind": name, **_writer(cls)(value)}


def from_dict(data: object, expect: type[T]) -> T:
    """Return the snapshot or event that ``to_dict`` described.

    Args:
        data: what ``to_dict`` returned, perhaps after a trip through JSON.
        expect: the class that is wanted: ``SweepState``, ``RunState``, ``Event`` (any of them), ``Limits``, ...

    Raises:
        InvalidValue: it is not such a form, or of a newer format; ``field`` names the place.
    """
    if not isinstance(data, Mapping):
        raise InvalidValue("data", f"must be a mapping, not {show(data)}")
    fields = dict(cast("Mapping[str, Any]", data))
    form = fields.pop("format", None)
    if type(form) is not int or form < 1:
        raise InvalidValue("format", f"must be {FORMAT}, not {show(form)}", "give what to_dict() returned")
    if form > FORMAT:
        raise InvalidValue("format", f"is {show(form)}, and this version reads up to {FORMAT}", "update sweepstate")
    kind = fields.pop("kind", None)
    cls: Any = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None or not issubclass(cls, expect):
        raise InvalidValue("kind", f"{show(kind)} is not {expect.__name__}", "give what to_dict() returned")
    return cast(T, _reader(cls)(fields, ""))


_KINDS: Final[dict[str, type]] = {
    cls.__name__: cls for cls in (SweepState, RunState, Limits, FailureRule, Objective)
} | EVENTS


@cache
def fields_of(cls: type) -> dict[str, Any]:
    """Return each field's annotation, resolved."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


# --- writing -------------------------------------------------------------------------------------


@cache
def _writer(cls: type) -> Callable[[Any], dict[str, Any]]:
    names = tuple(fields_of(cls))
    fields = attrgetter(*names)
    # Most fields are written as they are, and cost nothing beyond being got.
    writers = [(name, _write_as(annotation)) for name, annotation in fields_of(cls).items()]
    others = [(name, write) for name, write in writers if write is not _same]

    def write(value: Any) -> dict[str, Any]:
        written: dict[str, Any] = dict(zip(names, fields(value), strict=True))
        for name, write in others:
            written[name] = write(written[name])
        return written

    return write


def _write_as(annotation: Any) -> _Writer:
    """Return what writes a value of an annotated type."""
    inner = optional(annotation)
    if inner is not None:
        write = _write_as(inner)
        return _same if write is _same else lambda value: None if value is None else write(value)
    if attrs.has(annotation):
        return _writer(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return lambda value: value.value
    if get_origin(annotation) is tuple:
        items = get_args(annotation)
        write = _write_as(items[0]) if items[-1] is Ellipsis else _same
        return lambda value: [write(item) for item in value]
    if annotation in _SCALARS:
        return _same
    return _thaw


def _same(value: Any) -> Any:
    return value


def _thaw(value: Any) -> Any:
    """Return a frozen plain value as dictionaries and lists that can be changed."""
    if isinstance(value, Mapping):
        return {str(key): _thaw(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, tuple):
        return [_thaw(item) for item in cast("Iterable[Any]", value)]
    return value


# --- reading -------------------------------------------------------------------------------------


@cache
def _reader(cls: type) -> _Reader:
    readers = {name: _read_as(annotation, name) for name, annotation in fields_of(cls).items()}

    def read(data: Any, path: str) -> Any:
        if not isinstance(data, Mapping):
            raise InvalidValue(path or "data", f"must be a mapping, not {show(data)}")
        fields = cast("Mapping[object, Any]", data)
        prefix = f"{path}." if path else ""
        for name in fields:
            if name not in readers:
                shown = name if isinstance(name, str) and name.isidentifier() else show(name)
                raise InvalidValue(f"{prefix}{shown}", f"is no field of {cls.__name__}", "remove it")
        for name in readers:
            if name not in fields:
                raise InvalidValue(f"{prefix}{name}", f"is missing from {cls.__name__}")
        return cls(**{name: reader(fields[name], prefix + name) for name, reader in readers.items()})

    return read


def _read_as(annotation: Any, name: str) -> _Reader:
    """Return what reads a value of an annotated type."""
    inner = optional(annotation)
    if inner is not None:
        read = _read_as(inner, name)
        return lambda value, path: None if value is None else read(value, path)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name == "metrics":
        return lambda value, path: freeze_metrics(_mapping(value, path), path) if value else _empty(value, path)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if attrs.has(annotation):
        return _reader(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _read_word(annotation)
    if get_origin(annotation) is tuple:
        return _read_tuple(get_args(annotation), name)
    return _mapping


def _read_word(enum: type[Enum]) -> _Reader:
    words = {str(member.value): member for member in enum}

    def read(value: Any, path: str) -> Enum:
        found = words.get(value) if isinstance(value, str) else None
        if found is None:
            raise InvalidValue(path, f"{show(value)} is no {enum.__name__}", "use one of " + ", ".join(words))
        return found

    return read


def _read_tuple(items: tuple[Any, ...], name: str) -> _Reader:
    """Return what reads a tuple: of any length (``tuple[X, ...]``), or with one type for each place."""
    endless = items[-1] is Ellipsis
    readers = [_read_as(item, name) for item in items if item is not Ellipsis]

    def read(value: Any, path: str) -> tuple[Any, ...]:
        given = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else None
        if given is None or (not endless and len(given) != len(readers)):
            wanted = "a list" if endless else f"a list of {len(readers)}"
            raise InvalidValue(path, f"must be {wanted}, not {show(cast(object, value))}")
        each = readers * len(given) if endless else readers
        return tuple(read(item, f"{path}[{n}]") for n, (read, item) in enumerate(zip(each, given, strict=True)))

    return read


def _empty(value: Any, path: str) -> FrozenDict:
    _mapping(value, path)
    return EMPTY


def _mapping(value: Any, path: str) -> FrozenDict:
    return freeze_mapping(value, path)


def _integer(value: Any, path: str) -> int:
    if type(value) is not int or not -_MOST < value < _MOST:
        raise InvalidValue(path, f"must be a whole number of at most 63 bits, not {show(value)}")
    return value


def _number(value: Any, path: str) -> float | int:
    if type(value) not in (int, float):
        raise InvalidValue(path, f"must be a number, not {show(value)}")
    check_number(value, path)
    return cast(float, value)


def _text(value: Any, path: str) -> str:
    if type(value) is not str:
        raise InvalidValue(path, f"must be a string, not {show(value)}")
    return cast(str, freeze(value, path))


def _truth(value: Any, path: str) -> bool:
    if type(value) is not bool:
        raise InvalidValue(path, f"must be true or false, not {show(value)}")
    return value


def _points(value: Any, path: str) -> int:
    """Return a number of points; a space may have more of them than fit into 63 bits."""
    if type(value) is not int:
        raise InvalidValue(path, f"must be a whole number, not {show(value)}")
    return check_count(value, path, most=2**MAX_BITS)


def _metric(value: Any, path: str) -> float | int:
    """Return a metric, which may be infinite, and a whole number of any size."""
    return cast(float, freeze_metrics({"value": value}, path)["value"])


#: Fields that may hold more than their annotation tells.
_BY_NAME: Final[dict[str, _Reader]] = {"size": _points, "best_value": _metric}
_SCALARS: Final[dict[Any, _Reader]] = {int: _integer, float: _number, str: _text, bool: _truth}


def optional(annotation: Any) -> Any:
    """Return X for ``X | None``, else None."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(each for each in get_args(annotation) if each is not type(None))
    return None
