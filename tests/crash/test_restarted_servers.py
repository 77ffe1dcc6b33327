"""A server that crashes and comes back, while workers go on: every point once, all that was acknowledged is there."""

from __future__ import annotations

import time
from functools import partial

import pytest

pytest.importorskip("sqlalchemy")

from sweepstate import Sweep
from sweepstate.core.events import LateReport
from sweepstate.storage.sqlalchemy import SQLAlchemyStorage
from sweepstate.testing.contract.world import all_events
from tests.support import workers
from tests.support.acknowledged import Book, Opener, opened, warm
from tests.support.conductor import PATIENCE, Conductor
from tests.support.counts import Report, scaled
from tests.support.private_servers import MariaDB, PostgreSQL, private_server

WORKERS = 6
POINTS = 200


def crash(server: PostgreSQL | MariaDB) -> None:
    """End it as ``pg_ctl stop -m immediate`` does, where there is such a thing."""
    server.stop(server.at_once)


def end(server: PostgreSQL | MariaDB) -> None:
    """Let it end as it does when its machine is restarted."""
    server.stop(server.gently)


def kill(server: PostgreSQL | MariaDB) -> None:
    """Kill all its processes."""
    server.kill()


OUTAGES = (crash, kill, end) * 2


def wait_for(sweep: Sweep, created: int, conductor: Conductor) -> None:
    """Wait until so many points are created."""
    until = time.monotonic() + PATIENCE
    while sweep.refresh().state.created < created:
        if conductor.over:
            conductor.parts()  # says what ended them
            raise AssertionError("the workers were done before the server went away")
        assert time.monotonic() < until, f"the workers are stuck: {sweep}"
        time.sleep(0.005)


def take_down(server: PostgreSQL | MariaDB, sweep: Sweep, conductor: Conductor, points: int) -> float:
    """Take the server down and up again, evenly spread over the points; return for how many seconds it was down."""
    down = 0.0
    for number, outage in enumerate(OUTAGES, 1):
        wait_for(sweep, points * number // (len(OUTAGES) + 1), conductor)
        began = time.monotonic()
        outage(server)
        server.start()
        down += time.monotonic() - began
    return down


def late_reports(opener: Opener) -> int:
    with opened(opener) as storage:
        return sum(isinstance(event, LateReport) for event in all_events(storage, "s"))


@pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])
def test_workers_go_on_over_crashes_of_the_server(kind: type[PostgreSQL | MariaDB], report: Report) -> None:
    """What failed has not happened, what is unknown is looked up, and what was acknowledged outlives the crash."""
    points = scaled(POINTS, least=100)
    told = Book()
    with private_server(kind) as server:
        opener = partial(SQLAlchemyStorage, server.url)
        with opened(opener) as storage:
            storage.create_tables()
            workers.create(storage, "s", points)
            told.add_events(all_events(storage, "s"))
            sweep = Sweep.open("s", storage=storage)
            with Conductor(partial(warm, opener)) as conductor:
                conductor.begin(workers.work_through_outages, [(opener, "s")] * WORKERS)
                down = take_down(server, sweep, conductor, points)
                parts = conductor.parts()
        unknown = workers.check(opener, "s", points, parts, told)
        assert late_reports(opener) == 0
    said = [words[0] for part in parts for words in part.said]
    failed, in_doubt = said.count("outage"), said.count("unknown")
    outages = f"{len(OUTAGES)} outages, {down:.1f} s in all"
    report(f"{outages}; {failed} calls failed, {in_doubt} may have; {len(unknown)} of these had")
    assert failed + in_doubt >= len(OUTAGES), "nobody noticed that the server was gone"
    assert len(unknown) <= in_doubt, "a call failed and said that nothing had happened, and it had"
