"""What the pages say about storages is so: the tests that they name are there, and the store of Embedding is right."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweepstate.testing import StorageContract
from sweepstate.testing.contract.views import View, capable

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def defined() -> set[str]:
    """Return the names of all tests, those of the contract among them."""
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "sweepstate" / "testing" / "contract").glob("*.py")]
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", ["guarantees.md", "storage.md", "write-a-storage.md"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / page).read_text(encoding="utf-8")))
    assert named - defined() == set()


def test_every_reason_to_skip_is_explained() -> None:
    """As the contract says it, up to a colon or a bracket."""
    contract = ROOT / "sweepstate" / "testing" / "contract"
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(contract.glob("*.py")))
    reasons = {re.split(r"[:(]", reason)[0].strip() for reason in re.findall(r'self\.skip\(\s*"(.*?)"', text)}
    page = (DOCS / "write-a-storage.md").read_text(encoding="utf-8")
    table = page.partition("| skipped because |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| ([^-|][^|]*) \|", table, re.MULTILINE)) == reasons


class OneAtATime(View):
    """Lets one thread in at a time: the store of the page says that it is for one."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage)
        self.lock = threading.Lock()

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        with self.lock:
            return super()._ask(method, *arguments, **named)


class TestTheStoreOfEmbedding(StorageContract):
    """As it stands there."""

    @pytest.fixture
    def storage(self) -> Iterator[Any]:
        page = (DOCS / "embedding.md").read_text(encoding="utf-8")
        (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Store:" in code]
        names: dict[str, Any] = {"__name__": "embedding"}
        exec(code, names)
        store = object.__new__(names["Store"])
        with closing(sqlite3.connect(":memory:", check_same_thread=False)) as store.db:
            store.db.executescript(names["TABLES"])
            yield capable(OneAtATime, store)(store)
