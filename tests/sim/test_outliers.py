"""Workers that answer at once with errors, in virtual time: they look idle, and yet draw no requests."""

from collections import Counter

import pytest

from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import WorkerId
from tests.sim.world import Client, SimInstance, World

SCALING = Scaling(min_load=0.0, target_util=0.9, cold_mult=0.0, cold_workers=0, max_workers=8)
AT = 150.0
"""By then the fleet has its size."""
FAIL_S, RETRY_S = 0.01, 3.0
"""How soon a model fails that fails at once, and when the protocol's client asks again after a status 500."""


class Failing(World):
    """A world in which some workers' models answer every request with an error."""

    def __init__(self, says_success: bool) -> None:
        """`says_success`: what their workers tell of it, as those of the protocol do."""
        self.says_success = says_success
        self.failing: set[WorkerId] = set()
        self.sent: Counter[WorkerId] = Counter()
        super().__init__(SCALING, load=lambda t: 280.0)

    def _serve(self, instance: SimInstance, client: Client) -> None:
        self.sent[instance.worker_id] += 1
        if instance.worker_id not in self.failing:
            super()._serve(instance, client)
            return
        instance.served += 1
        client.began_at = self.now
        self.after(FAIL_S, self._fail, instance, instance.life, client)

    def _fail(self, instance: SimInstance, life: int, client: Client) -> None:
        if instance.life == life and not client.gone:
            self._leave(instance, client, success=self.says_success)
            self.after(RETRY_S, self._ask, client)


@pytest.mark.parametrize("says_success", [False, True])
def test_a_worker_that_fails_at_once_gets_few_requests_and_all_are_answered(says_success: bool) -> None:
    world = Failing(says_success)
    world.run(AT)
    assert world.count(State.IDLE) >= 4
    broken = min(world.fleet.workers)
    world.failing, world.sent = {broken}, Counter()
    world.run(AT + 200)
    assert 0 < world.sent[broken] < 0.05 * world.sent.total()
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 60)
    world.failing = set()
    world.run(AT + 400)
    assert not world.fleet.requests.outliers.penalties_s(world.now)


@pytest.mark.parametrize("says_success", [False, True])
def test_where_most_workers_fail_all_are_used_and_all_is_well_when_that_is_over(says_success: bool) -> None:
    world = Failing(says_success)
    world.run(AT)
    fine, *broken = sorted(w.id for w in world.fleet.workers.values() if w.state is State.IDLE)
    assert len(broken) >= 3
    world.failing, world.sent = set(broken), Counter()
    world.run(AT + 60)
    assert all(world.sent[worker_id] for worker_id in broken)  # none is given up
    assert world.sent[fine] > 0
    world.failing = set()
    world.run(AT + 400)
    assert all(c.answered_at for c in world.clients if c.asked_at < world.now - 60)
    assert not world.fleet.requests.outliers.penalties_s(world.now)
