"""What a sweep is created and asked with: checked before anything happens."""

from __future__ import annotations

import os
from collections.abc import Collection
from inspect import iscoroutinefunction
from typing import Final

from ..core import decide as core
from ..core.decide import Change
from ..core.errors import InvalidValue
from ..core.limits import Limits, Objective
from ..core.questions import ByIndex, InStatus, RunQuery
from ..core.status import RunStatus
from ..core.values import MAX_BITS, check_collection, check_count, check_flag, check_text, show
from ..hooks import Search
from ..search import describe_search

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # 32 signs; none that is easily misread


def creation(
    sweep_id: str,
    now: float,
    search: Search,
    limits: Limits | None,
    objective: Objective | None,
    reason: str | None,
    actor: str | None,
) -> Change:
    """Return the commit that creates a sweep."""
    return core.create(
        sweep_id,
        now,
        search=describe_search(search),
        size=None if search.size is None else check_count(search.size, "search.size", most=2**MAX_BITS),
        limits=Limits() if limits is None else limits,
        objective=objective,
        reason=reason,
        actor=actor,
    )


def query_of(status: RunStatus | Collection[RunStatus] | None) -> RunQuery:
    """Return the query for the runs of a status, of one of several, or for all of them."""
    if status is None:
        return ByIndex()
    wanted = (status,) if isinstance(status, str) else check_collection(status, "status")
    return InStatus(frozenset(RunStatus.parse(each) for each in wanted))


def check_run_index(index: int) -> int:
    """Return a number that may be the index of a run."""
    return check_count(index, "index", least=-(2**64), most=2**64)


def check_attempt(index: int, attempt: int, newest: int) -> None:
    """Refuse a token of an attempt that is still to come."""
    if attempt > newest:
        raise InvalidValue("token", f"names attempt {attempt} of run {index}, whose attempt is {newest}")


def check_request(agent: str, request_id: str | None) -> None:
    """Refuse what cannot be the name of an agent, or of its request."""
    check_text(agent, "agent", most=1_000)
    if request_id is not None:
        check_text(request_id, "request_id", most=1_000)


def new_id() -> str:
    """Return eight signs that nobody has used: 40 bits, and creating checks them."""
    return "".join(_ALPHABET[byte & 31] for byte in os.urandom(8))


def id_for(value: str | None, *, exists_ok: bool) -> str:
    """Return the id of a sweep that is to be created, or opened if that may be."""
    if value is not None:
        return check_id(value)
    if exists_ok:
        raise InvalidValue("exists_ok", "without an id there is never one to open", "give the sweep an id")
    return new_id()


def check_id(value: str) -> str:
    """Return an id that can be given to a sweep."""
    sweep_id = check_text(value, "id", most=200)
    if not sweep_id or not sweep_id.isprintable():
        raise InvalidValue("id", f"{show(value)} cannot be an id", "use printable characters, at least one")
    return sweep_id


def check_hooks(storage: object, agent: object, clock: object, listeners: object, handler: object) -> None:
    """Refuse what is plainly in the wrong place, before anything is created."""
    if not all(callable(getattr(storage, name, None)) for name in ("sweep", "runs", "commit", "events")):
        raise InvalidValue("storage", f"{show(storage)} is no storage", "e.g. MemoryStorage()")
    if agent is not None:
        if not all(callable(getattr(agent, name, None)) for name in ("start", "stop", "kill")):
            raise InvalidValue("agent", f"{show(agent)} is no agent", "it has name, can_kill, start, stop and kill")
        check_text(getattr(agent, "name", None), "agent.name", most=1_000)
        check_flag(getattr(agent, "can_kill", None), "agent.can_kill")
    if not callable(clock):
        raise InvalidValue("clock", f"{show(clock)} is no clock", "give a function that returns POSIX seconds")
    for number, listener in enumerate(check_collection(listeners, "listeners")):
        if not callable(listener):
            raise InvalidValue(f"listeners[{number}]", f"{show(listener)} cannot be called", "it is given each event")
    if handler is not None and not callable(handler):
        raise InvalidValue("on_listener_error", f"{show(handler)} cannot be called")


def check_immediate(storage: object, agent: object) -> None:
    """Refuse hooks that are awaited where they are to answer at once."""
    if any_async(storage, "sweep", "runs", "commit", "events"):
        raise InvalidValue("storage", f"{show(storage)} must be awaited", "use AsyncSweep, or the storage beneath")
    if agent is not None and any_async(agent, "start", "stop", "kill"):
        raise InvalidValue("agent", f"{show(agent)} must be awaited", "use AsyncSweep, or an agent whose hooks are not")


def check_immediate_function(function: object) -> None:
    """Refuse what is no function of a run, or must be awaited."""
    if not callable(function):
        raise InvalidValue("function", f"{show(function)} cannot be called", "give a function of a run")
    if iscoroutinefunction(function):
        raise InvalidValue("function", f"{show(function)} must be awaited", "use AsyncSweep.execute on an event loop")


def check_unattended(agent: object) -> None:
    """Refuse to execute the runs of a handle whose agent does: both would, beside each other."""
    if agent is not None:
        remedy = "drive that, agent.drive(sweep), or tick; or open it without one: open(...)"
        raise InvalidValue("sweep", "has an agent, which executes its runs", remedy)


def check_awaitable(storage: object, agent: object) -> None:
    """Refuse hooks that answer at once where they are awaited."""
    if not any_async(storage, "sweep", "runs", "commit", "events"):
        raise InvalidValue("storage", f"{show(storage)} cannot be awaited", "wrap it: ThreadedStorage(storage)")
    if agent is not None and not any_async(agent, "start", "stop", "kill"):
        raise InvalidValue("agent", f"{show(agent)} cannot be awaited", "its hooks are async functions")


def any_async(hook: object, *names: str) -> bool:
    """Return whether one of these methods is an async function."""
    return any(iscoroutinefunction(getattr(hook, name)) for name in names)


def check_search(search: object) -> None:
    """Refuse what is no search."""
    if isinstance(search, type) or not callable(getattr(search, "propose", None)) or not hasattr(search, "size"):
        raise InvalidValue("search", f"{show(search)} is no search", "e.g. Grid({'lr': [0.1, 0.01]})")


def check_plan(search: object, limits: object, objective: object) -> None:
    """Refuse what a sweep cannot be created with."""
    check_search(search)
    if limits is not None and not isinstance(limits, Limits):
        raise InvalidValue("limits", f"must be Limits, not {show(limits)}", "e.g. Limits(run_cap=100)")
    if objective is not None and not isinstance(objective, Objective):
        raise InvalidValue("objective", f"must be an Objective, not {show(objective)}", "e.g. Objective('loss')")
