"""Random search: every configuration drawn from the seed and the index of its run, and from nothing else.

How a configuration follows from seed and index is a promise, because a sweep that is resumed, possibly by another
version of this library on another machine, must go on with the numbers it would have drawn. The promise is this:

1. Block ``b`` (0, 1, ...) of run ``index`` is the 64-byte BLAKE2b digest, without key, of the ASCII text
   ``sweepstate-random-1/<seed>/<index>/<b>``, the numbers in lower-case hexadecimal, a negative seed with a minus
   sign. It is read as eight unsigned 64-bit words, least significant byte first.
2. The parameters that have a distribution take words from the blocks in the order in which they are named, depth
   first: one word each. Only ``IntUniform`` and ``Choice`` over more than 2**32 values take more, as many as hold
   64 bits more than the number of values has, and read them as one number, least significant word first.
3. A word ``w`` stands for ``u = (2 * (w >> 12) + 1) / 2**53``, which lies strictly between 0 and 1. How a value
   follows from ``u``, or from ``w`` itself, is said at each distribution.
4. Values are computed with the operations that IEEE 754 defines to the last bit. ``math.exp``, ``math.log`` and
   ``statistics`` are not among them: they differ in the last digit from one platform's C library to the next.

Source: optuna/optuna#3255 (a resumed study repeated its first samples), optuna/optuna#4412 (no seed made parallel
workers repeatable).
"""

from __future__ import annotations

import hashlib
import math
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any, ClassVar, Self, cast

import attrs

from ..core.errors import InvalidValue
from ..core.questions import Exhausted
from ..core.values import FrozenDict, check_number, freeze, show
from .space import (
    Distribution,
    brief,
    check_index,
    check_integer,
    compile_space,
    count_choices,
    count_levels,
    exact,
    parse_choices,
    parse_fields,
    parse_space,
    read_choices,
    read_constant,
    read_space,
    take,
    under,
    write_choices,
    write_space,
)

# -- Arithmetic that is the same everywhere ---------------------------------------------------------------------------

_LN_2 = 0.6931471805599453
#: No draw from a standard normal distribution is further out: u is at least 2**-53.
_FURTHEST = 8.3
#: Multiples of a step are counted in floats; beyond this, floats leave numbers out.
_MOST_STEPS = 2**53


def _powers_of_two(count: int) -> tuple[float, ...]:
    """Return ``2 ** (n / count)`` for each n below ``count``, a power of two, from integers of 192 bits."""
    one = 1 << 192
    root = 2 * one
    for _ in range(count.bit_length() - 1):
        root = math.isqrt(root * one)
    powers = accumulate(range(1, count), lambda power, _: power * root >> 192, initial=one)
    return tuple(power / one for power in powers)


_POWERS = _powers_of_two(256)
#: The series of the area hyperbolic tangent, for ``_ln``, from its highest term.
_ARTANH = tuple(1.0 / odd for odd in range(21, 0, -2))


def _exp2(exponent: float) -> float:
    """Return 2 to the power of ``exponent``, or infinity: a table for the first eight bits, then a short series."""
    step = round(exponent * 256.0)
    rest = (exponent - step * 0.00390625) * _LN_2
    factor = 1.0 + rest * (1.0 + rest * (0.5 + rest * (0.16666666666666666 + rest * 0.041666666666666664)))
    # One power less, then doubled: just below the largest float ldexp would raise.
    return math.ldexp(_POWERS[step & 255] * factor, (step >> 8) - 1) * 2.0


def _ln(value: float) -> float:
    """Return the natural logarithm of a positive float."""
    part, exponent = math.frexp(value)
    if part < 0.7071067811865476:
        part, exponent = part * 2.0, exponent - 1
    ratio = (part - 1.0) / (part + 1.0)
    return exponent * _LN_2 + 2.0 * ratio * _polynomial(_ARTANH, ratio * ratio)


def _polynomial(coefficients: tuple[float, ...], at: float) -> float:
    """Return the value of a polynomial, its coefficients given from the highest power."""
    total = 0.0
    for coefficient in coefficients:
        total = total * at + coefficient
    return total


