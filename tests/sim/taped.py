"""What a server would tell of an endpoint that lived in a simulated world."""

from dataclasses import asdict
from typing import Any

import msgspec

from posthouse.domain.endpoint import Scaling
from posthouse.domain.reel import Reel
from posthouse.sim.client import Client
from posthouse.sim.market import Hardware
from posthouse.sim.record import Record, Waits, hours
from posthouse.sim.traffic import Arrival
from posthouse.sim.world import World


class Taped(World):
    """A world whose fleet's tape is cut into reels, as a server does, and that notes what is on none."""

    def __init__(self, *world: Any, **more: Any) -> None:
        self.reels: list[Reel] = []
        self.record = Record()
        super().__init__(*world, **more)

    def on_tick(self) -> None:
        if self.fleet.tape.due(self.now):
            self.reels.append(self.fleet.cut_tape(self.now).pack())

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
    world.reels.append(world.fleet.cut_tape(world.now).pack())
    return world


def told(world: Taped, name: str = "llm") -> dict[str, Any]:
    """What its server would answer."""
    learned = world.fleet.snapshot(world.now, ()).learned
    (kind,) = world.market.hardware
    row = {
        "kind": next(iter(learned.perf), f"1/1x{kind.gpu}"),
        "gpu_name": kind.gpu,
        "num_gpus": 1,
        "perf": kind.perf if learned.perf else 0.0,
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
                "start_s": learned.start_s,
                "create_s": learned.create_s,
                "reels": [asdict(reel) for reel in world.reels],
            }
        )
    )
    return found
