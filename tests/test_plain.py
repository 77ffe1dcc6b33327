"""Plain data and pickles: what is read again is what was written, and what cannot be read is refused by name."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sweepstate
from sweepstate import (
    AgentError,
    AlreadyExists,
    AlreadyStarted,
    Answer,
    Cause,
    Conflict,
    Event,
    FailureRule,
    GaveWay,
    Grid,
    Idle,
    IdleReason,
    IllegalTransition,
    InlineAgent,
    InvalidValue,
    Limits,
    MemoryStorage,
    NotFound,
    Objective,
    OutcomeUnknown,
    Run,
    RunNotFound,
    RunState,
    RunStatus,
    RunTrigger,
    SearchError,
    SearchMismatch,
    SearchMissing,
    ShouldStop,
    StaleAttempt,
    StorageError,
    Sweep,
    SweepNotFound,
    SweepState,
    SweepstateError,
    SweepStatus,
    SweepTrigger,
    Tick,
    UnknownStatus,
    from_dict,
    replay,
    to_dict,
)
from sweepstate.core import errors
from sweepstate.core.as_json import to_json
from sweepstate.core.events import EVENTS, Fate, OrderKind, Requeue, RunEvent
from sweepstate.core.lifecycle import FAILURES
from sweepstate.core.state import Backlog, Completion, Lease
from sweepstate.core.values import FrozenDict, freeze
from tests.fakes import Recorder, sweep_of, take

# --- values --------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(TEXT, PLAIN, max_size=4).map(lambda value: freeze(value, "config"))
METRICS = st.dictionaries(TEXT, NUMBERS, max_size=3).map(lambda value: freeze(value, "metrics"))
SECONDS = st.floats(0, 1e12)
COUNTS = st.integers(0, 2**40)
MAYBE_TEXT = st.none() | TEXT
LIMITS = st.builds(
    Limits,
    run_cap=st.none() | st.integers(1, 10**6),
    max_active=st.none() | st.integers(1, 10**6),
    heartbeat_timeout=SECONDS,
    stop_grace=SECONDS,
    retries=st.integers(0, 3) | st.dictionaries(st.sampled_from(sorted(FAILURES)), st.integers(0, 3)),
    time_limit=st.none() | st.floats(0.001, 1e9),
    failure=st.builds(
        FailureRule,
        streak=st.none() | st.integers(1, 99),
        within=st.none() | st.tuples(st.integers(1, 99), st.floats(0.001, 1e6)),
        rate=st.none() | st.tuples(st.floats(0, 0.999), st.integers(1, 99)),
    ),
)
OBJECTIVES = st.builds(
    Objective,
    TEXT,
    st.sampled_from(["minimize", "maximize"]),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
#: What a field may hold, by its name where the annotation does not tell, else by its annotation.
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "metrics": METRICS,
    "limits": LIMITS,
    "objective": st.none() | OBJECTIVES,
    "search": st.none() | MAPPINGS,
    "best_value": st.none() | NUMBERS,
    "size": st.none() | st.integers(0, 10**30),
    "lease": st.none() | st.deferred(lambda: built(Lease)),
    "backlog": st.lists(st.deferred(lambda: built(Backlog)), max_size=2).map(tuple),
    "statuses": st.lists(st.sampled_from(list(RunStatus)), max_size=3).map(tuple),
    "late": st.lists(st.integers(1, 99), max_size=3).map(tuple),
}
ENUMS = (RunStatus, SweepStatus, RunTrigger, SweepTrigger, Cause, Fate, Requeue, OrderKind, Completion)
WORDS: dict[str, st.SearchStrategy[Any]] = {word.__name__: st.sampled_from(list(word)) for word in ENUMS}
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": COUNTS,
    "float": SECONDS,
    "str": TEXT,
    "bool": st.booleans(),
    "FrozenDict": MAPPINGS,
    **WORDS,
}


def built(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Return instances of an attrs class, with anything its fields may hold."""

    def strategy(field: attrs.Attribute[Any]) -> st.SearchStrategy[Any]:
        if field.name in BY_NAME:
            return BY_NAME[field.name]
        kind, *rest = str(field.type).split(" | ")
        found = BY_TYPE[kind]
        return st.none() | found if rest else found

    return st.builds(cls, **{field.name: strategy(field) for field in attrs.fields(cls)})


SNAPSHOTS = st.one_of(built(SweepState), built(RunState))
EVENTS_OF_ANY_KIND = st.one_of([built(cls) for cls in EVENTS.values()])
ANYTHING = st.one_of(SNAPSHOTS, EVENTS_OF_ANY_KIND, LIMITS, OBJECTIVES)


