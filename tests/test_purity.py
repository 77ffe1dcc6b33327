"""The core is pure and imports point one way: by import graph, and by an audit hook over a whole lifecycle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sweepstate"

#: What the core may import besides itself: values and types, and nothing that reads a clock, a file or a generator.
PURE = {
    "__future__",
    "attrs",
    "bisect",
    "collections",
    "collections.abc",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",  # as text only
    "math",
    "operator",
    "re",
    "sys",  # its version only; see below
    "types",
    "typing",
    "typing_extensions",
}

#: Which room may import which, itself aside. "Imports point one way" (architecture.md); the lists are complete.
ROOMS = {
    "core": set[str](),
    "hooks": {"core"},
    # What the sync and the async handles share; it stores a search as plain data.
    "handles": {"core", "hooks", "search"},
    "shell": {"core", "hooks", "handles"},
    "run": {"core", "handles", "shell"},
    "explain": {"core"},
    "diagnosis": {"core"},
    "delivery": {"core", "hooks", "handles", "shell", "run"},
    # A sweep without a storage gets one in memory, and one that is opened rebuilds its search from plain data.
    "sweep": {"core", "hooks", "handles", "shell", "run", "explain", "delivery", "search", "storage"},
    # Of asyncio alone: what a cancellation may end, and what not.
    "outlast": set[str](),
    "aio": {"core", "hooks", "handles", "explain", "search", "storage", "outlast"},
    "storage": {"core", "hooks", "outlast"},
    "search": {"core", "hooks"},
    # An agent that recovers what it has left behind makes handles from tokens; and one whose executions are in other
    # processes refuses a sweep in memory, which they could not reach.
    "agent": {"core", "hooks", "handles", "storage"},
}
#: The package's own page of names knows all but what users test with, and the command line.
ROOMS["__init__"] = set(ROOMS)
ROOMS["testing"] = {*ROOMS}
# An edge: it makes of a line of text what a user would write with the library. Agents it imports when they are needed.
ROOMS["cli"] = {"core", "hooks", "handles", "sweep", "diagnosis", "storage", "agent"}
ROOMS["__main__"] = {"cli"}  # python -m sweepstate

#: Imports for type checkers only, which may look the other way.
TYPE_CHECKING = {
    ("hooks", "run"),  # an order carries a handle of its run
    ("hooks", "aio"),
    ("hooks", "handles"),
    ("agent", "run"),  # what a function is given
    ("diagnosis", "sweep"),
    ("agent", "sweep"),  # what a worker is given, and an agent drives
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """Return a module's name as parts, without ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(name: tuple[str, ...]) -> str:
    return name[1] if len(name) > 1 else "__init__"


def imports_of(path: Path) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the full name of everything a module imports, and whether only type checkers do; also within functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test).endswith("TYPE_CHECKING")
        for child in guard.body
        for node in ast.walk(child)
    }
    here = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split(".")), id(node) in checked
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            if (base and module == base) or (ROOT.joinpath(*module)).is_dir():
                for alias in node.names:
                    yield (*module, alias.name), id(node) in checked
            else:
                yield module, id(node) in checked


def test_the_graph_is_seen() -> None:
    """So that the tests below cannot pass because they look in the wrong place."""
    found = {name_of(path) for path in modules()}
    assert ("sweepstate", "core", "lifecycle") in found
    assert (("sweepstate", "core", "state"), False) in set(imports_of(PACKAGE / "core" / "evolve.py"))
    assert (("sweepstate", "core", "events"), False) in set(imports_of(PACKAGE / "core" / "evolve.py"))
    assert (("sweepstate", "run"), True) in set(imports_of(PACKAGE / "hooks.py"))


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_core_imports_only_what_is_pure(path: Path) -> None:
    """attrs, typing-extensions, pure standard modules, and nobody else of the package."""
    for name, _ in imports_of(path):
        if name[0] == "sweepstate":
            assert name[:2] == ("sweepstate", "core"), name
        else:
            assert ".".join(name) in PURE or name[0] in PURE - {"collections"}, name


