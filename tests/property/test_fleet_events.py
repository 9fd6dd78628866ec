"""What holds for a fleet after any sequence of events, in any order, sensible or not."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.domain.decision import Memory
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.instance import LISTED, Instance
from posthouse.domain.lifecycle import UPDATING, Command, Goal, State
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.events import Assignment
from posthouse.policy.decide import decide
from tests.kit.fleets import NOW, Fleet, assigned, ready_report, worker

MAX_WORKERS = 4
SILENT_S = 45.0
SEEN = sorted(LISTED)
OFFER = GroupOffer(WorkergroupId(1), Offer("o", "sim", "m", Price(1.0, 0.5, 0.1), "A", 1, available=100))
SCALING = Scaling(cold_workers=2, max_workers=MAX_WORKERS, min_load=0.0, inactivity_timeout=30.0)


class Story:
    """A fleet to which things happen, and what must be true after each."""

    def __init__(self) -> None:
        self.now = 1e6
        self.fleet = Fleet(Endpoint(EndpointId(1), "e", SCALING), self.now, stabilization_s=5.0)
        self.memory = Memory()
        self.ids = (WorkerId(i) for i in count(1))
        self.asked: list[int] = []
        self.rows: dict[WorkerId, Worker] = {}
        self.spent_usd = 0.0

    def worker(self, pick: int) -> Worker | None:
        workers = list(self.fleet.workers.values())
        return workers[pick % len(workers)] if workers else None

    def instance(self, worker: Worker, pick: int) -> Instance:
        place = frozenset({f"10.0.0.1:{worker.id}"}) if pick % 3 else frozenset[str]()
        return Instance(f"i{worker.id}", worker.label, SEEN[pick % len(SEEN)], place, progress=str(pick % 7))

    def assign(self, pick: int, amount: float) -> None:
        idx = self.asked[pick % len(self.asked)] if self.asked and pick % 3 else 0
        outcome = self.fleet.assign(idx, amount, self.now, polls=bool(pick % 5))
        self.asked.append(outcome.request_idx)
        if isinstance(outcome, Assignment):
            assert outcome.worker.state is State.IDLE
            assert outcome.worker.goal == "hot"
            assert outcome.worker.url

    def end(self, pick: int, amount: float) -> None:
        if self.asked and (worker := self.worker(pick)):
            self.fleet.end(worker.id, Ended(self.asked[pick % len(self.asked)], success=bool(pick % 2)), self.now)

    def forget(self, pick: int, amount: float) -> None:
        if self.asked:
            self.fleet.forget(self.asked[pick % len(self.asked)])

    def report(self, pick: int, amount: float) -> None:
        if worker := self.worker(pick):
            working = frozenset(self.asked[pick % 7 :: 3]) if pick % 2 else None
            url = "" if pick % 5 == 0 else f"http://10.0.0.1:{worker.id}"
            perf = None if pick % 11 == 0 else 0.0 if pick % 7 == 0 else amount
            error = "broken" if pick % 13 == 0 else ""
            report = Report(perf, error, url, "1.1.0", "U", working, pick % 4 // 2, pick % 17, cur_load=amount)
            self.fleet.report(worker.id, report, self.now)

    def place(self, pick: int, amount: float) -> None:
        if worker := self.worker(pick):
            self.fleet.observe_instance(worker.id, self.instance(worker, pick), self.now)

    def observe(self, pick: int, amount: float) -> None:
        listed = [self.instance(w, pick + w.id) for w in self.fleet.workers.values() if (pick + w.id) % 4]
        self.fleet.observe("sim", listed, self.now - amount % 3, self.now)

    def wait(self, pick: int, amount: float) -> None:
        self.now += amount

    def age(self, pick: int, amount: float) -> None:
        self.fleet.advance(self.now, SILENT_S)

    def ask_update(self, pick: int, amount: float) -> None:
        self.fleet.ask_update(WorkergroupId(1), self.now)

    def cancel_update(self, pick: int, amount: float) -> None:
        self.fleet.cancel_update(WorkergroupId(1), self.now)
        assert all(w.goal is not Goal.UPDATED and not w.outdated_at for w in self.fleet.workers.values())

    def updated(self, pick: int, amount: float) -> None:
        for worker_id in [w.id for w in self.fleet.workers.values() if w.state in UPDATING]:
            self.fleet.command_answered(worker_id, self.now)
            self.fleet.updated(worker_id)

    def command_answered(self, pick: int, amount: float) -> None:
        if worker := self.worker(pick):
            self.fleet.command_answered(worker.id, self.now, "refused" if pick % 3 == 0 else "", blame=bool(pick % 2))

    def tick(self, pick: int, amount: float) -> None:
        decision = decide(self.fleet.snapshot(self.now, (OFFER,)), self.memory)
        self.memory = decision.memory
        for worker_id, command in self.fleet.tick(decision, self.now, self.ids, "test-"):
            if (pick + worker_id) % 4:  # the others are due again at the next tick
                self.command_sent(worker_id, command)

    def command_sent(self, worker_id: WorkerId, command: Command) -> None:
        worker = self.fleet.workers[worker_id]
        if worker.state is State.IDLE:
            assert not self.fleet.requests.busy(worker.id)
        if command is Command.UPDATE:
            assert worker.outdated_at
        self.fleet.command_sent(worker_id, command, self.now)

    def restart(self, pick: int, amount: float) -> None:
        self.store()
        before, rollouts = self.fleet, tuple(self.fleet.roster.rollouts.values())
        self.fleet = Fleet(before.endpoint, self.now, self.rows.values(), 5.0, before.spent_gone_usd, rollouts)
        self.memory, self.spent_usd = Memory(), 0.0

    def store(self) -> None:
        self.rows.update({w.id: w for w in self.fleet.take_changes()})

    def check(self) -> None:
        fleet, ledger = self.fleet, self.fleet.ledger
        assert len(fleet.workers) <= MAX_WORKERS
        assert all(w.state is not State.DESTROYED for w in fleet.workers.values())
        assert fleet.spent_usd(self.now) >= self.spent_usd - 1e-9
        self.spent_usd = fleet.spent_usd(self.now)
        work = {w: sum(r.cost for r in at.values()) for w, at in ledger.at.items()}
        assert work.keys() == {w for w, at in ledger.workers.items() if at} <= fleet.workers.keys()
        assert all(
            math.isclose(at.work, work.get(w, 0.0), rel_tol=1e-9, abs_tol=1e-6) for w, at in ledger.workers.items()
        )

    def check_rows(self) -> None:
        """What is stored is what is, but for money and signs of progress, which change all the time."""
        self.store()

        def lasting(workers: list[Worker]) -> dict[WorkerId, Worker]:
            return {w.id: replace(w, spent_usd=0.0, progressed_at=0.0) for w in workers}

        alive = [w for w in self.rows.values() if w.state is not State.DESTROYED]
        assert lasting(alive) == lasting(list(self.fleet.workers.values()))


Happenings = list[tuple[Callable[[Story, int, float], None], int, float]]
EVENTS: list[Callable[[Story, int, float], None]] = [
    *[Story.assign] * 4,
    *[Story.report] * 4,
    *[Story.tick] * 3,
    *[Story.wait] * 2,
    *[Story.place] * 2,
    Story.command_answered,
    Story.command_answered,
    Story.ask_update,
    Story.cancel_update,
    Story.updated,
    Story.end,
    Story.forget,
    Story.observe,
    Story.age,
]
events = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 1000), st.floats(0, 40)), min_size=40, max_size=160)


@settings(max_examples=60)
@given(events)
def test_nothing_that_happens_breaks_a_fleet(
    happenings: Happenings,
) -> None:
    story = Story()
    for happen, pick, amount in happenings:
        happen(story, pick, amount)
        story.check()
    story.check_rows()
    story.now += 200_000  # long enough for every request to be given up
    story.fleet.advance(story.now, SILENT_S)
    assert len(story.fleet.ledger) == 0
    assert story.fleet.ledger.at == {}


@given(events, events)
def test_a_restart_anywhere_breaks_nothing(
    before: Happenings,
    after: Happenings,
) -> None:
    story = Story()
    for happen, pick, amount in before:
        happen(story, pick, amount)
    story.restart(0, 0.0)
    assert {w.id for w in story.rows.values() if w.state is not State.DESTROYED} == story.fleet.workers.keys()
    for happen, pick, amount in after:
        happen(story, pick, amount)
        story.check()


def test_a_request_of_next_to_no_work_ends_well_though_its_work_is_rounded_to_none() -> None:
    fleet = Fleet(Endpoint(EndpointId(1), "e", SCALING), NOW, [worker()])
    given = assigned(fleet.assign(0, 1.0, NOW))
    fleet.report(given.worker.id, ready_report(perf=5e-324, working=[given.request_idx]), NOW)
    assert fleet.end(given.worker.id, Ended(given.request_idx, success=True), NOW + 0.25)
    assert len(fleet.ledger) == 0


def test_the_stories_reach_every_state() -> None:
    # So that the properties above are about more than the first few states.
    reached: set[State] = set()
    for seed in range(60):
        random, story = Random(seed), Story()
        for _ in range(150):
            random.choice(EVENTS)(story, random.randrange(1000), random.uniform(0, 40))
            reached |= {w.state for w in story.fleet.workers.values()}
        story.store()
        reached |= {w.state for w in story.rows.values()}
        if reached == set(State):
            break
    assert reached == set(State)