@cache
def eventful() -> tuple[Sweep, list[Event]]:
    """Return a sweep to which everything has happened that can, and its history."""
    storage = MemoryStorage()
    agent = Recorder()
    limits = Limits(max_active=6, retries={RunStatus.CRASHED: 1}, failure=FailureRule(rate=(0.9, 50)))
    search = Grid({"lr": [0.1, 1e-3], "net": {"width": [8, 16], "act": ["relu", None]}, "tags": {"value": [True]}})
    sweep, clock = sweep_of(
        search=search,
        storage=storage,
        limits=limits,
        objective=Objective("loss", target=-1.0),
        agent=agent,
        actor="ada",
    )
    agent.failing = lambda: OSError("no host")
    with pytest.raises(AgentError):
        sweep.tick()
    agent.failing = None
    sweep.tick()
    for order in sweep.orders(agent.name):
        order.run.start("host", heartbeats=order.index % 2 == 0)
    sweep[1].heartbeat()
    sweep[0].stop("slow", actor="bob")
    sweep[2].mark_preempting()
    sweep[2].exited(-15)
    sweep[3].crash("segfault", signal=11)
    sweep[4].finish(loss=math.inf)
    sweep.set_limits(stop_grace=100.0, reason="patience")
    clock.wait(300)
    sweep.tick()
    sweep[1].heartbeat()
    clock.wait(60)
    sweep.tick()
    sweep[1].kill()
    sweep[1].heartbeat()
    clock.wait(299)
    sweep[1].heartbeat()
    clock.wait(300)
    sweep.tick()
    sweep[1].finish(loss=0.5)
    sweep[5].fail(ValueError("nan"), exit_code=3)
    sweep.retry({RunStatus.FAILED})
    sweep.pause()
    sweep.resume()
    sweep.stop()
    sweep.reopen(retry={RunStatus.KILLED})
    for _ in range(20):
        clock.wait(1_000)
        sweep.tick()
        for order in sweep.orders(agent.name):
            if order.kind is OrderKind.START:
                order.run.start()
                order.run.finish(loss=-0.5)
            elif order.kind is OrderKind.KILL:
                order.run.gone()
    return sweep.refresh(), list(sweep.history())


def state() -> SweepState:
    return eventful()[0].state


def history() -> list[Event]:
    return eventful()[1]


def test_the_eventful_sweep_is_eventful() -> None:
    """So that the tests below see nearly every kind of event as it really comes."""
    assert set(EVENTS) - {type(event).__name__ for event in history()} <= {"SearchCompleted", "BacklogEmptied"}


# --- round trips ---------------------------------------------------------------------------------


def through_json(value: Any) -> Any:
    """Return the plain-data form after a trip through JSON, which both ways to write it make to the byte."""
    text = json.dumps(to_dict(value), separators=(",", ":"))
    assert to_json(value) == text
    return json.loads(text)


@settings(max_examples=200)
@given(ANYTHING)
def test_plain_data_round_trips(value: Any) -> None:
    """What is read from the plain form, also after JSON, is equal, and writes the same form."""
    for data in (to_dict(value), through_json(value)):
        again = from_dict(data, type(value))
        assert again == value
        assert to_dict(again) == to_dict(value)


