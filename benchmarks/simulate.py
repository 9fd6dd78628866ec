"""Measures the simulator: `python -m benchmarks.simulate [--trace FILE] [--quick]`.

How long runs take, in processor seconds, and how that grows: with requests at the same length, with length, and with
workers. Prints a table and writes `benchmarks/results/simulate.json`. `--trace`: a request trace whose whole length is
run as well.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from posthouse.sim.run import run
from posthouse.sim.scenario import Scenario, load

RESULTS = Path(__file__).parent / "results" / "simulate.json"
HOUR = 3600.0


def scenario(load_work_s: float, hours: float, perf: float = 100.0, cost: float = 100.0) -> Scenario:
    """Random arrivals by day and night; the market has room enough."""
    return load(
        None,
        {
            "traffic": {
                "shape": "diurnal",
                "load": load_work_s,
                "low": load_work_s / 2,
                "cost": cost,
                "span_s": hours * HOUR,
            },
            "workers": {"perf": perf, "slots": 4, "available": 2000},
            "scaling": {"min_load": 0, "cold_mult": 1.2, "cold_workers": 1, "max_workers": 2000},
        },
    )


def measured(name: str, given: Scenario) -> dict[str, Any]:
    began = time.process_time()
    summary = run(given).summary
    took_s = time.process_time() - began
    workers = (summary.ready_h + summary.loading_h + summary.stopped_h) / summary.span_s * HOUR
    row = {"run": name, "requests": summary.requests, "hours": round(summary.span_s / HOUR, 1)}
    row |= {"workers": round(workers, 1), "cpu_s": round(took_s, 2)}
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="request trace, CSV or CSV.gz, run as a whole")
    parser.add_argument("--perf", type=float, default=10.0, help="work per second of a worker that serves the trace")
    parser.add_argument("--quick", action="store_true", help="a fifth of the length; less exact")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    hours = 1.0 if options.quick else 5.0
    rows = [
        *(measured(f"requests x {n}", scenario(400.0, hours, cost=100.0 / n)) for n in (1, 2, 4, 8)),
        *(measured(f"length x {n}", scenario(400.0, n * hours)) for n in (1, 2, 4)),
        # Twice the workers with as many requests: each of them is twice the work.
        *(measured(f"workers x {n}", scenario(400.0 * n, hours, cost=100.0 * n)) for n in (1, 2, 4, 8, 16)),
    ]
    if options.trace:
        tree = {
            "traffic": {"trace": str(options.trace)},
            "workers": {"perf": options.perf, "slots": 2},
            "scaling": {"min_load": 0, "cold_mult": 1.5, "cold_workers": 1},
        }
        rows.append(measured(options.trace.name, load(None, tree)))
    options.output.write_text(json.dumps({"python": platform.python_version(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
