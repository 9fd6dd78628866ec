"""Ten times the capacity for half a minute: as much is served as before, and afterwards all is as before.

`python -m tests.resilience overload --seconds 30`
"""

import asyncio
import sys
import time
from typing import Any

from tests.resilience.site import ONSTART, Ground, conclude, ground, options, until
from tests.resilience.traffic import Traffic, session

WORKERS, SLOTS, SERVICE_S = 2, 2, 0.2
CAPACITY = WORKERS * SLOTS / SERVICE_S
"""Requests per second."""
PEAK_S = 10.0
QUEUE_S = 2.0
"""`max_queue_time`: what a worker may have before it."""
MIN_SHARE = 0.9
NORMAL_WITHIN_S = 5.0
NORMAL_S = 1.0
"""Within which a request is answered when all is well; the service takes 0.2 s."""


async def overload(site: Ground, span_s: float) -> tuple[dict[str, Any], list[str]]:
    payload = {"pieces": 1, "piece_s": SERVICE_S / 2}  # and as long for what is written at the end
    peak, storm, calm = (Traffic(site.url, site.key, payload, cost=1.0) for _ in range(3))
    async with session() as http:
        began = time.monotonic()
        await peak.send(http, 1.5 * CAPACITY, PEAK_S)
        most = peak.answered(began + 2.0, time.monotonic())
        await peak.finished(60.0)
        began = time.monotonic()
        await storm.send(http, 10 * CAPACITY, span_s)
        ended = time.monotonic()
        served = storm.answered(began + 2.0, ended)
        given_up = await storm.finished(0.0)  # their clients lose patience, all at once
        await calm.send(http, CAPACITY / 4, 15.0)
        left = await calm.finished(120.0)
    late = [at - ended for at, took_s in calm.took_s if took_s > NORMAL_S]
    normal_s = max(late, default=0.0)
    share = served / most if most else 0.0
    figures = {
        "capacity_per_s": CAPACITY,
        "asked_per_s": round(storm.asked / span_s),
        "peak_per_s": round(most, 1),
        "served_per_s": round(served, 1),
        "share_of_peak": round(share, 3),
        "told_to_wait": storm.waited,
        "given_up_by_clients": given_up,
        "back_to_normal_s": round(normal_s, 2),
        "rss_mb": round(site.process().memory_info().rss / 1e6),
    }
    violations = [f"{t}: {r}" for t in (peak, storm, calm) for r in t.refused + t.broken]
    violations += [f"only {share:.2f} of the peak was served"] if share < MIN_SHARE else []
    violations += [f"requests were slow until {normal_s:.1f} s after"] if normal_s > NORMAL_WITHIN_S else []
    violations += [f"{left} requests had no end"] if left else []
    return figures, violations


def run(span_s: float) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=WORKERS) as site:
        perf = f"export DRILL_PERF={SLOTS / SERVICE_S:g} DRILL_SLOTS={SLOTS}\n"
        need: dict[str, Any] = {"min_load": CAPACITY, "target_util": 1, "cold_mult": 1, "cold_workers": WORKERS}
        site.begin(perf + ONSTART, max_workers=WORKERS, max_queue_time=QUEUE_S, target_queue_time=1, **need)
        until(lambda: site.states() == ["idle"] * WORKERS)
        return asyncio.run(overload(site, span_s))


def main() -> int:
    return conclude("overload", *run(options(__doc__, seconds=30.0).seconds))


if __name__ == "__main__":
    sys.exit(main())
