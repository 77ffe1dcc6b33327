"""What the parameters of a random search are drawn from.

A draw turns one 64-bit word ``w``, every one equally likely, into a value. Most distributions use it as the number
``u = (2 * (w >> 12) + 1) / 2**53``, which lies strictly between 0 and 1; how the value follows from ``u``, or from
``w`` itself, is said at each. Whole numbers, choices and uniform floats are the same on every platform; what goes
through ``math.exp``, ``math.log`` or ``statistics.NormalDist`` may differ in its last digits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, cast

import attrs

from ..core.errors import InvalidValue
from ..core.values import check_number, freeze, show
from .space import Distribution, check_integer, count_choices, count_levels, read_choices

if TYPE_CHECKING:
    from fractions import Fraction

#: No draw from a standard normal distribution is further out: u is at least 2**-53.
_FURTHEST = 8.3
#: Multiples of a step are counted in floats; beyond this, floats leave numbers out.
_MOST_STEPS = 2**53


@attrs.frozen(eq=False, repr=False)
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

        # u is at most 1 - 2**-53, which takes at least as much off the width as rounding may have added to it, so the
        # sum cannot exceed high.
        return lambda word: low + width * (((word >> 12) + 0.5) * 2.0**-52)


@attrs.frozen(eq=False, repr=False)
class LogUniform(Distribution):
    """A float whose logarithm is uniform between those of two bounds; W&B calls it ``log_uniform_values``.

    The bounds are values, not exponents as in W&B's ``log_uniform``. The value is ``low * (high / low) ** u``, computed
    by logarithms, and kept between the bounds.

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
        low, high, exp = self.low, self.high, math.exp
        # Half of each logarithm, because exp() raises where it could exceed the largest float; a product does not.
        start = math.log(low) / 2.0
        width = math.log(high) / 2.0 - start

        def draw(word: int) -> float:
            root = exp(start + width * (((word >> 12) + 0.5) * 2.0**-52))
            value = root * root
            return low if value < low else value if value < high else high  # noqa: FURB136  min() would cost as much again

        return draw


@attrs.frozen(eq=False, repr=False)
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
        return lambda word: low + (word * count >> bits)


@attrs.frozen(eq=False, repr=False)
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
    q: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high), _check_step(self.q))
        _multiples(self.low, self.high, self.q)

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        return _quantised(Uniform(self.low, self.high), self.q, *_multiples(self.low, self.high, self.q))


@attrs.frozen(eq=False, repr=False)
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
    q: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_bounds(self.low, self.high, positive=True), _check_step(self.q))
        _multiples(self.low, self.high, self.q)

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        return _quantised(LogUniform(self.low, self.high), self.q, *_multiples(self.low, self.high, self.q))


@attrs.frozen(eq=False, repr=False)
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
        from statistics import NormalDist  # noqa: PLC0415  slow to import, and few spaces need it

        mean, std, quantile = self.mean, self.std, NormalDist().inv_cdf
        return lambda word: mean + std * quantile(((word >> 12) + 0.5) * 2.0**-52)


@attrs.frozen(eq=False, repr=False)
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
    q: float

    def __attrs_post_init__(self) -> None:
        _settle(self, *_check_normal(self.mean, self.std), _check_step(self.q))
        furthest = abs(self.mean) + _FURTHEST * self.std
        if furthest / self.q >= _MOST_STEPS:
            raise InvalidValue("q", f"is too small for these numbers: {show(self.q)}", "use Normal, or a larger step")
        if not math.isfinite(furthest + self.q):
            raise InvalidValue("q", f"is too large: {show(self.q)}", "a multiple may be more than a float holds")

    def sampler(self) -> Callable[[int], float]:
        """Return a function from a 64-bit word to a value."""
        return _quantised(Normal(self.mean, self.std), self.q, -_MOST_STEPS, _MOST_STEPS)


