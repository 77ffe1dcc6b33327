"""Calls: what an ``ExecutorAgent`` submits, what happens where it is executed, and what comes back.

Nothing here knows an executor, or the agent. An exception does not travel: one that cannot be unpickled would
break a pool of processes, whose queue of results is read in one thread.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from ..core.decide import End
from ..core.errors import InvalidValue
from ..core.lifecycle import Exit
from ..core.limits import Objective
from ..core.values import describe_error
from ..handles.reports import describe, end_by, end_of

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep


@attrs.frozen
class Outcome:
    """What has become of a call.

    Attributes:
        end: how it ended; None if nothing is left to be reported.
        systematic: an error that every call of the function would end with.
    """

    end: End | None
    systematic: InvalidValue | None = None


@attrs.frozen
class Call:
    """Calls the function of a user, and returns how that ended, whatever it raises.

    Attributes:
        function: the user's.
        given: the configuration; or a run's handle; or one that is pickled, for another process.
        objective: of the sweep; it names a number.
    """

    function: Callable[[Any], object]
    given: Run | bytes | dict[str, Any]
    objective: Objective | None

    def __call__(self) -> Outcome:
        """Return how the call ended; of a run's copy in another process, that is reported already if it could be."""
        if isinstance(self.given, dict):
            return self._outcome(self.given)
        if not isinstance(self.given, bytes):
            return self._call_with(self.given)
        try:
            run: Run = pickle.loads(self.given)  # noqa: S301 - which this very program has pickled
        except Exception as error:
            return Outcome(End(Exit.ERROR, describe(error)))
        outcome = self._call_with(run)
        if outcome.end is not None:
            try:
                # Here the truth is nearest: it holds also if nobody waits for this call any more.
                tell(outcome.end, run)
            except Exception:
                return outcome  # the storage is away; who waits for it reports it
        return attrs.evolve(outcome, end=None)

    def _call_with(self, run: Run) -> Outcome:
        """Call the function with a handle, unless its run is not wanted any more."""
        try:
            unwanted = run.should_stop  # it may have waited for long
        except Exception:
            unwanted = False
        if unwanted:
            return Outcome(None)
        outcome = self._outcome(run)
        # What the function has reported by itself is not reported again.
        return Outcome(None) if run._over else outcome  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _outcome(self, given: object) -> Outcome:
        try:
            result = self.function(given)
        except BaseException as error:
            return Outcome(end_by(error))
        return Outcome(*end_of(result, self.objective))


def tell(end: End, run: Run) -> object:
    """Report an end that was seen elsewhere; return the events that it caused."""
    return run._end(end)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def packed(handle: Run | Sweep) -> bytes:
    """Return a handle as it is sent to another process.

    Raises:
        InvalidValue: it cannot be.
    """
    try:
        return pickle.dumps(handle)
    except Exception as error:
        remedy = "storage, clock and search must pickle; or set gives='config'"
        problem = f"{handle!r} cannot be sent to another process ({describe_error(error)})"
        raise InvalidValue("gives", problem, remedy) from error
