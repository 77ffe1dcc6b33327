"""Search spaces: what grid and random searches share.

A space is a mapping from names to what each parameter may be; a nested
mapping is a nested space, and a configuration is nested the way its space
is. ``read_space`` turns what a caller wrote into an immutable tree of
``FrozenDict``s, ``write_space`` and ``parse_space`` turn that tree into
plain data and back, and what ``compile_space`` returns puts the values of
one proposal where they belong.

As plain data a space is a list of entries, not a mapping, because the order
of its parameters decides which configuration has which index, and neither a
comparison of dictionaries nor every JSON column keeps an order::

    [{"name": "lr", "values": [0.1, 0.01]},
     {"name": "layers", "range": [2, 10, 2]},
     {"name": "data", "value": "iris"},
     {"name": "optimizer", "space": [{"name": "beta", "values": [0.9]}]}]
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from ..core.errors import InvalidValue
from ..core.values import MAX_BITS, MAX_DEPTH, FrozenDict, check_text, freeze, show

#: Levels of nesting left to whoever stores a search's settings inside data of their own.
ROOM = 4
#: How many elements of a sequence, and parameters of a space, a repr shows.
SHOWN = 8


class Distribution(abc.ABC):
    """What one parameter of a random search is drawn from; see ``sweepstate.search.distributions``.

    Distributions are values: two are equal if they are of the same kind, and their arguments of the same types and
    values.

    Attributes:
        distribution: W&B's name for it, which is also its name in plain data.
    """

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()  # set by attrs
    distribution: ClassVar[str]

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was made of, by name and in order."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @property
    def words(self) -> int:
        """How many 64-bit words of randomness one draw takes."""
        return 1

    @property
    def levels(self) -> int:
        """How many containers lie inside each other in its plain data, beyond a list of weights."""
        return 0

    @abc.abstractmethod
    def sampler(self) -> Callable[[int], Any]:
        """Return a function from a whole number, uniform below ``2 ** (64 * words)``, to a value."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return type(self) is type(other) and exact(self.arguments) == exact(other.arguments)

    def __hash__(self) -> int:
        return hash((type(self), exact(self.arguments)))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={brief(value)}" for name, value in self.arguments.items())
        return f"{type(self).__name__}({arguments})"


# -- Reading what a caller wrote --------------------------------------------------------------------------------------


def read_space(space: object, field: str, leaf: Callable[[object, str], Any], level: int = 1) -> FrozenDict:
    """Return ``space`` as an immutable tree: nested spaces as ``FrozenDict``, other parameters as ``leaf`` made them.

    Args:
        space: a mapping from names to parameters, or to nested spaces.
        field: the path used in errors.
        leaf: turns one parameter, and its path, into something immutable that is no ``FrozenDict``.
        level: how deep the space lies; the outermost is 1.

    Raises:
        InvalidValue: it is no mapping, is empty, is nested too deep, or has a name that is not text.
    """
    if not isinstance(space, Mapping):
        raise InvalidValue(field, f"must be a mapping from names to parameters, not {show(space)}")
    items = cast("Mapping[object, object]", space).items()
    if not items:
        raise InvalidValue(field, "is empty", "name at least one parameter")
    check_level((), level, field)
    tree: dict[str, Any] = {}
    for key, value in items:
        name = check_name(key, field)
        here = f"{field}.{name}"
        if name in tree:
            raise InvalidValue(here, "is named twice", "name each parameter once")
        if isinstance(value, Mapping):
            tree[name] = read_space(cast("Mapping[object, object]", value), here, leaf, level + 1)
        else:
            tree[name] = leaf(value, here)
            check_level(tree[name], level, here)
    return FrozenDict(tree)


def check_name(key: object, field: str) -> str:
    """Return a parameter's name as plain text."""
    if not isinstance(key, str):
        raise InvalidValue(field, f"has a name that is not a string: {show(key)}", "use strings as names")
    return check_text(key, field)


