"""The contract finds every fault, by the test that is meant to find it, and says what is wrong."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from typing import Any

import pytest

from sweepstate import Agent, SweepstateError
from sweepstate.testing import AgentContract, faulty_agents
from sweepstate.testing.executions import let_go
from sweepstate.testing.faulty_agents import FAULTS, PretendingAgent


class TestThePretendingAgent(AgentContract):
    """What the faults are made from is right, with all that an agent can do."""

    crashes = True
    restarts = True

    @pytest.fixture
    def agent(self) -> PretendingAgent:
        return PretendingAgent()

    def again(self, agent: Agent) -> PretendingAgent:
        assert isinstance(agent, PretendingAgent)
        return type(agent)(agent.machine)


class Pretended(TestThePretendingAgent):
    """The same, for agents that wait for what never happens."""

    __test__ = False
    patience = 0.5


def names_of(contract: type[AgentContract]) -> list[str]:
    """Return the names of its tests, in the order in which pytest runs them."""
    bases = reversed(contract.__mro__)
    return list(dict.fromkeys(name for base in bases for name in vars(base) if name.startswith("test_")))


def failure(fault: type[PretendingAgent], place: Path) -> BaseException | None:
    """Run the test that is meant to find a fault; return why it fails, or None."""
    try:
        getattr(Pretended(), fault.caught_by)(fault(), place)
    except Exception as error:
        return error
    finally:
        let_go(place)
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_found(fault: type[Any], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """As a broken promise, and not as a broken test."""
    error = failure(fault, tmp_path)
    assert error is not None, f"{fault.__name__} passes {fault.caught_by}"
    text = "".join(traceback.format_exception(error))
    assert isinstance(error, (AssertionError, SweepstateError)), text
    if request.config.get_verbosity() > 1:
        print(f"{fault.__name__}: {error}")  # noqa: T201 - for who asks with -vv -s


def test_every_fault_is_listed_and_explained() -> None:
    """With one sentence, and the test that is meant to find it."""
    names = [fault.__name__ for fault in FAULTS]
    assert len(names) == len(set(names)) >= 10
    tests = names_of(Pretended)
    for fault in FAULTS:
        text = vars(fault).get("__doc__")
        assert text, fault
        assert text.count("\n") == 0, fault
        assert vars(fault)["caught_by"] in tests, fault
    public = {
        name
        for module in vars(faulty_agents).values()
        if inspect.ismodule(module)
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - set(names) == {"PretendingAgent", "Process", "Running"}


def test_every_test_of_the_contract_finds_a_fault() -> None:
    """One that finds none proves nothing."""
    assert {fault.caught_by for fault in FAULTS} == set(names_of(Pretended))