@given(ANYTHING)
def test_values_pickle_and_copy(value: Any) -> None:
    """To the same value, and as deep as one likes."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.deepcopy(value) == copy.copy(value) == value


def test_everything_that_really_happens_round_trips() -> None:
    """A real history, its snapshots, and the replay of what was read."""
    events = [from_dict(through_json(event), Event) for event in history()]
    assert events == history()
    snapshots = replay(events)
    assert snapshots.sweep == from_dict(through_json(state()), SweepState) == state()
    for run in eventful()[0].runs():
        assert from_dict(through_json(run.state), RunState) == run.state == snapshots.runs[run.index]


def test_infinite_objectives_and_huge_grids_round_trip() -> None:
    """A loss may be infinite or a large whole number, and a grid have more points than fit into 64 bits."""
    for loss in (math.inf, -math.inf, 10**400, -(10**400), 1e308):
        sweep, _ = sweep_of(search=Grid({f"p{n}": range(1_000) for n in range(20)}), objective=Objective("loss"))
        take(sweep).finish(loss=loss)
        assert (sweep.state.best_index, sweep.state.size) == (0, 10**60)
        assert from_dict(through_json(sweep.state), SweepState) == sweep.state
        assert [from_dict(through_json(event), Event) for event in sweep.history()] == list(sweep.history())


def test_nan_is_kept() -> None:
    """In configurations and metrics, where it means something."""
    sweep, _ = sweep_of(search=Grid({"x": [math.nan, -math.inf]}))
    run = take(sweep)
    run.finish(loss=math.nan)
    again = from_dict(through_json(run.state), RunState)
    assert math.isnan(again.config["x"])
    assert math.isnan(again.metrics["loss"])


def test_the_plain_form_is_a_copy() -> None:
    """Changing it changes nothing."""
    run = eventful()[0][0].state
    data = to_dict(run)
    data["config"]["net"]["width"] = "changed"
    data["late"].append(7)
    data["metrics"]["x"] = 1
    assert to_dict(run) != data
    assert from_dict(to_dict(run), RunState) == run


def test_snapshots_cannot_be_changed() -> None:
    """Not their fields, nor what is in them."""
    run = eventful()[0][0].state
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        run.status = RunStatus.FAILED  # type: ignore[misc]
    for change in (
        lambda: run.config.update(x=1),
        lambda: run.config["net"].pop("width"),
        lambda: run.config.__setitem__("x", 1),
        lambda: run.config.__ior__({"x": 1}),
        run.config.clear,
        lambda: run.config.setdefault("x", 1),
    ):
        with pytest.raises(TypeError, match="snapshot"):
            change()
    assert hash(FrozenDict(a=1)) == hash(FrozenDict(a=1))


def test_handles_ticks_and_answers_pickle() -> None:
    """Whatever a caller may hold of a sweep."""
    sweep, _ = sweep_of(3)
    run = take(sweep)
    for value in (
        sweep,
        run,
        sweep.tick(),
        Idle(IdleReason.PAUSED),
        Answer.STOP,
        sweep.storage,
        sweep.search,
        sweep.limits,
    ):
        assert pickle.loads(pickle.dumps(value)) == value
    assert isinstance(sweep.tick(), Tick)


# --- errors --------------------------------------------------------------------------------------

ERRORS: list[SweepstateError] = [
    SweepstateError("plain"),
    InvalidValue("limits.run_cap", "must be a number", "give one"),
    InvalidValue("x", "is odd"),
    UnknownStatus("status", "'x' names none", "use one of a, b", ("a", "b")),
    IllegalTransition("sweep", "s", SweepStatus.STOPPED, SweepTrigger.RESUME, ("reopen",), "reopen it"),
    IllegalTransition("run", "", "RUNNING", "start"),
    StaleAttempt("run", "s[1]", "RUNNING", "start", ("kill",), "drop it", 1, 2),
    AlreadyStarted("run", "s[1]", "RUNNING", "start", ("kill",), "do not", "host-1", None),
    Conflict("s", 3, 4),
    Conflict("s", 3, what="the status has changed"),
    NotFound("nothing"),
    SweepNotFound("s"),
    RunNotFound("s", 7, 3),
    AlreadyExists("s"),
    SearchError("s", 3, "it raised ValueError: x"),
    SearchMismatch("s", -1, "was created with another"),
    SearchMissing("s", 2, "there is none"),
    StorageError("disk full"),
    OutcomeUnknown("the connection broke"),
    GaveWay("s", -1, -1, "deadlock detected"),
    AgentError("a", ("start <Run>: OSError: no host",)),
    ShouldStop("s", 3, 1, Answer.STOP),
]


def fields_of(error: Exception) -> list[str]:
    """Return the names of an error's fields."""
    return [field.name for field in getattr(type(error), "__attrs_attrs__", ())]


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(subclasses, cls.__subclasses__()))


def test_every_error_is_among_those_above() -> None:
    """A new error class needs an example there."""
    ours = {cls for cls in subclasses(SweepstateError) if cls.__module__.startswith("sweepstate.")}
    assert {type(error) for error in ERRORS} == {cls for cls in ours if not cls.__name__.startswith("_")}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_pickles_with_its_fields_and_text(error: SweepstateError) -> None:
    """Through each protocol, and by copying; also one that was given a note or another remedy."""
    if isinstance(error, InvalidValue | IllegalTransition):
        error.remedy += ", please"
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for again in [*copies, copy.copy(error), copy.deepcopy(error)]:
        assert type(again) is type(error)
        assert str(again) == str(error) != ""
        assert again.args == error.args
        for name in fields_of(error):
            assert getattr(again, name) == getattr(error, name)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_is_built_from_its_fields(error: SweepstateError) -> None:
    """So that code reads fields and people the same in words."""
    shown = {"subject", "field", "id", "sweep_id", "status", "asked", "problem", "remedy", "what", "agent"}
    for name in shown.intersection(fields_of(error)):
        assert str(getattr(error, name)) in str(error)