def test_the_core_asks_sys_for_its_version_only() -> None:
    """Everything else there is about the process."""
    for path in (PACKAGE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
                assert node.attr == "version_info", path
            assert not (isinstance(node, ast.ImportFrom) and node.module == "sys"), path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """Who knows whom is the list above, exceptions included."""
    room = room_of(name_of(path))
    assert room in ROOMS, f"{room} is new: say in ROOMS whom it may know"
    for name, checked in imports_of(path):
        if name[0] == "sweepstate" and room_of(name) != room:
            other = room_of(name)
            allowed = other in ROOMS[room] or (checked and (room, other) in TYPE_CHECKING)
            assert allowed, f"{'.'.join(name_of(path))} imports {'.'.join(name)}"


def test_nothing_knows_testing() -> None:
    """What users test with is no part of what they run."""
    for path in modules():
        if room_of(name_of(path)) != "testing":
            assert not any(name[:2] == ("sweepstate", "testing") for name, _ in imports_of(path)), path


def test_nothing_knows_the_command_line() -> None:
    """It is an edge, and needs an extra."""
    assert [room for room, known in ROOMS.items() if "cli" in known] == ["__main__"]


def test_every_exception_is_still_needed() -> None:
    """A room that no longer looks the other way is taken off the list."""
    seen = {
        (room_of(name_of(path)), room_of(name))
        for path in modules()
        for name, checked in imports_of(path)
        if checked and name[0] == "sweepstate"
    }
    assert seen >= TYPE_CHECKING


def test_the_rooms_have_no_cycle() -> None:
    """One way means that there is an order in which each room knows only those before it."""
    left, order = dict(ROOMS), set[str]()
    while left:
        ready = {room for room, known in left.items() if known <= order}
        assert ready, left
        order |= ready
        left = {room: known for room, known in left.items() if room not in ready}


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter in which the package is importable and nothing else is loaded."""
    return subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LIFECYCLE = '''
import _thread, json, os, random, threading, time, uuid

import sweepstate
from sweepstate import *
from sweepstate.search.distributions import LogUniform

now = [1000.0]
clock = lambda: now[0]

def lifecycle(sweep):
    """Drive a sweep through whatever can happen to it."""
    agent = sweep.agent
    sweep.tick()
    for order in sweep.orders(agent.name):
        order.run.start("host", heartbeats=True)
    sweep[0].stop("slow", actor="ada")
    sweep[1].mark_preempting()
    sweep[1].exited(-15)
    sweep[2].crash("segfault", signal=11)
    try:
        sweep[3].start("other")
    except AlreadyStarted as error:
        str(error)
    for _ in range(6):
        now[0] += 100
        sweep.tick()
        for order in sweep.orders(agent.name):
            if order.kind == "start":
                order.run.start()
                order.run.report(loss=1.0)
                order.run.heartbeat()
                order.run.finish(loss=0.5)
            elif order.kind == "kill":
                order.gone()
    sweep.retry({RunStatus.CRASHED})
    sweep.set_limits(max_active=9)
    sweep.pause(); sweep.resume(); sweep.crash(); sweep.resume(); sweep.stop(); sweep.cancel()
    sweep.reopen(retry={RunStatus.KILLED})
    sweep.complete()
    sweep.cancel()
    [run.state for run in sweep.runs()], list(sweep.history()), sweep.explain(0), sweep.best, repr(sweep)
    copies = [from_dict(json.loads(json.dumps(to_dict(event))), Event) for event in sweep.history()]
    assert replay(copies).sweep == sweep.refresh().state
    sweep.run_of(sweep[0].token).should_stop
    return sweep.state

class Agent:
    name, can_kill = "agent", True
    def start(self, order): pass
    def stop(self, order): pass
    def kill(self, order): pass

def whole():
    ended = []
    for search in (Grid({"x": list(range(60))}), Random({"lr": LogUniform(1e-3, 1.0), "act": ["a", "b"]}, seed=3)):
        limits = Limits(run_cap=60, max_active=5, retries=1, time_limit=50_000)
        heard = []
        sweep = Sweep(search, id="s", storage=MemoryStorage(), agent=Agent(), limits=limits,
                      objective=Objective("loss"), clock=clock, listeners=[heard.append])
        ended.append(lifecycle(sweep))
        inline = Sweep(search, id="i", agent=InlineAgent(lambda run: {"loss": 1.0}), limits=limits, clock=clock)
        inline.tick()
        plain = Sweep(search, id="p", limits=limits, clock=clock)
        for run in plain:
            with run:
                pass
        assert inline.status == plain.status == "FINISHED"
    return ended
'''


def test_a_whole_lifecycle_touches_nothing_of_the_world() -> None:
    """No file, socket, process or thread; no clock but the one that was given; no randomness; and the same twice."""
    program = (
        LIFECYCLE
        + """
first = whole()  # imports, and caches of the interpreter, come now

def refuse(*args, **kwargs):
    raise AssertionError("the world was touched")

for module in (time, random, os, uuid):
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep",
                 "random", "randint", "choice", "uniform", "getrandbits", "urandom", "getrandom", "uuid4",
                 "getpid", "open", "stat"):
        if hasattr(module, name):
            setattr(module, name, refuse)
