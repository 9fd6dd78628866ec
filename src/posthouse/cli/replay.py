"""An endpoint's own recorded traffic, for `posthouse simulate --from-journal` and `posthouse advise`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from posthouse.cli.options import connect
from posthouse.cli.output import console, printable

if TYPE_CHECKING:
    from posthouse.sim.recorded import Recording

SPENT: dict[str, Callable[[Any], float]] = {
    "cost, US dollars": lambda s: s.usd,
    "worker-hours ready": lambda s: s.ready_h,
    "worker-hours loading": lambda s: s.loading_h,
    "worker-hours stopped": lambda s: s.stopped_h,
    "workers rented": lambda s: s.rents,
    "workers started": lambda s: s.starts,
    "workers stopped": lambda s: s.stops,
    "requests": lambda s: s.requests,
    "not served": lambda s: s.unserved,
}
"""What a run took, and how much it was asked."""
MEASURES: dict[str, Callable[[Any], float]] = {
    **SPENT,
    "wait for a worker, mean, s": lambda s: s.route_s.mean,
    "wait for a worker, p50, s": lambda s: s.route_s.p50,
    "wait for a worker, p95, s": lambda s: s.route_s.p95,
    "wait for a worker, p99, s": lambda s: s.route_s.p99,
    "wait for a worker, longest, s": lambda s: s.route_s.most,
    "work over the goal till then, %": lambda s: 100 * s.route_over_goal,
    "wait for service, p95, s": lambda s: s.wait_s.p95,
    "wait for service, p99, s": lambda s: s.wait_s.p99,
    "work over the goal till then too, %": lambda s: 100 * s.over_goal,
    "ready time in use, %": lambda s: 100 * s.busy,
}
"""Of a simulated run, and of what really happened, where the server sees it: it does not see queues at workers."""


def fetched(endpoint: str, url: str | None, api_key: str | None, last_s: float | None) -> "Recording":
    """The record of an endpoint. Raises: NotFound where there is none yet."""
    from posthouse.sim.recorded import recording

    with connect(url, api_key) as client:
        return recording(asdict(client.traffic(endpoint, last_s)))


def rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table of measures; each column is a summary, or what was measured."""
    found = []
    for name, measure in MEASURES.items():
        row: dict[str, Any] = {"measure": name}
        for column, summary in columns.items():
            try:
                row[column] = measure(summary)
            except AttributeError:  # not known of what really happened
                row[column] = None
        found.append(row)
    return found


def say(notes: Sequence[str]) -> None:
    """Tells on the side what was assumed."""
    for note in notes:
        console(stderr=True).print(f"note: {printable(note)}", markup=False)


def about(recording: "Recording", begin_s: float, end_s: float) -> str:
    """What is played, in a line."""
    hours = (end_s - begin_s) / 3600
    many = recording.requests(begin_s, end_s)
    return f"{printable(recording.endpoint)}: {hours:.4g} h of its traffic, {many:,} requests"
