"""What the benchmarks share: how peers are compared, and how a bound is printed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import attrs

from sweepstate import Run, Sweep
from sweepstate.search.distributions import IntUniform, LogUniform, Uniform

SPACE = {
    "lr": LogUniform(1e-5, 1e-1),
    "momentum": Uniform(0.0, 1.0),
    "layers": IntUniform(1, 9),
    "act": ["relu", "gelu"],
}

Batch = Callable[[int], object]


@attrs.frozen
class Row:
    """A line of the summary: ``value`` should be at most (or, with ``least``, at least) ``bound``."""

    work: str
    value: float
    bound: float
    unit: str = "x"
    least: bool = False

    def __str__(self) -> str:
        worse = self.bound / self.value if self.least else self.value / self.bound
        verdict = "meets" if worse <= 1 else f"misses by {worse:.2f}x"
        bound = f"{'at least' if self.least else 'at most'} {self.bound:g} {self.unit}"
        return f"{self.work:<58} {self.value:>9.2f} {self.unit:<4} {bound:<18} {verdict}"


def interleaved(
    peers: dict[str, Batch],
    batches: int,
    size: int,
    clock: Callable[[], float] = time.process_time,
    sizes: dict[str, int] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds an item of each batch, the peers taking turns; ``sizes`` are those of some peers."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(batches):
        for name, batch in peers.items():
            count = size if sizes is None else sizes.get(name, size)
            start = clock()
            batch(count)
            times[name].append((clock() - start) / count)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """Return the median of the ratios of batches that ran one after the other: both met the same slow moments."""
    return median(one / other for one, other in zip(times[name], times[base], strict=False))


def show(title: str, times: dict[str, list[float]], base: str) -> None:
    """Print medians, least values, and the ratios to one of them."""
    print(f"\n{title}")
    for name, each in times.items():
        print(
            f"  {name:<34} median {median(each) * 1e6:>11.3f} us   least {min(each) * 1e6:>11.3f} us"
            f" {ratio(times, name, base):>9.2f} x"
        )


def installed(name: str) -> bool:
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"\n({name} is not installed: left out)")
    return found


def optuna_life(study: Any) -> Batch:
    """Return what asks, suggests the four parameters of ``SPACE`` and tells, in an Optuna study."""

    def batch(count: int) -> None:
        for _ in range(count):
            trial = study.ask()
            trial.suggest_float("lr", 1e-5, 1e-1, log=True)
            trial.suggest_float("momentum", 0.0, 1.0)
            trial.suggest_int("layers", 1, 9)
            trial.suggest_categorical("act", ["relu", "gelu"])
            study.tell(trial, 0.5 + 1.0 / (trial.number + 1))

    return batch


def three_calls(sweep: Sweep) -> Batch:
    """Return what hands out, starts and finishes runs, in three commits each."""

    def batch(count: int) -> None:
        for _ in range(count):
            run = sweep.next_run()
            assert isinstance(run, Run)
            run.start()
            run.finish(loss=0.5 + 1.0 / (run.index + 1))

    return batch