@attrs.frozen(eq=False, repr=False)
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
        exp, draw = math.exp, Normal(self.mean, self.std).sampler()
        return lambda word: exp(draw(word))


@attrs.frozen(eq=False, repr=False)
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
    values: Sequence[Any]
    weights: Sequence[float] | None = None

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


def _settle(value: Distribution, *arguments: object) -> None:
    """Set the arguments of a frozen value, in order, while it is being built."""
    for name, argument in zip(value.__match_args__, arguments, strict=True):
        object.__setattr__(value, name, argument)


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


def _check_0_or_more(value: object, field: str) -> float:
    number = check_number(value, field)
    if number < 0:
        raise InvalidValue(field, f"must be 0 or more, not {show(value)}")
    return number


def _check_normal(mean: object, std: object) -> tuple[float, float]:
    centre, spread = check_number(mean, "mean"), _check_0_or_more(std, "std")
    if not math.isfinite(abs(centre) + _FURTHEST * spread):
        raise InvalidValue("std", f"is too large: {show(std)}", "a draw may be more than a float holds")
    return centre, spread


def _check_weights(weights: object, count: int) -> tuple[float, ...]:
    if not isinstance(weights, (list, tuple)):
        raise InvalidValue("weights", f"must be a list of numbers, not {show(weights)}")
    given = cast("Sequence[object]", weights)
    if len(given) != count:
        raise InvalidValue("weights", f"must be {count} numbers, as there are values, not {len(given)}")
    numbers = tuple(_check_0_or_more(weight, f"weights[{n}]") for n, weight in enumerate(given))
    if not any(numbers):
        raise InvalidValue("weights", "are all 0", "give at least one value a chance")
    return numbers


def _words_for(count: int) -> int:
    """Return how many words choose one of ``count`` values: one for small counts, else 64 bits more than it has."""
    return 1 if count <= 2**32 else -(-(count.bit_length() + 64) // 64)


def _limits(weights: Sequence[float]) -> list[int]:
    """Return for each weight the 64-bit number below which a word chooses it, or one before it."""
    ratios = [weight.as_integer_ratio() for weight in weights]
    common = max(bottom for _, bottom in ratios)  # all are powers of two
    sums = list(accumulate(top * (common // bottom) for top, bottom in ratios))
    return [(total << 64) // sums[-1] for total in sums]


def _multiples(low: float, high: float, q: float) -> tuple[int, int]:
    """Return which multiples of ``q`` are the least and the largest between two bounds, all read as decimals."""
    step = _fraction(q)
    least, most = math.ceil(_fraction(low) / step), math.floor(_fraction(high) / step)
    if most < least:
        problem = f"has no multiple between {show(low)} and {show(high)}: {show(q)}"
        raise InvalidValue("q", problem, "choose bounds that are multiples of it")
    if max(-least, most) > _MOST_STEPS:
        problem = f"has more multiples than floats can count between {show(low)} and {show(high)}: {show(q)}"
        raise InvalidValue("q", problem, "use a larger step, or none")
    return least, most


def _quantised(of: Distribution, q: float, least: int, most: int) -> Callable[[int], float]:
    """Return a sampler that rounds the draws of another to multiples of ``q``, from ``least`` to ``most`` times it."""
    draw: Callable[[int], float] = of.sampler()
    step, whole = float(q), isinstance(q, int)
    top, bottom = _fraction(q).as_integer_ratio()

    def quantise(word: int) -> float:
        count = min(max(round(draw(word) / step), least), most)
        # The quotient of two integers is rounded once, so it is the float that the decimal fraction is written as.
        return count * top if whole else count * top / bottom

    return quantise


def _fraction(number: float) -> Fraction:
    """Return the decimal fraction that a number is written as: a tenth for 0.1, although no float is a tenth."""
    from fractions import Fraction  # noqa: PLC0415  slow to import, and few spaces need it

    return Fraction(repr(number))