def test_the_tree_of_errors_is_the_one_in_its_docstring() -> None:
    """Who catches a branch catches what is drawn below it."""
    assert errors.__doc__ is not None
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in errors.__doc__.splitlines():
        stem = line.lstrip(" |")
        depth = len(line) - len(stem)
        if stem.startswith("SweepstateError") and not stem.startswith("SweepstateError``"):
            parents = [(depth, "SweepstateError")]
        elif stem.startswith("+-- "):
            name = stem[4:].split()[0]
            while parents[-1][0] >= depth:
                parents.pop()
            drawn[name] = parents[-1][1]
            parents.append((depth, name))
    real = {
        cls.__name__: cls.__bases__[0].__name__
        for cls in subclasses(SweepstateError)
        if cls.__module__ == errors.__name__
    }
    real.pop("SweepstateError")
    assert drawn == real


# --- hostile plain data --------------------------------------------------------------------------


class Odd:
    """No plain data, and it cannot be shown either."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def deep(levels: int) -> Any:
    value: Any = 0
    for n in range(levels):
        value = [value] if n % 2 else {"deep": value}
    return value


BAD: list[Any] = [
    None,
    True,
    -1,
    1.5,
    2**64,
    10**5000,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "RUNNING",
    "\ud800",
    b"bytes",
    [],
    [1, 2, 3],
    ["RUNNING"],
    {},
    {"format": 1},
    {1: 2},
    {"\udc00": 1},
    {"x": Odd()},
    {"x": math.nan},
    {"x": {"y": None}},
    (),
    {1, 2},
    Odd(),
    RunStatus.FAILED,
    lambda: None,
    deep(40),
    deep(100_000),
    10**400,
]
_loop: dict[str, Any] = {}
_loop["loop"] = [_loop]
BAD.append(_loop)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in plain data."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for n, value in enumerate(data):
            yield from places(value, (*path, n))


def changed(data: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """Return a copy of plain data in which ``change(container, key)`` was made at a place."""
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return data


def written(path: tuple[Any, ...]) -> str:
    """Return a path as errors write it."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


@cache
def real() -> list[dict[str, Any]]:
    """Return the plain data of everything that happened, and of what it led to."""
    sweep, events = eventful()
    snapshots: list[Any] = [sweep.state, *(run.state for run in sweep.runs()), sweep.limits]
    return [to_dict(value) for value in [*events, *snapshots]]


WANTED: dict[str, type] = {"SweepState": SweepState, "RunState": RunState, "Limits": Limits}


def wanted(data: Mapping[str, Any]) -> type:
    return WANTED.get(str(data.get("kind")), Event)


def refusal(call: Callable[[], object]) -> InvalidValue | None:
    """Return the InvalidValue that a call raises, or None; no other error."""
    try:
        call()
    except InvalidValue as error:
        return error
    return None


def refused_or_understood(data: Any, expect: type) -> InvalidValue | None:
    """Read plain data; return the error if it is refused, and require that what is accepted can be written and read."""
    error = refusal(lambda: from_dict(data, expect))
    if error is None:
        value: Any = from_dict(data, expect)
        assert repr(from_dict(through_json(value), expect)) == repr(value)
    else:
        assert error.field
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_data_mutated_anywhere_is_refused_by_name_or_understood(data: st.DataObject) -> None:
    """Never a KeyError, TypeError, AttributeError or RecursionError, whatever stands wherever."""
    plain = data.draw(st.sampled_from(real()))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([*places(plain)][1:]))
        how = data.draw(st.sampled_from(["replace", "remove", "add", "wrap"]))
        bad = data.draw(st.sampled_from(BAD))

        def change(container: Any, key: Any, how: str = how, bad: Any = bad) -> None:
            if how == "replace":
                container[key] = bad
            elif how == "remove":
                del container[key]
            elif how == "wrap":
                container[key] = [container[key]]
            elif isinstance(container, dict):
                container[bad if isinstance(bad, (str, int, float, type(None))) else "surplus"] = bad
            else:
                container.append(bad)

        plain = changed(plain, path, change)
        if any(isinstance(value, (set, Odd)) or callable(value) or value is _loop for value in [bad]):
            break  # such a value cannot be walked or copied any further
        if how != "remove" and isinstance(bad, (dict, list)):
            break
    refused_or_understood(plain, wanted(real()[0]) if not isinstance(plain, dict) else wanted(plain))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: type(bad).__name__)
