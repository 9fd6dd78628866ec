"""Kills the server again and again under load: nothing that was routed fails, no worker is lost or started twice.

`python -m tests.resilience crash --kills 200`
"""

import asyncio
import random
import signal
import sys
import time
from typing import Any

import aiohttp

from tests.resilience.site import Ground, conclude, ground, options, until
from tests.resilience.traffic import Traffic, session

RATE = 100.0
"""Requests per second while the server is killed."""
WORKERS = 3
BACK_S = 2.0
"""From the start of the new process until it gives a request a worker."""


async def _back(site: Ground, http: aiohttp.ClientSession, began: float) -> float:
    """Seconds until a request is given a worker."""
    ask = {"endpoint": "drill", "api_key": site.key, "cost": 1, "request_idx": 0}
    while True:
        try:
            async with http.post(f"{site.url}/route/", json=ask) as reply:
                if "url" in await reply.json():
                    return time.monotonic() - began
        except (aiohttp.ClientError, OSError):
            pass
        if time.monotonic() - began > 30:
            return 30.0
        await asyncio.sleep(0.01)


def workers_of(site: Ground) -> set[int]:
    """The processes of workers."""
    return {p.pid for p in site.processes()}


async def kills(site: Ground, count: int, seed: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Kills the server `count` times, at random moments."""
    tie_break, traffic = (
        random.Random(seed),
        Traffic(site.url, site.key, {"pieces": 4, "piece_s": 0.05}, patient=True, most_open=1000),
    )
    before = workers_of(site)
    back_s: list[float] = []
    async with session() as http:
        load, load_began = asyncio.create_task(traffic.send(http, RATE, 1e9)), time.monotonic()
        for _ in range(count):
            await asyncio.sleep(tie_break.uniform(0.2, 2.0))
            assert site.server is not None
            server, site.server = site.server, None
            server.send_signal(signal.SIGKILL)
            await asyncio.to_thread(server.communicate)
            began = time.monotonic()
            starting = asyncio.create_task(asyncio.to_thread(site.start_again))
            back_s.append(await _back(site, http, began))
            await starting
        load.cancel()
        rate = traffic.asked / (time.monotonic() - load_began)
        left = await traffic.finished(30.0)
    after = workers_of(site)
    instances = len([p for p in (site.directory / "posthouse-data" / "workers").iterdir() if p.name[:4] == "post"])
    back_s.sort()
    figures = {
        "kills": count,
        "requests": traffic.asked,
        "requests_per_s": round(rate, 1),
        "routed": traffic.routed,
        "answered": len(traffic.answered_at),
        "routed_and_failed": len(traffic.broken),
        "back_s_median_worst": [round(back_s[len(back_s) // 2], 2), round(back_s[-1], 2)] if back_s else [],
        "workers_lost_or_new": len(before ^ after),
        "instances": instances,
    }
    violations = [f"a routed request failed: {b}" for b in traffic.broken]
    violations += [f"a call was answered with an error: {r}" for r in traffic.refused]
    violations += [f"the load was only {rate:.0f} requests per second"] if rate < 0.9 * RATE else []
    violations += [f"{left} requests had no end after 30 s"] if left else []
    violations += [f"the workers' processes are not the same: {sorted(before ^ after)}"] if before != after else []
    violations += [f"{instances} instances, not {WORKERS}"] if instances != WORKERS else []
    late = [s for s in back_s if s > BACK_S]
    violations += [f"routing was back after {late} s"] if late else []
    return figures, violations


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=WORKERS, engine__stabilization_s=60) as site:
        need: dict[str, Any] = {"min_load": 100 * WORKERS, "target_util": 1, "cold_workers": 0, "cold_mult": 1}
        site.begin(**need, max_workers=WORKERS)
        until(lambda: site.states() == ["idle"] * WORKERS)
        return asyncio.run(kills(site, count))


def main() -> int:
    return conclude("crash", *run(options(__doc__, kills=200).kills))


if __name__ == "__main__":
    sys.exit(main())
