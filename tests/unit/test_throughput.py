"""What a worker says that it does is believed as far as it has shown it, once it was seen at its limit."""

from dataclasses import dataclass, field

import pytest

from posthouse.domain.endpoint import Scaling
from posthouse.domain.reports import Ended
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Assignment
from posthouse.policy.decide import decide
from tests.kit.fleets import NOW, ONE, SILENT_S, TWO, Fleet, fleet_of, ready_report, worker

COST = 100.0
STEP_S = 0.5


@dataclass
class Machine:
    """A model server: what it does at most, how fast one request goes there, and what it says of itself."""

    perf: float
    alone: float
    says: float
    left: dict[int, float] = field(default_factory=dict)

    def work(self, span_s: float) -> list[int]:
        """Shares what it does among its requests; returns those that are done."""
        each = min(self.alone, self.perf / len(self.left)) * span_s if self.left else 0.0
        self.left = {idx: work - each for idx, work in self.left.items()}
        done = [idx for idx, work in self.left.items() if work <= 0]
        for idx in done:
            del self.left[idx]
        return done


@dataclass
class Service:
    """Machines, and clients that ask at a steady pace."""

    machines: dict[WorkerId, Machine]
    scaling: Scaling = field(default_factory=lambda: Scaling(cold_workers=0, max_workers=9))
    at: float = NOW
    owed: float = 0.0

    def __post_init__(self) -> None:
        self.fleet: Fleet = fleet_of(*(worker(i, perf=m.says) for i, m in self.machines.items()), max_workers=9)

    def run(self, seconds: float, per_s: float) -> None:
        until = self.at + seconds
        while self.at < until:
            self.at += STEP_S
            self.owed += per_s * STEP_S
            for worker_id, machine in self.machines.items():
                for idx in machine.work(STEP_S):
                    self.fleet.end(worker_id, Ended(idx, True, "Success"), self.at)
            while self.owed >= 1:
                self.owed -= 1
                found = self.fleet.assign(0, COST, self.at)
                if isinstance(found, Assignment):
                    self.machines[found.worker.id].left[found.request_idx] = COST
            for worker_id, machine in self.machines.items():
                self.fleet.report(worker_id, ready_report(worker_id, machine.says, machine.left), self.at)
            self.fleet.advance(self.at, SILENT_S)

    def believed(self, worker_id: WorkerId = ONE) -> float:
        return self.fleet.workers[worker_id].perf

    def supply(self) -> tuple[float, float]:
        """What is needed, and what is there by the decision."""
        decision = decide(self.fleet.snapshot(self.at, ()), self.fleet.memory)
        return decision.hot_need, decision.hot_supply


@pytest.mark.parametrize("alone", [100.0, 25.0])
@pytest.mark.parametrize("says", [1e4, 1e9])
def test_the_first_worker_that_overstates_is_believed_what_it_showed_and_more_are_rented(
    says: float, alone: float
) -> None:
    service = Service({ONE: Machine(100.0, alone, says)})
    service.run(60, per_s=0.2)
    service.run(120, per_s=2.0)
    assert service.believed() <= 2.5 * 100.0
    need, supply = service.supply()
    assert need > supply, "twice as much is asked as it does"


def test_one_that_overstates_from_its_first_burst_on_is_found_in_the_next_calm() -> None:
    service = Service({ONE: Machine(100.0, 100.0, 1e6)})
    service.run(90, per_s=2.0)
    service.run(300, per_s=0.2)
    service.run(120, per_s=2.0)
    assert service.believed() <= 2.5 * 100.0


def test_one_among_honest_ones_gets_its_share_and_no_more() -> None:
    service = Service({ONE: Machine(100.0, 100.0, 1e6), TWO: Machine(100.0, 100.0, 100.0)})
    service.run(60, per_s=0.2)
    service.run(240, per_s=1.5)
    service.run(240, per_s=1.5)
    assert service.believed() <= 2.5 * 100.0
    assert len(service.machines[ONE].left) < 60


@pytest.mark.parametrize(("perf", "alone", "per_s"), [(5000.0, 100.0, 2.0), (5000.0, 100.0, 45.0), (100.0, 100.0, 0.9)])
def test_an_honest_worker_is_believed_at_any_load(perf: float, alone: float, per_s: float) -> None:
    service = Service({ONE: Machine(perf, alone, perf)})
    for share in (0.1, 0.5, 1.0, 0.3, 1.0):
        service.run(60, per_s * share)
        assert service.believed() == perf


def test_an_honest_worker_that_has_more_than_it_can_do_is_believed() -> None:
    service = Service({ONE: Machine(500.0, 100.0, 500.0)})
    service.run(60, per_s=0.5)
    service.run(120, per_s=10.0)
    assert service.believed() == 500.0


def test_one_that_was_slow_for_a_while_is_believed_again_as_it_does_more() -> None:
    service = Service({ONE: Machine(1000.0, 100.0, 1000.0)})
    service.run(60, per_s=0.5)
    service.machines[ONE].perf = 100.0  # somebody else has its machine
    service.run(120, per_s=4.0)
    assert service.believed() < 400.0
    service.machines[ONE].perf = 1000.0
    service.run(400, per_s=8.0)
    assert service.believed() == 1000.0
