"""Measures the hot path side by side with a constant answer: `python -m benchmarks.route [--quick]`.

The constant answer, `constant`, is the smallest ASGI application on uvicorn with httptools and uvloop. Servers run on
one core, the load on the other. Measured sides alternate and medians are taken, for machines are noisy. The bars are of
processor time, which other programs hardly change.

Prints a table and writes `benchmarks/results/route.json`.
"""

import argparse
import json
import multiprocessing as mp
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

from benchmarks.route.load import Seen, measure, post, report, reporting
from benchmarks.route.servers import SECRET, SITES, SIZES, echo, serve
from posthouse.server.auth import Keyring, Scope
from posthouse.signing.rsa import RsaKey

RESULTS = Path(__file__).parents[1] / "results" / "route.json"
LOAD_CORE = 1
ROUTES = (*(str(n) for n in SIZES), "granted")
BESIDE = ("own constant", "fast constant")
"""What tells where the time of a route goes: the constant answer on our own HTTP server, and in place of a route."""

BARS = (
    # What, where in the result, and the least or the most that it may be.
    ("100 workers, to the constant answer", ("routes", "100", "cpu_ratio"), ">=", 1.0),
    ("10,000 workers", ("routes", "10000", "cpu_ratio"), ">=", 0.9),
    ("100 workers, with grants", ("routes", "granted", "cpu_ratio"), ">=", 0.85),
    ("a report, in routes", ("reports", "routes"), "<=", 2.5),
    ("signed one by one, to bare RSA-2048", ("signed", "cpu_ratio"), ">=", 0.6),
    ("memory of 100 endpoints of 100 workers, MB", ("rss_mb",), "<=", 300.0),
)


def bare(span_s: float) -> tuple[float, float]:
    """RSA-2048 signatures per second that threads on every core can make, with nothing else to do.

    And the microseconds of processor time that each takes.
    """
    signer = RsaKey.generate()
    began_at, used_s = time.perf_counter(), time.process_time()

    def sign() -> int:
        count = 0
        while time.perf_counter() - began_at < span_s:
            signer.sign(b'{"cost": 100, "reqnum": %d}' % count)
            count += 1
        return count

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        counts = [threads.submit(sign) for _ in range(os.cpu_count() or 1)]
        total = sum(c.result() for c in counts)
    return total / (time.perf_counter() - began_at), (time.process_time() - used_s) / total * 1e6


@contextmanager
def awake(pid: int) -> Iterator[None]:
    """Lets a server run for a while: all others stand still, or their timers would take their part of the cores."""
    server = psutil.Process(pid)
    server.resume()
    try:
        yield
    finally:
        server.suspend()


@dataclass(slots=True)
class Measurement:
    """The servers, and what is measured of them."""

    ports: dict[str, int]
    pids: dict[str, int]
    rounds: int
    span_s: float
    request: bytes
    result: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> dict[str, Any]:
        """Every measurement, with progress on the terminal."""
        both_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {LOAD_CORE})
        generator = await self._load("echo")
        print(f"the load itself can do {generator.rps:,.0f} requests/s against a server that only echoes")
        self.result["generator_rps"] = round(generator.rps)
        await self._routes()
        await self._reports()
        os.sched_setaffinity(0, both_cores)
        await self._signed(len(both_cores))
        return self.result

    async def _load(self, name: str) -> Seen:
        with awake(self.pids[name]):
            return await measure(self.ports[name], self.pids[name], self.request, self.span_s)

    async def _routes(self) -> None:
        constants = [await self._load("constant")]
        seen: dict[str, list[Seen]] = {name: [] for name in (*ROUTES, *BESIDE)}
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in seen}
        for i in range(self.rounds):
            for name, mine in seen.items():  # a constant answer before and after each: C 10 C 100 C 1000 C 10000 C ...
                mine.append(await self._load(name))
                constants.append(await self._load("constant"))
                a, b, it = constants[-2], constants[-1], mine[-1]
                ratios[name].append((2 * it.rps / (a.rps + b.rps), (a.cpu_us + b.cpu_us) / 2 / it.cpu_us))
            shown = "  ".join(
                f"{name}: {mine[-1].cpu_us:.1f} ({ratios[name][-1][1]:.2f})" for name, mine in seen.items()
            )
            print(f"round {i + 1}/{self.rounds}, µs  constant: {constants[-1].cpu_us:.1f}  {shown}", flush=True)
        rows = {
            name: {
                "rps": round(median(s.rps for s in mine)),
                "ratio": round(median(by_clock for by_clock, _ in ratios[name]), 3),
                "p50_ms": round(median(s.p50_ms for s in mine), 2),
                "p99_ms": round(median(s.p99_ms for s in mine), 2),
                "cpu_us": round(median(s.cpu_us for s in mine), 1),
                "cpu_ratio": round(median(by_cpu for _, by_cpu in ratios[name]), 3),
            }
            for name, mine in seen.items()
        }
        self.result["constant_rps"] = round(median(s.rps for s in constants))
        self.result["constant_cpu_us"] = round(median(s.cpu_us for s in constants), 1)
        self.result["routes"] = {name: rows[name] for name in ROUTES}
        self.result["beside"] = {name: rows[name] for name in BESIDE}

    async def _reports(self) -> None:
        """What a report costs while an endpoint routes: what the reports add to the processor time of the routes."""
        keyring = Keyring(SECRET, [], lambda _: None)
        reports = [report(keyring, i) for i in range(1, 10_001)]
        port, pid = self.ports["100x100"], self.pids["100x100"]
        costs, arrived, cpu_us = [], [], []
        for i in range(self.rounds):
            with awake(pid):
                quiet = await measure(port, pid, self.request, self.span_s)
                per_s, busy = await reporting(port, reports, lambda: measure(port, pid, self.request, self.span_s))
            cpu_us.append((busy.cpu_us - quiet.cpu_us) * busy.rps / per_s)
            costs.append(cpu_us[-1] / quiet.cpu_us)
            arrived.append(per_s)
            print(
                f"reports {i + 1}/{self.rounds}  {per_s:,.0f}/s of {cpu_us[-1]:.0f} µs: {costs[-1]:.2f} routes each",
                flush=True,
            )
        self.result["reports"] = {
            "per_s": round(median(arrived)),
            "cpu_us": round(median(cpu_us), 1),
            "routes": round(median(costs), 2),
        }
        self.result["rss_mb"] = round(psutil.Process(pid).memory_info().rss / 1e6, 1)

    async def _signed(self, cores: int) -> None:
        alone, signed = [bare(self.span_s)], []
        for i in range(self.rounds):
            signed.append(await self._load("signed"))
            alone.append(bare(self.span_s))
            print(f"signed {i + 1}/{self.rounds}  bare: {alone[-1][0]:,.0f}  routed: {signed[-1].rps:,.0f}", flush=True)
        beside = [((a + b) / 2, (a_us + b_us) / 2) for (a, a_us), (b, b_us) in pairwise(alone)]
        pairs = list(zip(signed, beside, strict=True))
        self.result["signed"] = {
            "rps": round(median(s.rps for s in signed)),
            "bare_rps": round(median(rps for rps, _ in alone)),
            # What the load takes of the cores, a server and `bare` have to themselves.
            "ratio": round(median(s.rps / rps / (1 - s.rps * s.load_cpu_us / 1e6 / cores) for s, (rps, _) in pairs), 3),
            "cpu_us": round(median(s.cpu_us for s in signed), 1),
            "load_cpu_us": round(median(s.load_cpu_us for s in signed), 1),
            "bare_cpu_us": round(median(us for _, us in alone), 1),
            "cpu_ratio": round(median(us / s.cpu_us for s, (_, us) in pairs), 3),
        }


