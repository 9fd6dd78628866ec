"""What endpoints were: kept by the store at four scales, the same before and after a crash."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.figures import LOOKS
from posthouse.engine.samples import SCALES, STEP_S, UNSAVED, WIDTH, Chunk, Sampler, Samples
from posthouse.errors import Unavailable
from posthouse.ports import Store
from posthouse.recording.history import HistoryChunk
from posthouse.store import open_store
from posthouse.wire.rows import History
from tests.kit.fleets import ONE, Fleet, fleet_of, worker
from tests.kit.rows import sqlite_url

DAY = 86_400.0
BEGIN = 20_000 * DAY
E1 = EndpointId(1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(sqlite_url(tmp_path / "posthouse.db"))
    yield store
    await store.close()


@dataclass
class Watch:
    """An endpoint that is sampled by hand."""

    store: Store
    fleet: Fleet
    now: float = BEGIN

    def __post_init__(self) -> None:
        self.samples = self.fleet.managed.samples
        self.sampler = Sampler(lambda: [self.fleet.managed], lambda: self.now, self.store)

    async def go_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self.now += STEP_S
            await self.sampler.round()

    async def history(self, last_s: float, most: int = 1440) -> History:
        return await self.samples.history(self.store, self.fleet.endpoint.id, last_s, self.now, most)

    async def all(self) -> list[History]:
        return [await self.history(last_s) for last_s in (3600.0, DAY, 14 * DAY, 365 * DAY)]

    def crash(self) -> "Watch":
        """The same endpoint after a start, of which only the store knows anything."""
        return Watch(self.store, fleet_of(worker(ONE, perf=100.0)), self.now)


@pytest.fixture
def watch(store: Store) -> Watch:
    return Watch(store, fleet_of(worker(ONE, perf=100.0)))


async def test_an_hour_is_kept_by_the_step_and_a_day_by_the_minute(watch: Watch) -> None:
    await watch.go_on(36)
    fine = await watch.history(3600.0)
    assert (len(fine.at), fine.step_s, fine.hot[-1], fine.looks["hot"][-1]) == (36, STEP_S, 100.0, 1.0)
    coarse = await watch.history(DAY)
    assert (coarse.step_s, coarse.hot) == (60.0, [100.0] * 4)  # the last one is not over yet
    assert set(coarse.looks) == set(LOOKS)
    assert len((await watch.history(3600.0, 10)).at) <= 10


async def test_all_is_the_same_after_a_crash_and_goes_on_as_if_there_had_been_none(watch: Watch) -> None:
    await watch.go_on(31)
    before, other = await watch.all(), watch.crash()
    await other.sampler.round()  # reads what there is; and takes one at the same time
    after = await other.all()
    assert after[0].at[:31] == before[0].at
    assert after[0].hot[:31] == before[0].hot
    assert after[1].at[:2] == before[1].at[:2]
    await other.go_on(41)
    minutes = await other.history(DAY)
    assert np.diff(minutes.at).tolist()[:-1] == [60.0] * (len(minutes.at) - 2)


def row(load: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(WIDTH, load, np.float32)


async def test_a_year_is_kept_within_its_bound(store: Store, tmp_path: Path) -> None:
    samples = Samples()
    samples.load(await store.latest_history([E1]))
    for hour in range(400 * 24):  # an hour each, and so a chunk of the finest scale
        samples.add(BEGIN + hour * 3600.0, row(hour))
        if hour % 60 == 0 or hour == 400 * 24 - 1:
            await store.put_history([c.pack(E1, scale) for (scale, _), c in samples.unsaved.items()])
            samples.unsaved.clear()
    now = BEGIN + (400 * 24 - 1) * 3600.0
    with sqlite3.connect(tmp_path / "posthouse.db") as db:
        counts = dict(db.execute("select scale, count(*) from history group by scale"))
    assert all(counts[scale] <= one.chunks for scale, one in enumerate(SCALES))
    year = await samples.history(store, E1, 365 * DAY, now, 100_000)
    assert 365 * 12 - 24 <= len(year.at) <= 365 * 12 + 1
    assert year.at == sorted(year.at)
    assert year.load == sorted(year.load)
    fortnight = await samples.history(store, E1, 14 * DAY, now)
    assert (fortnight.step_s, fortnight.at[0] >= now - 14 * DAY) == (900.0, True)


class Broken:
    """A store that cannot be used."""

    async def put_history(self, chunks: object) -> None:
        raise Unavailable("no", 1.0)

    async def latest_history(self, endpoint_id: EndpointId) -> list[HistoryChunk]:
        raise Unavailable("no", 1.0)


async def test_without_the_store_what_is_new_waits_within_a_bound(watch: Watch) -> None:
    await watch.go_on(5)
    store, watch.sampler.store = watch.sampler.store, Broken()  # type: ignore[assignment]
    await watch.go_on(30)
    assert len((await watch.history(3600.0)).at) == 35  # what waits is shown, too
    watch.sampler.store = store
    await watch.go_on(1)
    assert (watch.samples.unsaved, len((await watch.crash().history(3600.0)).at)) == ({}, 36)
    for n in range(2 * UNSAVED):
        watch.samples.add(watch.now + 60.0 * n, row(1.0))
    assert len(watch.samples.unsaved) == UNSAVED


async def test_nothing_is_written_over_what_could_not_be_read(watch: Watch) -> None:
    await watch.go_on(5)
    other = watch.crash()
    store, other.sampler.store = other.sampler.store, Broken()  # type: ignore[assignment]
    await other.go_on(2)
    other.sampler.store = store
    await other.go_on(2)
    assert len((await other.history(3600.0)).at) == 5 + 2


def test_rows_with_fewer_columns_are_read() -> None:
    packed = np.array([BEGIN], "<f8").tobytes() + np.array([[7.0, 8.0]], "<f4").tobytes()
    chunk = Chunk.of(HistoryChunk(E1, 0, 1, 1, 1, packed))
    assert chunk.rows[0].tolist() == [7.0, 8.0] + [0.0] * (WIDTH - 2)
