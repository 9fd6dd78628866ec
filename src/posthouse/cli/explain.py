"""`posthouse explain`"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect
from posthouse.cli.output import console, plain, print_json, printable, table
from posthouse.cli.status import limited_text, update_lines, verdict_line

if TYPE_CHECKING:
    from rich.console import RenderableType


def explain(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Name or id of the endpoint.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Again and again, until Ctrl-C; as JSON, a line each.")
    ] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.1, help="Time between two updates, in seconds.")
    ] = 2.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Explain why an endpoint has the workers that it has.

    Need and supply, every rule that applied, workers by state and by goal, money, messages.

    Example:
      posthouse explain llama --watch
    """
    with connect(url, api_key) as client:
        if not watch:
            facts = plain(client.explain(endpoint))
            if as_json:
                print_json(facts)
            else:
                console().print(*page(facts, time.time()), sep="\n")
            return
        if as_json:
            while True:
                typer.echo(json.dumps(plain(client.explain(endpoint)), ensure_ascii=False))
                time.sleep(interval_s)
        from rich.console import Group
        from rich.live import Live

        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(Group(*page(plain(client.explain(endpoint)), time.time())), refresh=True)
                time.sleep(interval_s)


def page(facts: Mapping[str, Any], now: float) -> "Iterator[RenderableType]":
    """What the server answered, for people, part by part."""
    from rich.text import Text

    from posthouse.engine.journal import orders  # here, because it takes its time
    from posthouse.wire import rows

    demand, decision, estimates = facts["demand"], facts["decision"], facts["estimates"]
    lines = {
        "endpoint": f"{facts['endpoint']} ({facts['state']})",
        "workers": f"{_counts(facts['workers']['by_state'])}; wanted: {_counts(facts['workers']['by_goal'])}",
        "load": f"{_rate(demand['rate'])} over the last 60 s, {_rate(demand['recent_rate'])} "
        f"over the last {demand['recent_s']:.0f} s",
        "requests": f"{demand['waiting_count']} wait for a worker, the oldest for {demand['oldest_wait_s']:.1f} s; "
        f"{demand['outstanding']:,.4g} work is at workers",
        "money": f"${facts['usd_h']:.4f}/h now, ${facts['spent_usd']:.4f} spent so far",
    }
    for cap in facts.get("caps", ()):
        whose = "" if cap["endpoint"] else "the installation's "
        level = "" if cap["level"] == "ok" else f" ({cap['level']})"
        lines["caps"] = "; ".join(filter(None, (lines.get("caps"), f"{whose}{cap['text']}{level}")))
    if found := facts.get("verdict"):
        lines["stuck"] = verdict_line(found)
    if failures := facts["failures"]:
        ids = f"worker{'s' * (len(failures) > 1)} {', '.join(failures)}"
        lines["failed"] = f"in the last day {ids}; the last one said: {[*failures.values()][-1]}"
    if updates := facts.get("updates"):
        parts = update_lines((msgspec.convert(one, rows.Update) for one in updates), now)
        lines["update"] = "; ".join(parts) or "none for a day"
    if limited := facts.get("limited"):
        lines["limits"] = f"of keys; refused {limited_text(limited)}"
    if affinity := facts.get("affinity"):
        lines["affinity"] = (
            f"{affinity['kept']:,} of {affinity['asked']:,} requests with a key went to the worker of their key; "
            f"that counts for {affinity['saves_share']:.0%} of a request's own time"
        )
    if decision:
        lines["need"] = f"{_rate(decision['hot_need'])} of hot capacity"
        coming = f"{_rate(decision['hot_supply'])} with the workers that are starting"
        lines["supply"] = f"{_rate(decision['ready_supply'])} ready, {coming}"
        lines["decided"] = f"{max(0.0, now - decision['at']):.1f} s ago: {orders(decision)}"
    yield Text("\n".join(f"{name:<9} {printable(text)}" for name, text in lines.items()))
    if decision:
        yield table(decision["because"], ("what", "value", "rule"), "Why")
    else:
        yield Text("\nNothing has been decided yet.")
    yield table(_rows("parameter", facts["scaling"]), title="Parameters")
    kinds = {f"work/s of {kind}": perf for kind, perf in estimates["perf"].items()}
    times = {
        "seconds from stopped to ready": estimates["start_s"],
        "seconds from nothing to ready": estimates["create_s"],
    }
    yield table(_rows("estimates", kinds | times), title="Estimates")
    if messages := facts["failures"] | facts["messages"]:
        yield table(_rows("worker", messages, "message"), title="Messages of workers, also of the last that failed")


def _rows(key: str, values: Mapping[str, Any], value: str = "value") -> list[dict[str, Any]]:
    return [{key: name, value: item} for name, item in values.items()]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.4g} work/s"
