"""Random search: every configuration drawn from the seed and the index of its run, and from nothing else.

A draw depends on the seed, the index of the run, and the place of its parameter among those that are drawn. So a sweep
that is resumed, by another process or another version of this library, goes on with the numbers it would have drawn.
They are equal on one platform, and equal up to the rounding of its ``math`` functions between platforms; a
configuration is stored when its run is created, so the last digit of one never changes. The rule is this:

1. Block ``b`` (0, 1, ...) of run ``index`` is the 64-byte BLAKE2b digest, without key, of the ASCII text
   ``sweepstate-random-1/<seed>/<index>/<b>``, the numbers in lower-case hexadecimal, a negative seed with a minus
   sign. It is read as eight unsigned 64-bit words, least significant byte first.
2. The parameters that have a distribution take words from the blocks in the order in which they are named, depth
   first: one word each. Only ``IntUniform`` and ``Choice`` over more than 2**32 values take more, as many as hold
   64 bits more than the number of values has, and read them as one number, least significant word first.
3. How a value follows from a word is said in ``sweepstate.search.distributions``.

Source: optuna/optuna#3255 (a resumed study repeated its first samples), optuna/optuna#4412 (no seed made parallel
workers repeatable).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Self, cast

import attrs

from ..core.errors import InvalidValue
from ..core.questions import Exhausted
from ..core.values import FrozenDict, show
from .distributions import (
    Choice,
    IntUniform,
    LogNormal,
    LogUniform,
    Normal,
    QLogUniform,
    QNormal,
    QUniform,
    Uniform,
)
from .space import (
    Distribution,
    brief,
    check_index,
    check_integer,
    compile_space,
    exact,
    parse_choices,
    parse_fields,
    parse_space,
    read_constant,
    read_space,
    take,
    under,
    write_choices,
    write_space,
)

_DISTRIBUTIONS: dict[str, type[Distribution]] = {
    kind.distribution: kind
    for kind in (Uniform, LogUniform, IntUniform, QUniform, QLogUniform, Normal, QNormal, LogNormal, Choice)
}
_BLOCK = struct.Struct("<8Q")


@attrs.frozen(init=False, eq=False, repr=False)
class Random:
    """A search that draws every configuration from its seed and the index of the run.

    Nothing else has an influence: not what was proposed before, not the order of asking, not the process. So agents
    may ask in parallel, and a sweep that is resumed goes on with the draws it would have made. The module's docstring
    has the rule by which seed and index become values; the order in which parameters are named is part of it.

    A random search is a value: it can be compared, hashed, pickled, and used from several threads.

    Args:
        space: the parameters by name. A ``Distribution`` is drawn from; a list, a tuple or a ``range`` means
            ``Choice`` of it; a mapping is a nested space, whose configurations are nested the same way; anything
            else is a constant.
        seed: any whole number of at most 4096 bits; searches with different seeds draw independently.

    Attributes:
        space: the space, frozen.
        seed: the seed.
        size: None, as there is no last draw; 1 if all parameters are constants, since only one point exists then and
            a sweep of it should end.

    Raises:
        InvalidValue: a space is empty, a name is no string, a value could not be stored, or the seed is no whole
            number.

    Source: optuna/optuna#3255 and #4412.

    Example:
        >>> from sweepstate.search.distributions import IntUniform, LogUniform
        >>> search = Random({"lr": LogUniform(1e-4, 1e-1), "layers": IntUniform(2, 8), "act": ["relu", "gelu"]}, seed=7)
        >>> search.propose(0, None) == search.propose(0, None)
        True
    """

    name: ClassVar[str] = "random"
    by_index: ClassVar[bool] = True

    space: FrozenDict
    seed: int
    size: int | None
    _block: Callable[[int, int], tuple[int, ...]]
    _blocks: int
    _draws: tuple[Callable[[int], Any], ...]
    _widths: tuple[int, ...]
    _fill: Callable[[list[Any]], FrozenDict]

    def __init__(self, space: Mapping[str, Any], seed: int = 0) -> None:
        tree = read_space(space, "space", _read_parameter)
        fill, distributions = compile_space(tree, _is_distribution)
        widths = tuple(distribution.words for distribution in distributions)
        number = check_integer(seed, "seed")
        object.__setattr__(self, "space", tree)
        object.__setattr__(self, "seed", number)
        object.__setattr__(self, "size", None if distributions else 1)
        object.__setattr__(self, "_block", _dealer(number))
        object.__setattr__(self, "_blocks", -(-sum(widths) // 8))
        object.__setattr__(self, "_draws", tuple(distribution.sampler() for distribution in distributions))
        object.__setattr__(self, "_widths", widths if sum(widths) > len(widths) else ())
        object.__setattr__(self, "_fill", fill)

    def propose(self, index: int, history: object) -> FrozenDict | Exhausted:  # noqa: ARG002  a hook's arguments are fixed
        """Return the configuration of run ``index``.

        Args:
            index: the index of the run, from 0.
            history: ignored; what was run has no influence on the draws.

        Returns:
            The configuration, frozen; ``Exhausted`` only if all parameters are constants and ``index`` is not 0.

        Raises:
            InvalidValue: ``index`` is no whole number, or is negative.
        """
        if type(index) is not int or index < 0:
            index = check_index(index)
        if self.size is not None and index >= self.size:
            return Exhausted()
        words = self._block(index, 0)
        for block in range(1, self._blocks):
            words += self._block(index, block)
        numbers = _join(words, self._widths) if self._widths else words
        draws = zip(self._draws, numbers)  # noqa: B905  the last block may have more words than there are parameters
        return self._fill([draw(number) for draw, number in draws])

    def settings(self) -> dict[str, Any]:
        """Return plain data from which ``from_settings`` builds an equal search.

        Returns:
            ``{"space": [...], "seed": ...}``, with one entry for each parameter in the order named: its ``name``, and
            ``value`` (a constant), ``space`` (a nested one), or ``distribution`` (W&B's name) and its arguments.
        """
        return {"space": write_space(self.space, _write_parameter), "seed": self.seed}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the search that ``settings`` describes.

        Args:
            settings: what ``settings()`` returned, also after JSON or after being frozen.

        Raises:
            InvalidValue: it is not of that form; the field is a path such as ``settings.space.lr.low``.
        """
        fields = take(parse_fields(settings, "settings"), "settings", "space", "seed")
        space = parse_space(fields["space"], "settings.space", _parse_distribution)
        with under("settings"):
            return cls(space, fields["seed"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Random):
            return NotImplemented
        return self is other or (self.seed == other.seed and exact(self.settings()) == exact(other.settings()))

    def __hash__(self) -> int:
        return hash((Random, exact(self.settings())))

    def __repr__(self) -> str:
        return f"Random({brief(self.space)}, seed={show(self.seed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Random, (self.space, self.seed))


def _dealer(seed: int) -> Callable[[int, int], tuple[int, ...]]:
    """Return a function from the index of a run and the number of a block to the eight words of the block."""
    from hashlib import blake2b  # noqa: PLC0415  it loads OpenSSL, which takes longer than all else here

    root = blake2b(b"sweepstate-random-1/%x/" % seed)

    def block(index: int, number: int) -> tuple[int, ...]:
        state = root.copy()
        state.update(b"%x/%x" % (index, number))
        return _BLOCK.unpack(state.digest())

    return block


def _join(words: tuple[int, ...], widths: tuple[int, ...]) -> Iterator[int]:
    """Yield for each parameter the number made of as many of the words as it takes."""
    rest = iter(words)
    for width in widths:
        yield sum(word << 64 * place for place, word in enumerate(islice(rest, width)))


def _is_distribution(value: object) -> bool:
    return isinstance(value, Distribution)


def _read_parameter(value: object, field: str) -> Any:
    if isinstance(value, (list, tuple, range)):
        with under(field):
            return Choice(cast("Sequence[Any]", value))
    if not isinstance(value, Distribution):
        return read_constant(value, field)
    if type(value) not in _DISTRIBUTIONS.values():
        raise InvalidValue(field, f"is a distribution that could not be stored: {show(value)}", "use one of random's")
    return value


def _write_parameter(parameter: Any) -> dict[str, Any]:
    if not isinstance(parameter, Distribution):
        return {"value": parameter}
    kind = {"distribution": parameter.distribution}
    if not isinstance(parameter, Choice):
        return kind | parameter.arguments
    weights = {} if parameter.weights is None else {"weights": list(parameter.weights)}
    return kind | write_choices(cast("tuple[Any, ...] | range", parameter.values)) | weights


def _parse_distribution(fields: dict[str, Any], field: str) -> Distribution:
    if "distribution" not in fields:
        raise InvalidValue(f"{field}.distribution", "is missing", "an entry has a distribution, a value or a space")
    word: object = fields.pop("distribution")
    kind = _DISTRIBUTIONS.get(word) if isinstance(word, str) else None
    if kind is None:
        known = "known: " + ", ".join(_DISTRIBUTIONS)
        raise InvalidValue(f"{field}.distribution", f"is not known: {show(word)}", known)
    if kind is Choice:
        weights: object = fields.pop("weights", None)
        fields = {"values": parse_choices(fields, field), "weights": weights}
    else:
        take(fields, field, *kind.__match_args__)
    with under(field):
        return kind(**fields)
