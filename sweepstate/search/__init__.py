"""Searches: what proposes configurations. Those that are plain data are stored with their sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast, runtime_checkable

from ..core.errors import InvalidValue, SearchMismatch
from ..core.values import FrozenDict, freeze_mapping, show
from ..hooks import Search
from .grid import Grid
from .random import Random


@runtime_checkable
class PlainSearch(Search, Protocol):
    """A search that can be stored: its name, and settings from which an equal one is built."""

    @property
    def name(self) -> str:
        """Which search it is."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Return plain data from which an equal search can be built."""
        ...


_BUILDERS: Final[dict[str, Callable[[Mapping[str, Any]], Search]]] = {
    Grid.name: Grid.from_settings,
    Random.name: Random.from_settings,
}


def describe_search(search: Search) -> FrozenDict | None:
    """Return a search as plain data, or None if it has no such form."""
    if not isinstance(search, PlainSearch):
        return None
    return freeze_mapping({"name": search.name, "settings": search.settings()}, "search")


def build_search(stored: FrozenDict | None) -> Search | None:
    """Return the search that was stored with a sweep; None if it was not plain data, or is not of this library."""
    if stored is None:
        return None
    builder = _BUILDERS.get(str(stored.get("name")))
    settings = stored.get("settings")
    if not isinstance(settings, Mapping):
        raise InvalidValue("search.settings", f"must be a mapping, not {show(settings)}")
    return None if builder is None else builder(cast("Mapping[str, Any]", settings))


def match_search(sweep_id: str, stored: FrozenDict | None, given: Search) -> None:
    """Refuse a search that is not the one a sweep was created with.

    Raises:
        SearchMismatch: it differs; both are shown.
    """
    described = describe_search(given)
    if _canonical(stored) != _canonical(described):
        problem = f"was created with the search {show(stored, 300)}, and was given {show(described, 300)}"
        raise SearchMismatch(sweep_id, -1, problem)


def _canonical(described: FrozenDict | None) -> str:
    """Return a text that is equal for equal data of equal types: ``True`` is not 1 here, and NaN is NaN."""
    return json.dumps(described, sort_keys=True)