def test_every_field_refuses_what_it_cannot_hold(bad: Any) -> None:
    """At each place of each kind of thing; the error's field is the place, or lies in it."""
    seen: set[str] = set()
    for plain in real():
        for name in plain:
            if f"{plain['kind']}.{name}" in seen:
                continue
            seen.add(f"{plain['kind']}.{name}")
            error = refused_or_understood({**plain, name: bad}, wanted(plain))
            if error is not None:
                # A value within its type and out of its range is refused by the class itself, which names itself.
                assert error.field.startswith((name, f"limits.{name}")), error


def test_a_missing_field_is_named() -> None:
    """Each one, also of what is nested."""
    for plain in {data["kind"]: data for data in real()}.values():
        for path in places(plain):
            if path and isinstance(path[-1], str) and not {"config", "metrics", "search", "retries"} & set(path[:-1]):
                data = changed(plain, path, lambda container, key: container.__delitem__(key))
                with pytest.raises(InvalidValue) as raised:
                    from_dict(data, wanted(plain))
                assert raised.value.field == written(path)


def test_an_unknown_field_is_named() -> None:
    """A newer version's field is not silently dropped; also where it is nested, or its name is no string."""
    for plain in {data["kind"]: data for data in real()}.values():
        for path in [
            (),
            *(path for path in places(plain) if path and path[-1] in ("lease", "limits", "failure", "objective")),
        ]:
            inner: Any = plain
            for key in path:
                inner = inner[key]
            if not isinstance(inner, dict):
                continue
            for surplus in ("surplus", 7, None, ("a", "b"), "\ud800"):
                data = changed(plain, (*path, surplus), lambda container, key: container.__setitem__(key, 1))
                with pytest.raises(InvalidValue) as raised:
                    from_dict(data, wanted(plain))
                shown = "surplus" if surplus == "surplus" else repr(surplus)
                assert raised.value.field == ".".join([*map(str, path), shown])


@pytest.mark.parametrize("form", [None, 0, -1, 2, 10**100, True, 1.0, "1", [1], math.nan, "missing"])
def test_another_format_is_refused(form: Any) -> None:
    """A newer one with the advice to update; one that is no number, anyhow."""
    data = to_dict(state())
    if form == "missing":
        del data["format"]
    else:
        data["format"] = form
    with pytest.raises(InvalidValue) as raised:
        from_dict(data, SweepState)
    assert raised.value.field == "format"
    if type(form) is int and form > 1:
        assert "update sweepstate" in str(raised.value)


@pytest.mark.parametrize("kind", [None, 1, "", "Sweep", "RunState", "dict", ["SweepState"], {"a": 1}, "\ud800"])
def test_another_kind_is_refused(kind: Any) -> None:
    """Also one that is known and was not wanted."""
    with pytest.raises(InvalidValue) as raised:
        from_dict({**to_dict(state()), "kind": kind}, SweepState)
    assert raised.value.field == "kind"


@pytest.mark.parametrize("data", [None, 1, "x", [], [("format", 1)], Odd(), RunStatus.FAILED])
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    """At the top."""
    with pytest.raises(InvalidValue, match="mapping"):
        from_dict(data, SweepState)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        (("status",), "DONE"),
        (("status",), "running"),
        (("status",), 1),
        (("at",), math.nan),
        (("at",), math.inf),
        (("at",), True),
        (("at",), "0"),
        (("version",), 1.0),
        (("version",), True),
        (("version",), 2**63),
        (("version",), 10**5000),
        (("id",), "\ud800"),
        (("id",), 7),
        (("search",), []),
        (("search",), {"x": deep(40)}),
        (("limits",), None),
        (("limits", "run_cap"), 0),
        (("limits", "run_cap"), True),
        (("limits", "retries"), {"KILLED": 1}),
        (("limits", "retries"), {"FAILED": 1, "odd": 2}),
        (("limits", "failure"), []),
        (("limits", "failure", "within"), [1]),
        (("limits", "failure", "within"), "ab"),
        (("limits", "failure", "rate"), [2.0, 1]),
        (("objective", "goal"), "win"),
        (("objective", "metric"), None),
        (("backlog",), {}),
        (("backlog",), [None]),
        (("exhausted",), 0),
        (("best_value",), "low"),
        (("best_value",), True),
        (("size",), 1.5),
        (("size",), True),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_the_place_is_named(path: tuple[str, ...], bad: Any) -> None:
    """With the whole path, and what was found shown shortened."""
    data = changed(to_dict(state()), path, lambda container, key: container.__setitem__(key, bad))
    with pytest.raises(InvalidValue) as raised:
        from_dict(data, SweepState)
    assert raised.value.field.startswith(written(path))
    assert len(str(raised.value)) < 500


