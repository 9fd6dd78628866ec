"""`posthouse demo`: a server, an endpoint, workers, and recorded traffic through real HTTP."""

import asyncio
import csv
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from posthouse.app.running import Running
from posthouse.app.wiring import running
from posthouse.client import AsyncClient, ClientError
from posthouse.config import Settings, load_settings
from posthouse.demo import report
from posthouse.demo.places import Place, opened
from posthouse.demo.report import Outcome, Record, Sample
from posthouse.domain.lifecycle import State
from posthouse.engine import standing
from posthouse.engine.managed import FAILURES_TOLD
from posthouse.errors import Refused

ENDPOINT = "demo"
RECORDED_S = 108.0
"""Length of the recorded traffic, in seconds: the first 108 of the Azure 2023 conversation trace, see NOTICE."""
TOKENS_PER_S, SLOTS, LOAD_S = 150, 4, 2.0
"""The demo model: speed of one request, requests at once, loading time."""
SCALING: dict[str, Any] = {
    "min_load": 0,
    "target_util": 0.9,
    "cold_mult": 1,
    "cold_workers": 2,
    "max_workers": 8,
    "max_queue_time": 5,
    "target_queue_time": 4,
    "inactivity_timeout": 8,
}
SAMPLE_S = 0.5
TIMEOUT_S = 120.0
"""How long a phase of the demo may take before it counts as failed, in seconds; machines differ."""
DWELL_S = 4.0
"""How long the cold fleet is shown before it is cleared up, in seconds."""
REQUEST_S = 180.0
"""How long one request may take, waiting for a worker included."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    duration_s: float
    """Length of the traffic, in seconds."""
    out: Path
    """Directory of `demo.json` and `demo.png`."""
    quiet: bool = False
    as_json: bool = False
    provider: str = "process"
    engine: str = ""
    """Address of the engine, for the provider docker; empty: the usual one."""
    image: str = ""
    """Image of its containers; empty: one that the demo makes."""


def demo(options: Options) -> int:
    """Runs the demo and writes its results; returns the exit code.

    0 only if every request was answered and every worker is gone.

    Raises: BadRequest, Refused: by the name of the option that is to be mended.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=options.as_json, quiet=options.quiet)
    data_dir = Path(tempfile.mkdtemp(prefix="posthouse-demo-"))
    try:
        return asyncio.run(_demo(options, data_dir, console))
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def _demo(options: Options, data_dir: Path, console: Console) -> int:
    trace = _trace(options.duration_s)
    record = Record(time.time(), len(trace))
    async with opened(options.provider, options.engine, options.image, data_dir, console) as place:
        installation = ""
        try:
            settings = _settings(place, data_dir, options.out)
            async with running(settings) as server, AsyncClient(server.url, server.admin_key) as client:
                installation = server.hub.installation
                console.print(
                    f"[bold]Posthouse demo[/] at {server.url}: {len(trace)} requests of the Azure 2023 conversation\n"
                    f"trace in {options.duration_s:.0f} s, answered by a demo model: placeholder text at a set speed.\n"
                )
                gone = await _show(server, client, record, trace, console)
        finally:
            left = await place.clear(installation) if installation else 0
    gone = gone and not left
    summary = report.summary(record, gone)
    seen = {
        "summary": summary,
        "estimates": record.estimates,
        "traffic_at": record.traffic_at,
        "outcomes": [asdict(o) for o in record.outcomes],
        "samples": [asdict(s) for s in record.samples],
    }
    (options.out / "demo.json").write_text(json.dumps(seen))
    report.picture(record, options.out / "demo.png")
    if options.as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    report.tell(console, summary, options.out)
    return 0 if summary["ok"] else 1


def _settings(place: Place, data_dir: Path, out: Path) -> Settings:
    provider = {
        "poll_s": 0.5,
        "catalog_s": 0.5,
        "slots": 8,
        # Nominal, so that the bill is not zero: about what a small GPU costs on a market.
        "ready_usd_h": 0.4,
        "loading_usd_h": 0.4,
        "stopped_usd_h": 0.01,
        **place.settings,
    }
    flags = {
        "server.port": 0,
        "server.log_level": "error",
        "data_dir": str(data_dir),
        "default_provider": place.provider,
        "engine.tick_s": 0.5,
        "engine.keep_events_mb": 100.0,
        "engine.events_dir": str(out / "events"),
        **{f"providers.{place.provider}.{name}": value for name, value in provider.items()},
    }
    settings, _ = load_settings(flags, None, {})
    return settings


async def _show(
    server: Running, client: AsyncClient, record: Record, trace: list[tuple[float, int]], console: Console
) -> bool:
    """Goes through the phases of the demo; returns whether every worker is gone at the end."""
    watching = asyncio.create_task(_watch(server, record, console))
    try:
        await _set_up(client)
        record.phase = "preparing cold workers"
        await _until(server, record, lambda states: states["stopped"] >= SCALING["cold_workers"])
        record.phase, record.traffic_at = "traffic", server.hub.clock.now()
        await asyncio.gather(*(_send(client, record, *row) for row in trace))
        record.phase = "shrinking"
        await _until(server, record, lambda states: states["idle"] == 0 and states["stopping"] == 0)
        record.phase = "cold"
        await asyncio.sleep(DWELL_S)
    finally:
        record.phase = "clearing up"
        for endpoint in await client.endpoints():
            await client.delete_endpoint(endpoint.id)
        gone = await _empty(server)
        watching.cancel()
        await asyncio.wait([watching])
    return gone


