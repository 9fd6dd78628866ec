"""Machines and instances of the market, and money as whole numbers: microdollars by the hour, time in microseconds."""

from dataclasses import dataclass, field
from random import Random
from typing import Final

MICRO: Final = 1_000_000
MONTH_H: Final = 720
"""Hours of the month by which storage is priced."""
KINDS: Final = (
    # name, memory in MB, microdollars per hour, DLPerf, compute capability, TFLOPS; of one GPU
    ("RTX 3090", 24_576, 180_000, 47.0, 860, 35.6),
    ("RTX 4090", 24_564, 340_000, 96.0, 890, 82.6),
    ("RTX 5090", 32_607, 520_000, 138.0, 1200, 104.8),
    ("A100 SXM4", 81_920, 890_000, 152.0, 800, 19.5),
    ("H100 SXM", 81_559, 1_900_000, 420.0, 900, 53.5),
)
"""Made up, of the order that such machines have."""
PLACES: Final = ("Sweden, SE", "Texas, US", "Taiwan, TW", "Germany, DE", "Quebec, CA")
FIRST_ASK, FIRST_INSTANCE, FIRST_MACHINE = 10_000_000, 20_000_000, 30_000


@dataclass(slots=True)
class Machine:
    """One machine, which is rented whole."""

    id: int
    ask_id: int
    """The offer's number; another one after each rental."""
    kind: tuple[str, int, int, float, int, float]
    num_gpus: int
    price: int
    """On demand, microdollars per hour, without a disk."""
    min_bid: int
    """What a bid must reach."""
    storage: int
    """Microdollars per GB and month."""
    geolocation: str
    reliability: float
    ip: str
    tenant: int = 0
    """The instance that has its GPUs; -1: somebody else's; 0: nobody's."""
    online: bool = True


@dataclass(slots=True)
class Launch:
    """What an instance runs, as it was ordered."""

    image: str
    env: dict[str, str]
    """Variables, and ports as `-p 3000:3000`."""
    onstart: str = ""
    args: list[str] = field(default_factory=list)
    runtype: str = "ssh"
    template_hash: str = ""


@dataclass(slots=True)
class Rental:
    """An instance."""

    id: int
    machine: Machine
    launch: Launch
    label: str | None
    disk_gb: float
    price: int
    """Microdollars per hour while it has GPUs: the bid of a bid."""
    is_bid: bool
    created_at: float
    ports: dict[int, int] = field(default_factory=dict)
    """Port inside, and where it is reached; kept by a stop."""
    intended: str = "running"
    actual: str | None = None
    message: str = ""
    outbid: bool = False
    fresh: bool = True
    """Its container is made at the next start."""
    epoch: int = 0
    """Raised by all that calls off what was to happen."""
    history: list[tuple[float, str | None]] = field(default_factory=list)
    """Its status over time, for lists that lag."""
    billed_at: float = 0.0
    gpu: int = 0
    """What its GPUs have cost, in microdollars per hour times microseconds."""
    storage: int = 0
    """The same of its disk."""
    destroyed_at: float = 0.0

    @property
    def has_gpus(self) -> bool:
        return self.machine.tenant == self.id

    @property
    def storage_price(self) -> int:
        """Microdollars per hour, whole."""
        return round(self.machine.storage * self.disk_gb / MONTH_H)

    @property
    def gpu_price(self) -> int:
        """What its GPUs cost now: nothing before it has run, and while it has none."""
        return self.price if self.has_gpus and self.actual in ("running", "rebooting", "recycling", "exited") else 0

    def bill(self, now: float) -> None:
        """Counts what it has cost up to `now`."""
        passed = round(now * MICRO) - round(self.billed_at * MICRO)
        self.gpu += self.gpu_price * passed
        self.storage += self.storage_price * passed
        self.billed_at = now

    def reprice(self, price: int, now: float) -> None:
        """It costs so much from now on."""
        self.bill(now)
        self.price = price

    def become(self, actual: str | None, now: float, message: str = "") -> None:
        """It has another status from now on."""
        self.bill(now)
        self.actual, self.message = actual, message
        self.history.append((now, actual))

    def status_at(self, at: float) -> str | None:
        """Its status at an earlier time."""
        return next((actual for since, actual in reversed(self.history) if since <= at), None)


def machines(count: int, seed: int) -> list[Machine]:
    """So many machines, the same ones for the same seed."""
    random = Random(f"{seed}/machines")
    made = []
    for n in range(count):
        kind = KINDS[n % len(KINDS)]
        num_gpus = random.choice((1, 1, 1, 2, 4))
        price = round(kind[2] * num_gpus * random.uniform(0.8, 1.3) / 100) * 100
        made.append(
            Machine(
                id=FIRST_MACHINE + n,
                ask_id=FIRST_ASK + n,
                kind=kind,
                num_gpus=num_gpus,
                price=price,
                min_bid=round(price * random.uniform(0.4, 0.7) / 100) * 100,
                storage=random.choice((100_000, 150_000, 200_000)),
                geolocation=random.choice(PLACES),
                reliability=round(random.uniform(0.95, 0.999), 4),
                ip=f"203.0.113.{n % 250 + 1}",
            )
        )
    return made