def mangled(data: st.DataObject, events: list[Any], how: str, n: int) -> None:
    """Do something to event ``n`` of a history."""
    event = events[n]
    if how == "drop":
        del events[n]
    elif how == "repeat":
        events.insert(n, event)
    elif how == "swap":
        events[n], events[-1] = events[-1], event
    elif how == "no event" or not isinstance(event, Event):
        events[n] = data.draw(st.sampled_from([None, 5, "event", {}]))
    elif how == "renumber":
        events[n] = attrs.evolve(event, number=event.number + data.draw(st.integers(-2, 2)))
    elif how == "other run" and isinstance(event, RunEvent):
        events[n] = attrs.evolve(event, index=data.draw(st.integers(-1, 9)))
    else:
        other = data.draw(st.sampled_from(history()))
        events[n] = attrs.evolve(other, number=event.number, version=event.version)


@settings(max_examples=150)
@given(st.data())
def test_a_mangled_history_is_refused_or_replayed(data: st.DataObject) -> None:
    """Events that were dropped, repeated, swapped or taken from elsewhere: InvalidValue, or some snapshots."""
    events: list[Any] = list(history()[: data.draw(st.integers(4, len(history())))])
    for _ in range(data.draw(st.integers(1, 3))):
        ways = ["drop", "repeat", "swap", "renumber", "other run", "other kind", "no event"]
        mangled(data, events, data.draw(st.sampled_from(ways)), data.draw(st.integers(0, len(events) - 1)))
    error = refusal(lambda: replay(events))
    assert error is None or error.field.startswith("events")


# --- hostile arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Limits)])
def test_limits_refuse_what_they_cannot_hold(name: str) -> None:
    """By the limit's name; what they accept can be stored."""
    for bad in BAD:
        error = refusal(partial(Limits, **{name: bad}))
        if error is None:
            limits = Limits(**{name: bad})
            assert from_dict(through_json(limits), Limits) == limits
        else:
            assert error.field.startswith(f"limits.{name}")


@pytest.mark.parametrize("name", ["streak", "within", "rate"])
def test_a_failure_rule_refuses_what_it_cannot_hold(name: str) -> None:
    """Also what is nearly right."""
    for bad in [*BAD, (0, 1), (1, 0), (1, math.nan), (True, 1.0), (0.5, 0), (1.0, 1), (-0.1, 1), ("1", "2"), (1, 2, 3)]:
        error = refusal(partial(FailureRule, **{name: bad}))
        if error is None:
            limits = Limits(failure=FailureRule(**{name: bad}))
            assert from_dict(through_json(limits), Limits) == limits
        else:
            assert error.field.startswith(f"limits.failure.{name}")


@pytest.mark.parametrize("name", ["metric", "goal", "target"])
def test_an_objective_refuses_what_it_cannot_hold(name: str) -> None:
    """By the field's name."""
    for bad in BAD:
        error = refusal(partial(Objective, **{"metric": "loss", name: bad}))
        if error is None:
            objective = Objective(**{"metric": "loss", name: bad})
            assert from_dict(through_json(objective), Objective) == objective
        else:
            assert error.field.startswith(f"objective.{name}")


def usable(name: str, value: Any) -> bool:
    """Return whether a hostile value is not so hostile to this argument after all."""
    if name == "id":
        return value is None or (isinstance(value, str) and value.isascii() and value != "")
    if name in ("reason", "actor"):
        return value is None or (isinstance(value, str) and value.isascii())
    if name == "listeners":
        return isinstance(value, (list, tuple, set)) and all(map(callable, value))
    if name in ("clock", "on_listener_error"):
        return callable(value) or (value is None and name == "on_listener_error")
    return value is None and name != "search"


ARGUMENTS = ["search", "id", "storage", "agent", "limits", "objective"]
ARGUMENTS += ["clock", "listeners", "on_listener_error", "reason", "actor"]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_sweep_refuses_what_it_cannot_use_and_creates_nothing(name: str) -> None:
    """By the argument's name."""
    storage = MemoryStorage()
    for bad in [*BAD, object(), [None], Grid]:
        if not usable(name, bad):
            arguments: dict[str, Any] = {
                "search": Grid({"x": [1]}),
                "storage": storage,
                "clock": lambda: 0.0,
                name: bad,
            }
            with pytest.raises(InvalidValue) as raised:
                Sweep(**arguments)
            assert raised.value.field.startswith(name)
    assert storage.sweeps(limit=9) == []


