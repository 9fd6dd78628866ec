"""A long time with churn: workers come and go, endpoints are made and deleted, and the server does not grow.

`python -m tests.resilience soak --minutes 30`
"""

import asyncio
import sys
import time
from typing import Any

from tests.resilience.site import ONSTART, Ground, conclude, ground, options
from tests.resilience.traffic import Traffic, session

SAMPLE_S = 5.0
WAVE_S = 60.0
"""How long the load is high, and then low."""
HIGH, LOW = 60.0, 5.0
"""Requests per second; a worker does 20."""
MAX_MB_H = 1.0
"""In both halves of the time after warm-up. A single step, as of CPython's free lists, is in one of them only."""
MAX_MORE_FDS = 8
"""Beyond the most during warm-up: connections of workers and clients come and go."""


async def _load(site: Ground, traffic: Traffic, end: float) -> None:
    async with session() as http:
        while time.monotonic() < end:
            await traffic.send(http, HIGH, min(WAVE_S, end - time.monotonic()))
            await traffic.send(http, LOW, min(WAVE_S, max(0.0, end - time.monotonic())))
        await traffic.finished(30.0)


async def _churn(site: Ground, end: float) -> int:
    """Makes and deletes an endpoint with a worker, again and again; how often."""
    rounds = 0
    while time.monotonic() < end:
        for argv in (
            ("endpoint", "create", "brief", "--min-load", "1", "--cold-workers", "0", "--cold-mult", "1"),
            ("workergroup", "create", "--endpoint", "brief", "--template", "drill"),
            ("endpoint", "delete", "brief"),
        ):
            done = await asyncio.to_thread(site.run, *argv)
            assert done.returncode == 0, done.stderr
            await asyncio.sleep(8.0)
        rounds += 1
    return rounds


async def _samples(site: Ground, end: float, traffic: Traffic) -> list[tuple[float, float, int, int]]:
    found = []
    process = site.process()
    while time.monotonic() < end:
        workers = await asyncio.to_thread(site.processes)
        rss_mb = process.memory_info().rss / 1e6
        found.append((time.monotonic(), rss_mb, process.num_fds() - traffic.open, len(workers)))
        await asyncio.sleep(SAMPLE_S)
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """The slope of the line of least squares."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    over = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / over


def growth_mb_h(points: list[tuple[float, float]]) -> float:
    """The slope of the half in which it is less, of (seconds, MB), in MB per hour."""
    half = len(points) // 2
    halves = [points[:half], points[half:]] if half > 1 else [points]
    return min(slope([(at / 3600, mb) for at, mb in part]) for part in halves)


async def soak(site: Ground, minutes: float, warm_share: float = 1 / 3) -> tuple[dict[str, Any], list[str]]:
    began = time.monotonic()
    end = began + minutes * 60
    traffic = Traffic(site.url, site.key, {"pieces": 4, "piece_s": 0.05}, cost=5.0)
    samples, rounds, _ = await asyncio.gather(
        _samples(site, end, traffic), _churn(site, end), _load(site, traffic, end)
    )
    warm_until = began + minutes * 60 * warm_share
    warm = [s for s in samples if s[0] < warm_until]
    rest = [s for s in samples if s[0] >= warm_until]
    mb_h = growth_mb_h([(at, mb) for at, mb, _, _ in rest])
    fds_before, fds_after = max(s[2] for s in warm), max(s[2] for s in rest)
    figures = {
        "minutes": minutes,
        "warm_up_minutes": round(minutes * warm_share, 1),
        "requests": traffic.asked,
        "answered": len(traffic.answered_at),
        "endpoints_made_and_deleted": rounds,
        "workers_least_most": [min(s[3] for s in rest), max(s[3] for s in rest)],
        "rss_mb_first_warm_last": [round(samples[0][1], 1), round(rest[0][1], 1), round(rest[-1][1], 1)],
        "rss_slope_mb_h": round(mb_h, 2),
        "fds_most_before_after": [fds_before, fds_after],
        "rss_mb_each_minute": [round(s[1], 1) for s in samples[:: int(60 / SAMPLE_S)]],
    }
    violations = [f"a routed request broke: {b}" for b in traffic.broken]
    violations += [f"a call was refused: {r}" for r in traffic.refused]
    if mb_h > MAX_MB_H:
        violations.append(f"memory grows by {mb_h:.2f} MB/h, more than {MAX_MB_H:g}")
    if fds_after > fds_before + MAX_MORE_FDS:
        violations.append(f"file descriptors grew from {fds_before} to {fds_after}")
    return figures, violations


def main() -> int:
    chosen = options(__doc__, minutes=30.0)
    with ground(engine__tick_s=0.5, providers__process__slots=8) as site:
        site.begin("export DRILL_PERF=100\n" + ONSTART, min_load=50, cold_workers=1, cold_mult=1, max_workers=5)
        return conclude("soak", *asyncio.run(soak(site, chosen.minutes)))


if __name__ == "__main__":
    sys.exit(main())
