"""Random search: every configuration follows from seed and index, and from nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
import random as stdlib_random
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sweepstate.core.errors import InvalidValue
from sweepstate.core.questions import Exhausted
from sweepstate.core.values import MAX_BITS, FrozenDict, freeze
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
from tests.search.strategies import damage, indexes, seeds, spaces, typed, unhurried

EVERY: dict[str, Any] = {
    "uniform": Uniform(-1, 3),
    "log_uniform": LogUniform(1e-5, 1e-1),
    "int_uniform": IntUniform(-3, 12),
    "wide": IntUniform(0, 10**30),
    "q_uniform": QUniform(0, 1, 0.1),
    "q_log_uniform": QLogUniform(16, 1024, 16),
    "nested": {
        "normal": Normal(5, 2),
        "q_normal": QNormal(0, 1, 0.25),
        "log_normal": LogNormal(0, 1),
        "constant": "iris",
    },
    "choice": Choice(["relu", "gelu", None, 1, 1.0, True, [1, {"a": 2}]]),
    "weighted": Choice(["a", "b", "c"], weights=[1, 0, 3]),
    "list": [16, 32, 64],
    "range": range(0, 100, 5),
}


def proposal(search: Random, index: int) -> FrozenDict:
    """Return the configuration of a run; there is one."""
    config = search.propose(index, None)
    assert isinstance(config, FrozenDict)
    return config


# -- Seed and index, and nothing else ---------------------------------------------------------------------------------


@unhurried
@given(space=spaces, seed=seeds, index=indexes)
def test_a_configuration_follows_from_space_seed_and_index(space: dict[str, Any], seed: int, index: int) -> None:
    """Another object, built from the same arguments, draws the same, whatever it was asked before."""
    one, other = Random(space, seed), Random(space, seed)
    other.propose(index + 1, None)
    assume(one.size is None)
    assert typed(one.propose(index, None)) == typed(other.propose(index, ["any", "history"]))
    assert typed(one.propose(index, None)) == typed(one.propose(index, None))


def test_the_order_of_asking_does_not_matter() -> None:
    """Asking backwards, or from many threads, draws what asking in order draws."""
    search = Random(EVERY, seed=5)
    forward = [search.propose(index, None) for index in range(200)]
    backward = [search.propose(index, None) for index in reversed(range(200))]
    assert forward == backward[::-1]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda index: search.propose(index, None), range(200))) == forward


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    """Seeding Python's own generator has no influence, and drawing leaves it alone."""
    search = Random(EVERY)
    stdlib_random.seed(1)
    state = stdlib_random.getstate()
    first = search.propose(0, None)
    assert stdlib_random.getstate() == state
    stdlib_random.seed(2)
    assert search.propose(0, None) == first


@pytest.mark.parametrize("other", [1, -1, 2**64, -(2**64), 16, 2**4000])
def test_another_seed_draws_other_numbers(other: int) -> None:
    """Seeds that differ draw differently, also where only the sign or the high bits do; none is another shifted."""
    space = {"x": Uniform(0, 1)}
    mine = {proposal(Random(space, 0), index)["x"] for index in range(300)}
    theirs = {proposal(Random(space, other), index)["x"] for index in range(300)}
    assert len(mine) == len(theirs) == 300
    assert not mine & theirs


def test_every_index_draws_anew() -> None:
    """A resumed sweep does not repeat its first samples: no two of many runs are the same."""
    search = Random({"x": Uniform(0, 1)})
    assert len({proposal(search, index)["x"] for index in range(5000)}) == 5000
    assert proposal(search, 2**64) != proposal(search, 0)


def test_the_parameters_of_a_run_are_drawn_independently() -> None:
    """Neither parameters of a run nor neighbouring runs are correlated, in the first block of words and beyond."""
    search = Random({str(n): Uniform(0, 1) for n in range(12)})
    rows = [list(proposal(search, index).values()) for index in range(3000)]
    columns = list(zip(*rows, strict=True))
    for place, column in enumerate(columns):
        following = columns[(place + 1) % len(columns)]
        assert abs(statistics.correlation(column, following)) < 0.06
        assert abs(statistics.correlation(column[:-1], column[1:])) < 0.06


# -- The promised derivation ------------------------------------------------------------------------------------------


