"""Slots: a pool that gives nothing twice, and says when it has no more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import InvalidValue, Slots


def test_the_lowest_free_ones_are_given() -> None:
    """By default to the variable that CUDA reads."""
    slots = Slots([3, 1, 2])
    first, second = slots.take(), slots.take()
    assert (first, second, slots.free) == (("3",), ("1",), 1)
    assert first is not None
    slots.give_back(first)
    assert slots.take() == ("3",)
    assert slots.variables(("1", "2")) == {"CUDA_VISIBLE_DEVICES": "1,2"}


def test_fewer_than_a_run_needs_are_none() -> None:
    slots = Slots(["a", "b", "c"], per_run=2)
    assert slots.take() == ("a", "b")
    assert (slots.available, slots.take(), slots.free) == (False, None, 1)


def test_what_somebody_has_already_is_kept_from_others() -> None:
    """Only what is there and free: two orphans may say that they have the same."""
    slots = Slots([0, 1, 2])
    assert slots.reserve(["1", "9"]) == ("1",)
    assert slots.reserve(["1"]) == ()
    assert [slots.take(), slots.take(), slots.take()] == [("0",), ("2",), None]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 3))
def test_nothing_is_ever_given_twice(moves: list[int], per_run: int) -> None:
    """Whatever is taken and given back, and given back again."""
    slots = Slots(list(range(5)), per_run=per_run)
    held: list[tuple[str, ...]] = []
    for move in moves:
        if move < 4 and (taken := slots.take()) is not None:
            held.append(taken)
        elif held:
            given_back = held.pop(move % len(held))
            slots.give_back(given_back)
            if not held:
                slots.give_back(given_back)
        names = [name for taken in held for name in taken]
        assert len(names) == len(set(names))
        assert slots.free == 5 - len(names)
        assert slots.available is (slots.free >= per_run)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"slots": []}, "slots"),
        ({"slots": "0,1"}, "slots"),
        ({"slots": [0, 0]}, "slots"),
        ({"slots": [0, "0"]}, "slots"),
        ({"slots": ["0,1"]}, "slots[0]"),
        ({"slots": [-1]}, "slots[0]"),
        ({"slots": [0], "per_run": 2}, "per_run"),
        ({"slots": [0], "per_run": 0}, "per_run"),
        ({"slots": [0], "variable": "A=B"}, "variable"),
    ],
)
def test_what_cannot_be_a_pool_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Slots(**arguments)
    assert caught.value.field == field