def check_level(value: object, level: int, field: str) -> None:
    """Refuse what could be proposed but not be stored: the settings of a search must fit into ``MAX_DEPTH`` levels.

    ``freeze`` trusts a ``FrozenDict`` whatever its depth, and a nested space adds two levels to its settings
    (a list and its entries) where it adds one to a configuration, so neither finds this by itself.
    """
    if 2 * level + count_levels(value) + ROOM >= MAX_DEPTH:
        raise InvalidValue(field, "is nested too deep to be stored", "flatten it")


def count_levels(value: object) -> int:
    """Return how many containers lie inside each other in a frozen value, or in what a distribution chooses from."""
    if type(value) is FrozenDict:
        return 1 + max(map(count_levels, value.values()), default=0)
    if type(value) is tuple:
        return 1 + max(map(count_levels, cast("tuple[object, ...]", value)), default=0)
    return value.levels if isinstance(value, Distribution) else 0


def read_choices(values: object, field: str) -> tuple[Any, ...] | range:
    """Return the choices of a parameter: a sequence as a tuple of frozen values, a range as the range it is.

    A range is kept because its size costs nothing; its stop is moved to just behind its last number, so that
    ranges of the same numbers have one form.

    Raises:
        InvalidValue: there are none, a value cannot be stored, or two are the same in type and value.
    """
    if isinstance(values, range):
        return _read_range(values, field)
    if not isinstance(values, (list, tuple)):
        raise InvalidValue(field, f"must be a list, tuple or range, not {show(values)}")
    choices: tuple[Any, ...] = freeze(cast("list[object]", values), field)
    if not choices:
        raise InvalidValue(field, "has no choices", "give at least one, or leave the parameter out")
    seen: dict[object, int] = {}
    for place, choice in enumerate(choices):
        first = seen.setdefault(exact(choice), place)
        if first != place:
            problem = f"is {show(choice)} again, as [{first}] is"
            raise InvalidValue(f"{field}[{place}]", problem, "give each choice once")
    return choices


def _read_range(values: range, field: str) -> range:
    if not values:
        raise InvalidValue(field, f"has no choices: {show(values)}", "check its start, stop and step")
    first, last = values[0], values[-1]
    up = 1 if values.step > 0 else -1
    tight = range(first, last + up, up if first == last else values.step)
    for number in (tight.start, tight.stop, tight.step):
        freeze(number, field)  # refuses more bits than can be stored
    return tight


def count_choices(choices: tuple[Any, ...] | range) -> int:
    """Return how many choices there are; ``len`` refuses ranges of more than ``sys.maxsize``."""
    if isinstance(choices, range):
        return (choices[-1] - choices[0]) // choices.step + 1
    return len(choices)


def read_constant(value: object, field: str) -> Any:
    """Return a constant frozen; lists and mappings mean something else in a space.

    Raises:
        InvalidValue: it cannot be stored, or is no single value.
    """
    constant = freeze(value, field)
    if type(constant) in (tuple, FrozenDict):
        remedy = "to always use this value, make it the only choice: [value]"
        raise InvalidValue(field, f"must be a single value, not {show(value)}", remedy)
    return constant


def exact(value: object) -> object:
    """Return a hashable key that tells ``True``, ``1`` and ``1.0`` apart, as ``==`` does not, and knows NaN again."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return (dict, frozenset((name, exact(item)) for name, item in items))
    if isinstance(value, (list, tuple)):
        return (list, tuple(map(exact, cast("list[object]", value))))
    if isinstance(value, float):
        return (float, value.hex())
    return (type(value), value)


# -- Plain data -------------------------------------------------------------------------------------------------------


def thaw(value: object) -> Any:
    """Return a frozen value as plain data: dictionaries and lists that the caller may change."""
    if isinstance(value, Mapping):
        return {name: thaw(item) for name, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [thaw(item) for item in cast("list[object]", value)]
    return value


def write_space(space: FrozenDict, leaf: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a space as plain data, a list of entries; ``leaf`` writes one parameter."""
    return [
        {"name": name, **({"space": write_space(item, leaf)} if type(item) is FrozenDict else leaf(item))}
        for name, item in space.items()
    ]