def promised_words(seed: int, index: int, count: int) -> list[int]:
    """Return the words of a run as the module's docstring says, written independently of it."""
    found: list[int] = []
    for block in range(-(-count // 8)):
        digest = hashlib.blake2b(f"sweepstate-random-1/{seed:x}/{index:x}/{block:x}".encode()).digest()
        found += [int.from_bytes(digest[8 * n : 8 * n + 8], "little") for n in range(8)]
    return found[:count]


@unhurried
@given(seed=seeds, index=indexes)
def test_words_are_dealt_as_promised(seed: int, index: int) -> None:
    """The rule of the docstring, followed by hand, gives the same values: over blocks, wide numbers and nesting."""
    count = 10**30 + 1  # of 100 bits: with 64 more, three words
    space = {
        "first": IntUniform(0, 2**32 - 1),
        "wide": IntUniform(5, 5 + count - 1),
        "constant": 1,
        "nested": {"a": IntUniform(-7, 7), "b": range(count), "c": [10, 20, 30]},
        "weighted": Choice(["x", "y", "z"], weights=[1, 2, 5]),
        "last": Uniform(-2, 6),
    }
    word = promised_words(seed, index, 11)

    def joined(*parts: int) -> int:
        return sum(part << 64 * n for n, part in enumerate(parts))

    config = proposal(Random(space, seed), index)
    assert config["first"] == word[0] >> 32
    assert config["wide"] == 5 + joined(*word[1:4]) * count // 2**192
    assert config["nested"]["a"] == -7 + word[4] * 15 // 2**64
    assert config["nested"]["b"] == joined(*word[5:8]) * count // 2**192
    assert config["nested"]["c"] == [10, 20, 30][word[8] * 3 // 2**64]
    assert config["weighted"] == ("x" if word[9] < 2**61 else "y" if word[9] < 3 * 2**61 else "z")
    assert config["last"] == float(-2 + 8 * Fraction(2 * (word[10] >> 12) + 1, 2**53))


PINNED: list[tuple[int, int, dict[str, Any]]] = [
    (
        0,
        0,
        {
            "uniform": 0.03592392038248127,
            "log_uniform": 0.00034476095984269323,
            "int_uniform": 6,
            "wide": 662558531007818384514791320703,
            "q_uniform": 0.0,
            "q_log_uniform": 128,
            "nested": {
                "normal": 7.760373768055615,
                "q_normal": 2.0,
                "log_normal": 0.33183345887275095,
                "constant": "iris",
            },
            "choice": "gelu",
            "weighted": "c",
            "list": 32,
            "range": 50,
        },
    ),
    (
        0,
        1,
        {
            "uniform": 0.9928172511854361,
            "log_uniform": 0.00026067376382781686,
            "int_uniform": -3,
            "wide": 233717178660239349454012055828,
            "q_uniform": 0.4,
            "q_log_uniform": 48,
            "nested": {
                "normal": 5.466098788559984,
                "q_normal": 1.25,
                "log_normal": 0.40422286797896584,
                "constant": "iris",
            },
            "choice": [1, {"a": 2}],
            "weighted": "a",
            "list": 64,
            "range": 25,
        },
    ),
    (
        2024,
        1000000,
        {
            "uniform": 1.4191843627648342,
            "log_uniform": 2.1145925975847247e-05,
            "int_uniform": 1,
            "wide": 100220350450958546971856808033,
            "q_uniform": 0.5,
            "q_log_uniform": 240,
            "nested": {
                "normal": 6.453921755404304,
                "q_normal": 2.5,
                "log_normal": 0.5656259572037724,
                "constant": "iris",
            },
            "choice": 1.0,
            "weighted": "a",
            "list": 64,
            "range": 35,
        },
    ),
    (
        -1180591620717411303424,
        1099511627776,
        {
            "uniform": 1.897547576126025,
            "log_uniform": 6.442110592567745e-05,
            "int_uniform": -2,
            "wide": 335586900936955360487013396756,
            "q_uniform": 0.6,
            "q_log_uniform": 48,
            "nested": {
                "normal": 5.283504784652398,
                "q_normal": -0.5,
                "log_normal": 9.759315839856145,
                "constant": "iris",
            },
            "choice": None,
            "weighted": "c",
            "list": 64,
            "range": 30,
        },
    ),
]


def flat(value: Any) -> list[Any]:
    """Return the values of a configuration, depth first."""
    return [item for inner in value.values() for item in flat(inner)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize(("seed", "index", "expected"), PINNED)
def test_draws_never_change(seed: int, index: int, expected: dict[str, Any]) -> None:
    """Sweeps that are resumed rely on these: exactly, but for the last digits of what platforms round differently."""
    rounded = ("log_uniform", "nested")
    config = proposal(Random(EVERY, seed), index)
    assert typed({name: config[name] for name in config if name not in rounded}) == typed(
        {name: expected[name] for name in expected if name not in rounded}
    )
    for name in rounded:
        assert flat(config[name]) == [
            pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for value in flat(expected[name])
        ]


# -- Spaces -----------------------------------------------------------------------------------------------------------


def test_a_configuration_is_nested_and_ordered_as_its_space() -> None:
    """Every parameter is there, under its name, in the order named; constants are what they are."""
    config = proposal(Random(EVERY), 3)
    assert list(config) == list(EVERY)
    assert list(config["nested"]) == list(EVERY["nested"])
    assert config["nested"]["constant"] == "iris"
    assert config["list"] in (16, 32, 64)
    assert config["range"] in range(0, 100, 5)


def test_a_nested_space_of_one_parameter_stays_nested() -> None:
    """A nested space is not mistaken for its only parameter."""
    assert proposal(Random({"a": {"b": IntUniform(3, 3)}}), 0) == {"a": {"b": 3}}


def test_constants_take_no_randomness() -> None:
    """A constant may be added to a space, or taken away, without changing any draw."""
    assert proposal(Random({"a": 1, "x": Uniform(0, 1)}), 0)["x"] == proposal(Random({"x": Uniform(0, 1)}), 0)["x"]


def test_a_bare_sequence_means_a_choice() -> None:
    """A list, a tuple and a range are distributions too."""
    assert Random({"a": [1, 2], "b": (1, 2), "c": range(3)}) == Random(
        {"a": Choice([1, 2]), "b": Choice([1, 2]), "c": Choice(range(3))}
    )


def test_a_random_search_has_no_size() -> None:
    """There is always another draw, of a distribution with few values too."""
    search = Random({"a": [1]})
    assert search.size is None
    assert search.propose(10**9, None) == {"a": 1}


def test_a_search_without_anything_random_has_one_point() -> None:
    """A sweep of constants ends after one run instead of repeating it for ever."""
    search = Random({"a": 1, "b": {"c": None}})
    assert search.size == 1
    assert search.propose(0, None) == {"a": 1, "b": {"c": None}}
    assert search.propose(1, None) == Exhausted()
    assert Random.from_settings(search.settings()) == search


def test_a_proposal_is_frozen_all_the_way() -> None:
    """The caller may keep a proposal as it is."""
    config = proposal(Random({"a": {"b": [[1, [2]]]}, "c": [{"e": [3]}]}), 0)
    assert type(config["a"]) is FrozenDict
    assert config["a"]["b"] == (1, (2,))
    assert type(config["c"]) is FrozenDict
    assert config["c"]["e"] == (3,)


def test_changing_what_was_passed_changes_nothing() -> None:
    """Lists and mappings are copied when the search is built."""
    inner: list[Any] = [1]
    weights = [1.0, 0.0]
    space: dict[str, Any] = {"a": [inner], "b": {"c": Choice([2, inner], weights)}}
    search = Random(space)
    before = copy.deepcopy(search.settings())
    inner.append("changed")
    weights[1] = 5.0
    space["b"]["c"] = space["d"] = "changed"
    search.settings()["space"][0]["values"].append("changed")
    assert search.settings() == before
    assert search.propose(0, None) == {"a": (1,), "b": {"c": 2}}


def test_neither_a_search_nor_a_distribution_can_be_changed() -> None:
    """Both are values."""
    search = Random({"a": Uniform(0, 1)})
    with pytest.raises(AttributeError):
        search.seed = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        search.space["a"].low = -1
    with pytest.raises(TypeError):
        search.space["a"] = 1


@pytest.mark.parametrize("index", [-1, -(10**30), 0.0, 1.5, "0", None, True, math.nan, [0]])
def test_an_index_that_is_no_whole_number_from_0_is_refused(index: Any) -> None:
    """There is no run of such an index."""
    with pytest.raises(InvalidValue) as caught:
        Random({"a": [1]}).propose(index, None)
    assert caught.value.field == "index"


# -- What is refused --------------------------------------------------------------------------------------------------


class Homemade(Distribution):
    """A distribution of somebody else: it has no plain data."""

    distribution = "homemade"

    def sampler(self) -> Callable[[int], Any]:
        return float


@pytest.mark.parametrize(
    ("space", "field"),
    [
        ({}, "space"),
        ({"a": {}}, "space.a"),
        ({"a": {"b": []}}, "space.a.b.values"),
        ({"a": [1, 1]}, "space.a.values[1]"),
        ({"a": {1, 2}}, "space.a"),
        ({"a": object()}, "space.a"),
        ({"a": Uniform}, "space.a"),
        ({"a": Homemade()}, "space.a"),
        ({"a": 2**MAX_BITS}, "space.a"),
        ({1: [1]}, "space"),
        (None, "space"),
        ([Uniform(0, 1)], "space"),
    ],
)
def test_a_space_that_means_nothing_is_refused(space: Any, field: str) -> None:
    """Nothing to draw from, and values that could not be stored, are named by their place."""
    with pytest.raises(InvalidValue) as caught:
        Random(space)
    assert caught.value.field == field


@pytest.mark.parametrize("seed", [None, "0", 0.0, True, math.nan, 2**MAX_BITS, -(2**MAX_BITS), [0]])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    """No seed is made up: a search without one could not be resumed."""
    with pytest.raises(InvalidValue) as caught:
        Random({"a": [1, 2]}, seed=seed)
    assert caught.value.field == "seed"


def test_whatever_is_accepted_can_be_stored_and_read_again() -> None:
    """A value nested too deep is refused when the search is built, also within a distribution."""
    value: Any = 1
    accepted = 0
    for _ in range(40):
        value = FrozenDict({"v": value})  # freeze() trusts these, whatever their depth
        try:
            search = Random({"a": {"b": Choice([value])}})
        except InvalidValue as error:
            assert error.field == "space.a.b"  # noqa: PT017
            continue
        accepted += 1
        stored = json.loads(json.dumps({"a": {"b": {"c": {"d": search.settings()}}}}))
        freeze(stored, "stored")
        assert Random.from_settings(stored["a"]["b"]["c"]["d"]) == search
    assert 20 <= accepted < 32


# -- Comparing, pickling, storing -------------------------------------------------------------------------------------


@unhurried
@given(space=spaces, seed=seeds)
def test_settings_rebuild_an_equal_search_after_json(space: dict[str, Any], seed: int) -> None:
    """Settings survive JSON, with sorted keys too, and freezing, and give an equal search with the same draws."""
    search = Random(space, seed)
    for text in (json.dumps(search.settings()), json.dumps(search.settings(), sort_keys=True)):
        again = Random.from_settings(json.loads(text))
        assert again == search
        assert hash(again) == hash(search)
        assert typed(again.settings()) == typed(search.settings())
        assert typed(again.propose(0, None)) == typed(search.propose(0, None))
    assert Random.from_settings(freeze(search.settings(), "settings")) == search


@unhurried
@given(space=spaces, seed=seeds)
def test_a_search_survives_pickling_and_copying(space: dict[str, Any], seed: int) -> None:
    """A search, and every distribution in it, can be sent to another process."""
    search = Random(space, seed)
    for again in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search), copy.copy(search)):
        assert again == search
        assert typed(again.propose(0, None)) == typed(search.propose(0, None))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Random({"a": [1]}), Random({"a": [True]})),
        (Random({"a": [1]}), Random({"a": [1.0]})),
        (Random({"a": [1]}), Random({"a": 1})),
        (Random({"a": [1]}), Random({"a": [1]}, seed=1)),
        (Random({"a": [0, 1]}), Random({"a": range(2)})),
        (Random({"a": [1], "b": [2]}), Random({"b": [2], "a": [1]})),
        (Random({"a": Uniform(0, 1)}), Random({"a": LogUniform(0.5, 1)})),
        (Random({"a": Uniform(0, 1)}), Random({"a": Uniform(0, 2)})),
        (Random({"a": QUniform(0, 1, 1)}), Random({"a": QUniform(0, 1, 1.0)})),
        (Choice([1]), Choice([True])),
        (Choice([[1]]), Choice([[1.0]])),
        (Choice([1, 2]), Choice([1, 2], weights=[1, 1])),
        (QNormal(0, 1, 1), QNormal(0, 1, 1.0)),
    ],
)
def test_searches_that_draw_differently_are_different(one: object, other: object) -> None:
    """Equal means: the same settings, types and order included."""
    assert one != other


