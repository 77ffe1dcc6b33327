"""How people use it, as type checkers see it: checked by mypy and pyright in strict mode, and not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import assert_type

from sweepstate import (
    Answer,
    Cause,
    Conflict,
    Event,
    ExecutorAgent,
    FailureRule,
    Flapping,
    Going,
    GoingReason,
    Grid,
    Idle,
    IdleReason,
    IllegalTransition,
    InlineAgent,
    InvalidValue,
    Limits,
    LogUniform,
    MemoryStorage,
    Objective,
    Random,
    Run,
    RunState,
    RunStatus,
    StaleAttempt,
    Sweep,
    SweepState,
    SweepStatus,
    Tick,
    from_dict,
    replay,
    to_dict,
    work,
)


def train(lr: float, layers: int = 1) -> float:
    return lr * layers


def the_whole_loop() -> None:
    sweep = Sweep(Grid({"lr": [1e-3, 1e-2], "layers": [2, 4]}), objective=Objective("loss", "minimize"))
    assert_type(sweep.execute(lambda run: {"loss": train(**run.config)}), Idle)
    sweep.execute(lambda run: train(**run.config))
    sweep.execute(lambda run: None)
    best = sweep.best
    assert_type(best, Run | None)
    if best is not None:
        assert_type(best.metrics, Mapping[str, float])
        assert_type(best.metrics["loss"], float)
        train(best.config["lr"])


def the_loop_by_hand(sweep: Sweep) -> None:
    for run in sweep:
        assert_type(run, Run)
        with run as same:
            assert_type(same, Run)
            for epoch in range(50):
                answer = run.report(epoch=epoch, loss=train(**run.config))
                assert_type(answer, Answer)
                if run.should_stop or answer is not Answer.CONTINUE:
                    break
            assert_type(run.finish(loss=0.5), tuple[Event, ...])


def a_service(sweep: Sweep, request: str) -> str | None:
    match sweep.next_run(agent="gpu-7", request_id=request):
        case Run() as run:
            return run.token
        case Idle(reason=why):
            assert_type(why, IdleReason)
            return None


def a_worker(sweep: Sweep) -> IdleReason:
    while run := sweep.next_run("worker"):
        assert_type(run, Run)
        run.start("host:1", heartbeats=True)
        assert_type(run.heartbeat(), Answer)
        run.exited(-9, "out of memory", {"loss": 1.0})
    # pyright knows that only an Idle is falsy, mypy does not narrow what a loop leaves.
    assert isinstance(run, Idle)  # pyright: ignore[reportUnnecessaryIsInstance]
    return run.reason


def a_training_process(sweep: Sweep) -> int:
    going = work(sweep, lambda run: run.config["lr"] ** 2, name="gpu-7", count=3, flapping=Flapping(early=(3, 60)))
    assert_type(going, Going)
    assert_type(going.counts, Mapping[RunStatus, int])
    match going.reason:
        case GoingReason.ENDED | GoingReason.DELETED:
            return 0
        case _:
            return going.runs


def elsewhere(run: Run, future: Future[float]) -> tuple[Event, ...]:
    error = future.exception()
    assert_type(run.conclude(future.result()), tuple[Event, ...])
    return run.conclude(error=error)


def commands(sweep: Sweep) -> list[tuple[Event, ...]]:
    seen = sweep.state.version
    return [
        sweep.pause(),
        sweep.resume("as you like"),
        sweep.stop(reason="enough", actor="ada", if_version=seen),
        sweep.cancel(reason="bad data", actor="ada"),
        sweep.reopen(retry={RunStatus.FAILED}),
        sweep.retry([RunStatus.CRASHED, RunStatus.KILLED], "again"),
        sweep.complete(),
        sweep.fail(),
        sweep.crash(),
        sweep.set_limits(run_cap=200, max_active=None, retries={RunStatus.CRASHED: 1}, failure=FailureRule(streak=5)),
        sweep.set_limits(retries=2, reason="flaky", actor="ada"),
        sweep[3].stop(),
        sweep[3].kill(actor="ada"),
        sweep[3].retry(if_version=7),
    ]


def refused_by_type_checkers(sweep: Sweep) -> None:
    sweep.set_limits(run_caps=200)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sweep.set_limits(run_cap="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Limits(run_cap="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sweep({"x": [1]})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sweep(Grid({"x": [1]}), "id")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sweep.next_run().start()  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    sweep.best.config  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # noqa: B018
    sweep.state.version = 7  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def looking(sweep: Sweep) -> None:
    assert_type(sweep.status, SweepStatus)
    assert_type(sweep.counts, dict[RunStatus, int])
    assert_type(sweep.runs(status=RunStatus.FAILED), Iterator[Run])
    assert_type(sweep.runs({RunStatus.FAILED, RunStatus.CRASHED}), Iterator[Run])
    assert_type(sweep.history(after=3), Iterator[Event])
    assert_type(sweep.explain(3), str)
    assert_type(sweep[0].cause, Cause | None)
    assert_type(sweep.tick(), Tick)
    assert_type(sweep.tick().next_at, float | None)
    assert_type(sweep.refresh(), Sweep)
    assert_type(sweep.run_of("token"), Run)


def plain_data(sweep: Sweep) -> None:
    assert_type(from_dict(to_dict(sweep.state), SweepState), SweepState)
    assert_type(from_dict(to_dict(sweep[0].state), RunState), RunState)
    events = [from_dict(to_dict(event), Event) for event in sweep.history()]
    assert_type(replay(events).sweep, SweepState)
    assert_type(replay(events).runs[0], RunState)


def limits() -> Limits:
    return Limits(
        run_cap=100,
        max_active=8,
        heartbeat_timeout=300,
        retries=1,
        time_limit=3_600.0,
        failure=FailureRule(streak=5, within=(3, 60.0), rate=(0.5, 20)),
    )


def half(run: Run) -> float:
    return run.index / 2


def opening(storage: MemoryStorage) -> Sweep:
    heard: list[Event] = []
    sweep = Sweep(Random({"lr": LogUniform(1e-4, 1e-1), "act": ["relu", "gelu"]}, seed=7), id="resnet", storage=storage)
    assert_type(Sweep.open("resnet", storage=storage, listeners=[heard.append], clock=lambda: 0.0), Sweep)
    Sweep.open("resnet", storage=storage, agent=InlineAgent(lambda run: 0.5))
    threads = ExecutorAgent(ThreadPoolExecutor(2), half)
    ExecutorAgent(lambda: ProcessPoolExecutor(2), dict, gives="config", name="pool")
    threads.drive(Sweep.open("resnet", storage=storage, agent=threads))
    Sweep.open("resnet", storage=storage, on_listener_error=lambda listener, event, error: None)
    return sweep


def errors(sweep: Sweep) -> None:
    try:
        sweep.resume()
    except StaleAttempt as error:
        assert_type(error.current, int)
    except IllegalTransition as error:
        assert_type(error.allowed, tuple[str, ...])
    except Conflict as error:
        assert_type(error.found, int)
    except InvalidValue as error:
        assert_type(error.field, str)