def test_opening_refuses_what_it_cannot_use() -> None:
    """As creating does."""
    sweep, _ = sweep_of(1)
    for name in ("id", "storage", "search", "agent", "clock", "listeners", "on_listener_error"):
        for bad in (5, True, object(), b"x", [1]):
            arguments: dict[str, Any] = {"id": "s", "storage": sweep.storage, name: bad}
            with pytest.raises(InvalidValue) as raised:
                Sweep.open(**arguments)
            assert raised.value.field.startswith(name)


@pytest.mark.parametrize("size", [-1, 1.5, "9", True, math.nan, [1]])
def test_a_search_of_an_impossible_size_is_refused(size: Any) -> None:
    """Before anything is created."""

    class Sized:
        def __init__(self) -> None:
            self.size = size

        def propose(self, index: int, history: object) -> dict[str, int]:
            return {}

    storage = MemoryStorage()
    with pytest.raises(InvalidValue) as raised:
        Sweep(Sized(), storage=storage)
    assert raised.value.field == "search.size"
    assert storage.sweeps(limit=9) == []


@pytest.mark.parametrize("time", [math.nan, math.inf, -1.0, "12:00", None, True, [], 10**400, 1e300, Odd()])
def test_a_clock_that_tells_no_time_is_refused_and_nothing_changes(time: Any) -> None:
    """By every command, also after the sweep was created."""
    with pytest.raises(InvalidValue) as raised:
        Sweep(Grid({"x": [1]}), clock=lambda: time)
    assert raised.value.field == "clock"
    now: Any = 1.0
    sweep = Sweep(Grid({"x": [1, 2]}), clock=lambda: now)
    run = take(sweep)
    before = everything(sweep)
    now = time
    for call in (sweep.pause, sweep.next_run, sweep.tick, run.finish, run.heartbeat, run.report, sweep.cancel):
        with pytest.raises(InvalidValue):
            call()
    assert everything(sweep) == before


def test_a_clock_may_run_backwards_and_count_in_whole_seconds() -> None:
    """Dates of events never run backwards."""
    now: Any = 100
    sweep = Sweep(Grid({"x": [1, 2]}), clock=lambda: now)
    now = 50
    take(sweep).finish()
    assert {event.at for event in sweep.history()} == {100}
    assert from_dict(through_json(sweep.state), SweepState) == sweep.state


def everything(sweep: Sweep) -> str:
    """Return all that is stored of a sweep and all its orders, to the byte."""
    snapshot = to_dict(sweep.storage.sweep(sweep.id))
    runs = [to_dict(run.state) for run in sweep.runs()]
    return json.dumps([snapshot, runs, [to_dict(event) for event in sweep.history()]])


