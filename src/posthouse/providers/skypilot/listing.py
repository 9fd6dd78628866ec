"""Offers and clusters as SkyPilot shows them, in Posthouse's words. Rows come from outside: a bad one is left out."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer, Price

MONTH_H: Final = 730.0
SPOT: Final = "/spot"
"""What the id of an offer ends with whose machine may be taken away."""
NO_STOP: Final = frozenset(
    {"cudo", "fluidstack", "hyperbolic", "kubernetes", "lambda", "primeintellect", "runpod", "shadeform"}
    | {"slurm", "verda", "yotta", "ssh"}
)
"""Clouds on which SkyPilot cannot stop a machine and keep its disk. Source: the table of features of each cloud in
SkyPilot 0.14.1."""
STATES: Final = {
    "UP": Observation.RUNNING,
    "INIT": Observation.PULLING,
    "PENDING": Observation.PROVISIONING,
    "STOPPED": Observation.HALTED,
    "AUTOSTOPPING": Observation.RUNNING,
}
PLACE: Final = re.compile(r"(?:https?://)?([A-Za-z0-9.:\[\]-]{1,255}:[0-9]{1,5})/?")
OVER: Final = ("SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Machine:
    """What an offer asks SkyPilot for."""

    cloud: str
    region: str
    instance_type: str
    gpu: str
    count: int
    spot: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, as far as it is needed."""

    name: str
    seen: Observation
    message: str = ""


def offers(
    found: Any, clouds: frozenset[str], provider: str, room: int, disk_usd_gb_month: float, with_spot: bool
) -> Iterator[tuple[Offer, Machine]]:
    """Every machine of the catalogue on these clouds; `found`: rows by accelerator."""
    lists = found.values() if isinstance(found, dict) else ()
    rows = [row for listed in lists if isinstance(listed, list) for row in listed]
    for row in rows:
        if not isinstance(row, list) or len(row) < 10:
            continue
        cloud, kind, gpu, count, _, gpu_gb, ram_gb, usd_h, spot_usd_h, region = row[:10]
        if not (
            isinstance(gpu, str) and gpu and isinstance(cloud, str) and cloud.lower() in clouds and _above_0(count)
        ):
            continue
        if count % 1:  # a share of a GPU
            continue
        for spot, price in ((False, usd_h), (True, spot_usd_h if with_spot else None)):
            if not _above_0(price):
                continue
            machine = Machine(cloud.lower(), str(region or ""), str(kind or ""), gpu, int(count), spot)
            yield _offer(machine, float(price), provider, room, disk_usd_gb_month, gpu_gb, ram_gb), machine


def _offer(
    machine: Machine, usd_h: float, provider: str, room: int, disk_usd_gb_month: float, gpu_gb: Any, ram_gb: Any
) -> Offer:
    place = "/".join(filter(None, (machine.cloud, machine.region, machine.instance_type)))
    return Offer(
        id=f"{place}/{machine.gpu}:{machine.count}{SPOT if machine.spot else ''}",
        provider=provider,
        machine=place,
        price=Price(usd_h, usd_h, 0.0),
        gpu_name=machine.gpu.replace("-", " "),
        num_gpus=machine.count,
        available=room,
        capabilities=Capabilities(
            stop=machine.cloud not in NO_STOP and not machine.spot, update=False, interruptible=machine.spot
        ),
        gpu_ram_mb=float(gpu_gb) * 1000 if _above_0(gpu_gb) else 0.0,
        zone=machine.region,
        disk_usd_gb_h=disk_usd_gb_month / MONTH_H,
        attributes={"cpu_ram": float(ram_gb) * 1000} if _above_0(ram_gb) else {},
    )


def clusters(found: Any) -> list[Cluster]:
    """Every cluster of a list. Raises: ValueError for a list that cannot be understood: what it lacks is no proof."""
    if not isinstance(found, list) or not all(isinstance(r, dict) and isinstance(r.get("name"), str) for r in found):
        raise ValueError("the server's list of clusters cannot be read")
    return [_cluster(row) for row in found]


def _cluster(row: Mapping[str, Any]) -> Cluster:
    why = str(row.get("init_status_reason") or row.get("last_event") or "")[:400]
    if row.get("status") == "INIT" and row.get("init_kind") == "unhealthy":
        return Cluster(row["name"], Observation.EXITED, why or "its machine was taken away, or does not answer")
    return Cluster(row["name"], STATES.get(str(row.get("status")), Observation.PROVISIONING), "")


def places(found: Any) -> dict[int, str]:
    """Where each port of a cluster is reached, `host:port`, as far as it can be read."""
    rows = found.items() if isinstance(found, dict) else ()
    read = [(port, PLACE.fullmatch(str(place))) for port, place in rows if re.fullmatch(r"[0-9]{1,5}", str(port))]
    return {int(port): match[1] for port, match in read if match}


def _above_0(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12
