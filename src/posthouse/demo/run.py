"""`posthouse demo`: a server, an endpoint, workers as processes, and recorded traffic through real HTTP."""

import asyncio
import csv
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from posthouse.app.running import Running
from posthouse.app.wiring import running
from posthouse.client import AsyncClient, ClientError
from posthouse.config import load_settings
from posthouse.domain.lifecycle import State

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


@dataclass(slots=True)
class Sample:
    """What there was at one moment."""

    t_s: float
    load: float
    need: float
    ready: float
    waiting: int
    oldest_wait_s: float
    states: dict[str, int]
    answered: int
    usd_h: float
    spent_usd: float


@dataclass(slots=True)
class Outcome:
    """What became of one request. Units: seconds, of the traffic for `at_s`."""

    at_s: float
    cost: float
    wait_s: float = 0.0
    total_s: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Record:
    """Everything the demo saw."""

    began_at: float
    requests: int
    samples: list[Sample] = field(default_factory=list)
    estimates: dict[str, Any] = field(default_factory=dict)
    """What the endpoint had learned of its workers when it was last looked at."""
    outcomes: list[Outcome] = field(default_factory=list)
    phase: str = "starting"
    traffic_at: float = 0.0
    """When the traffic began, by the server's clock."""


def demo(duration_s: float, out: Path, quiet: bool = False, as_json: bool = False) -> int:
    """Runs the demo, writes `demo.json` and `demo.png` to `out`; returns the exit code.

    0 only if every request was answered and every worker process is gone. `duration_s`: length of the traffic.
    """
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=as_json, quiet=quiet)
    data_dir = Path(tempfile.mkdtemp(prefix="posthouse-demo-"))
    try:
        return asyncio.run(_demo(duration_s, out, data_dir, console, as_json))
    finally:
        _kill_left(data_dir)
        shutil.rmtree(data_dir, ignore_errors=True)


async def _demo(duration_s: float, out: Path, data_dir: Path, console: Console, as_json: bool) -> int:
    flags = {
        "server.port": 0,
        "server.log_level": "error",
        "data_dir": str(data_dir),
        "engine.tick_s": 0.5,
        "engine.keep_events_mb": 100.0,
        "engine.events_dir": str(out / "events"),
        "providers.process.poll_s": 0.5,
        "providers.process.catalog_s": 0.5,
        "providers.process.slots": 8,
        # Nominal, so that the bill is not zero: about what a small GPU costs on a market.
        "providers.process.ready_usd_h": 0.4,
        "providers.process.loading_usd_h": 0.4,
        "providers.process.stopped_usd_h": 0.01,
    }
    settings, _ = load_settings(flags, None, {})
    trace = _trace(duration_s)
    record = Record(time.time(), len(trace))
    async with running(settings) as server, AsyncClient(server.url, server.admin_key) as client:
        console.print(f"[bold]Posthouse demo[/] at {server.url}: {len(trace)} requests of the Azure 2023 conversation")
        console.print(f"trace in {duration_s:.0f} s, answered by a demo model (placeholder text at a set speed).\n")
        watching = asyncio.create_task(_watch(server, record, console))
        gone = True
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
    gone = gone and not _kill_left(data_dir)
    summary = _summary(record, gone)
    seen = {
        "summary": summary,
        "estimates": record.estimates,
        "traffic_at": record.traffic_at,
        "outcomes": [asdict(o) for o in record.outcomes],
        "samples": [asdict(s) for s in record.samples],
    }
    (out / "demo.json").write_text(json.dumps(seen))
    _picture(record, out / "demo.png")
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    _print(console, summary, out)
    return 0 if summary["ok"] else 1


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
    began = time.monotonic()
    while not reached(_states(server)):
        if time.monotonic() - began > TIMEOUT_S:
            raise TimeoutError(f"{record.phase} took more than {TIMEOUT_S:.0f} s: {dict(_states(server))}")
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
                live.update(_table(sample, record))
            elif len(record.samples) % 10 == 1:
                console.print(_line(sample, record), highlight=False)
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


def _table(sample: Sample, record: Record) -> Table:
    table = Table(title=f"{sample.t_s:5.1f} s  {record.phase}", min_width=60)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("load", f"{sample.load:,.0f} tokens/s")
    table.add_row("capacity needed", f"{sample.need:,.0f} tokens/s")
    table.add_row("capacity ready", f"{sample.ready:,.0f} tokens/s")
    table.add_row("workers", ", ".join(f"{n} {state}" for state, n in sorted(sample.states.items())) or "none")
    table.add_row("waiting", f"{sample.waiting} requests, the oldest {sample.oldest_wait_s:.1f} s")
    table.add_row("answered", f"{sample.answered} of {record.requests}")
    table.add_row("cost", f"${sample.usd_h:.2f}/h, ${sample.spent_usd:.4f} so far")
    return table


