"""The public names: sorted, complete, importable, documented; and what is shipped keeps the hooks' protocols."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import sweepstate
from sweepstate import (
    Agent,
    Catalog,
    Grid,
    Heartbeats,
    History,
    InlineAgent,
    MemoryStorage,
    Random,
    Run,
    Search,
    Storage,
    SubprocessAgent,
    Sweep,
    hooks,
)
from sweepstate.core import errors
from sweepstate.core.state import COUNTER
from sweepstate.search import PlainSearch
from sweepstate.shell import VerdictHistory

#: Names of hooks.py that few need, and find there: what a search is told of, rarer hooks, and the async twins.
ONLY_IN_HOOKS = {
    "ASYNC_ORDERS",
    "AnyOrder",
    "AsyncAgent",
    "AsyncCatalog",
    "AsyncHeartbeats",
    "AsyncKill",
    "AsyncOrder",
    "AsyncStart",
    "AsyncStop",
    "AsyncStorage",
    "AsyncTimekeeper",
    "AsyncTurns",
    "Ended",
    "ListenerErrorHandler",
    "ORDERS",
    "Timekeeper",
    "Turns",
}

#: Said once, in the docstring of ``Sweep.pause`` and of the methods that refer to it.
COMMON = {"self", "cls", "reason", "actor", "if_version"}


def defined_in(module: ModuleType) -> set[str]:
    """Return the public names that a module defines itself, by its source."""
    names: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def members_of(cls: type) -> dict[str, Any]:
    """Return what a class defines, itself or by a base of the package, as it stands there."""
    bases = [base for base in reversed(cls.__mro__) if base.__module__.startswith("sweepstate.")]
    return {attribute: member for base in bases for attribute, member in vars(base).items()}


def public() -> Iterator[tuple[str, Any]]:
    """Yield every public class and function, and their public methods and properties, with a name."""
    for name in sweepstate.__all__:
        value = getattr(sweepstate, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            for attribute, member in members_of(value).items():
                if not attribute.startswith("_") and isinstance(member, (property, classmethod, staticmethod)):
                    yield f"{name}.{attribute}", member.fget if isinstance(member, property) else member.__func__
                elif not attribute.startswith("_") and inspect.isfunction(member):
                    yield f"{name}.{attribute}", member


PUBLIC = dict(public())
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}


def is_property(name: str) -> bool:
    owner, _, attribute = name.partition(".")
    return bool(attribute) and isinstance(members_of(getattr(sweepstate, owner)).get(attribute), property)


def page_of(name: str) -> str:
    """Return what a reader of a function's docstring has before them: its own, its class's, and those it refers to."""
    owner = name.partition(".")[0]
    text = inspect.getdoc(PUBLIC[name]) or ""
    pages = [text, inspect.getdoc(getattr(sweepstate, owner)) or ""]
    for reference in re.findall(r"(?:[Ss]ee|[Aa]s(?: from| for)?) ``([\w.]+)``", text):
        holder = owner if "." not in reference else reference.partition(".")[0]
        found = getattr(getattr(sweepstate, holder, None), reference.rpartition(".")[2], None)
        pages.append(inspect.getdoc(found) or "")
    return "\n".join(pages)


# --- names ---------------------------------------------------------------------------------------


def test_the_names_are_one_sorted_list() -> None:
    """In the order of ``sorted``: capitals first, so that classes come before functions; none twice."""
    assert sweepstate.__all__ == sorted(set(sweepstate.__all__))


def test_the_names_are_all_that_the_package_shows() -> None:
    """Whatever ``__init__`` imports is public, and nothing else is."""
    shown = {name for name in vars(sweepstate) if not name.startswith("_")}
    modules = {module.name for module in pkgutil.iter_modules(sweepstate.__path__)}
    shown -= modules | {"annotations", "TYPE_CHECKING"} | set(sweepstate._EXTRAS)  # some of these were asked for before
    assert shown | set(sweepstate._LATER) == set(sweepstate.__all__)
    assert set(sweepstate.__all__) <= set(dir(sweepstate))


def test_a_name_that_is_not_there_is_refused_as_usual() -> None:
    """Though some are imported only when they are asked for."""
    with pytest.raises(AttributeError, match="module 'sweepstate' has no attribute 'AsyncSweeps'"):
        _ = sweepstate.AsyncSweeps  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_type_checkers_know_what_is_imported_later() -> None:
    """From the same modules."""
    tree = ast.parse(inspect.getsource(sweepstate))
    guards = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.name: node.module
        for guard in guards
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {**sweepstate._LATER, **sweepstate._EXTRAS}


def test_what_needs_an_extra_is_found_by_its_name_and_not_by_a_star() -> None:
    pytest.importorskip("sqlalchemy")
    for name in sweepstate._EXTRAS:
        assert getattr(sweepstate, name).__name__ == name
        assert name in dir(sweepstate)
        assert name not in sweepstate.__all__


def test_every_name_can_be_imported_by_a_star() -> None:
    """By one statement, in a fresh interpreter."""
    program = "from sweepstate import *; print(len([name for name in dir() if not name.startswith('__')]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == str(len(sweepstate.__all__)), done.stderr


def test_every_module_can_be_imported_by_itself() -> None:
    """Whatever was imported before it."""
    for module in pkgutil.walk_packages(sweepstate.__path__, "sweepstate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_every_error_is_public() -> None:
    """Whoever may have to catch it finds it at the top."""
    assert defined_in(errors) <= set(sweepstate.__all__)


def test_every_hook_is_public() -> None:
    """But for those of which the list above says why."""
    assert defined_in(hooks) - set(sweepstate.__all__) == ONLY_IN_HOOKS


def test_public_classes_say_where_they_come_from() -> None:
    """A class of the package is of the package, so that it pickles and its page is found."""
    for name, value in PUBLIC.items():
        assert value.__module__.startswith("sweepstate."), name


# --- documentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """By a docstring of its own whose first line is a sentence."""
    text = inspect.getdoc(PUBLIC[name])
    assert text, name
    assert vars(PUBLIC[name]).get("__doc__", PUBLIC[name].__doc__) is not None
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")) or ": " in first, first
    assert not text.startswith(f"Method generated by attrs for class {name}")


#: What people call; a hook's methods, and those of values, say in their sentence what they are given.
CALLED = [
    name
    for name in FUNCTIONS
    if name.partition(".")[0] in ("Sweep", "Run", "AsyncSweep", "AsyncRun") or "." not in name
]


@pytest.mark.parametrize("name", CALLED)
def test_arguments_are_documented(name: str) -> None:
    """By name, in the docstring or in one that it refers to."""
    page = page_of(name)
    for argument in inspect.signature(FUNCTIONS[name]).parameters.values():
        if argument.name not in COMMON and not argument.name.startswith("_"):
            # A short docstring names its arguments in its sentence.
            assert re.search(rf"\b{argument.name}\b", page), f"{name}({argument.name})"


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not is_property(name)])
def test_what_comes_back_is_documented(name: str) -> None:
    """By ``Returns:``, or by a sentence that says so, or by the docstring that it refers to."""
    function = FUNCTIONS[name]
    if str(inspect.signature(function).return_annotation) in ("None", "Never", "Self"):
        return
    page = page_of(name)
    assert re.search(r"Returns?\b|Yields?\b|\breturns?\b", page), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_raised_is_documented(name: str) -> None:
    """Every error that a public function raises by itself stands in its docstring, or in its class's."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(FUNCTIONS[name])))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    for error in raised & set(sweepstate.__all__):
        assert error in page_of(name), f"{name} raises {error}"


