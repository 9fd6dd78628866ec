"""On a full disk decisions go on, and nothing is lost."""

from pathlib import Path

import pytest

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import Observation, State
from posthouse.errors import Unavailable
from posthouse.providers.process import ProcessProvider
from posthouse.recording.segment import Segment
from posthouse.store import open_store
from tests.kit.disks import fill, small_disk
from tests.kit.provider_contract import listed, rent, seen_as, spec
from tests.kit.rows import add_group, entry, sqlite_url, worker

DECISIONS = 300


async def test_what_decisions_rest_on_is_written_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 160) as data_dir:
        path = data_dir / "posthouse.db"
        store = await open_store(sqlite_url(path))
        await add_group(store, "first")
        assert store.troubles() == []
        ballast = fill(data_dir)
        for version in range(DECISIONS):
            rows = [worker(version // 10 + 1, message=f"{version} {'m' * 400}", state=State.IDLE)]
            await store.commit(EndpointId(1), version, 1, rows, entry(version))
        [trouble] = store.troubles()
        assert "MB free; decisions are still written" in trouble
        with pytest.raises(Unavailable, match="the disk is nearly full"):
            await store.add_segment(EndpointId(1), Segment(0.0, 1.0, 0, b"", b"", {}), 1_000_000)
        ballast.unlink()
        assert store.troubles() == []
        await store.close()
        store = await open_store(sqlite_url(path))
        found = await store.open_fleet(EndpointId(1), 1)
        assert (found.version, len(found.workers)) == (DECISIONS, DECISIONS // 10)
        assert len(await store.journal(EndpointId(1), 1000)) == DECISIONS
        await store.close()


async def test_workers_are_stopped_and_destroyed_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 40) as data_dir:
        local = ProcessProvider(data_dir / "workers", "test", slots=2, grace_s=0.5)
        cold, gone = await rent(local, spec(1)), await rent(local, spec(2))
        ballast = fill(data_dir)
        await local.stop(cold.id)
        await seen_as(local, cold.id, Observation.HALTED)
        await local.destroy(gone.id)
        assert await listed(local, gone.id) is None
        ballast.unlink()
        await local.start(cold.id)
        await seen_as(local, cold.id, Observation.RUNNING)
        await local.destroy(cold.id)
        await local.close()
