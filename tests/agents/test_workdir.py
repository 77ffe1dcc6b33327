"""What is kept on disk of each attempt, and what becomes of it when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sweepstate.agent._processes import Identity
from sweepstate.agent._workdir import Place, Record, Workdir, directory_name

RECORD = Record("token", ("0", "1"), Identity("boot/1", 42, 4711))
# What ids of sweeps may be.
IDS = st.text(min_size=1, max_size=200).filter(str.isprintable)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Workdir(tmp_path).place("s", 3, 2)
    place.make()
    return place


@pytest.mark.parametrize("record", [RECORD, Record("token", (), None)])
def test_a_record_is_read_as_it_was_written(place: Place, record: Record) -> None:
    """And nothing else lies there afterwards."""
    place.write_record(Record("older", (), None))
    place.write_record(record)
    assert place.read_record() == record
    assert len(list(place.directory.iterdir())) == 1
    place.remove_record()
    place.remove_record()
    assert place.read_record() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2, "token": "t", "slots": [], "leader": null}',
        '{"format": 1, "token": "t", "slots": []}',
        '{"format": 1, "token": "t", "slots": null, "leader": null}',
        '{"format": 1, "token": "t", "slots": [], "leader": {"pid": 1}}',
        '{"format": 1, "token": "t", "slots": [], "leader": {"machine": "m", "pid": "x", "began": 1}}',
        '{"format": 1, "token": "t", "slots": [], "leader": 4711}',
    ],
)
def test_a_damaged_record_says_nothing(place: Place, text: str) -> None:
    """No process is ended because of it."""
    place.write_record(RECORD)
    (place.directory / "process.json").write_text(text)
    assert place.read_record() is None


def test_places_are_told_apart_by_sweep_run_and_attempt(tmp_path: Path) -> None:
    assert str(Workdir(tmp_path).place("s", 3, 2).output).endswith("/s/3.2/output.log")


def test_a_workdir_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the current directory."""
    monkeypatch.chdir(tmp_path)
    workdir = Workdir("runs")
    monkeypatch.chdir("/")
    assert workdir.path == tmp_path / "runs"


@given(IDS)
@example(".")
@example("..")
@example("a/../../b")
@example("\u00e9" * 200)
def test_every_id_is_one_name_below_the_workdir(sweep_id: str) -> None:
    name = directory_name(sweep_id)
    assert Path("/work", name).parent == Path("/work")
    assert name not in {".", "..", ""}
    assert len(name.encode()) <= 200


@given(IDS, IDS)
@example(".a", "%2Ea")
@example("x" * 199 + "y", "x" * 200)
def test_different_ids_have_different_names(one: str, other: str) -> None:
    assert (directory_name(one) == directory_name(other)) is (one == other)


def test_a_configuration_is_written_as_json(place: Place) -> None:
    place.write_config({"x": (1, 2)})
    assert json.loads(place.config.read_text()) == {"x": [1, 2]}


def test_a_record_that_cannot_be_written_leaves_the_old_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and no draft beside it."""
    place.write_record(RECORD)

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no space"):
            place.write_record(Record("newer", (), None))
    assert place.read_record() == RECORD
    assert len(list(place.directory.iterdir())) == 1


# --- the tail -------------------------------------------------------------------------------------


def test_the_tail_has_the_last_lines(place: Place) -> None:
    place.output.write_text("".join(f"line {n}\n" for n in range(1000)))
    first, *_, last, path = place.tail().splitlines()
    assert (first, last) == ("line 980", "line 999")
    assert path == f"({place.output})"


def test_one_endless_line_is_cut(place: Place) -> None:
    place.output.write_bytes(b"\xc3\xa9" * 100_000)
    assert len(place.tail()) < 4_200


def test_a_line_that_has_lost_its_beginning_is_left_out(place: Place) -> None:
    place.output.write_text("a" * 3_990 + "\n" + "b" * 10 + "\n")
    assert place.tail().splitlines()[0] == "b" * 10


def test_what_was_there_before_is_not_of_this_execution(place: Place) -> None:
    place.output.write_text("old\n")
    before = place.output_size()
    assert "has written nothing" in place.tail(before)
    with place.output.open("a") as file:
        file.write("new\n")
    assert place.tail(before).splitlines()[0] == "new"


def test_an_output_that_is_not_there_does_not_hide_the_end(place: Place) -> None:
    assert "cannot be read" in place.tail()
