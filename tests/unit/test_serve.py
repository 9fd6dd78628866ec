import asyncio
import gc
import importlib
import math
from collections.abc import Iterator

import pytest

serve = importlib.import_module("posthouse.cli.serve")
"""The module; `posthouse.cli` has the command under that name."""


def full_collections() -> int:
    count: int = gc.get_stats()[2]["collections"]
    return count


@pytest.fixture(autouse=True)
def _no_collection_but_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(serve, "COLLECT_S", 0.0)
    gc.disable()
    yield
    gc.enable()


async def test_full_collections_go_on_while_they_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_COLLECTION_S", math.inf)
    before = full_collections()
    collecting = asyncio.create_task(serve.keep_collecting())
    while full_collections() < before + 3:
        assert not collecting.done()
        await asyncio.sleep(0)
    collecting.cancel()


async def test_a_full_collection_that_takes_too_long_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_COLLECTION_S", 0.0)
    before = full_collections()
    await serve.keep_collecting()
    assert full_collections() == before + 1
