"""Snapshots and events as JSON, for storages: what ``json.dumps(to_dict(value))`` gives, sign for sign, and faster.

A sweep's snapshot is written with every commit, and most of it is what it was before: what the search and the limits
are, and when it began. These are values, which never change, so a field that is the same object as in the last text
has the same text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from functools import cache
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any, Final, get_args, get_origin

import attrs

from .events import Event
from .plain import FORMAT, fields_of, optional
from .state import RunState, SweepState

_Writer = Callable[[Any], str]

_NEVER: Final = object()
_PLAIN: Final = json.JSONEncoder(separators=(",", ":")).encode


def to_json(value: SweepState | RunState | Event) -> str:
    """Return a snapshot or an event as JSON, without blanks.

    ASCII only, so that nothing on its way can misread it; NaN and infinities as Python's ``json`` writes them.
    """
    cls: Any = value.__class__
    return _document(cls)(value)


@cache
def _document(cls: type) -> _Writer:
    return _writer(cls, f'{{"format":{FORMAT},"kind":"{cls.__name__}",')


def _writer(cls: type, begin: str) -> _Writer:
    """Return what writes all fields of a class."""
    annotations = fields_of(cls)
    read = attrgetter(*annotations)
    writers = tuple(_write_as(annotation) for annotation in annotations.values())
    form = begin.replace("%", "%%") + ",".join(f'"{name}":%s' for name in annotations) + "}"
    # What the fields were last, and their texts; no field is ever the first one.
    last: tuple[tuple[Any, ...], list[str]] = ((_NEVER,) * len(writers), [""] * len(writers))

    def write(value: Any) -> str:
        nonlocal last
        values = read(value)
        texts = [
            text if new is old else put(new)
            for new, old, text, put in zip(values, *last, writers, strict=True)  # read in one step: others write it too
        ]
        last = (values, texts)
        return form % tuple(texts)

    return write


def _write_as(annotation: Any) -> _Writer:
    """Return what writes a value of an annotated type."""
    inner = optional(annotation)
    if inner is not None:
        write = _write_as(inner)
        return lambda value: "null" if value is None else write(value)
    if attrs.has(annotation):
        return _writer(annotation, "{")
    if annotation is int:
        return int.__repr__
    if annotation is bool:
        return lambda value: "true" if value else "false"
    if annotation is str or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return encode_basestring_ascii  # the words of our enums are strings
    if annotation is float:
        return _number
    if get_origin(annotation) is tuple and attrs.has(get_args(annotation)[0]):
        write = _write_as(get_args(annotation)[0])
        return lambda value: "[" + ",".join([write(each) for each in value]) + "]"
    return _PLAIN


def _number(value: float) -> str:
    return repr(value) if value - value == 0 else _PLAIN(value)
