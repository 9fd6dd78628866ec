"""What the demo saw, and how it is shown: live, as a summary and as a picture."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table


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


def table(sample: Sample, record: Record) -> Table:
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


def line(sample: Sample, record: Record) -> str:
    states = " ".join(f"{state}={n}" for state, n in sorted(sample.states.items())) or "none"
    return (
        f"{sample.t_s:6.1f} s  {record.phase:<22}  load {sample.load:5.0f}  need {sample.need:5.0f}  "
        f"ready {sample.ready:5.0f} tokens/s  waiting {sample.waiting:3}  answered {sample.answered:3}  {states}"
    )


def summary(record: Record, gone: bool) -> dict[str, Any]:
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
        "every_worker_gone": gone,
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


def tell(console: Console, summary: dict[str, Any], out: Path) -> None:
    table = Table(title="Summary", show_header=False)
    table.add_row("answered", f"{summary['answered']} of {summary['requests']} requests")
    table.add_row(
        "wait for a worker", "mean {mean} s, p50 {p50} s, p95 {p95} s, max {max} s".format(**summary["wait_s"])
    )
    table.add_row("workers", f"at most {summary['most_hot_workers']} hot, {summary['most_workers']} in all")
    table.add_row("worker time", f"{summary['worker_s']} s not stopped")
    table.add_row("spent", f"${summary['spent_usd']:.4f} at nominal prices")
    table.add_row("workers at the end", "all gone" if summary["every_worker_gone"] else "[red]some are left[/]")
    for error, count in summary["errors"].items():
        table.add_row("[red]not answered[/]", f"{count} x {error[:100]}")
    console.print(table)
    console.print(f"Picture of load against capacity: {out / 'demo.png'}; every sample: {out / 'demo.json'}")


def picture(record: Record, path: Path) -> None:
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
