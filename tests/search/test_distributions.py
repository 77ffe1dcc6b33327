"""Distributions: where draws lie, how they are distributed, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate.core.errors import InvalidValue
from sweepstate.core.values import MAX_BITS
from sweepstate.search.distributions import (
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
from sweepstate.search.random import Random
from sweepstate.search.space import Distribution
from tests.search.strategies import (
    distributions,
    int_uniforms,
    log_normals,
    log_uniforms,
    normals,
    q_log_uniforms,
    q_normals,
    q_uniforms,
    typed,
    unhurried,
    uniforms,
    weighted,
    words,
)


def draws(distribution: Distribution, count: int, seed: int = 0) -> list[Any]:
    """Return the values of one parameter in the first runs of a search."""
    search = Random({"x": distribution}, seed)
    return [search.propose(index, None)["x"] for index in range(count)]  # type: ignore[index]


# -- Where draws lie --------------------------------------------------------------------------------------------------


@unhurried
@given(distribution=st.one_of(uniforms, log_uniforms, q_uniforms, q_log_uniforms), word=words)
def test_draws_lie_within_their_bounds(distribution: Any, word: int) -> None:
    """No word leads out of the bounds, however near or far they are, and also where rounding tempts."""
    assert distribution.low <= distribution.sampler()(word) <= distribution.high


@unhurried
@given(distribution=int_uniforms, data=st.data())
def test_whole_numbers_lie_within_their_bounds_and_reach_them(distribution: IntUniform, data: st.DataObject) -> None:
    """Both bounds are included, and the words spread over all numbers between, for numbers of any size."""
    most = 2 ** (64 * distribution.words) - 1
    draw = distribution.sampler()
    assert draw(0) == distribution.low
    assert draw(most) == distribution.high
    drawn = draw(data.draw(st.integers(0, most)))
    assert type(drawn) is int
    assert distribution.low <= drawn <= distribution.high
    assert most + 1 >= 2**32 * (distribution.high - distribution.low + 1)


@unhurried
@given(distribution=st.one_of(normals, q_normals, log_normals), word=words)
def test_normal_draws_are_finite(distribution: Any, word: int) -> None:
    """Even the outermost draw is a number, and a log-normal one is positive."""
    drawn = distribution.sampler()(word)
    assert math.isfinite(drawn)
    assert drawn > 0 or not isinstance(distribution, LogNormal)


@unhurried
@given(distribution=st.one_of(q_uniforms, q_log_uniforms, q_normals), word=words)
def test_quantised_draws_are_clean_multiples_of_their_step(distribution: Any, word: int) -> None:
    """A draw is written as the decimal multiple that it is, and is an int exactly if the step is one."""
    drawn = distribution.sampler()(word)
    assert type(drawn) is type(distribution.q)
    assert (Fraction(repr(drawn)) / Fraction(repr(distribution.q))).denominator == 1


def test_steps_of_a_tenth_print_as_tenths() -> None:
    """There is no 0.30000000000000004, and every multiple between the bounds, both included, occurs."""
    drawn = sorted(set(draws(QUniform(0, 1, 0.1), 500)))
    assert list(map(repr, drawn)) == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]


def test_quantised_draws_do_not_round_out_of_their_bounds() -> None:
    """Bounds that are no multiples stay bounds: the outermost multiples are those between them."""
    assert set(draws(QUniform(0.25, 0.95, 0.1), 300)) == {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    assert set(draws(QLogUniform(1, 50, 16), 300)) == {16, 32, 48}
    assert set(draws(QUniform(0.1, 0.3, 0.1), 300)) == {0.1, 0.2, 0.3}


@unhurried
@given(one=weighted, word=words)
def test_a_choice_is_one_of_its_values_and_not_one_of_weight_0(one: Choice, word: int) -> None:
    """What has no weight is never drawn."""
    assert one.weights is not None
    place = [typed(value) for value in one.values].index(typed(one.sampler()(word)))
    assert one.weights[place] > 0


def test_weights_divide_the_words_exactly() -> None:
    """A limit between two values belongs to the second, so that weights of 0 are never drawn, at either end."""
    halves = Choice(["a", "b"], weights=[1, 1]).sampler()
    assert (halves(0), halves(2**63 - 1), halves(2**63), halves(2**64 - 1)) == ("a", "a", "b", "b")
    middle = Choice(["a", "b", "c"], weights=[0, 1, 0]).sampler()
    assert (middle(0), middle(2**64 - 1)) == ("b", "b")


def test_the_largest_float_can_be_drawn() -> None:
    """A logarithm that rounds up to the first power of two beyond all floats is no error."""
    draw = LogUniform(1, sys.float_info.max).sampler()
    assert 1.79e308 < draw(2**64 - 1) <= sys.float_info.max
    assert LogUniform(sys.float_info.max, sys.float_info.max).sampler()(0) == sys.float_info.max


def test_values_that_are_chosen_keep_their_types() -> None:
    """Equal values of different types are different choices, and come back as what they were."""
    options = [True, 1, 1.0, "1", None, [1], {"one": 1}, math.nan]
    drawn = draws(Choice(options), 300)
    assert {typed(value) for value in drawn} == {typed(value) for value in options}


def test_a_degenerate_distribution_is_a_constant() -> None:
    """Bounds may coincide, and a standard deviation may be 0."""
    for one in (Uniform(0.1, 0.1), LogUniform(0.1, 0.1), QUniform(0.1, 0.1, 0.1), Normal(0.1, 0), QNormal(0.1, 0, 0.1)):
        assert set(draws(one, 20)) == {0.1}
    assert set(draws(IntUniform(7, 7), 20)) == {7}
    assert set(draws(LogNormal(0, 0), 20)) == {1.0}


# -- How draws are distributed ----------------------------------------------------------------------------------------


def normal_below(mean: float, std: float) -> Callable[[float], float]:
    """Return the distribution function of a normal number."""
    return statistics.NormalDist(mean, std).cdf


@pytest.mark.parametrize("seed", [0, 1, -1])
@pytest.mark.parametrize(
    ("distribution", "below"),
    [
        (Uniform(-1, 3), lambda x: (x + 1) / 4),
        (Uniform(-1e308, 7e307), lambda x: (x / 1e308 + 1) / 1.7),
        (LogUniform(1e-5, 1e-1), lambda x: math.log(x / 1e-5) / math.log(1e4)),
        (LogUniform(5e-324, 1.7e308), lambda x: (math.log2(x) + 1074) / (math.log2(1.7e308) + 1074)),
        (Normal(5, 2), normal_below(5, 2)),
        (LogNormal(1, 0.5), lambda x: normal_below(1, 0.5)(math.log(x))),
        (IntUniform(0, 10**30), lambda x: x / 10**30),
        (Choice(range(-(10**15), 10**15)), lambda x: (x / 10**15 + 1) / 2),
    ],
)
def test_draws_follow_their_distribution(
    distribution: Distribution, below: Callable[[float], float], seed: int
) -> None:
    """The share of draws below each draw is what the distribution function says (Kolmogorov's distance)."""
    drawn = sorted(draws(distribution, 4000, seed))
    distance = max(abs((place + 0.5) / len(drawn) - below(value)) for place, value in enumerate(drawn))
    assert distance < 0.03  # by chance, it is larger once in a thousand times; the seeds are fixed


def shares(distribution: Distribution, count: int = 8000) -> dict[Any, float]:
    """Return how often each value is drawn, as a part of all draws."""
    return {value: drawn / count for value, drawn in Counter(draws(distribution, count)).items()}


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (IntUniform(1, 6), dict.fromkeys(range(1, 7), 1 / 6)),
        (Choice(["a", "b", "c"]), dict.fromkeys("abc", 1 / 3)),
        (Choice(["a", "b", "c"], weights=[1, 0, 3]), {"a": 0.25, "c": 0.75}),
        (Choice(["a", "b"], weights=[1e-300, 3e-300]), {"a": 0.25, "b": 0.75}),
        (Choice(range(3), weights=[1e308, 1e308, 2e307]), {0: 1 / 2.2, 1: 1 / 2.2, 2: 0.2 / 2.2}),
        (QUniform(0, 4, 1), {0: 0.125, 1: 0.25, 2: 0.25, 3: 0.25, 4: 0.125}),
        (QNormal(0, 1, 1), {n: normal_below(0, 1)(n + 0.5) - normal_below(0, 1)(n - 0.5) for n in range(-5, 6)}),
        (QLogUniform(1, 4, 1), {n: math.log(min(n + 0.5, 4) / max(n - 0.5, 1), 4) for n in range(1, 5)}),
    ],
)
def test_discrete_draws_have_the_expected_shares(distribution: Distribution, expected: dict[Any, float]) -> None:
    """Each value is drawn about as often as its weight, or the stretch that is rounded to it, says."""
    found = shares(distribution)
    assert set(found) <= set(expected)
    for value, share in expected.items():
        assert found.get(value, 0) == pytest.approx(share, abs=0.02)


