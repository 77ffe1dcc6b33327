"""Run: a handle of one run, for those who execute it and those who watch it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, cast, final

from .core import decide as core
from .core.decide import Answer, Change, Decision, Draft, End
from .core.errors import AlreadyStarted, IllegalTransition, InvalidValue, RunNotFound
from .core.events import Event, OrderKind
from .core.lifecycle import RUN_ENDED, Exit, RunTrigger, Verdict, check
from .core.state import RunState
from .core.status import Cause, RunStatus
from .core.values import EMPTY, FrozenDict, check_count, check_text, describe_error, freeze_metrics, show
from .shell import Shell

_P = ParamSpec("_P")

_MESSAGE: Final = 10_000
_MOST_CODE: Final = 2**31 - 1


@final
class Run:
    """A handle of one run, at one attempt.

    It shows the snapshot it last saw; ``refresh`` looks again, and every command is decided on what
    the storage holds. Commands (``stop``, ``kill``, ``retry``) are about the run; reports (``start``
    ... ``gone``) are about the attempt that this handle was made for, so a handle kept from an older
    attempt cannot disturb a newer one.

    Handles come from ``sweep.next_run()``, ``for run in sweep``, ``sweep[index]`` and ``sweep.runs()``.

    Attributes:
        attempt: the attempt that this handle reports for.
        execution: which execution it reports for, if that was said.
    """

    __slots__ = ("_mine", "_over", "_shell", "_state", "attempt", "entered", "execution")

    def __init__(
        self, shell: Shell, state: RunState, attempt: int, execution: str | None = None, *, mine: bool = False
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
    def metrics(self) -> Mapping[str, float]:
        """What it reported with its end, as last seen; before that, what it last reported on the way, by one read."""
        if self._state.metrics or self.ended or self._shell.heartbeats is None:
            return self._state.metrics
        return self._shell.heartbeats.last_metrics(self.sweep_id, self.index) or EMPTY

    @property
    def token(self) -> str:
        """Its identity towards the outside, opaque: what a child process or a remote worker needs to report.

        ``sweep.run_of(token)`` gives a handle of the same attempt and execution.
        """
        self.entered = True
        text = json.dumps([self.sweep_id, self.index, self.attempt, self.execution], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @property
    def should_stop(self) -> bool:
        """Whether its execution should end: it was asked to, or was killed, or has reported its end, or was handed on.

        False for a run that was lost to silence: its end is still wanted. Looks at the storage each
        time; it is no heartbeat.
        """
        state = self.refresh().state
        lease = state.lease
        if lease is None or lease.attempt != self.attempt:
            return True
        if None not in (self.execution, lease.execution) and self.execution != lease.execution:
            return True
        return core.order_for(self._shell.load(), state) in (OrderKind.STOP, OrderKind.KILL)

    def refresh(self) -> Self:
        """Look again; return this handle, which then shows the newest snapshot.

        Raises:
            SweepNotFound: the sweep was deleted.
            RunNotFound: the storage has lost the run.
        """
        state = self._shell.load_run(self.index)
        if state is None:
            raise RunNotFound(self.sweep_id, self.index, self._shell.load().created)
        self._state = state
        return self

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

    def stop(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
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

    def kill(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """End the run now; see ``stop`` for the arguments.

        Afterwards:
            It is KILLED, and its execution is ordered to end abruptly; its lease lasts until that is gone.
        """
        return self._commit(reason, actor, core.kill_run, self.index, if_version)

    def retry(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Queue a FAILED, CRASHED or KILLED run again; see ``stop`` for the arguments.

        Raises:
            IllegalTransition: it is executing or FINISHED, or the sweep was ended (reopen it first).

        Afterwards:
            It is PENDING, queued, as its next attempt, with the same configuration.
        """
        return self._commit(reason, actor, core.retry_run, self.index, if_version)

    # --- reports ---------------------------------------------------------------------------------

    def start(self, execution: str | None = None, *, heartbeats: bool = False) -> tuple[Event, ...]:
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
        promised = heartbeats and self._shell.heartbeats is not None
        self.execution = (
            execution  # also if it is refused: what this handle reports then is of an execution without a say
        )
        events = self._report(core.start, self.index, self.attempt, execution, heartbeats=promised)
        self._mine = self._mine or bool(events)
        return events

    def heartbeat(self) -> Answer:
        """Send a sign of life, which promises more of them: from now on silence counts.

        Returns:
            ``CONTINUE``; ``STOP``: it was asked to stop, or has reported its end; ``KILL``: end at once,
            it has no say any more.
        """
        return self._sign(None, promise=True)

    def report(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> Answer:
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
        return self._sign(_join(metrics, named), promise=False)

    def finish(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> tuple[Event, ...]:
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
        return self._end(End(Exit.SUCCESS, None, None, None, _join(metrics, named)))

    def fail(self, error: BaseException | str = "", *, exit_code: int | None = None) -> tuple[Event, ...]:
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
        return self._end(End(Exit.ERROR, _describe(error), _code(exit_code)))

    def crash(self, message: str = "", *, signal: int | None = None) -> tuple[Event, ...]:
        """Report that the execution died by a signal that nobody sent on purpose; as ``fail``, but CRASHED.

        Args:
            message: what there is to say about it.
            signal: its number.
        """
        return self._end(End(Exit.SIGNAL, _describe(message), None, _code(signal, "signal")))

    def interrupt(self, message: str = "") -> tuple[Event, ...]:
        """Report that somebody interrupted the execution (SIGINT): KILLED, or queued again if it was preempting.

        Args:
            message: what there is to say about it.

        Returns:
            The events it caused, as from ``finish``.
        """
        return self._end(End(Exit.INTERRUPT, _describe(message), None, 2))

    def exited(
        self, returncode: int, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> tuple[Event, ...]:
        """Report how a process ended, by the return code that ``subprocess`` gives.

        Args:
            returncode: 0; more than 0, an exit code; less than 0, minus a signal. 128 and a signal's
                number, as shells say it, is an exit code.
            message: what there is to say, such as the last lines of its output.
            metrics: what it ended with.
        """
        code = check_count(returncode, "returncode", least=-1_000)
        numbers = EMPTY if metrics is None else freeze_metrics(metrics)
        text = _describe(message)
        if code == 0:
            return self._end(End(Exit.SUCCESS, text, 0, None, numbers))
        if code > 0:
            return self._end(End(Exit.ERROR, text, code, None, numbers))
        how = Exit.INTERRUPT if code == -2 else Exit.SIGNAL
        return self._end(End(how, text, None, -code, numbers))

    def gone(self) -> tuple[Event, ...]:
        """Report, as its agent, that nothing of this attempt is executing.

        Returns:
            The events it caused; none if its lease was over already.

        Afterwards:
            Its lease is over and its slot is free. A RUNNING run is CRASHED, a held one is queued again.
        """
        events = self._report(core.gone, self.index, self.attempt)
        self._over = True
        return events

    def release(self) -> tuple[Event, ...]:
        """Give the run back before it has begun.

        Returns:
            The events it caused; none if somebody else has it by now.

        Raises:
            IllegalTransition: it has begun.

        Afterwards:
            It is queued as its next attempt; this handle is of an old one.
        """
        events = self._report(core.release, self.index, self.attempt)
        self._over = True
        return events

    def mark_preempting(self) -> tuple[Event, ...]:
        """Report that the machine is about to be taken away: whatever ends the run now queues it again.

        Returns:
            The events it caused; none if that was said already, or this attempt has no say any more.

        Raises:
            IllegalTransition: nobody has the run.
        """
        return self._report(core.mark_preempting, self.index, self.attempt, self.execution)

    # --- executing -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin, if it has not begun.

        A run that may not begin any more, because it was killed or handed on meanwhile, is reported
        as gone: nothing of it executes, so its slot is free at once.

        Raises:
            StaleAttempt: the run was handed on.
            AlreadyStarted: somebody else is executing it.
            IllegalTransition: nobody has the run, or it has ended.
        """
        self.entered = True
        if self._mine and self._state.status is RunStatus.RUNNING:
            return self
        try:
            begun = self.start()
        except AlreadyStarted:
            raise
        except IllegalTransition:
            if self._mine:
                self.gone()
            raise
        if not begun:
            raise self._begun_elsewhere()
        return self

    def _begun_elsewhere(self) -> AlreadyStarted:
        lease = self._state.lease
        by = None if lease is None else lease.execution
        name = f"{self.sweep_id}[{self.index}]"
        remedy = "do not execute it twice"
        return AlreadyStarted("run", name, self._state.row, "start", ("kill", "stop"), remedy, self.execution, by)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Report the end, if the body has not: finish, or what the exception means. Nothing is swallowed."""
        if self._over:
            return
        if error is None:
            self.finish()
        elif isinstance(error, SystemExit):
            self._exited_by(error)
        elif isinstance(error, KeyboardInterrupt):
            self.interrupt("KeyboardInterrupt")
        else:
            self.fail(error)

    def _exited_by(self, error: SystemExit) -> None:
        code = error.code
        if code is None or code == 0:
            self.finish()
        else:
            # sys.exit takes anything: a text, True, a number that no process can exit with.
            number = max(-_MOST_CODE, min(int(code), _MOST_CODE)) if isinstance(code, int) else 1
            self.fail(code if isinstance(code, str) else show(code), exit_code=number)

    def perform(self, function: Callable[[Run], object]) -> None:
        """Begin, execute a function as this run, and report its end.

        Args:
            function: is given this handle. What it returns are the metrics: a mapping, or a number if the
                sweep has an objective, or None. An exception fails the run and is kept there.

        Raises:
            IllegalTransition: it may not begin; see ``with run:``.
            KeyboardInterrupt, SystemExit: the function's, after it was reported: they are about the
                whole process.
            InvalidValue: it returned a number, and the sweep has no objective to name it; after the run
                was reported as failed.

        Afterwards:
            The run has ended, whatever the function did.
        """
        self.__enter__()
        try:
            result = function(self)
        except Exception as error:
            if not self._over:
                self.fail(error)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        else:
            if not self._over:
                self._finish_with(result)

    def _finish_with(self, result: object) -> None:
        """Report what a function returned as the run's end."""
        objective = self._shell.state.objective
        if isinstance(result, Mapping):
            metrics = cast("Mapping[str, object]", result)
        elif result is None:
            metrics = EMPTY
        elif objective is not None:
            metrics = {objective.metric: result}
        else:
            remedy = "return a mapping of metrics or None, or give the sweep an objective"
            error = InvalidValue("result", f"{show(result)} has no name", remedy)
            self.fail(error)
            if isinstance(result, (int, float)):
                raise error  # every run would fail for it, one after the other
            return
        try:
            frozen = freeze_metrics(metrics)
        except InvalidValue as error:
            # It is the run's error; what can be kept of its result is kept.
            numbers = {str(name): item for name, item in metrics.items() if type(item) in (int, float)}
            self._end(End(Exit.ERROR, _describe(error), None, None, freeze_metrics(numbers)))
        else:
            self._end(End(Exit.SUCCESS, None, None, None, frozen))

    # --- the shell -------------------------------------------------------------------------------

    def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[Event, ...]:
        _, change = self._shell.commit(reason, actor, command, *args, **kwargs)
        return self._see(change)

    def _report(
        self, command: Callable[Concatenate[Draft, _P], Decision[None]], *args: _P.args, **kwargs: _P.kwargs
    ) -> tuple[Event, ...]:
        self.entered = True
        _, change = self._shell.decide(self._state.index, None, None, command, *args, **kwargs)
        return self._see(change)

    def _end(self, report: End) -> tuple[Event, ...]:
        events = self._report(core.end, self.index, self.attempt, self.execution, report)
        self._over = True
        return events

    def _sign(self, metrics: FrozenDict | None, *, promise: bool) -> Answer:
        shell = self._shell
        self.entered = True
        promised = promise and shell.heartbeats is not None
        sign, change = shell.commit(
            None, None, core.heartbeat, self.index, self.attempt, self.execution, promise=promised
        )
        if sign.keep and shell.heartbeats is not None:
            shell.heartbeats.beat(shell.sweep_id, self.index, self.attempt, shell.now(), metrics)
        self._see(change)
        return sign.answer

    def _see(self, change: Change | None) -> tuple[Event, ...]:
        """Show the run as it is after a commit; as the storage holds it, if that changed nothing of it."""
        index = self._state.index
        if change is not None:
            for run in change.runs:
                if run.index == index:
                    self._state = run
                    return change.events
        state = self._shell.load_run(index)
        if state is not None:
            self._state = state
        return () if change is None else change.events

    def __repr__(self) -> str:
        state = self._state
        why = f" ({state.cause})" if state.cause is not None and state.cause is not Cause.SUCCESS else ""
        attempt = "" if self.attempt == 1 == state.attempt else f", attempt {self.attempt} of {state.attempt}"
        return f"<Run {self.sweep_id}[{self.index}] {state.row}{why}{attempt}: {show(dict(state.config), 80)}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (self.sweep_id, self.index, self.attempt, self.execution)

    def __reduce__(self) -> tuple[Any, ...]:
        self.entered = True
        return (_rebuild, (self._shell, self._state, self.attempt, self.execution, self._mine))


def _rebuild(shell: Shell, state: RunState, attempt: int, execution: str | None, mine: bool) -> Run:  # noqa: FBT001 - called by pickle
    run = Run(shell, state, attempt, execution, mine=mine)
    run.entered = True
    return run


def read_token(token: str) -> tuple[str, int, int, str | None]:
    """Return sweep, index, attempt and execution of a token.

    Raises:
        InvalidValue: it is none.
    """
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(text)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        parts = None
    match parts:
        case [str() as sweep_id, int() as index, int() as attempt, (str() | None) as execution]:
            if execution is not None:
                check_text(execution, "token.execution", most=1_000)
            return (
                sweep_id,
                check_count(index, "token.index"),
                check_count(attempt, "token.attempt", least=1),
                execution,
            )
        case _:
            raise InvalidValue("token", f"{show(token)} is no run's token", "pass on run.token as it is")


def _describe(error: BaseException | str) -> str | None:
    """Return what to keep of an error: never too much, and always storable."""
    text = error if isinstance(error, str) else describe_error(error) + _place(error)
    return text[:_MESSAGE].encode(errors="replace").decode() or None


def _place(error: BaseException) -> str:
    """Return where an exception was raised, without reading any source file."""
    trace = getattr(error, "__traceback__", None)  # whatever was passed as an error
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f" (at {code.co_filename}:{trace.tb_lineno} in {code.co_name})"


def _join(metrics: Mapping[str, float] | None, named: dict[str, float]) -> FrozenDict:
    """Return metrics that were given as a mapping, by name, or both."""
    if metrics is not None:
        return freeze_metrics({**freeze_metrics(metrics), **named})
    return freeze_metrics(named) if named else EMPTY


def _code(value: int | None, field: str = "exit_code") -> int | None:
    return None if value is None else check_count(value, field, least=-(2**31))
