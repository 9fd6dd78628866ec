"""`posthouse simulate`"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from posthouse.cli import replay
from posthouse.cli.described import SCALING, with_options
from posthouse.cli.options import ApiKey, AsJson, Url
from posthouse.cli.output import console, print_json, table
from posthouse.cli.serve import server_extra
from posthouse.errors import BadRequest

if TYPE_CHECKING:
    from posthouse.sim.record import Summary
    from posthouse.sim.run import Result
    from posthouse.sim.scenario import Scenario

AS_WAS, AS_IS, AS_ASKED = "as it was", "as it is", "as asked"
"""What the server measured; the present parameters, simulated; the same with the options over them."""
COLUMNS = 72
"""Of the picture on a terminal."""


def _given(panel: str, text: str, default: object, *names: str, **more: Any) -> Any:
    """An option that lies over what the scenario says."""
    return typer.Option(*names, help=text, show_default=str(default), rich_help_panel=panel, **more)


TRAFFIC: dict[str, Any] = {
    "trace": Annotated[
        Path | None,
        _given(
            "Traffic",
            "Recorded traffic, CSV or CSV.gz: requests (t_s and cost, or t_s, in_tok, out_tok), or rates "
            "(t_s and rps; with client also iat_cv).",
            "none",
        ),
    ],
    "shape": Annotated[
        str | None, _given("Traffic", "Made-up traffic: constant, step, diurnal, burst or on-off.", "constant")
    ],
    "load": Annotated[float | None, _given("Traffic", "Work per second offered; the highest of the shape.", 1000)],
    "low": Annotated[float | None, _given("Traffic", "Lowest work per second of the shape.", 0)],
    "period_s": Annotated[float | None, _given("Traffic", "Period of the shape, in seconds.", 86400, "--period")],
    "cost": Annotated[float | None, _given("Traffic", "Mean work of a request, where the trace does not say.", 200)],
    "duration_s": Annotated[
        float | None,
        _given("Traffic", "How much traffic, in seconds.", "the whole trace, or 7200", "--duration"),
    ],
    "start_s": Annotated[float | None, _given("Traffic", "Where in the trace to begin, in s.", 0, "--start")],
    "scale": Annotated[
        float | None, _given("Traffic", "Factor of the load; recorded requests can only be thinned out.", 1)
    ],
    "in_work": Annotated[float | None, _given("Traffic", "Work of one input token.", 0)],
    "out_work": Annotated[float | None, _given("Traffic", "Work of one output token.", 1)],
}
WORKERS: dict[str, Any] = {
    "perf": Annotated[float | None, _given("Workers", "Work per second of a worker.", 400)],
    "slots": Annotated[int | None, _given("Workers", "Requests that a worker serves at once.", 8)],
    "price_usd_h": Annotated[
        float | None, _given("Workers", "US dollars per hour of a worker that is not stopped.", 0.40, "--price")
    ],
    "stopped_usd_h": Annotated[
        float | None, _given("Workers", "The same of a stopped one: its storage.", 0.02, "--stopped-price")
    ],
    "create_s": Annotated[
        float | None, _given("Workers", "From the order to an instance that runs, in s.", 120, "--create-time")
    ],
    "load_s": Annotated[
        float | None, _given("Workers", "From then to the loaded model, in seconds.", 60, "--load-time")
    ],
    "worker_start_s": Annotated[
        float | None, _given("Workers", "From stopped to ready, in seconds.", 30, "--start-time")
    ],
}
TRAFFIC_KEYS = {"duration_s": ("span_s",)}
WORKER_KEYS = {"price_usd_h": ("ready_usd_h", "loading_usd_h"), "worker_start_s": ("start_s",)}
"""The keys of a scenario that options have other names than."""


@with_options("traffic", TRAFFIC)
@with_options("workers", WORKERS)
@with_options("scaling", SCALING)
def simulate(
    context: typer.Context,
    scenario: Annotated[
        Path | None, typer.Argument(metavar="SCENARIO", help="Scenario in TOML. Options lie over what it says.")
    ] = None,
    from_journal: Annotated[
        str | None,
        _given(
            "Traffic",
            "An endpoint of a running server: its own recorded traffic, parameters and workers. Options lie over them; "
            "what was and what is stand beside.",
            "none",
            metavar="ENDPOINT",
        ),
    ] = None,
    last_s: Annotated[
        float | None, _given("Traffic", "Of that, the last so many seconds.", "all that is kept", "--last", min=1)
    ] = None,
    *,
    traffic: dict[str, Any],
    workers: dict[str, Any],
    scaling: dict[str, Any],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What decides; given several times, all are compared: posthouse, static, knative, hpa, keda, ray, "
            "skyserve, runpod-count, runpod-delay, modal, aibrix, vast, histogram, aws, dynamo. With knobs: "
            "'knative(utilisation=0.5,stable_s=120)'. Your own: module:function.",
            show_default="posthouse",
            metavar="NAME",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random numbers: the same seed gives the same run.", show_default="0")
    ] = None,
    tick_s: Annotated[
        float | None, typer.Option("--tick", help="Between two decisions, in seconds.", show_default="1")
    ] = None,
    goal_s: Annotated[
        float | None, typer.Option("--goal", help="Longest acceptable wait, in seconds.", show_default="10")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the first run into this file.")] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write down everything that happens in the first run.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress and no picture.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what an endpoint would cost and how long its requests would wait.

    A world in virtual time, around the code that the server runs: the same decisions,
    the same routing. Nothing is rented. The same options give the same run.

    Examples:
      posthouse simulate --shape diurnal --load 2000 --low 200 --duration 86400 --min-load 0
      posthouse simulate --trace requests.csv.gz --perf 400 --price 0.4 --cold-workers 2 --svg run.svg
      posthouse simulate scenario.toml --json
      posthouse simulate --from-journal llama --target-util 0.95 --cold-workers 1
    """
    with server_extra():
        from posthouse.sim.picture import blocks
        from posthouse.sim.scenario import load as load_scenario
    changes = _present(seed=seed, tick_s=tick_s, goal_s=goal_s, scaling=scaling)
    changes |= _present(traffic=_renamed(traffic, TRAFFIC_KEYS), workers=_renamed(workers, WORKER_KEYS))
    if from_journal is not None:
        _replayed(context, changes, svg, log)
        return
    if last_s is not None:
        raise BadRequest("--last is of the traffic of --from-journal, which is not given")
    given = load_scenario(scenario, changes)
    results: dict[str, Result] = {}
    for name in policy or [given.policy]:
        files = (None, None) if results else (svg, log)
        results[name] = _run(msgspec.structs.replace(given, policy=name), _command(context, name), *files, quiet)
    if not any(result.summary.requests for result in results.values()):
        console(stderr=True).print(
            "note: no request came; bursts come at the end of each --period, and --low is between"
        )
    if as_json:
        print_json([result.summary.json() for result in results.values()])
        return
    console().print(table(_rows(results)))
    if not quiet:
        policy_name, first = next(iter(results.items()))
        console().print(f"\n{policy_name}", markup=False)
        for name, text, highest in blocks(first.record.samples, COLUMNS):
            console().print(f"{name:<20} {text} at most {highest:,.4g}", markup=False)


