"""What Run and AsyncRun share: what they show, the commands, and the reports."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Concatenate, Final, Generic, ParamSpec, TypeVar

from ..core import decide as core
from ..core.decide import Change, Decision, Draft, End
from ..core.errors import AlreadyStarted
from ..core.lifecycle import RUN_ENDED, Exit, RunTrigger, Verdict, check
from ..core.limits import Limits, Objective
from ..core.state import RunState
from ..core.status import Cause, RunStatus
from ..core.values import EMPTY, FrozenDict, check_count, check_text, freeze_metrics, show
from .reports import check_code, describe, join, make_token
from .shell import ShellT

_P = ParamSpec("_P")
#: What a command or a report returns: the events it caused, or what is awaited for them.
EventsT = TypeVar("EventsT")
#: What a sign of life returns: an ``Answer``, or what is awaited for it.
AnswerT = TypeVar("AnswerT")

_MOST_CODE: Final = 2**31 - 1
#: After these reports the handle has nothing more to report.
_LAST_WORDS: Final[frozenset[Callable[..., object]]] = frozenset({core.end, core.gone, core.release})


class RunHandle(Generic[EventsT, AnswerT, ShellT]):
    """A handle of one run, at one attempt: ``Run``, or ``AsyncRun``.

    Attributes:
        attempt: the attempt that this handle reports for.
        execution: which execution it reports for, if that was said.
    """

    __slots__ = ("_mine", "_over", "_shell", "_state", "attempt", "entered", "execution")

    #: What leaves ``with run`` because somebody interrupted it.
    _interrupts: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt,)

    def __init__(
        self, shell: ShellT, state: RunState, attempt: int, execution: str | None = None, *, mine: bool = False
    ) -> None:
        self._shell = shell
        self._state = state
        self.attempt: int = attempt
        self.execution: str | None = execution
        # Whether this handle was given to the one who executes the run, rather than looked up.
        self._mine = mine
        # Whether its end was reported through this handle; its verdict may have been given without that.
        self._over = False
        #: Whether somebody has taken it on: entered it, reported something, or sent the handle elsewhere.
        self.entered: bool = False

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """The snapshot that was seen last."""
        return self._state

    @property
    def sweep_id(self) -> str:
        """The id of its sweep."""
        return self._shell.sweep_id

    @property
    def limits(self) -> Limits:
        """What bounds its sweep, as last seen."""
        return self._shell.state.limits

    @property
    def objective(self) -> Objective | None:
        """What its sweep optimizes, as last seen, if that was said."""
        return self._shell.state.objective

    @property
    def index(self) -> int:
        """Its number in the sweep, from 0."""
        return self._state.index

    @property
    def config(self) -> FrozenDict:
        """Its configuration: a dictionary that cannot be changed; ``dict(run.config)`` can."""
        return self._state.config

    @property
    def status(self) -> RunStatus:
        """Its status, as last seen."""
        return self._state.status

    @property
    def ended(self) -> bool:
        """Whether it had ended, as last seen."""
        return self._state.status in RUN_ENDED

    @property
    def cause(self) -> Cause | None:
        """Why it ended, as last seen; None while it is active."""
        return self._state.cause

    @property
    def message(self) -> str | None:
        """What was said about its end, as last seen; None if nothing was."""
        return self._state.message

    @property
    def token(self) -> str:
        """Its identity towards the outside, opaque: what a child process or a remote worker needs to report.

        ``sweep.run_of(token)`` gives a handle of the same attempt and execution.
        """
        self.entered = True
        return make_token(self.sweep_id, self.index, self.attempt, self.execution)

    def check(self, trigger: RunTrigger) -> Verdict:
        """Return what the lifecycle says to a trigger, from the situation that was seen last.

        Args:
            trigger: such as ``RunTrigger.KILL``.
        """
        state = self._state
        lease = state.lease
        lost = state.held and lease is not None and lease.lost
        return check(state.status, trigger, held=state.held, lost=lost)

    def can(self, trigger: RunTrigger) -> bool:
        """Return whether the lifecycle accepts a trigger, from the situation that was seen last."""
        return self.check(trigger) is not Verdict.REFUSED

    # --- commands --------------------------------------------------------------------------------

    def stop(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Ask the run to end; its agent then starts the next one.

        Args:
            reason: why, for the history.
            actor: who, for the history.
            if_version: refuse if the run's status has changed since this version of the sweep.

        Returns:
            The events it caused; none if the run was asked already, or has ended.

        Raises:
            Conflict: the status has changed since ``if_version``.

        Afterwards:
            A PENDING run is KILLED. A RUNNING one has ``stop_requested``; if it still executes after
            ``limits.stop_grace`` seconds, a tick makes it KILLED.
        """
        return self._commit(reason, actor, core.stop_run, self.index, if_version)

    def kill(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """End the run now; see ``stop`` for the arguments.

        Afterwards:
            It is KILLED, and its execution is ordered to end abruptly; its lease lasts until that is gone.
        """
        return self._commit(reason, actor, core.kill_run, self.index, if_version)

    def retry(self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None) -> EventsT:
        """Queue a FAILED, CRASHED or KILLED run again; see ``stop`` for the arguments.

        Raises:
            IllegalTransition: it is executing or FINISHED, or the sweep was ended (reopen it first).

        Afterwards:
            It is PENDING, queued, as its next attempt, with the same configuration.
        """
        return self._commit(reason, actor, core.retry_run, self.index, if_version)

    # --- reports ---------------------------------------------------------------------------------

    def start(self, execution: str | None = None, *, heartbeats: bool = False) -> EventsT:
        """Report that the execution begins.

        Args:
            execution: which execution it is, such as a host and a process id, so that no other counts;
                the handle's own, if it is not given.
            heartbeats: promise heartbeats: silence then counts (where the storage keeps heartbeats).

        Returns:
            The events it caused; none if this attempt has begun already.

        Raises:
            StaleAttempt: the run was handed on.
            AlreadyStarted: another execution has begun this attempt.
            IllegalTransition: nobody has the run, or it has ended.

        Afterwards:
            The run is RUNNING.
        """
        execution = self.execution if execution is None else check_text(execution, "execution", most=1_000)
        promised = heartbeats and self._shell.keeps_beats
        # Also if it is refused: what this handle reports then is of an execution without a say.
        self.execution = execution
        return self._report(core.start, self.index, self.attempt, execution, heartbeats=promised)

    def heartbeat(self) -> AnswerT:
        """Send a sign of life, which promises more of them: from now on silence counts.

        Returns:
            ``CONTINUE``; ``STOP``: it was asked to stop, or has reported its end; ``KILL``: end at once,
            it has no say any more.
        """
        return self._sign(None, promise=True)

    def report(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> AnswerT:
        """Report metrics on the way, for watching and early stopping. Promises no heartbeats.

        Args:
            metrics: names and numbers; they replace those reported before. Only what ``finish`` is given
                decides about the objective.
            named: further ones, where the name is an identifier.

        Returns:
            What is wanted of the execution, as from ``heartbeat``.

        Raises:
            InvalidValue: a value is not a number.
        """
        return self._sign(join(metrics, named), promise=False)

    def finish(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> EventsT:
        """Report that the execution ended by itself, well.

        Args:
            metrics: what it ended with; the objective is among them.
            named: further ones, where the name is an identifier.

        Returns:
            The events it caused; a report that comes too late is recorded, never refused.

        Raises:
            InvalidValue: a value is not a number.

        Afterwards:
            The run is FINISHED, unless its verdict was given before; its slot is free.
        """
        return self._end(End(Exit.SUCCESS, None, None, None, join(metrics, named)))

    def fail(self, error: BaseException | str = "", *, exit_code: int | None = None) -> EventsT:
        """Report that the execution ended by itself, with an error.

        Args:
            error: the exception, or what to say about it.
            exit_code: of its process.

        Returns:
            The events it caused, as from ``finish``.

        Afterwards:
            The run is FAILED; queued again if it was preempting or has retries left; KILLED if it was
            asked to stop. Late reports are recorded.
        """
        return self._end(End(Exit.ERROR, describe(error), check_code(exit_code)))

    def crash(self, message: str = "", *, signal: int | None = None) -> EventsT:
        """Report that the execution died by a signal that nobody sent on purpose; as ``fail``, but CRASHED.

        Args:
            message: what there is to say about it.
            signal: its number.
        """
        return self._end(End(Exit.SIGNAL, describe(message), None, check_code(signal, "signal")))

    def interrupt(self, message: str = "") -> EventsT:
        """Report that somebody interrupted the execution (SIGINT): KILLED, or queued again if it was preempting.

        Args:
            message: what there is to say about it.

        Returns:
            The events it caused, as from ``finish``.
        """
        return self._end(End(Exit.INTERRUPT, describe(message), None, 2))

    def exited(self, returncode: int, message: str = "", metrics: Mapping[str, float] | None = None) -> EventsT:
        """Report how a process ended, by the return code that ``subprocess`` gives.

        Args:
            returncode: 0; more than 0, an exit code; less than 0, minus a signal. 128 and a signal's
                number, as shells say it, is an exit code.
            message: what there is to say, such as the last lines of its output.
            metrics: what it ended with.
        """
        code = check_count(returncode, "returncode", least=-1_000)
        numbers = EMPTY if metrics is None else freeze_metrics(metrics)
        text = describe(message)
        if code == 0:
            return self._end(End(Exit.SUCCESS, text, 0, None, numbers))
        if code > 0:
            return self._end(End(Exit.ERROR, text, code, None, numbers))
        how = Exit.INTERRUPT if code == -2 else Exit.SIGNAL
        return self._end(End(how, text, None, -code, numbers))

    def gone(self) -> EventsT:
        """Report, as its agent, that nothing of this attempt is executing.

        Returns:
            The events it caused; none if its lease was over already.

        Afterwards:
            Its lease is over and its slot is free. A RUNNING run is CRASHED, a held one is queued again.
        """
        return self._report(core.gone, self.index, self.attempt)

    def release(self) -> EventsT:
        """Give the run back before it has begun.

        Returns:
            The events it caused; none if somebody else has it by now.

        Raises:
            IllegalTransition: it has begun.

        Afterwards:
            It is queued as its next attempt; this handle is of an old one.
        """
        return self._report(core.release, self.index, self.attempt)

    def mark_preempting(self) -> EventsT:
        """Report that the machine is about to be taken away: whatever ends the run now queues it again.

        Returns:
            The events it caused; none if that was said already, or this attempt has no say any more.

        Raises:
            IllegalTransition: nobody has the run.
        """
        return self._report(core.mark_preempting, self.index, self.attempt, self.execution)

    # --- executing -------------------------------------------------------------------------------

    def _leave(self, error: BaseException | None) -> EventsT:
        """Report the end of the body of ``with run``: finish, or what the exception means."""
        if error is None:
            return self.finish()
        if isinstance(error, SystemExit):
            return self._exited_by(error)
        if isinstance(error, self._interrupts):
            return self.interrupt(type(error).__name__)
        return self.fail(error)

    def _exited_by(self, error: SystemExit) -> EventsT:
        code = error.code
        if code is None or code == 0:
            return self.finish()
        # sys.exit takes anything: a text, True, a number that no process can exit with.
        number = max(-_MOST_CODE, min(int(code), _MOST_CODE)) if isinstance(code, int) else 1
        return self.fail(code if isinstance(code, str) else show(code), exit_code=number)

    def _begun_elsewhere(self) -> AlreadyStarted:
        lease = self._state.lease
        by = None if lease is None else lease.execution
        name = f"{self.sweep_id}[{self.index}]"
        remedy = "do not execute it twice"
        return AlreadyStarted("run", name, self._state.row, "start", ("kill", "stop"), remedy, self.execution, by)

    # --- the shell -------------------------------------------------------------------------------

    def _take_on(self) -> None:
        self.entered = True

    @abstractmethod
    def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> EventsT:
        """Commit a command about the run."""

    @abstractmethod
    def _report(
        self, command: Callable[Concatenate[Draft, _P], Decision[None]], *args: _P.args, **kwargs: _P.kwargs
    ) -> EventsT:
        """Commit a report of the attempt."""

    @abstractmethod
    def _sign(self, metrics: FrozenDict | None, *, promise: bool) -> AnswerT:
        """Commit what a sign of life causes, if anything, and keep the sign."""

    def _end(self, report: End) -> EventsT:
        return self._report(core.end, self.index, self.attempt, self.execution, report)

    def _note(self, command: Callable[..., object], change: Change | None) -> bool:
        """Note what a command or a report has brought about; return whether the snapshot is the newest now."""
        if command in _LAST_WORDS:
            self._over = True
        elif command is core.start and change is not None:
            self._mine = True
        if change is not None:
            index = self._state.index
            for run in change.runs:
                if run.index == index:
                    self._state = run
                    return True
        return False

    def _no_say(self) -> bool:
        """Return whether the attempt of this handle, or its execution, has no say, by the snapshot."""
        lease = self._state.lease
        if lease is None or lease.attempt != self.attempt:
            return True
        return None not in (self.execution, lease.execution) and self.execution != lease.execution

    def __repr__(self) -> str:
        state = self._state
        why = f" ({state.cause})" if state.cause is not None and state.cause is not Cause.SUCCESS else ""
        attempt = "" if self.attempt == 1 == state.attempt else f", attempt {self.attempt} of {state.attempt}"
        name = f"{type(self).__name__} {self.sweep_id}[{self.index}]"
        return f"<{name} {state.row}{why}{attempt}: {show(dict(state.config), 80)}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (self.sweep_id, self.index, self.attempt, self.execution)

    def __reduce__(self) -> tuple[Any, ...]:
        self.entered = True
        return (_rebuild, (type(self), self._shell, self._state, self.attempt, self.execution, self._mine))


def _rebuild(  # called by pickle
    kind: type[RunHandle[EventsT, AnswerT, ShellT]],
    shell: ShellT,
    state: RunState,
    attempt: int,
    execution: str | None,
    mine: bool,  # noqa: FBT001 - what pickle passes has no names
) -> RunHandle[EventsT, AnswerT, ShellT]:
    run = kind(shell, state, attempt, execution, mine=mine)
    run.entered = True
    return run


def current_execution(state: RunState) -> str | None:
    """Return which execution has begun the current attempt of a run, if that was said."""
    lease = state.lease
    return lease.execution if lease is not None and lease.attempt == state.attempt else None