# M. J. Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37 (1988),
# 477-484, routine PPND16: three quotients of polynomials, for the middle, the tails, and far out.
_MIDDLE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_TAIL = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def _standard_normal(unit: float) -> float:
    """Return the point below which a standard normal number lies with probability ``unit``, between 0 and 1."""
    centred = unit - 0.5
    if abs(centred) <= 0.425:
        at = 0.180625 - centred * centred
        return centred * _polynomial(_MIDDLE[0], at) / _polynomial(_MIDDLE[1], at)
    distance = math.sqrt(-_ln(min(unit, 1.0 - unit)))
    (above, below), start = (_TAIL, 1.6) if distance <= 5.0 else (_FAR, 5.0)
    return math.copysign(_polynomial(above, distance - start) / _polynomial(below, distance - start), centred)


def _unit(word: int) -> float:
    """Return a 64-bit word as a number strictly between 0 and 1."""
    return ((word >> 12) + 0.5) * 2.0**-52


def _words_for(count: int) -> int:
    """Return how many words choose one of ``count`` values: one for small counts, else 64 bits more than it has."""
    return 1 if count <= 2**32 else -(-(count.bit_length() + 64) // 64)


def _decimal(number: float) -> tuple[int, int]:
    """Return the decimal fraction that a float is written as, as numerator and denominator: (1, 10) for 0.1."""
    digits, _, exponent = repr(number).partition("e")
    whole, _, fraction = digits.partition(".")
    power = int(exponent or "0") - len(fraction)
    return int(whole + fraction) * 10 ** max(power, 0), 10 ** max(-power, 0)


# -- Distributions ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Uniform(Distribution):
    """A float, every one between two bounds equally likely; W&B calls it ``uniform``.

    The value is ``low + (high - low) * u``.

    Args:
        low: the least value.
        high: the largest value; may be ``low``.

    Raises:
        InvalidValue: a bound is no finite number, or ``high`` is less than ``low``.
    """

    distribution: ClassVar[str] = "uniform"
    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high))

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        low, width = self.low, self.high - self.low

        # This is _unit, without the cost of a call. u is at most 1 - 2**-53, which takes at least as much off the width
        # as rounding may have added to it, so the sum cannot exceed high.
        return lambda word: low + width * (((word >> 12) + 0.5) * 2.0**-52)


@attrs.frozen
class LogUniform(Distribution):
    """A float whose logarithm is uniform between those of two bounds; W&B calls it ``log_uniform_values``.

    The bounds are values, not exponents as in W&B's ``log_uniform``. The value is ``low * (high / low) ** u``, computed
    by logarithms to the base 2, and kept between the bounds.

    Args:
        low: the least value; more than 0.
        high: the largest value; may be ``low``.

    Raises:
        InvalidValue: a bound is no finite number, ``low`` is not positive, or ``high`` is less than ``low``.
    """

    distribution: ClassVar[str] = "log_uniform_values"
    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high, positive=True))

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        low, high = self.low, self.high
        start = _ln(low) / _LN_2
        width = _ln(high) / _LN_2 - start

        def draw(word: int) -> float:
            value = _exp2(start + width * (((word >> 12) + 0.5) * 2.0**-52))
            return low if value < low else value if value < high else high  # noqa: FURB136  min() would cost as much again

        return draw


@attrs.frozen
class IntUniform(Distribution):
    """A whole number, every one between two bounds, both included, equally likely; W&B calls it ``int_uniform``.

    The value is ``low + w * n // 2**64`` for ``n = high - low + 1``, in integers, so exact for numbers of any size.

    Args:
        low: the least value.
        high: the largest value; may be ``low``.

    Raises:
        InvalidValue: a bound is no whole number or has more than 4096 bits, or ``high`` is less than ``low``.
    """

    distribution: ClassVar[str] = "int_uniform"
    low: int
    high: int

    def __attrs_post_init__(self) -> None:
        low, high = check_integer(self.low, "low"), check_integer(self.high, "high")
        _check_order(low, high)
        _settle(self, low, high)

    @property
    def words(self) -> int:
        """How many 64-bit words of randomness one draw takes."""
        return _words_for(self.high - self.low + 1)

    def sampler(self) -> Callable[[int], int]:
        """Return a function from a word of ``64 * words`` bits to a value."""
        low, count, bits = self.low, self.high - self.low + 1, 64 * self.words

        def draw(word: int) -> int:
            return low + (word * count >> bits)

        return draw


