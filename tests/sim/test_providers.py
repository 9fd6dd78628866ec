"""An endpoint over two providers: it settles on the cheaper work, moves when a price doubles, outlives either."""

from collections import Counter
from typing import Any

import pytest

from posthouse.domain.lifecycle import State
from posthouse.sim.run import run
from posthouse.sim.scenario import Scenario, load
from posthouse.sim.world import Pace, World
from tests.kit.marks import long

HOUR_S = 3600.0


def offered(provider: str, usd_h: float, perf: float = 400.0, **others: Any) -> dict[str, Any]:
    prices = {"ready_usd_h": usd_h, "stopped_usd_h": usd_h / 20}
    return {"gpu": "RTX 4090", "provider": provider, "perf": perf, "create_s": 90, "load_s": 30} | prices | others


def over(*workers: dict[str, Any], hours: float, seed: int = 1, **scaling: float) -> Scenario:
    traffic = {"load": 1000, "cost": 4000, "span_s": hours * HOUR_S}
    wanted = {"cold_workers": 0, "cold_mult": 1, "max_workers": 12, **scaling}
    return load(None, {"seed": seed, "tick_s": 15, "traffic": traffic, "workers": list(workers), "scaling": wanted})


class Lived(World):
    """A world of which it is known who had the ready workers, every minute."""

    def __init__(self, given: Scenario) -> None:
        self.ready: list[Counter[str]] = []
        super().__init__(
            given.parameters(),
            given.traffic.arrivals(given.seed),
            given.hardware(),
            given.seed,
            pace=Pace(tick_s=given.tick_s, list_s=10.0),
        )
        self.after(60.0, self._look)

    def _look(self) -> None:
        there = [w for w in self.fleet.workers.values() if w.state is State.IDLE and w.goal == "hot"]
        self.ready.append(Counter(w.provider for w in there))
        self.after(60.0, self._look)

    def shares(self, from_h: float, to_h: float) -> dict[str, float]:
        """Of the time of ready workers, what each provider had between two hours."""
        total = sum(self.ready[round(from_h * 60) : round(to_h * 60)], Counter[str]())
        return {name: total[name] / max(1, total.total()) for name in ("left", "right")}


def lived(given: Scenario, hours: float) -> Lived:
    world = Lived(given)
    world.run(hours * HOUR_S)
    return world


def test_it_settles_on_the_cheaper_per_unit_of_work() -> None:
    # Right is dearer by the hour and does twice the work: 0.50 / 800 is less than 0.40 / 400.
    world = lived(over(offered("left", 0.40), offered("right", 0.50, perf=800.0, gpu="RTX 5090"), hours=2), 2)
    assert world.shares(1, 2)["right"] > 0.9


def test_it_moves_when_a_price_doubles_and_back_when_it_falls() -> None:
    moves = [[0.8 * HOUR_S, 2.0], [1.8 * HOUR_S, 1.0]]
    world = lived(over(offered("left", 0.30, price_changes=moves), offered("right", 0.40), hours=2.8), 2.8)
    assert world.shares(0.3, 0.8)["left"] > 0.9
    assert world.shares(1.3, 1.8)["right"] > 0.9
    assert world.shares(2.3, 2.8)["left"] > 0.9


@pytest.mark.parametrize("provider", ["left", long("right")])
def test_it_outlives_either(provider: str) -> None:
    down = {provider: [[0.7 * HOUR_S, 1.4 * HOUR_S]]}
    both = (offered(name, usd_h, down=down.get(name, [])) for name, usd_h in (("left", 0.3), ("right", 0.4)))
    world = lived(over(*both, hours=2.4), 2.4)
    assert world.shares(0.9, 1.4)[provider] == 0
    assert world.shares(1.9, 2.4)["left"] > 0.9
    assert min(sum(ready.values()) for ready in world.ready[62:]) >= 3


def test_what_it_saves_is_what_the_prices_say() -> None:
    left = offered("left", 0.30, price_changes=[[0.5 * HOUR_S, 2.0]])
    both, alone = (run(over(left, *others, hours=2)).summary for others in ([offered("right", 0.40)], []))
    assert both.usd < 0.8 * alone.usd
    assert both.over_goal < alone.over_goal + 0.01


def test_equal_workers_are_spread_over_zones_and_hosts() -> None:
    zones = [offered("left", 0.3, zone=zone, gpu=f"GPU {zone}", per_host=6, available=12) for zone in ("a", "b")]
    world = lived(over(*zones, hours=0.5), hours=0.5)
    hosts = Counter(w.machine for w in world.fleet.workers.values())
    assert len(hosts) >= 3
    assert len({host.rpartition("-")[0] for host in hosts}) == 2