threading.Thread.start = threading._start_new_thread = _thread.start_new_thread = refuse

touched = []
quiet = []
def hook(event, args):
    if event.split(".")[0] not in QUIET:
        touched.append((event, repr(args)[:200]))
QUIET = {"object", "sys", "code"}  # of the interpreter itself: attributes of frames and the like
sys.addaudithook(hook)
now[0] = 1000.0
second = whole()
assert first == second
found = list(touched)
assert not found, found
assert threading.active_count() == 1
print("untouched")
"""
    )
    done = run_python(program)
    assert done.stdout == "untouched\n", done.stderr or done.stdout


@pytest.mark.parametrize(
    "touch",
    [
        "open(os.devnull)",
        "__import__('socket').socket()",
        "__import__('subprocess').run(['true'])",
        "os.listdir('.')",
        "exec('1')",
    ],
)
def test_the_audit_hook_sees_what_it_should(touch: str) -> None:
    """The test above can fail: each of these would have been found."""
    program = (
        f"import os\nseen = []\nsys.addaudithook(lambda event, args: seen.append(event))\n{touch}\nprint(len(seen) > 0)"
    )
    assert run_python(program).stdout.strip().splitlines()[-1] == "True"


def test_importing_the_package_imports_no_third_party_but_attrs() -> None:
    """attrs and typing-extensions, and neither a hook's dependency nor a slow standard module that nobody needs yet."""
    program = """
before = set(sys.modules)
import sweepstate
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(name for name in new if name not in sys.stdlib_module_names and not name.startswith("_")))
print(sorted(new & {"asyncio", "sqlite3", "subprocess", "multiprocessing", "socket", "logging", "unittest", "urllib"}))
"""
    done = run_python(program)
    others, slow = done.stdout.splitlines()
    assert set(ast.literal_eval(others)) <= {"attr", "attrs", "typing_extensions", "sweepstate"}, done.stderr
    assert ast.literal_eval(slow) == []


def test_importing_the_package_touches_nothing_but_modules() -> None:
    """It starts no thread and opens no file but to read code."""
    program = """
import io, os
touched = []
def hook(event, args):
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so", "libffi.so.8")):
        if args[1] not in ("r", "rb"):
            touched.append((event, str(args[0])))
    elif event.split(".")[0] in ("socket", "subprocess", "_thread", "shutil", "tempfile", "winreg"):
        touched.append(event)
sys.addaudithook(hook)
sys.dont_write_bytecode = True
import sweepstate
found = list(touched)
print(found)
"""
    done = run_python(program)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout
