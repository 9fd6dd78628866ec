"""Scales a whole fleet down again and again while every worker writes streams: no request and no stream is killed.

`python -m tests.resilience drains --scale-downs 1000`
"""

import asyncio
import sys
from typing import Any

from tests.resilience.site import Ground, conclude, ground, options
from tests.resilience.traffic import Traffic, session

WORKERS = 25
STREAM = {"pieces": 30, "piece_s": 0.05}
"""A stream of 1.5 s, far longer than it takes to stop a worker that has nothing to do."""
RATE = 60.0
"""Requests per second while workers are up; each has about four streams then."""
TIMEOUT_S = 180.0


async def _set(site: Ground, state: str) -> None:
    done = await asyncio.to_thread(site.run, "endpoint", "update", "drill", "--state", state)
    assert done.returncode == 0, done.stderr


async def _until(site: Ground, wanted: str, count: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await asyncio.to_thread(site.states)).count(wanted) < count:
            await asyncio.sleep(0.1)


async def drains(site: Ground, scale_downs: int, workers: int) -> tuple[dict[str, Any], list[str]]:
    traffic = Traffic(site.url, site.key, STREAM, cost=1.0)
    downs, busy = 0, 0
    async with session() as http:
        while downs < scale_downs:
            await _set(site, "active")
            await _until(site, "idle", workers)
            await traffic.send(http, RATE, 2.0)
            busy += len(traffic.by_worker)
            await asyncio.gather(_set(site, "stopped"), traffic.send(http, RATE, 1.0))
            await _until(site, "stopped", workers)
            downs += workers
            # Those that came too late wait for a worker: they get one in the next round.
        await _set(site, "active")
        left = await traffic.finished(TIMEOUT_S)
    figures = {
        "scale_downs": downs,
        "with_streams_open": busy,
        "streams": traffic.routed,
        "whole": len(traffic.answered_at),
        "told_to_wait": traffic.waited,
        "killed": len(traffic.broken),
    }
    violations = [f"a stream broke: {b}" for b in traffic.broken] + [f"a call failed: {r}" for r in traffic.refused]
    violations += [f"{left} requests had no end"] if left else []
    return figures, violations


def run(scale_downs: int, workers: int) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=workers, engine__max_actions=workers) as site:
        need: dict[str, Any] = {"min_load": 100 * workers, "target_util": 1, "cold_mult": 1, "cold_workers": workers}
        site.begin(max_workers=workers, **need)
        return asyncio.run(drains(site, scale_downs, workers))


def main() -> int:
    return conclude("drains", *run(options(__doc__, scale_downs=1000).scale_downs, WORKERS))


if __name__ == "__main__":
    sys.exit(main())
