"""Grid search: every combination exactly once, decoded from its index."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate.core.errors import InvalidValue
from sweepstate.core.questions import Exhausted
from sweepstate.core.values import MAX_BITS, FrozenDict, freeze
from sweepstate.search.distributions import Uniform
from sweepstate.search.grid import Grid
from tests.search.strategies import damage, typed, unhurried


def points(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configurations of a space in order, the slow and obvious way."""
    options: list[list[Any]] = []
    for parameter in space.values():
        if isinstance(parameter, Mapping):
            options.append(list(points(parameter)))
        elif isinstance(parameter, (list, tuple, range)):
            options.append(list(parameter))
        else:
            options.append([parameter])
    for combination in itertools.product(*options):
        yield dict(zip(space, combination, strict=True))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf])
    | st.floats()
    | st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
ranges = st.builds(range, st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([-3, -1, 1, 2])).filter(bool)
choices = st.lists(values, min_size=1, max_size=4, unique_by=typed)
parameters = choices | choices.map(tuple) | ranges | scalars
names = st.text(max_size=4)
spaces = st.recursive(
    st.dictionaries(names, parameters, min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner | parameters, min_size=1, max_size=3),
    max_leaves=3,
)


# -- Every point, once, in order --------------------------------------------------------------------------------------


@unhurried
@given(space=spaces)
def test_indexes_and_combinations_correspond_one_to_one_in_the_order_of_product(space: dict[str, Any]) -> None:
    """Point n is what ``itertools.product`` has at place n, types included, and there are no others."""
    grid = Grid(space)
    expected = itertools.islice(points(space), 500)
    count = 0
    for index, point in enumerate(expected):
        assert typed(grid.propose(index, None)) == typed(point)
        count += 1
    assert grid.size == count or (count == 500 and grid.size > 500)
    assert isinstance(grid.propose(grid.size, None), Exhausted)


def test_the_last_named_parameter_varies_fastest() -> None:
    """The order is that of nested loops, the first-named parameter being the outermost."""
    grid = Grid({"a": [1, 2], "b": ["x", "y"]})
    assert [grid.propose(index, None) for index in range(4)] == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_a_nested_mapping_is_a_nested_space() -> None:
    """Leaves of a nested space are crossed with the others, and the configuration is nested as the space is."""
    grid = Grid({"lr": [1e-3, 1e-2], "optimizer": {"name": ["adam", "sgd"], "beta": [0.9]}, "data": "iris"})
    assert grid.size == 4
    assert grid.propose(1, None) == {"lr": 1e-3, "optimizer": {"name": "sgd", "beta": 0.9}, "data": "iris"}
    assert list(grid.propose(1, None)) == ["lr", "optimizer", "data"]  # type: ignore[arg-type]


def test_a_nested_space_of_one_parameter_stays_nested() -> None:
    """A nested space is not mistaken for its only parameter."""
    grid = Grid({"optimizer": {"beta": [0.9, 0.99]}})
    assert grid.propose(1, None) == {"optimizer": {"beta": 0.99}}


def test_a_proposal_depends_on_its_index_only() -> None:
    """Asking in another order, and asking twice, gives the same points."""
    grid = Grid({"a": range(7), "b": {"c": range(11)}})
    forward = [grid.propose(index, None) for index in range(77)]
    backward = [grid.propose(index, "whatever was run") for index in reversed(range(77))]
    assert forward == backward[::-1]
    assert len(set(map(typed, forward))) == 77


def test_a_space_of_constants_is_one_point() -> None:
    """Without choices there is one configuration, and then nothing."""
    grid = Grid({"data": "iris", "deep": {"seed": None}})
    assert grid.size == 1
    assert grid.propose(0, None) == {"data": "iris", "deep": {"seed": None}}
    assert grid.propose(1, None) == Exhausted()


@pytest.mark.parametrize("index", [4, 5, 10**30])
def test_beyond_the_last_point_the_grid_is_exhausted(index: int) -> None:
    """Exhaustion comes from the space: index 4 of 4 points, and any later one, has no configuration."""
    assert Grid({"a": [1, 2], "b": [3, 4]}).propose(index, None) == Exhausted()


@pytest.mark.parametrize("index", [-1, -(10**30), 0.0, 1.5, "0", None, True, math.nan, [0]])
def test_an_index_that_is_no_whole_number_from_0_is_refused(index: Any) -> None:
    """A negative index does not wrap around, and a float is not rounded."""
    with pytest.raises(InvalidValue) as caught:
        Grid({"a": [1, 2]}).propose(index, None)
    assert caught.value.field == "index"


