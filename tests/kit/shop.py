"""A tiny provider, and a clock that is moved by hand."""

from collections.abc import Sequence

from posthouse.domain.instance import Instance
from posthouse.domain.offer import Offer, Price
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import BaseProvider

SMALL = Offer("small", "shop", "m1", Price(0.4, 0.3, 0.0), "RTX 4090", 1, gpu_ram_mb=24_564, zone="Berlin, DE")
LARGE = Offer("large", "shop", "m2", Price(2.0, 2.0, 0.1), "H100", 8, available=2, gpu_ram_mb=81_920)


class Clock:
    at = 1000.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at + 5000.0


class Shop(BaseProvider):
    """A provider that offers what is put into its window."""

    name = "shop"

    def __init__(self, *offers: Offer) -> None:
        self.window, self.asked = list(offers), 0

    async def catalog(self) -> Sequence[Offer]:
        self.asked += 1
        return self.window

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        raise NotImplementedError

    async def instances(self) -> Sequence[Instance]:
        return []

    async def destroy(self, instance_id: str) -> None:
        raise NotImplementedError
