"""Measures `/route/` for callers with a good key, with and without an attack: `python -m benchmarks.attack [KIND...]`

For each kind of attack the same callers are measured in calm, under the attack, and in calm again, against one server.
Attackers come from the same address as the callers, and run where a processor is idle: real ones are elsewhere, and
take nothing of its processors but what the server does for them. Prints a table and writes
`benchmarks/results/attack.json`.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from tests.cases import server

from posthouse.client import Client
from posthouse.server.auth import Keyring

RESULTS = Path(__file__).parent / "results" / "attack.json"
RATE = 100.0
"""Calls of the good callers per second; every fifth on a connection of its own."""
SPAN_S = 20.0
RAMP_S = 10.0
BAR = 2.0
"""Most that p99 may be under an attack, to that in calm."""
SILENT = 12_000
AGAIN_S = 4.0
"""How long an attacker waits before it connects again, once its connection was closed."""
NAME = "attacked"

Place = tuple[str, int]


async def _send(place: Place, raw: bytes, again: bool) -> None:
    """Sends `raw` on a connection, and reads until it is closed; `again`: again after each answer."""
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(*place)
        try:
            writer.write(raw)
            while await reader.read(65_536):
                if again:
                    writer.write(raw)
        finally:
            writer.close()


async def _for_ever(place: Place, raw: bytes, again: bool = False) -> None:
    while True:
        await _send(place, raw, again)
        await asyncio.sleep(AGAIN_S)


def _post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length or len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def _many(place: Place, count: int, raw: bytes, again: bool = False) -> None:
    tasks = []
    for i in range(count):
        tasks.append(asyncio.create_task(_for_ever(place, raw, again)))
        if i % 100 == 0:
            await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)


def silent(place: Place, worker_id: int, token: str) -> None:
    """More connections than the server serves, and not a word on any."""
    asyncio.run(_many(place, SILENT, b""))


def halves(place: Place, worker_id: int, token: str) -> None:
    """A thousand bodies that lack their end, again and again: a gigabyte, if it were kept."""
    asyncio.run(_many(place, 1000, _post("/api/v0/endptjobs/", b" " * 1_000_000, length=1_048_000)))


def keys(place: Place, worker_id: int, token: str) -> None:
    """Wrong keys, one after another."""
    body = json.dumps({"endpoint": NAME, "cost": 1, "api_key": f"ph_00000000_{'x' * 43}"}).encode()
    asyncio.run(_many(place, 4, _post("/route/", body), again=True))


def reports(place: Place, worker_id: int, token: str) -> None:
    """The longest reports that are legal, of one worker, one after another."""
    report = {"id": worker_id, "mtoken": token, "version": "0.2.0", "max_perf": 10, "cur_load": 0}
    body = json.dumps({**report, "working_request_idxs": list(range(10**15, 10**15 + 10_000))}).encode()
    asyncio.run(_many(place, 2, _post("/worker_status/", body), again=True))


ATTACKS: dict[str, Callable[[Place, int, str], None]] = {f.__name__: f for f in (silent, halves, keys, reports)}


async def calls(url: str, key: str) -> tuple[list[float], int]:
    """How long each call of the good callers took, in ms, and how many were refused."""
    took_ms: list[float] = []
    refused = 0
    body, headers = {"endpoint": NAME, "cost": 1}, {"Authorization": f"Bearer {key}"}

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal refused
        began = time.perf_counter()
        try:
            async with session.post(f"{url}/route/", json=body, headers=headers) as reply:
                text = await reply.text()
                refused += reply.status != 200 or "too many" in text
        except (aiohttp.ClientError, OSError, TimeoutError):
            refused += 1
        took_ms.append((time.perf_counter() - began) * 1000)

    limit = aiohttp.ClientTimeout(20)
    fresh = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(timeout=limit) as kept,
        aiohttp.ClientSession(timeout=limit, connector=fresh) as new,
    ):
        began, tasks = time.perf_counter(), []
        for i in range(int(RATE * SPAN_S)):
            await asyncio.sleep(max(0.0, began + i / RATE - time.perf_counter()))
            tasks.append(asyncio.create_task(one(new if i % 5 == 0 else kept)))
        await asyncio.gather(*tasks)
    return took_ms, refused


def summary(took_ms: list[float], refused: int) -> dict[str, float]:
    return {
        "p50_ms": round(median(took_ms), 2),
        "p99_ms": round(quantiles(took_ms, n=100)[98], 2),
        "calls": len(took_ms),
        "refused": refused,
    }


def attack(kind: str, *args: Any) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    ATTACKS[kind](*args)


def measure(kind: str, environ: dict[str, str], server_pid: int, worker: tuple[int, str]) -> dict[str, Any]:
    """One attack, with calm before and after it."""
    url, key = environ["POSTHOUSE_URL"], environ["POSTHOUSE_API_KEY"]
    parts = urlsplit(url)
    place, process = (parts.hostname or "", parts.port or 0), psutil.Process(server_pid)
    before, before_mb = asyncio.run(calls(url, key)), process.memory_info().rss / 1e6
    attacker = mp.get_context("spawn").Process(target=attack, args=(kind, place, *worker), daemon=True)
    attacker.start()
    time.sleep(RAMP_S)
    under, under_mb = asyncio.run(calls(url, key)), process.memory_info().rss / 1e6
    files = process.num_fds()
    attacker.kill()
    attacker.join()
    time.sleep(2.0)
    after = asyncio.run(calls(url, key))
    calm, attacked = summary(before[0] + after[0], before[1] + after[1]), summary(*under)
    return {
        "calm": calm,
        "attacked": attacked,
        "ratio_p99": round(attacked["p99_ms"] / calm["p99_ms"], 2),
        "grown_mb": round(under_mb - before_mb, 1),
        "open_files": files,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(ATTACKS))
    kinds = parser.parse_args().kinds or list(ATTACKS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="posthouse-attack-") as folder:
        os.environ["POSTHOUSE_SERVER__ROUTE_HOLD_S"] = "0"
        with server(Path(folder)) as environ, Client(environ["POSTHOUSE_URL"], environ["POSTHOUSE_API_KEY"]) as owner:
            template = owner.create_template(NAME, env="-p 3000:3000", onstart="sleep 3600")
            endpoint_id = owner.create_endpoint(NAME, min_load=1, cold_workers=0, max_workers=1)
            owner.create_workergroup(endpoint_id=endpoint_id, template_id=template.id)
            while not (rows := owner.workers(NAME)):
                time.sleep(0.2)
            keyring = Keyring((Path(environ["POSTHOUSE_DATA_DIR"]) / "secret").read_bytes(), [], lambda _: None)
            worker = rows[0].id, keyring.worker_token(rows[0].id)
            pid = next(c.pid for c in psutil.Process().children() if "serve" in c.cmdline())
            for kind in kinds:
                row = found[kind] = measure(kind, environ, pid, worker)
                calm, under = row["calm"], row["attacked"]
                print(
                    f"{kind:<8} p99 {calm['p99_ms']:7.1f} -> {under['p99_ms']:7.1f} ms ({row['ratio_p99']:.2f}); "
                    f"p50 {calm['p50_ms']:.1f} -> {under['p50_ms']:.1f} ms; refused {under['refused']} of "
                    f"{under['calls']}; +{row['grown_mb']:.0f} MB, {row['open_files']} files open",
                    flush=True,
                )
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "attacks": found,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    bad = [kind for kind, row in found.items() if row["ratio_p99"] > BAR or row["attacked"]["refused"]]
    print(f"all within {BAR:g} times" if not bad else f"beyond the bar: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