class Place(IntEnum):
    """A whole number that is not quite an int, as those of arrays are."""

    SECOND = 1


def test_an_index_may_be_of_a_subclass() -> None:
    """What stands for a whole number is one."""
    assert Grid({"a": [1, 2]}).propose(Place.SECOND, None) == {"a": 2}


# -- Size costs nothing -----------------------------------------------------------------------------------------------


def test_a_grid_of_more_points_than_could_be_listed_proposes_all_the_same() -> None:
    """10**12 points, and 10**30, are decoded and not listed; ranges stay ranges, also longer than ``len`` can say."""
    grid = Grid({"a": range(10**6), "b": {"c": range(0, -(10**6), -1)}, "d": [0, 1], "e": range(10**40)})
    assert grid.size == 2 * 10**52
    assert grid.propose(0, None) == {"a": 0, "b": {"c": 0}, "d": 0, "e": 0}
    assert grid.propose(10**40 + 7, None) == {"a": 0, "b": {"c": 0}, "d": 1, "e": 7}
    last = {"a": 10**6 - 1, "b": {"c": -(10**6) + 1}, "d": 1, "e": 10**40 - 1}
    assert grid.propose(2 * 10**52 - 1, None) == last
    assert len(json.dumps(grid.settings())) < 400


def test_a_grid_whose_size_could_not_be_stored_is_refused() -> None:
    """The number of points has as many bits as any stored number may have, and no more."""
    assert Grid({str(n): [0, 1] for n in range(MAX_BITS - 1)}).size == 2 ** (MAX_BITS - 1)
    with pytest.raises(InvalidValue, match="points") as caught:
        Grid({str(n): [0, 1] for n in range(MAX_BITS)})
    assert caught.value.field == "space"


# -- Values -----------------------------------------------------------------------------------------------------------


def test_values_keep_their_types() -> None:
    """Equal values of different types are different choices, and come back as what they were."""
    given_values = [True, 1, 1.0, "1", None, [1], {"one": 1}, [True], (1.0,), False, 0, -0.0, 0.0, "", [], {}]
    grid = Grid({"a": given_values})
    assert grid.size == len(given_values)
    proposed = [grid.propose(index, None)["a"] for index in range(grid.size)]  # type: ignore[index]
    assert [typed(value) for value in proposed] == [typed(value) for value in given_values]


def test_a_proposal_is_frozen_all_the_way() -> None:
    """The caller may keep a proposal as it is: its mappings are ``FrozenDict`` and its lists tuples, at every depth."""
    point = Grid({"a": {"b": [[1, [2]]], "c": 1}, "d": [{"e": [3]}]}).propose(0, None)
    assert isinstance(point, FrozenDict)
    assert type(point["a"]) is FrozenDict
    assert point["a"]["b"] == (1, (2,))
    assert type(point["d"]) is FrozenDict
    assert point["d"]["e"] == (3,)
    hash(point)


def test_changing_what_was_passed_changes_nothing() -> None:
    """Lists and mappings are copied when the grid is built, at every depth."""
    inner: list[Any] = [1]
    space: dict[str, Any] = {"a": [inner, 2], "b": {"c": [3]}}
    grid = Grid(space)
    before = copy.deepcopy(grid.settings())
    inner.append("changed")
    space["a"].append("changed")
    space["b"]["c"][0] = "changed"
    space["b"]["d"] = "changed"
    space["e"] = "changed"
    assert grid.settings() == before
    assert grid.propose(0, None) == {"a": (1,), "b": {"c": 3}}


def test_changing_what_settings_returned_changes_nothing() -> None:
    """Settings are a copy."""
    grid = Grid({"a": [[1], {"b": 2}]})
    mine = grid.settings()
    mine["space"][0]["values"][0].append("changed")
    mine["space"][0]["values"][1]["b"] = "changed"
    assert grid == Grid({"a": [[1], {"b": 2}]})
    assert grid.settings() != mine


def test_a_grid_cannot_be_changed() -> None:
    """A grid is a value: nothing of it can be set, and its space refuses too."""
    grid = Grid({"a": [1]})
    with pytest.raises(AttributeError):
        grid.size = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        grid.space["a"] = [2]


