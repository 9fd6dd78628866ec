"""Two dashboards for Grafana: `python -m monitoring.dashboards`, or `make dashboards`, writes them as JSON beside this.

A test fails where the JSON is not what would be written now, and another one asks a real Prometheus every expression.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
)

FOLDER: Final = Path(__file__).parent
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
ENDS: Final = 'what=~"routed|ended|failed|expired"'
OF: Final = 'endpoint=~"$endpoint"'
WIDTH: Final = 24


class Panel(NamedTuple):
    """One panel: what it is called, what it asks and how each answer is named, and the unit of the answers."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    text: str = ""
    stacked: bool = False
    width: int = 8
    worst: float | None = None
    """A figure, red from this value on; None: a chart over time."""


def quantiles(
    metric: str, by: str = "", where: str = "", shares: Sequence[float] = (0.5, 0.95)
) -> list[tuple[str, str]]:
    """Queries for quantiles of a histogram. `by`: a label that tells series apart."""
    legend = f" {{{{{by}}}}}" if by else ""
    labels = f"le, {by}" if by else "le"
    rate = f"sum by ({labels}) (rate({metric}_bucket{{{where}}}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rate})", f"p{share * 100:g}{legend}") for share in shares]


FLEET: Final[dict[str, list[Panel]]] = {
    "Now": [
        Panel("Waiting", [(f"sum(posthouse_waiting_requests{{{OF}}})", "")], width=4, worst=100),
        Panel("Oldest wait", [(f"max(posthouse_oldest_wait_seconds{{{OF}}})", "")], "s", width=4, worst=60),
        Panel("Ready workers", [(f'sum(posthouse_workers{{{OF},state="idle"}})', "")], width=4, worst=1e9),
        Panel(
            "Failed workers",
            [(f'sum(posthouse_workers{{{OF},state=~"error|unavail"}}) or vector(0)', "")],
            width=4,
            worst=1,
        ),
        Panel(
            "Stuck endpoints",
            [(f'sum(posthouse_stuck{{{OF},because!~"starting|busy"}}) or vector(0)', "")],
            width=4,
            worst=1,
        ),
        Panel(
            "Dollars per hour",
            [(f"sum(posthouse_spending_usd_per_second{{{OF}}}) * 3600", "")],
            "currencyUSD",
            width=4,
            worst=1e9,
        ),
    ],
    "Demand": [
        Panel(
            "Load and capacity",
            [
                (f"sum(posthouse_offered_load{{{OF}}})", "load"),
                (f"sum by (what) (posthouse_capacity{{{OF}}})", "{{what}}"),
            ],
            text="Work per second. `needed` above `ready` for longer than a start takes: see Stuck because.",
        ),
        Panel("Wait for a worker", quantiles("posthouse_queue_wait_seconds", where=OF, shares=(0.5, 0.95, 0.99)), "s"),
        Panel(
            "Waiting requests",
            [(f"sum by (endpoint) (posthouse_waiting_requests{{{OF}}})", "{{endpoint}}")],
            stacked=True,
        ),
        Panel(
            "Requests",
            [
                (
                    f"sum by (what) (rate(posthouse_requests_total{{{OF},{ENDS}}}[$__rate_interval]))",
                    "{{what}}",
                )
            ],
            "reqps",
        ),
        Panel(
            "Work at workers and waiting",
            [
                (f"sum(posthouse_outstanding_work{{{OF}}})", "at workers"),
                (f"sum(posthouse_waiting_work{{{OF}}})", "waiting"),
            ],
            stacked=True,
        ),
        Panel(
            "Stuck because",
            [(f"sum by (endpoint, because) (posthouse_stuck{{{OF}}})", "{{endpoint}}: {{because}}")],
            text="The one reason why an endpoint has less than it needs.",
        ),
    ],
    "Workers": [
        Panel("Workers by state", [(f"sum by (state) (posthouse_workers{{{OF}}})", "{{state}}")], stacked=True),
        Panel("Whole starts", quantiles("posthouse_start_seconds", "kind", OF), "s"),
        Panel("Phases of starts, median", quantiles("posthouse_start_phase_seconds", "phase", OF, (0.5,)), "s"),
        Panel("First worker from zero", quantiles("posthouse_first_worker_seconds", where=OF), "s"),
        Panel(
            "Failed starts in an hour",
            [(f"sum by (endpoint) (increase(posthouse_failed_starts_total{{{OF}}}[1h]))", "{{endpoint}}")],
        ),
        Panel(
            "Workers at which requests fail",
            [(f"sum by (endpoint) (posthouse_outlier_workers{{{OF}}})", "{{endpoint}}")],
        ),
    ],
    "Decisions": [
        Panel(
            "Decisions in an hour",
            [(f"sum by (what, reason) (increase(posthouse_decisions_total{{{OF}}}[1h]))", "{{what}} for {{reason}}")],
            stacked=True,
            width=12,
        ),
        Panel(
            "Obstacles in an hour",
            [(f"sum by (obstacle) (increase(posthouse_obstacles_total{{{OF}}}[1h]))", "{{obstacle}}")],
            width=12,
        ),
    ],
    "Money": [
        Panel(
            "Dollars per hour",
            [(f"sum by (endpoint) (posthouse_spending_usd_per_second{{{OF}}}) * 3600", "{{endpoint}}")],
            "currencyUSD",
            stacked=True,
        ),
        Panel(
            "Dollars in a day",
            [(f"sum by (endpoint) (increase(posthouse_spent_usd_total{{{OF}}}[1d]))", "{{endpoint}}")],
            "currencyUSD",
            stacked=True,
        ),
        Panel(
            "Used of caps",
            [("posthouse_cap_used_ratio", "{{endpoint}} {{cap}}")],
            "percentunit",
            "Where no endpoint is named, it is the installation's.",
        ),
        Panel("Left of caps", [("posthouse_cap_left_usd", "{{endpoint}} {{cap}}")], "currencyUSD"),
    ],
}

