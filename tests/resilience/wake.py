"""A thousand requests at once to a gateway whose endpoint has no worker: all are answered, and one worker is started.

The second time the gateway holds none: each is told when to come back, and comes.

`python -m tests.resilience wake --requests 1000`
"""

import asyncio
import resource
import sys
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

from posthouse.client import AsyncClient
from tests.kit.gateways import gateway
from tests.resilience.engine import end_of
from tests.resilience.site import Ground, conclude, ground, options, until
from tests.resilience.streams import ONSTART, session

MAX_CALLS = 4
"""A time that is told and right leads to an answer at the second call; a queue of a thousand may be a few more."""
TIMEOUT_S = 300.0


@dataclass
class Seen:
    """What callers saw."""

    answered_at: list[float] = field(default_factory=list)
    told: list[tuple[float, float]] = field(default_factory=list)
    """When callers were told to come back, and after how many seconds."""
    calls: list[int] = field(default_factory=list)
    """How many each made."""
    wrong: list[str] = field(default_factory=list)


async def _caller(http: aiohttp.ClientSession, url: str, user: str, seen: Seen) -> None:
    """One request, made again when it is told to."""
    body = {"model": "drill", "user": user, "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}
    for call in range(1, MAX_CALLS + 1):
        async with http.post(f"{url}/chat/completions", json=body) as answer:
            text = await answer.text()
            if answer.status == 200 and "[DONE]" in text:
                seen.answered_at.append(time.monotonic())
                seen.calls.append(call)
                return
            after = answer.headers.get("Retry-After", "")
            if answer.status != 503 or not after.isdigit():
                seen.wrong.append(f"status {answer.status}, Retry-After {after!r}: {text[:200]}")
                return
            seen.told.append((time.monotonic(), float(after)))
        await asyncio.sleep(float(after))
    seen.wrong.append(f"{user} was told to come back {MAX_CALLS} times")


async def crowd(site: Ground, url: str, name: str, count: int) -> tuple[dict[str, Any], list[str]]:
    """All at once, at an endpoint without a worker."""
    seen, began = Seen(), time.monotonic()
    async with session(site) as http, AsyncClient(site.url, site.key) as owner:
        before = {row.id for row in await owner.workers("drill", gone=True)}
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*(_caller(http, url, f"{name}-{i}", seen) for i in range(count)))
        made = {row.id for row in await owner.workers("drill", gone=True)} - before
    first_s = min(seen.answered_at, default=began) - began
    figures: dict[str, Any] = {
        "requests": count,
        "answered": len(seen.answered_at),
        "first_answer_s": round(first_s, 1),
        "all_answered_s": round(max(seen.answered_at, default=began) - began, 1),
        "workers_started": len(made),
    }
    if seen.told:
        figures |= {"told_to_come_back": len(seen.told), "calls_at_most": max(seen.calls, default=0)}
        late_s = [at - began + after_s - first_s for at, after_s in seen.told if at - began < first_s]
        figures["told_s_beyond_the_first_answer"] = [round(f(late_s), 1) for f in (min, median, max)]
    violations = [f"{name}: {wrong}" for wrong in seen.wrong]
    violations += [f"{name}: {len(made)} workers were started"] if len(made) != 1 else []
    return figures, violations


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * count)), hard))
    with ground(providers__process__slots=4) as site:
        kept = site.directory / "kept"
        kept.touch()
        end_of(kept).touch()  # answers end as soon as they have begun
        scaling: dict[str, Any] = {"min_load": 0, "cold_workers": 0, "cold_mult": 1, "max_workers": 1}
        site.begin(ONSTART, env=f"-p 3000:3000 -e KEPT={kept}", inactivity_timeout=5, **scaling)
        with gateway(site, "--log-level", "error") as url:
            figures, violations = asyncio.run(crowd(site, url, "held", count))
        until(lambda: not site.states(), timeout_s=TIMEOUT_S)
        with gateway(site, "--log-level", "error", "--hold-s", "0") as url:
            told, wrong = asyncio.run(crowd(site, url, "told", count))
    return {"held": figures, "told when to come back": told}, violations + wrong


def main() -> int:
    return conclude("wake", *run(options(__doc__, requests=1000).requests))


if __name__ == "__main__":
    sys.exit(main())