def test_equal_distributions_are_equal_values() -> None:
    """Distributions compare and hash by what they say, NaN and unhashable choices included."""
    assert Uniform(0, 1) == Uniform(0.0, 1.0)
    assert {Uniform(0, 1), Uniform(0.0, 1.0)} == {Uniform(0, 1)}
    assert Choice([math.nan, [1], {"a": [2]}]) == Choice((float("nan"), (1,), {"a": (2,)}))
    assert hash(Choice([math.nan, [1], {"a": [2]}])) == hash(Choice((float("nan"), (1,), {"a": (2,)})))
    assert Random({"a": [1]}) != Choice([1])


def test_the_settings_are_plain_data_that_says_what_it_is() -> None:
    """The stored form is part of the interface: W&B's names, this library's arguments, and the order of parameters."""
    assert Random(EVERY, seed=-5).settings() == {
        "seed": -5,
        "space": [
            {"name": "uniform", "distribution": "uniform", "low": -1.0, "high": 3.0},
            {"name": "log_uniform", "distribution": "log_uniform_values", "low": 1e-5, "high": 1e-1},
            {"name": "int_uniform", "distribution": "int_uniform", "low": -3, "high": 12},
            {"name": "wide", "distribution": "int_uniform", "low": 0, "high": 10**30},
            {"name": "q_uniform", "distribution": "q_uniform", "low": 0.0, "high": 1.0, "q": 0.1},
            {"name": "q_log_uniform", "distribution": "q_log_uniform_values", "low": 16.0, "high": 1024.0, "q": 16},
            {
                "name": "nested",
                "space": [
                    {"name": "normal", "distribution": "normal", "mean": 5.0, "std": 2.0},
                    {"name": "q_normal", "distribution": "q_normal", "mean": 0.0, "std": 1.0, "q": 0.25},
                    {"name": "log_normal", "distribution": "log_normal", "mean": 0.0, "std": 1.0},
                    {"name": "constant", "value": "iris"},
                ],
            },
            {
                "name": "choice",
                "distribution": "categorical",
                "values": ["relu", "gelu", None, 1, 1.0, True, [1, {"a": 2}]],
            },
            {"name": "weighted", "distribution": "categorical", "values": ["a", "b", "c"], "weights": [1.0, 0.0, 3.0]},
            {"name": "list", "distribution": "categorical", "values": [16, 32, 64]},
            {"name": "range", "distribution": "categorical", "range": [0, 96, 5]},
        ],
    }


