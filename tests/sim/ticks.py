"""A million random ticks: `python -m tests.sim.ticks [--seeds 1-200] [--ticks 5000] [--record FILE]`.

Each seed is one endpoint whose parameters are edited at random, every few ticks, while load comes and goes, machines
fail, answers are lost and the server restarts. After every event the auditor looks that there are never more than
`max_workers` workers, or, where that was lowered below what there was, that no one is added. Beside the workers, the
instances that truly exist are counted.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from posthouse.domain.endpoint import SLO_MODES, EndpointState, Scaling
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Price
from posthouse.fleet.controller import Policy
from posthouse.policy.decide import decide
from posthouse.sim.audit import BrokenRule
from posthouse.sim.client import ClientBehaviour
from posthouse.sim.instance import SimInstance
from posthouse.sim.market import Duration, Hardware
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import Pace, World

HERE = Path(__file__).parent
EDITED, DISTURBED = 0.1, 0.03
"""Shares of ticks after which parameters are edited, and after which something happens to machines or the server."""
MAX_WORKERS = 24


def parameters(random: Random) -> dict[str, Any]:
    """A value for each scaling parameter: usual ones, and the ends of what is allowed."""
    return {
        "min_load": random.choice([0.0, 0.0, 1.0, random.uniform(0, 800), 1e12]),
        "target_util": random.choice([0.9, 1.0, 0.01, random.uniform(0.3, 1)]),
        "cold_mult": random.choice([0.0, 1.0, 3.0, random.uniform(0, 5), 1000.0]),
        "min_cold_load": random.choice([0.0, 0.0, random.uniform(0, 2000), 1e12]),
        "cold_workers": random.choice([0, 0, 1, 5, random.randint(0, 30), 10_000]),
        "max_workers": random.choice([0, 1, 3, 16, random.randint(0, MAX_WORKERS), random.randint(0, MAX_WORKERS)]),
        "max_queue_time": random.choice([30.0, 0.1, random.uniform(0.1, 300), 86_400.0]),
        "target_queue_time": random.choice([10.0, 0.1, random.uniform(0.1, 100), 86_400.0]),
        "inactivity_timeout": random.choice([None, 0.0, -1.0, random.uniform(1, 300)]),
        "max_usd_h": random.choice([None, None, 0.0, random.uniform(0, 20)]),
        "slo_mode": random.choice(SLO_MODES),
    }


def hardware(random: Random) -> tuple[Hardware, ...]:
    """One to three types of machine, of which little can be relied upon."""
    return tuple(
        Hardware(
            gpu=f"G{number}",
            perf=random.choice([50.0, 100.0, 400.0]),
            slots=random.choice([1, 4, 8]),
            price=Price(random.uniform(0.2, 2), random.uniform(0.1, 2), random.uniform(0, 0.2)),
            create=Duration(random.uniform(1, 60), random.uniform(1, 200)),
            load=Duration(random.uniform(1, 60), random.uniform(1, 200)),
            start=Duration(random.uniform(1, 30), random.uniform(1, 60)),
            available=random.randint(1, 30),
            per_host=random.randint(1, 4),
            refused=random.choice([0.0, 0.1, 0.5]),
            broken=random.choice([0.0, 0.2]),
            crashes_h=random.choice([0.0, 2.0, 20.0]),
            preempted_h=random.choice([0.0, 2.0, 20.0]),
        )
        for number in range(random.randint(1, 3))
    )


def arrivals(random: Random) -> Iterator[Arrival]:
    """Requests at a rate that is drawn again every few minutes, forever."""
    t = 0.0
    while True:
        rate, until_t = random.choice([0.0, 0.03, 0.3, 1.0]), t + random.expovariate(1 / 200)
        cost = random.choice([10.0, 100.0, 500.0])
        while rate and (t := t + random.expovariate(rate)) < until_t:
            yield t, cost * random.expovariate(1.0)
        t = until_t


class Restless(World):
    """An endpoint that somebody edits all the time, in a world where everything fails."""

    def __init__(self, seed: int, policy: Policy = decide) -> None:
        self.edits = Random(f"{seed}/edits")
        self.counts = Counter[str]()
        super().__init__(
            Scaling(**parameters(self.edits)),
            arrivals(Random(f"{seed}/traffic")),
            hardware(self.edits),
            seed,
            policy,
            ClientBehaviour(timeout_s=self.edits.choice([20.0, 60.0])),
            Pace(tick_s=self.edits.choice([0.5, 1.0, 2.0]), bell=self.edits.random() < 0.5),
            repeat=f"python -m tests.sim.ticks --seeds {seed}",
        )
        self.late_s = lambda instance: math.inf if self.edits.random() < 0.05 else 0.0

    def on_tick(self) -> None:
        self.counts["ticks"] += 1
        number = len(self.fleet.workers)
        self.counts["at max_workers"] += number == self.endpoint.scaling.max_workers
        self.counts["above it, since it was lowered"] += number > self.endpoint.scaling.max_workers
        self.counts["most workers"] = max(number, self.counts["most workers"])
        owned = {w.label for w in self.fleet.workers.values()}
        if not self.down and self.instances.keys() - owned:
            raise BrokenRule(f"at {self.t:.3f} s: instances without a worker: {sorted(self.instances.keys() - owned)}")
        # Between two ticks, so that what a tick has done is looked at by the parameters that it was done by.
        if self.edits.random() < EDITED:
            self.after(self.edits.random() * self.pace.tick_s, self._edit)
        if self.edits.random() < DISTURBED:
            self.after(self.edits.random() * self.pace.tick_s, self._disturb)

    def _edit(self) -> None:
        drawn = parameters(self.edits)
        names = self.edits.sample(sorted(drawn), self.edits.choice([1, 1, 2, len(drawn)]))
        unusual = self.edits.choice([EndpointState.SUSPENDED, EndpointState.STOPPED])
        state = unusual if self.edits.random() < 0.1 else EndpointState.ACTIVE
        self.configure(state, **{name: drawn[name] for name in names})
        self.counts["edits"] += 1
        self.counts["edits of max_workers"] += "max_workers" in names

    def _disturb(self) -> None:
        happens = self.edits.choice([self._kill, self._preempt, self._refuse, self._lose, self.update, self._restart])
        happens()
        self.counts[happens.__name__.strip("_")] += 1

    def _any_box(self) -> SimInstance | None:
        return self.instances[self.edits.choice(sorted(self.instances))] if self.instances else None

    def _kill(self) -> None:
        if instance := self._any_box():
            self.kill(instance, self.edits.choice([Observation.RUNNING, Observation.EXITED]))

    def _preempt(self) -> None:
        if (instance := self._any_box()) and instance.seen is not Observation.HALTED:
            self.preempt(instance)

    def _refuse(self) -> None:
        self.refuse_creation = "" if self.refuse_creation else "no credit"

    def _lose(self) -> None:
        self.lose_answers, self.lose_ends = self.edits.random() < 0.3, self.edits.random() < 0.3

    def _restart(self) -> None:
        if not self.down and self.edits.random() < 0.3:
            self.restart(self.edits.choice([0.0, 60.0]), self.edits.choice([0.0, 10.0, 300.0]))


def live(seed: int, ticks: int, policy: Policy = decide) -> Counter[str]:
    """What happened in so many ticks of a seed. Raises: BrokenRule."""
    world = Restless(seed, policy)
    while world.counts["ticks"] < ticks:
        world.run(world.t + 60.0)
    world.counts["commands"] = sum(world.given.values())
    return world.counts


def main() -> int:
    """The exit status: 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.ticks", description=__doc__)
    parser.add_argument("--seeds", default="1-200", help="one seed, or the first and the last: 1-200")
    parser.add_argument("--ticks", type=int, default=5050, help="of each seed, at least")
    parser.add_argument("--record", type=Path, help="write what was shown")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    began, counts, most, violations = time.process_time(), Counter[str](), 0, dict[str, str]()
    for number, seed in enumerate(seeds, 1):
        try:
            lived = live(seed, args.ticks)
        except BrokenRule as error:
            violations[str(seed)] = str(error)
            print(f"seed {seed}: {error}", file=sys.stderr, flush=True)
            continue
        most = max(most, lived.pop("most workers"))
        counts += lived
        if number % 20 == 0:
            print(f"{number} of {len(seeds)} seeds, {counts['ticks']:,} ticks", flush=True)
    took_s = time.process_time() - began
    print(
        f"{counts['ticks']:,} ticks of {len(seeds)} seeds, {len(violations)} broken, {took_s:.0f} s of processor time"
    )
    if args.record:
        version = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
        record = {
            "seeds": {"from": seeds[0], "to": seeds[-1], "count": len(seeds)},
            "ticks": counts.pop("ticks"),
            "violations": violations,
            "processor_s": round(took_s, 1),
            "most_workers": most,
            "happened": dict(sorted(counts.items())),
            "version": version.stdout.strip() or "unknown",
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
