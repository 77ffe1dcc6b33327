"""Grid search: every combination of the choices, each exactly once, decoded from its index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import attrs

from ..core.errors import InvalidValue
from ..core.questions import Exhausted
from ..core.values import FrozenDict, show
from .space import (
    Distribution,
    brief,
    check_index,
    check_size,
    compile_space,
    count_choices,
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


@attrs.frozen(init=False, eq=False, repr=False)
class Grid:
    """A search that proposes every combination of the choices, the last-named parameter varying fastest.

    Point ``index`` is decoded from the index alone, as a number whose digits are the choices: there is no list of
    combinations, no memory of what was proposed, and so nothing that two agents or a restart could repeat or skip.
    The order is that of ``itertools.product``, and the order in which parameters are named is part of what a grid is.

    A grid is a value: it can be compared, hashed, pickled, and used from several threads.

    Args:
        space: the parameters by name. A list, a tuple or a ``range`` has the choices of a parameter, which may
            themselves be lists or dictionaries; a mapping is a nested space, whose leaves are crossed with the
            others and whose configurations are nested the same way; anything else is a constant.

    Attributes:
        space: the space, frozen.
        size: how many points there are; exact, however many.

    Raises:
        InvalidValue: a space or a list of choices is empty, a choice is there twice (of the same type and value;
            ``True``, ``1`` and ``1.0`` are three), a value could not be stored, or a name is no string.

    Source: wandb/wandb#2376 and #8549, optuna/optuna#4627, #4726 and #5489.

    Example:
        >>> grid = Grid({"lr": [0.1, 0.01], "layers": range(2, 4), "optimizer": {"name": ["adam"]}, "data": "iris"})
        >>> grid.size
        4
        >>> grid.propose(1, None)
        {'lr': 0.1, 'layers': 3, 'optimizer': {'name': 'adam'}, 'data': 'iris'}
    """

    name: ClassVar[str] = "grid"
    by_index: ClassVar[bool] = True

    space: FrozenDict
    size: int
    _digits: tuple[tuple[tuple[Any, ...] | range, int, int], ...]
    _fill: Callable[[list[Any]], FrozenDict]

    def __init__(self, space: Mapping[str, Any]) -> None:
        tree = read_space(space, "space", _read_parameter)
        fill, parameters = compile_space(tree, _is_choices)
        digits: list[tuple[tuple[Any, ...] | range, int, int]] = []
        size = 1
        for choices in reversed(parameters):
            count = count_choices(choices)
            digits.append((choices, size, count))
            size *= count
        object.__setattr__(self, "space", tree)
        object.__setattr__(self, "size", check_size(size, "space"))
        object.__setattr__(self, "_digits", tuple(reversed(digits)))
        object.__setattr__(self, "_fill", fill)

    def propose(self, index: int, history: object) -> FrozenDict | Exhausted:  # noqa: ARG002  a hook's arguments are fixed
        """Return the configuration of run ``index``.

        The cost grows with the number of parameters, not with the number of points.

        Args:
            index: the index of the run, from 0.
            history: ignored; what was run has no influence on a grid.

        Returns:
            The configuration, frozen; ``Exhausted`` if ``index`` is ``size`` or more. Exhaustion comes from the
            space, never from counting runs. Source: wandb/wandb#2376 and #5489.

        Raises:
            InvalidValue: ``index`` is no whole number, or is negative.
        """
        if type(index) is not int or index < 0:
            index = check_index(index)
        if index >= self.size:
            return Exhausted()
        return self._fill([choices[index // stride % count] for choices, stride, count in self._digits])

    def settings(self) -> dict[str, Any]:
        """Return plain data from which ``from_settings`` builds an equal grid.

        Returns:
            ``{"space": [...]}``, with one entry for each parameter in the order named: its ``name``, and one of
            ``values`` (a list), ``range`` (start, stop and step), ``value`` (a constant) and ``space`` (a nested one).
        """
        return {"space": write_space(self.space, _write_parameter)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the grid that ``settings`` describes.

        Args:
            settings: what ``settings()`` returned, also after JSON or after being frozen.

        Raises:
            InvalidValue: it is not of that form; the field is a path such as ``settings.space.lr.values``.
        """
        fields = take(parse_fields(settings, "settings"), "settings", "space")
        space = parse_space(fields["space"], "settings.space", parse_choices)
        with under("settings"):
            return cls(space)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self is other or (self.size == other.size and exact(self.settings()) == exact(other.settings()))

    def __hash__(self) -> int:
        return hash((Grid, exact(self.settings())))

    def __repr__(self) -> str:
        return f"Grid({brief(self.space)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Grid, (self.space,))


def _read_parameter(value: object, field: str) -> Any:
    if isinstance(value, Distribution):
        raise InvalidValue(field, f"is a distribution: {show(value)}", "list its choices, or use Random")
    if isinstance(value, (list, tuple, range)):
        return read_choices(cast("list[object]", value), field)
    return read_constant(value, field)


def _is_choices(value: object) -> bool:
    return isinstance(value, (tuple, range))


def _write_parameter(parameter: Any) -> dict[str, Any]:
    return write_choices(parameter) if _is_choices(parameter) else {"value": parameter}
