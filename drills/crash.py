"""Kills the server again and again under load, and restarts it in place: nothing routed fails, no worker is lost.

`python -m drills.crash --kills 200 --restarts 20`
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import aiohttp
import psutil
from tests.e2e.test_restart import CLIENTS

from drills.site import Ground, conclude, ground, options, until
from drills.traffic import Traffic, session
from posthouse.cli.serve import RESTART

RATE = 100.0
"""Requests per second while the server is killed."""
CLIENT_RATE = 50.0
"""Requests per second of the unmodified client while the server is restarted in place; it takes more of a machine."""
WORKERS = 2
ONSTART = """
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 100 --slots 32 --load-s 0 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --parallel 32 --perf 3200
"""
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


def _workers(site: Ground) -> set[int]:
    """The processes of workers."""
    return {p.pid for p in site.processes()}


async def kills(site: Ground, count: int, seed: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Kills the server `count` times, at random moments."""
    die, traffic = random.Random(seed), Traffic(site.url, site.key, cost=5.0, endpoint="drill", patient=True)
    traffic.payload = {"inputs": "Hi", "parameters": {"max_new_tokens": 5}}
    before = _workers(site)
    back_s: list[float] = []
    async with session() as http:
        load = asyncio.create_task(traffic.send(http, RATE, 1e9))
        for _ in range(count):
            await asyncio.sleep(die.uniform(0.2, 2.0))
            assert site.server is not None
            server, site.server = site.server, None
            server.send_signal(signal.SIGKILL)
            await asyncio.to_thread(server.communicate)
            began = time.monotonic()
            starting = asyncio.create_task(asyncio.to_thread(site.start_again))
            back_s.append(await _back(site, http, began))
            await starting
        load.cancel()
        left = await traffic.finished(30.0)
    after = _workers(site)
    instances = len([p for p in (site.directory / "posthouse-data" / "workers").iterdir() if p.name[:4] == "post"])
    back_s.sort()
    figures = {
        "kills": count,
        "requests": traffic.asked,
        "routed": traffic.routed,
        "answered": len(traffic.answered_at),
        "routed_and_failed": len(traffic.broken),
        "back_s_median_worst": [round(back_s[len(back_s) // 2], 2), round(back_s[-1], 2)] if back_s else [],
        "workers_lost_or_new": len(before ^ after),
        "instances": instances,
    }
    violations = [f"a routed request failed: {b}" for b in traffic.broken]
    violations += [f"a call was answered with an error: {r}" for r in traffic.refused]
    violations += [f"{left} requests had no end after 30 s"] if left else []
    violations += [f"the workers' processes are not the same: {sorted(before ^ after)}"] if before != after else []
    violations += [f"{instances} instances, not {WORKERS}"] if instances != WORKERS else []
    late = [s for s in back_s if s > BACK_S]
    violations += [f"routing was back after {late} s"] if late else []
    return figures, violations


def restarts(site: Ground, count: int) -> tuple[dict[str, Any], list[str]]:
    """Restarts the server in place `count` times under unmodified clients."""
    argv = [sys.executable, "-W", "ignore", "-c", CLIENTS, site.url, site.key, str(CLIENT_RATE), "drill"]
    pipe = subprocess.PIPE
    clients = subprocess.Popen(argv, env=site.environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    before = _workers(site)
    took_s: list[float] = []
    violations: list[str] = []
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline()
        for _ in range(count):
            old, began = site.owner(), time.monotonic()
            os.kill(old, RESTART)
            until(lambda old=old: site.owner() not in (0, old), 90.0)
            until(lambda old=old: not _lives(old))
            took_s.append(time.monotonic() - began)
        said, complaint = clients.communicate("", timeout=120)
    finally:
        clients.kill()
    told: dict[str, Any] = (
        json.loads(said) if clients.returncode == 0 else {"asked": 0, "right": 0, "errors": [complaint[-500:]]}
    )
    if _workers(site) != before:
        violations.append("the workers' processes are not the same")
    violations += [f"a client saw an error: {error}" for error in told["errors"]]
    violations += ["a request had no answer"] if told["right"] != told["asked"] else []
    figures = {
        "restarts_in_place": count,
        "unmodified_requests": told["asked"],
        "answered_right": told["right"],
        "client_errors": len(told["errors"]),
        "restart_s_mean": round(sum(took_s) / max(1, len(took_s)), 1),
    }
    return figures, violations


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def crash(kill_count: int, restart_count: int) -> tuple[dict[str, Any], list[str]]:
    """Both, one after the other, with the workers of the agent."""
    with ground(providers__process__slots=4, engine__calm_s=60) as site:
        site.begin(ONSTART, min_load=3000, cold_workers=0, cold_mult=1, max_workers=WORKERS)
        until(lambda: site.states() == ["idle"] * WORKERS)
        figures, violations = asyncio.run(kills(site, kill_count))
        if restart_count:
            more, broken = restarts(site, restart_count)
            figures, violations = figures | more, violations + broken
        return figures, violations


def main() -> int:
    chosen = options(__doc__, kills=200, restarts=20)
    return conclude("crash", *crash(chosen.kills, chosen.restarts))


if __name__ == "__main__":
    sys.exit(main())