# -- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "field"),
    [
        ({}, "space"),
        ({"a": {}}, "space.a"),
        ({"a": {"b": {}}}, "space.a.b"),
        ({"a": []}, "space.a"),
        ({"a": ()}, "space.a"),
        ({"a": {"b": range(5, 5)}}, "space.a.b"),
        ({"a": range(2**MAX_BITS, 2**MAX_BITS + 2)}, "space.a"),
        ({"a": range(0, 2**MAX_BITS + 2, 2**MAX_BITS)}, "space.a"),
        ({"a": range(2**MAX_BITS, -1, -(2**MAX_BITS))}, "space.a"),
        ({"a": range(2**MAX_BITS - 1, 2**MAX_BITS)}, "space.a"),
        ({"a": range(2 - 2**MAX_BITS, 2**MAX_BITS - 1, 2 ** (MAX_BITS + 1) - 4)}, "space.a"),
        ({"a": [2**MAX_BITS]}, "space.a[0]"),
        ({"a": 2**MAX_BITS}, "space.a"),
        ({"a": ["\ud800"]}, "space.a[0]"),
        ({"\ud800": [1]}, "space"),
        ({1: [1]}, "space"),
        ({"a": {None: [1]}}, "space.a"),
        ({"a": {1, 2}}, "space.a"),
        ({"a": iter([1, 2])}, "space.a"),
        ({"a": [object()]}, "space.a[0]"),
        ({"a": [1, [{"b": object()}]]}, "space.a[1][0].b"),
        ([("a", [1])], "space"),
        (None, "space"),
        ("a", "space"),
    ],
)
def test_a_space_that_means_nothing_is_refused(space: Any, field: str) -> None:
    """Nothing to choose from, and values that could not be stored, are named by their place."""
    with pytest.raises(InvalidValue) as caught:
        Grid(space)
    assert caught.value.field == field


def test_a_space_that_contains_itself_is_refused() -> None:
    """A circle has no end: it is found by its depth."""
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(InvalidValue, match="nested too deep"):
        Grid(circle)


class Stranger(str):
    """A string that a dictionary does not know for what it is."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 0


def test_a_name_that_is_there_twice_is_refused() -> None:
    """Names are compared as the text they are stored as."""
    with pytest.raises(InvalidValue, match="named twice") as caught:
        Grid({"a": [1], Stranger("a"): [2]})
    assert caught.value.field == "space.a"


@pytest.mark.parametrize(
    "twice",
    [
        [1, 2, 1],
        [math.nan, 2, float("nan")],
        ["a", "b", "a"],
        [None, 2, None],
        [[1, {"a": math.nan}], 2, (1, {"a": math.nan})],
        [{"a": 1, "b": 2}, 2, {"b": 2, "a": 1}],
    ],
)
def test_a_choice_that_is_there_twice_is_refused(twice: list[Any]) -> None:
    """The same type and value twice would run a configuration twice; the error says which, and what to do."""
    with pytest.raises(InvalidValue, match=r"again, as \[0\] is; give each choice once") as caught:
        Grid({"deep": {"a": twice}})
    assert caught.value.field == "space.deep.a[2]"


def test_a_distribution_in_a_grid_is_refused_with_what_to_do() -> None:
    """A grid cannot enumerate a distribution: the error names the search that draws from it."""
    with pytest.raises(InvalidValue, match="use Random") as caught:
        Grid({"lr": Uniform(0, 1)})
    assert caught.value.field == "space.lr"


def nested(levels: int, leaf: object) -> dict[str, Any]:
    """Return a space with ``leaf`` so many levels deep."""
    space: dict[str, Any] = {"a": leaf}
    for _ in range(levels - 1):
        space = {"a": space}
    return space


def test_whatever_is_accepted_can_be_stored_and_read_again() -> None:
    """A space or a value nested too deep is refused when the grid is built, not when its sweep is read again."""
    for levels in range(1, 40):
        for depth in range(40):
            value: Any = 1
            for _ in range(depth):
                value = FrozenDict({"v": value})  # freeze() trusts these, whatever their depth
            try:
                grid = Grid(nested(levels, [value]))
            except InvalidValue as error:
                assert 2 * levels + depth > 26, error  # noqa: PT017  nobody writes more than that
                continue
            stored = json.loads(json.dumps({"a": {"b": {"c": {"d": grid.settings()}}}}))
            freeze(stored, "stored")
            assert Grid.from_settings(stored["a"]["b"]["c"]["d"]) == grid


# -- Comparing, pickling, storing -------------------------------------------------------------------------------------


@unhurried
@given(space=spaces)
def test_settings_rebuild_an_equal_grid_after_json(space: dict[str, Any]) -> None:
    """Settings survive JSON, with sorted keys too, and freezing, and give an equal grid with the same points."""
    grid = Grid(space)
    for text in (json.dumps(grid.settings()), json.dumps(grid.settings(), sort_keys=True)):
        again = Grid.from_settings(json.loads(text))
        assert again == grid
        assert hash(again) == hash(grid)
        assert typed(again.settings()) == typed(grid.settings())
        assert typed(again.propose(grid.size // 2, None)) == typed(grid.propose(grid.size // 2, None))
    assert Grid.from_settings(freeze(grid.settings(), "settings")) == grid


@unhurried
@given(space=spaces)
def test_a_grid_survives_pickling_and_copying(space: dict[str, Any]) -> None:
    """A grid can be sent to another process."""
    grid = Grid(space)
    for again in (pickle.loads(pickle.dumps(grid)), copy.deepcopy(grid), copy.copy(grid), Grid(grid.space)):
        assert again == grid
        assert typed(again.propose(grid.size - 1, None)) == typed(grid.propose(grid.size - 1, None))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [1]}, {"a": [True]}),
        ({"a": [1]}, {"a": [1.0]}),
        ({"a": [1]}, {"a": 1}),
        ({"a": [[1]]}, {"a": [[1.0]]}),
        ({"a": [0, 1]}, {"a": [1, 0]}),
        ({"a": [0, 1]}, {"a": range(2)}),
        ({"a": [1], "b": [2]}, {"b": [2], "a": [1]}),
        ({"a": [1]}, {"b": [1]}),
        ({"a": {"b": [1]}}, {"a": [{"b": 1}]}),
        ({"a": [0.0]}, {"a": [-0.0]}),
    ],
)
def test_grids_that_differ_in_type_order_or_nesting_are_different(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Equal means: the same configuration for every index, from the same settings."""
    assert Grid(one) != Grid(other)
    assert typed(Grid(one).settings()) != typed(Grid(other).settings())


