"""Offers and instances as the market shows them, in Posthouse's words.

Rows come from outside: what a row lacks or says in another form is left out, and a row that cannot be told apart from
others is an error.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.hosts import in_url
from posthouse.providers.answers import NoAnswer
from posthouse.wire.matching import number
from posthouse.wire.search import FIELDS

BID: Final = "bid-"
"""What the id of an offer begins with that is bid for."""
PRICED_WITH_GB: Final = 10.0
"""The disk with which offers are priced, so that what a GB costs can be told."""
MONTH_H: Final = 720.0
"""Hours of the month by which the market prices disks, where a row does not show what one costs."""
SSH: Final = "22/tcp"
STATES: Final = {
    "loading": Observation.PULLING,
    "running": Observation.RUNNING,
    "frozen": Observation.RUNNING,
    "exited": Observation.EXITED,
    "stopped": Observation.EXITED,
    "unknown": Observation.EXITED,
    "offline": Observation.EXITED,
}
"""By `actual_status`. Any other is on its way: what was just made, reboots, or gets a new container."""
RESTS: Final = ("exited", "stopped")
BROKEN: Final = "OCI runtime create failed"
"""What the message of an instance says whose container its machine cannot make; it never runs."""
AWAY: Final = "offline"
"""The market charges for GPUs while an instance is connected, and for its disk as long as it exists."""
INTERRUPTIBLE: Final = Capabilities(interruptible=True)


@dataclass(frozen=True, slots=True)
class Row:
    """An instance, as far as it is needed."""

    id: str
    label: str
    status: str
    """The market's `actual_status`; empty while nothing is known of it."""
    wanted: str
    has_gpus: bool
    message: str
    addresses: frozenset[str]
    usd_h: float
    storage_usd_h: float
    bid_usd_h: float
    """0 on demand."""
    min_bid_usd_h: float
    disk_gb: float

    @property
    def seen(self) -> Observation:
        """What it is observed as. One that was outbid rests, as if it had been stopped."""
        if self.status == "created" and BROKEN in self.message:
            return Observation.EXITED
        if self.status in RESTS and (self.wanted == "stopped" or not self.has_gpus):
            return Observation.HALTED
        return STATES.get(self.status, Observation.PROVISIONING)

    def instance(self, last_words: str = "") -> Instance:
        """As a provider lists it. Before it runs its disk alone is paid for."""
        seen = self.seen
        began = self.status not in ("", "created", "loading")
        message = f"{self.message}; {last_words}".strip("; ") if seen is Observation.EXITED else ""
        return Instance(
            id=self.id,
            label=self.label,
            seen=seen,
            addresses=self.addresses,
            disk_gb=self.disk_gb,
            progress=self.message,
            message=message[:500],
            price=Price(self.usd_h, self.usd_h if began else self.storage_usd_h, self.storage_usd_h),
            away=self.status == AWAY,
        )


def row(shown: Mapping[str, Any]) -> Row:
    """An instance. Raises: NoAnswer for a row without a number."""
    if not isinstance(shown.get("id"), int):
        raise NoAnswer("the market lists an instance without a number")
    usd_h, base = _amount(shown, "dph_total"), _amount(shown, "dph_base")
    return Row(
        id=str(shown["id"]),
        label=_text(shown, "label"),
        status=_text(shown, "actual_status"),
        wanted=_text(shown, "intended_status"),
        has_gpus=_text(shown, "cur_state") != "stopped",
        message=" ".join(_text(shown, "status_msg").split())[:300],
        addresses=frozenset(_addresses(shown)),
        usd_h=usd_h,
        storage_usd_h=_amount(shown, "storage_total_cost") or max(0.0, usd_h - base),
        bid_usd_h=base if shown.get("is_bid") is True else 0.0,
        min_bid_usd_h=_amount(shown, "min_bid"),
        disk_gb=_amount(shown, "disk_space"),
    )


def offers(shown: list[Mapping[str, Any]], provider: str, own: Capabilities, bid_over: float | None) -> list[Offer]:
    """Machines that can be rented. `bid_over`: by how much a bid goes over the lowest that wins; None: on demand."""
    return [found for one in shown if (found := _offer(one, provider, own, bid_over)) is not None]


def _offer(shown: Mapping[str, Any], provider: str, own: Capabilities, bid_over: float | None) -> Offer | None:
    gpu_name, machine = _text(shown, "gpu_name"), shown.get("machine_id")
    total, base, lowest = (_amount(shown, name) for name in ("dph_total", "dph_base", "min_bid"))
    if not isinstance(shown.get("id"), int) or not gpu_name or machine is None or not total:
        return None
    disk_usd_gb_h = max(0.0, total - base) / PRICED_WITH_GB if base else _amount(shown, "storage_cost") / MONTH_H
    usd_h = base or total
    if bid_over is not None:
        if not lowest:
            return None
        usd_h = bid_of(lowest, bid_over)
    reliability = _amount(shown, "reliability") or _amount(shown, "reliability2") or 1.0
    return Offer(
        id=f"{BID if bid_over is not None else ''}{shown['id']}",
        provider=provider,
        machine=str(machine),
        price=Price(usd_h, 0.0, 0.0),  # GPUs are paid for from when it runs; the list tells when that is
        gpu_name=gpu_name,
        num_gpus=int(_amount(shown, "num_gpus")),
        capabilities=own if bid_over is None else INTERRUPTIBLE,
        gpu_ram_mb=_amount(shown, "gpu_ram"),
        zone=_text(shown, "geolocation"),
        reliability=min(1.0, reliability),
        expires_at=_amount(shown, "end_date"),
        disk_usd_gb_h=disk_usd_gb_h,
        max_disk_gb=_amount(shown, "disk_space") or float("inf"),
        attributes=_attributes(shown),
    )


def bid_of(lowest_usd_h: float, over: float) -> float:
    """What is bid where `lowest_usd_h` wins."""
    return round(lowest_usd_h * (1 + over), 4)


def _attributes(shown: Mapping[str, Any]) -> dict[str, object]:
    """What searches may ask for. A place is searched by its country, and versions compare as numbers."""
    found = {name: shown[name] for name in FIELDS if isinstance(shown.get(name), str | int | float | bool)}
    found |= {"verified": shown.get("verification") == "verified", "datacenter": shown.get("hosting_type") == 1}
    if country := re.search(r",\s*([A-Z]{2})$", _text(shown, "geolocation")):
        found["geolocation"] = country[1]
    if isinstance(shown.get("driver_vers"), int):
        found["driver_version"] = shown["driver_vers"]
    return {name: value for name, value in found.items() if name not in ("id", "dph_total")}


def _addresses(shown: Mapping[str, Any]) -> Iterator[str]:
    """Where its ports are reached; none before it has run."""
    host, ports = _text(shown, "public_ipaddr").strip(), shown.get("ports")
    if not host or not isinstance(ports, dict):
        return
    for inside, outside in ports.items():
        if inside == SSH or not str(inside).endswith("/tcp") or not isinstance(outside, list):
            continue
        for place in outside[:1]:  # the others are the same port by IPv6
            port = number(place.get("HostPort")) if isinstance(place, dict) else None
            if port:
                yield f"{in_url(host)}:{port:.0f}"


def _amount(shown: Mapping[str, Any], name: str) -> float:
    """A number that is not below 0; 0 where there is none."""
    return max(0.0, number(shown.get(name)) or 0.0)


def _text(shown: Mapping[str, Any], name: str) -> str:
    value = shown.get(name)
    return value[:1000] if isinstance(value, str) else ""
