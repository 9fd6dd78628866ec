"""What a server would tell of an endpoint that lived in a simulated world."""

from dataclasses import asdict
from typing import Any

import msgspec

from posthouse.domain.endpoint import Scaling
from posthouse.recording.log import TrafficLog
from posthouse.recording.segment import Segment
from posthouse.sim.client import Client
from posthouse.sim.market import Hardware
from posthouse.sim.record import Record, Waits, hours
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import START_AT, Pace, World

PACE = Pace(tick_s=5.0)
"""Ticks are most of what a quiet hour takes to simulate."""


class Taped(World):
    """A world whose fleet's traffic log is cut into segments, as a server does, and that notes what is on none."""

    def __init__(self, scaling: Scaling, traffic: list[Arrival], hardware: tuple[Hardware], seed: int = 0) -> None:
        self.segments: list[Segment] = []
        self.record = Record()
        self.traffic_log = TrafficLog(START_AT)
        super().__init__(scaling, traffic, hardware, seed, pace=PACE, recorder=self.traffic_log)

    def on_tick(self) -> None:
        if self.traffic_log.due(self.now, self.fleet.workers.values()):
            self.segments.append(self.drained())

    def drained(self) -> Segment:
        return self.traffic_log.drain(self.now, self.fleet.workers.values()).pack()

    def on_request(self, client: Client) -> None:
        self.record.requests += 1

    def on_end(self, client: Client) -> None:
        self.record.end(client)

    @property
    def waits(self) -> Waits:
        return Waits.of(self.record.route_s)

    @property
    def hours(self) -> tuple[float, float, float]:
        self.audit.close_bill(self.now)
        return hours(self.audit.state_s)


def lived(scaling: Scaling, traffic: list[Arrival], hardware: Hardware, span_s: float, seed: int = 0) -> Taped:
    """A world after `span_s`."""
    world = Taped(scaling, traffic, (hardware,), seed=seed).run(span_s)
    world.segments.append(world.drained())
    return world


def told(world: Taped, name: str = "llm") -> dict[str, Any]:
    """What its server would answer."""
    estimates = world.fleet.snapshot(world.now, ()).estimates
    (kind,) = world.market.hardware
    row = {
        "kind": next(iter(estimates.perf), f"1/1x{kind.gpu}"),
        "gpu_name": kind.gpu,
        "num_gpus": 1,
        "perf": kind.perf if estimates.perf else 0.0,
        **asdict(kind.price),
        "workers": len(world.fleet.workers),
        "available": kind.available - len(world.fleet.workers),
        "agent": kind.agent,
    }
    found: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(
            {
                "endpoint": name,
                "scaling": asdict(world.endpoint.scaling),
                "kinds": [row],
                "start_s": estimates.start_s,
                "create_s": estimates.create_s,
                "segments": [asdict(segment) for segment in world.segments],
            }
        )
    )
    return found
