"""Agents that are each broken in one way that agents really are broken; the contract has to find every one.

A contract that no wrong agent fails proves nothing. ``FAULTS`` lists them; each says in
its docstring what goes wrong, with the bug of the field it stands for where there is
one, and in ``caught_by`` which test is meant to find it. ``PretendingAgent`` is the right agent that they are
made from: its processes are pretended by threads, so that they cost nothing and can be killed all the same.
"""

from __future__ import annotations

from . import ends, orders, troubles
from .base import FAULTS, PretendingAgent

__all__ = ["FAULTS", "PretendingAgent", "ends", "orders", "troubles"]
