"""An endpoint's own traffic under two settings, in a process of its own: a replay takes a processor for a while.

`python -m posthouse.engine.what_if` reads what is asked and the record from its input, as JSON, and prints the answer.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec

from posthouse.errors import BadRequest, Busy, NotFound, PosthouseError, Unavailable
from posthouse.wire import rows

if TYPE_CHECKING:
    from posthouse.sim.measured import Measured
    from posthouse.sim.record import Sample, Summary

TIMEOUT_S: Final = 180.0
"""How long a replay may take, of which there is one at a time."""
MAX_REQUESTS: Final = 200_000
"""Of a longer record the latest part with so many is played."""
TICKS: Final = 20_000
"""About so many decisions are made in a replay: over long spans fewer than the server makes."""
ROWS: Final = 360
"""Most moments of a picture."""
_NICE: Final = 10
_ERRORS: Final[dict[str, type[PosthouseError]]] = {"BadRequest": BadRequest, "NotFound": NotFound}


@dataclass(slots=True)
class WhatIf:
    """Runs replays, one at a time."""

    timeout_s: float = TIMEOUT_S
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, traffic: Mapping[str, Any], changes: Mapping[str, Any], goal_s: float) -> bytes:
        """The answer, a `rows.WhatIf` in JSON. Raises: BadRequest, NotFound where nothing is recorded, Busy."""
        if self._lock.locked():
            raise Busy("a what-if is being worked out for somebody: there is one at a time", 5.0)
        async with self._lock:
            asked = {"traffic": traffic, "changes": changes, "goal_s": goal_s}
            body = await asyncio.to_thread(msgspec.json.encode, asked)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "posthouse.engine.what_if"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(self.timeout_s):
                    said, _ = await process.communicate(body)
            except TimeoutError:
                raise Unavailable(
                    f"the replay took more than {self.timeout_s:g} s: ask for a shorter part", 0.0
                ) from None
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        if process.returncode:
            raise Unavailable(f"the replay ended with exit code {process.returncode}", 0.0)
        if said.startswith(b"!"):
            kind, _, text = said[1:].decode().partition(" ")
            raise _ERRORS.get(kind, Unavailable)(text)
        return said


def main() -> None:
    """The process: what is asked in, the answer out, or after a `!` the kind and the text of an error."""
    os.nice(_NICE)
    asked = msgspec.json.decode(sys.stdin.buffer.read())
    try:
        answer = msgspec.json.encode(asdict(compared(asked["traffic"], asked["changes"], asked["goal_s"])))
    except PosthouseError as error:
        answer = f"!{type(error).__name__} {error}".encode()
    sys.stdout.buffer.write(answer)


def compared(traffic: Mapping[str, Any], changes: Mapping[str, Any], goal_s: float) -> rows.WhatIf:
    """The traffic as it was, in a replay as the endpoint is, and in one with the changes."""
    from posthouse.sim.recorded import recording
    from posthouse.sim.run import run

    found, notes = recording(traffic), list[str]()
    begin_s, end_s = 0.0, found.span_s
    if len(found.at_s) > MAX_REQUESTS:
        begin_s = float(found.at_s[-MAX_REQUESTS])
        notes.append(f"the latest {MAX_REQUESTS:,} requests are played")
    begin_s, end_s = found.snapped(begin_s, end_s)
    tick_s = max(1.0, round((end_s - begin_s) / TICKS))
    if tick_s > 1:
        notes.append(f"in the replay a decision is made every {tick_s:g} s")
    pace = {"goal_s": goal_s, "tick_s": tick_s}
    as_is = found.scenario(pace, begin_s=begin_s, end_s=end_s)
    other = found.scenario(pace, {"scaling": changes}, begin_s=begin_s, end_s=end_s)
    was = found.measured(goal_s, begin_s, end_s)
    runs = [_row("was", was, found.samples(begin_s, end_s), 0.0)]
    for name, scenario in (("a", as_is), ("b", other)):
        result = run(scenario)
        runs.append(_row(name, result.summary, result.record.samples, scenario.warm_s))
    return rows.WhatIf(
        endpoint=found.endpoint,
        since=traffic["segments"][-1]["until"] - (end_s - begin_s),
        span_s=end_s - begin_s,
        requests=found.requests(begin_s, end_s),
        goal_s=goal_s,
        present={name: traffic["scaling"].get(name) for name in changes},
        change=dict(changes),
        runs=runs,
        notes=notes + list(found.notes),
    )


def _row(name: str, summary: "Summary | Measured", samples: "list[Sample]", from_s: float) -> rows.Run:
    counted = [sample for sample in samples if sample.t >= from_s]
    steps = [b.t - a.t for a, b in pairwise(counted)]
    spent = accumulate((s.usd_h * step / 3600 for s, step in zip(counted, steps, strict=False)), initial=0.0)
    total = list(spent)
    scale = summary.usd / total[-1] if total and total[-1] else 1.0  # so that the drawn line ends at the sum
    stride = max(1, -(-len(counted) // ROWS))
    shown = list(enumerate(counted))[::stride]
    return rows.Run(
        name=name,
        usd=summary.usd,
        requests=summary.requests,
        unserved=summary.unserved,
        p50_s=summary.route_s.p50,
        p95_s=summary.route_s.p95,
        p99_s=summary.route_s.p99,
        late=summary.route_over_goal,
        rents=summary.rents,
        starts=summary.starts,
        ready_h=summary.ready_h,
        loading_h=summary.loading_h,
        stopped_h=summary.stopped_h,
        busy=summary.busy,
        at=[round(one.t - from_s, 1) for _, one in shown],
        load=[_mean([s.load for s in counted[i : i + stride]]) for i, _ in shown],
        ready=[_mean([_finite(s.ready) for s in counted[i : i + stride]]) for i, _ in shown],
        hot=[float(one.hot) for _, one in shown],
        waiting=[float(max(s.waiting for s in counted[i : i + stride])) for i, _ in shown],
        spent_usd=[round(total[i] * scale, 6) for i, _ in shown],
    )


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")


def _finite(value: float) -> float:
    return value if value < float("inf") else 0.0


if __name__ == "__main__":
    main()
