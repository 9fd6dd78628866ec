"""The caps on money: of each endpoint by day and month, and of the whole installation.

Money is reserved as it is decided: within a tick, which nothing interrupts, each endpoint gets what the others
leave, and what it has decided counts for the others from then on. So whatever is rented or started has its money.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from posthouse.budget import Budget, Caps, Left, Period, spent_before
from posthouse.domain.decision import Cap
from posthouse.domain.endpoint import EndpointId, Scaling
from posthouse.domain.offer import SECONDS_PER_HOUR
from posthouse.domain.worker import Worker
from posthouse.engine.managed import ManagedEndpoint
from posthouse.fleet.events import Level
from posthouse.policy.draft import committed_usd_h, staying_usd_h
from posthouse.ports import PeriodRecord

ALL: Final = EndpointId(-1)
"""Stands for the whole installation among those who have a budget."""
HOUSE: Final = "the installation's "


class Book(Protocol):
    """Where budgets are kept."""

    async def periods(self) -> Sequence[PeriodRecord]: ...
    async def put_periods(self, records: Sequence[PeriodRecord]) -> None: ...
    async def spent_usd(self) -> Mapping[EndpointId, float]: ...
    async def living_workers(self, but: Collection[EndpointId]) -> Sequence[Worker]: ...


@dataclass(frozen=True, slots=True)
class NoCaps:
    """No cap at all."""

    max_usd_h: float | None = None
    max_usd_day: float | None = None
    max_usd_month: float | None = None


@dataclass(frozen=True, slots=True)
class _Account:
    """What an endpoint had spent in all at its latest tick, and what it may come to cost per hour.

    `staying_usd_h`: without what is being stopped or destroyed.
    """

    at: float
    spent_usd: float
    usd_h: float = 0.0
    committed_usd_h: float = 0.0
    staying_usd_h: float = 0.0


def _account(at: float, gone_usd: float, workers: Collection[Worker]) -> _Account:
    """Of an endpoint with these workers, of whom those that are gone have spent so much."""
    return _Account(
        at,
        gone_usd + sum(w.spent_at(at) for w in workers),
        sum(w.usd_h() for w in workers),
        sum(map(committed_usd_h, workers)),
        sum(map(staying_usd_h, workers)),
    )


@dataclass(slots=True)
class Treasury:
    """Every budget. Where several servers share the installation, each reads what the others have written down."""

    caps: Caps = NoCaps()
    """Of the installation."""
    _budgets: dict[EndpointId, Budget] = field(default_factory=dict)
    _accounts: dict[EndpointId, _Account] = field(default_factory=dict)
    """Of every endpoint that ever was; who has had workers longest comes first."""
    _unsaved: set[tuple[EndpointId, str]] = field(default_factory=set)
    _warned: dict[tuple[EndpointId, str], float] = field(default_factory=dict)
    """Caps of which it was said that most is used, with the end of that period."""

    async def load(self, book: Book) -> None:
        """Reads what was kept, before any endpoint is settled."""
        for endpoint_id, usd in (await book.spent_usd()).items():
            self._accounts[endpoint_id] = _Account(0.0, usd)
        for record in await book.periods():
            self._budget(record.endpoint_id).periods[record.kind] = Period(record.began_at, record.before_usd)

    async def keep(self, book: Book) -> None:
        """Writes down what is new. Raises: Unavailable."""
        if unsaved := sorted(self._unsaved):
            periods = [(payer, kind, self._budget(payer).periods[kind]) for payer, kind in unsaved]
            await book.put_periods([PeriodRecord(payer, kind, p.began_at, p.before_usd) for payer, kind, p in periods])
            self._unsaved.difference_update(unsaved)

    # -- what a tick asks ----------------------------------------------------------------------------------------------

    def cap(self, managed: ManagedEndpoint, now: float, scaling: Scaling | None = None) -> Cap | None:
        """The most that the endpoint may come to cost now, beside its own `max_usd_h`; None where nothing says.

        `scaling`: with these parameters in place of its own."""
        self.settle(managed, now)
        endpoint_id, shared = managed.fleet.endpoint.id, self.left(now)
        own = [left for left in self.left_of(managed, now, scaling) if left.ends_at]
        cap = self._tightest(endpoint_id, own, shared, lambda left: left.usd_h, lambda a: a.committed_usd_h)
        if cap is None:
            return None
        shared = [left for left in shared if left.ends_at]
        last = self._tightest(endpoint_id, own, shared, lambda left: left.end_usd_h, lambda a: a.staying_usd_h)
        return replace(cap, last=last)

    def settle(self, managed: ManagedEndpoint, now: float) -> None:
        """Updates what the endpoint has spent, costs and may come to cost: when it is opened, and at each tick before
        and after it has decided."""
        fleet = managed.fleet
        endpoint_id, workers = fleet.endpoint.id, fleet.workers.values()
        account = _account(now, fleet.roster.spent_gone_usd, workers)
        before = self._accounts.get(endpoint_id)
        if before is None or not before.committed_usd_h:  # it has had workers for less long than the others
            self._accounts.pop(endpoint_id, None)
        self._accounts[endpoint_id] = account
        for payer in (endpoint_id, ALL):
            for kind, at in self._budget(payer).due(now):
                self._begin(payer, kind, at, managed)

    async def meet(self, book: Book, here: Collection[EndpointId], now: float) -> None:
        """Reads what endpoints of other servers cost; those `here` are known better. Raises: Unavailable."""
        workers = defaultdict[EndpointId, list[Worker]](list)
        for worker in await book.living_workers(here):
            workers[worker.endpoint_id].append(worker)
        for endpoint_id, gone_usd in (await book.spent_usd()).items():
            if endpoint_id not in here:
                self._accounts[endpoint_id] = _account(now, gone_usd, workers[endpoint_id])
        self._accounts = dict(sorted(self._accounts.items()))  # all servers have them in one order

    def _begin(self, payer: EndpointId, kind: str, at: float, managed: ManagedEndpoint) -> None:
        if payer == ALL:
            before_usd = sum(
                a.spent_usd - a.usd_h * max(0.0, a.at - at) / SECONDS_PER_HOUR for a in self._accounts.values()
            )
        else:
            fleet = managed.fleet
            before_usd = spent_before(fleet.workers.values(), fleet.roster.spent_gone_usd, at)
        self._budget(payer).begin(kind, at, before_usd)
        self._unsaved.add((payer, kind))

    def _tightest(
        self,
        endpoint_id: EndpointId,
        own: Sequence[Left],
        shared: Sequence[Left],
        allowed: Callable[[Left], float],
        used: Callable[[_Account], float],
    ) -> Cap | None:
        """The cap that allows an endpoint the least per hour, of its own and the installation's."""
        caps = [Cap(allowed(left), f"{left.name} {left.limit:g}", left.text()) for left in own]
        if shared:
            left = min(shared, key=allowed)
            name = f"{HOUSE}{left.name} {left.limit:g}"  # other accounts see this: not what is left of it
            caps.insert(0, Cap(self._share(endpoint_id, allowed(left), used), name, name))
        return min(caps, key=lambda cap: cap.usd_h, default=None)

    def _share(self, endpoint_id: EndpointId, usd_h: float, used: Callable[[_Account], float]) -> float:
        """What an endpoint may have of what all may cost per hour. What all have is shared in the order in which they
        have had it: where it is too much, who came last drains."""
        own = used(self._accounts[endpoint_id])
        total = sum(map(used, self._accounts.values()))
        if total <= usd_h * (1 + 1e-9):
            return usd_h - (total - own)
        earlier = 0.0
        for other, account in self._accounts.items():
            if other == endpoint_id:
                break
            earlier += used(account)
        return min(own, max(0.0, usd_h - earlier))

    # -- questions -----------------------------------------------------------------------------------------------------

    def left(self, now: float) -> list[Left]:
        """What each cap of the installation leaves."""
        caps = self.caps
        if caps.max_usd_h is None and caps.max_usd_day is None and caps.max_usd_month is None:
            return []  # every tick of every endpoint asks: nothing is added up for it
        return list(self._budget(ALL).left(caps, now, self.spent_usd(now), self.committed_usd_h()))

    def committed_usd_h(self) -> float:
        """What all endpoints may come to cost per hour, with what is on its way."""
        return sum(a.committed_usd_h for a in self._accounts.values())

    def spent_usd(self, now: float, of: Collection[EndpointId] | None = None) -> float:
        """What these endpoints have cost, deleted or not; None: all that ever were."""
        accounts = [account for endpoint_id, account in self._accounts.items() if of is None or endpoint_id in of]
        return sum(a.spent_usd + a.usd_h * max(0.0, now - a.at) / SECONDS_PER_HOUR for a in accounts)

    def left_of(self, managed: ManagedEndpoint, now: float, scaling: Scaling | None = None) -> list[Left]:
        """What each cap of the endpoint leaves; `scaling`: as above."""
        fleet = managed.fleet
        committed = sum(map(committed_usd_h, fleet.workers.values()))
        budget = self._budget(fleet.endpoint.id)
        return list(budget.left(scaling or fleet.endpoint.scaling, now, fleet.spent_usd(now), committed))

    def troubles(self, now: float) -> list[str]:
        """The installation's caps of which most is used, in words that anybody may read."""
        return [
            f"{HOUSE}{left.name}: {left.used / left.limit:.0%} of it is used"
            if left.limit
            else f"{HOUSE}{left.name}: 0"
            for left in self.left(now)
            if left.warns
        ]

    async def look(self, endpoints: Iterable[ManagedEndpoint], book: Book, now: float) -> None:
        """Warns where most of a cap is used, and writes down what is new. Raises: Unavailable."""
        for managed in endpoints:
            self.warn(managed, now)
        await self.keep(book)

    def warn(self, managed: ManagedEndpoint, now: float) -> None:
        """Says once in each period, in the endpoint's log, that most of a cap is used."""
        for left in self.left_of(managed, now):
            key = managed.fleet.endpoint.id, left.name
            if left.ends_at and left.warns and self._warned.get(key) != left.ends_at:
                self._warned[key] = left.ends_at
                managed.history.note(now, Level.INFO0, left.text(), None, None)

    def _budget(self, payer: EndpointId) -> Budget:
        return self._budgets.setdefault(payer, Budget())
