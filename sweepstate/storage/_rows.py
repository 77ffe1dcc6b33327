"""What the SQL storages keep: snapshots and events as JSON, and beside them what the closed set of queries selects by.

A column that a query goes through in index order holds the run's number where
the run belongs to the answer, and NULL where it does not. So each query is a
range of one index, in every database, and the run that nobody asks for costs
an index nothing where indexes can leave out NULL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar, cast

from ..core.as_json import to_json
from ..core.errors import InvalidValue, StorageError
from ..core.events import Event
from ..core.plain import from_dict
from ..core.questions import Queued, Requested, Silent
from ..core.state import RunState, SweepState
from ..core.status import Cause, RunStatus
from ..core.values import FrozenDict, freeze_metrics

_T = TypeVar("_T", SweepState, RunState, Event)

_QUEUED: Final = Queued()
_SILENT: Final = Silent(0.0)


class RunRecord(NamedTuple):
    """A run's row.

    Attributes:
        number: the run's index (which is a reserved word of SQL).
        status: its status.
        status_version: the version at which that last changed.
        withdrawn: its number, if it was withdrawn.
        queued: its number, if it can be handed out.
        leased: its number, if it is in somebody's hands and is not CRASHED by silence.
        presumed: its number, if it is in somebody's hands and is CRASHED by silence.
        agent: whose hands, as a digest; see ``digest``.
        request: which request its current lease answers, as a digest of agent and request id.
        due_at: when time next acts on it.
        body: its snapshot.
    """

    number: int
    status: str
    status_version: int
    withdrawn: int | None
    queued: int | None
    leased: int | None
    presumed: int | None
    agent: str | None
    request: str | None
    due_at: float | None
    body: str


def record_of(run: RunState) -> RunRecord:
    """Return the row of a run."""
    number, lease, agent, request = run.index, run.lease, None, None
    leased = presumed = None
    if lease is not None:
        agent = digest(lease.agent)
        if run.status is RunStatus.CRASHED:
            presumed = number
        else:
            leased = number
        if lease.request_id is not None and Requested(lease.agent, lease.request_id).matches(run):
            request = digest(lease.agent, lease.request_id)
    return RunRecord(
        number,
        run.status.value,
        run.status_version,
        number if run.cause is Cause.WITHDRAWN else None,
        number if _QUEUED.matches(run) else None,
        leased,
        presumed,
        agent,
        request,
        run.due_at,
        encode(run),
    )


def watched(run: RunState) -> tuple[int, float] | None:
    """Return the attempt whose silence counts, and since when it does without any heartbeat; None if it does not."""
    lease = run.lease
    return (lease.attempt, lease.since) if lease is not None and _SILENT.watches(run) else None


@lru_cache(maxsize=256)  # whoever holds runs is named with each commit
def digest(*words: str) -> str:
    """Return 32 hexadecimal signs for one or more names.

    Names are compared byte by byte then, whatever a database thinks of case, accents and trailing
    blanks, and a name of 1,000 characters fits into every database's index.
    """
    text = "".join(f"{len(word)}:{word}" for word in words)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def branches(statuses: Iterable[RunStatus], *, withdrawn: bool) -> list[tuple[str, str | None]]:
    """Return the index ranges that ``InStatus`` is the union of: pairs of a column and what it equals.

    A pair without a value stands for the column of withdrawn runs, which are KILLED: where those are
    asked for, they are among them.
    """
    wanted = sorted(statuses)
    found: list[tuple[str, str | None]] = [("status", status.value) for status in wanted]
    if withdrawn and RunStatus.KILLED not in wanted:
        found.append(("withdrawn", None))
    return found


def encode(value: SweepState | RunState | Event) -> str:
    """Return a snapshot or an event as JSON; ASCII only, so that no database can misread it."""
    return to_json(value)


def decode(text: object, expect: type[_T], place: str) -> _T:
    """Return what ``encode`` wrote.

    Raises:
        StorageError: it is damaged, or of a newer version of this library; ``place`` says where it was found.
    """
    try:
        return from_dict(json.loads(cast(str, text)), expect)
    except InvalidValue as error:
        problem, remedy = f"{error.field} {error.problem}", error.remedy or "restore it from a backup"
    except (ValueError, TypeError, RecursionError) as error:
        problem, remedy = f"it is no JSON ({error})", "it is damaged: restore it from a backup"
    raise StorageError(f"{place} cannot be read: {problem}; {remedy}")


def encode_metrics(metrics: Mapping[str, float] | None) -> str | None:
    """Return metrics reported on the way, as JSON."""
    return None if metrics is None else json.dumps(freeze_metrics(metrics), separators=(",", ":"))


def decode_metrics(text: object, place: str) -> FrozenDict | None:
    """Return what ``encode_metrics`` wrote.

    Raises:
        StorageError: it is damaged.
    """
    if text is None:
        return None
    try:
        return freeze_metrics(json.loads(cast(str, text)))
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(f"{place} cannot be read: {error}; it is damaged: restore it from a backup") from None


def page_of_events(read: Callable[[int], Sequence[tuple[int, str]]], limit: int) -> Sequence[tuple[int, str]]:
    """Read a page of events that ends at a commit boundary.

    Args:
        read: returns versions and bodies in order, at most so many.
        limit: how many are wanted; 1 at least.

    Returns:
        Those of the commits that are whole; if the first commit alone has more events, all of that one.
    """
    wanted = size = max(limit, 1)
    while True:
        rows = read(size + 1)
        if len(rows) <= size:
            break
        last = rows[-1][0]
        rows = [row for row in rows if row[0] < last]
        if rows:
            break
        size *= 4
    return rows if size == wanted else [row for row in rows if row[0] == rows[0][0]]