def _replayed(context: typer.Context, changes: dict[str, Any], svg: Path | None, log: Path | None) -> None:
    """The traffic of a running endpoint: what was, what is, and what was asked for beside."""
    from posthouse.sim.picture import blocks
    from posthouse.sim.policies import parse

    said = context.params
    other = ("scenario", "trace", "shape", "load", "low", "period_s", "cost", "in_work", "out_work")
    if wrong := [name for name in other if said[name] is not None]:
        raise BadRequest(f"--from-journal says what the traffic is: leave out {', '.join(wrong)}")
    policies = said["policy"] or []
    for policy in policies:
        parse(policy)
    recording = replay.fetched(said["from_journal"], said["url"], said["api_key"], said["last_s"])
    start_s = said["start_s"] or 0.0
    part = recording.snapped(start_s, start_s + said["duration_s"] if said["duration_s"] else recording.span_s)
    pace = _present(seed=said["seed"], tick_s=said["tick_s"], goal_s=said["goal_s"])
    as_is = recording.scenario(pace, begin_s=part[0], end_s=part[1])
    asked = recording.scenario(changes, begin_s=part[0], end_s=part[1])
    runs = {AS_IS: as_is}
    if changes.keys() & {"scaling", "workers"} or said["scale"] is not None:
        runs[AS_ASKED] = asked
    runs |= {policy: msgspec.structs.replace(asked, policy=policy) for policy in policies}
    if not said["quiet"]:
        replay.say(recording.notes)
    results: dict[str, Result] = {}
    for name, given in runs.items():
        files = (svg, log) if name == list(runs)[-1] else (None, None)
        results[name] = _run(given, _command(context, given.policy), *files, said["quiet"])
    was = recording.measured(as_is.goal_s, *part)
    columns: dict[str, Any] = {AS_WAS: was} | {name: result.summary for name, result in results.items()}
    if said["as_json"]:
        print_json([{"column": name} | summary.json() for name, summary in columns.items()])
        return
    console().print(replay.about(recording, *part), markup=False)
    console().print(table(replay.rows(columns)))
    if not said["quiet"]:
        last = list(results)[-1]
        counted = [s for s in results[last].record.samples if s.t >= as_is.warm_s]
        for title, samples in ((AS_WAS, recording.samples(*part)), (last, counted)):
            console().print(f"\n{title}", markup=False)
            for name, text, highest in blocks(samples, COLUMNS):
                console().print(f"{name:<20} {text} at most {highest:,.4g}", markup=False)


