"""`posthouse top`"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect, endpoint_names
from posthouse.cli.output import console, plain, print_json, printable, table
from posthouse.cli.status import verdict_line
from posthouse.errors import Busy

if TYPE_CHECKING:
    from rich.console import RenderableType

    from posthouse.client import Client
    from posthouse.wire import rows

BLOCKS = " ▁▂▃▄▅▆▇█"
CHART = 60
"""Columns of a chart: an hour, a minute each."""
MAX_WORKERS = 200
LOOKS = {"hot": "h", "loading": "l", "cold": "c", "draining": "d", "failed": "f"}
"""Looks of workers that are counted, and their letters where there is little room."""
LEGEND = "h hot, l loading, c cold, d draining, f failed; load, need, hot: work/s; waits: s"
MAX_TEXT = 200
"""Characters of a line that others have written."""
MAX_MESSAGES = 10
COLUMNS = ("endpoint", "state", "load", "need", "hot", "wait", "p95", "workers", "usd_h")
WORKERS = ("id", "look", "provider", "gpu_name", "perf", "at_it", "usd_h", "age")


def top(
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="[ENDPOINT]", help="Name or id of an endpoint to look at alone.", autocompletion=endpoint_names
        ),
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Print it once, for scripts.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.2, help="Time between two updates, in seconds.")
    ] = 1.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Watch endpoints live: load, capacity, waits, workers, spend, and what keeps one short.

    Until Ctrl-C. Continues when the server restarts. With ENDPOINT it shows that
    one's last hour and workers.

    Examples:
      posthouse top
      posthouse top llama --once
    """
    with connect(url, api_key) as client:
        if as_json:
            print_json(_facts(client, endpoint))
        elif once:
            console().print(*page(client, endpoint), sep="\n")
        else:
            from rich.console import Group
            from rich.live import Live

            with Live(console=console(), auto_refresh=False, screen=True) as live:
                watch(
                    lambda: list(page(client, endpoint)),
                    lambda shown: live.update(Group(*shown), refresh=True),
                    lambda: time.sleep(interval_s),
                )


def watch(
    look: Callable[[], "list[RenderableType]"],
    show: "Callable[[list[RenderableType]], object]",
    pause: Callable[[], object],
) -> None:
    """Looks again and again. While the server does not answer what was seen last stays, with word of that above it."""
    from rich.text import Text

    from posthouse.client.errors import TimedOut, Unreachable

    seen: list[RenderableType] = []
    silent_since = 0.0
    while True:
        try:
            seen, silent_since = look(), 0.0
            show(seen)
        except (Unreachable, TimedOut, Busy) as error:
            silent_since = silent_since or time.monotonic()
            if not seen:
                raise
            word = f"no answer for {time.monotonic() - silent_since:.0f} s: {error}"
            show([Text(printable(word), style="bold red"), *seen])
        pause()


def page(client: "Client", endpoint: str) -> "Iterator[RenderableType]":
    """What is to be seen now: of all endpoints, or of one. Raises: what the client raises."""
    status = client.status()
    if not endpoint:
        yield from overview(status)
        return
    found = _named(status, endpoint)
    yield from alone(found, client.history(endpoint, 3600.0, CHART), client.workers(endpoint))


def overview(status: "rows.Status") -> "Iterator[RenderableType]":
    """All endpoints, and what fails."""
    yield _text(
        f"posthouse {status.version} {status.installation}  up {_span(status.uptime_s)}  "
        f"${status.usd_h:.2f}/h  ${status.spent_usd:.2f} so far"
    )
    for trouble in status.troubles:
        yield _text(f"trouble  {trouble}", "red")
    for cap in status.caps:
        if cap.level != "ok":
            yield _text(f"cap      {cap.endpoint} {cap.text}", "yellow")
    if not status.standing:
        yield _text("no endpoints: posthouse endpoint create NAME")
        return
    yield table([_standing(row) for row in status.standing], COLUMNS)
    yield _text(LEGEND, "dim")
    for row in status.standing:
        if row.verdict is not None:
            yield _text(f"{_cut(row.endpoint, 20)}: {verdict_line(plain(row.verdict))}", "yellow")


