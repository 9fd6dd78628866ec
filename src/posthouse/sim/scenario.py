"""A scenario: traffic, workers, clients and parameters, as a TOML file says them."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from posthouse.domain.endpoint import Scaling, defaults
from posthouse.domain.offer import SECONDS_PER_HOUR, Price
from posthouse.errors import BadRequest
from posthouse.sim import traffic as shapes
from posthouse.sim.client import ClientBehaviour, ClientKind
from posthouse.sim.market import PROVIDER, Duration, Hardware
from posthouse.sim.trace import Reading, read
from posthouse.sim.traffic import Arrival, Costs

Amount = Annotated[float, Meta(ge=0, le=1e12)]
Above0 = Annotated[float, Meta(gt=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Hourly = Annotated[float, Meta(ge=0, le=3600)]
Usd = Annotated[float, Meta(ge=0, le=1e6)]


class Spread(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How long something takes: a median and a 95th percentile, or quantiles."""

    median: Seconds = 0.0
    p95: Seconds = 0.0
    quantiles: tuple[tuple[Share, Seconds], ...] = ()

    def duration(self) -> Duration:
        return Duration(self.median, self.p95, tuple(sorted(self.quantiles)))


Span = Seconds | Spread


class Workers(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One type of machine. Figures are nominal: about what a small GPU of a market costs, and how long it takes."""

    gpu: Annotated[str, Meta(min_length=1, max_length=100)] = "RTX 4090"
    provider: Annotated[str, Meta(min_length=1, max_length=64)] = PROVIDER
    zone: Annotated[str, Meta(max_length=64)] = ""
    perf: Above0 = 400.0
    slots: Annotated[int, Meta(ge=1, le=10_000)] = 8
    overhead_s: Seconds = 0.0
    agent: bool = False
    ready_usd_h: Usd = 0.40
    loading_usd_h: Usd | None = None
    stopped_usd_h: Usd = 0.02
    create_s: Span = 120.0
    load_s: Span = 60.0
    start_s: Span = 30.0
    available: Annotated[int, Meta(ge=1, le=10_000)] = 64
    per_host: Annotated[int, Meta(ge=1, le=10_000)] = 1
    ready: Annotated[int, Meta(ge=0, le=10_000)] = 0
    stopped: Annotated[int, Meta(ge=0, le=10_000)] = 0
    refused: Share = 0.0
    broken: Share = 0.0
    slow: Share = 0.0
    slow_factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    crashes_h: Hourly = 0.0
    preempted_h: Hourly = 0.0
    offered_h: Amount = 0.0
    away_h: Amount = 0.0
    price_changes: Annotated[tuple[tuple[Seconds, Above0], ...], Meta(max_length=1000)] = ()
    down: Annotated[tuple[tuple[Seconds, Seconds], ...], Meta(max_length=1000)] = ()

    def hardware(self) -> Hardware:
        same = {f.name: getattr(self, f.name) for f in fields(Hardware) if hasattr(self, f.name)}
        loading_usd_h = self.ready_usd_h if self.loading_usd_h is None else self.loading_usd_h
        return Hardware(
            **same,
            price=Price(self.ready_usd_h, loading_usd_h, self.stopped_usd_h),
            create=_duration(self.create_s),
            load=_duration(self.load_s),
            start=_duration(self.start_s),
        )


def _duration(span: float | Spread) -> Duration:
    return span.duration() if isinstance(span, Spread) else Duration(span)


Shape = Literal["constant", "step", "diurnal", "burst", "on-off"]


class Traffic(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is asked: from a file, or made up."""

    trace: str = ""
    shape: Shape = "constant"
    load: Amount = 1000.0
    """Work per second; the highest of the shape."""
    low: Amount = 0.0
    """The lowest of the shape."""
    period_s: Above0 = 86_400.0
    length_s: Seconds = 600.0
    """Of each burst."""
    at_s: Seconds = 1800.0
    """Of the step."""
    cost: Above0 = 200.0
    """Mean work of a request, where the trace does not say."""
    cost_spread: Annotated[float, Meta(ge=0, le=5)] = 0.0
    span_s: Seconds = 0.0
    """How long; 0: the whole trace, or two hours."""
    start_s: Seconds = 0.0
    scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    in_work: Amount = 0.0
    out_work: Amount = 1.0

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Raises: BadRequest, also while it is read."""
        costs = Costs(self.cost, self.cost_spread)
        if self.trace:
            span_s = self.span_s or math.inf
            reading = Reading(self.in_work, self.out_work, self.scale, self.start_s, span_s)
            return read(Path(self.trace), reading, costs, seed)
        high, low = self.load * self.scale, self.low * self.scale
        load = {
            "constant": lambda: shapes.constant(high),
            "step": lambda: shapes.step(low, high, self.at_s),
            "diurnal": lambda: shapes.diurnal(low, high, self.period_s),
            "burst": lambda: shapes.burst(low, high, self.period_s, self.length_s),
            "on-off": lambda: shapes.on_off(high, self.period_s),
        }[self.shape]()
        span_s = self.span_s or 2 * SECONDS_PER_HOUR
        return shapes.poisson(load, max(high, low), costs, span_s, Random(f"{seed}/traffic"))


class Clients(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How clients behave."""

    kind: ClientKind = ClientKind.POLLING
    timeout_s: Seconds = 0.0
    retries: Annotated[int, Meta(ge=0, le=1000)] = 0
    retry_s: Seconds = 1.0

    def behaviour(self) -> ClientBehaviour:
        return ClientBehaviour(self.kind, self.timeout_s, retries=self.retries, retry_s=self.retry_s)


class Scenario(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Everything that a run follows from, but for the version of this program."""

    traffic: Traffic = Traffic()
    scaling: dict[str, float | int | str | None] = {}
    workers: Annotated[tuple[Workers, ...], Meta(min_length=1, max_length=100)] = (Workers(),)
    clients: Clients = Clients()
    policy: str = "posthouse"
    seed: int = 0
    tick_s: Annotated[float, Meta(ge=0.05, le=60)] = 1.0
    goal_s: Seconds = 10.0
    """The wait that is still well."""
    warm_s: Seconds = 0.0
    """How much of the beginning is not counted: requests asked, and money spent, before it."""

    def parameters(self) -> Scaling:
        """The scaling parameters. Raises: BadRequest."""
        return scaling(self.scaling)

    def hardware(self) -> tuple[Hardware, ...]:
        """Raises: BadRequest."""
        names = [f"{kind.gpu} of {kind.provider}" for kind in self.workers]
        if len(set(names)) < len(names):
            raise BadRequest(f"workers: each `gpu` may be there once at a provider; there are {', '.join(names)}")
        return tuple(kind.hardware() for kind in self.workers)


def load(path: Path | None, *changes: Mapping[str, Any]) -> Scenario:
    """The scenario in a file, or the default one, with `changes` laid over it, one by one. Raises: BadRequest."""
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadRequest(f"{path}: cannot be read: {error.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadRequest(f"{path}: is not TOML: {error}") from None
        trace = tree.get("traffic", {}).get("trace") if isinstance(tree.get("traffic"), dict) else None
        if isinstance(trace, str) and trace:
            tree["traffic"]["trace"] = str(path.parent / trace)  # named from where the scenario is
    for layer in changes:
        _lay_over(tree, deepcopy(layer))
    if isinstance(tree.get("workers"), dict):  # one type needs no list
        tree["workers"] = [tree["workers"]]
    try:
        scenario = msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as error:
        where = "the scenario" if path is None else str(path)
        raise BadRequest(f"{where}: {error}".replace("`$.", "`").replace(" - at", ", at")) from None
    scenario.parameters()
    scenario.hardware()
    return scenario


def _lay_over(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            below = tree.setdefault(name, {})
            if isinstance(below, dict):
                _lay_over(below, value)
            elif (
                isinstance(below, list) and below and isinstance(below[0], dict)
            ):  # options speak of the first type of machine
                _lay_over(below[0], value)
        else:
            tree[name] = value


def scaling(values: Mapping[str, object]) -> Scaling:
    """Scaling parameters from their names and values. Raises: BadRequest for one that is unknown or not allowed."""
    try:
        return defaults(values.get("slo_mode")).changed(values)
    except BadRequest as error:
        raise BadRequest(f"scaling: {error}") from None