# -- What is refused --------------------------------------------------------------------------------------------------

NO_NUMBERS = [None, "1", True, math.nan, math.inf, -math.inf, 10**400, 2**MAX_BITS, [1], object()]


@pytest.mark.parametrize("wrong", NO_NUMBERS)
@pytest.mark.parametrize(
    "right", [Uniform(1, 2), LogUniform(1, 2), QUniform(1, 2, 1), QLogUniform(1, 2, 1), Normal(1, 2), QNormal(1, 2, 1)]
)
def test_arguments_that_are_no_finite_numbers_are_refused(right: Any, wrong: Any) -> None:
    """Every argument of every distribution is named if it is no number."""
    for argument in attrs.fields(type(right)):
        with pytest.raises(InvalidValue) as caught:
            attrs.evolve(right, **{argument.name: wrong})
        assert caught.value.field == argument.name


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, 1.0, 0.5])
def test_bounds_of_whole_numbers_are_whole(wrong: Any) -> None:
    """A float is no bound of whole numbers, not even 1.0, but a large integer is."""
    if wrong == 10**400:
        assert IntUniform(0, wrong).high == wrong
        return
    with pytest.raises(InvalidValue) as caught:
        IntUniform(wrong, 5)
    assert caught.value.field == "low"


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: Uniform(2, 1), "high"),
        (lambda: LogUniform(2, 1), "high"),
        (lambda: IntUniform(2, 1), "high"),
        (lambda: QUniform(2, 1, 1), "high"),
        (lambda: QLogUniform(2, 1, 1), "high"),
        (lambda: Uniform(-1.7e308, 1.7e308), "high"),
        (lambda: LogUniform(0, 1), "low"),
        (lambda: LogUniform(-1, 1), "low"),
        (lambda: QLogUniform(0, 1, 1), "low"),
        (lambda: QUniform(0, 1, 0), "q"),
        (lambda: QUniform(0, 1, -0.1), "q"),
        (lambda: QUniform(0.3, 0.4, 1), "q"),
        (lambda: QUniform(0, 1, 1e-300), "q"),
        (lambda: QNormal(0, 1, 0), "q"),
        (lambda: QNormal(0, 1, 1e-300), "q"),
        (lambda: QNormal(1e308, 0, 1.7e308), "q"),
        (lambda: Normal(0, -1), "std"),
        (lambda: Normal(0, 1e308), "std"),
        (lambda: QNormal(0, -1, 1), "std"),
        (lambda: LogNormal(0, -1), "std"),
        (lambda: LogNormal(0, 100), "mean"),
        (lambda: LogNormal(710, 0), "mean"),
        (lambda: LogNormal(-710, 0), "mean"),
        (lambda: Choice([]), "values"),
        (lambda: Choice(range(0)), "values"),
        (lambda: Choice("abc"), "values"),
        (lambda: Choice({1: 2}), "values"),  # type: ignore[arg-type]
        (lambda: Choice([1, 2, 1]), "values[2]"),
        (lambda: Choice([1, object()]), "values[1]"),
        (lambda: Choice([1, 2], weights=[1]), "weights"),
        (lambda: Choice([1, 2], weights=[0, 0]), "weights"),
        (lambda: Choice([1, 2], weights="ab"), "weights"),  # type: ignore[arg-type]
        (lambda: Choice([1, 2], weights={}), "weights"),  # type: ignore[arg-type]
        (lambda: Choice(range(10**30), weights=[1]), "weights"),
        (lambda: Choice([1, 2], weights=[1, -1]), "weights[1]"),
        (lambda: Choice([1, 2], weights=[1, math.nan]), "weights[1]"),
        (lambda: Choice([1, 2], weights=[True, 1]), "weights[0]"),
    ],
)
def test_a_distribution_that_cannot_be_drawn_from_is_refused(build: Callable[[], object], field: str) -> None:
    """The error names the argument that is wrong when the distribution is built, not when it is drawn from."""
    with pytest.raises(InvalidValue) as caught:
        build()
    assert caught.value.field == field


