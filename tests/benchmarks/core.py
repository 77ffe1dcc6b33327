"""What the core costs, side by side with its peers, in one run: medians, ratios, and the bound of each.

The bounds stand in the design ("What it must cost"). This is a program, not a test: it prints and does not judge,
because a shared machine is noisy; compare ratios, not microseconds. What is compared takes turns, so that a slow moment
meets both, and processor time is measured, so that the time of others does not count.

    python tests/benchmarks/core.py [--quick] [--full]

The peers are the dependency group ``bench``; one that is not installed is left out.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from statistics import median
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout, so that nothing needs to be installed

from sweepstate import Grid, Random, Sweep, SweepStatus, SweepTrigger
from sweepstate.core import lifecycle
from tests.benchmarks.common import SPACE, Batch, Row, installed, interleaved, optuna_life, ratio, show, three_calls

GRID = {f"p{n}": list(range(10)) for n in range(4)}  # 10,000 points


@attrs.frozen
class Scale:
    """How much is measured."""

    batches: int
    steps: int
    runs: int
    flat: int
    imports: int
    optuna_grid: int


QUICK = Scale(batches=7, steps=2_000, runs=200, flat=10_000, imports=5, optuna_grid=1)
NORMAL = Scale(batches=21, steps=20_000, runs=300, flat=100_000, imports=25, optuna_grid=3)
FULL = attrs.evolve(NORMAL, flat=1_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: a smoke test of half a minute")
    parser.add_argument("--full", action="store_true", help="flatness up to 1,000,000 runs")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL if arguments.full else NORMAL
    print(f"Python {platform.python_version()}, {platform.machine()}")
    rows = [row for measure in (steps, lives, flatness, grid, memory, imports) for row in measure(scale)]
    print("\nSummary\n" + "\n".join(f"  {row}" for row in rows))


# --- lifecycle.step ----------------------------------------------------------------------------------------------


class Bare(str, Enum):  # noqa: UP042  as the statuses are
    """The floor: what anybody would write by hand."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    __hash__ = str.__hash__


class Slot:
    """What a status is assigned to."""

    __slots__ = ("status",)
    status: Any


def steps(scale: Scale) -> Iterator[Row]:
    """Pause and resume, one after the other; an item is one transition."""
    peers: dict[str, Batch] = {"floor": bare_steps, "sweepstate": sweepstate_steps}
    makers = {"automat": automat_steps, "transitions": transitions_steps, "statemachine": statemachine_steps}
    peers.update({name: make() for name, make in makers.items() if installed(name)})
    times = interleaved(peers, scale.batches, scale.steps)
    show("One transition", times, "floor")
    yield Row("lifecycle.step, to the floor", ratio(times, "sweepstate", "floor"), 3)


