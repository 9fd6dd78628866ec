"""A thousand callers at once with one key that has limits, through a gateway: never over, and no false refusal.

`python -m tests.resilience limits --callers 1000`
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.gateways import World, gateway_world
from tests.resilience.site import conclude, options

TOKENS = 2
"""That the engine's stand-in generates for a request, and that each asks for."""
AT_ONCE, EACH = 50, 10
MAX_FALSE = 0.01


async def ask(http: aiohttp.ClientSession, world: World, key: str) -> int:
    """The status of one answer, once all of it is there."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS}
    headers = {"Authorization": f"Bearer {key}"}
    async with http.post(f"{world.url}/chat/completions", json=body, headers=headers) as answer:
        await answer.read()
        if answer.status == 429:
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers.get("x-ratelimit-limit-tokens", "") or "at once" in await answer.text()
        return answer.status


async def in_one_moment(http: aiohttp.ClientSession, world: World, callers: int) -> tuple[dict[str, Any], list[str]]:
    """As many callers as have twice what may be had in a minute."""
    per_minute = callers * TOKENS // 2
    made = world.manage.create_key("one moment", "route", work_per_minute=per_minute)
    began = time.monotonic()
    statuses = await asyncio.gather(*(ask(http, world, made.key) for _ in range(callers)))
    took_s, answered = time.monotonic() - began, statuses.count(200)
    may = per_minute * (1 + took_s / 60) / TOKENS
    false = max(0, per_minute // TOKENS - answered)
    figures = {
        "callers": callers,
        "tokens_per_minute": per_minute,
        "answered": answered,
        "most_that_may_be": round(may, 1),
        "refused": statuses.count(429),
        "false_refusals": false,
        "took_s": round(took_s, 2),
    }
    violations = [f"{answered} were answered, and {may:.1f} may be"] if answered > may else []
    violations += [f"{false} refused falsely"] if false > MAX_FALSE * callers else []
    others = set(statuses) - {200, 429}
    return figures, violations + ([f"answered with {others}"] if others else [])


async def one_after_another(http: aiohttp.ClientSession, world: World) -> tuple[dict[str, Any], list[str]]:
    """As many callers as may be at once, each of which asks again as soon as it has its answer."""
    made = world.manage.create_key("one after another", "route", at_once=AT_ONCE)

    async def caller() -> list[int]:
        return [await ask(http, world, made.key) for _ in range(EACH)]

    statuses = [status for each in await asyncio.gather(*(caller() for _ in range(AT_ONCE))) for status in each]
    refused = len(statuses) - statuses.count(200)
    figures = {"at_once": AT_ONCE, "requests_of_those": len(statuses), "false_refusals_of_those": refused}
    return figures, [f"{refused} refused falsely"] if refused > MAX_FALSE * len(statuses) else []


async def both(world: World, callers: int) -> tuple[dict[str, Any], list[str]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
        figures, violations = await in_one_moment(http, world, callers)
        more, others = await one_after_another(http, world)
    return figures | more, violations + others


def run(callers: int) -> tuple[dict[str, Any], list[str]]:
    with (
        tempfile.TemporaryDirectory(prefix="posthouse-drill-") as site,
        tempfile.TemporaryDirectory(prefix="posthouse-drill-") as folder,
        gateway_world(Path(site), Path(folder)) as world,
    ):
        return asyncio.run(both(world, callers))


def main() -> int:
    return conclude("limits", *run(options(__doc__, callers=1000).callers))


if __name__ == "__main__":
    sys.exit(main())
