"""How fast the model server is, measured once."""

import asyncio
import logging
import math
import os
import time
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import ClientError, ClientSession

from posthouse.agent.settings import AgentSettings
from posthouse.agent.workload import MAX_WORK, workload_rule

log = logging.getLogger(__name__)

_RESULT_FILE: Final = ".has_benchmark"  # the peer's name and form: one number, work per second
_COST: Final = 100.0  # work of a request that announces none; the protocol's own default


class BenchmarkFailed(Exception):
    """The model server did not answer the benchmark; the text says how."""


async def measured_perf(session: ClientSession, settings: AgentSettings) -> float:
    """Return the best throughput of some rounds of requests, or what an earlier run in this directory found.

    Units: work per second. Raises: BenchmarkFailed.
    """
    file = settings.directory / _RESULT_FILE
    if (known := _read(file)) is not None:
        log.info("benchmark: known from before, %g work/s", known)
        return known
    benchmark = settings.benchmark
    work = benchmark.work or workload_rule(settings.workload)(benchmark.payload, _COST)
    concurrency = min(benchmark.concurrency, settings.parallel or benchmark.concurrency)
    await _request(session, settings)  # the first request is slow on many servers
    best = 0.0
    for run in range(1, benchmark.runs + 1):
        started_at = time.perf_counter()
        answers = await asyncio.gather(
            *(_request(session, settings) for _ in range(concurrency)), return_exceptions=True
        )
        elapsed_s = time.perf_counter() - started_at
        failures = [answer for answer in answers if answer is not None]
        if len(failures) == concurrency:
            raise failures[0]
        perf = (concurrency - len(failures)) * work / elapsed_s
        log.info("benchmark: run %d of %d, %g work/s, %d failed", run, benchmark.runs, perf, len(failures))
        best = max(best, perf)
    best = min(best, MAX_WORK)
    _write(file, best)
    return best


async def _request(session: ClientSession, settings: AgentSettings) -> None:
    benchmark = settings.benchmark
    called = f"POST {benchmark.route}"
    try:
        async with session.post(
            settings.upstream.rstrip("/") + benchmark.route,
            data=msgspec.json.encode(benchmark.payload),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as answer:
            await answer.read()
    except TimeoutError:
        raise BenchmarkFailed(f"{called}: no answer in time") from None
    except (ClientError, OSError) as error:
        raise BenchmarkFailed(f"{called}: {type(error).__name__}") from error
    if answer.status != 200:
        raise BenchmarkFailed(f"{called}: status {answer.status}")


def _read(file: Path) -> float | None:
    try:
        perf = float(file.read_text())
    except (OSError, ValueError):
        return None
    return perf if math.isfinite(perf) and perf > 0 else None


def _write(file: Path, perf: float) -> None:
    new = file.with_name(f"{file.name}.new")
    try:
        new.write_text(str(perf))
        os.replace(new, file)
    except OSError as error:  # the next start measures again, and that is all
        log.warning("benchmark: the result cannot be kept: %s", error)
