import asyncio

import pytest

from posthouse.domain.worker import WorkerId
from posthouse.engine.worker_ids import WorkerIds


class Counter:
    """The one call of a store that ids come from."""

    def __init__(self) -> None:
        self.last = 0
        self.calls = 0

    async def take_worker_ids(self, count: int, above: int) -> WorkerId:
        self.calls += 1
        first = max(self.last, above) + 1
        self.last = first + count - 1
        await asyncio.sleep(0)
        return WorkerId(first)


async def test_what_was_reserved_is_given_in_a_row_and_the_store_is_asked_for_what_is_missing_alone() -> None:
    store = Counter()
    ids = WorkerIds(store.take_worker_ids)
    await ids.reserve(3)
    assert [next(ids), next(ids)] == [1, 2]
    await ids.reserve(1)
    assert store.calls == 1
    await ids.reserve(3)
    assert (store.calls, [next(ids), next(ids), next(ids)]) == (2, [3, 4, 5])
    with pytest.raises(RuntimeError, match="no worker id was reserved"):
        next(ids)


async def test_two_servers_never_give_the_same_id() -> None:
    store = Counter()
    servers = [WorkerIds(store.take_worker_ids), WorkerIds(store.take_worker_ids)]
    given = []
    for number in range(200):
        for ids in servers:
            await ids.reserve(1 + number % 5)
        given += [next(ids) for ids in servers for _ in range(number % 3 % (1 + number % 5))]
    await asyncio.gather(*(ids.reserve(4) for ids in servers))
    given += [next(ids) for ids in servers for _ in range(4)]
    assert len(given) == len(set(given)) > 200


async def test_ids_go_on_beyond_every_one_that_an_instance_carries() -> None:
    ids = WorkerIds(Counter().take_worker_ids)
    await ids.reserve(5)
    ids.note("2")
    assert next(ids) == 3
    ids.note("900")
    for odd in ("9" * 30, "-5", "x", "٣٣٣٣", ""):
        ids.note(odd)
    await ids.reserve(2)
    assert [next(ids), next(ids)] == [901, 902]
    ids.note("1")
    await ids.reserve(1)
    assert next(ids) == 903
