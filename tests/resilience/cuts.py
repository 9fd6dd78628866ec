"""Cuts the network between the owner of an endpoint, the other servers and PostgreSQL, under load.

`python -m tests.resilience cuts --cuts 20`, as root: each of three servers has a network namespace, and packets between
two of them, or one and the database, are dropped without a word, for 10 s each. A part of the clients asks the server
that is cut off, the others ask one that is not the owner. Every answer is a worker or "waiting".
"""

import asyncio
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.netns import Network
from tests.kit.postgres import listen
from tests.kit.servers import Estate
from tests.resilience.owners import HOLD_S, NAMES, PAYLOAD, SERVERS, WORKERS, Drill, drill, settle, told
from tests.resilience.site import conclude, options
from tests.resilience.traffic import Traffic, session

CUT_S = 10.0
AT_OWNER = 0.3
"""The part of the rate that asks the server that is cut off."""


class Cuts(Drill):
    def __init__(self, estate: Estate, network: Network, http: aiohttp.ClientSession, rate: float) -> None:
        super().__init__(estate, http, rate * (1 - AT_OWNER))
        self.network, self.at_owner = network, Traffic("", estate.key, PAYLOAD, endpoint=NAMES[0], most_open=1000)
        self.kinds = cycle(("servers", "database", "servers and database"))

    async def cut(self) -> None:
        owner, kind = await self.leave(), next(self.kinds)
        self.at_owner.url = self.estate.urls[owner]
        rate = self.rate * AT_OWNER / (1 - AT_OWNER)
        load = asyncio.create_task(self.at_owner.send(self.http, rate, 1e9))
        others = [address for address in self.network.servers if address != self.network.servers[owner]]
        lost = [*(others if "servers" in kind else ()), *([self.network.database] if "database" in kind else ())]
        ended = asyncio.Event()

        async def mend() -> None:
            await asyncio.sleep(CUT_S)
            await asyncio.to_thread(self.network.mend, owner)
            ended.set()

        await asyncio.to_thread(self.network.cut, owner, *lost)
        mending = asyncio.create_task(mend())
        if kind == "servers":  # it has its lease, so that who asks another one waits
            await ended.wait()
        await self.back(f"cut_from_{kind.replace(' ', '_')}")
        await mending
        await self.all_live()
        load.cancel()


def run(cuts: int, rate: float, minutes: float = 0.0) -> tuple[dict[str, Any], list[str]]:
    async def under_load() -> tuple[dict[str, Any], list[str]]:
        async with session() as http:
            held = Cuts(estate, network, http, rate)
            figures, violations = await drill(held, minutes, (held.cut, cuts))
            left, there = await held.at_owner.finished(30.0), held.at_owner
            figures |= {
                "requests_at_the_one_cut_off": there.asked,
                "routed_there": there.routed,
                "answered_there": len(there.answered_at),
                "routed_there_and_failed": len(there.broken),
                "route_answered_neither_there": len(there.refused),
            }
            violations += told("a request failed that was routed where it is cut off", there.broken)
            violations += told("/route/ answered neither there", there.refused)
            return figures, violations + ([f"{left} requests had no end there"] if left else [])

    network = Network(SERVERS)
    try:
        with tempfile.TemporaryDirectory(prefix="posthouse-cuts-") as directory:
            of_workers = {"slots": WORKERS * len(NAMES), "users": "server"}
            settings = {f"providers__process__{name}": value for name, value in of_workers.items()}
            estate = Estate(Path(directory), SERVERS, **settings, server__route_hold_s=HOLD_S)
            try:
                listen(network.database)
                estate.enter(network)
                settle(estate, rate)
                return asyncio.run(under_load())
            finally:
                estate.clear()
    finally:
        network.close()


def main() -> int:
    given = options(__doc__ or "", cuts=20, rate=100.0, minutes=0.0)
    return conclude("cuts", *run(given.cuts, given.rate, given.minutes))


if __name__ == "__main__":
    sys.exit(main())
