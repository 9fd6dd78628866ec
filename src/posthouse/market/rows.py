"""What the market's API reads and shows: searches, launches, rows of offers and instances."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from posthouse.errors import BadRequest
from posthouse.market.model import MICRO, MONTH_H, Launch, Machine, Rental
from posthouse.market.world import Market, Refusal
from posthouse.wire.env import parse_env
from posthouse.wire.matching import matches
from posthouse.wire.search import parse_search

DAY_S = 86_400.0
OFFERED_DAYS = 30
MAX_ONSTART = 4048
MAX_LABEL = 256
MIN_DISK_GB = 8.0
NOT_FILTERS = ("order", "type", "limit", "allocated_storage", "disable_bundling")
SAME: Mapping[str, Any] = MappingProxyType(
    {
        "gpu_frac": 1.0,
        "gpu_arch": "nvidia",
        "inet_up": 800.0,
        "inet_down": 900.0,
        "inet_up_cost": 0.0,
        "inet_down_cost": 0.0,
        "verification": "verified",
        "rentable": True,
        "rented": False,
        "external": False,
        "hosting_type": 0,
        "cuda_max_good": 12.8,
        "driver_version": "570.86.15",
        "driver_vers": 570_086_015,
        "disk_space": 500.0,
        "disk_bw": 2000.0,
        "disk_name": "nvme",
        "pcie_bw": 24.0,
        "pci_gen": 4.0,
        "cpu_arch": "amd64",
        "cpu_name": "EPYC 7543",
        "cpu_ghz": 2.8,
        "has_avx": 1,
        "direct_port_count": 64,
        "static_ip": True,
        "duration": OFFERED_DAYS * DAY_S,
        "mobo_name": "H12SSL",
    }
)
"""What every machine of the market has in common."""


def offer(machine: Machine, now: float, storage_gb: float, is_bid: bool) -> dict[str, Any]:
    """One offer as the market shows it; prices are with a disk of that size."""
    name, ram, _, dlperf, compute, flops = machine.kind
    base = (machine.min_bid if is_bid else machine.price) / MICRO
    disk = machine.storage / MICRO / MONTH_H * storage_gb
    total, n = base + disk, machine.num_gpus
    return {
        **SAME,
        "id": machine.ask_id,
        "ask_contract_id": machine.ask_id,
        "machine_id": machine.id,
        "host_id": machine.id // 10,
        "num_gpus": n,
        "gpu_name": name,
        "gpu_ram": ram,
        "gpu_total_ram": ram * n,
        "dph_base": base,
        "dph_total": total,
        "discounted_dph_total": total,
        "min_bid": machine.min_bid / MICRO,
        "is_bid": is_bid,
        "storage_cost": machine.storage / MICRO,
        "storage_total_cost": disk,
        "dlperf": dlperf * n,
        "dlperf_per_dphtotal": dlperf * n / total,
        "total_flops": flops * n,
        "flops_per_dphtotal": flops * n / total,
        "reliability": machine.reliability,
        "reliability2": machine.reliability,
        "geolocation": machine.geolocation,
        "compute_cap": compute,
        "cpu_cores": 16 * n,
        "cpu_cores_effective": 16.0 * n,
        "cpu_ram": 65_536 * n,
        "end_date": now + OFFERED_DAYS * DAY_S,
        "score": dlperf * n / total,
        "public_ipaddr": machine.ip,
    }


def search(market: Market, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The offers that satisfy a search, in its order. Raises: BadRequest."""
    shape = msgspec.convert(
        {name: wanted[name] for name in NOT_FILTERS if wanted.get(name) is not None}, _Options, strict=False
    )
    filters = parse_search({name: value for name, value in wanted.items() if name not in NOT_FILTERS})
    found = []
    for machine in market.offered():
        row = offer(machine, market.now, shape.allocated_storage, shape.type in ("bid", "interruptible"))
        seen = row | {
            "verified": row["verification"] == "verified",
            "datacenter": row["hosting_type"] == 1,
            "geolocation": row["geolocation"].rpartition(" ")[2],
            "driver_version": row["driver_vers"],
        }
        if matches(filters, seen):
            found.append(row)
    for name, direction in reversed(shape.order):
        found.sort(key=lambda row: _sortable(row.get(name)), reverse=direction == "desc")
    return found[: shape.limit]


class _Options(msgspec.Struct):
    order: tuple[tuple[str, str], ...] = (("score", "desc"),)
    type: str = "on-demand"
    limit: int = 1000
    allocated_storage: float = 5.0


def _sortable(value: object) -> tuple[bool, float, str]:
    return (value is None, value, "") if isinstance(value, int | float) else (value is None, 0.0, str(value))


class Order(msgspec.Struct):
    """The body that rents: what a template may say, and more."""

    image: str | None = None
    env: dict[str, str] | str | None = None
    onstart: str | None = None
    args: list[str] | None = None
    args_str: str | None = None
    runtype: str | None = None
    label: str | None = None
    disk: float | None = None
    price: float | None = None
    template_hash_id: str | None = None
    image_login: str | None = None
    cancel_unavail: bool | None = None
    target_state: str | None = None