def machine() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'':>14} {'requests/s':>11} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} {'cpu µs':>7} {'ratio':>6}"]
    lines.append(
        f"{'constant':>14} {result['constant_rps']:>11,} {1:>6.2f} {result['constant_cpu_us']:>23.1f} {1:>6.2f}"
    )
    for name, row in (result["routes"] | result["beside"]).items():
        lines.append(
            f"{name:>14} {row['rps']:>11,} {row['ratio']:>6.2f} {row['p50_ms']:>7.2f} {row['p99_ms']:>7.2f} "
            f"{row['cpu_us']:>7.1f} {row['cpu_ratio']:>6.2f}"
        )
    signed, reports = result["signed"], result["reports"]
    lines += [
        f"signed one by one: {signed['rps']:,}/s, bare RSA-2048 {signed['bare_rps']:,}/s; processor time: bare "
        f"{signed['bare_cpu_us']:.0f} µs, server {signed['cpu_us']:.0f} µs, load {signed['load_cpu_us']:.0f} µs",
        f"a report, {reports['per_s']:,} of them a second: {reports['cpu_us']:.0f} µs",
        f"limit of the load: {result['generator_rps']:,} requests/s; {result['machine']}",
        "",
        *(
            f"{'met   ' if row['met'] else 'MISSED'} {what}: {row['measured']:g} ({row['bar']})"
            for what, row in result["bars"].items()
        ),
    ]
    return "\n".join(lines)


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """Each bar, and whether the result meets it."""
    rows = {}
    for what, path, sign, bar in BARS:
        value: Any = result
        for name in path:
            value = value[name]
        rows[what] = {
            "measured": value,
            "bar": f"{sign} {bar:g}",
            "met": value >= bar if sign == ">=" else value <= bar,
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds; less exact")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    rounds, span_s = (2, 0.6) if options.quick else (5, 2.0)
    record, key = Keyring(SECRET, [], lambda _: None).mint("bench", Scope.ROUTE, time.time())
    request = post("/route/", {"endpoint": "bench-1", "api_key": key, "cost": 100, "request_idx": 0}, key)

    spawn = mp.get_context("spawn")
    processes: dict[str, tuple[BaseProcess, Connection]] = {}
    try:
        for site in (None, *SITES):
            here, there = spawn.Pipe()
            target, args = (echo, (there,)) if site is None else (serve, (site, record, there))
            process: BaseProcess = spawn.Process(target=target, args=args, daemon=True)
            process.start()
            processes["echo" if site is None else site.name] = process, here
        ports = {name: pipe.recv() for name, (_, pipe) in processes.items() if pipe.poll(60)}
        pids = {name: process.pid or 0 for name, (process, _) in processes.items()}
        for pid in pids.values():
            psutil.Process(pid).suspend()
        result = uvloop.run(Measurement(ports, pids, rounds, span_s, request).run())
    finally:
        for process, _ in processes.values():
            process.kill()
            process.join()
    packages = ("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "cryptography")
    result |= {
        "bars": judged(result),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
    }
    print(table(result))
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
