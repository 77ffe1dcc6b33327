"""The quickstart tells the story that it promises, from any directory, and the same each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "examples" / "quickstart.py"


def run_quickstart(directory: Path, seed: str) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_quickstart(tmp_path_factory.mktemp("elsewhere"), "1")


def position(story: str, pattern: str, after: int = 0) -> int:
    found = re.compile(pattern, re.MULTILINE).search(story, after)
    assert found is not None, f"{pattern!r} is not in the rest of:\n{story[after:]}"
    return found.end()


def in_order(story: str, *patterns: str) -> None:
    """Hold that each pattern is found behind the one before."""
    at = 0
    for pattern in patterns:
        at = position(story, pattern, at)


def test_the_table_has_its_columns_and_a_row_for_each_attempt(story: str) -> None:
    heading = r"run +status +attempt +lr +l2 +epochs +accuracy +seconds or cause"
    assert len(re.findall(heading, story)) == 3
    rows = re.findall(r"^ +\d+ +(?:FINISHED|FAILED|CRASHED|KILLED) +\d+ ", story, re.MULTILINE)
    assert len(rows) == (12 + 1) + 12 + 2


def test_the_grid_is_paused_and_resumed(story: str) -> None:
    in_order(
        story,
        r"^ +3 +FINISHED ",
        r"the sweep is PAUSED: lunch",
        r"nothing is handed out, because the sweep is paused",
        r"the sweep is RUNNING: lunch is over",
        r"^ +4 +FINISHED ",
    )


def test_a_failed_run_is_retried_and_finishes(story: str) -> None:
    in_order(
        story,
        r"^ +6 +FAILED +1 .* error: OSError: simulated",
        r"run 6 is retried as attempt 2: the disk is back",
        r"^ +6 +FINISHED +2 ",
    )


def test_a_training_that_diverges_fails_for_good(story: str) -> None:
    in_order(story, r"^ +11 +FAILED +1 .* error: FloatingPointError: training diverged", r"the sweep is FINISHED")


def test_a_run_is_stopped_and_the_next_one_starts(story: str) -> None:
    in_order(
        story,
        r"run 2 is asked to stop",
        r"^ +2 +KILLED .* stopped",
        r"run 3 starts in the place of run 2",
        r"^ +3 +FINISHED ",
    )


def test_the_last_sweep_is_cancelled_and_its_run_killed(story: str) -> None:
    in_order(
        story,
        r"the sweep is CANCELLED: nobody wants two million points",
        r"^ +1 +KILLED .* cancelled",
        r"of 2,000,000 points, 2 were begun",
        r"<Sweep 'mistake' CANCELLED: 2 runs, 1 finished, 1 killed>",
    )


def test_the_best_configuration_is_named_and_good(story: str) -> None:
    best = re.search(r"The best configuration is lr=\S+, l2=\S+, epochs=\d+: accuracy (0\.\d+)", story)
    assert best is not None
    assert float(best[1]) >= 0.93


def test_it_says_the_same_each_time_apart_from_the_seconds(story: str, tmp_path: Path) -> None:
    def without_times(text: str) -> str:
        return re.sub(r"\d+\.\d+ s\b", "... s", text)

    assert without_times(run_quickstart(tmp_path, "2")) == without_times(story)
