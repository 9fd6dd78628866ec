import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from posthouse.app import supervise
from posthouse.errors import StaleVersion, Unavailable


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "RESTART_S", 0.0)


async def test_a_part_that_fails_or_ends_is_started_again_and_the_others_go_on() -> None:
    begun = {"fails": 0, "ends": 0, "lasts": 0}
    enough = asyncio.Event()

    async def fails() -> None:
        begun["fails"] += 1
        raise ValueError("no")

    async def ends() -> None:
        begun["ends"] += 1
        if begun["ends"] > 2 and begun["fails"] > 2:
            enough.set()

    async def lasts() -> None:
        begun["lasts"] += 1
        await asyncio.Event().wait()

    with capture_logs() as logs:
        async with supervise.supervised({"one": fails, "two": ends, "three": lasts}), asyncio.timeout(120):
            await enough.wait()
    assert begun["lasts"] == 1
    assert {(line["part"], line["error"]) for line in logs} == {("one", "ValueError('no')")}


async def test_every_part_has_ended_when_the_context_has() -> None:
    ended: list[str] = []
    both_run = asyncio.Barrier(3)

    async def part(name: str) -> None:
        try:
            await both_run.wait()
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def server() -> None:
        async with supervise.supervised({"a": lambda: part("a"), "b": lambda: part("b")}):
            await both_run.wait()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await server()
    assert sorted(ended) == ["a", "b"]


async def test_at_the_end_one_failure_keeps_nothing_else_from_being_saved_but_for_a_store_that_is_away() -> None:
    saved: list[str] = []

    async def save(name: str, error: Exception | None = None) -> None:
        saved.append(name)
        if error is not None:
            raise error

    stale, away = StaleVersion("another server has it"), Unavailable("no database", 1.0)
    saves = [("a", None), ("b", stale), ("c", None), ("d", away), ("e", None)]
    await supervise.saved([partial(save, *each) for each in saves])
    assert saved == ["a", "b", "c", "d"]
