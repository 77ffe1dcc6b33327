"""Plain values: what configurations, metrics and settings are made of.

A snapshot is a value, so nothing in it may change behind its back. ``freeze``
turns what a caller or a search gave (dictionaries, lists, numbers, strings,
booleans, None, and zero-dimensional array scalars) into an immutable copy, and
refuses everything that could not be stored and read again as itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Never, cast

from .errors import InvalidValue

#: Values may be nested this deep, and no deeper: a configuration is a form, not a program.
MAX_DEPTH = 32
#: Integers may have this many bits; beyond about 14,000 Python itself refuses to print them.
MAX_BITS = 4096


class FrozenDict(dict[str, Any]):
    """A dictionary that cannot be changed, so that it can be part of a snapshot.

    It is a real ``dict``: it unpacks with ``**``, compares equal to other
    dictionaries and is understood by ``json``. ``dict(frozen)`` is a copy that
    can be changed.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # pragma: no branch - their signatures are dict's; what they do is not

        def _refuse(self, *_args: object, **_kwargs: object) -> Never:
            raise TypeError("this mapping is part of a snapshot and cannot be changed; change a copy: dict(...)")

        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, _memo: object) -> FrozenDict:
        return self


EMPTY = FrozenDict()


def show(value: object, width: int = 60) -> str:
    """Return ``repr(value)``, shortened, for a message; never raises."""
    try:
        text = repr(value)
    except Exception:  # a hostile __repr__ must not replace the error that is being explained
        text = object.__repr__(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def describe_error(error: BaseException) -> str:
    """Return an exception's type and text; also of one whose text cannot be made."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def freeze(value: object, field: str, depth: int = 0) -> Any:
    """Return an immutable copy of ``value``: mappings as ``FrozenDict``, sequences as tuples.

    Args:
        value: None, a bool, an int, a float (also NaN and infinite), a str, a mapping with
            string keys, a list or tuple of such, or an array scalar (anything of zero
            dimensions that has ``item()``, as numpy's and torch's have).
        field: the name used in errors.
        depth: how deep ``value`` lies already.

    Raises:
        InvalidValue: for anything else; the path names the place.
    """
    kind = type(value)
    if kind is float or kind is bool or value is None or kind is FrozenDict:
        return value
    if kind is str:
        return _check_text(cast(str, value), field)
    if kind is int:
        return _check_int(cast(int, value), field)
    if depth >= MAX_DEPTH:
        raise InvalidValue(field, f"is nested deeper than {MAX_DEPTH} levels", "flatten it")
    if isinstance(value, Mapping):
        return FrozenDict(_items(cast("Mapping[object, object]", value), field, depth))
    if isinstance(value, (list, tuple)):
        items = cast("Iterable[object]", value)
        return tuple(freeze(item, f"{field}[{n}]", depth + 1) for n, item in enumerate(items))
    return _freeze_scalar(value, field, depth)


def _items(value: Mapping[object, object], field: str, depth: int) -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidValue(field, f"has a key that is not a string: {show(key)}", "use strings as names")
        yield _check_text(str.__str__(key), field), freeze(item, f"{field}.{key}", depth + 1)


def _freeze_scalar(value: object, field: str, depth: int) -> Any:
    """Turn a subclass of a plain type, or an array scalar, into the plain value it stands for."""
    if isinstance(value, str):
        return _check_text(str.__str__(value), field)
    if isinstance(value, int):
        return _check_int(int.__int__(value), field)
    if isinstance(value, float):
        return float.__float__(value)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return freeze(item(), field, depth + 1)
    raise InvalidValue(
        field,
        f"cannot be stored: {show(value)} is a {type(value).__name__}",
        "use numbers, strings, booleans, None, lists and dictionaries with string keys",
    )


def _check_text(value: str, field: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidValue(
                field, f"has a lone surrogate: {show(value)}", "use text that is valid Unicode"
            ) from None
    return value


def _check_int(value: int, field: str) -> int:
    if value.bit_length() > MAX_BITS:
        raise InvalidValue(field, f"is an integer of more than {MAX_BITS} bits", "store it as a string")
    return value


def freeze_mapping(value: object, field: str) -> FrozenDict:
    """Return ``value`` frozen; it must be a mapping. See ``freeze``."""
    if not isinstance(value, Mapping):
        raise InvalidValue(field, f"must be a mapping, not {show(value)}", "give names and values")
    return cast(FrozenDict, freeze(cast("Mapping[str, object]", value), field))


def freeze_metrics(value: Mapping[str, object], field: str = "metrics") -> FrozenDict:
    """Return metrics frozen: names and real numbers, as floats or ints; NaN and infinities are numbers.

    Raises:
        InvalidValue: a value is not a number; a bool is not one.
    """
    if type(value) is dict:
        plain = cast("dict[str, object]", value)
        if all(map(_is_plain_number, plain.values(), plain)):
            return FrozenDict(plain)
    frozen = freeze_mapping(cast(object, value), field)
    for name, item in frozen.items():
        if type(item) not in (float, int):
            raise InvalidValue(f"{field}.{name}", f"must be a number, not {show(item)}", "report numbers only")
    return frozen


def _is_plain_number(item: object, name: object) -> bool:
    """Return whether a metric needs no conversion: nearly all of them, so this is the short way."""
    return type(item) is float and type(name) is str and name.isascii()


def check_seconds(value: object, field: str, *, zero: bool = True) -> float:
    """Return ``value`` as a float of seconds: finite, and not negative (positive, if ``zero`` is not allowed)."""
    number = check_number(value, field)
    if number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise InvalidValue(field, f"must be {least} seconds, not {show(value)}")
    return number


def check_number(value: object, field: str) -> float:
    """Return ``value`` as a finite float."""
    plain = freeze(value, field)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise InvalidValue(field, f"must be a number, not {show(value)}")
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidValue(field, f"must be finite, not {show(value)}")
    return number


def check_count(value: object, field: str, *, least: int = 0, most: int = 2**53) -> int:
    """Return ``value`` as an int from ``least`` to ``most``."""
    plain = freeze(value, field)
    if isinstance(plain, bool) or not isinstance(plain, int) or not least <= plain <= most:
        raise InvalidValue(field, f"must be a whole number from {least} to {most}, not {show(value)}")
    return plain


def check_text(value: object, field: str, *, most: int = 10_000) -> str:
    """Return ``value`` as a string of at most ``most`` characters."""
    plain = freeze(value, field)
    if not isinstance(plain, str):
        raise InvalidValue(field, f"must be a string, not {show(value)}")
    if len(plain) > most:
        raise InvalidValue(field, f"is longer than {most} characters", "shorten it")
    return plain


def check_flag(value: object, field: str) -> bool:
    """Return ``value``, which must be True or False."""
    if not isinstance(value, bool):
        raise InvalidValue(field, f"must be True or False, not {show(value)}")
    return value


def check_collection(value: Any, field: str) -> Collection[Any]:
    """Return ``value``, which must be a collection, and neither a string nor a mapping."""
    given = cast(object, value)
    if not isinstance(given, Collection) or isinstance(given, (str, bytes, Mapping)):
        raise InvalidValue(field, f"must be a list or a set, not {show(value)}")
    found: Collection[Any] = value
    return found