def test_ranges_of_the_same_numbers_are_the_same_choices() -> None:
    """How far beyond its last number a range ends is no difference."""
    assert Grid({"a": range(0, 10, 3)}) == Grid({"a": range(0, 12, 3)})
    assert Grid({"a": range(0, 10, 3)}).settings() == Grid({"a": range(0, 12, 3)}).settings()
    assert Grid({"a": range(5, 0, -2)}).settings() == Grid({"a": range(5, -1 + 1, -2)}).settings()
    assert Grid({"a": range(7, 9, 5)}) == Grid({"a": range(7, 8)})


def test_a_range_of_the_largest_numbers_survives_its_settings() -> None:
    """Whatever range is accepted can be read again, its stop and its step too."""
    grid = Grid({"a": range(2 - 2**MAX_BITS, 2**MAX_BITS - 1, 2**MAX_BITS - 2)})
    assert Grid.from_settings(grid.settings()) == grid
    assert grid.propose(2, None) == {"a": 2**MAX_BITS - 2}


def test_a_grid_is_not_equal_to_something_else() -> None:
    """Comparing with what is no grid is False and does not raise."""
    assert Grid({"a": [1]}) != {"a": [1]}


def test_the_settings_are_plain_data_that_says_what_it_is() -> None:
    """The stored form is part of the interface: it keeps the order of parameters, and tells all forms apart."""
    grid = Grid({"lr": (0.1, 0.01), "n": range(2, 9, 2), "data": "iris", "opt": {"beta": [[0.9, 0.99], {"x": [1]}]}})
    assert grid.settings() == {
        "space": [
            {"name": "lr", "values": [0.1, 0.01]},
            {"name": "n", "range": [2, 9, 2]},
            {"name": "data", "value": "iris"},
            {"name": "opt", "space": [{"name": "beta", "values": [[0.9, 0.99], {"x": [1]}]}]},
        ]
    }


def test_the_name_is_that_of_the_method() -> None:
    """W&B calls the method ``grid``; so is the search called."""
    assert Grid.name == "grid"
    assert Grid({"a": [1]}).name == "grid"


def test_the_repr_is_what_builds_it() -> None:
    """A short grid shows as the call that makes an equal one."""
    grid = Grid({"lr": [0.1, 0.01], "n": range(2, 9, 2), "data": "iris", "opt": {"beta": [[0.9], None, {"x": 1}]}})
    assert repr(grid) == (
        "Grid({'lr': [0.1, 0.01], 'n': range(2, 9, 2), 'data': 'iris', 'opt': {'beta': [[0.9], None, {'x': 1}]}})"
    )


def test_the_repr_of_a_large_grid_is_short() -> None:
    """A million choices, a thousand parameters and long texts do not fill a screen."""
    assert repr(Grid({"a": list(range(10**5))})) == "Grid({'a': [0, 1, 2, 3, 4, 5, 6, 7, ...]})"
    assert len(repr(Grid({str(n): ["x" * 10_000] for n in range(1000)}))) < 1000


