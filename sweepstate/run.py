"""Run: a handle of one run, for those who execute it and those who watch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, final

from .core import decide as core
from .core.decide import Answer, Decision, Draft
from .core.errors import AlreadyStarted, IllegalTransition, RunNotFound
from .core.events import Event, OrderKind
from .core.status import RunStatus
from .core.values import EMPTY, FrozenDict
from .handles.reports import end_of
from .handles.run import RunHandle
from .shell import Shell

_P = ParamSpec("_P")


@final
class Run(RunHandle[tuple[Event, ...], Answer, Shell]):
    """A handle of one run, at one attempt.

    It shows the snapshot it last saw; ``refresh`` looks again, and every command is decided on what
    the storage holds. Commands (``stop``, ``kill``, ``retry``) are about the run; reports (``start``
    ... ``gone``) are about the attempt that this handle was made for, so a handle kept from an older
    attempt cannot disturb a newer one.

    Handles come from ``sweep.next_run()``, ``for run in sweep``, ``sweep[index]`` and ``sweep.runs()``.

    Attributes:
        attempt: the attempt that this handle reports for.
        execution: which execution it reports for, if that was said.
        stop_raises: whether ``report`` raises ``ShouldStop`` when the execution should end; False
            unless it is set.
    """

    __slots__ = ()

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it reported with its end, as last seen; before that, what it last reported on the way, by one read."""
        if self._state.metrics or self.ended or self._shell.heartbeats is None:
            return self._state.metrics
        return self._shell.heartbeats.last_metrics(self.sweep_id, self.index) or EMPTY

    @property
    def should_stop(self) -> bool:
        """Whether its execution should end: it was asked to, or was killed, or has reported its end, or was handed on.

        False for a run that was lost to silence: its end is still wanted. Looks at the storage each
        time; it is no heartbeat.
        """
        state = self.refresh().state
        return self._no_say() or core.order_for(self._shell.load(), state) in (OrderKind.STOP, OrderKind.KILL)

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
        self._take_on()
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Report the end, if the body has not: finish, or what the exception means. Nothing is swallowed."""
        if not self._over:
            self._leave(error)

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
            self.conclude(error=error)
        except BaseException as error:
            self.conclude(error=error)
            raise
        else:
            self.conclude(result)

    def conclude(self, result: object = None, *, error: BaseException | None = None) -> tuple[Event, ...]:
        """Report the end that a function's result means, or its exception, unless the end was reported already.

        What ``perform`` does with what its function has left behind, for those who call the function
        elsewhere, or must report again because the storage failed.

        Args:
            result: what the function returned: a mapping of metrics, a number if the sweep has an
                objective, or None.
            error: what it raised instead.

        Returns:
            The events it caused, as from ``finish``; none if the end was reported through this handle before.

        Raises:
            InvalidValue: the result is a number, and the sweep has no objective to name it; after the run
                was reported as failed.

        Afterwards:
            The run has ended, or is queued again; its slot is free.
        """
        if self._over:
            return ()
        if error is not None:
            return self._leave(error)
        report, wrong = end_of(result, self._shell.state.objective)
        events = self._end(report)
        if wrong is not None:
            raise wrong
        return events

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
        if not self._note(command, change):
            self._look()
        return () if change is None else change.events

    def _report(
        self, command: Callable[Concatenate[Draft, _P], Decision[None]], *args: _P.args, **kwargs: _P.kwargs
    ) -> tuple[Event, ...]:
        self._take_on()
        _, change = self._shell.decide(self._state.index, None, None, command, *args, **kwargs)
        if not self._note(command, change):
            self._look()
        return () if change is None else change.events

    def _sign(self, metrics: FrozenDict | None, *, promise: bool) -> Answer:
        shell = self._shell
        self._take_on()
        promised = promise and shell.keeps_beats
        sign, change = shell.commit(
            None, None, core.heartbeat, self.index, self.attempt, self.execution, promise=promised
        )
        if sign.keep and shell.heartbeats is not None:
            shell.heartbeats.beat(shell.sweep_id, self.index, self.attempt, shell.now(), metrics)
        if not self._note(core.heartbeat, change):
            self._look()
        return self._answered(sign.answer, promise=promise)

    def _look(self) -> None:
        """Show the run as the storage holds it."""
        state = self._shell.load_run(self._state.index)
        if state is not None:
            self._state = state
