"""The contract of an agent, as tests: subclass it, give it your agent, and run pytest.

An agent of your own is proved by one class with one fixture, which gives a fresh
agent to each test. What it is to execute comes with the contract::

    import pytest
    from sweepstate.testing import AgentContract
    from sweepstate.testing.executions import execute

    class TestMyAgent(AgentContract):
        @pytest.fixture
        def agent(self):
            with MyAgent(execute) as agent:  # a function of a run, which returns metrics
                yield agent

``execute_config`` is the same function for an agent that gives it the configuration
alone, and a program calls ``perform``; see ``sweepstate.testing.executions``. What an execution
does stands in its configuration: it finishes, fails, dies, goes on until it is asked to
end, or whatever it is asked.

What runs is decided by what the agent can do. Whether it can kill, it says itself.
The rest is declared; until it is, tests are skipped and say what is missing::

    class TestMyAgent(AgentContract):
        crashes = True                      # an execution may die alone, by a signal
        restarts = True                     # and a second orchestrator finds what the first has left:
        def again(self, agent):
            return MyAgent(execute, name=agent.name)

        def storage(self, place):           # executions report from other processes
            return SQLiteStorage(place / "sweeps.db")

        def drive(self, agent, sweep):      # if there is no agent.drive(sweep)
            ...

        def alive(self, agent, place):      # if executions are on another machine
            ...

Time is real here, and short: nothing is waited for longer than it takes, and a
slow machine makes no test fail. Nothing here imports pytest until a test needs it.
"""

from __future__ import annotations

from .contract.agents.ends import Ending
from .contract.agents.starts import Starting
from .contract.agents.stops import Stopping
from .contract.agents.troubles import Troubles


class AgentContract(Troubles, Stopping, Ending, Starting):
    """What every agent has to keep. Subclass it with a fixture ``agent``; see the module's docstring.

    Attributes:
        slots: how many runs it executes at once, at least; 2.
        beside: whether runs execute beside the agent's hooks, and not within them; True.
        asks: whether an execution learns that it was asked to end, and may end by itself then; True.
        beats: whether it sends heartbeats while a run executes; True.
        crashes: whether one execution may die alone, by a signal; False.
        outlasts: whether it waits out an outage of the storage; True.
        restarts: whether ``again`` gives the agent of a second orchestrator; False.
        patience: seconds after which what has not happened is taken not to happen; 60.
    """
