"""Runs many seeds in several processes, and writes down what was shown."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.campaign.awaits import AWAITS
from tests.campaign.day import Outcome, run

HERE = Path(__file__).parent
RECORD = HERE / "record.json"
KEPT = HERE / "seeds.txt"
"""Seeds that once broke a rule, each with why: regression tests."""
PROGRESS = 20
"""A line of progress for so many seeds."""


def main() -> int:
    """The exit status: 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seeds", default="1-2000", help="one seed, or the first and the last: 1-2000")
    parser.add_argument("--hours", type=float, default=24.0, help="virtual hours of each seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after that time, with what is done; 0: never")
    parser.add_argument("--record", type=Path, help=f"write what was shown; usually {RECORD.name} beside this module")
    parser.add_argument("--storage", action="store_true", help="break what is stored, too, at every crash")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)

    began, outcomes = time.monotonic(), []
    for outcome in _outcomes(seeds, args.hours, args.storage, args.jobs, 60.0 * args.minutes):
        outcomes.append(outcome)
        if outcome.violation:
            print(f"seed {outcome.seed}: {outcome.violation}", file=sys.stderr)
            print(f"  repeat: {_command(outcome)}{' --storage' if args.storage else ''}", file=sys.stderr, flush=True)
            if not args.storage:
                _keep(outcome)
        if len(outcomes) % PROGRESS == 0:
            print(f"{len(outcomes)} of {len(seeds)} seeds, {_rate(outcomes, began):.1f} a minute", flush=True)
    broken = [o for o in outcomes if o.violation]
    done = f"{len(outcomes)} seeds of {args.hours:g} virtual hours, {len(broken)} broken"
    print(f"{done}, {_rate(outcomes, began):.1f} a minute")
    crashed_at, never = _crashed_at(outcomes)
    print(f"it crashed at {len(crashed_at)} of the {len(AWAITS)} places where the engine waits")
    for place in never:
        print(f"  never at {place}")
    if args.record and outcomes:
        args.record.write_text(json.dumps(_record(outcomes, args.hours, args.jobs, began), indent=1) + "\n")
    return 1 if broken else 0


def _outcomes(seeds: range, hours: float, storage: bool, jobs: int, limit_s: float) -> Iterator[Outcome]:
    """Outcomes in the order of seeds, so that what is done is a range without gaps."""
    began = time.monotonic()
    if len(seeds) == 1:
        yield run(seeds[0], hours, storage)
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for outcome in pool.map(partial(run, hours=hours, storage=storage), seeds):
            yield outcome
            if limit_s and time.monotonic() - began > limit_s:
                pool.shutdown(wait=False, cancel_futures=True)
                return


def _crashed_at(outcomes: list[Outcome]) -> tuple[Counter[str], list[str]]:
    """Crashes by where the engine waited then, and where it waits and none was."""
    crashed_at = sum((outcome.crashed_at for outcome in outcomes), Counter[str]())
    return crashed_at, [str(place) for place in AWAITS if not crashed_at[str(place)]]


def _rate(outcomes: list[Outcome], began: float) -> float:
    return 60.0 * len(outcomes) / (time.monotonic() - began)


def _command(outcome: Outcome) -> str:
    return f"python -m tests.campaign --seeds {outcome.seed} --hours {outcome.hours:g}"


def _keep(outcome: Outcome) -> None:
    line = f"{outcome.seed} {outcome.hours:g}  # {outcome.violation[:150]}\n"
    kept = KEPT.read_text()
    if not any(row.split("#")[0].split() == line.split("#")[0].split() for row in kept.splitlines()):
        KEPT.write_text(kept + line)


def _record(outcomes: list[Outcome], hours: float, jobs: int, began: float) -> dict[str, object]:
    version = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    faults, happened = Counter[str](), Counter[str]()
    for outcome in outcomes:
        faults += outcome.faults
        happened += outcome.happened
    crashed_at, never = _crashed_at(outcomes)
    return {
        "seeds": {"from": outcomes[0].seed, "to": outcomes[-1].seed, "count": len(outcomes)},
        "virtual_hours_each": hours,
        "violations": {str(o.seed): o.violation for o in outcomes if o.violation},
        "seeds_per_minute": round(_rate(outcomes, began), 1),
        "processes": jobs,
        "crashed_at": dict(sorted(crashed_at.items())),
        "never_crashed_at": never,
        "faults": dict(sorted(faults.items())),
        "happened": dict(sorted(happened.items())),
        "version": version.stdout.strip() or "unknown",
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
    }


if __name__ == "__main__":
    sys.exit(main())