def test_the_name_is_that_of_the_method() -> None:
    """W&B calls the method ``random``; so is the search called."""
    assert Random.name == "random"
    assert Random({"a": [1]}).name == "random"


def test_the_repr_is_what_builds_it() -> None:
    """A short search shows as the call that makes an equal one."""
    search = Random({"lr": LogUniform(1e-4, 0.1), "o": {"n": IntUniform(1, 9), "a": [1, [2]], "d": "iris"}}, seed=7)
    text = repr(search)
    assert text == (
        "Random({'lr': LogUniform(low=0.0001, high=0.1), 'o': {'n': IntUniform(low=1, high=9), "
        "'a': Choice(values=[1, [2]], weights=None), 'd': 'iris'}}, seed=7)"
    )
    assert eval(text) == search


def test_the_repr_of_a_large_search_is_short() -> None:
    """Many choices, weights and parameters do not fill a screen."""
    big = Choice(range(10**4), weights=[1] * 10**4)
    assert len(repr(Random({str(n): Choice(list(range(10**3))) for n in range(100)}))) < 1000
    assert len(repr(Random({"a": big}))) < 400
    assert len(repr(Random({"a": [1]}, seed=2**4000))) < 200


# -- Hostile settings -------------------------------------------------------------------------------------------------


def entry(**fields: Any) -> dict[str, Any]:
    """Return settings of one parameter."""
    return {"seed": 0, "space": [{"name": "a", **fields}]}


