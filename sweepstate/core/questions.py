"""What a decision may ask, and what it is answered.

``RunQuery`` is a closed set: everything that any decision ever wants to know
about runs is one of these, and a storage answers each by an index. Results come
in index order, except for ``Due`` and ``Silent``, which come by their time and
then by index.
"""

from __future__ import annotations

import attrs

from .lifecycle import RUN_ACTIVE, RUN_ENDED
from .state import RunState
from .status import Cause, RunStatus


@attrs.frozen
class ByIndex:
    """All runs, in index order."""

    def matches(self, _run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        return True


@attrs.frozen
class Queued:
    """PENDING runs that can be handed out: nobody has them, and no older attempt may still be executing."""

    def matches(self, run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        return run.status is RunStatus.PENDING and not run.held and not run.blocked


@attrs.frozen
class Leased:
    """Runs with a lease, of one agent or (None) of any.

    Attributes:
        agent: whose.
        presumed: also runs that are CRASHED by silence, whose lease is lost: nothing is asked of them
            unless the sweep is cancelled, and there may be many.
    """

    agent: str | None = None
    presumed: bool = True

    def matches(self, run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        return (
            run.lease is not None
            and (self.agent is None or run.lease.agent == self.agent)
            and (self.presumed or run.status is not RunStatus.CRASHED)
        )


@attrs.frozen
class Requested:
    """The active run whose current lease answers this request of this agent; there is at most one."""

    agent: str
    request_id: str

    def matches(self, run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        lease = run.lease
        return (
            lease is not None
            and run.status in RUN_ACTIVE
            and lease.attempt == run.attempt
            and lease.request_id == self.request_id
            and lease.agent == self.agent
        )


@attrs.frozen
class Due:
    """Runs whose ``due_at`` is not after this time, by ``due_at`` and then index."""

    at: float

    def matches(self, run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        return run.due_at is not None and run.due_at <= self.at


@attrs.frozen
class Silent:
    """RUNNING runs that promised heartbeats, are not suspected, and were last heard at ``since`` or before.

    Last heard is the later of the lease's ``since`` and its attempt's last heartbeat; answers come
    by that time and then by index.
    """

    since: float

    def watches(self, run: RunState) -> bool:
        """Return whether silence of the run would be noted at all."""
        lease = run.lease
        return (
            lease is not None
            and lease.beats
            and run.status is RunStatus.RUNNING
            and lease.attempt == run.attempt
            and lease.suspected_at is None
        )


@attrs.frozen
class InStatus:
    """Runs in one of these statuses, and withdrawn ones if asked, unchanged since a version if one is given."""

    statuses: frozenset[RunStatus]
    withdrawn: bool = False
    unchanged_since: int | None = None

    def matches(self, run: RunState) -> bool:
        """Return whether the run belongs to the answer."""
        if self.unchanged_since is not None and run.status_version > self.unchanged_since:
            return False
        return run.status in self.statuses or (self.withdrawn and run.cause is Cause.WITHDRAWN)


RunQuery = ByIndex | Queued | Leased | Requested | Due | Silent | InStatus

ACTIVE = InStatus(RUN_ACTIVE)
ENDED = InStatus(RUN_ENDED)


@attrs.frozen
class Runs:
    """Question: which runs are these? Answer: a sequence of ``RunState``.

    Attributes:
        query: which.
        after: only those of a higher index; not for ``Due`` and ``Silent``.
        limit: no more than so many.
    """

    query: RunQuery
    after: int
    limit: int


@attrs.frozen
class LastHeard:
    """Question: when was the last heartbeat of each attempt? Answer: a sequence of POSIX seconds or None.

    Attributes:
        leases: pairs of index and attempt.
    """

    leases: tuple[tuple[int, int], ...]


@attrs.frozen
class Proposal:
    """Question: which configuration comes next? Answer: a mapping, ``Wait`` or ``Exhausted``.

    Attributes:
        index: the index of the run that would be created.
    """

    index: int


Question = Runs | LastHeard | Proposal


@attrs.frozen
class Wait:
    """A search's answer: nothing now, ask again when more runs have ended."""


@attrs.frozen
class Exhausted:
    """A search's answer: nothing any more."""
