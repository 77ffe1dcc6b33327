"""What users test with: a clock, the laws, the explorer, and the contracts of storages and agents.

``ManualClock`` is a clock that a test moves. ``check_laws`` checks what a storage
holds against the twelve laws of the lifecycle. ``explore`` enumerates everything
that can happen to a small sweep with limits of yours. ``StorageContract`` and
``AsyncStorageContract`` are the tests of a storage of your own, ``AgentContract`` those of an
agent; they need pytest, and ``check_agreement`` needs hypothesis. Those are loaded when they are asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .clock import ManualClock
from .explorer import CoreError, Exploration, explore
from .laws import LAWS, LawViolation, check_commit, check_laws, check_state

if TYPE_CHECKING:
    from .agent_contract import AgentContract
    from .agreement import agreement_machine, check_agreement
    from .storage_contract import AsyncStorageContract, StorageContract

__all__ = [
    "LAWS",
    "AgentContract",
    "AsyncStorageContract",
    "CoreError",
    "Exploration",
    "LawViolation",
    "ManualClock",
    "StorageContract",
    "agreement_machine",
    "check_agreement",
    "check_commit",
    "check_laws",
    "check_state",
    "explore",
]

_WHERE: Final = {
    "AgentContract": "agent_contract",
    "AsyncStorageContract": "storage_contract",
    "StorageContract": "storage_contract",
    "agreement_machine": "agreement",
    "check_agreement": "agreement",
}

# pytest shows both sides of an assertion in modules of tests, and elsewhere if it is told to before they are imported.
if "pytest" in sys.modules and f"{__name__}.contract" not in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.contract")


def __getattr__(name: str) -> Any:
    """Load what is not needed by everybody, when it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
