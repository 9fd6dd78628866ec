"""An endpoint over two simulated markets: it settles on the cheaper, moves when its price doubles, outlives either.

`python -m tests.resilience providers`. Each market is a process that is asked over HTTP and runs what is rented there.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from posthouse.market.model import FIRST_MACHINE, KINDS
from tests.kit.market import MarketProcess, market_process
from tests.resilience.site import Ground, conclude, ground, options
from tests.resilience.traffic import Traffic, session

HOT, PERF = 3, 100
"""Workers that the load takes, and what each does."""
RATE = 10.0
PIECES = {"pieces": 4, "piece_s": 0.05}
MACHINES = 2 * HOT * len(KINDS)
GPU = KINDS[1][0].replace(" ", "_")
TIMEOUT_S = 400.0
SETTINGS = """
default_provider = "any"
[providers.left]
type = "vast"
url = "{left.url}"
api_key = "{left.api_key}"
{rest}
[providers.right]
type = "vast"
url = "{right.url}"
api_key = "{right.api_key}"
{rest}
"""
REST = 'image = "demo/image"\npace = 0.02\npoll_s = 1\ncatalog_s = 2\ncall_s = 5'


class Drill:
    """A site over two markets, and what was seen there."""

    def __init__(self, site: Ground, markets: dict[str, MarketProcess], http: aiohttp.ClientSession) -> None:
        self.site, self.markets, self.http = site, markets, http
        self.traffic = Traffic(site.url, site.key, PIECES, cost=1.0)
        self.figures: dict[str, Any] = {}
        self.violations: list[str] = []

    async def price(self, name: str, usd_h: float) -> None:
        """What every machine of a market costs from now on, those that are rented, too."""
        market = self.markets[name]
        headers = {"Authorization": f"Bearer {market.api_key}"}
        body = {"price": usd_h, "running": True}
        for machine in range(FIRST_MACHINE, FIRST_MACHINE + MACHINES):
            async with self.http.put(f"{market.url}/market/machines/{machine}", json=body, headers=headers) as reply:
                reply.raise_for_status()

    async def ready(self) -> Counter[str]:
        """How many workers each provider has that serve."""
        headers = {"Authorization": f"Bearer {self.site.key}"}
        async with self.http.get(f"{self.site.url}/v1/workers", headers=headers) as reply:
            workers = await reply.json()
        return Counter(w["provider"] for w in workers if w["state"] == "idle" and w["goal"] == "hot")

    @asynccontextmanager
    async def phase(self, name: str, wanted: str, may_fail: bool = False) -> AsyncIterator[None]:
        """Does what happens, and waits until the workers that serve are at the provider that is wanted, and enough.

        `may_fail`: requests at workers that go away with it do.
        """
        traffic, before = self.traffic, (len(self.traffic.answered_at), len(self.traffic.broken))
        began, fewest = time.monotonic(), HOT
        yield
        while True:
            ready = await self.ready()
            fewest = min(fewest, ready.total()) if before[0] else fewest
            if ready[wanted] >= HOT and ready.total() == ready[wanted]:
                break
            if time.monotonic() - began > TIMEOUT_S:
                self.violations.append(f"{name}: after {TIMEOUT_S:g} s the workers are at {dict(ready)}")
                break
            await asyncio.sleep(0.5)
        broken = traffic.broken[before[1] :]
        took_s = round(time.monotonic() - began, 1)
        self.figures[name] = {
            "seconds": took_s,
            "fewest_ready": fewest,
            "answered": len(traffic.answered_at) - before[0],
            "failed_at_workers": len(broken),
        }
        print(f"{name}: {self.figures[name]}", flush=True)
        if broken and not may_fail:
            self.violations.append(f"{name}: {len(broken)} requests failed: {broken[:3]}")

    async def live(self) -> None:
        await self.price("left", 0.30)
        await self.price("right", 0.40)
        make = ("workergroup", "create", "--endpoint", "drill", "--template", "drill", "--search", f"gpu_name={GPU}")
        async with self.phase("settles on the cheaper", "left"):
            await asyncio.to_thread(self.site.json, *make)
        sending = asyncio.create_task(self.traffic.send(self.http, RATE, 10 * TIMEOUT_S))
        async with self.phase("its price doubles", "right"):
            await self.price("left", 0.60)
        self.markets["right"].process.send_signal(signal.SIGSTOP)
        async with self.phase("that market answers nothing for a minute", "right"):
            await asyncio.sleep(60.0)
        self.markets["right"].process.send_signal(signal.SIGCONT)
        async with self.phase("it goes away with its machines", "left", may_fail=True):
            self.markets["right"].process.terminate()
        await asyncio.sleep(10.0)
        sending.cancel()
        left = await self.traffic.finished(60.0)
        self.figures |= {"asked": self.traffic.asked, "told_to_wait": self.traffic.waited, "without_end": left}
        self.violations += [f"the server refused: {why}" for why in self.traffic.refused]
        self.violations += [f"{left} requests had no end"] if left else []


async def _providers(site: Ground, markets: dict[str, MarketProcess]) -> tuple[dict[str, Any], list[str]]:
    async with session() as http:
        drill = Drill(site, markets, http)
        await drill.live()
        return drill.figures, drill.violations


def run() -> tuple[dict[str, Any], list[str]]:
    with (
        ground() as site,
        market_process(site.directory / "left", "--offers", str(MACHINES), "--seed", "1") as left,
        market_process(site.directory / "right", "--offers", str(MACHINES), "--seed", "1") as right,
    ):
        text = SETTINGS.format(left=left, right=right, rest=REST)
        (site.directory / "posthouse.toml").write_text(text)
        site.environ = {name: value for name, value in site.environ.items() if "PROVIDERS__PROCESS" not in name}
        load: dict[str, Any] = {"min_load": (HOT - 0.1) * PERF, "target_util": 1, "cold_workers": 0, "cold_mult": 1}
        site.open(**load, max_workers=2 * HOT)
        return asyncio.run(_providers(site, {"left": left, "right": right}))


def main() -> int:
    options(__doc__)
    return conclude("providers", *run())


if __name__ == "__main__":
    sys.exit(main())
