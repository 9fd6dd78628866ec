"""What Prometheus reads, gathered from the counts that the parts keep anyway."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from posthouse.engine.hub import Hub
from posthouse.engine.loop import Loop
from posthouse.engine.standing import updates as updates_of


class Meter(Protocol):
    """Calls to a provider by call and outcome, and the seconds that they took, by call."""

    @property
    def calls(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


@dataclass(slots=True, eq=False)
class Metrics(Collector):
    """A Prometheus collector: it reads the running parts at each scrape and keeps nothing itself."""

    hub: Hub
    loop: Loop
    counts: Sequence[Mapping[str, int]]
    """What the parts of the engine count, by name."""
    answers: Counter[tuple[str, int]]
    """Calls answered on the hot paths, by path and status."""
    troubles: Callable[[], list[str]]
    """What fails now."""
    meters: Mapping[str, Meter] = field(default_factory=dict)
    """What is counted of the calls to each provider, by its name."""

    def page(self) -> bytes:
        """The text that is scraped."""
        return generate_latest(self)

    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily("posthouse_workers", "Workers by state.", labels=["endpoint", "state"])
        outliers = GaugeMetricFamily(
            "posthouse_outlier_workers", "Workers that are asked last, as requests failed there.", labels=["endpoint"]
        )
        gauges = {
            "offered_load": ("Work asked for, per second, mean of the last minute.", "rate"),
            "waiting_work": ("Work of requests without a worker.", "waiting"),
            "waiting_requests": ("Requests without a worker.", "waiting_count"),
            "outstanding_work": ("Work at workers and not finished.", "outstanding"),
            "cost_factor": ("Work that workers count for a unit of announced cost.", "factor"),
            "oldest_wait_seconds": ("Age of the request that waits longest.", "oldest_wait_s"),
        }
        families = {
            name: GaugeMetricFamily(f"posthouse_{name}", text, labels=["endpoint"])
            for name, (text, _) in gauges.items()
        }
        capacity = GaugeMetricFamily(
            "posthouse_capacity", "Work per second, needed and there.", labels=["endpoint", "what"]
        )
        spent = CounterMetricFamily("posthouse_spent_usd", "Dollars spent.", labels=["endpoint"])
        rate = GaugeMetricFamily("posthouse_usd_per_hour", "What the workers cost now.", labels=["endpoint"])
        requests = CounterMetricFamily(
            "posthouse_requests", "Requests by what became of them.", labels=["endpoint", "what"]
        )
        limited = CounterMetricFamily(
            "posthouse_limited_requests", "Requests refused, by the limit of their key.", labels=["endpoint", "limit"]
        )
        now = self.hub.clock.now()
        for managed in self.hub.endpoints.values():
            fleet, name = managed.fleet, managed.fleet.endpoint.name
            for state, count in Counter(str(w.state) for w in fleet.workers.values()).items():
                workers.add_metric([name, state], count)
            outliers.add_metric([name], len(fleet.requests.outliers.penalties_s(now)))
            demand = fleet.snapshot(now, ()).demand
            for gauge, (_, quantity) in gauges.items():
                families[gauge].add_metric([name], getattr(demand, quantity))
            if managed.decision is not None:
                capacity.add_metric([name, "needed"], managed.decision.hot_need)
                capacity.add_metric([name, "ready"], managed.decision.ready_supply)
            spent.add_metric([name], fleet.spent_usd(now))
            rate.add_metric([name], sum(w.usd_h() for w in fleet.workers.values()))
            for what, count in asdict(fleet.counters).items():
                requests.add_metric([name, what], count)
            for limit, count in managed.limited.items():
                limited.add_metric([name, limit], count)
        calls = CounterMetricFamily("posthouse_calls", "Calls answered, by path and status.", labels=["path", "status"])
        for (path, code), count in self.answers.items():
            calls.add_metric([path, str(code)], count)
        work = CounterMetricFamily("posthouse_engine", "What the engine did.", labels=["what"])
        for counts in self.counts:
            for what, count in counts.items():
                work.add_metric([what], count)
        tick = GaugeMetricFamily("posthouse_round_seconds", "How long the latest round of decisions took.")
        tick.add_metric([], self.loop.last_tick_s)
        troubles = GaugeMetricFamily("posthouse_troubles", "How many parts fail now; /readyz says which.")
        troubles.add_metric([], len(self.troubles()))
        yield from (workers, outliers, *families.values(), capacity, spent, rate, requests, limited, calls, work, tick)
        yield from (troubles, self._updates())
        yield from self._providers()

    def _updates(self) -> Metric:
        labels = ["endpoint", "workergroup", "phase", "version"]
        text = "Workers by version, of workergroups that were ever updated."
        workers = GaugeMetricFamily("posthouse_update_workers", text, labels=labels)
        for managed in self.hub.endpoints.values():
            for update in updates_of(managed):
                of_it = [managed.fleet.endpoint.name, str(update.workergroup_id), update.phase]
                workers.add_metric([*of_it, "new"], update.new)
                workers.add_metric([*of_it, "old"], update.old)
        return workers

    def _providers(self) -> Iterable[Metric]:
        calls = CounterMetricFamily(
            "posthouse_provider_calls", "Calls to providers by outcome.", labels=["provider", "call", "outcome"]
        )
        seconds = CounterMetricFamily(
            "posthouse_provider_seconds", "How long calls to providers took, in all.", labels=["provider", "call"]
        )
        for name, meter in self.meters.items():
            for (call, outcome), count in meter.calls.items():
                calls.add_metric([name, call, outcome], count)
            for call, taken_s in meter.seconds.items():
                seconds.add_metric([name, call], taken_s)
        yield from (calls, seconds)
