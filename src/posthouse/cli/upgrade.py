"""`posthouse upgrade-check`"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from posthouse import __version__
from posthouse.cli.options import ApiKey, AsJson, Url, connect, endpoint_names
from posthouse.cli.output import console, one_line, print_json, printable, table
from posthouse.cli.serve import server_extra
from posthouse.errors import BadRequest

if TYPE_CHECKING:
    from posthouse.client import Client

MEASURES: Final = {
    "cost, US dollars": "usd",
    "worker-hours ready": "ready_h",
    "worker-hours loading": "loading_h",
    "worker-hours stopped": "stopped_h",
    "workers rented": "rents",
    "workers started": "starts",
    "not served": "unserved",
    "wait for a worker, p50, s": "p50_s",
    "wait for a worker, p95, s": "p95_s",
    "wait for a worker, p99, s": "p99_s",
    "share of work over the goal": "late",
}
GUARDED: Final = {"cost": "usd", "the p95 of waits": "p95_s", "what is not served": "unserved"}
"""What may not become worse where `--allow` says so."""
LAST_S: Final = 86_400.0


def upgrade_check(
    endpoints: Annotated[
        list[str] | None, typer.Argument(help="Default: all that there are.", autocompletion=endpoint_names)
    ] = None,
    from_journal: Annotated[
        bool, typer.Option("--from-journal/--no-journal", help="Play the traffic that the server has recorded.")
    ] = True,
    last_s: Annotated[
        float, typer.Option("--last", min=60, max=14 * 86_400, help="How much of it, in seconds.")
    ] = LAST_S,
    events: Annotated[
        Path | None,
        typer.Option(
            help="Directory of what `serve --keep-events` wrote: play that, too.", file_okay=False, exists=True
        ),
    ] = None,
    allow: Annotated[
        float | None,
        typer.Option(min=0, help="Exit with 1 if cost or waits grow by more than so many percent."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say what this version would have done differently with an installation's own traffic, before it runs there.

    Run it with the new version beside a server of the old one. Each plays the
    same traffic of the last day in its own simulator: differences between the two
    come from the versions, and what really happened is shown beside them. With
    --events, the new version also handles the events of the old one's
    controllers, and its commands are counted beside theirs. Nothing is changed.

    Examples:
      posthouse upgrade-check --from-journal
      posthouse upgrade-check llama --last 604800 --allow 5
      posthouse upgrade-check --no-journal --events posthouse-data/events
    """
    if not (from_journal or events):
        raise BadRequest("there is nothing to play: leave out --no-journal, or give --events")
    report: dict[str, Any] = {"version": __version__, "endpoints": [], "events": []}
    if from_journal:
        with server_extra(), connect(url, api_key) as client:
            names = endpoints or [str(one.endpoint_name) for one in client.endpoints()]
            report["endpoints"] = [_played(client, name, last_s) for name in names]
    if events is not None:
        with server_extra():
            report["events"] = [_again(path) for path in sorted(events.glob("*.jsonl"))]
    worse = [] if allow is None else [text for one in report["endpoints"] for text in _worse(one, allow)]
    report["worse"] = worse
    if as_json:
        print_json(report)
    else:
        _show(report)
    raise typer.Exit(1 if worse else 0)


def _played(client: "Client", name: str, last_s: float) -> dict[str, Any]:
    """An endpoint's traffic as it was, as the server's version plays it, and as this one does."""
    from posthouse.client import Busy, NotFound
    from posthouse.engine.what_if import compared

    try:
        traffic = asdict(client.traffic(name, last_s))
        # The replay of the server has a change, which there must be, and without it what is asked for here.
        change = {"max_workers": traffic["scaling"]["max_workers"] + 1}
        theirs = client.what_if(name, change, last_s)
        ours = compared(traffic, change, theirs.goal_s)
    except (NotFound, Busy) as error:
        return {"endpoint": name, "why_not": one_line(str(error))}
    runs = {"was": ours.runs[0], "old": theirs.runs[1], "new": ours.runs[1]}
    notes = list(ours.notes)
    if (theirs.requests, round(theirs.span_s)) != (ours.requests, round(ours.span_s)):
        notes.append(f"the server played {theirs.requests} requests and this version {ours.requests}: more have come")
    return {
        "endpoint": name,
        "span_h": ours.span_s / 3600,
        "requests": ours.requests,
        "notes": notes,
        **{column: {field: getattr(run, field) for field in MEASURES.values()} for column, run in runs.items()},
    }


def _again(path: Path) -> dict[str, Any]:
    """What this version does with the events of a file."""
    from posthouse.recording.events import differences

    try:
        found = differences(path)
    except BadRequest as error:
        return {"file": path.name, "why_not": one_line(str(error))}
    return {"file": path.name, **asdict(found)}


def _worse(one: Mapping[str, Any], allow: float) -> list[str]:
    """What would become worse than is allowed, in words."""
    if "new" not in one:
        return []
    found = []
    for what, field in GUARDED.items():
        old, new = one["old"][field], one["new"][field]
        if new > old * (1 + allow / 100) + 1e-9:
            found.append(f"{one['endpoint']}: {what} would go from {old:.4g} to {new:.4g}")
    return found


def _show(report: Mapping[str, Any]) -> None:
    out = console()
    if not (report["endpoints"] or report["events"]):
        out.print("there is nothing to play: no endpoint, and no kept events")
    for one in report["endpoints"]:
        name = printable(one["endpoint"])
        if "why_not" in one:
            out.print(f"{name}: {one['why_not']}", markup=False)
            continue
        out.print(f"{name}: {one['span_h']:.4g} h of its traffic, {one['requests']:,} requests", markup=False)
        rows = [
            {"measure": measure, "it was": one["was"][field], "old, played": one["old"][field]}
            | {"this, played": one["new"][field], "difference": one["new"][field] - one["old"][field]}
            for measure, field in MEASURES.items()
        ]
        out.print(table(rows))
        for note in one["notes"]:
            console(stderr=True).print(f"note: {printable(note)}", markup=False)
    for one in report["events"]:
        if "why_not" in one:
            out.print(f"{one['file']}: {one['why_not']}", markup=False)
            continue
        same = f"{one['same']:,} of {one['events']:,} events lead to the same"
        out.print(f"{one['file']}: {same if one['kept'] else 'all ' + same.partition(' of ')[2]}", markup=False)
        if one["kept"]:
            out.print(f"  the first that does not came at {one['at']:.3f}: `posthouse replay` shows it", markup=False)
            kinds = sorted({*one["was"], *one["now"]})
            counts = [{"command": k, "then": one["was"].get(k, 0), "this version": one["now"].get(k, 0)} for k in kinds]
            out.print(table(counts) if counts else "  no command was given", markup=False)
    for text in report["worse"]:
        console(stderr=True).print(f"worse: {text}", markup=False)