def _line(sample: Sample, record: Record) -> str:
    states = " ".join(f"{state}={n}" for state, n in sorted(sample.states.items())) or "none"
    return (
        f"{sample.t_s:6.1f} s  {record.phase:<22}  load {sample.load:5.0f}  need {sample.need:5.0f}  "
        f"ready {sample.ready:5.0f} tokens/s  waiting {sample.waiting:3}  answered {sample.answered:3}  {states}"
    )


def _summary(record: Record, gone: bool) -> dict[str, Any]:
    waits = sorted(o.wait_s for o in record.outcomes if not o.error)
    errors = Counter(o.error for o in record.outcomes if o.error)
    answered = len(waits)
    cuts = quantiles(waits, n=100) if answered > 1 else [0.0] * 99
    hot = [s.states.get("idle", 0) for s in record.samples]
    steps = list(zip(record.samples, record.samples[1:], strict=False))
    return {
        "ok": answered == record.requests and gone,
        "requests": record.requests,
        "answered": answered,
        "errors": dict(errors),
        "every_worker_process_gone": gone,
        "wait_s": {
            "mean": round(mean(waits), 3) if waits else 0.0,
            "p50": round(cuts[49], 3),
            "p95": round(cuts[94], 3),
            "max": round(waits[-1], 3) if waits else 0.0,
        },
        "most_hot_workers": max(hot, default=0),
        "most_workers": max((sum(s.states.values()) for s in record.samples), default=0),
        "worker_s": round(
            sum((b.t_s - a.t_s) * (sum(a.states.values()) - a.states.get("stopped", 0)) for a, b in steps), 1
        ),
        "spent_usd": round(max((s.spent_usd for s in record.samples), default=0.0), 5),
        "elapsed_s": round(record.samples[-1].t_s, 1) if record.samples else 0.0,
    }


def _print(console: Console, summary: dict[str, Any], out: Path) -> None:
    table = Table(title="Summary", show_header=False)
    table.add_row("answered", f"{summary['answered']} of {summary['requests']} requests")
    table.add_row(
        "wait for a worker", "mean {mean} s, p50 {p50} s, p95 {p95} s, max {max} s".format(**summary["wait_s"])
    )
    table.add_row("workers", f"at most {summary['most_hot_workers']} hot, {summary['most_workers']} in all")
    table.add_row("worker time", f"{summary['worker_s']} s not stopped")
    table.add_row("spent", f"${summary['spent_usd']:.4f} at nominal prices")
    table.add_row("worker processes", "all gone" if summary["every_worker_process_gone"] else "[red]some are left[/]")
    for error, count in summary["errors"].items():
        table.add_row("[red]not answered[/]", f"{count} x {error[:100]}")
    console.print(table)
    console.print(f"Picture of load against capacity: {out / 'demo.png'}; every sample: {out / 'demo.json'}")


def _picture(record: Record, path: Path) -> None:
    """Load against capacity over time, and workers by state below."""
    import matplotlib as mpl  # slow to import, and needed only at the end

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    t_s = [s.t_s for s in record.samples]
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 7), sharex=True, layout="constrained")
    above.fill_between(t_s, [s.load for s in record.samples], color="#f2b441", alpha=0.6, label="load (10 s mean)")
    above.step(t_s, [s.need for s in record.samples], where="post", color="#888888", ls="--", label="capacity needed")
    above.step(t_s, [s.ready for s in record.samples], where="post", color="#1f6f8b", lw=2, label="capacity ready")
    above.set_ylabel("tokens per second")
    above.legend(loc="upper left", frameon=False)
    waits = above.twinx()
    waits.plot(t_s, [s.oldest_wait_s for s in record.samples], color="#c44536", lw=1, label="oldest wait")
    waits.set_ylabel("oldest waiting request, s", color="#c44536")
    waits.set_ylim(bottom=0)
    groups = {
        "ready": ("idle", "#1f6f8b"),
        "on its way": ("wanted creating loading model_loading starting", "#8fc1d4"),
        "stopping": ("stopping destroying error unavail", "#bbbbbb"),
        "cold": ("stopped", "#dfe6e9"),
    }
    counts = [
        [sum(s.states.get(state, 0) for state in names.split()) for s in record.samples] for names, _ in groups.values()
    ]
    below.stackplot(t_s, counts, labels=list(groups), colors=[colour for _, colour in groups.values()], step="post")
    below.set_ylabel("workers")
    below.set_xlabel("seconds")
    below.legend(loc="upper left", frameon=False)
    figure.suptitle("Posthouse demo: load and capacity")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _kill_left(data_dir: Path) -> int:
    """Ends processes whose working directory is in the demo's data directory; how many there were."""
    left = 0
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"] or ""
        if cwd.startswith(str(data_dir / "workers")) and process.status() != psutil.STATUS_ZOMBIE:
            left += 1
            process.kill()
    return left
