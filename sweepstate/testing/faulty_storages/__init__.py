"""Storages that are each broken in one way that storages really are broken; the contract has to find every one.

A contract that no wrong storage fails proves nothing. ``FAULTS`` lists them, and
``ASYNC_FAULTS`` those that only an async storage can have; each says in its
docstring what goes wrong, with the bug of the field it stands for where there is
one, and in ``caught_by`` which test is meant to find it.
"""

from __future__ import annotations

from . import cancelling, catalog, commits, heartbeats, names, queries, turns, values
from .base import ASYNC_FAULTS, FAULTS, Looking, TurningStorage
from .cancelling import AwaitingStorage

__all__ = [
    "ASYNC_FAULTS",
    "FAULTS",
    "AwaitingStorage",
    "Looking",
    "TurningStorage",
    "cancelling",
    "catalog",
    "commits",
    "heartbeats",
    "names",
    "queries",
    "turns",
    "values",
]