def alone(
    row: "rows.Standing", history: "rows.History", workers: "Sequence[rows.Worker]"
) -> "Iterator[RenderableType]":
    """One endpoint: its last hour, and its workers."""
    from posthouse.engine.words import work

    figures = row.figures
    yield _text(f"{row.endpoint}  {row.condition or row.state}  ${row.usd_h:.2f}/h  ${row.spent_usd:.2f} so far")
    if row.verdict is not None:
        yield _text(verdict_line(plain(row.verdict)), "yellow")
    yield _text(
        f"load {work(figures.load)}  need {work(figures.need)}  hot {work(figures.hot)}  "
        f"coming {work(figures.coming)}  cold {work(figures.cold)} work/s"
    )
    yield _text(
        f"{figures.waiting} waiting, the oldest for {figures.oldest_wait_s:.1f} s; p95 wait {figures.p95_wait_s:.1f} s"
    )
    highest = max([*history.load, *history.hot, 0.0])
    for name, column, most in (
        ("load", history.load, highest),
        ("hot", history.hot, highest),
        ("waiting", history.waiting, max(history.waiting, default=0.0)),
        ("$/h", history.usd_h, max(history.usd_h, default=0.0)),
    ):
        yield _text(f"{name:<8}{bars(column, most)} up to {work(most)}")
    if workers:
        yield table([_worker(worker) for worker in workers[:MAX_WORKERS]], WORKERS)
        for worker in [worker for worker in workers if worker.message][:MAX_MESSAGES]:
            yield _text(f"worker {worker.id}: {worker.message}", "yellow")
    else:
        yield _text("no workers")


def bars(column: Iterable[float], most: float) -> str:
    """A row of blocks, one for each number."""
    heights = (min(len(BLOCKS) - 1, -int(-value * (len(BLOCKS) - 1) // most)) if most > 0 else 0 for value in column)
    return "".join(BLOCKS[max(0, height)] for height in heights).rjust(CHART)


def _facts(client: "Client", endpoint: str) -> Any:
    status = client.status()
    return _named(status, endpoint) if endpoint else status


def _named(status: "rows.Status", endpoint: str) -> "rows.Standing":
    """The endpoint's row, by name or else by id. Raises: NotFound."""
    from posthouse.client.errors import NotFound

    for field in ("endpoint", "id"):
        for row in status.standing:
            if str(getattr(row, field)) == endpoint:
                return row
    raise NotFound(f"there is no endpoint {endpoint!r}")


def _standing(row: "rows.Standing") -> dict[str, Any]:
    from posthouse.engine.words import work

    figures = row.figures
    counts = [f"{figures.looks[look]}{letter}" for look, letter in LOOKS.items() if figures.looks.get(look)]
    return {
        "endpoint": _cut(row.endpoint, 20),
        "state": row.condition or row.state,
        "load": work(figures.load),
        "need": work(figures.need),
        "hot": work(figures.hot),
        "wait": figures.waiting,
        "p95": round(figures.p95_wait_s, 1),
        "workers": " ".join(counts) or "none",
        "usd_h": round(row.usd_h, 3),
    }


def _worker(worker: "rows.Worker") -> dict[str, Any]:
    from posthouse.engine.words import work

    named = {"provider": _cut(worker.provider, 10), "gpu_name": _cut(worker.gpu_name, 14)}
    numbers = {"perf": work(worker.perf), "at_it": work(worker.outstanding), "usd_h": round(worker.price_usd_h, 3)}
    return {"id": worker.id, "look": worker.look, **named, **numbers, "age": _span(worker.age_s)}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _text(text: str, style: str = "") -> "RenderableType":
    from rich.text import Text

    return Text(printable(_cut(" ".join(text.split("\n")), MAX_TEXT)), style=style)