def bare_steps(count: int) -> None:
    pause, resume = "pause", "resume"
    table = {(Bare.RUNNING, pause): Bare.PAUSED, (Bare.PAUSED, resume): Bare.RUNNING}
    slot = Slot()
    slot.status = Bare.RUNNING
    for _ in range(count // 2):
        slot.status = table[slot.status, pause]
        slot.status = table[slot.status, resume]


def sweepstate_steps(count: int) -> None:
    pause, resume = SweepTrigger.PAUSE, SweepTrigger.RESUME
    step = lifecycle.step
    slot = Slot()
    slot.status = SweepStatus.RUNNING
    for _ in range(count // 2):
        slot.status = step(slot.status, pause)
        slot.status = step(slot.status, resume)


def transitions_steps() -> Batch:
    from transitions import Machine  # noqa: PLC0415  a peer need not be installed

    class Model:
        pause: Callable[[], bool]
        resume: Callable[[], bool]

    model = Model()
    machine = Machine(model=model, states=["RUNNING", "PAUSED"], initial="RUNNING", auto_transitions=False)
    machine.add_transition("pause", "RUNNING", "PAUSED")
    machine.add_transition("resume", "PAUSED", "RUNNING")
    return lambda count: _alternate(model.pause, model.resume, count)


def automat_steps() -> Batch:
    from automat import MethodicalMachine  # noqa: PLC0415  a peer need not be installed

    class Model:
        machine = MethodicalMachine()

        @machine.state(initial=True)
        def running(self) -> None: ...

        @machine.state()
        def paused(self) -> None: ...

        @machine.input()
        def pause(self) -> None: ...

        @machine.input()
        def resume(self) -> None: ...

        running.upon(pause, enter=paused, outputs=[])  # pyright: ignore[reportFunctionMemberAccess]
        paused.upon(resume, enter=running, outputs=[])  # pyright: ignore[reportFunctionMemberAccess]

    model = Model()
    return lambda count: _alternate(model.pause, model.resume, count)


def statemachine_steps() -> Batch:
    from statemachine import State, StateMachine  # noqa: PLC0415  a peer need not be installed

    class Model(StateMachine):
        RUNNING = State(initial=True)
        PAUSED = State()
        pause = RUNNING.to(PAUSED)
        resume = PAUSED.to(RUNNING)

    model = Model()
    return lambda count: _alternate(model.pause, model.resume, count)


def _alternate(one: Callable[[], object], other: Callable[[], object], count: int) -> None:
    for _ in range(count // 2):
        one()
        other()


# --- one run's life ----------------------------------------------------------------------------------------------


def lives(scale: Scale) -> Iterator[Row]:
    """Hand out, start, finish, with history, in memory; everybody keeps one study that grows."""
    loop = Loop(Sweep(Random(SPACE)))
    peers: dict[str, Batch] = {"for run in sweep": loop.batch, "three calls": three_calls(Sweep(Random(SPACE)))}
    if installed("optuna"):
        peers["optuna"] = optuna_lives()
    times = interleaved(peers, scale.batches, scale.runs)
    show("One run's life: hand out, start, finish", times, "for run in sweep")
    if "optuna" in times:
        for form in ("for run in sweep", "three calls"):
            yield Row(f"a run's life, {form}: Optuna to it", ratio(times, "optuna", form), 15, least=True)


class Loop:
    """``for run in sweep``, stopped after each batch and then gone on with."""

    def __init__(self, sweep: Sweep) -> None:
        self._runs = iter(sweep)

    def batch(self, count: int) -> None:
        for _, run in zip(range(count), self._runs, strict=False):  # in this order, or one run too many is handed out
            run.finish(loss=0.5 + 1.0 / (run.index + 1))


def optuna_lives() -> Batch:
    import optuna  # noqa: PLC0415  a peer need not be installed

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return optuna_life(study)


# --- flat --------------------------------------------------------------------------------------------------------


def flatness(scale: Scale) -> Iterator[Row]:
    """The last 1,000 runs of many against the first 1,000, by medians of ten batches of 100 each."""
    loop = Loop(Sweep(Random(SPACE)))
    Loop(Sweep(Random(SPACE))).batch(1_000)  # so that the first ones do not pay for warming up
    print(f"\n{scale.flat:,} runs in one sweep")
    first = hundreds(loop)
    loop.batch(scale.flat - 2_000)
    last = hundreds(loop)
    for name, each in {"first 1,000": first, "last 1,000": last}.items():
        print(f"  {name:<34} median {median(each) * 1e6:>11.3f} us   least {min(each) * 1e6:>11.3f} us")
    # The two are far apart in time and cannot take turns; the least value is fairest to both on a busy machine.
    yield Row(f"{scale.flat:,} runs: last 1,000 to first 1,000, least", min(last) / min(first), 1.3)
    yield Row(f"{scale.flat:,} runs: last 1,000 to first 1,000, median", median(last) / median(first), 1.3)


def hundreds(loop: Loop) -> list[float]:
    """Return the seconds a run of each of ten batches of 100."""
    return interleaved({"": loop.batch}, 10, 100)[""]


# --- grid --------------------------------------------------------------------------------------------------------


def grid(scale: Scale) -> Iterator[Row]:
    """Ten thousand points: the last proposals against the first, and against Optuna's, which looks at all of them."""
    search = Grid(GRID)
    first: Batch = lambda count: [search.propose(index, None) for index in range(count)]  # noqa: E731
    last: Batch = lambda count: [search.propose(search.size - 1 - index, None) for index in range(count)]  # noqa: E731
    times = interleaved({"first proposals": first, "last proposals": last}, scale.batches, 1_000)
    if installed("optuna"):
        times["optuna's GridSampler, a trial"] = interleaved({"": optuna_grid()}, scale.optuna_grid, 1)[""]
    show("A grid of 10,000 points: one proposal", times, "first proposals")
    yield Row("a grid's last proposals to its first", ratio(times, "last proposals", "first proposals"), 1.3)


def optuna_grid() -> Batch:
    import optuna  # noqa: PLC0415  a peer need not be installed

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(GRID, seed=0))

    def batch(count: int) -> None:
        for _ in range(count):
            trial = study.ask()
            for name, choices in GRID.items():
                trial.suggest_categorical(name, choices)
            study.tell(trial, 0.0)

    return batch


# --- memory ------------------------------------------------------------------------------------------------------


def memory(scale: Scale) -> Iterator[Row]:
    """What a finished run leaves behind: its snapshot, configuration, metrics and events."""
    bare = retained(scale.runs * 10, {})
    one = retained(scale.runs * 10, {"loss": 0.5})
    print("\nMemory retained a run, with history (tracemalloc)")
    print(f"  without metrics {bare:>8.0f} B   with one {one:>8.0f} B")
    yield Row("memory retained a run, with one metric", one / 1000, 1.2, "kB")


def retained(count: int, metrics: dict[str, float]) -> float:
    runs = iter(Sweep(Random(SPACE)))

    def live(number: int) -> None:
        for _, run in zip(range(number), runs, strict=False):
            run.finish(**{name: value + run.index for name, value in metrics.items()})

    live(500)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        live(count)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / count


# --- import ------------------------------------------------------------------------------------------------------


def imports(scale: Scale) -> Iterator[Row]:
    """``import sweepstate`` against ``import attrs`` and the standard modules that it needs, in fresh interpreters."""
    needed = standard_modules()
    base = "attrs and the standard modules"
    programs = {
        "nothing": "pass",
        "attrs": "import attrs",
        base: "import attrs, " + ", ".join(needed),
        "sweepstate": "import sweepstate",
    }
    peers: dict[str, Batch] = {name: fresh(program) for name, program in programs.items()}
    for batch in peers.values():
        batch(1)  # so that nobody compiles
    times = interleaved(peers, scale.imports, 1, clock=children)
    print(f"\nStandard modules it needs beyond attrs: {len(needed)}")
    print(textwrap.fill(", ".join(needed), 110, initial_indent="  ", subsequent_indent="  "))
    show("A fresh interpreter that imports", times, base)
    alone = {
        name: [each - nothing for each, nothing in zip(times[name], times["nothing"], strict=True)] for name in programs
    }
    alone.pop("nothing")
    show("The same without the interpreter", alone, base)
    yield Row("import sweepstate, to attrs and standard modules", ratio(alone, "sweepstate", base), 2)


def fresh(program: str) -> Batch:
    """Return what runs a program in as many fresh interpreters."""

    def batch(count: int) -> None:
        for _ in range(count):
            python(program)

    return batch


def children() -> float:
    """Return the processor time of all subprocesses so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def standard_modules() -> list[str]:
    """Return the standard modules that sweepstate imports and attrs does not."""
    report = "import sys; print(*sys.modules)"
    ours, base = (set(python(f"import {name}; {report}").split()) for name in ("sweepstate", "attrs"))
    return sorted(name for name in ours - base if name.partition(".")[0] in sys.stdlib_module_names)


def python(program: str) -> str:
    """Run a program in a fresh interpreter, in the checkout, and return what it printed."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); " + program]
    # What is compiled is kept, whatever the environment says: compiling is not what is measured.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
