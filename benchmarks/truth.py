"""Does the simulator tell the truth? `python -m benchmarks.truth [--repeat N] [--demos DIRECTORY ...]`

Runs `posthouse demo` for real, several times, or takes the results of earlier ones, and replays each in the simulator
with what was measured there: how long starts took, how fast workers said they were, how long requests were served, and
at which second traffic began. Prints both side by side and writes `benchmarks/results/truth.json`.

Each demo is replayed several times, with the traffic shifted by less than a tick and other random times of clients:
when the server's ticks, workers' reports and clients' polls fell is not recorded, and a request more or less in a
worker's line by then decides whether others wait outside.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from posthouse.client.requests import POLL_S
from posthouse.demo.run import SCALING, SLOTS, Options, demo
from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import State
from posthouse.domain.offer import Price
from posthouse.policy.tuning import TUNING
from posthouse.sim.client import Client, ClientBehaviour
from posthouse.sim.market import Duration, Hardware
from posthouse.sim.world import Pace, World

RESULTS = Path(__file__).parent / "results" / "truth.json"
PACE = Pace(tick_s=0.5, list_s=0.5, answer_s=0.05)
"""As the demo sets the server; its provider is this machine, and answers soon."""
REPLAYS = 8
"""Of each demo, each with the traffic an equal part of a tick later, and with another seed."""
NOT_COUNTED = (State.WANTED, State.STOPPED, State.DESTROYED)


class Replay(World):
    """The demo's traffic, once its cold workers are ready, as in the demo.

    `traffic_at`: when it began in the demo. It begins here at as many seconds beyond a whole ten: load is counted in
    blocks of that length, and a start comes seconds earlier or later by how traffic falls into them.
    """

    def __init__(self, outcomes: list[Mapping[str, float]], hardware: Hardware, traffic_at: float, seed: int) -> None:
        super().__init__(
            Scaling(**SCALING), (), (hardware,), seed=seed, behaviour=ClientBehaviour(polls_s=POLL_S), pace=PACE
        )
        self.outcomes, self.clients, self.traffic_at = outcomes, list[Client](), traffic_at
        self.began = False

    def on_tick(self) -> None:
        resting = sum(w.state is State.STOPPED for w in self.fleet.workers.values())
        if not self.began and resting >= SCALING["cold_workers"]:
            self.began = True
            begins_s = (self.traffic_at - self.now) % TUNING.recent_s
            for outcome in self.outcomes:
                self.after(begins_s + outcome["at_s"], self.request, outcome["cost"])

    def on_request(self, client: Client) -> None:
        self.clients.append(client)

    @property
    def over(self) -> bool:
        """Everything is answered, and every worker rests."""
        still = all(w.state is State.STOPPED for w in self.fleet.workers.values())
        return len(self.clients) == len(self.outcomes) and self.pending == 0 and still


def service(outcomes: list[Mapping[str, float]]) -> tuple[float, float]:
    """How long requests were served: seconds for each one, and for each unit of its work.

    By those that nothing delayed: a line below the others.
    """
    work, took_s = (np.array(column) for column in zip(*((o["cost"], o["total_s"]) for o in outcomes), strict=True))
    unit_s, overhead_s = np.polyfit(work, took_s, 1)
    for _ in range(5):  # those that queued lie above
        free = took_s <= overhead_s + unit_s * work + 0.05
        unit_s, overhead_s = np.polyfit(work[free], took_s[free], 1)
    return max(0.0, float(overhead_s)), float(unit_s)


def measured(seen: Mapping[str, Any]) -> tuple[Hardware, float]:
    """The demo's machines as it measured them, and how fast they really were as a share of what they said."""
    estimates = seen["estimates"]
    perf = median(estimates["perf"].values())
    overhead_s, unit_s = service(seen["outcomes"])
    hardware = Hardware(
        perf=perf,
        slots=SLOTS,
        overhead_s=overhead_s,
        agent=True,
        price=Price(0.4, 0.4, 0.01),
        create=Duration(0.2),
        load=Duration(estimates["create_s"] - 0.2 - PACE.answer_s),
        start=Duration(estimates["start_s"] - PACE.answer_s),
        available=8,
        per_host=8,
    )
    return hardware, SLOTS / unit_s / perf


def replayed(seen: Mapping[str, Any]) -> dict[str, float]:
    """What the replays come to in the mean."""
    hardware, speed = measured(seen)
    rows = []
    for number in range(REPLAYS):
        world = Replay(seen["outcomes"], hardware, seen["traffic_at"] + number * PACE.tick_s / REPLAYS, number)
        world.speed = speed
        while not world.over:
            world.run(world.t + 0.5)
        world.audit.close_bill(world.now)
        worker_s = sum(spent_s for state, spent_s in world.audit.state_s.items() if state not in NOT_COUNTED)
        waits_s = [c.began_at - c.asked_at for c in world.clients]
        routes_s = [c.assigned_at - c.asked_at for c in world.clients]
        rows.append(_row(worker_s, waits_s, routes_s))
    return _mean(rows)


def compared(directory: Path) -> dict[str, dict[str, float]]:
    """What the demo came to whose results are in `directory`, and what its replays did."""
    seen = json.loads((directory / "demo.json").read_text())
    outcomes = seen["outcomes"] = [o for o in seen["outcomes"] if not o["error"]]
    overhead_s, unit_s = service(outcomes)
    waits_s = [max(0.0, o["total_s"] - overhead_s - unit_s * o["cost"]) for o in outcomes]
    real = _row(seen["summary"]["worker_s"], waits_s, [o["wait_s"] for o in outcomes])
    return {"real": real, "simulated": replayed(seen)}


def _row(worker_s: float, waits_s: list[float], routes_s: list[float]) -> dict[str, float]:
    """`waits_s`: until a worker began on it, as everywhere in the evaluation. `routes_s`: until it had a worker."""
    return {
        "worker_s": round(worker_s, 1),
        "wait_mean_s": round(mean(waits_s), 4),
        "wait_p99_s": round(float(np.quantile(waits_s, 0.99)), 3),
        "route_mean_s": round(mean(routes_s), 4),
        "route_max_s": round(max(routes_s), 3),
    }


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(mean(row[name] for row in rows), 4) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", type=Path, nargs="+", help="directories with the demo.json of earlier demos")
    parser.add_argument("--duration", type=float, default=90.0, help="length of the demo's traffic, in seconds")
    parser.add_argument("--repeat", type=int, default=3, help="how many demos are run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for number in range(len(options.demos or ()) or options.repeat):
        directory = options.demos[number] if options.demos else Path(tempfile.mkdtemp(prefix="posthouse-truth-"))
        if not options.demos and demo(Options(options.duration, directory, quiet=True)) != 0:
            raise SystemExit("the demo failed")
        rows.append(compared(directory))
        _show(f"demo {number + 1}", rows[-1])
    means = {side: _mean([row[side] for row in rows]) for side in rows[0]}
    _show("mean", means)
    off = {name: round(means["simulated"][name] / value - 1, 4) for name, value in means["real"].items() if value}
    options.output.write_text(json.dumps({"demos": rows, "mean": means, "off": off}, indent=2) + "\n")


def _show(title: str, row: Mapping[str, Mapping[str, float]]) -> None:
    for name, value in row["real"].items():
        off = f"{row['simulated'][name] / value - 1:+.1%}" if value else "-"
        print(f"{title:<8} {name:<12} real {value:>8}  simulated {row['simulated'][name]:>8}  {off}", flush=True)


if __name__ == "__main__":
    main()
