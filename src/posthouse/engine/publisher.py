"""Publishes what happens to each endpoint to the event stream: it watches the effects of every controller."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from posthouse.domain.decision import Decision
from posthouse.domain.endpoint import AccountId
from posthouse.engine import journal, words
from posthouse.engine.figures import figures
from posthouse.engine.history import Line
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.stream import EventStream
from posthouse.engine.verdict import condition, verdict
from posthouse.fleet.events import Commit, Effect, Moved
from posthouse.wire import rows
from posthouse.wire.rows.events import Decided, EndpointChanged, Logged, WorkerMoved

SUMMARY_S = 1.0
"""How often an endpoint's summary is published at most, where it has changed."""
REFRESH_S = 15.0
"""How often it is published in any case, for new viewers."""


@dataclass(slots=True)
class Publisher:
    stream: EventStream
    _latest: WeakKeyDictionary[ManagedEndpoint, EndpointChanged] = field(default_factory=WeakKeyDictionary)
    """The latest summary of each endpoint."""

    def attach(self, managed: ManagedEndpoint) -> None:
        """Publishes from now on what happens to the endpoint."""
        managed.watchers.append(partial(self._heard, managed))
        managed.history.heard = partial(self._logged, managed)

    def _heard(self, managed: ManagedEndpoint, now: float, effects: list[Effect]) -> None:
        owner = managed.fleet.endpoint.account_id
        for effect in effects:
            if isinstance(effect, Moved):
                self.stream.publish(owner, _moved(managed, effect, now))
            elif isinstance(effect, Commit) and effect.decision is not None:
                self.stream.publish(owner, _decided(managed, effect.decision))
        if self.stream.viewers:
            self._summarize(managed, owner, now)

    def _logged(self, managed: ManagedEndpoint, line: Line) -> None:
        logged = Logged(**_where(managed, line.at), level=str(line.level), text=line.text, worker_id=line.worker_id)
        self.stream.publish(managed.fleet.endpoint.account_id, logged)

    def _summarize(self, managed: ManagedEndpoint, owner: AccountId, now: float) -> None:
        before = self._latest.get(managed)
        age_s = now - before.at if before is not None else REFRESH_S
        if age_s < SUMMARY_S:
            return
        fleet, shown = managed.fleet, figures(managed, now)
        found = verdict(managed, shown, now)
        summary = EndpointChanged(
            **_where(managed, now),
            state=str(fleet.endpoint.state),
            workers=dict(Counter(str(w.state) for w in fleet.workers.values())),
            outstanding=fleet.ledger.outstanding(),
            waiting=shown.waiting,
            usd_h=shown.usd_h,
            spent_usd=fleet.spent_usd(now),
            condition=condition(managed, shown, found),
            verdict=found,
            figures=shown,
        )
        if before is None or age_s >= REFRESH_S or _standing(before) != _standing(summary):
            self._latest[managed] = summary
            self.stream.publish(owner, summary)


def _where(managed: ManagedEndpoint, at: float) -> dict[str, Any]:
    endpoint = managed.fleet.endpoint
    return {"at": at, "endpoint_id": endpoint.id, "endpoint": endpoint.name}


def _standing(summary: EndpointChanged) -> tuple[object, ...]:
    """What makes a summary worth publishing; growing costs alone do not."""
    shown = summary.endpoint, summary.state, summary.workers, summary.outstanding, summary.waiting, summary.usd_h
    return *shown, summary.condition, summary.figures.looks, f"{summary.figures.load:.3g} {summary.figures.need:.3g}"


def _decided(managed: ManagedEndpoint, decision: Decision) -> Decided:
    plain = journal.plain(decision)
    row = msgspec.convert(plain, rows.Decision)
    return Decided(**_where(managed, decision.at), decision=row, title=words.title(plain), text=words.text(plain))


def _moved(managed: ManagedEndpoint, effect: Moved, now: float) -> WorkerMoved:
    worker = effect.after
    return WorkerMoved(
        **_where(managed, now),
        worker_id=worker.id,
        before=str(effect.before.state),
        state=str(worker.state),
        goal=str(worker.goal),
        workergroup_id=worker.group_id,
        provider=worker.provider,
        gpu_name=worker.gpu_name,
        url=worker.url,
        usd_h=worker.usd_h(),
        message=worker.message,
    )
