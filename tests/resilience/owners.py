"""Kills and stops the owner of an endpoint, and restarts PostgreSQL, under load: what was routed is answered.

`python -m tests.resilience owners --kills 100 --stops 20 --restarts 10`: three servers share one database. Clients ask
one that is not the owner, so that every call is passed on, and every answer is a worker or "waiting". One in twenty of
them is the protocol's own, unmodified client.
"""

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp

from tests.kit.live import pointed
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
SETTLED_S = 600.0
PUBLISHED = 20
PAYLOAD = {"pieces": 4, "piece_s": 0.05}


class Drill:
    def __init__(self, estate: Estate, http: aiohttp.ClientSession, rate: float) -> None:
        self.estate, self.http, self.random = estate, http, random.Random(1)
        self.traffic = Traffic("", estate.key, PAYLOAD, endpoint=NAMES[0], most_open=1000)
        self.published: list[Any] = []
        """What the protocol's own client got: a status, or an error."""
        self.took_s: dict[str, list[float]] = {}
        self.rate = rate
        self._client: Any = None

    async def load(self) -> None:
        """Sends requests until it is cancelled."""
        sending = asyncio.create_task(self.traffic.send(self.http, self.rate * (1 - 1 / PUBLISHED), 1e9))
        client = cast(Any, SimpleNamespace(url=self.traffic.url, admin_key=self.estate.key))
        try:
            async with pointed(client) as self._client, asyncio.TaskGroup() as asking:
                endpoint = await self._client.get_endpoint(NAMES[0])
                while True:
                    asking.create_task(self._ask(endpoint))
                    await asyncio.sleep(PUBLISHED / self.rate)
        finally:
            sending.cancel()

    async def _ask(self, endpoint: Any) -> None:
        try:
            answer = await endpoint.request("/generate", PAYLOAD, cost=1)
            self.published.append(answer["status"])
        except Exception as error:
            self.published.append(repr(error))

    async def leave(self) -> int:
        """Has clients ask a server that does not have the endpoint; the one that has it."""
        owner = await self.owner()
        others = [number for number in range(SERVERS) if number != owner]
        self.traffic.url = self.estate.urls[self.random.choice(others)]
        if self._client is not None:
            self._client.autoscaler_url = self.traffic.url
        await asyncio.sleep(PARTING_S)
        return owner

    async def kill(self) -> None:
        owner = await self.leave()
        await asyncio.to_thread(self.estate.send, owner, signal.SIGKILL)
        await self.back("kill")
        await asyncio.to_thread(self.estate.start, owner)
        await self.all_live()

    async def stop(self) -> None:
        owner = await self.leave()
        self.estate.send(owner, signal.SIGSTOP)
        try:
            await self.back("stop")
            await asyncio.sleep(STOP_S)
        finally:
            self.estate.send(owner, signal.SIGCONT)
        await self.all_live()

    async def restart(self) -> None:
        await self.leave()
        await asyncio.to_thread(control, "-m", self.random.choice(["fast", "immediate"]), "restart")
        await self.back("restart")
        await self.all_live()

    async def back(self, what: str) -> None:
        """Waits until one of an endless row of new requests is given a worker."""
        began = time.monotonic()
        ask = {"endpoint": NAMES[0], "api_key": self.estate.key, "cost": 1, "request_idx": 0}
        while time.monotonic() - began < 60:
            async with self.http.post(f"{self.traffic.url}/route/", json=ask) as reply:
                if "url" in await reply.json():
                    break
            await asyncio.sleep(0.02)
        self.took_s.setdefault(what, []).append(time.monotonic() - began)

    async def owner(self) -> int:
        while (owner := await asyncio.to_thread(self.estate.owner, NAMES[0])) < 0:
            await asyncio.sleep(0.1)
        return owner

    async def all_live(self) -> None:
        """Waits until every server has its share."""
        while await asyncio.to_thread(self.estate.owned) != [len(NAMES) // SERVERS] * SERVERS:
            await asyncio.sleep(0.2)


async def drill(
    held: Drill, minutes: float, *what: tuple[Callable[[], Coroutine[Any, Any, None]], int]
) -> tuple[dict[str, Any], list[str]]:
    """Does each so often, in a mixed order and under load; begins nothing more after so many minutes, unless 0."""
    estate, traffic = held.estate, held.traffic
    before, instances = estate.workers(), estate.instances()
    await held.leave()
    load, began = asyncio.create_task(held.load()), time.monotonic()
    plan = [do for do, count in what for _ in range(count)]
    held.random.shuffle(plan)
    counts = Counter({do.__name__: 0 for do in plan})
    for number, do in enumerate(plan):
        if minutes and time.monotonic() - began > 60 * minutes:
            break
        await do()
        counts[do.__name__] += 1
        print(f"{number + 1}/{len(plan)} {do.__name__}: {traffic.routed} routed", file=sys.stderr, flush=True)
    done = traffic.asked / (time.monotonic() - began)
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    left = await traffic.finished(30.0)
    odd = [one for one in held.published if one != 200]
    figures: dict[str, Any] = {
        **{f"{name}s": count for name, count in sorted(counts.items())},
        "servers": SERVERS,
        "requests": traffic.asked,
        "requests_per_s": round(done, 1),
        "routed": traffic.routed,
        "answered": len(traffic.answered_at),
        "told_to_wait": traffic.waited,
        "by_the_published_client": len(held.published),
        "routed_and_failed": len(traffic.broken),
        "route_answered_neither": len(traffic.refused),
        "published_client_failed": len(odd),
        "workers_lost_or_new": len(before ^ estate.workers()),
        "instances_lost_or_new": len({*instances} ^ {*estate.instances()}),
    }
    for name, took_s in held.took_s.items():
        took_s.sort()
        shown = [took_s[len(took_s) // 2], took_s[min(len(took_s) - 1, len(took_s) * 99 // 100)], took_s[-1]]
        figures[f"{name}_back_s_p50_p99_max"] = [round(s, 2) for s in shown]
    violations = told("a routed request failed", traffic.broken)
    violations += told("/route/ answered neither a worker nor that it waits", traffic.refused)
    violations += told("the published client failed", odd)
    violations += [f"{left} requests had no end after 30 s"] if left else []
    if before != estate.workers() or instances != estate.instances():
        violations.append("the workers are not the same")
    return figures, violations


def told(what: str, causes: Sequence[Any]) -> list[str]:
    return [f"{what}, {count} times: {cause}" for cause, count in Counter(map(str, causes)).items()]


def settle(estate: Estate, rate: float) -> None:
    """Starts every server, and waits until each has its share and every worker is ready. An endpoint serves twice
    `rate` requests per second."""
    estate.start(0)
    need: dict[str, Any] = {
        "perf": rate,
        "min_load": rate * WORKERS,
        "target_util": 1,
        "cold_workers": 0,
        "cold_mult": 1,
    }
    for name in NAMES:
        estate.make(name, **need, max_workers=WORKERS)
    for number in range(1, SERVERS):
        estate.start(number)
    idle = ["idle"] * WORKERS * len(NAMES)
    until(lambda: [row["state"] for row in estate.sites[0].json("worker", "list")] == idle, SETTLED_S)
    until(lambda: estate.owned() == [len(NAMES) // SERVERS] * SERVERS, SETTLED_S)


def run(kills: int, stops: int, restarts: int, rate: float, minutes: float = 0.0) -> tuple[dict[str, Any], list[str]]:
    async def under_load() -> tuple[dict[str, Any], list[str]]:
        async with session() as http:
            held = Drill(estate, http, rate)
            return await drill(held, minutes, (held.kill, kills), (held.stop, stops), (held.restart, restarts))

    with tempfile.TemporaryDirectory(prefix="posthouse-owners-") as directory:
        slots = WORKERS * len(NAMES)
        estate = Estate(Path(directory), SERVERS, providers__process__slots=slots, server__route_hold_s=HOLD_S)
        try:
            settle(estate, rate)
            return asyncio.run(under_load())
        finally:
            estate.clear()


def main() -> int:
    given = options(__doc__ or "", kills=100, stops=20, restarts=10, rate=100.0, minutes=0.0)
    return conclude("owners", *run(given.kills, given.stops, given.restarts, given.rate, given.minutes))


if __name__ == "__main__":
    sys.exit(main())
