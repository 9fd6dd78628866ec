"""How fast the model server is, measured once."""

import asyncio
import logging
import math
import os
import secrets
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiohttp import ClientError, ClientSession, FormData, Payload

from posthouse.agent.settings import AgentSettings
from posthouse.agent.workload import MAX_WORK, workload_rule

log = logging.getLogger(__name__)

_RESULT_FILE: Final = ".has_benchmark"  # the peer's name and form: one number, work per second
_RANDOM: Final = b"{random}"
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
    body = _body(settings)
    work = benchmark.work or workload_rule(settings.workload)(body.counted, _COST)
    concurrency = min(benchmark.concurrency, settings.parallel or benchmark.concurrency)
    await _request(session, settings, body)  # the first request is slow on many servers
    best = 0.0
    for run in range(1, benchmark.runs + 1):
        started_at = time.perf_counter()
        answers = await asyncio.gather(
            *(_request(session, settings, body) for _ in range(concurrency)), return_exceptions=True
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


class _Body(NamedTuple):
    """What each request of the benchmark sends."""

    counted: object
    """What its work is counted from."""
    fields: dict[str, str]
    """Of a form; the payload is sent where both are empty."""
    files: dict[str, tuple[str, bytes]]
    """Name and content, by field."""


def _body(settings: AgentSettings) -> _Body:
    """Raises: BenchmarkFailed where a file of the form cannot be read."""
    benchmark = settings.benchmark
    if not benchmark.form:
        return _Body(benchmark.payload, {}, {})
    fields, files = {}, {}
    for name, value in benchmark.form.items():
        if not value.startswith("@"):
            fields[name] = value
            continue
        file = Path(value[1:])
        try:
            files[name] = file.name, file.read_bytes()
        except OSError as error:
            raise BenchmarkFailed(f"benchmark.form: {file} cannot be read: {error.strerror}") from None
    return _Body(next((content for _, content in files.values()), None), fields, files)


async def _request(session: ClientSession, settings: AgentSettings, body: _Body) -> None:
    benchmark = settings.benchmark
    called = f"POST {benchmark.route}"
    number = str(secrets.randbelow(10**9)).encode()  # servers remember what they have made
    data: Payload | bytes = msgspec.json.encode(benchmark.payload).replace(_RANDOM, number)
    headers = {"Content-Type": "application/json"}
    if body.fields or body.files:
        form = FormData(body.fields)
        for field, (name, content) in body.files.items():
            form.add_field(field, content, filename=name)
        data = form()
        headers = {"Content-Type": data.headers["Content-Type"]}
    try:
        async with session.post(
            settings.upstream.rstrip("/") + benchmark.route,
            data=data,
            headers=headers,
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