SERVER: Final[dict[str, list[Panel]]] = {
    "Now": [
        Panel("Troubles", [("sum(posthouse_troubles)", "")], text="/readyz says which.", width=4, worst=1),
        Panel(
            "May decide",
            [("min(posthouse_lease_held)", "")],
            text="1: every server owns its data directory, and its lease holds.",
            width=4,
            worst=1e9,
        ),
        Panel("Servers", [("max(posthouse_servers)", "")], width=4, worst=1e9),
        Panel("Endpoints", [('sum(posthouse_endpoints{where="here"})', "")], width=4, worst=1e9),
        Panel("Endpoints without a server", [('max(posthouse_endpoints{where="nobody"})', "")], width=4, worst=1),
        Panel("Orphans", [("sum(posthouse_orphan_instances)", "")], width=4, worst=1),
        Panel(
            "Rounds of decisions per second",
            [('sum(rate(posthouse_engine_total{what="rounds"}[$__rate_interval]))', "")],
            width=4,
            worst=1e9,
        ),
        Panel("Version", [("sum by (version) (posthouse_build_info)", "{{version}}")], width=4, worst=1e9),
    ],
    "Routing": [
        Panel(
            "Calls of /route/",
            [("sum by (outcome) (rate(posthouse_route_seconds_count[$__rate_interval]))", "{{outcome}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Latency of /route/",
            quantiles("posthouse_route_seconds", "outcome", 'outcome=~"worker|waits"', (0.5, 0.99)),
            "s",
            "With the time for which a call is held open.",
        ),
        Panel(
            "Hot calls by status",
            [("sum by (path, status) (rate(posthouse_calls_total[$__rate_interval]))", "{{path}} {{status}}")],
            "reqps",
        ),
    ],
    "Server": [
        Panel("Lag of the event loop", quantiles("posthouse_loop_lag_seconds", shares=(0.5, 0.99)), "s"),
        Panel("Round of decisions", [("posthouse_round_seconds", "{{instance}}")], "s"),
        Panel(
            "What the engine did",
            [("sum by (what) (rate(posthouse_engine_total[$__rate_interval]))", "{{what}}")],
            "ops",
        ),
        Panel(
            "Processor", [("rate(process_cpu_seconds_total[$__rate_interval])", "{{job}} {{instance}}")], "percentunit"
        ),
        Panel("Memory", [("process_resident_memory_bytes", "{{job}} {{instance}}")], "bytes"),
        Panel("Open files", [("process_open_fds", "{{job}} {{instance}}")]),
    ],
    "Providers": [
        Panel(
            "Calls",
            [
                (
                    "sum by (provider, call, outcome) (rate(posthouse_provider_call_seconds_count[$__rate_interval]))",
                    "{{provider}} {{call}}: {{outcome}}",
                )
            ],
            "ops",
            width=12,
        ),
        Panel(
            "How long they take", quantiles("posthouse_provider_call_seconds", "call", shares=(0.95,)), "s", width=12
        ),
    ],
    "Gateways": [
        Panel(
            "Requests",
            [
                (
                    "sum by (route, status) (rate(posthouse_gateway_requests_total[$__rate_interval]))",
                    "{{route}} {{status}}",
                )
            ],
            "reqps",
            stacked=True,
        ),
        Panel("First byte", quantiles("posthouse_gateway_first_byte_seconds", "route"), "s"),
        Panel("Wait for a worker", quantiles("posthouse_gateway_wait_seconds", "route"), "s"),
        Panel("Whole answer", quantiles("posthouse_gateway_request_seconds", "route"), "s"),
        Panel(
            "Tokens per second",
            [("sum by (kind) (rate(posthouse_gateway_tokens_total[$__rate_interval]))", "{{kind}}")],
            stacked=True,
        ),
        Panel(
            "Further tries",
            [("sum by (route) (rate(posthouse_gateway_retries_total[$__rate_interval]))", "{{route}}")],
            "reqps",
        ),
    ],
}
BOARDS: Final = {
    "fleet": ("Posthouse: fleet", "Demand, workers, decisions and money, by endpoint.", FLEET),
    "server": ("Posthouse: server and gateways", "Routing, the server's health, providers, gateways.", SERVER),
}


def board(name: str) -> str:
    """A dashboard as JSON."""
    title, text, rows = BOARDS[name]
    made = (
        dashboard.Dashboard(title)
        .uid(f"posthouse-{name}")
        .description(text)
        .tags(["posthouse"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Source"))
    )
    if rows is FLEET:
        made = made.with_variable(
            dashboard.QueryVariable("endpoint")
            .label("Endpoint")
            .datasource(SOURCE)
            .query("label_values(posthouse_offered_load, endpoint)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .hide(VariableHide.DONT_HIDE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for row, panels in rows.items():
        made = made.with_row(dashboard.Row(row))
        for panel in panels:
            made = made.with_panel(_panel(panel))
    return f"{JSONEncoder(sort_keys=True, indent=1).encode(made.build())}\n"


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of both dashboards, with the title of its panel."""
    for title, _, rows in BOARDS.values():
        for row, panels in rows.items():
            for panel in panels:
                for expression, _ in panel.queries:
                    yield f"{title}, {row}, {panel.title}", expression


def _panel(panel: Panel) -> Any:
    made: Any = timeseries.Panel() if panel.worst is None else stat.Panel()
    made = made.title(panel.title).description(panel.text).datasource(SOURCE).unit(panel.unit).span(panel.width)
    if panel.worst is None:
        made = (
            made.height(8)
            .fill_opacity(15 if panel.stacked else 0)
            .line_width(1)
            .min(0)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
        )
        if panel.stacked:
            made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    else:
        steps = [Threshold(color="green", value=None), Threshold(color="red", value=panel.worst)]
        made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).height(4)
        made = made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    for number, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").ref_id(chr(ord("A") + number))
        made = made.with_target(query)
    return made


def main() -> None:
    for name in BOARDS:
        (FOLDER / f"{name}.json").write_text(board(name), encoding="utf-8")


if __name__ == "__main__":
    main()