async def _set_up(client: AsyncClient) -> None:
    """Creates the template, the endpoint and its workergroup."""
    template = await client.create_template(
        name="demo-llm",
        env="-p 3000:3000",
        onstart=(
            'exec "$PYTHON" -m posthouse agent --parallel 8 '
            '--benchmark-payload \'{"inputs":"measure","parameters":{"max_new_tokens":75}}\' '
            f"--benchmark-concurrency {SLOTS} --benchmark-runs 2 "
            f'-- "$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s {TOKENS_PER_S} '
            f"--slots {SLOTS} --load-s {LOAD_S}\n"
        ),
    )
    endpoint_id = await client.create_endpoint(ENDPOINT, **SCALING)
    await client.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)


def _trace(duration_s: float) -> list[tuple[float, int]]:
    """(seconds from the start, tokens asked for), the recorded times sped up to fill `duration_s`."""
    text = resources.files("posthouse.demo").joinpath("azure_2023_conversation.csv").read_text()
    speed = RECORDED_S / duration_s
    return [(float(row["t_s"]) / speed, int(row["out_tok"])) for row in csv.DictReader(text.splitlines())]


async def _send(client: AsyncClient, record: Record, at_s: float, tokens: int) -> None:
    await asyncio.sleep(at_s)
    began = time.perf_counter()
    outcome = Outcome(at_s, cost=tokens)
    payload = {"inputs": "Tell me about post horses.", "parameters": {"max_new_tokens": tokens}}
    try:
        answer = await client.request(ENDPOINT, "/generate", payload, cost=tokens, timeout_s=REQUEST_S)
        outcome.wait_s = answer.wait_s
        if not answer.json()["generated_text"]:
            outcome.error = "empty answer"
    except ClientError as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.total_s = time.perf_counter() - began
    record.outcomes.append(outcome)


def _states(server: Running) -> Counter[str]:
    return Counter(str(w.state) for managed in server.hub.endpoints.values() for w in managed.fleet.workers.values())


async def _until(server: Running, record: Record, reached: Any) -> None:
    """Raises: Refused where workers only fail, TimeoutError."""
    began = time.monotonic()
    while not reached(_states(server)):
        now = server.hub.clock.now()
        why = "".join(standing.why(managed, now) for managed in server.hub.endpoints.values())
        failed = sum(len(managed.last_failures(now)) for managed in server.hub.endpoints.values())
        if failed >= FAILURES_TOLD and not record.outcomes:
            raise Refused(f"{record.phase}: workers fail: {why}")
        if time.monotonic() - began > TIMEOUT_S:
            raise TimeoutError(f"{record.phase} took more than {TIMEOUT_S:.0f} s: {dict(_states(server))}; {why}")
        await asyncio.sleep(0.1)


async def _empty(server: Running) -> bool:
    """True once no worker is left, False if some still are after `TIMEOUT_S`."""
    began = time.monotonic()
    while server.hub.endpoints:
        if time.monotonic() - began > TIMEOUT_S:
            return False
        await asyncio.sleep(0.1)
    return True


async def _watch(server: Running, record: Record, console: Console) -> None:
    """Samples, and shows: a live table on a terminal, else a line every few seconds."""
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            sample = _sample(server, record)
            record.samples.append(sample)
            if console.is_terminal:
                live.update(report.table(sample, record))
            elif len(record.samples) % 10 == 1:
                console.print(report.line(sample, record), highlight=False)
            await asyncio.sleep(SAMPLE_S)


def _sample(server: Running, record: Record) -> Sample:
    t_s = time.time() - record.began_at
    managed = next(iter(server.hub.endpoints.values()), None)
    answered = sum(not o.error for o in record.outcomes)
    if managed is None:
        return Sample(t_s, 0.0, 0.0, 0.0, 0, 0.0, {}, answered, 0.0, 0.0)
    fleet, now = managed.fleet, server.hub.clock.now()
    snapshot = fleet.snapshot(now, ())
    demand, record.estimates = snapshot.demand, asdict(snapshot.estimates)
    workers = list(fleet.workers.values())
    return Sample(
        t_s=t_s,
        load=demand.recent_rate,
        need=managed.decision.hot_need if managed.decision else 0.0,
        ready=sum(w.perf for w in workers if w.state is State.IDLE),
        waiting=demand.waiting_count,
        oldest_wait_s=demand.oldest_wait_s,
        states=dict(Counter(str(w.state) for w in workers)),
        answered=answered,
        usd_h=sum(w.usd_h() for w in workers),
        spent_usd=fleet.spent_usd(now),
    )
