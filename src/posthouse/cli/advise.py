"""`posthouse advise`"""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli import replay
from posthouse.cli.options import ApiKey, AsJson, Url
from posthouse.cli.output import console, print_json, table
from posthouse.cli.serve import server_extra

if TYPE_CHECKING:
    from posthouse.sim.advice import Advice

LAST_S = 7 * 86_400.0
"""How much of a record is used by default: what is older says less about tomorrow."""
ABOUT = 60
"""Settings that a search tries, about; it may be more."""


def advise(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Name or id of the endpoint.")],
    goal_s: Annotated[
        float, typer.Option("--goal", min=0, help="Longest acceptable wait for service, in seconds.")
    ] = 10.0,
    share_over: Annotated[
        float, typer.Option("--share-over", min=0, max=1, help="Share of the work that may wait longer.")
    ] = 0.01,
    last_s: Annotated[
        float, typer.Option("--last", min=60, help="How much of its record is looked at, in seconds.")
    ] = LAST_S,
    price_usd_h: Annotated[
        float | None,
        typer.Option(
            "--price",
            min=0,
            max=1e6,
            help="US dollars per hour of a worker that is not stopped.",
            show_default="its own",
        ),
    ] = None,
    stopped_usd_h: Annotated[
        float | None,
        typer.Option("--stopped-price", min=0, max=1e6, help="The same of a stopped one.", show_default="its own"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say which scaling parameters would serve an endpoint better, and what that would save.

    Plays its recorded traffic again under many settings. It searches on the first two
    thirds of the record, and judges on the rest, which the search does not see. Nothing
    is changed.

    Example:
      posthouse advise llama --goal 5
    """
    with server_extra():
        from posthouse.sim.advice import Search, in_worker_hours, per_month, priced, too_short
    recording = replay.fetched(endpoint, url, api_key, last_s)
    if why := too_short(recording):
        if as_json:
            print_json({"endpoint": recording.endpoint, "verdict": "too short", "why": why})
        else:
            console().print(f"{recording.endpoint}: {why}", markup=False)
        return
    prices = {"ready_usd_h": price_usd_h, "loading_usd_h": price_usd_h, "stopped_usd_h": stopped_usd_h}
    given = {name: price for name, price in prices.items() if price is not None}
    free = not given and not priced(recording)
    notes = [*recording.notes]
    if free:
        recording = in_worker_hours(recording)
        notes.append("its workers cost nothing, so worker-hours are counted, a stopped one as 0.05; see --price")
    if not quiet:
        replay.say(notes)
    advice = _searched(Search(recording, goal_s, share_over, [{"workers": given}] if given else []), quiet)
    saved = per_month(advice)
    command = _command(recording.endpoint, advice)
    if as_json:
        print_json(
            {
                "endpoint": recording.endpoint,
                "verdict": "change" if advice.change else "keep",
                "change": advice.change,
                "present": advice.present,
                "command": command,
                "saved_per_month": round(saved, 2),
                "unit": "worker-hours" if free else "US dollars",
                "searched_s": advice.searched_s,
                "checked_s": advice.checked_s,
                "settings_tried": advice.tried,
                "notes": notes,
                "before": advice.before.json(),
                "after": advice.after.json(),
            }
        )
        return
    allowed = f"at most {100 * share_over:g} % of the work is to wait for service longer than {goal_s:g} s"
    worth = _worth(advice, saved, free) if advice.change else ""
    _show(advice, replay.about(recording, 0.0, recording.span_s), allowed, f"{command}\n\n{worth}", free)


def _show(advice: "Advice", about: str, allowed: str, change: str, free: bool) -> None:
    """Prints the advice for people."""
    lines = [
        about,
        f"{advice.tried} settings were tried on the first {advice.searched_s / 3600:.3g} h; what follows is of the "
        f"other {advice.checked_s / 3600:.3g} h, which the search did not see.",
    ]
    if not advice.change:
        late = 100 * advice.before.over_goal
        lines.append(f"\nNothing to change: no setting was worth it, where {allowed}; now it is {late:.3g} %.")
    else:
        lines.append(f"\nIf {allowed}, change")
        lines += [f"  {name} from {_word(advice.present[name])} to {_word(v)}" for name, v in advice.change.items()]
        lines.append(f"\n  {change}")
    console().print("\n".join(lines), markup=False, soft_wrap=True)
    columns = {"now": advice.before} | ({"changed": advice.after} if advice.change else {})
    rows = replay.rows(columns)
    if free:
        rows[0]["measure"] = "cost, worker-hours"
    console().print(table(rows))


def _searched(search: Any, quiet: bool) -> "Advice":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.completed} settings: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=ABOUT)
        search.progress = lambda what, tried: bar.update(
            task, description=what, completed=tried, total=max(ABOUT, tried + 10)
        )
        found: Advice = search.advice()
        return found


def _command(endpoint: str, advice: "Advice") -> str:
    """The command that makes the change; empty if there is none."""
    if not advice.change:
        return ""
    words = ["posthouse", "endpoint", "update", endpoint]
    for name, value in advice.change.items():
        words += [f"--{name.replace('_', '-')}", _word(value)]
    return shlex.join(words)


def _word(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _worth(advice: "Advice", saved: float, free: bool) -> str:
    """What a change is worth, in words."""
    before, after = advice.before, advice.after
    share = abs(after.usd / before.usd - 1) if before.usd else 0.0
    amount = f"{abs(saved):,.0f} worker-hours" if free else f"${abs(saved):,.2f}"
    verb, more = ("save", "") if saved >= 0 else ("cost", " more")
    money = f"It would {verb} about {amount} a month{more} ({share:.0%})"
    return (
        f"{money}; {100 * after.over_goal:.3g} % of the work would wait longer than {after.goal_s:g} s instead of "
        f"{100 * before.over_goal:.3g} %, and the p99 wait for service would be {after.wait_s.p99:.3g} s instead of "
        f"{before.wait_s.p99:.3g} s."
    )
