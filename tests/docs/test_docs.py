"""Every page does what it says: code runs, links lead somewhere, drawings are fresh, commands are those of .ci/run.

Conventions of the pages, which are README.md and docs/*.md:

- A ```python block is executed. The blocks of a page share their names, in order, as one session would.
- Functions named ``test_...`` that a page defines are called in the end.
- A block that begins with ``>>>`` is a doctest. A ```text block right behind another one is what that one prints.
- ``<!-- shown only: REASON -->`` on the line before a block keeps it from being executed.
- ``<!-- needs postgresql -->`` there says that it needs a server, whose URL it finds as ``DATABASE_URL``: an empty
  schema of its own. Such a page is executed without those blocks, and once more with them; where there is no
  server, that is skipped, and fails where CI is set (see tests/support/databases.py).
- ``<!-- needs ray -->`` says that it needs a Ray cluster; tests/agents/ray/test_real_page.py executes these.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest
from sqlalchemy import create_engine

from sweepstate import Limits
from tests.support.databases import new_prefix, url_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Links are also checked where no code is executed.
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "examples").glob("*.md"))]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
SHOWN_ONLY = re.compile(r"<!-- shown only: \S.* -->\n$")
NEEDS = re.compile(r"<!-- needs (\w+) -->\n$")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    """Where its code begins, from 0."""
    shown_only: bool
    needs: str | None
    """The server without which it is left out."""
    follows: bool
    """Whether nothing but blank lines stands between it and the block before."""


def blocks_of(text: str) -> Iterator[Block]:
    end = 0
    for found in FENCE.finditer(text):
        before = text[end : found.start()]
        needs = NEEDS.search(before)
        yield Block(
            found["language"],
            found["code"],
            text.count("\n", 0, found.start("code")),
            SHOWN_ONLY.search(before) is not None,
            None if needs is None else needs[1],
            end > 0 and not before.strip(),
        )
        end = found.end()


def test_blocks_are_found_as_the_conventions_say() -> None:
    text = """
```python
1
```

```text
2
```
<!-- shown only: the reason must
stand on one line -->
```python
3
```
<!-- shown only: a reason -->
```python
4
```
<!-- needs postgresql -->
```python
5
```
"""
    found = list(blocks_of(text))
    assert [block.language for block in found] == ["python", "text", "python", "python", "python"]
    assert [(block.code, text.splitlines()[block.line]) for block in found] == [(f"{n}\n", str(n)) for n in range(1, 6)]
    assert [block.shown_only for block in found] == [False, False, False, True, False]
    assert [block.needs for block in found] == [None, None, None, None, "postgresql"]
    assert [block.follows for block in found] == [False, True, False, False, False]


def run_doctest(page: Path, block: Block, names: dict[str, Any]) -> str:
    """Run a block of ``>>>`` examples; return what is wrong, or nothing."""
    test = doctest.DocTestParser().get_doctest(block.code, names, page.name, str(page), block.line)
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write, clear_globs=False)
    names.update(test.globs)
    return report.getvalue()


def run_program(page: Path, block: Block, names: dict[str, Any], expected: str | None) -> str:
    """Run a block of statements, at its place in the page so that a traceback shows the line; return what is wrong."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True), names)
    if expected is None or doctest.OutputChecker().check_output(expected, output.getvalue(), FLAGS):
        return ""
    return f"{page.name}:{block.line}: it printed\n{output.getvalue()}\nand the page says\n{expected}"


def run_page(page: Path, server: str | None) -> None:
    """Run the blocks of a page, those that need a server only if it is this one; fail if one is wrong."""
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = list(blocks_of(page.read_text(encoding="utf-8")))
    problems = []
    for block, following in zip(blocks, [*blocks, None][1:], strict=True):
        if block.language != "python" or block.shown_only or block.needs not in {None, server}:
            continue
        if block.code.startswith(">>>"):
            problems.append(run_doctest(page, block, names))
        else:
            shown = following is not None and following.language == "text" and following.follows
            problems.append(run_program(page, block, names, following.code if following and shown else None))
    for name, function in names.items():
        if name.startswith("test_"):
            function()
    if any(problems):
        pytest.fail("\n".join(filter(None, problems)), pytrace=False)


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty directory, from where other processes find this package too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path) -> None:
    run_page(page, None)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "<!-- needs postgresql -->" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs_on_postgresql(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = url_of("postgresql")
    schema = new_prefix()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    monkeypatch.setenv("DATABASE_URL", f"{url}{'&' if '?' in url else '?'}options=-c%20search_path%3D{schema}")
    try:
        run_page(page, "postgresql")
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        engine.dispose()


def test_hardly_any_code_is_shown_only() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page.read_text(encoding="utf-8"))]
    assert sum(block.shown_only for block in blocks) <= 2, "make it run, or argue for a higher number"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            broken.append(target)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text] == []


def names_of(code: str) -> tuple[set[str], set[str]]:
    """Return the names that code binds anywhere, and those that it reads."""
    bound, read = set(dir(builtins)), set[str]()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                bound.add(name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
            case _:
                pass
    return bound, read


def test_a_section_of_the_how_to_needs_its_own_blocks_and_the_first_imports_only() -> None:
    first, *sections = re.split(r"(?m)^## ", (ROOT / "docs" / "howto.md").read_text(encoding="utf-8"))
    start, *_ = (block.code for block in blocks_of(first))
    missing = {}
    for section in sections:
        code = "".join(block.code for block in blocks_of(section) if block.language == "python")
        bound, read = names_of(start + code)
        if read - bound:
            missing[section.partition("\n")[0]] = read - bound
    assert missing == {}


def test_the_lifecycle_has_every_limit() -> None:
    text = (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    assert [limit.name for limit in attrs.fields(Limits) if f"`{limit.name}`" not in text] == []


def test_the_drawings_of_the_lifecycle_are_fresh() -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "diagrams.py"), "--check"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_drawing_is_noticed(tmp_path: Path) -> None:
    for name in ("diagrams.py", "lifecycle.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("RUNNING --> PAUSED: pause", "RUNNING --> STOPPED: pause"), "utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command, environment = [sys.executable, str(tmp_path / "diagrams.py")], {**os.environ, "PYTHONPATH": path}

    stale = subprocess.run([*command, "--check"], env=environment, capture_output=True, text=True, check=False)
    assert stale.returncode == 1
    assert "+    RUNNING --> PAUSED: pause" in stale.stdout

    subprocess.run(command, env=environment, capture_output=True, check=True)
    redrawn = (tmp_path / "lifecycle.md").read_text(encoding="utf-8")
    assert redrawn == (ROOT / "docs" / "lifecycle.md").read_text(encoding="utf-8")


def test_the_readme_has_two_commands_and_ci_runs_them_as_they_stand() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [
        line
        for block in blocks_of(readme)
        if block.language == "sh"
        for line in block.code.splitlines()
        if "pip install -e" in line
    ]
    assert commands == [
        "python -m pip install -e . && python docs/examples/quickstart.py",
        "python -m pip install -e '.[test]' && python -m pytest",
    ]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [command for command in commands if f'"{command}"' not in script] == []


def test_the_quick_subset_of_the_tests_is_there() -> None:
    found = re.search(r"`python -m pytest ([\w/ ]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    assert [folder for folder in found[1].split() if not any((ROOT / folder).glob("test_*.py"))] == []
