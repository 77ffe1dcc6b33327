"""What Sweep and AsyncSweep share: what they show, every command, and what makes a sweep."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any, Concatenate, Final, Generic, ParamSpec, Unpack

import attrs

from ..core import decide as core
from ..core.decide import Decision, Draft
from ..core.errors import InvalidValue
from ..core.events import Event
from ..core.lifecycle import SweepTrigger, Verdict, check
from ..core.limits import LimitChanges, Limits, Objective
from ..core.state import SweepState
from ..core.status import RunStatus, SweepStatus
from ..core.values import show
from ..hooks import Listener, Search
from .reports import read_token
from .run import EventsT, RunHandle
from .shell import ShellT

_P = ParamSpec("_P")
#: How many runs or events are read at a time.
PAGE: Final = 256


@attrs.frozen
class Tick:
    """What a tick did.

    Attributes:
        events: what time caused in this slice.
        more: whether something is due already, or slots may be free still, so that another tick now has work.
        next_at: when time acts next, in POSIX seconds; None if never, as things stand.
    """

    events: tuple[Event, ...]
    more: bool
    next_at: float | None


class SweepHandle(Generic[EventsT, ShellT]):
    """A handle of one sweep: ``Sweep``, or ``AsyncSweep``."""

    _shell: ShellT

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def state(self) -> SweepState:
        """The snapshot that was seen last."""
        return self._shell.state

    @property
    def id(self) -> str:
        """Its id."""
        return self._shell.sweep_id

    @property
    def status(self) -> SweepStatus:
        """Its status, as last seen."""
        return self.state.status

    @property
    def counts(self) -> dict[RunStatus, int]:
        """How many runs have each status, as last seen."""
        return self.state.counts

    @property
    def limits(self) -> Limits:
        """What bounds it, as last seen."""
        return self.state.limits

    @property
    def objective(self) -> Objective | None:
        """What it is after."""
        return self.state.objective

    @property
    def ended(self) -> bool:
        """Whether it was neither RUNNING nor PAUSED, as last seen."""
        return self.state.ended

    @property
    def done(self) -> bool:
        """Whether it had ended, and nothing of it was executing any more, as last seen."""
        return self.state.done

    @property
    def search(self) -> Search | None:
        """What proposes configurations, if this handle has it."""
        return self._shell.search

    def listen(self, listener: Listener) -> None:
        """Call a listener with each event that is committed through this handle from now on.

        Args:
            listener: told after the commit. What other handles and processes commit is in ``history``.

        Raises:
            InvalidValue: it cannot be called.
        """
        if not callable(listener):
            raise InvalidValue("listener", f"{show(listener)} cannot be called", "give a function of an event")
        self._shell.listeners.append(listener)

    def check(self, trigger: SweepTrigger) -> Verdict:
        """Return what the lifecycle says to a trigger, from the status that was seen last.

        Args:
            trigger: such as ``SweepTrigger.PAUSE``.
        """
        return check(self.status, trigger)

    def can(self, trigger: SweepTrigger) -> bool:
        """Return whether the lifecycle accepts a trigger, from the status that was seen last."""
        return self.check(trigger) is not Verdict.REFUSED

    # --- commands --------------------------------------------------------------------------------

    def pause(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Create no runs for now; executing ones go on.

        Args:
            reason: why, for the history.
            actor: who, for the history.
            if_version: refuse if the status has changed since this version, so that a delayed command
                cannot hit a sweep that was reopened meanwhile.

        Returns:
            The events it caused; none if it was paused already.

        Raises:
            IllegalTransition: it has ended.
            Conflict: the status has changed since ``if_version``.

        Afterwards:
            It is PAUSED. A run that an agent already holds may start.
        """
        return self._move(SweepTrigger.PAUSE, reason, actor, if_version)

    def resume(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Undo a pause, or an interruption (CRASHED); see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it was ended on purpose or has finished; ``reopen`` it.
            Conflict: the status has changed since ``if_version``.

        Afterwards:
            It is RUNNING, or what its limits make of that: FINISHED, if all is done.
        """
        return self._move(SweepTrigger.RESUME, reason, actor, if_version)

    def stop(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """End it gracefully; see ``pause`` for the arguments. Nothing changes if it has ended already.

        Afterwards:
            It is STOPPED: executing runs go on to their end, PENDING ones are KILLED, withdrawn.
        """
        return self._move(SweepTrigger.STOP, reason, actor, if_version)

    def cancel(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """End it abruptly, also one that was stopped and still drains; see ``pause`` for the arguments.

        Afterwards:
            It is CANCELLED, every active run is KILLED, and agents are ordered to end what executes.
            No run's status changes any more, until it is reopened. A FINISHED sweep stays so.
        """
        return self._move(SweepTrigger.CANCEL, reason, actor, if_version)

    def fail(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Declare it failed; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            It is FAILED: executing runs go on to their end, PENDING ones are KILLED, withdrawn.
        """
        return self._move(SweepTrigger.FAIL, reason, actor, if_version)

    def crash(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Report that what was driving it died; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            It is CRASHED, and ``resume`` undoes that; runs go on.
        """
        return self._move(SweepTrigger.CRASH, reason, actor, if_version)

    def reopen(
        self,
        reason: str | None = None,
        *,
        retry: Collection[RunStatus] = (),
        actor: str | None = None,
        if_version: int | None = None,
    ) -> EventsT:
        """Undo a deliberate end; see ``pause`` for the other arguments.

        Args:
            retry: runs that ended in one of these statuses are taken up again, as agents ask;
                withdrawn ones always are.

        Raises:
            IllegalTransition: it is PAUSED or CRASHED (``resume`` it), or RUNNING with something to retry.
            InvalidValue: a status cannot be retried.

        Afterwards:
            It is RUNNING; the time limit and the failure rule begin afresh. If the search is complete
            and there is nothing to take up, it is FINISHED in the same commit.
        """
        return self._commit(reason, actor, core.reopen, retry, if_version)

    def retry(
        self,
        statuses: Collection[RunStatus],
        reason: str | None = None,
        *,
        actor: str | None = None,
        if_version: int | None = None,
    ) -> EventsT:
        """Take up again all runs that ended in some statuses; see ``pause`` for the other arguments.

        Args:
            statuses: of FAILED, CRASHED and KILLED. One run is retried by ``sweep[index].retry()``.

        Raises:
            IllegalTransition: it was ended; ``reopen(retry=...)`` it.
            InvalidValue: no status, or one that cannot be retried.

        Afterwards:
            The wish is in the backlog. Runs are taken up one by one, as agents ask; those whose status
            changes before that are left out.
        """
        return self._commit(reason, actor, core.retry_statuses, statuses, if_version)

    def complete(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> EventsT:
        """Declare that the search has proposed enough; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            Nothing is created or queued again, and what was queued is withdrawn; it is FINISHED as
            soon as the last run ends.
        """
        return self._commit(reason, actor, core.complete, if_version)

    def set_limits(
        self,
        reason: str | None = None,
        *,
        actor: str | None = None,
        if_version: int | None = None,
        **changes: Unpack[LimitChanges],
    ) -> EventsT:
        """Change limits, at any time; see ``pause`` for the other arguments.

        Args:
            changes: names and new values of ``Limits``.

        Raises:
            InvalidValue: a name is no limit, or a value is out of its range.

        Afterwards:
            They hold, and what they reach has happened in the same commit.
        """
        return self._commit(reason, actor, core.set_limits, changes, if_version)

    # --- the shell -------------------------------------------------------------------------------

    def _move(self, trigger: SweepTrigger, reason: str | None, actor: str | None, if_version: int | None) -> EventsT:
        return self._commit(reason, actor, core.move, trigger, if_version)

    @abstractmethod
    def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> EventsT:
        """Commit a command."""

    def _read_token(self, token: str) -> tuple[int, int, str | None]:
        """Return index, attempt and execution of a token of this sweep."""
        sweep_id, index, attempt, execution = read_token(token)
        if sweep_id != self.id:
            raise InvalidValue("token", f"is of a run of sweep {sweep_id!r}, not of {self.id!r}", "open that sweep")
        return index, attempt, execution

    def __contains__(self, item: object) -> bool:
        """Return whether a handle is of one of its runs; asking starts nothing, unlike iterating."""
        return isinstance(item, RunHandle) and item.sweep_id == self.id

    def __repr__(self) -> str:
        state = self.state
        counts = [f"{count} {status.lower()}" for status, count in state.counts.items() if count]
        runs = f"{state.created} run" + ("" if state.created == 1 else "s")
        return f"<{type(self).__name__} {self.id!r} {state.status}: {', '.join([runs, *counts])}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.id == other.id and self._shell.storage is other._shell.storage

    def __hash__(self) -> int:
        return hash(self.id)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what another process can use; an agent stays with this one."""
        return {"_shell": self._shell, "_pump": None}