@attrs.frozen
class QUniform(Distribution):
    """A multiple of a step, as near as can be to a uniform number; W&B calls it ``q_uniform``.

    The value is ``round(x / q) * q`` for ``x = low + (high - low) * u``, as in W&B, so an outermost multiple that is a
    bound is drawn half as often as the others. Unlike W&B's it never leaves the bounds: the outermost multiples are
    those between them. It is the float nearest to the decimal multiple (0.3, not 0.30000000000000004), and an
    int if ``q`` is one. Halves are rounded to even.

    Args:
        low: the least value.
        high: the largest value.
        q: the step; more than 0.

    Raises:
        InvalidValue: an argument is no finite number, ``high`` is less than ``low``, ``q`` is not positive, no
            multiple of it lies between the bounds, or one beyond the 2**53rd does.
    """

    distribution: ClassVar[str] = "q_uniform"
    low: float
    high: float
    q: float = attrs.field(eq=exact)

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high), _check_step(self.q))
        _multiples(self.low, self.high, self.q)

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        low, width = self.low, self.high - self.low
        quantise = _quantiser(self.q, *_multiples(self.low, self.high, self.q))

        def draw(word: int) -> float:
            return quantise(low + width * _unit(word))

        return draw


@attrs.frozen
class QLogUniform(Distribution):
    """A multiple of a step, as near as can be to a log-uniform number; W&B calls it ``q_log_uniform_values``.

    The value is ``round(x / q) * q`` for ``x`` as ``LogUniform`` has it; all else is as with ``QUniform``.

    Args:
        low: the least value; more than 0.
        high: the largest value.
        q: the step; more than 0.

    Raises:
        InvalidValue: as ``LogUniform`` and ``QUniform`` do.
    """

    distribution: ClassVar[str] = "q_log_uniform_values"
    low: float
    high: float
    q: float = attrs.field(eq=exact)

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high, positive=True), _check_step(self.q))
        _multiples(self.low, self.high, self.q)

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        draw_log = LogUniform(self.low, self.high).sampler()
        quantise = _quantiser(self.q, *_multiples(self.low, self.high, self.q))

        def draw(word: int) -> float:
            return quantise(draw_log(word))

        return draw


@attrs.frozen
class Normal(Distribution):
    """A normally distributed float; W&B calls it ``normal``, with ``mu`` and ``sigma``.

    The value is ``mean + std * z``, where a standard normal number is below ``z`` with probability ``u``.

    Args:
        mean: the mean.
        std: the standard deviation, in the units of the value; 0 or more.

    Raises:
        InvalidValue: an argument is no finite number, ``std`` is negative, or a draw could be more than a float holds.
    """

    distribution: ClassVar[str] = "normal"
    mean: float
    std: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_normal(self.mean, self.std))

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        mean, std = self.mean, self.std

        def draw(word: int) -> float:
            return mean + std * _standard_normal(_unit(word))

        return draw


@attrs.frozen
class QNormal(Distribution):
    """A multiple of a step, as near as can be to a normal number; W&B calls it ``q_normal``.

    The value is ``round(x / q) * q`` for ``x`` as ``Normal`` has it; multiples are written as with ``QUniform``.

    Args:
        mean: the mean, before rounding.
        std: the standard deviation before rounding, in the units of the value; 0 or more.
        q: the step; more than 0.

    Raises:
        InvalidValue: as ``Normal`` does, and if ``q`` is not positive or so small that a draw is beyond its 2**53rd
            multiple.
    """

    distribution: ClassVar[str] = "q_normal"
    mean: float
    std: float
    q: float = attrs.field(eq=exact)

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_normal(self.mean, self.std), _check_step(self.q))
        furthest = abs(self.mean) + _FURTHEST * self.std
        if furthest / self.q >= _MOST_STEPS:
            raise InvalidValue("q", f"is too small for these numbers: {show(self.q)}", "use Normal, or a larger step")
        if not math.isfinite(furthest + self.q):
            raise InvalidValue("q", f"is too large: {show(self.q)}", "a multiple may be more than a float holds")

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        mean, std = self.mean, self.std
        quantise = _quantiser(self.q, -_MOST_STEPS, _MOST_STEPS)

        def draw(word: int) -> float:
            return quantise(mean + std * _standard_normal(_unit(word)))

        return draw


