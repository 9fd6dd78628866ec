"""What would be decided next about an endpoint, as it is and with a change: nothing is done."""

from collections.abc import Iterable
from dataclasses import replace

from posthouse.domain.decision import Decision
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.lifecycle import Goal
from posthouse.domain.offer import Price
from posthouse.engine import words
from posthouse.engine.hub import Hub
from posthouse.engine.journal import plain
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.management.deploy import most_usd_h
from posthouse.wire import rows


def outlook(hub: Hub, managed: ManagedEndpoint, changed: Endpoint) -> rows.Outlook:
    """The next decision as it is, and with the endpoint `changed`."""
    now, fleet = hub.clock.now(), managed.fleet
    prices = [offer.offer.price.ready_usd_h for offer in hub.offers_for(changed.id)]
    prices += [worker.price.ready_usd_h for worker in fleet.workers.values()]
    return rows.Outlook(
        usd_h=sum(worker.usd_h() for worker in fleet.workers.values()),
        before=_foreseen(hub, managed, fleet.endpoint, now),
        after=_foreseen(hub, managed, changed, now),
        most_before_usd_h=most_usd_h(fleet.endpoint.scaling, prices),
        most_after_usd_h=most_usd_h(changed.scaling, prices),
    )


def _foreseen(hub: Hub, managed: ManagedEndpoint, endpoint: Endpoint, now: float) -> rows.Foreseen:
    fleet = managed.fleet
    cap = hub.treasury.cap(managed, now, endpoint.scaling)
    decision = fleet.policy(replace(fleet.snapshot(now), endpoint=endpoint, cap=cap), fleet.memory)
    data = plain(decision)
    return rows.Foreseen(
        title=words.title(data),
        text=words.text(data),
        need=data["hot_need"],
        usd_h=sum(_usd_h(price, goal) for price, goal in _after(managed, decision)),
    )


def _after(managed: ManagedEndpoint, decision: Decision) -> Iterable[tuple[Price, Goal]]:
    """Every worker that there is once the decision is carried out: its price, and its goal."""
    for worker in managed.fleet.workers.values():
        yield worker.price, decision.goals.get(worker.id, worker.goal)
    for rental in decision.rentals:
        yield rental.offer.offer.price, rental.goal


def _usd_h(price: Price, goal: Goal) -> float:
    if goal is Goal.GONE:
        return 0.0
    return price.stopped_usd_h if goal is Goal.COLD else price.ready_usd_h