# -- Hostile settings -------------------------------------------------------------------------------------------------


def entry(**fields: Any) -> dict[str, Any]:
    """Return settings of one parameter."""
    return {"space": [{"name": "a", **fields}]}


def deep(levels: int) -> list[dict[str, Any]]:
    """Return the entries of a space nested so many levels deep."""
    entries: list[dict[str, Any]] = [{"name": "a", "values": [1]}]
    for _ in range(levels):
        entries = [{"name": "a", "space": entries}]
    return entries


@pytest.mark.parametrize(
    ("hostile", "field"),
    [
        (None, "settings"),
        ([], "settings"),
        ("space", "settings"),
        ({}, "settings.space"),
        ({1: 2}, "settings"),
        ({"space": [], "seed": 0}, "settings.seed"),
        ({"space": {}}, "settings.space"),
        ({"space": "abc"}, "settings.space"),
        ({"space": []}, "settings.space"),
        ({"space": [1]}, "settings.space[0]"),
        ({"space": [{}]}, "settings.space[0].name"),
        ({"space": [{"name": 1, "values": [1]}]}, "settings.space[0].name"),
        ({"space": [{"name": "\ud800", "values": [1]}]}, "settings.space[0].name"),
        ({"space": [{"name": "a", "values": [1]}, {"name": "a", "values": [1]}]}, "settings.space.a"),
        (entry(), "settings.space.a.values"),
        (entry(values=1), "settings.space.a.values"),
        (entry(values="abc"), "settings.space.a.values"),
        (entry(values={"b": 1}), "settings.space.a.values"),
        (entry(values=[]), "settings.space.a"),
        (entry(values=[1, 1]), "settings.space.a[1]"),
        (entry(values=[object()]), "settings.space.a[0]"),
        (entry(values=[2**MAX_BITS]), "settings.space.a[0]"),
        (entry(values=[1], range=[0, 1, 1]), "settings.space.a.values"),
        (entry(values=[1], value=1), "settings.space.a.values"),
        (entry(value=1, space=[]), "settings.space.a.value"),
        (entry(value=[1]), "settings.space.a.value"),
        (entry(value={"b": 1}), "settings.space.a.value"),
        (entry(value=object()), "settings.space.a.value"),
        (entry(distribution="uniform", low=0, high=1), "settings.space.a.distribution"),
        (entry(range=5), "settings.space.a.range"),
        (entry(range=[5]), "settings.space.a.range"),
        (entry(range=[0, 5, 0]), "settings.space.a.range[2]"),
        (entry(range=[0, 5.0, 1]), "settings.space.a.range[1]"),
        (entry(range=[True, 5, 1]), "settings.space.a.range[0]"),
        (entry(range=[0, math.nan, 1]), "settings.space.a.range[1]"),
        (entry(range=[0, 2**MAX_BITS, 1]), "settings.space.a.range[1]"),
        (entry(range=[5, 0, 1]), "settings.space.a"),
        (entry(space=[]), "settings.space.a"),
        (entry(space=[{"name": "b", "values": []}]), "settings.space.a.b"),
        (entry(space=[{"name": "b", "range": [0, "1", 1]}]), "settings.space.a.b.range[1]"),
        ({"space": deep(10_000)}, "settings.space" + ".a" * 13),
    ],
)
def test_settings_that_nobody_wrote_are_refused_by_path(hostile: Any, field: str) -> None:
    """Whatever is wrong with stored data, the error names the place in it, and nothing else is raised."""
    with pytest.raises(InvalidValue) as caught:
        Grid.from_settings(hostile)
    assert caught.value.field == field


def test_a_size_that_could_not_be_stored_is_refused_in_settings_too() -> None:
    """Settings may not ask for more points than a grid may have."""
    entries = [{"name": str(n), "range": [0, 2**2000, 1]} for n in range(3)]
    with pytest.raises(InvalidValue, match="points") as caught:
        Grid.from_settings({"space": entries})
    assert caught.value.field == "settings.space"


@unhurried
@given(space=spaces, where=st.data())
def test_damaged_settings_build_a_grid_or_are_refused(space: dict[str, Any], where: st.DataObject) -> None:
    """No damage to stored data raises anything but InvalidValue, or makes a grid that cannot propose or be stored."""
    damaged = damage(Grid(space).settings(), where)
    try:
        grid = Grid.from_settings(damaged)
    except InvalidValue as error:
        assert error.field.startswith("settings")  # noqa: PT017
        return
    assert isinstance(grid.propose(grid.size - 1, None), FrozenDict)
    assert Grid.from_settings(json.loads(json.dumps(grid.settings()))) == grid
