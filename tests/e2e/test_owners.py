"""Two servers on one database: they share endpoints, answer for each other, and one takes over when the other dies."""

import asyncio
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.kit.live import pointed
from tests.kit.servers import ONE_WORKER, Estate, eventually
from tests.kit.site import TIMEOUT_S, Site, until
from tests.resilience.traffic import Traffic, session


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    made = Estate(tmp_path, 2, providers__process__slots=4, server__lease_s=2)
    yield made
    made.clear()


async def load(estate: Estate, survivor: int, client: Any) -> tuple[Traffic, list[Any], float]:
    """Asks one server, while the owner of what it asks for is killed: the traffic, what the protocol's own client got,
    and the seconds until the endpoint had an owner again."""
    traffic = Traffic(estate.urls[survivor], estate.key, {"pieces": 4, "piece_s": 0.05}, endpoint="one", most_open=500)
    async with session() as http:
        sending = asyncio.create_task(traffic.send(http, 20.0, 1e9))
        asking = asyncio.create_task(ask(client))
        await eventually(lambda: traffic.answered_at)
        began = time.monotonic()
        await asyncio.to_thread(estate.send, estate.owner("one"), signal.SIGKILL)
        await eventually(lambda: estate.owner("one") == survivor)
        took_s = time.monotonic() - began
        answered = len(traffic.answered_at)
        await eventually(lambda: len(traffic.answered_at) > answered + 20)
        sending.cancel()
        assert await traffic.finished(TIMEOUT_S) == 0
        return traffic, await asking, took_s


async def ask(client: Any) -> list[Any]:
    """What the unmodified client gets for one request after another."""
    async with client:
        endpoint = await client.get_endpoint("one")
        return [await endpoint.request("/generate", {"pieces": 1}, cost=1) for _ in range(20)]


def sees(site: Site, workers: list[tuple[str, str]]) -> bool:
    return [(row["endpoint"], row["state"]) for row in site.json("worker", "list")] == workers


def test_one_server_takes_over_from_another_that_is_killed_under_load(estate: Estate) -> None:
    estate.start(0)
    estate.make("one", **ONE_WORKER)
    estate.start(1)
    estate.make("two", at=1, **ONE_WORKER)
    until(lambda: estate.owned() == [1, 1] and len(estate.instances()) == 2)
    assert {estate.owner("one"), estate.owner("two")} == {0, 1}
    for site in estate.sites:  # made at one, known at the other; asked for at either, answered by its owner
        until(partial(sees, site, [("one", "idle"), ("two", "idle")]))
        assert [e["endpoint"] for e in site.json("status")["standing"]] == ["one", "two"]
    estate.sites[estate.owner("two")].json("endpoint", "update", "one", "--max-queue-time", "40")
    before = estate.workers()
    survivor = 1 - estate.owner("one")
    client = SimpleNamespace(url=estate.urls[survivor], admin_key=estate.key)
    traffic, got, took_s = asyncio.run(load(estate, survivor, pointed(cast(Any, client))))
    print(f"taken over after {took_s:.2f} s; {traffic.asked} asked, {traffic.waited} told to wait")
    assert (traffic.refused, traffic.broken) == ([], [])
    assert [one["status"] for one in got] == [200] * 20
    assert estate.owned() == [2]
    assert estate.workers() == before
    estate.start(1 - survivor)
    until(lambda: estate.owned() == [1, 1])
    estate.send(survivor, signal.SIGTERM)  # it hands over, and does not leave it to the lease
    until(lambda: estate.owned() == [2])
    assert estate.workers() == before