@attrs.frozen
class LogNormal(Distribution):
    """A positive float whose natural logarithm is normally distributed; W&B calls it ``log_normal``.

    The value is ``e ** x`` for ``x`` as ``Normal`` has it.

    Args:
        mean: the mean of the logarithm.
        std: the standard deviation of the logarithm; 0 or more.

    Raises:
        InvalidValue: an argument is no finite number, ``std`` is negative, or a draw could be more than a float
            holds, or less.
    """

    distribution: ClassVar[str] = "log_normal"
    mean: float
    std: float

    def __attrs_post_init__(self) -> None:
        mean, std = _check_normal(self.mean, self.std)
        if abs(mean) + _FURTHEST * std > 708:
            problem = f"and std make numbers that no float holds: e ** ({show(mean)} ± {_FURTHEST} * {show(std)})"
            raise InvalidValue("mean", problem, "mean and std are those of the logarithm")
        _settle(self, mean, std)

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        mean, std = self.mean, self.std

        def draw(word: int) -> float:
            return _exp2((mean + std * _standard_normal(_unit(word))) / _LN_2)

        return draw


def _show_choices(values: Sequence[Any]) -> str:
    return brief(values)


@attrs.frozen
class Choice(Distribution):
    """One of several values, all equally likely or by weight; W&B calls it ``categorical``, with ``probabilities``.

    Without weights the value is number ``w * n // 2**64`` of ``n``, counted from 0. With weights it is the first for
    which ``w`` is less than ``2**64`` times its weight and those before it, as a part of all weights, in integers.

    Args:
        values: a list, a tuple or a ``range``; each value as in a grid.
        weights: for each value a number, 0 or more; they need not sum to 1.

    Raises:
        InvalidValue: there is no value, one is there twice or could not be stored, there are more or fewer weights
            than values, a weight is negative or not finite, or all are 0.
    """

    distribution: ClassVar[str] = "categorical"
    values: Sequence[Any] = attrs.field(eq=exact, repr=_show_choices)
    weights: Sequence[float] | None = attrs.field(default=None)

    def __attrs_post_init__(self) -> None:
        values = read_choices(self.values, "values")
        weights = None if self.weights is None else _check_weights(self.weights, count_choices(values))
        _settle(self, values, weights)

    @property
    def words(self) -> int:
        """How many 64-bit words of randomness one draw takes."""
        return 1 if self.weights is not None else _words_for(self._count)

    @property
    def levels(self) -> int:
        """How many containers lie inside each other in the values."""
        return count_levels(self.values)

    @property
    def _count(self) -> int:
        return count_choices(cast("tuple[Any, ...] | range", self.values))

    def sampler(self) -> Callable[[int], Any]:
        """Return a function from a word of ``64 * words`` bits to a value."""
        values, count, bits = self.values, self._count, 64 * self.words
        if self.weights is not None:
            limits = _limits(self.weights)
            return lambda word: values[bisect_right(limits, word)]
        return lambda word: values[word * count >> bits]


def _arguments(kind: type[Distribution]) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(cast(type[attrs.AttrsInstance], kind)))


def _settle(value: Distribution, *fields: object) -> None:
    """Set the fields of a frozen value, in order, while it is being built."""
    for name, field in zip(_arguments(type(value)), fields, strict=True):
        object.__setattr__(value, name, field)


def _check_bounds(low: object, high: object, *, positive: bool = False) -> tuple[float, float]:
    least, most = check_number(low, "low"), check_number(high, "high")
    if positive and least <= 0:
        raise InvalidValue("low", f"must be more than 0, not {show(low)}", "bounds are values, not exponents")
    _check_order(least, most)
    if not math.isfinite(most - least):
        raise InvalidValue("high", f"is further from low than a float holds: {show(high)}", "use nearer bounds")
    return least, most


def _check_order(low: float, high: float) -> None:
    if high < low:
        raise InvalidValue("high", f"must not be less than low, which is {show(low)}, not {show(high)}", "swap them")


def _check_step(q: object) -> float:
    """Return a step as it was given, an int or a float, because the type of its multiples follows it."""
    number = check_number(q, "q")
    if number <= 0:
        raise InvalidValue("q", f"must be more than 0, not {show(q)}")
    plain = freeze(q, "q")  # an array's integer is one too
    return plain if type(plain) is int else number


def _check_normal(mean: object, std: object) -> tuple[float, float]:
    centre, spread = check_number(mean, "mean"), check_number(std, "std")
    if spread < 0:
        raise InvalidValue("std", f"must be 0 or more, not {show(std)}")
    if not math.isfinite(abs(centre) + _FURTHEST * spread):
        raise InvalidValue("std", f"is too large: {show(std)}", "a draw may be more than a float holds")
    return centre, spread


