"""Draw the lifecycle into docs/lifecycle.md, from the tables that the library itself obeys.

    python docs/diagrams.py            rewrite what stands between the markers
    python docs/diagrams.py --check    change nothing; exit with 1 if something there is stale

Each generated part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated: NAME -->``.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sweepstate.core import lifecycle

PAGE: Final = Path(__file__).with_name("lifecycle.md")

Rows = Mapping[str, Mapping[str, str]]

#: How a cell is written that is hard to see.
MARKS: Final = {".": "recorded"}

# What the table of runs leaves to layer B: handing out makes a queued run a held one, and creates held ones. And
# where a cell holds a status that two situations share, which of the two follows.
HANDED_OUT: Final = (("[*]", "PENDING, held", "next_run"), ("PENDING, queued", "PENDING, held", "next_run"))
SITUATION: Final = {("PENDING", "requeue"): "PENDING, queued", ("CRASHED", "lose"): "CRASHED, lost"}


# --- Tables ------------------------------------------------------------------------------------------------------


def markdown(corner: str, heads: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Return a Markdown table whose columns line up in plain text too."""
    lines = [[corner, *heads], *([name, *cells] for name, cells in rows)]
    widths = [max(3, *(len(line[n]) for line in lines)) for n in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def matrix(corner: str, rows: Rows) -> str:
    """Return a table that has a row for each status and a column for each trigger."""
    heads = list(next(iter(rows.values())))
    return markdown(
        corner, heads, ((name, [MARKS.get(cell, cell) for cell in cells.values()]) for name, cells in rows.items())
    )


def situations(rows: Rows) -> Rows:
    """Return the table of runs with the situation that follows in each cell, where the table says its status."""
    return {
        row: {trigger: SITUATION.get((cell, trigger), cell) for trigger, cell in cells.items()}
        for row, cells in rows.items()
    }


def kills(spec: Mapping[str, Any]) -> str:
    """Return what each status of a sweep does to its runs; sweeps that do the same share a row."""
    active = [row for row, cells in spec["run"].items() if cells["kill"] == "KILLED"]
    shared: dict[tuple[str, ...], list[str]] = {}
    for status, causes in spec["kills"].items():
        cells = tuple(f"KILLED, {causes[row]}" if row in causes else "goes on" for row in active)
        shared.setdefault(cells, []).append(status)
    return markdown("a sweep that becomes", active, ((", ".join(who), cells) for cells, who in shared.items()))


def sets(spec: Mapping[str, Any]) -> str:
    """Return the sets that follow from the tables."""
    return markdown("set", ["statuses"], ((name, [", ".join(members)]) for name, members in spec["sets"].items()))


# --- Diagrams ----------------------------------------------------------------------------------------------------


def diagram(edges: Iterable[tuple[str, str, str]], names: Iterable[str]) -> str:
    """Return a Mermaid diagram with one arrow for each pair of states, labelled with all its triggers."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for source, target, trigger in edges:
        labels = arrows.setdefault((source, target), [])
        if trigger not in labels:
            labels.append(trigger)
    identifiers = {"[*]": "[*]"} | {name: re.sub(r"\W+", "_", name) for name in names}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{name}" as {short}' for name, short in identifiers.items() if short != name]
    lines += [f"    {identifiers[a]} --> {identifiers[b]}: {', '.join(labels)}" for (a, b), labels in arrows.items()]
    return "\n".join(["```mermaid", *lines, "```"])


def sweep_diagram(spec: Mapping[str, Any]) -> str:
    """Return the sweep's diagram: every cell that changes the status is an arrow."""
    rows: Rows = spec["sweep"]
    edges = [(a, b, trigger) for a, cells in rows.items() for trigger, b in cells.items() if b not in spec["marks"]]
    return diagram([("[*]", next(iter(rows)), "create"), *edges], rows)


def run_diagram(spec: Mapping[str, Any]) -> str:
    """Return the run's diagram: every cell that changes the situation is an arrow."""
    rows = situations(spec["run"])
    edges = [(a, b, trigger) for a, cells in rows.items() for trigger, b in cells.items() if b not in spec["marks"]]
    return diagram([*HANDED_OUT, *edges], rows)


#: What is generated, by the name in its markers.
PARTS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "version": lambda spec: f"These are the tables of version {spec['version']}.",
    "sweep diagram": sweep_diagram,
    "sweep table": lambda spec: matrix("from \\ trigger", spec["sweep"]),
    "run diagram": run_diagram,
    "run table": lambda spec: matrix("from \\ trigger", situations(spec["run"])),
    "kills table": kills,
    "ending table": lambda spec: matrix("an execution ended by", spec["ending"]),
    "sets table": sets,
}


# --- The page ----------------------------------------------------------------------------------------------------


def render(text: str, spec: Mapping[str, Any]) -> str:
    """Return the page with every part drawn anew.

    Raises:
        ValueError: a part has no markers, or has them twice.
    """
    for name, draw in PARTS.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- /generated: {name} -->"
        if (text.count(begin), text.count(end)) != (1, 1):
            raise ValueError(f"{PAGE.name} needs {begin} and {end}, each once")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{draw(spec)}\n\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Rewrite the page, or check it; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    old = PAGE.read_text(encoding="utf-8")
    new = render(old, lifecycle.table())
    if old == new:
        return 0
    if arguments:
        print(
            *difflib.unified_diff(old.splitlines(), new.splitlines(), "as it is", "as it should be", lineterm=""),
            sep="\n",
        )
        print(f"{PAGE.name} is stale; run: python docs/diagrams.py")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    print(f"{PAGE.name} was rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