def order(body: Mapping[str, Any]) -> Order:
    """What is ordered. Raises: Refusal."""
    try:
        return msgspec.convert(body, Order, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_args", str(error)) from None


def launch(market: Market, wanted: Order, before: Launch | None = None) -> Launch:
    """What an instance is to run: what is ordered, else what the template says, else what it ran `before`.

    Variables and ports of a template and of an order are merged. Raises: Refusal.
    """
    template: Mapping[str, Any] = {}
    if wanted.template_hash_id:
        if wanted.template_hash_id not in market.templates:
            raise Refusal(400, "invalid_args", f"template {wanted.template_hash_id} not found")
        template = market.templates[wanted.template_hash_id]
    was = before or Launch("", {})
    image = wanted.image or template.get("image") or was.image
    onstart = wanted.onstart if wanted.onstart is not None else str(template.get("onstart") or was.onstart)
    args = shlex.split(wanted.args_str) if wanted.args_str else wanted.args
    if not image:
        raise Refusal(400, "invalid_args", "image is required")
    if len(onstart) > MAX_ONSTART:
        raise Refusal(400, "invalid_args", f"onstart is longer than {MAX_ONSTART} characters")
    if len(wanted.label or "") > MAX_LABEL:
        raise Refusal(400, "invalid_args", f"label is longer than {MAX_LABEL} characters")
    if wanted.disk is not None and not MIN_DISK_GB <= wanted.disk <= 1e5:
        raise Refusal(400, "invalid_args", f"disk must be at least {MIN_DISK_GB:g} GB")
    if wanted.price is not None and not 0 < wanted.price < 1e4:
        raise Refusal(400, "invalid_price", "price must be above 0")
    given = wanted.env if wanted.env is not None else was.env if before and not template else {}
    return Launch(
        image=str(image),
        env=_env(template.get("env") or {}) | _env(given),
        onstart=onstart,
        args=args if args is not None else was.args,
        runtype=wanted.runtype or str(template.get("runtype") or was.runtype),
        template_hash=wanted.template_hash_id or was.template_hash,
    )


def _env(env: Mapping[str, str] | str) -> dict[str, str]:
    """The object form of an environment, whichever of the two it has. Raises: Refusal."""
    if not isinstance(env, str):
        return dict(env)
    try:
        variables, ports = parse_env(env)
    except BadRequest as error:
        raise Refusal(400, "invalid_args", str(error)) from None
    return variables | {f"-p {port}:{port}": "1" for port in ports}


def published(env: Mapping[str, str]) -> list[int]:
    """The ports inside that an environment publishes."""
    flags = [name.split(maxsplit=1)[1] for name in env if name.startswith("-p ")]
    return [int(flag.rpartition(":")[2].removesuffix("/tcp")) for flag in flags if not flag.endswith("/udp")]


def instance(market: Market, rental: Rental, at: float) -> dict[str, Any]:
    """One instance as the market shows it, with its status as it was at an earlier time."""
    machine = rental.machine
    row = offer(machine, market.now, rental.disk_gb, rental.is_bid)
    status = rental.status_at(at)
    disk = rental.storage_price / MICRO
    runs = status in ("running", "exited", "rebooting", "recycling", "offline")
    row |= {
        "id": rental.id,
        "actual_status": status,
        "intended_status": rental.intended,
        "cur_state": "running" if rental.has_gpus else "stopped",
        "next_state": rental.intended,
        "status_msg": rental.message,
        "label": rental.label,
        "public_ipaddr": machine.ip + "\n",
        "local_ipaddrs": f"192.168.{machine.id % 250}.2\n",
        "ports": {f"{i}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(o)}] for i, o in rental.ports.items()}  # noqa: S104
        if runs
        else None,
        "direct_port_start": -1,
        "direct_port_end": -1,
        "start_date": rental.created_at,
        "extra_env": [[name, value] for name, value in rental.launch.env.items()],
        "image_uuid": rental.launch.image,
        "image_runtype": rental.launch.runtype,
        "onstart": rental.launch.onstart,
        "template_hash_id": rental.launch.template_hash or None,
        "disk_space": rental.disk_gb,
        "disk_usage": 0.1,
        "dph_base": rental.price / MICRO,
        "dph_total": rental.price / MICRO + disk,
        "storage_total_cost": disk,
        "is_bid": rental.is_bid,
        "ssh_host": f"ssh{machine.id % 9 + 1}.market.invalid",
        "ssh_port": 10_000 + rental.id % 10_000,
        "ssh_idx": "1",
        "gpu_util": 0.0,
        "uptime_mins": None,
    }
    return row


class Shown:
    """Every instance of a list by id, as old as the list lags; its row is made when it is asked for."""

    def __init__(self, market: Market) -> None:
        self._market, self._at = market, market.now - market.faults.lag_s
        gone = (r for r in market.gone.values() if r.destroyed_at > self._at)
        there = sorted((*market.rentals.values(), *gone), key=lambda r: r.id)
        self.rentals = {rental.id: rental for rental in there if rental.created_at <= self._at}
        self._rows: dict[int, dict[str, Any]] = {}

    def row(self, rental_id: int) -> dict[str, Any]:
        if rental_id not in self._rows:
            self._rows[rental_id] = instance(self._market, self.rentals[rental_id], self._at)
        return self._rows[rental_id]

    def fitting(self, filters: str) -> list[int]:
        """Those that satisfy `select_filters`. Raises: BadRequest."""
        wanted = parse_search(filters or "{}")
        fits = (n for n in self.rentals if _label_fits(self.row(n), wanted) and matches(wanted, self.row(n)))
        return list(fits if wanted else self.rentals)


def _label_fits(row: Mapping[str, Any], filters: dict[str, dict[str, object]]) -> bool:
    """Whether its label is one of those asked for, to the letter: a search makes `_` a blank."""
    wanted = filters.get("label", {})
    if "eq" in wanted:
        return bool(row["label"] == wanted["eq"])
    return "in" not in wanted or row["label"] in wanted["in"]  # type: ignore[operator]
