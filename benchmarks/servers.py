"""What several servers on one PostgreSQL cost and gain: `python -m benchmarks.servers [--quick]`.

First `/route/` at one, two and three servers that share six endpoints evenly, each call at a server and for an endpoint
taken in turns: processor time of all servers for a call, less what they take at rest. `ratio`: how much more they do
together where each has a core of its own. Then, at three, calls to the owner of an endpoint and calls to another, in
turns: what the hop costs each of the two.

Then a server that has 1,000 endpoints dies, and one that has none takes them over: seconds until its lease is over, and
from there until each is open. Prints figures and writes `benchmarks/results/servers.json`.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from platform import python_version
from statistics import median
from typing import Any

import aiohttp
import asyncpg
import psutil
from tests.kit.live import live_server
from tests.kit.postgres import database_url, query
from tests.kit.rows import NO_ID
from tests.kit.servers import Estate

from benchmarks.route.__main__ import machine
from posthouse.domain.endpoint import Endpoint
from posthouse.store import SqlStore, open_store

RESULTS = Path(__file__).parent / "results" / "servers.json"
SERVERS = 3
NAMES = [f"e{number}" for number in range(6)]
NEED = {"min_load": 100, "target_util": 1, "cold_workers": 0, "cold_mult": 1, "max_workers": 1}
AT_A_TIME = 20
"""Calls on their way."""
COST = 0.001
REST_S = 2.0
LEASE_S, RENEWALS = 2.0, 4
"""As servers have them by default."""
LOOK_S = 0.005
LIMIT_S = 600.0


class Bench:
    """Servers of an estate, and one program that calls them."""

    def __init__(self, estate: Estate, http: aiohttp.ClientSession) -> None:
        self.estate, self.http = estate, http
        self.at_rest: list[float] = []
        """Processor seconds per second of each server."""

    def used_s(self) -> list[float]:
        """Processor seconds of each server."""
        found = [psutil.Process(s.server.pid).cpu_times() for s in self.estate.sites if s.server is not None]
        return [times.user + times.system for times in found]

    async def rest(self) -> None:
        """Looks what servers take that are asked nothing."""
        before, began = self.used_s(), time.monotonic()
        await asyncio.sleep(REST_S)
        self.at_rest = [(b - a) / (time.monotonic() - began) for a, b in zip(before, self.used_s(), strict=True)]

    async def calls(self, count: int, pairs: Sequence[tuple[int, str]]) -> list[float]:
        """Asks servers for endpoints, pair by pair; processor µs of each server for a call."""
        turns = asyncio.Semaphore(AT_A_TIME)

        async def one(number: int) -> None:
            at, name = pairs[number % len(pairs)]
            ask = {"endpoint": name, "api_key": self.estate.key, "cost": COST, "request_idx": 0}
            async with turns, self.http.post(f"{self.estate.urls[at]}/route/", json=ask) as reply:
                assert "url" in await reply.json(), await reply.text()

        before, began = self.used_s(), time.monotonic()
        await asyncio.gather(*(one(number) for number in range(count)))
        spent = [after - used for used, after in zip(before, self.used_s(), strict=True)]
        wall_s = time.monotonic() - began
        return [1e6 * (s - rest * wall_s) / count for s, rest in zip(spent, self.at_rest, strict=True)]

    async def until(self, shares: list[int]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while await asyncio.to_thread(self.estate.owned) != shares:
                await asyncio.sleep(0.2)


async def routes(estate: Estate, count: int, rounds: int) -> dict[str, Any]:
    """In each round one server, two, then three; what the hop costs at three; and all but the first leave again."""
    call_us: dict[int, list[float]] = {number: [] for number in range(1, SERVERS + 1)}
    hop: dict[str, list[float]] = {"at_the_owner_us": [], "passed_on_us": [], "answered_to_a_server_us": []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        bench = Bench(estate, http)
        await asyncio.to_thread(estate.start, 0)
        for name in NAMES:
            await asyncio.to_thread(partial(estate.make, name, **NEED))
        async with asyncio.timeout(LIMIT_S):
            while {row["state"] for row in estate.sites[0].json("worker", "list")} != {"idle"}:
                await asyncio.sleep(0.5)
        for _ in range(rounds):
            for servers, taken in call_us.items():
                if servers > 1:
                    await asyncio.to_thread(estate.start, servers - 1)
                await bench.until([len(NAMES) // servers] * servers)
                await bench.rest()
                taken.append(sum(await bench.calls(count, list(product(range(servers), NAMES)))))
            owner = estate.owner(NAMES[0])
            other = (owner + 1) % SERVERS
            own = await bench.calls(count, [(owner, NAMES[0])])
            passed = await bench.calls(count, [(other, NAMES[0])])
            for values, us in zip(hop.values(), (own[owner], passed[other], passed[owner]), strict=True):
                values.append(us)
            for number in range(1, SERVERS):
                await asyncio.to_thread(estate.sites[number].stop, signal.SIGTERM)
    return {
        "servers": {
            str(servers): {
                "cpu_us": round(median(taken), 1),
                "each": [round(us, 1) for us in taken],
                "ratio": round(median(servers * one / us for one, us in zip(call_us[1], taken, strict=True)), 2),
            }
            for servers, taken in call_us.items()
        },
        "hop": {name: round(median(values), 1) for name, values in hop.items()},
    }


async def take_over(url: str, store: SqlStore, name: str, count: int, directory: Path) -> tuple[float, float]:
    """Seconds from the death of who has all until its lease is over, and from there until each endpoint is open."""
    dead, looking = store.servers(LEASE_S), await asyncpg.connect(url)
    assert dead is not None

    async def renew() -> None:
        while True:
            await dead.renew(name, LEASE_S)
            await asyncio.sleep(LEASE_S / RENEWALS)

    try:
        await dead.register(name, "http://127.0.0.1:9", LEASE_S)
        await dead.owners()
        assert len(await dead.claim(name, count)) == count
        renewing = asyncio.create_task(renew())
        async with live_server(directory, **{"database.url": url}) as server, asyncio.timeout(LIMIT_S):
            await asyncio.sleep(3 * LEASE_S)  # then it knows that it is not itself who is late
            assert not server.hub.endpoints
            renewing.cancel()
            began = time.monotonic()
            while await looking.fetchval("SELECT count(*) FROM servers WHERE name = $1", name):
                await asyncio.sleep(LOOK_S)
            over = time.monotonic()
            while len(server.hub.endpoints) < count:
                await asyncio.sleep(LOOK_S)
            return over - began, time.monotonic() - over
    finally:
        await looking.close()
        await dead.close()


async def take_overs(count: int, rounds: int) -> dict[str, Any]:
    url = database_url()
    store = await open_store(url)
    for number in range(count):
        await store.add_endpoint(Endpoint(NO_ID, f"e{number}"))
    found = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as directory:
            found.append(await take_over(url, store, f"dead-{number}", count, Path(directory)))
    await store.close()
    lease_s, rest_s = ([round(s, 2) for s in times] for times in zip(*found, strict=True))
    return {"endpoints": count, "lease_over_s": lease_s, "rest_s": rest_s}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls, endpoints and rounds")
    quick = parser.parse_args().quick
    rounds, calls, endpoints = (1, 600, 100) if quick else (5, 3000, 1000)
    with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as directory:
        estate = Estate(Path(directory), SERVERS, providers__process__slots=len(NAMES), engine__tick_s=1)
        try:
            found = asyncio.run(routes(estate, calls, rounds))
        finally:
            estate.clear()
    found["taken_over"] = asyncio.run(take_overs(endpoints, min(rounds, 3)))
    found |= {
        "calls": calls,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": python_version(),
            **{name: version(name) for name in ("posthouse", "asyncpg", "uvloop")},
            "postgresql": postgresql(),
        },
    }
    print(json.dumps(found, indent=1))
    if not quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def postgresql() -> str:
    return query(database_url(), "SHOW server_version").split()[0]


if __name__ == "__main__":
    main()
