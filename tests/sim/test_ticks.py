"""A few thousand of what `make ticks` makes a million of."""

from collections import Counter
from dataclasses import replace

import pytest

from posthouse.domain.decision import Decision, Memory, Rental, Snapshot
from posthouse.domain.lifecycle import Goal
from posthouse.policy.decide import decide
from posthouse.sim.audit import BrokenRule
from tests.sim.ticks import live


def test_max_workers_is_never_passed_however_it_is_edited() -> None:
    lived = sum((live(seed, 800) for seed in range(1, 4)), Counter[str]())
    assert lived["ticks"] >= 2400
    assert lived["edits of max_workers"] > 40
    assert lived["at max_workers"] > 200  # else nothing held it
    assert lived["above it, since it was lowered"] > 20
    assert lived["commands"] > 200


def test_one_worker_too_many_is_found() -> None:
    def generous(s: Snapshot, memory: Memory) -> Decision:
        decision = decide(s, memory)
        if s.offers and len(s.workers) + len(decision.rentals) == s.endpoint.scaling.max_workers:
            extra = Rental(s.offers[0], Goal.HOT)
            return replace(decision, rentals=(*decision.rentals, extra))
        return decision

    with pytest.raises(BrokenRule, match=r"never above max_workers.*python -m tests\.sim\.ticks --seeds 1$"):
        live(1, 800, generous)
