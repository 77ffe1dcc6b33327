"""A clock that only moves when it is told to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate.core.errors import InvalidValue
from sweepstate.testing import ManualClock

SECONDS = st.floats(min_value=0, max_value=1e9)


def test_it_begins_where_it_is_told_and_stands_still() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock(), clock.now) == (5.0, 5.0, 5.0)


@given(SECONDS, st.lists(SECONDS, max_size=5))
def test_advancing_never_moves_it_backwards_and_returns_what_it_shows(start: float, steps: list[float]) -> None:
    clock = ManualClock(start)
    for step in steps:
        before = clock()
        assert clock.advance(step) == clock() == before + step


def test_it_can_be_set_backwards_as_clocks_of_machines_are() -> None:
    clock = ManualClock(100.0)
    clock.set(40.0)
    assert clock() == 40.0


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "soon", None, True])
def test_what_is_no_time_is_refused_and_changes_nothing(wrong: float) -> None:
    clock = ManualClock(1.0)
    for move in (clock.advance, clock.set, ManualClock):
        with pytest.raises(InvalidValue):
            move(wrong)
    assert clock() == 1.0


def test_it_says_what_it_shows() -> None:
    assert repr(ManualClock(2.5)) == "ManualClock(2.5)"
