"""Kills a worker, the gateway and the server under 200 streams, and cancels 1,000: what each client sees.

`python -m tests.resilience streams --streams 200 --cancels 1000`
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import aiohttp

from posthouse.client import AsyncClient, Client
from tests.resilience.engine import end_of
from tests.resilience.site import Ground, conclude, ground, options, until

WORKERS = 4
TIMEOUT_S = 120.0
MAX_FREE_MS = 100.0
"""Until a place is free whose client has left, of 99 in 100."""
ONSTART = f"""
exec "$PYTHON" -m posthouse agent --parallel 100 --perf 10000 -- "$PYTHON" {Path(__file__).with_name("engine.py")} \
  "$MODEL_PORT" "$KEPT"
"""


class Streams:
    """Clients of the gateway, and what became of each."""

    def __init__(self, site: Ground, kept: Path) -> None:
        self.site = site
        self.kept = kept
        self.gateway: subprocess.Popen[str] | None = None
        self.url = ""
        self.begun: set[str] = set()
        """The users whose first event has come."""

    def open(self) -> None:
        """Starts a gateway where the last one was."""
        listen = self.url.removeprefix("http://").removesuffix("/v1") or "127.0.0.1:0"
        argv = [sys.executable, "-m", "posthouse", "gateway", "--json", "--listen", listen, "--log-level", "error"]
        self.gateway = subprocess.Popen(
            argv, cwd=self.site.directory, env=self.site.environ, stdout=subprocess.PIPE, text=True
        )
        assert self.gateway.stdout is not None
        self.url = json.loads(self.gateway.stdout.readline())["url"]

    def kill(self) -> None:
        assert self.gateway is not None
        self.gateway.kill()
        self.gateway.communicate()

    def ready(self, count: int) -> bool:
        """Whether so many workers are."""
        with Client(self.site.url, self.site.key) as owner:
            return [row.state for row in owner.workers("drill")].count("idle") == count

    async def stream(self, http: aiohttp.ClientSession, user: str, cut: bool = False) -> str:
        """What a client sees of one stream. `cut`: it leaves after the first event."""
        body = {"model": "drill", "user": user, "stream": True, "max_tokens": 100}
        body["messages"] = [{"role": "user", "content": "hello"}]
        try:
            async with http.post(f"{self.url}/chat/completions", json=body) as answer:
                if answer.status != 200:
                    return f"status {answer.status}"
                async for line in answer.content:
                    if line.startswith(b"data: [DONE]"):
                        return "whole"
                    if line.startswith(b'data: {"error"'):
                        return "told of an error" + ("" if user in self.begun else " before it began")
                    if line.startswith(b"data: "):
                        self.begun.add(user)
                        if cut:
                            return "cut"
            return "ended early"
        except aiohttp.ClientError:
            return "connection lost" if user in self.begun else "not connected"

    def rows(self, what: str) -> dict[str, float]:
        """When the engines noted this of each user, the last time."""
        rows = [json.loads(line) for line in self.kept.read_text().splitlines()]
        return {row["user"]: row["at"] for row in rows if row["what"] == what}

    async def under(self, name: str, count: int, harm: Callable[[], None]) -> Counter[str]:
        """`count` streams, all of which have begun when `harm` is done; then some more, which had not begun."""
        async with session(self.site) as http:

            async def begin(users: list[str]) -> list[asyncio.Task[str]]:
                tasks = [asyncio.create_task(self.stream(http, user)) for user in users]
                while not all(task.done() or user in self.begun for task, user in zip(tasks, users, strict=True)):
                    await asyncio.sleep(0.05)
                return tasks

            running = await begin([f"{name}-{i}" for i in range(count)])
            await asyncio.to_thread(harm)
            late = await begin([f"{name}-late-{i}" for i in range(min(count, 20))])
            end_of(self.kept).touch()
            seen = Counter(await asyncio.gather(*running))
            seen.update(f"later: {what}" for what in await asyncio.gather(*late))
        end_of(self.kept).unlink()
        self.begun.clear()
        return seen


def session(site: Ground) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {site.key}"}
    return aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(TIMEOUT_S)
    )


async def cancels(streams: Streams, count: int) -> tuple[dict[str, Any], list[str]]:
    """Each client leaves after its first event: how long until the engine is left, and until the place is free in
    the ledger.

    Raises: TimeoutError where an engine is not left.
    """
    left: dict[str, float] = {}
    free_ms: list[float] = []
    async with session(streams.site) as http, AsyncClient(streams.site.url, streams.site.key) as owner:
        for i in range(count):
            assert await streams.stream(http, f"cut-{i}", cut=True) == "cut"
            left[f"cut-{i}"] = time.monotonic()
            while any(row.outstanding for row in await owner.workers("drill")):
                await asyncio.sleep(0.002)
            free_ms.append((time.monotonic() - left[f"cut-{i}"]) * 1000)
    await asyncio.to_thread(until, lambda: len(streams.rows("given up")) == count)
    noted = streams.rows("given up")
    engine_ms = [(noted[user] - at) * 1000 for user, at in left.items()]
    free = spread(free_ms)
    figures = {"cancels": count, "engine_left_ms": spread(engine_ms), "worker_free_ms": free}
    return figures, [f"places are free after {free['p99']} ms (p99)"] if free["p99"] > MAX_FREE_MS else []


def spread(values_ms: list[float]) -> dict[str, float]:
    cut = quantiles(values_ms, n=100, method="inclusive")
    return {
        "p50": round(cut[49], 1),
        "p90": round(cut[89], 1),
        "p99": round(cut[98], 1),
        "most": round(max(values_ms), 1),
    }


async def drill(
    site: Ground, streams: Streams, count: int, cancelled: int, workers: int
) -> tuple[dict[str, Any], list[str]]:
    figures, violations = await cancels(streams, cancelled)

    def worker() -> None:
        agent = next(p for p in site.processes() if "agent" in p.cmdline())
        agent.kill()

    def server() -> None:
        os.kill(site.owner(), signal.SIGKILL)
        assert site.server is not None
        site.server.communicate()
        site.start_again()

    def gateway() -> None:
        streams.kill()
        until(lambda: sum(user.startswith("gateway-") for user in streams.rows("given up")) == count)  # all are left
        streams.open()

    seen = await streams.under("worker", count, worker)
    figures["a worker was killed"] = dict(seen)
    told = seen["told of an error"]
    if seen["whole"] + told < count or not 0 < told <= count or any("later" in w and "whole" not in w for w in seen):
        violations.append(f"after the end of a worker: {dict(seen)}")
    await asyncio.to_thread(until, lambda: streams.ready(workers))
    seen = await streams.under("server", count, server)
    figures["the server was killed"] = dict(seen)
    if set(seen) != {"whole", "later: whole"}:
        violations.append(f"after the end of the server: {dict(seen)}")
    seen = await streams.under("gateway", count, gateway)
    figures["the gateway was killed"] = dict(seen)
    if set(seen) != {"connection lost", "later: whole"}:
        violations.append(f"after the end of the gateway: {dict(seen)}")
    return figures, violations


def run(count: int, cancelled: int, workers: int = WORKERS) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=workers + 1, rates__calls_per_key=0) as site:  # it looks all the time
        kept = site.directory / "kept"
        kept.touch()
        need: dict[str, Any] = {"min_load": 9000 * workers, "target_util": 1, "cold_mult": 1, "cold_workers": 0}
        site.begin(ONSTART, env=f"-p 3000:3000 -e KEPT={kept}", max_workers=workers, **need)
        streams = Streams(site, kept)
        try:
            until(lambda: streams.ready(workers))
            streams.open()
            return asyncio.run(drill(site, streams, count, cancelled, workers))
        finally:
            if streams.gateway:
                streams.kill()


def main() -> int:
    asked = options(__doc__, streams=200, cancels=1000)
    return conclude("streams", *run(asked.streams, asked.cancels))


if __name__ == "__main__":
    sys.exit(main())