@pytest.mark.parametrize("cls", [cls for cls in PUBLIC.values() if inspect.isclass(cls)], ids=lambda cls: cls.__name__)
def test_attributes_of_values_are_documented(cls: type) -> None:
    """Every field of a public attrs class stands under ``Attributes:`` of it or of a base."""
    pages = "\n".join(inspect.getdoc(base) or "" for base in cls.__mro__)
    for field in getattr(cls, "__attrs_attrs__", ()):
        if not field.name.startswith("_") and field.name not in COUNTER.values():  # "pending, ... likewise"
            assert re.search(rf"^ +{field.name}\b|``{field.name}``|\b{field.name}\b", pages, re.MULTILINE), field.name


# --- hooks ---------------------------------------------------------------------------------------

IMPLEMENTATIONS: list[tuple[type, object]] = [
    (Storage, MemoryStorage()),
    (Heartbeats, MemoryStorage()),
    (Catalog, MemoryStorage()),
    (Search, Grid({"x": [1]})),
    (Search, Random({"x": [1, 2]})),
    (PlainSearch, Grid({"x": [1]})),
    (PlainSearch, Random({"x": [1, 2]})),
    (Agent, InlineAgent(lambda run: None)),
    (Agent, SubprocessAgent(["true"], name="agent")),
    (History, VerdictHistory(Sweep(Grid({"x": [1]}))._shell)),
]


@pytest.mark.parametrize(
    ("protocol", "made"), IMPLEMENTATIONS, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
def test_what_is_shipped_keeps_its_protocol(protocol: type, made: object) -> None:
    """Each attribute is there, and each method takes the same arguments in the same way; tests/typing has the types."""
    for name, member in inspect.getmembers_static(protocol):
        if name.startswith("_"):
            continue
        assert hasattr(made, name), name
        if inspect.isfunction(member):
            ours, theirs = shape(getattr(made, name)), shape(member.__get__(made))
            assert len(ours) == len(theirs)
            for mine, wanted in zip(ours, theirs, strict=True):
                assert mine.default == wanted.default
                if wanted.kind is inspect.Parameter.POSITIONAL_ONLY:
                    assert mine.kind in (wanted.kind, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                else:
                    assert (mine.name, mine.kind) == (wanted.name, wanted.kind)


def shape(method: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the arguments of a method."""
    return list(inspect.signature(method).parameters.values())


def test_commands_have_one_signature() -> None:
    """Every command takes ``reason``, and by keyword ``actor`` and ``if_version``, and returns its events."""
    commands = ["pause", "resume", "stop", "cancel", "fail", "crash", "reopen", "retry", "complete", "set_limits"]
    methods = [getattr(Sweep, name) for name in commands] + [Run.stop, Run.kill, Run.retry]
    for method in methods:
        arguments = inspect.signature(method).parameters
        assert arguments["reason"].default is None
        for name in ("actor", "if_version"):
            assert arguments[name].kind is inspect.Parameter.KEYWORD_ONLY
            assert arguments[name].default is None
        assert inspect.signature(method).return_annotation == "EventsT"
    for handle in (Sweep, Run):
        assert vars(handle)["__orig_bases__"][0].__args__[0] == tuple[sweepstate.Event, ...]
