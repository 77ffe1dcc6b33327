"""The lifecycle of hyperparameter sweeps, as an embeddable library."""

from __future__ import annotations

from .agent.inline import InlineAgent
from .core import events
from .core.decide import Answer, Change, Idle, IdleReason
from .core.errors import (
    AgentError,
    AlreadyExists,
    AlreadyStarted,
    Conflict,
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
from .sweep import Sweep, Tick

__all__ = [
    "Agent",
    "AgentError",
    "AlreadyExists",
    "AlreadyStarted",
    "Answer",
    "Catalog",
    "Cause",
    "Change",
    "Choice",
    "Clock",
    "Conflict",
    "Event",
    "Exhausted",
    "FailureRule",
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
    "Search",
    "SearchError",
    "SearchMismatch",
    "SearchMissing",
    "StaleAttempt",
    "Start",
    "Stop",
    "Storage",
    "StorageError",
    "Sweep",
    "SweepNotFound",
    "SweepState",
    "SweepStatus",
    "SweepTrigger",
    "SweepstateError",
    "Tick",
    "Uniform",
    "UnknownStatus",
    "Verdict",
    "Wait",
    "events",
    "from_dict",
    "replay",
    "to_dict",
]
