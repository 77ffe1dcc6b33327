"""Three sweeps over a softmax regression on the Iris measurements, and what may happen to them on the way.

    python docs/examples/quickstart.py

1. A grid, executed by a loop. It is paused and resumed; one run fails for a reason that passes, and is retried.
2. A random search, executed by an agent that is attached to the sweep. A run that learns nothing is stopped, and
   the agent starts the next one.
3. A grid that turns out to be a mistake, and is cancelled while a run executes.

Everything happens in one thread, so that what is printed is the same each time, apart from the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from softmax import cross_validate
from sweepstate import (
    Answer,
    Cause,
    Event,
    Grid,
    InlineAgent,
    IntUniform,
    Limits,
    LogUniform,
    MemoryStorage,
    Objective,
    Random,
    Run,
    Sweep,
)
from sweepstate.core.events import RunCreated, RunEnded, RunRequeued, RunStarted, SweepStatusChanged

ACCURACY: Final = Objective("accuracy", "maximize")
#: The loss of somebody who guesses one of three species is ln 3, about 1.0986.
LEARNS_NOTHING: Final = 1.05


# --- The job: knows its run, and nothing of the sweep ------------------------------------------------------------


class TrainingEndedEarly(Exception):
    """Somebody wanted the run to end. Half a training has no accuracy that could be compared."""


def train(run: Run, look: Callable[[Run], None] | None = None) -> float:
    """Execute one run; return the three-fold accuracy of its configuration.

    Args:
        run: what to execute.
        look: called after each epoch. It stands for somebody else, elsewhere, who looks at the run just then.

    Raises:
        TrainingEndedEarly: somebody stopped the run, or cancelled the sweep.
    """

    def on_epoch(epoch: int, loss: float) -> None:
        answer = run.report(epoch=epoch, loss=loss)  # for watching; the answer says whether to go on
        if answer is not Answer.CONTINUE:
            raise TrainingEndedEarly(f"in epoch {epoch}")
        if look is not None:
            look(run)

    return cross_validate(**run.config, folds=3, on_epoch=on_epoch)


def train_from_a_shaky_disk(run: Run) -> float:
    """As ``train``, but run 6 cannot read its data at the first attempt. This is simulated; disks are real."""
    if run.index == 6 and run.attempt == 1:
        raise OSError("simulated: the disk with the data did not answer")
    return train(run)


# --- The table: a listener, told of every event after it is committed --------------------------------------------


class Table:
    """Prints a row for each run that gets its verdict, and a line for what else is worth knowing."""

    def __init__(self) -> None:
        """Begin with a heading."""
        self.configs: dict[int, Mapping[str, Any]] = {}
        self.began: dict[int, float] = {}
        self.stopped: int | None = None
        print("  run  status    attempt        lr        l2  epochs  accuracy  seconds or cause")

    def __call__(self, event: Event) -> None:
        """Tell what happened."""
        match event:
            case RunCreated():
                self.configs[event.index] = event.config
            case RunStarted():
                self.began[event.index] = event.at
                if self.stopped is not None:
                    print(f"       run {event.index} starts in the place of run {self.stopped}")
                    self.stopped = None
            case RunEnded():
                print(self.row(event))
                self.stopped = event.index if event.cause is Cause.STOPPED else None
            case RunRequeued():
                print(f"       run {event.index} is {event.cause} as attempt {event.attempt}: {event.reason}")
            case SweepStatusChanged():
                print(f"       the sweep is {event.status}: {event.reason}")
            case _:
                pass

    def row(self, event: RunEnded) -> str:
        """Return a run's row."""
        config = self.configs[event.index]
        if event.cause is Cause.SUCCESS:
            accuracy, outcome = f"{event.metrics['accuracy']:.3f}", f"{event.at - self.began[event.index]:.2f} s"
        else:
            why, _, _ = (event.message or event.reason or "").partition(" (at ")  # the place would not fit into a row
            accuracy, outcome = "-", f"{event.cause}: {why}"
        return (
            f"  {event.index:>3}  {event.status:<9} {event.attempt:>7}  {config['lr']:>8.3g}  {config['l2']:>8.3g}"
            f"  {config['epochs']:>6}  {accuracy:>8}  {outcome}"
        )