COMMANDS: dict[str, Callable[[Sweep, Run, Any], object]] = {
    "pause(reason)": lambda sweep, run, bad: sweep.pause(bad),
    "resume(reason)": lambda sweep, run, bad: sweep.resume(bad),
    "stop(actor)": lambda sweep, run, bad: sweep.stop(actor=bad),
    "cancel(actor)": lambda sweep, run, bad: sweep.cancel(actor=bad),
    "fail(reason)": lambda sweep, run, bad: sweep.fail(bad),
    "crash(reason)": lambda sweep, run, bad: sweep.crash(bad),
    "complete(reason)": lambda sweep, run, bad: sweep.complete(bad),
    "reopen(reason)": lambda sweep, run, bad: sweep.reopen(bad),
    "set_limits(reason)": lambda sweep, run, bad: sweep.set_limits(bad, run_cap=3),
    "retry(reason)": lambda sweep, run, bad: sweep.retry({RunStatus.FAILED}, bad),
    "pause(if_version)": lambda sweep, run, bad: sweep.pause(if_version=bad),
    "cancel(if_version)": lambda sweep, run, bad: sweep.cancel(if_version=bad),
    "complete(if_version)": lambda sweep, run, bad: sweep.complete(if_version=bad),
    "set_limits(if_version)": lambda sweep, run, bad: sweep.set_limits(if_version=bad, run_cap=3),
    "set_limits(max_active)": lambda sweep, run, bad: sweep.set_limits(max_active=bad),
    "set_limits(failure)": lambda sweep, run, bad: sweep.set_limits(failure=bad),
    "set_limits(retries)": lambda sweep, run, bad: sweep.set_limits(retries=bad),
    "set_limits(time_limit)": lambda sweep, run, bad: sweep.set_limits(time_limit=bad),
    "set_limits(unknown)": lambda sweep, run, bad: sweep.set_limits(surplus=bad),  # type: ignore[call-arg]
    "retry(statuses)": lambda sweep, run, bad: sweep.retry(bad),
    "retry([status])": lambda sweep, run, bad: sweep.retry([bad]),
    "reopen(retry)": lambda sweep, run, bad: sweep.reopen(retry=bad),
    "reopen(retry=[status])": lambda sweep, run, bad: sweep.reopen(retry=[bad]),
    "next_run(agent)": lambda sweep, run, bad: sweep.next_run(bad),
    "next_run(request_id)": lambda sweep, run, bad: sweep.next_run("a", bad),
    "orders(agent)": lambda sweep, run, bad: sweep.orders(bad),
    "sweep[index]": lambda sweep, run, bad: sweep[bad],
    "explain(run)": lambda sweep, run, bad: sweep.explain(bad),
    "runs(status)": lambda sweep, run, bad: list(sweep.runs(bad)),
    "runs([status])": lambda sweep, run, bad: list(sweep.runs([bad])),
    "history(after)": lambda sweep, run, bad: list(sweep.history(after=bad)),
    "run_of(token)": lambda sweep, run, bad: sweep.run_of(bad),
    "execute(function)": lambda sweep, run, bad: sweep.execute(bad),
    "run.stop(reason)": lambda sweep, run, bad: run.stop(bad),
    "run.kill(actor)": lambda sweep, run, bad: run.kill(actor=bad),
    "run.kill(if_version)": lambda sweep, run, bad: run.kill(if_version=bad),
    "run.retry(reason)": lambda sweep, run, bad: run.retry(bad),
    "run.start(execution)": lambda sweep, run, bad: run.start(bad),
    "run.report(metrics)": lambda sweep, run, bad: run.report(loss=bad),
    "run.finish(metrics)": lambda sweep, run, bad: run.finish(loss=bad),
    "run.fail(exit_code)": lambda sweep, run, bad: run.fail("x", exit_code=bad),
    "run.crash(signal)": lambda sweep, run, bad: run.crash("x", signal=bad),
    "run.exited(returncode)": lambda sweep, run, bad: run.exited(returncode=bad),
    "run.exited(metrics)": lambda sweep, run, bad: run.exited(0, metrics=bad),
    "InlineAgent(function)": lambda sweep, run, bad: InlineAgent(bad),
    "InlineAgent(name)": lambda sweep, run, bad: InlineAgent(lambda run: None, name=bad),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_arguments_are_refused_and_nothing_changes(command: str) -> None:
    """InvalidValue, or another error of this library; or it is accepted, and what it did can be stored."""
    refused = 0
    for bad in BAD:
        sweep, _ = sweep_of(4)
        run = take(sweep)
        before = everything(sweep)
        try:
            COMMANDS[command](sweep, run, bad)
        except SweepstateError as error:
            refused += isinstance(error, InvalidValue | NotFound) and str(error) != ""
            assert everything(sweep) == before, bad
        else:
            events = [from_dict(through_json(event), Event) for event in sweep.history()]
            assert str(replay(events).sweep) == str(sweep.refresh().state)
    assert refused > len(BAD) / 2


@pytest.mark.parametrize("error", [*BAD, ValueError("x"), KeyError(Odd())], ids=lambda bad: type(bad).__name__)
def test_an_error_can_be_anything(error: Any) -> None:
    """A report of a failure is never refused for what it says."""
    for report in ("fail", "crash", "interrupt"):
        sweep, _ = sweep_of(2)
        run = take(sweep)
        getattr(run, report)(error)
        assert run.ended
        assert from_dict(through_json(run.state), RunState) == run.state


def test_every_public_class_is_treated_here() -> None:
    """Whatever can be constructed by its public name is either tried above, or is no constructor of a user's values."""
    tried = {"Limits", "FailureRule", "Objective", "Sweep", "InlineAgent", "MemoryStorage"}
    elsewhere = {"Grid", "Random", "SQLiteStorage", "ThreadedStorage"}  # tests/search, tests/storage
    elsewhere |= {"ExecutorAgent", "SubprocessAgent", "Slots", "Flapping", "Going"}  # tests/agents
    made_here = {
        "AsyncRun",
        "AsyncSweep",  # tests/test_aio.py
        "Run",
        "Tick",
        "Idle",
        "Change",
        "Ended",
        "Start",
        "Stop",
        "Kill",
        "Order",
        "Event",
        "RunState",
        "SweepState",
        "Wait",
        "Exhausted",
    }
    protocols = {"Agent", "Catalog", "Heartbeats", "History", "Search", "Storage"}
    classes = {
        name
        for name in sweepstate.__all__
        if isinstance(getattr(sweepstate, name), type)
        and not issubclass(getattr(sweepstate, name), (Exception, str))
        and "search" not in getattr(sweepstate, name).__module__
    }
    assert classes - tried - elsewhere - made_here - protocols == set()
