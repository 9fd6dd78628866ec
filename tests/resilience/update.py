"""Updates a fleet under 50 requests per second: a good version, one that errs, one that does not start.

`python -m tests.resilience update`
"""

import asyncio
import sys
import time
from typing import Any

import aiohttp

from tests.resilience.site import ONSTART, Ground, conclude, ground, options
from tests.resilience.traffic import Traffic, session

RATE = 50.0
HOT, RESTING = 3, 1
PIECES = {"pieces": 4, "piece_s": 0.05}
VERSIONS = {
    "good": ("export DRILL_VERSION=2", "done"),
    "errs": ("export DRILL_VERSION=3 DRILL_ERRORS=0.3", "rolled back"),
    "does_not_start": ("export DRILL_VERSION=4 DRILL_ERRORS=0; sleep 1; exit 3", "rolled back"),
}
WINDOW_S = 60.0
"""For how long requests are counted at least, from the change of the template."""
MAX_FAILED = 0.01
"""The share of requests that a version that is rolled back may have failed, from its update until all is as before."""
TIMEOUT_S = 300.0


async def _status(site: Ground, http: aiohttp.ClientSession) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How far the update is, and the workers."""
    headers = {"Authorization": f"Bearer {site.key}"}
    async with http.get(f"{site.url}/v1/status", headers=headers) as reply:
        [standing] = (await reply.json())["standing"]
    async with http.get(f"{site.url}/v1/workers", headers=headers) as reply:
        workers = await reply.json()
    return next(iter(standing["updates"]), {}), workers


async def _update(site: Ground, http: aiohttp.ClientSession, what: str, wanted: str) -> dict[str, Any]:
    """Changes the template and waits for the end of the update; what it came to."""
    (site.directory / "next.sh").write_text(f"{what}\n{ONSTART}")
    before, _ = await _status(site, http)
    began = time.monotonic()
    done = await asyncio.to_thread(site.run, "template", "update", "drill", "--onstart", "next.sh")
    assert done.returncode == 0, done.stderr
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            update, workers = await _status(site, http)
            over = update.get("target") != before.get("target") and update["phase"] in ("done", "rolled back")
            if over and not any(worker["update"] for worker in workers):
                break
            await asyncio.sleep(0.2)
    took_s = round(time.monotonic() - began, 1)
    ready = sum(worker["state"] == "idle" for worker in workers)
    return {"seconds": took_s, "phase": update["phase"], "as_wanted": update["phase"] == wanted, "ready": ready} | (
        {"reason": update["reason"]} if update["reason"] else {}
    )


async def updates(site: Ground, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    figures: dict[str, Any] = {}
    violations: list[str] = []
    async with session() as http, asyncio.timeout(TIMEOUT_S * (1 + len(names))):
        while [w["state"] for w in (await _status(site, http))[1]].count("idle") < HOT:
            await asyncio.sleep(0.2)
        for name in names:
            what, wanted = VERSIONS[name]
            traffic = Traffic(site.url, site.key, PIECES, cost=1.0)
            sending = asyncio.create_task(traffic.send(http, RATE, TIMEOUT_S))
            began = time.monotonic()
            found = await _update(site, http, what, wanted)
            await asyncio.sleep(max(0.0, WINDOW_S - (time.monotonic() - began)))
            sending.cancel()
            left = await traffic.finished(60.0)
            failed = len(traffic.broken) + len(traffic.refused) + left
            how = {"at_workers": len(traffic.broken), "at_the_server": len(traffic.refused), "without_end": left}
            figures[name] = found | {"requests": traffic.asked, "failed": failed, **how}
            if not found["as_wanted"]:
                violations.append(f"{name}: the update ended as {found['phase']}: {found.get('reason')}")
            if failed > (0 if name == "good" else MAX_FAILED * traffic.asked):
                violations.append(f"{name}: {failed} of {traffic.asked} requests failed: {traffic.broken[:3]}")
    return figures, violations


def run(canary_s: float, *names: str) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=HOT + RESTING + 2, engine__canary_s=canary_s) as site:
        need: dict[str, Any] = {"min_load": 100 * HOT, "target_util": 1, "cold_mult": 1, "cold_workers": HOT + RESTING}
        site.begin(max_workers=HOT + RESTING + 2, **need)
        return asyncio.run(updates(site, list(names or VERSIONS)))


def main() -> int:
    return conclude("update", *run(options(__doc__, canary_s=20.0).canary_s))


if __name__ == "__main__":
    sys.exit(main())
