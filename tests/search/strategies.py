"""What the tests of searches share: distributions and spaces to draw, and ways to compare and to damage data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

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
from sweepstate.search.space import Distribution

unhurried = settings(deadline=None)


def typed(value: object) -> str:
    """Return a text that differs whenever type or value differ; lists and tuples are the same, NaN equals itself."""
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{name!r}={typed(item)}" for name, item in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(typed, value)) + "]"
    return f"{type(value).__name__}:{value!r}"


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
whole = st.integers(-10, 10) | st.integers(-(2**200), 2**200)
words = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
steps = st.sampled_from([0.1, 0.2, 0.3, 0.25, 0.5, 1.0, 1, 2, 16, 1e-3, 0.05, 7.5])
moderate = st.integers(-10_000, 10_000).map(lambda n: n / 100)


def pair(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Draw a least and a largest value whose distance is finite."""
    return st.tuples(numbers, numbers).map(lambda two: (min(two), max(two))).filter(lambda p: p[1] - p[0] < math.inf)


def quantised(kind: Callable[..., Distribution], low: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Draw a quantised distribution; between its bounds lies at least one multiple."""
    return st.builds(
        lambda low, q, n, more: kind(low, low + q * n + more, q), low, steps, st.integers(2, 50), positive_step
    )


positive_step = st.integers(0, 100).map(lambda n: n / 100)
uniforms = pair(finite).map(lambda p: Uniform(*p))
log_uniforms = pair(positive).map(lambda p: LogUniform(*p))
int_uniforms = pair(whole).map(lambda p: IntUniform(*p))
q_uniforms = quantised(QUniform, moderate)
q_log_uniforms = quantised(QLogUniform, moderate.map(lambda low: abs(low) + 0.01))
normals = st.builds(Normal, moderate, moderate.map(abs))
q_normals = st.builds(QNormal, moderate, moderate.map(abs), steps)
log_normals = st.builds(LogNormal, st.floats(-50, 50), st.floats(0, 50))
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=2), scalars, max_size=2)
choices = st.lists(values, min_size=1, max_size=4, unique_by=typed)
weighted = choices.flatmap(
    lambda options: (
        st.lists(st.floats(0, 1e300), min_size=len(options), max_size=len(options))
        .filter(any)
        .map(lambda weights: Choice(options, weights))
    )
)
distributions = st.one_of(
    uniforms, log_uniforms, int_uniforms, q_uniforms, q_log_uniforms, normals, q_normals, log_normals, weighted
)
parameters = distributions | choices | choices.map(Choice) | st.builds(range, st.integers(1, 9)) | scalars
names = st.text(max_size=4)
spaces = st.recursive(
    st.dictionaries(names, parameters, min_size=1, max_size=4),
    lambda inner: st.dictionaries(names, inner | parameters, min_size=1, max_size=4),
    max_leaves=3,
)
seeds = st.integers(-3, 3) | st.integers(-(2**MAX_BITS) + 1, 2**MAX_BITS - 1)
indexes = st.integers(0, 10) | st.integers(0, 2**80)


junk = st.recursive(
    scalars | st.sampled_from([10**400, 2**5000, -1, 1e308, "uniform", "categorical"]) | st.binary(max_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def damage(data: Any, where: st.DataObject) -> Any:
    """Return plain data with one part of it replaced, removed or added."""
    if isinstance(data, dict) and data and where.draw(st.booleans()):
        key = where.draw(st.sampled_from(sorted(data)))
        return {**data, key: damage(data[key], where)}
    if isinstance(data, list) and data and where.draw(st.booleans()):
        place = where.draw(st.integers(0, len(data) - 1))
        return [*data[:place], damage(data[place], where), *data[place + 1 :]]
    if isinstance(data, dict) and data and where.draw(st.booleans()):
        key = where.draw(st.sampled_from(sorted(data)))
        return {name: item for name, item in data.items() if name != key}
    return where.draw(junk)