# -- Values -----------------------------------------------------------------------------------------------------------


@unhurried
@given(one=distributions, word=words)
def test_a_distribution_survives_pickling_copying_and_its_repr(one: Any, word: int) -> None:
    """It can be sent to another process, where it is equal and draws the same."""
    for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), type(one)(**one.arguments)):
        assert again == one
        assert hash(again) == hash(one)
        assert repr(again) == repr(one)
        assert typed(again.sampler()(word)) == typed(one.sampler()(word))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Uniform(0, 1), Uniform(0, 2)),
        (Uniform(1, 2), LogUniform(1, 2)),
        (Choice([1]), Choice([True])),
        (Choice([[1]]), Choice([[1.0]])),
        (Choice([1, 2]), Choice([1, 2], weights=[1, 1])),
        (QNormal(0, 1, 1), QNormal(0, 1, 1.0)),
        (Uniform(0, 1), (0.0, 1.0)),
    ],
)
def test_distributions_that_draw_differently_are_different(one: object, other: object) -> None:
    """Equal means: the same kind, and arguments of the same types and values."""
    assert one != other


def test_equal_distributions_are_equal_values() -> None:
    """Distributions compare and hash by what they say, NaN and unhashable choices included."""
    assert Uniform(0, 1) == Uniform(0.0, 1.0)
    assert {Uniform(0, 1), Uniform(0.0, 1.0)} == {Uniform(0, 1)}
    assert Choice([math.nan, [1], {"a": [2]}]) == Choice((float("nan"), (1,), {"a": (2,)}))
    assert hash(Choice([math.nan, [1], {"a": [2]}])) == hash(Choice((float("nan"), (1,), {"a": (2,)})))


def test_a_distribution_cannot_be_changed() -> None:
    """It may be shared between searches."""
    for one in (Uniform(0, 1), Choice([1])):
        for name in one.arguments:
            with pytest.raises(AttributeError):
                setattr(one, name, -1)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (LogUniform(1e-4, 1), "LogUniform(low=0.0001, high=1.0)"),
        (QUniform(0, 8, 2), "QUniform(low=0.0, high=8.0, q=2)"),
        (Choice(["a", None]), "Choice(values=['a', None], weights=None)"),
        (Choice(range(2), [1, 0]), "Choice(values=range(0, 2), weights=[1.0, 0.0])"),
    ],
)
def test_the_repr_is_what_builds_it(one: Distribution, text: str) -> None:
    """It shows as the call that makes an equal one."""
    assert repr(one) == text
    assert eval(text) == one


def test_slow_modules_are_imported_where_they_are_needed_only() -> None:
    """Most programs that import the library draw no normal or quantised number, and many no number at all."""
    code = "import sys, sweepstate.search.random; print({'decimal', 'fractions', 'statistics'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