def _run(given: "Scenario", repeat: str, svg: Path | None, log: Path | None, quiet: bool) -> "Result":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from posthouse.sim.picture import svg as drawn
    from posthouse.sim.run import run

    with ExitStack() as stack:
        lines = stack.enter_context(log.open("w", encoding="utf-8")) if log else None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
        )
        bar = stack.enter_context(Progress(*columns, console=console(stderr=True), transient=True, disable=quiet))
        task = bar.add_task(given.policy, total=given.traffic.span_s or None, shown="")
        result = run(
            given,
            repeat,
            log=(lambda line: lines.write(f"{line}\n")) if lines else None,
            progress=lambda t: bar.update(task, completed=t, shown=f"{t / 3600:.1f} h"),
        )
    if svg is not None:
        svg.write_text(drawn(result.record.samples, f"posthouse simulate, {given.policy}, seed {given.seed}"), "utf-8")
    return result


def _command(context: typer.Context, policy: str) -> str:
    """The command that gives one run of this call again."""
    words = ["posthouse", "simulate"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in ("policy", "svg", "as_json", "quiet", "api_key") or value is None or value is False:
            continue
        words += [*parameter.opts[:1], str(value)] if parameter.param_type_name == "option" else [str(value)]
    return shlex.join([*words, "--policy", policy])


MEASURES: dict[str, Callable[["Summary"], float]] = {
    **replay.SPENT,
    "wait, mean, s": lambda s: s.wait_s.mean,
    "wait, p50, s": lambda s: s.wait_s.p50,
    "wait, p95, s": lambda s: s.wait_s.p95,
    "wait, p99, s": lambda s: s.wait_s.p99,
    "wait, longest, s": lambda s: s.wait_s.most,
    "work over the goal, %": lambda s: 100 * s.over_goal,
    "ready time in use, %": lambda s: 100 * s.busy,
}


def _rows(results: dict[str, "Result"]) -> list[dict[str, Any]]:
    return [
        {"measure": name} | {policy: measure(result.summary) for policy, result in results.items()}
        for name, measure in MEASURES.items()
    ]


def _renamed(given: Mapping[str, Any], keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the options mean in a scenario."""
    found = {key: value for name, value in given.items() for key in keys.get(name, (name,))}
    return {key: str(value) if isinstance(value, Path) else value for key, value in found.items()}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != {}}
