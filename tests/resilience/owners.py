"""Kills and stops the owner of an endpoint, and restarts PostgreSQL, under load: what was routed is answered.

`python -m tests.resilience owners --kills 100 --stops 20 --restarts 10`: three servers share one database. Clients ask
one that is not the owner, so that every call is passed on, and every answer is a worker or "waiting".
"""

import asyncio
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.postgres import control
from tests.kit.servers import Estate
from tests.resilience.site import conclude, options, until
from tests.resilience.traffic import Traffic, session

SERVERS = 3
NAMES = ["one", "two", "three", "four", "five", "six"]
WORKERS = 2
"""Of each endpoint."""
HOLD_S = 0.5
PARTING_S = HOLD_S + 1.0
"""After which no call is left at a server that clients have left."""
STOP_S = 30.0
BACK_S = 3.0


class Drill:
    def __init__(self, estate: Estate, http: aiohttp.ClientSession, rate: float) -> None:
        self.estate, self.http, self.random = estate, http, random.Random(1)
        self.traffic = Traffic("", estate.key, {"pieces": 4, "piece_s": 0.05}, endpoint=NAMES[0], most_open=1000)
        self.took_s: dict[str, list[float]] = {"kill": [], "stop": [], "restart": []}
        self.rate = rate

    async def leave(self) -> int:
        """Has clients ask a server that does not have the endpoint; the one that has it."""
        owner = await self._owner()
        others = [number for number in range(SERVERS) if number != owner]
        self.traffic.url = self.estate.urls[self.random.choice(others)]
        await asyncio.sleep(PARTING_S)
        return owner

    async def kill(self) -> None:
        owner = await self.leave()
        await asyncio.to_thread(self.estate.send, owner, signal.SIGKILL)
        self.took_s["kill"].append(await self._back())
        await asyncio.to_thread(self.estate.start, owner)
        await self._all_live()

    async def stop(self) -> None:
        owner = await self.leave()
        self.estate.send(owner, signal.SIGSTOP)
        try:
            self.took_s["stop"].append(await self._back())
            await asyncio.sleep(STOP_S)
        finally:
            self.estate.send(owner, signal.SIGCONT)
        await self._all_live()

    async def restart(self) -> None:
        await self.leave()
        await asyncio.to_thread(control, "-m", self.random.choice(["fast", "immediate"]), "restart")
        self.took_s["restart"].append(await self._back())
        await self._all_live()

    async def _back(self) -> float:
        """Seconds until an endless row of new requests is given a worker."""
        began = time.monotonic()
        ask = {"endpoint": NAMES[0], "api_key": self.estate.key, "cost": 1, "request_idx": 0}
        while time.monotonic() - began < 60:
            async with self.http.post(f"{self.traffic.url}/route/", json=ask) as reply:
                if "url" in await reply.json():
                    break
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def _owner(self) -> int:
        while (owner := await asyncio.to_thread(self.estate.owner, NAMES[0])) < 0:
            await asyncio.sleep(0.1)
        return owner

    async def _all_live(self) -> None:
        """Waits until every server has its share."""
        while await asyncio.to_thread(self.estate.owned) != [len(NAMES) // SERVERS] * SERVERS:
            await asyncio.sleep(0.2)


async def drill(estate: Estate, kills: int, stops: int, restarts: int, rate: float) -> tuple[dict[str, Any], list[str]]:
    before, instances = estate.workers(), estate.instances()
    async with session() as http:
        held = Drill(estate, http, rate)
        traffic = held.traffic
        await held.leave()
        load, began = asyncio.create_task(traffic.send(http, rate, 1e9)), time.monotonic()
        for what, count in ((held.kill, kills), (held.stop, stops), (held.restart, restarts)):
            for number in range(count):
                await what()
                print(f"{what.__name__} {number + 1}/{count}: {traffic.routed} routed", file=sys.stderr, flush=True)
        load.cancel()
        done = traffic.asked / (time.monotonic() - began)
        left = await traffic.finished(30.0)
    figures: dict[str, Any] = {
        "kills": kills,
        "stops": stops,
        "restarts_of_postgresql": restarts,
        "servers": SERVERS,
        "requests": traffic.asked,
        "requests_per_s": round(done, 1),
        "routed": traffic.routed,
        "answered": len(traffic.answered_at),
        "told_to_wait": traffic.waited,
        "routed_and_failed": len(traffic.broken),
        "route_answered_neither": len(traffic.refused),
        "workers_lost_or_new": len(before ^ estate.workers()),
        "instances_lost_or_new": len({*instances} ^ {*estate.instances()}),
    }
    for name, took_s in held.took_s.items():
        if took_s:
            took_s.sort()
            shown = [took_s[len(took_s) // 2], took_s[min(len(took_s) - 1, len(took_s) * 99 // 100)], took_s[-1]]
            figures[f"{name}_back_s_p50_p99_max"] = [round(s, 2) for s in shown]
    violations = [f"a routed request failed: {broken}" for broken in traffic.broken]
    violations += [f"/route/ answered neither a worker nor that it waits: {refused}" for refused in traffic.refused]
    violations += [f"{left} requests had no end after 30 s"] if left else []
    if before != estate.workers() or instances != estate.instances():
        violations.append("the workers are not the same")
    return figures, violations


def run(kills: int, stops: int, restarts: int, rate: float) -> tuple[dict[str, Any], list[str]]:
    with tempfile.TemporaryDirectory(prefix="posthouse-owners-") as directory:
        slots = WORKERS * len(NAMES)
        estate = Estate(Path(directory), SERVERS, providers__process__slots=slots, server__route_hold_s=HOLD_S)
        try:
            estate.start(0)
            need = {"min_load": 100 * WORKERS, "target_util": 1, "cold_workers": 0, "cold_mult": 1}
            for name in NAMES:
                estate.make(name, **need, max_workers=WORKERS)
            for number in range(1, SERVERS):
                estate.start(number)
            idle = ["idle"] * slots
            until(lambda: [row["state"] for row in estate.sites[0].json("worker", "list")] == idle)
            until(lambda: estate.owned() == [len(NAMES) // SERVERS] * SERVERS)
            return asyncio.run(drill(estate, kills, stops, restarts, rate))
        finally:
            estate.clear()


def main() -> int:
    given = options(__doc__ or "", kills=100, stops=20, restarts=10, rate=100.0)
    return conclude("owners", *run(given.kills, given.stops, given.restarts, given.rate))


if __name__ == "__main__":
    sys.exit(main())