def write_choices(choices: tuple[Any, ...] | range) -> dict[str, Any]:
    """Return choices as plain data."""
    if isinstance(choices, range):
        return {"range": [choices.start, choices.stop, choices.step]}
    return {"values": thaw(choices)}


def parse_space(
    data: object, field: str, leaf: Callable[[dict[str, Any], str], object], level: int = 1
) -> dict[str, Any]:
    """Return plain data as what a caller would have written; the inverse of ``write_space``.

    Args:
        data: the list of entries.
        field: the path used in errors.
        leaf: reads the fields of one entry, its name taken out, that is neither a constant nor a nested space.
        level: how deep the space lies; the outermost is 1.

    Raises:
        InvalidValue: it is not of that form; the path names the place.
    """
    if not isinstance(data, (list, tuple)):
        raise InvalidValue(field, f"must be a list of parameters, not {show(data)}")
    check_level((), level, field)  # before going deeper, so that hostile data cannot exhaust the stack
    space: dict[str, Any] = {}
    for place, entry in enumerate(cast("list[object]", data)):
        fields = parse_fields(entry, f"{field}[{place}]")
        if "name" not in fields:
            raise InvalidValue(f"{field}[{place}].name", "is missing")
        name = check_name(fields.pop("name"), f"{field}[{place}].name")
        here = f"{field}.{name}"
        if name in space:
            raise InvalidValue(here, "is named twice")
        if "space" in fields:
            space[name] = parse_space(take(fields, here, "space")["space"], here, leaf, level + 1)
        elif "value" in fields:
            space[name] = read_constant(take(fields, here, "value")["value"], f"{here}.value")
        else:
            space[name] = leaf(fields, here)
    return space


def parse_choices(fields: dict[str, Any], field: str) -> list[object] | range:
    """Return what ``write_choices`` wrote, not yet read by ``read_choices``."""
    if "range" not in fields:
        values: object = take(fields, field, "values")["values"]
        if not isinstance(values, (list, tuple)):
            raise InvalidValue(f"{field}.values", f"must be a list, not {show(values)}")
        return list(cast("list[object]", values))
    bounds: object = take(fields, field, "range")["range"]
    shown = show(bounds)
    if not isinstance(bounds, (list, tuple)) or len(cast("list[object]", bounds)) != 3:
        raise InvalidValue(f"{field}.range", f"must be [start, stop, step], not {shown}")
    numbers = [check_integer(item, f"{field}.range[{n}]") for n, item in enumerate(cast("list[object]", bounds))]
    if numbers[2] == 0:
        raise InvalidValue(f"{field}.range[2]", "must not be 0", "a step goes up or down")
    return range(*numbers)


def parse_fields(data: object, field: str) -> dict[str, Any]:
    """Return a copy of a mapping of plain data; its names must be strings."""
    if not isinstance(data, Mapping):
        raise InvalidValue(field, f"must be a mapping, not {show(data)}")
    return {check_name(key, field): value for key, value in cast("Mapping[object, object]", data).items()}


