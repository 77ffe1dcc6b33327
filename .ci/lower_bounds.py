"""Print the oldest releases that pyproject.toml allows, one ``name==version`` a line, for pip's ``--constraint``.

Usage: ``python .ci/lower_bounds.py [extra ...]``: the run-time dependencies, and those of the extras named, with
the extras that these name in turn.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\])?\s*(?P<bounds>[^;]*)")
LOWEST = re.compile(r"(?:>=|~=|==)\s*(?P<version>[^\s,*]+)$")


def pin(requirement: str) -> str:
    """Return ``name==version`` for the lowest version that ``requirement`` allows; SystemExit if it names none."""
    match = REQUIREMENT.match(requirement)
    if match is None:
        raise SystemExit(f"{PYPROJECT.name}: {requirement!r} is no requirement that this script can read")
    lowest = [found["version"] for part in match["bounds"].split(",") if (found := LOWEST.match(part.strip()))]
    if len(lowest) != 1:
        raise SystemExit(f"{PYPROJECT.name}: {requirement!r} must have exactly one lower bound (>=, ~= or ==)")
    return f"{match['name']}=={lowest[0]}"


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Yield the pins of the run-time dependencies and of extras; ``sweepstate[a,b]`` stands for the extras a and b."""
    optional = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for extra in extras for line in optional[extra])]:
        if line.startswith(project["name"] + "["):
            yield from requirements(project, line.removeprefix(project["name"])[1:-1].split(","))
        else:
            yield pin(line)


def main(extras: list[str]) -> None:
    """Print the pins."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    known = project.get("optional-dependencies", {})
    if unknown := sorted(set(extras) - set(known)):
        raise SystemExit(f"{PYPROJECT.name} has no extra {', '.join(unknown)}; there are: {', '.join(known)}")
    for line in dict.fromkeys(requirements(project, extras)):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
