"""Health: what a person looks at before choosing pause, stop or cancel. No rule of the lifecycle reads it.

It reads the sweep's snapshot and a bounded piece of its newest history, so it
costs the same whether the sweep has ten runs or a million. Where it says that
something goes together with failure, it gives the evidence, and how likely so
much of it is by chance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import iscoroutinefunction
from math import exp, isnan, lgamma
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from .core.errors import InvalidValue
from .core.events import Event, RunCreated, RunEnded, RunHandedOut
from .core.state import SweepState
from .core.status import Cause, RunStatus, SweepStatus
from .core.values import FrozenDict, check_count, show

if TYPE_CHECKING:
    from .sweep import Sweep

#: What counts for and against a run; KILLED says nothing about it, as in the failure rule (lifecycle, layer G).
_WELL: Final = RunStatus.FINISHED
_BADLY: Final = frozenset({RunStatus.FAILED, RunStatus.CRASHED})
#: Less likely than this by chance, after allowing for the number of things that were compared, is shown.
_CHANCE: Final = 0.01
#: A parameter with more different values than this is looked at in ranges, if they are numbers.
_VALUES: Final = 12
_RANGES: Final = 4
_TEXT: Final = 60


@attrs.frozen
class CauseGroup:
    """Ends that have a cause in common.

    Attributes:
        status: the verdict.
        cause: why.
        count: how many attempts ended so.
        message: what was said most often, shortened; None if nothing was.
        runs: up to five of the runs, newest first.
    """

    status: RunStatus
    cause: Cause
    count: int
    message: str | None
    runs: tuple[int, ...]


@attrs.frozen
class Evidence:
    """How often attempts failed that have something in common, and how often the others did.

    Attributes:
        failed: how many of these failed.
        of: of how many that finished or failed.
        others_failed: how many of the others failed.
        others: of how many.
        chance: how likely at least so many failures among these are by chance, if it makes no difference
            (the upper tail of the hypergeometric distribution).
    """

    failed: int
    of: int
    others_failed: int
    others: int
    chance: float

    def __str__(self) -> str:
        text = f"{self.failed} of {self.of} failed"
        if self.others:
            text += f", of the others {self.others_failed} of {self.others}"
        return text + f" (chance {self.chance:.2g})"


@attrs.frozen
class AgentHealth:
    """How an agent's attempts ended.

    Attributes:
        agent: its name.
        evidence: its failures, and those of the others.
        suspect: whether so many are unlikely by chance: its machine may be bad.
    """

    agent: str
    evidence: Evidence
    suspect: bool


@attrs.frozen
class Suspect:
    """A hyperparameter's value that goes together with failure.

    Attributes:
        parameter: its name; nested ones are dotted.
        value: the value, or the range of values, as text.
        evidence: failures with it, and without.
    """

    parameter: str
    value: str
    evidence: Evidence


@attrs.frozen
class Health:
    """A diagnosis; ``str`` gives it in lines.

    Attributes:
        sweep_id: whose.
        status: the sweep's.
        counts: how many runs have each status.
        failure_rate: the share of FAILED and CRASHED among these and FINISHED, from 0 to 1; None if there
            are none.
        streak: how many runs in a row failed, as the failure rule counts them.
        seen: how many ends of attempts were looked at for what follows: the newest ones.
        causes: these, grouped, the most frequent first.
        agents: agents with failures, the most suspicious first.
        suspects: hyperparameters that go together with failure, the least likely by chance first.
    """

    sweep_id: str
    status: SweepStatus
    counts: Mapping[RunStatus, int]
    failure_rate: float | None
    streak: int
    seen: int
    causes: tuple[CauseGroup, ...]
    agents: tuple[AgentHealth, ...]
    suspects: tuple[Suspect, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def health(sweep: Sweep, *, last: int = 5_000) -> Health:
    """Diagnose a sweep from its snapshot and its newest history.

    Args:
        sweep: the sweep; its handle shows the newest snapshot afterwards.
        last: how many events are read, at most; a run's life has about three.

    Returns:
        The diagnosis. Nothing is changed by it, and no rule reads it.

    Raises:
        SweepNotFound: the sweep was deleted.
        InvalidValue: it is an ``AsyncSweep``: its snapshot and history are awaited, and given to ``diagnose``.

    Example:
        >>> from sweepstate import Grid, Sweep
        >>> sweep = Sweep(Grid({"lr": [0.1, 0.01]}), id="doc")
        >>> why = sweep.execute(lambda run: {"loss": 1 / (run.config["lr"] - 0.1)})
        >>> print(health(sweep))
        Sweep doc is FINISHED: 1 finished, 1 failed
          50% failed; 0 in a row now
          of the last 2 ends:
            1 FAILED, error (runs 0): 'ZeroDivisionError: float division by zero ...
            1 FINISHED, success (runs 1)
          agent worker: 1 of 2 failed (chance 1)
    """
    if iscoroutinefunction(sweep.refresh):
        remedy = "sweepstate.diagnosis.diagnose(sweep.state, [event async for event in sweep.history(after=...)])"
        raise InvalidValue("sweep", f"{show(sweep)} must be awaited", remedy)
    state = sweep.refresh().state
    after = max(0, state.events - check_count(last, "last", least=1))
    return diagnose(state, sweep.history(after=after))


def diagnose(state: SweepState, events: Iterable[Event]) -> Health:
    """Diagnose a sweep from a snapshot, and from whatever piece of its history there is.

    Args:
        state: the snapshot.
        events: in order; of attempts that were handed out before the first of these, agent and
            configuration are not known.
    """
    agents: dict[tuple[int, int], str] = {}
    configs: dict[int, FrozenDict] = {}
    ends: list[RunEnded] = []
    for event in events:
        if isinstance(event, RunHandedOut):
            agents[event.index, event.attempt] = event.agent
            if isinstance(event, RunCreated):
                configs[event.index] = event.config
        elif isinstance(event, RunEnded):
            ends.append(event)
    judged = [end for end in ends if end.status is _WELL or end.status in _BADLY]
    by_agent = [(agents[end.index, end.attempt], end) for end in judged if (end.index, end.attempt) in agents]
    with_config = [(configs[end.index], end.status in _BADLY) for end in judged if end.index in configs]
    counts = state.counts
    failed = sum(counts[status] for status in _BADLY)
    return Health(
        sweep_id=state.id,
        status=state.status,
        counts=counts,
        failure_rate=failed / (failed + counts[_WELL]) if failed + counts[_WELL] else None,
        streak=state.rule_streak,
        seen=len(ends),
        causes=_causes(ends),
        agents=_agents(by_agent),
        suspects=_suspects(with_config),
    )


def _causes(ends: Sequence[RunEnded]) -> tuple[CauseGroup, ...]:
    groups: dict[tuple[RunStatus, Cause], list[RunEnded]] = defaultdict(list)
    for end in ends:
        groups[end.status, end.cause].append(end)
    found: list[CauseGroup] = []
    for (status, cause), members in groups.items():
        said = Counter(end.message for end in members if end.message)
        message = said.most_common(1)[0][0] if said else None
        runs = tuple(dict.fromkeys(end.index for end in reversed(members)))[:5]
        found.append(CauseGroup(status, cause, len(members), message, runs))
    return tuple(sorted(found, key=lambda group: -group.count))


def _agents(judged: Sequence[tuple[str, RunEnded]]) -> tuple[AgentHealth, ...]:
    ends, failures = Counter(agent for agent, _ in judged), Counter(agent for agent, end in judged if _failed(end))
    found: list[AgentHealth] = []
    for agent, failed in failures.items():
        evidence = _weigh(failed, ends[agent], sum(failures.values()), len(judged))
        found.append(AgentHealth(agent, evidence, evidence.chance * len(ends) < _CHANCE))
    return tuple(sorted(found, key=lambda each: (each.evidence.chance, -each.evidence.failed, each.agent)))


def _failed(end: RunEnded) -> bool:
    return end.status in _BADLY


def _suspects(judged: Sequence[tuple[FrozenDict, bool]]) -> tuple[Suspect, ...]:
    columns: dict[str, list[tuple[Any, bool]]] = defaultdict(list)
    for config, failed in judged:
        for name, value in _flat(config):
            columns[name].append((value, failed))
    total, all_failed = len(judged), sum(failed for _, failed in judged)
    compared: list[Suspect] = []
    for name, column in columns.items():
        for text, members in _grouped(column):
            compared.append(Suspect(name, text, _weigh(sum(members), len(members), all_failed, total)))
    found = [suspect for suspect in compared if suspect.evidence.chance * len(compared) < _CHANCE]
    return tuple(sorted(found, key=lambda suspect: (suspect.evidence.chance, suspect.parameter, suspect.value)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values; those of nested mappings are dotted."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _grouped(column: Sequence[tuple[Any, bool]]) -> Iterator[tuple[str, list[bool]]]:
    """Yield each value of a parameter, or each range of a number that has many, with who failed with it."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for value, failed in column:
        groups[show(value, _TEXT)].append(failed)
    if len(groups) <= _VALUES:
        yield from groups.items()
        return
    numbers = sorted((value, failed) for value, failed in column if _is_number(value))
    values = [value for value, _ in numbers]
    edges = sorted(
        {bisect_left(values, values[len(values) * part // _RANGES]) for part in range(_RANGES if values else 0)}
    )
    for low, high in zip(edges, [*edges[1:], len(values)], strict=True):
        members = numbers[low:high]
        yield f"{show(members[0][0])} to {show(members[-1][0])}", [failed for _, failed in members]


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and not isnan(value))


def _weigh(failed: int, of: int, all_failed: int, total: int) -> Evidence:
    """Return the evidence of one group against all the others."""
    others, others_failed = total - of, all_failed - failed
    # Each way to spread all failures over all attempts is as likely as another, if the group makes no difference.
    ways = _log_choose(total, all_failed)
    tail = sum(
        exp(_log_choose(of, hits) + _log_choose(others, all_failed - hits) - ways)
        for hits in range(failed, min(of, all_failed) + 1)
        if all_failed - hits <= others
    )
    return Evidence(failed, of, others_failed, others, min(1.0, tail))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


# --- as text --------------------------------------------------------------------------------------


def _lines(found: Health) -> Iterator[str]:
    shown = [f"{count} {status.value.lower()}" for status, count in found.counts.items() if count]
    yield f"Sweep {found.sweep_id} is {found.status}: {', '.join(shown) or 'no runs'}"
    if found.failure_rate is not None:
        yield f"  {found.failure_rate:.0%} failed; {found.streak} in a row now"
    if found.causes:
        yield f"  of the last {found.seen} ends:"
    for group in found.causes:
        said = f": {show(group.message, _TEXT)}" if group.message else ""
        runs = ", ".join(str(index) for index in group.runs)
        yield f"    {group.count} {group.status}, {group.cause} (runs {runs}{', ...' if group.count > 5 else ''}){said}"
    for each in found.agents:
        mark = "; look at its machine" if each.suspect else ""
        yield f"  agent {each.agent}: {each.evidence}{mark}"
    for suspect in found.suspects:
        yield f"  {suspect.parameter} = {suspect.value}: {suspect.evidence}"
