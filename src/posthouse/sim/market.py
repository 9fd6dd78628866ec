"""What can be rented: types of machines on hosts that may be broken, slow or taken, at prices, for a while."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from random import Random

from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.offer import GroupOffer, Offer, Price

PROVIDER = "sim"
GROUP = WorkergroupId(1)
SIGMAS_TO_P95 = 1.6448536269514722
"""Standard deviations from the median of a normal distribution to its 95th percentile."""


@dataclass(frozen=True, slots=True)
class Duration:
    """How long something takes, in seconds: log-normal by its median and 95th percentile, or measured quantiles."""

    median_s: float = 0.0
    p95_s: float = 0.0
    """Not above the median: always the median."""
    quantiles: tuple[tuple[float, float], ...] = ()
    """(share, seconds), rising; straight lines between them. Instead of the other two."""

    def draw(self, random: Random) -> float:
        if self.quantiles:
            return _between(self.quantiles, random.random())
        if self.p95_s <= self.median_s or self.median_s <= 0:
            return self.median_s
        sigma = math.log(self.p95_s / self.median_s) / SIGMAS_TO_P95
        return self.median_s * math.exp(random.gauss(0.0, sigma))


def _between(quantiles: Sequence[tuple[float, float]], share: float) -> float:
    above = bisect_left(quantiles, (share, -math.inf))
    if above == 0 or above == len(quantiles):
        return quantiles[min(above, len(quantiles) - 1)][1]
    (low, low_s), (high, high_s) = quantiles[above - 1 : above + 1]
    return low_s + (high_s - low_s) * (share - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One type of machine. Shares are of 1; rates are per hour."""

    gpu: str = "GPU"
    provider: str = PROVIDER
    """Who offers it."""
    zone: str = ""
    """Where its hosts stand."""
    perf: float = 100.0
    """Work per second with every slot busy."""
    slots: int = 4
    """Requests at once, each at `perf / slots`."""
    overhead_s: float = 0.0
    """Added to the service of every request."""
    agent: bool = False
    """Posthouse's agent runs on it, which tells at once what has changed, at most once a second. Else the protocol's
    own worker does, which looks once a second whether there is something to tell."""
    price: Price = field(default_factory=lambda: Price(ready_usd_h=1.0, loading_usd_h=1.0, stopped_usd_h=0.05))
    create: Duration = Duration(60.0)
    """From the order to an instance that runs."""
    load: Duration = Duration(60.0)
    """From then until the model is loaded for the first time."""
    start: Duration = Duration(30.0)
    """From stopped to ready."""
    available: int = 100
    """How many workers the market has room for."""
    per_host: int = 1
    """How many of them share a host; failures are remembered by host."""
    refused: float = 0.0
    """Share of creations and starts that the provider refuses."""
    broken: float = 0.0
    """Share of hosts on which the model never loads."""
    slow: float = 0.0
    """Share of hosts that take `slow_factor` times as long for everything."""
    slow_factor: float = 2.0
    crashes_h: float = 0.0
    """How often a ready worker dies; its instance stays."""
    preempted_h: float = 0.0
    """How often a running instance is taken away, as spot ones are."""
    ready: int = 0
    """How many are ready when the world begins, for as long as there is room."""
    stopped: int = 0
    """The same of stopped ones."""
    offered_h: float = 0.0
    """Mean time for which the type is offered; 0: always. When it ends, what runs is taken away."""
    away_h: float = 0.0
    """Mean time for which it is then not offered."""
    price_changes: tuple[tuple[float, float], ...] = ()
    """(seconds since the start, how many times the first price it then costs), for what runs, too."""
    down: tuple[tuple[float, float], ...] = ()
    """(from, to) in seconds since the start: its provider does not answer, and what runs there is gone."""


@dataclass(slots=True)
class Host:
    name: str
    hardware: Hardware
    broken: bool
    factor: float
    """How many times as long everything takes."""
    used: int = 0
    times_as_dear: float = 1.0

    @property
    def price(self) -> Price:
        """What a worker on it costs now."""
        own, times = self.hardware.price, self.times_as_dear
        return own if times == 1 else Price(*(usd_h * times for usd_h in astuple(own)))


class Market:
    """Hosts and what is free on them. A host's nature follows from the seed and its name, not from who asks when."""

    def __init__(self, hardware: Sequence[Hardware], seed: int) -> None:
        self.hardware = tuple(hardware)
        self._seed = seed
        self._hosts: dict[str, Host] = {}
        self._by_type: dict[Hardware, list[str]] = {}
        for kind in self.hardware:
            first = kind.gpu if kind.provider == PROVIDER else f"{kind.provider}/{kind.gpu}"
            names = [f"{first}-{n}" for n in range(-(-kind.available // kind.per_host))]
            self._by_type[kind] = names
            self._hosts |= {name: self._host(name, kind) for name in names}
        self._away: set[Hardware] = set()
        self._offers: dict[str, GroupOffer] = {}
        for name in self._hosts:
            self._list(name)
        self._shown: tuple[GroupOffer, ...] | None = None

    def offers(self) -> tuple[GroupOffer, ...]:
        """What can be rented now."""
        if self._shown is None:
            self._shown = tuple(self._offers.values())
        return self._shown

    def hosts(self, kind: Hardware) -> list[Host]:
        """Those that have a type."""
        return [self._hosts[name] for name in self._by_type[kind]]

    def host(self, name: str) -> Host:
        return self._hosts[name]

    def take(self, name: str) -> bool:
        """Takes room for one worker on a host; False if there is none."""
        if name not in self._offers:
            return False
        self._hosts[name].used += 1
        self._list(name)
        return True

    def give_back(self, name: str) -> None:
        self._hosts[name].used -= 1
        self._list(name)

    def set_available(self, kind: Hardware, offered: bool) -> None:
        """Lets a type come to the market, or go from it."""
        (self._away.discard if offered else self._away.add)(kind)
        for name in self._by_type[kind]:
            self._list(name)

    def set_price(self, kind: Hardware, times: float) -> None:
        """Lets a type cost so many times its first price."""
        for host in self.hosts(kind):
            host.times_as_dear = times
            self._list(host.name)

    def _host(self, name: str, hardware: Hardware) -> Host:
        if not hardware.broken and not hardware.slow:
            return Host(name, hardware, broken=False, factor=1.0)
        random = Random(f"{self._seed}/host/{name}")
        broken = random.random() < hardware.broken
        return Host(name, hardware, broken, hardware.slow_factor if random.random() < hardware.slow else 1.0)

    def _list(self, name: str) -> None:
        host = self._hosts[name]
        hardware = host.hardware
        room = min(hardware.per_host, hardware.available) - host.used
        self._shown = None
        if room <= 0 or hardware in self._away:
            self._offers.pop(name, None)
            return
        offer = Offer(name, hardware.provider, name, host.price, hardware.gpu, 1, room, zone=hardware.zone)
        self._offers[name] = GroupOffer(GROUP, offer)