# --- The three sweeps ---------------------------------------------------------------------------------------------


def explore_a_grid(storage: MemoryStorage) -> Sweep:
    """A loop executes the grid. It is paused after four runs, and resumed; a failed run is retried."""
    print("\n1. A grid of twelve points\n")
    grid = Grid({"lr": [0.1, 1.0, 100.0], "l2": [0.0, 1.0], "epochs": [20, 100]})
    sweep = Sweep(grid, id="grid", storage=storage, objective=ACCURACY, listeners=[Table()])

    for run in sweep:
        run.perform(train_from_a_shaky_disk)  # an exception fails this run, and no other
        if run.index == 3:
            sweep.pause("lunch", actor="ada")
    # The loop is over, because there is nothing to hand out; asking for a run says why.
    print(f"       nothing is handed out, because the sweep is {sweep.next_run()}")

    sweep.resume("lunch is over", actor="ada")
    for run in sweep:
        run.perform(train_from_a_shaky_disk)
        # A training that diverges would do so again; a disk may be back.
        if run.message and run.message.startswith("OSError"):
            run.retry("the disk is back", actor="ada")
    return sweep


def search_at_random(storage: MemoryStorage) -> Sweep:
    """An agent executes a random search. Whoever watches it stops a run that learns nothing."""
    print("\n2. Twelve random points\n")
    space = {"lr": LogUniform(0.001, 30.0), "l2": LogUniform(1e-6, 0.1), "epochs": IntUniform(20, 120)}

    def watch(executing: Run) -> None:
        # Written as another process would do it, which knows the storage and the sweep's id.
        run = Sweep.open("random", storage=storage)[executing.index]
        if run.metrics["epoch"] == 10 and run.metrics["loss"] > LEARNS_NOTHING:
            print(f"       run {run.index} is asked to stop: its loss is {run.metrics['loss']:.2f} after epoch 10")
            run.stop("its loss is that of guessing", actor="watcher")

    sweep = Sweep(
        Random(space, seed=19),
        id="random",
        storage=storage,
        agent=InlineAgent(lambda run: train(run, watch)),
        limits=Limits(run_cap=12, max_active=1),
        objective=ACCURACY,
        listeners=[Table()],
    )
    while not sweep.done:
        sweep.tick()  # fills the free slot, and delivers to the agent what it is to do
    return sweep


def cancel_a_mistake(storage: MemoryStorage) -> Sweep:
    """Two million points that nobody wants, cancelled while the second run executes."""
    print("\n3. A grid that is a mistake\n")
    grid = Grid({"lr": [1e-7, 1e-6], "l2": range(1000), "epochs": range(1000, 2000)})

    def notice(executing: Run) -> None:
        if executing.index == 1:
            sweep.cancel("nobody wants two million points", actor="ada")

    sweep = Sweep(grid, id="mistake", storage=storage, objective=ACCURACY, listeners=[Table()])
    why = sweep.execute(lambda run: train(run, notice))  # the same loop as above, in one line
    print(f"       nothing is handed out any more: {why}; of {grid.size:,} points, {sweep.state.created} were begun")
    return sweep


def main() -> None:
    """Run the three sweeps, and say what came of them."""
    storage = MemoryStorage()
    sweeps = [explore_a_grid(storage), search_at_random(storage), cancel_a_mistake(storage)]

    print("\nWhat came of them\n")
    for sweep in sweeps:
        print(f"  {sweep}")
    candidates = [sweep.best for sweep in sweeps]
    best = max((run for run in candidates if run is not None), key=lambda run: run.metrics["accuracy"])
    settings = ", ".join(f"{name}={value:.4g}" for name, value in best.config.items())
    print(f"\n  The best configuration is {settings}: accuracy {best.metrics['accuracy']:.3f}, by {best}\n")
    print("\n".join(f"  {line}" for line in sweeps[0].explain(6).splitlines()))


if __name__ == "__main__":
    main()
