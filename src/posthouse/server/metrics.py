"""What Prometheus reads, gathered from the counts that the parts keep anyway."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from posthouse import __version__
from posthouse.budget import Left
from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.engine.figures import figures
from posthouse.engine.hub import Hub
from posthouse.engine.lag import Lag
from posthouse.engine.loop import Loop
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.orphans import Orphans
from posthouse.engine.standing import updates
from posthouse.engine.verdict import verdict
from posthouse.measures import Histogram, Page
from posthouse.server import families as of

SECONDS_PER_HOUR = 3600.0


class Meter(Protocol):
    """Seconds that calls to a provider took, by call and outcome."""

    @property
    def took(self) -> Mapping[tuple[str, str], Histogram]: ...


@dataclass(slots=True, eq=False)
class Metrics:
    """Reads the running parts at each scrape and keeps nothing itself."""

    hub: Hub
    loop: Loop
    orphans: Orphans
    lag: Lag
    counts: Sequence[Mapping[str, int]]
    """What the parts of the engine count, by name."""
    answers: Counter[tuple[str, int]]
    """Calls answered on the hot paths, by path and status."""
    routed: Mapping[str, Histogram]
    """How long calls of `/route/` took, by outcome."""
    troubles: Callable[[], list[str]]
    """What fails now."""
    meters: Mapping[str, Meter] = field(default_factory=dict)
    """What is counted of the calls to each provider, by its name."""

    def page(self) -> bytes:
        """The text that is scraped."""
        page, now = Page(of.SERVER), self.hub.clock.now()
        for managed in self.hub.endpoints.values():
            name = self._name(managed)
            self._load(page, managed, name, now)
            self._requests(page, managed, name)
            self._workers(page, managed, name, now)
            self._money(page, managed, name, now)
        _caps(page, self.hub.treasury.left(now), "")
        self._providers(page)
        self._server(page)
        return page.text()

    def _name(self, managed: ManagedEndpoint) -> str:
        """The endpoint's name, which is its own on the page: other accounts, and one that is being deleted, may have
        the same."""
        endpoint = managed.fleet.endpoint
        name = f"{endpoint.name}#{endpoint.id}" if managed.leaving else endpoint.name
        if endpoint.account_id == DEFAULT_ACCOUNT:
            return name
        return f"{self.hub.account_name(endpoint.account_id)}/{name}"

    def _load(self, page: Page, managed: ManagedEndpoint, name: str, now: float) -> None:
        demand, shown = managed.fleet.requests.demand(now), figures(managed, now)
        page.add(of.LOAD, demand.rate, name)
        page.add(of.WAITING, demand.waiting_count, name)
        page.add(of.WAITING_WORK, demand.waiting, name)
        page.add(of.OLDEST_WAIT, demand.oldest_wait_s, name)
        page.add(of.OUTSTANDING, demand.outstanding, name)
        page.add(of.FACTOR, demand.factor, name)
        for what, capacity in (
            *(("needed", shown.need), ("ready", shown.hot), ("coming", shown.coming), ("cold", shown.cold)),
        ):
            page.add(of.CAPACITY, capacity, name, what)
        if (found := verdict(managed, shown, now)) is not None:
            page.add(of.VERDICT, 1, name, found.word)
            if found.ready_by_s:
                times = found.ready_from_s, found.ready_in_s, found.ready_by_s
                for chance, ready_s in zip(("0.05", "0.5", "0.95"), times, strict=True):
                    page.add(of.READY, ready_s, name, chance)

    def _requests(self, page: Page, managed: ManagedEndpoint, name: str) -> None:
        for what, count in asdict(managed.fleet.counters).items():
            page.add(of.REQUESTS, count, name, what)
        for limit, count in managed.limited.items():
            page.add(of.LIMITED, count, name, limit)
        page.add(of.WAIT, managed.traffic_log.waits(managed.fleet.ledger), name)
        page.add(of.FIRST_WORKER, managed.measured.first_worker, name)

    def _workers(self, page: Page, managed: ManagedEndpoint, name: str, now: float) -> None:
        fleet, measured = managed.fleet, managed.measured
        for state, count in Counter(str(w.state) for w in fleet.workers.values()).items():
            page.add(of.WORKERS, count, name, state)
        page.add(of.OUTLIERS, len(fleet.requests.outliers.penalties_s(now)), name)
        for update in updates(managed):
            of_it = name, str(update.workergroup_id), update.phase
            page.add(of.UPDATES, update.new, *of_it, "new")
            page.add(of.UPDATES, update.old, *of_it, "old")
        for kind, starts in measured.starts.items():
            page.add(of.STARTS, starts, name, kind)
        for phase, times in measured.phases.items():
            page.add(of.PHASES, times, name, str(phase))
        page.add(of.FAILED_STARTS, measured.failed_starts, name)
        for (what, reason), count in measured.decisions.items():
            page.add(of.DECISIONS, count, name, what, reason)
        for obstacle, count in measured.obstacles.items():
            page.add(of.OBSTACLES, count, name, obstacle)

    def _money(self, page: Page, managed: ManagedEndpoint, name: str, now: float) -> None:
        fleet = managed.fleet
        page.add(of.SPENT, fleet.spent_usd(now), name)
        page.add(of.SPENDING, sum(w.usd_h() for w in fleet.workers.values()) / SECONDS_PER_HOUR, name)
        _caps(page, self.hub.treasury.left_of(managed, now), name)

    def _providers(self, page: Page) -> None:
        for name, meter in self.meters.items():
            for (call, outcome), times in meter.took.items():
                page.add(of.PROVIDER_CALLS, times, name, call, outcome)
        orphans = Counter(orphan.provider.name for orphan in self.orphans.all())
        for name in self.hub.providers:
            page.add(of.ORPHANS, orphans[name], name)

    def _server(self, page: Page) -> None:
        for outcome, times in self.routed.items():
            page.add(of.ROUTE, times, outcome)
        for (path, code), count in self.answers.items():
            page.add(of.CALLS, count, path, str(code))
        for counts in self.counts:
            for what, count in counts.items():
                page.add(of.ENGINE, count, what)
        here = sum(not managed.leaving for managed in self.hub.endpoints.values())
        page.add(of.BUILD, 1, __version__)
        page.add(of.ENDPOINTS, here, "here")
        free = len(self.hub.directory.free())
        page.add(of.ENDPOINTS, max(0, len(self.hub.directory) - here - free), "elsewhere")
        page.add(of.ENDPOINTS, free, "nobody")
        page.add(of.LEASE, int(self.loop.may_act() and self.hub.lease.holds()))
        page.add(of.SERVERS, self.hub.lease.server_count())
        page.add(of.LAG, self.lag.late)
        page.add(of.ROUND, self.loop.last_tick_s)
        page.add(of.TROUBLES, len(self.troubles()))
        page.add_process()


def _caps(page: Page, left: Iterable[Left], endpoint: str) -> None:
    for cap in left:
        page.add(of.CAP_USED, cap.used / cap.limit if cap.limit else 1.0, endpoint, cap.name)
        if cap.ends_at:
            page.add(of.CAP_LEFT, max(0.0, cap.limit - cap.used), endpoint, cap.name)