def _check_weights(weights: object, count: int) -> tuple[float, ...]:
    if not isinstance(weights, (list, tuple)):
        raise InvalidValue("weights", f"must be a list of numbers, not {show(weights)}")
    given = cast("Sequence[object]", weights)
    if len(given) != count:
        raise InvalidValue("weights", f"must be {count} numbers, as there are values, not {len(given)}")
    numbers = tuple(check_number(weight, f"weights[{n}]") for n, weight in enumerate(given))
    for n, number in enumerate(numbers):
        if number < 0:
            raise InvalidValue(f"weights[{n}]", f"must be 0 or more, not {show(number)}")
    if not any(numbers):
        raise InvalidValue("weights", "are all 0", "give at least one value a chance")
    return numbers


def _limits(weights: Sequence[float]) -> list[int]:
    """Return for each weight the 64-bit number below which a word chooses it, or one before it."""
    ratios = [weight.as_integer_ratio() for weight in weights]
    common = max(bottom for _, bottom in ratios)  # all are powers of two
    sums = list(accumulate(top * (common // bottom) for top, bottom in ratios))
    return [(total << 64) // sums[-1] for total in sums]


def _multiples(low: float, high: float, q: float) -> tuple[int, int]:
    """Return which multiples of ``q`` are the least and the largest between two bounds, all read as decimals."""
    top, bottom = (q, 1) if isinstance(q, int) else _decimal(q)
    (low_top, low_bottom), (high_top, high_bottom) = _decimal(low), _decimal(high)
    least = -(-low_top * bottom // (low_bottom * top))
    most = high_top * bottom // (high_bottom * top)
    if most < least:
        problem = f"has no multiple between {show(low)} and {show(high)}: {show(q)}"
        raise InvalidValue("q", problem, "choose bounds that are multiples of it")
    if max(-least, most) > _MOST_STEPS:
        problem = f"has more multiples than floats can count between {show(low)} and {show(high)}: {show(q)}"
        raise InvalidValue("q", problem, "use a larger step, or none")
    return least, most


def _quantiser(q: float, least: int, most: int) -> Callable[[float], float]:
    """Return a function that rounds to a multiple of ``q``, from its multiple ``least`` to its multiple ``most``."""
    step = float(q)
    top, bottom = (q, 0) if isinstance(q, int) else _decimal(q)

    def quantise(value: float) -> float:
        count = min(max(round(value / step), least), most)
        # The quotient of two integers is rounded once, so it is the float that the decimal fraction is written as.
        return count * top / bottom if bottom else count * top

    return quantise


_DISTRIBUTIONS: dict[str, type[Distribution]] = {
    kind.distribution: kind
    for kind in (Uniform, LogUniform, IntUniform, QUniform, QLogUniform, Normal, QNormal, LogNormal, Choice)
}

# -- The search -------------------------------------------------------------------------------------------------------

_BLOCK = struct.Struct("<8Q")


@attrs.frozen(init=False, eq=False, repr=False)
class Random:
    """A search that draws every configuration from its seed and the index of the run.

    Nothing else has an influence: not what was proposed before, not the order of asking, not the process, the
    platform or the version of Python. So agents may ask in parallel, and a sweep that is resumed goes on with the
    draws it would have made. The module's docstring has the rule by which seed and index become values; the order in
    which parameters are named is part of it.

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
        >>> search = Random({"lr": LogUniform(1e-4, 1e-1), "layers": IntUniform(2, 8), "act": ["relu", "gelu"]}, seed=7)
        >>> search.propose(0, None) == search.propose(0, None)
        True
    """

    name: ClassVar[str] = "random"

    space: FrozenDict
    seed: int
    size: int | None
    _root: hashlib.blake2b
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
        object.__setattr__(self, "_root", hashlib.blake2b(b"sweepstate-random-1/%x/" % number))
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

    def _block(self, index: int, block: int) -> tuple[int, ...]:
        """Return eight of the 64-bit words that the parameters of a run draw from."""
        state = self._root.copy()
        state.update(b"%x/%x" % (index, block))
        return _BLOCK.unpack(state.digest())

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
        return kind | {name: getattr(parameter, name) for name in _arguments(type(parameter))}
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
        fields = take(fields, field, *_arguments(kind))
    with under(field):
        return kind(**fields)