def take(fields: dict[str, Any], field: str, *required: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return ``fields`` if it has all the required names, and no others than those and the optional ones.

    Raises:
        InvalidValue: a name is missing, or not known.
    """
    known = (*required, *optional)
    for name in fields:
        if name not in known:
            raise InvalidValue(f"{field}.{name[:60]}", "is not known here", "known: " + ", ".join(known))
    for name in required:
        if name not in fields:
            raise InvalidValue(f"{field}.{name}", "is missing")
    return fields


@contextmanager
def under(path: str) -> Generator[None, None, None]:
    """Put ``path`` before the field of an ``InvalidValue`` raised inside."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidValue(f"{path}.{error.field}", error.problem, error.remedy) from None


# -- Numbers and text -------------------------------------------------------------------------------------------------


def check_integer(value: object, field: str) -> int:
    """Return ``value`` as an int of at most ``MAX_BITS`` bits, of either sign; a bool is none."""
    plain = freeze(value, field)
    if type(plain) is not int:
        raise InvalidValue(field, f"must be a whole number, not {show(value)}")
    return plain


def check_index(index: object) -> int:
    """Return the index of a run: a whole number, not negative.

    Raises:
        InvalidValue: it is something else.
    """
    number = check_integer(index, "index")
    if number < 0:
        raise InvalidValue("index", f"must be 0 or more, not {show(number)}", "runs are numbered from 0")
    return number


def check_size(size: int, field: str) -> int:
    """Return the number of points of a space; it is stored, so it may not have more than ``MAX_BITS`` bits."""
    if size.bit_length() > MAX_BITS:
        raise InvalidValue(field, f"has more than 2**{MAX_BITS} points", "drop parameters, or search at random")
    return size


def brief(value: object) -> str:
    """Return a repr that looks like what a caller would write, of the first few elements only."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return "{" + _some((f"{show(name)}: {brief(item)}" for name, item in items), len(items)) + "}"
    if isinstance(value, (list, tuple)):
        values = cast("list[object]", value)
        return "[" + _some(map(brief, values), len(values)) + "]"
    return show(value, 200 if isinstance(value, Distribution) else 60)


def _some(texts: Iterator[str], count: int) -> str:
    shown = [text for text, _ in zip(texts, range(SHOWN), strict=False)]
    return ", ".join([*shown, "..."] if count > SHOWN else shown)


# -- From flat values to configurations -------------------------------------------------------------------------------


def compile_space(
    space: FrozenDict, varies: Callable[[object], bool]
) -> tuple[Callable[[list[Any]], FrozenDict], tuple[Any, ...]]:
    """Return how a configuration of this space is put together, and the parameters that vary.

    Args:
        space: the tree that ``read_space`` returned.
        varies: whether a parameter varies; it is a constant otherwise.

    Returns:
        A function from a list of values, one for each parameter that varies, to the configuration (it uses the list
        up); and these parameters, in the order they are named, depth first.
    """
    leaves = tuple(_leaves(space))
    varying = tuple(leaf for leaf in leaves if varies(leaf))
    if all(map(varies, space.values())):
        names = tuple(space)
        # Both are as long, and strict=True would cost as much as all the rest.
        return lambda values: FrozenDict(zip(names, values)), varying  # noqa: B905
    constants = tuple(leaf for leaf in leaves if not varies(leaf))
    groups = _groups(space, varies, len(varying))

    def fill(values: list[Any]) -> FrozenDict:
        values += constants
        for names, places in groups:
            values.append(FrozenDict(zip(names, [values[place] for place in places])))  # noqa: B905  as above
        return cast(FrozenDict, values[-1])

    return fill, varying


def _groups(
    space: FrozenDict, varies: Callable[[object], bool], varying: int
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return for each space, inner ones first, its names and where the value of each lies in one flat list.

    First in that list are the values that vary, then the constants, then nested configurations as they are completed.
    """
    count = sum(1 for _ in _leaves(space))
    variables, constants = iter(range(varying)), iter(range(varying, count))
    groups: list[tuple[tuple[str, ...], tuple[int, ...]]] = []

    def place(item: object) -> int:
        if type(item) is not FrozenDict:
            return next(variables if varies(item) else constants)
        places = tuple(place(inner) for inner in item.values())
        groups.append((tuple(item), places))
        return count + len(groups) - 1

    place(space)
    return groups


def _leaves(space: FrozenDict) -> Iterator[object]:
    for item in space.values():
        if type(item) is FrozenDict:
            yield from _leaves(item)
        else:
            yield item