@pytest.mark.parametrize(
    ("hostile", "field"),
    [
        (None, "settings"),
        ([], "settings"),
        ({}, "settings.space"),
        ({"space": []}, "settings.seed"),
        ({"space": [], "seed": 0}, "settings.space"),
        ({"space": {}, "seed": 0}, "settings.space"),
        ({"space": [], "seed": 0, "state": b""}, "settings.state"),
        ({"space": [{"name": "a", "value": 1}], "seed": None}, "settings.seed"),
        ({"space": [{"name": "a", "value": 1}], "seed": 0.5}, "settings.seed"),
        ({"space": [{"name": "a", "value": 1}], "seed": True}, "settings.seed"),
        ({"space": [{"name": "a", "value": 1}], "seed": 2**MAX_BITS}, "settings.seed"),
        (entry(), "settings.space.a.distribution"),
        (entry(distribution=None), "settings.space.a.distribution"),
        (entry(distribution=["uniform"]), "settings.space.a.distribution"),
        (entry(distribution="beta", a=1, b=1), "settings.space.a.distribution"),
        (entry(distribution="Uniform", low=0, high=1), "settings.space.a.distribution"),
        (entry(distribution="uniform", low=0), "settings.space.a.high"),
        (entry(distribution="uniform", low=0, high=1, q=1), "settings.space.a.q"),
        (entry(distribution="uniform", min=0, max=1), "settings.space.a.min"),
        (entry(distribution="uniform", low="0", high=1), "settings.space.a.low"),
        (entry(distribution="uniform", low=math.nan, high=1), "settings.space.a.low"),
        (entry(distribution="uniform", low=0, high=10**400), "settings.space.a.high"),
        (entry(distribution="uniform", low=1, high=0), "settings.space.a.high"),
        (entry(distribution="log_uniform_values", low=0, high=1), "settings.space.a.low"),
        (entry(distribution="int_uniform", low=0, high=1.5), "settings.space.a.high"),
        (entry(distribution="q_uniform", low=0, high=1, q=0), "settings.space.a.q"),
        (entry(distribution="normal", mean=0, std=-1), "settings.space.a.std"),
        (entry(distribution="categorical"), "settings.space.a.values"),
        (entry(distribution="categorical", values="ab"), "settings.space.a.values"),
        (entry(distribution="categorical", values=[]), "settings.space.a.values"),
        (entry(distribution="categorical", values=[1, 1]), "settings.space.a.values[1]"),
        (entry(distribution="categorical", values=[1], weights=[1, 2]), "settings.space.a.weights"),
        (entry(distribution="categorical", values=[1], weights=[math.inf]), "settings.space.a.weights[0]"),
        (entry(distribution="categorical", values=[1], range=[0, 1, 1]), "settings.space.a.values"),
        (entry(distribution="categorical", range=[0, 1]), "settings.space.a.range"),
        (entry(value=1, distribution="uniform"), "settings.space.a.distribution"),
        (entry(value=[1]), "settings.space.a.value"),
        (entry(space=[]), "settings.space.a"),
        (entry(space=[{"name": "b", "distribution": "normal", "mean": 0}]), "settings.space.a.b.std"),
    ],
)
def test_settings_that_nobody_wrote_are_refused_by_path(hostile: Any, field: str) -> None:
    """Whatever is wrong with stored data, the error names the place in it, and nothing else is raised."""
    with pytest.raises(InvalidValue) as caught:
        Random.from_settings(hostile)
    assert caught.value.field == field


@unhurried
@given(space=spaces, where=st.data())
def test_damaged_settings_build_a_search_or_are_refused(space: dict[str, Any], where: st.DataObject) -> None:
    """No damage to stored data raises anything but InvalidValue, or makes a search that cannot propose or be stored."""
    damaged = damage(Random(space).settings(), where)
    try:
        search = Random.from_settings(damaged)
    except InvalidValue as error:
        assert error.field.startswith("settings")  # noqa: PT017
        return
    assert isinstance(search.propose(0, None), FrozenDict)
    assert Random.from_settings(json.loads(json.dumps(search.settings()))) == search
