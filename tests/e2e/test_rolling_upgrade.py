"""Two servers are brought to a newer version, one after the other and under load, with real migrations in between."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from posthouse.store.schema import VERSION
from tests.kit.newer import AFTER, BEFORE, newer_version
from tests.kit.postgres import query
from tests.kit.servers import ONE_WORKER, Estate, eventually, place_of
from tests.kit.site import TIMEOUT_S
from tests.resilience.traffic import Traffic

DRAIN_S = 3.0
"""How long a server is left alone before it ends: longer than it holds a call."""


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    made = Estate(tmp_path, 2, providers__process__slots=4, server__lease_s=2)
    for site in made.sites:
        site.forks = False  # PYTHONPATH says which version it is
    yield made
    made.clear()


def places(estate: Estate) -> list[tuple[str, int]]:
    return [place_of(url) for url in estate.urls]


def stop(estate: Estate, number: int) -> None:
    """Stops a server as a rollout does: the balancer sends it nothing more, then it is told to end."""
    estate.balancer.take_only([places(estate)[1 - number]])
    time.sleep(DRAIN_S)
    code, said = estate.sites[number].stop(signal.SIGTERM)
    assert code == 0, said


def start(estate: Estate, number: int) -> None:
    estate.start(number)
    estate.balancer.take_only(places(estate))


def migrate(estate: Estate, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the newer version's command does."""
    site = estate.sites[0]
    command = [sys.executable, "-m", "posthouse", "migrate", *flags]
    return subprocess.run(command, cwd=site.directory, env=site.environ, capture_output=True, text=True, check=False)


def schema(estate: Estate) -> str:
    return query(estate.database, "SELECT version_num FROM alembic_version").strip()


@pytest.mark.long
async def test_a_rolling_upgrade_fails_no_request(estate: Estate, tmp_path: Path) -> None:
    newer = str(newer_version(tmp_path / "newer"))
    estate.start(0)
    estate.make("one", **ONE_WORKER)
    estate.start(1)
    estate.make("two", at=1, **ONE_WORKER)
    await eventually(lambda: estate.owned() == [1, 1] and len(estate.workers()) == 2)
    estate.balancer.take_only(places(estate))
    before = estate.workers()
    loads = [
        Traffic(estate.balancer.url, estate.key, {"pieces": 4, "piece_s": 0.05}, endpoint=name, most_open=500)
        for name in ("one", "two")
    ]
    # Each call has a connection of its own, as behind a balancer that knows calls.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http:
        sending = [asyncio.create_task(load.send(http, 10.0, 1e9)) for load in loads]

        async def served() -> None:
            """Until every endpoint has answered more."""
            counts = [len(load.answered_at) for load in loads]
            await eventually(lambda: all(len(a.answered_at) > n + 10 for a, n in zip(loads, counts, strict=True)))

        await served()
        await asyncio.to_thread(stop, estate, 0)
        estate.sites[0].environ["PYTHONPATH"] = newer
        await asyncio.to_thread(start, estate, 0)
        assert schema(estate) == BEFORE  # the rest waits for the older server
        await eventually(lambda: estate.owned() == [1, 1])
        await served()
        told = await asyncio.to_thread(migrate, estate, "--after")
        assert (told.returncode, "waits until no older server lives" in told.stderr) == (1, True), told.stderr
        told = await asyncio.to_thread(migrate, estate)
        assert told.stdout.splitlines() == [
            f"the database has the schema {BEFORE}",
            f"waits until no older server lives: {AFTER}",
        ]

        await asyncio.to_thread(stop, estate, 1)  # the older one can come back meanwhile
        await asyncio.to_thread(start, estate, 1)
        assert schema(estate) == BEFORE
        await eventually(lambda: estate.owned() == [1, 1])
        await served()

        await asyncio.to_thread(stop, estate, 1)
        estate.sites[1].environ["PYTHONPATH"] = newer
        await asyncio.to_thread(start, estate, 1)
        assert schema(estate) == AFTER
        await eventually(lambda: estate.owned() == [1, 1])
        await served()
        for task in sending:
            task.cancel()
        for load in loads:
            assert await load.finished(TIMEOUT_S) == 0
    print(f"{sum(load.asked for load in loads)} asked, {sum(load.waited for load in loads)} told to wait")
    for load in loads:
        assert (load.refused, load.broken) == ([], [])
    assert estate.workers() == before
    await asyncio.to_thread(stop, estate, 1)
    del estate.sites[1].environ["PYTHONPATH"]  # now it is too old
    with pytest.raises(
        AssertionError, match=f"the database has the schema {AFTER}.*none newer than {VERSION}: upgrade"
    ):
        await asyncio.to_thread(estate.start, 1)
