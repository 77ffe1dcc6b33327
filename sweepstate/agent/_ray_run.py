"""What the function of a RayAgent is given, and how a worker of the cluster calls it.

Nothing here knows a storage: workers need not reach it, nor have its password.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

from ..core.decide import Answer
from ..core.limits import Objective
from ..core.values import FrozenDict
from ..handles.reports import end_by, end_of, join
from ._calls import Outcome

#: The namespace of the actors, whatever the driver's own is: a driver that comes back may have another.
NAMESPACE: Final = "sweepstate"


def ray() -> Any:
    """Return the module ``ray``, imported when it is first needed.

    By name, because it has no types worth following, and need not be there where types are checked.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError("RayAgent needs Ray: pip install 'sweepstate[ray]'", name="ray") from None


def actor_name(agent: str) -> str:
    """Return the name of an agent's actor, by which tasks and drivers find it."""
    return f"agent:{agent}"


class RayRun:
    """A run, as the function of a ``RayAgent`` sees it in the cluster.

    Attributes:
        sweep_id: the id of its sweep.
        index: its number in the sweep, from 0.
        attempt: 1, 2, 3, ...
        config: its configuration.
        objective: what its sweep optimizes, if that was said.
    """

    __slots__ = ("_actor", "_agent", "_execution", "attempt", "config", "index", "objective", "sweep_id")

    def __init__(
        self,
        place: tuple[str, int, int],
        config: FrozenDict,
        *,
        agent: str,
        execution: str,
        objective: Objective | None,
    ) -> None:
        self.sweep_id: str = place[0]
        self.index: int = place[1]
        self.attempt: int = place[2]
        self.config: FrozenDict = config
        self._agent = agent
        self._execution = execution
        self.objective: Objective | None = objective
        self._actor: Any = None

    @property
    def should_stop(self) -> bool:
        """Whether it was asked to end. Asks the agent's actor each time."""
        return self.heartbeat() is Answer.STOP

    def report(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> Answer:
        """Report metrics on the way, for watching and early stopping; the agent commits the newest of them.

        Args:
            metrics: names and numbers; they replace those reported before.
            named: further ones, where the name is an identifier.

        Returns:
            ``STOP`` if it was asked to end, else ``CONTINUE``.

        Raises:
            InvalidValue: a value is not a number.
        """
        return self._say(join(metrics, named))

    def heartbeat(self) -> Answer:
        """Return ``STOP`` if it was asked to end, else ``CONTINUE``. Its agent sends the signs of life."""
        return self._say()

    def mark_preempting(self) -> None:
        """Report that the machine is about to be taken away: whatever ends the run now queues it again."""
        self._say(preempting=True)

    def __repr__(self) -> str:
        return f"<RayRun {self.sweep_id}[{self.index}], attempt {self.attempt}>"

    def _say(self, metrics: FrozenDict | None = None, *, preempting: bool = False) -> Answer:
        if self._actor is None:
            self._actor = ray().get_actor(actor_name(self._agent), namespace=NAMESPACE)
        # Waited for, so that a function that reports in every step cannot run away from the actor.
        asked = ray().get(self._actor.say.remote(self._execution, metrics, preempting))
        return Answer.STOP if asked else Answer.CONTINUE

    def __reduce__(self) -> tuple[object, ...]:
        place = (self.sweep_id, self.index, self.attempt)
        return _run_of, (place, self.config, self._agent, self._execution, self.objective)


def _run_of(
    place: tuple[str, int, int], config: FrozenDict, agent: str, execution: str, objective: Objective | None
) -> RayRun:
    return RayRun(place, config, agent=agent, execution=execution, objective=objective)


# --- in a worker of the cluster --------------------------------------------------------------------


@cache
def _function_of(code: bytes) -> Callable[[RayRun], object]:
    """Return a function, made once in each worker, as Ray does with functions of its own."""
    function: Callable[[RayRun], object] = ray().cloudpickle.loads(code)
    return function


def execute(code: bytes, pickled: bytes) -> Outcome:
    """Execute a run, as a task; say how it ended, whatever it did.

    Exceptions are caught here: they may not pickle, and a SystemExit would take the worker along.
    """
    try:
        run: RayRun = pickle.loads(pickled)  # noqa: S301 - the agent pickled it
        return Outcome(*end_of(_function_of(code)(run), run.objective))
    except BaseException as error:
        return Outcome(end_by(error))
