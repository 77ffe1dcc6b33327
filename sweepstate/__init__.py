"""The lifecycle of hyperparameter sweeps, as an embeddable library."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from .agent.inline import InlineAgent
from .core import events
from .core.decide import Answer, Change, Idle, IdleReason
from .core.errors import (
    AgentError,
    AlreadyExists,
    AlreadyStarted,
    Conflict,
    GaveWay,
    IllegalTransition,
    InvalidValue,
    NotFound,
    OutcomeUnknown,
    RunNotFound,
    SearchError,
    SearchMismatch,
    SearchMissing,
    StaleAttempt,
    StorageError,
    SweepNotFound,
    SweepstateError,
    UnknownStatus,
)
from .core.events import Event
from .core.evolve import replay
from .core.lifecycle import RunTrigger, SweepTrigger, Verdict
from .core.limits import FailureRule, Limits, Objective
from .core.plain import from_dict, to_dict
from .core.questions import Exhausted, Wait
from .core.state import RunState, SweepState
from .core.status import Cause, RunStatus, SweepStatus
from .handles.run import ShouldStop
from .handles.sweep import Tick
from .hooks import Agent, Catalog, Clock, Heartbeats, History, Kill, Listener, Order, Search, Start, Stop, Storage
from .run import Run
from .search.distributions import (
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
from .search.grid import Grid
from .search.random import Random
from .storage.memory import MemoryStorage
from .sweep import Sweep

if TYPE_CHECKING:
    from .agent.executor import ExecutorAgent
    from .agent.ray import RayAgent as RayAgent
    from .agent.slots import Slots
    from .agent.subprocess import SubprocessAgent
    from .agent.worker import Flapping, Going, GoingReason, work
    from .aio import AsyncRun, AsyncSweep
    from .diagnosis import health
    from .storage.sqlalchemy import AsyncSQLAlchemyStorage as AsyncSQLAlchemyStorage
    from .storage.sqlalchemy import SQLAlchemyStorage as SQLAlchemyStorage
    from .storage.sqlite import SQLiteStorage
    from .storage.threaded import ThreadedStorage

__all__ = [
    "Agent",
    "AgentError",
    "AlreadyExists",
    "AlreadyStarted",
    "Answer",
    "AsyncRun",
    "AsyncSweep",
    "Catalog",
    "Cause",
    "Change",
    "Choice",
    "Clock",
    "Conflict",
    "Event",
    "ExecutorAgent",
    "Exhausted",
    "FailureRule",
    "Flapping",
    "GaveWay",
    "Going",
    "GoingReason",
    "Grid",
    "Heartbeats",
    "History",
    "Idle",
    "IdleReason",
    "IllegalTransition",
    "InlineAgent",
    "IntUniform",
    "InvalidValue",
    "Kill",
    "Limits",
    "Listener",
    "LogNormal",
    "LogUniform",
    "MemoryStorage",
    "Normal",
    "NotFound",
    "Objective",
    "Order",
    "OutcomeUnknown",
    "QLogUniform",
    "QNormal",
    "QUniform",
    "Random",
    "Run",
    "RunNotFound",
    "RunState",
    "RunStatus",
    "RunTrigger",
    "SQLiteStorage",
    "Search",
    "SearchError",
    "SearchMismatch",
    "SearchMissing",
    "ShouldStop",
    "Slots",
    "StaleAttempt",
    "Start",
    "Stop",
    "Storage",
    "StorageError",
    "SubprocessAgent",
    "Sweep",
    "SweepNotFound",
    "SweepState",
    "SweepStatus",
    "SweepTrigger",
    "SweepstateError",
    "ThreadedStorage",
    "Tick",
    "Uniform",
    "UnknownStatus",
    "Verdict",
    "Wait",
    "events",
    "from_dict",
    "health",
    "replay",
    "to_dict",
    "work",
]

#: Where the names are that are imported when they are first used: few need them, and what they import is slow.
_LATER = {
    "AsyncRun": "aio",
    "AsyncSweep": "aio",
    "Flapping": "agent.worker",
    "Going": "agent.worker",
    "GoingReason": "agent.worker",
    "ExecutorAgent": "agent.executor",
    "SQLiteStorage": "storage.sqlite",
    "Slots": "agent.slots",
    "SubprocessAgent": "agent.subprocess",
    "ThreadedStorage": "storage.threaded",
    "health": "diagnosis",
    "work": "agent.worker",
}

#: The same, of extras: not in ``__all__``, or a star would need what they need.
_EXTRAS = {
    "AsyncSQLAlchemyStorage": "storage.sqlalchemy",
    "RayAgent": "agent.ray",
    "SQLAlchemyStorage": "storage.sqlalchemy",
}

if not TYPE_CHECKING:  # or type checkers would think that the package has any name

    def __getattr__(name: str) -> object:
        """Import what is needed for the first time (PEP 562)."""
        module = _LATER.get(name) or _EXTRAS.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f"{__name__}.{module}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER, *_EXTRAS})
