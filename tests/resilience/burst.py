"""Thousands of requests within a second when there is no worker: each is answered in the end, and memory stays bounded.

`python -m tests.resilience burst --requests 3000`
"""

import asyncio
import json
import resource
import sys
import time
from typing import Any

import aiohttp

from tests.resilience.site import ONSTART, Ground, conclude, ground, options
from tests.resilience.traffic import Traffic, session

WORKERS, SLOTS, SERVICE_S = 4, 50, 0.2
MAX_MORE_MB = 100.0
"""By which the server may grow: 30 KB for each of 3,000 requests that are held, their connections included."""
TIMEOUT_S = 120.0


async def _call(
    traffic: Traffic, http: aiohttp.ClientSession, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> float:
    """Makes the first call of a request on a connection of its own, and goes on from there; when it was written."""
    body = json.dumps(traffic.ask(0)).encode()
    writer.write(b"POST /route/ HTTP/1.1\r\nhost: drill\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    sent_at = time.monotonic()
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        raw = await reader.readexactly(length)
        if head.split()[1] == b"200":
            traffic.begin(http, json.loads(raw))
        else:
            traffic.refused.append(f"{head.split()[1]!r}: {raw[:200]!r}")
    except (OSError, EOFError) as error:
        traffic.refused.append(repr(error))
    finally:
        writer.close()
    return sent_at


async def burst(site: Ground, count: int) -> tuple[dict[str, Any], list[str]]:
    traffic = Traffic(site.url, site.key, {"pieces": 1, "piece_s": SERVICE_S / 2}, cost=1.0)
    process = site.process()
    before_mb = most_mb = process.memory_info().rss / 1e6
    lines = [await asyncio.open_connection(*site.url.removeprefix("http://").split(":")) for _ in range(count)]
    async with session() as http:
        began = time.monotonic()
        calls = [asyncio.create_task(_call(traffic, http, *line)) for line in lines]
        sent_s = await asyncio.gather(*calls)
        begun_s = max(sent_s) - began
        finishing = asyncio.create_task(traffic.finished(TIMEOUT_S))
        while not finishing.done():
            most_mb = max(most_mb, process.memory_info().rss / 1e6)
            await asyncio.sleep(0.2)
        left, took_s = await finishing, time.monotonic() - began
    answered = len(traffic.answered_at)
    figures = {
        "requests": count,
        "begun_within_s": round(begun_s, 2),
        "answered": answered,
        "told_to_wait": traffic.waited,
        "refused": len(traffic.refused),
        "first_answer_s": round(min(traffic.answered_at, default=began) - began, 1),
        "all_answered_s": round(took_s, 1),
        "rss_mb_before_most": [round(before_mb), round(most_mb)],
    }
    violations = [f"a call was refused: {r}" for r in traffic.refused]
    violations += [f"a routed request broke: {b}" for b in traffic.broken]
    violations += [f"{count - answered} requests were lost, {left} of them still wait"] if answered < count else []
    violations += [f"the load took {begun_s:.1f} s to be sent"] if begun_s > 1.0 else []
    violations += [f"memory grew by {most_mb - before_mb:.0f} MB"] if most_mb - before_mb > MAX_MORE_MB else []
    return figures, violations


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * count)), hard))
    with ground(providers__process__slots=WORKERS) as site:
        perf = f"export DRILL_PERF={SLOTS / SERVICE_S:g} DRILL_SLOTS={SLOTS}\n"
        site.begin(perf + ONSTART, min_load=0, cold_workers=0, cold_mult=1, max_workers=WORKERS)
        return asyncio.run(burst(site, count))


def main() -> int:
    return conclude("burst", *run(options(__doc__, requests=3000).requests))


if __name__ == "__main__":
    sys.exit(main())
