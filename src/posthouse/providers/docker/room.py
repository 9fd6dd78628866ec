"""What an engine's host has to give, and who has it."""

import secrets
from typing import Final

from posthouse.domain.offer import Offer, Price
from posthouse.errors import Busy, OfferTaken, Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.docker.engine import RETRY_S
from posthouse.providers.docker.layout import Found, Place
from posthouse.providers.docker.settings import DockerSettings

SLOTS_PER_CORE: Final = 4
"""Workers per core on an engine without a GPU: such workers mostly wait."""


class Room:
    """The slots, the GPUs and the ports of one engine's host."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self.price = Price(settings.ready_usd_h, settings.loading_usd_h, settings.stopped_usd_h)
        self.gpus_each = settings.gpus_per_worker if settings.gpus else 0
        self.slots = settings.gpus // settings.gpus_per_worker if settings.gpus else settings.slots
        """How many workers run at once; 0 until the engine has told its cores."""
        first, last = map(int, settings.ports.split("-"))
        self._ports = range(first, last + 1)

    @property
    def offer_id(self) -> str:
        return f"{self.gpus_each}x {self._settings.gpu_name}" if self.gpus_each else "cpu"

    def has_cores(self, count: int) -> None:
        """Notes how many cores the host has, which say how many workers it takes unless the settings do."""
        self.slots = self.slots or count * SLOTS_PER_CORE

    def offer(self, active: int) -> Offer:
        """What can be rented beside so many workers that run. Workers share the disk, which costs nothing."""
        own = self._settings
        return Offer(
            id=self.offer_id,
            provider="",
            machine="",
            price=self.price,
            gpu_name=own.gpu_name if self.gpus_each else "CPU",
            num_gpus=self.gpus_each,
            available=max(0, self.slots - active),
            keeps_files=bool(own.caches),
            gpu_ram_mb=own.gpu_ram_gb * 1000 if self.gpus_each else 0.0,
        )

    def place(self, offer_id: str, spec: InstanceSpec, max_usd_h: float, workers: dict[str, Found]) -> Place:
        """What a new worker gets. Raises: OfferTaken."""
        if offer_id != self.offer_id:
            raise OfferTaken(f"{offer_id}: there is only {self.offer_id}")
        if self.price.ready_usd_h > max_usd_h:
            raise OfferTaken(f"{offer_id}: costs {self.price.ready_usd_h:g} $/h, more than {max_usd_h:g}")
        active = [worker for worker in workers.values() if worker.active]
        if len(active) >= self.slots:
            raise OfferTaken(f"{offer_id}: no free slot on this engine")
        taken = {gpu for worker in active for gpu in worker.place.gpus}
        free = [str(gpu) for gpu in range(self._settings.gpus) if str(gpu) not in taken]
        if len(free) < self.gpus_each:
            raise OfferTaken(f"{offer_id}: no free GPU on this engine")
        return Place(spec.label, offer_id, self.ports_for(spec, workers), tuple(free[: self.gpus_each]))

    def ports_for(
        self, spec: InstanceSpec, workers: dict[str, Found], old: Place | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Ports on the host for each that is published: those that it has, else others that no worker has.

        Taken at random: a client that still holds the address of a worker that is gone should not meet its successor.
        """
        taken = {port for worker in workers.values() for port in worker.place.held} | set(spec.ports)
        had = dict(old.ports) if old else {}
        inside = spec.ports if self._settings.network != "host" else (*spec.ports, -1, -2)
        free = [port for port in self._ports if port not in taken]
        missing = sum(port not in had for port in inside)
        if len(free) < missing:
            raise Refused(f"ports: workers have all of {self._settings.ports}")
        chosen = iter(secrets.SystemRandom().sample(free, missing))
        return tuple((port, had[port] if port in had else next(chosen)) for port in inside)

    def require(self, worker: Found, workers: dict[str, Found]) -> None:
        """Raises: Busy if a worker cannot run beside those that do."""
        others = [other for other in workers.values() if other.active and other is not worker]
        if self.slots and len(others) >= self.slots:
            raise Busy(f"{worker.place.label}: no free slot on this engine", RETRY_S)
        if {gpu for other in others for gpu in other.place.gpus} & set(worker.place.gpus):
            raise Busy(f"{worker.place.label}: another worker has its GPU", RETRY_S)
