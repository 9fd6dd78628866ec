"""The market: what is offered, what is rented, what becomes of it and what it costs. It sees no clock and no network.

Its driver says what time it is, with `advance` or with each call; the same calls at the same times have the same
outcome, for the same seed.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import Protocol

from posthouse.market.faults import Faults
from posthouse.market.model import FIRST_INSTANCE, MICRO, Launch, Machine, Rental, machines

KEPT_GONE = 1000
"""How many instances are remembered that were destroyed."""
MAX_RENTALS = 1000


class Refusal(Exception):
    """What the market answers instead: a status, a code and a text."""

    def __init__(self, status: int, code: str, text: str, contract: int = 0) -> None:
        """`contract`: the instance that there is nevertheless."""
        super().__init__(text)
        self.status, self.code, self.text, self.contract = status, code, text, contract


class Runner(Protocol):
    """What runs instances; the market itself runs none."""

    def place(self, rental: Rental) -> tuple[str, dict[int, int]]:
        """Where an instance is reached: its address, and the outer port of each that it publishes."""
        ...

    def start(self, rental: Rental, wipe: bool) -> None:
        """Starts what it runs; `wipe`: on an empty disk."""
        ...

    def end(self, rental: Rental, remove: bool) -> None:
        """Ends what it runs; `remove`: with its disk."""
        ...

    def logs(self, rental: Rental) -> str: ...


class Events:
    """What is to happen, by when; what is due at one time in the order in which it was planned."""

    def __init__(self) -> None:
        self._order = count()
        self._planned: list[tuple[float, int, str, Callable[[], None]]] = []

    def plan(self, at: float, happen: Callable[[], None], kind: str = "") -> None:
        heapq.heappush(self._planned, (at, next(self._order), kind, happen))

    def drop(self, kind: str) -> None:
        """Nothing of this kind happens any more."""
        self._planned = [planned for planned in self._planned if planned[2] != kind]
        heapq.heapify(self._planned)

    def due(self, now: float) -> Iterator[tuple[float, Callable[[], None]]]:
        """What is due, and when it is, also what is planned meanwhile."""
        while self._planned and self._planned[0][0] <= now:
            at, _, _, happen = heapq.heappop(self._planned)
            yield at, happen


class Market:
    """Machines, instances and bills."""

    def __init__(
        self, runner: Runner, now: float, offers: int = 40, seed: int = 0, faults: Faults | None = None
    ) -> None:
        self.runner = runner
        self.now = now
        self.random = Random(f"{seed}/events")
        self.machines = {machine.id: machine for machine in machines(offers, seed)}
        self.rentals: dict[int, Rental] = {}
        self.gone: dict[int, Rental] = {}
        """Destroyed ones, for bills and lists that lag."""
        self.templates: dict[str, dict[str, object]] = {}
        self.spent = 0
        """By instances that are no longer remembered, in microdollars per hour times microseconds."""
        self._asks = count(max((m.ask_id for m in self.machines.values()), default=0) + 1)
        self._ids = count(FIRST_INSTANCE)
        self._events = Events()
        self.faults = faults or Faults()
        for machine in self.machines.values():
            self._plan(machine)

    # -- time ----------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Lets everything happen that is due."""
        for at, happen in self._events.due(now):
            self.now = at
            happen()
        self.now = max(self.now, now)

    def set_faults(self, faults: Faults) -> None:
        """From now on other things go wrong."""
        self.faults = faults
        self._events.drop("machine")
        for machine in self.machines.values():
            self._plan(machine)

    def _plan(self, machine: Machine) -> None:
        """Plans what happens to a machine by itself."""
        faults = self.faults
        for rate_h, what in (
            (faults.churn_h, self._churn),
            (faults.offline_h, self.go_offline),
            (faults.move_h, self._move),
        ):
            self._repeat(machine, rate_h, what)

    def _repeat(self, machine: Machine, rate_h: float, what: Callable[[Machine], None]) -> None:
        def happen() -> None:
            what(machine)
            if machine.online:
                self._repeat(machine, rate_h, what)

        if rate_h > 0:
            self._events.plan(self.now + self.random.expovariate(rate_h / 3600), happen, "machine")

    def _later(self, rental: Rental, delay_s: float, happen: Callable[[Rental], None]) -> None:
        """Unless something else becomes of the instance before."""
        epoch = rental.epoch

        def due() -> None:
            if rental.epoch == epoch and rental.id in self.rentals:
                happen(rental)

        self._events.plan(self.now + delay_s, due)

    # -- machines ------------------------------------------------------------------------------------------------------

    def offered(self) -> Sequence[Machine]:
        """Machines that can be rented."""
        return [machine for machine in self.machines.values() if machine.online and not machine.tenant]

    def set_price(self, machine: Machine, price: int, min_bid: int, running: bool = False) -> None:
        """Another price from now on: of new rentals, of others' bids, and with `running` of present rentals."""
        machine.price, machine.min_bid = max(1, price), max(1, min_bid)
        for rental in [r for r in self.rentals.values() if r.machine is machine]:
            if running and not rental.is_bid:
                rental.reprice(machine.price, self.now)
            if rental.is_bid and rental.has_gpus and rental.price < machine.min_bid:
                self._outbid(rental)
        self._serve_waiting(machine)

    def go_offline(self, machine: Machine) -> None:
        """The machine goes away for good, with what runs on it."""
        machine.online = False
        for rental in [r for r in self.rentals.values() if r.machine is machine]:
            rental.epoch += 1
            self.runner.end(rental, remove=False)
            rental.become("offline", self.now, "host is offline")

    def _churn(self, machine: Machine) -> None:
        if machine.tenant == 0:
            machine.tenant = -1
        elif machine.tenant == -1:
            self._release(machine)

    def _move(self, machine: Machine) -> None:
        most = self.faults.move
        factors = [1 + self.random.uniform(-most, most) for _ in range(2)]
        self.set_price(machine, round(machine.price * factors[0]), round(machine.min_bid * factors[1]))

    def _outbid(self, rental: Rental) -> None:
        rental.epoch += 1
        rental.outbid = True
        self.runner.end(rental, remove=False)
        rental.become("exited", self.now, f"outbid: the lowest winning bid is ${rental.machine.min_bid / MICRO:.4f}/h")
        rental.machine.tenant = -1

    def _release(self, machine: Machine) -> None:
        machine.tenant = 0
        machine.ask_id = next(self._asks)
        self._serve_waiting(machine)

    def _serve_waiting(self, machine: Machine) -> None:
        """Gives its GPUs to an instance that is meant to run and has none."""
        for rental in [r for r in self.rentals.values() if r.machine is machine and not r.has_gpus]:
            if rental.intended == "running" and machine.online and self._may_have(rental):
                rental.bill(self.now)
                machine.tenant, rental.outbid = rental.id, False
                self._bring_up(rental)
                return

    def _may_have(self, rental: Rental) -> bool:
        machine = rental.machine
        free = machine.tenant == 0 or (machine.tenant == -1 and rental.outbid)
        return free and (not rental.is_bid or rental.price >= machine.min_bid)

    # -- instances -----------------------------------------------------------------------------------------------------

    def rental(self, rental_id: int) -> Rental:
        """Raises: Refusal."""
        if rental_id not in self.rentals:
            raise Refusal(404, "no_such_instance", f"Instance {rental_id} not found.")
        return self.rentals[rental_id]

    def rent(self, ask_id: int, launch: Launch, label: str | None, disk_gb: float, bid: int = 0) -> Rental:
        """A new instance. Raises: Refusal; of a bid that does not win, with one that rests."""
        machine = next((m for m in self.offered() if m.ask_id == ask_id), None)
        if machine is not None and self.random.random() < self.faults.taken:
            machine.tenant, machine = -1, None
        if machine is None:
            raise Refusal(404, "no_such_ask", f"ask {ask_id} is no longer available")
        if self.credit() <= 0:
            raise Refusal(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
        if len(self.rentals) >= MAX_RENTALS:
            raise Refusal(403, "limit_reached", f"at most {MAX_RENTALS} instances are allowed")
        number, price = next(self._ids), bid or machine.price
        rental = Rental(number, machine, launch, label, disk_gb, price, bool(bid), self.now, billed_at=self.now)
        machine.ip, rental.ports = self.runner.place(rental)
        self.rentals[rental.id] = rental
        if bid and bid < machine.min_bid:
            rental.intended = "stopped"
            rental.become("exited", self.now)
            text = f"bid is below the lowest winning bid ${machine.min_bid / MICRO:.4f}"
            raise Refusal(400, "invalid_price", text, rental.id)
        machine.tenant = rental.id
        rental.become(None, self.now)
        self._later(rental, self.faults.schedule_s, self._pull)
        return rental

    def start(self, rental: Rental) -> None:
        """It is to run; one that is being stopped, as soon as it has."""
        if rental.intended == "running" and rental.actual != "exited":
            return
        rental.intended = "running"
        if rental.actual not in ("exited", None):
            return
        rental.epoch += 1
        if rental.has_gpus:
            self._bring_up(rental)
        else:
            rental.message = "scheduling: its GPUs are rented by others"
            self._serve_waiting(rental.machine)

    def stop(self, rental: Rental) -> None:
        """It is to rest, and gives its GPUs up."""
        if rental.intended == "stopped":
            return
        rental.epoch += 1
        rental.intended = "stopped"
        self._later(rental, self.faults.stop_s, self._stopped)

    def reboot(self, rental: Rental) -> None:
        """Ends its container and starts it again. Raises: Refusal."""
        self._require_gpus(rental)
        self._restart(rental, "rebooting")

    def recycle(self, rental: Rental) -> None:
        """Replaces its container by a new one. Raises: Refusal."""
        self._require_gpus(rental)
        rental.fresh = True
        self._restart(rental, "recycling")

    def update(self, rental: Rental, launch: Launch) -> None:
        """It runs something else, in a new container."""
        rental.launch, rental.fresh = launch, True
        kept = rental.ports
        rental.ports = {}
        _, ports = self.runner.place(rental)
        rental.ports = {inner: kept.get(inner, outer) for inner, outer in ports.items()}
        if rental.has_gpus and rental.intended == "running":
            self._restart(rental, "recycling")

    def set_bid(self, rental: Rental, bid: int) -> None:
        """Raises: Refusal."""
        if not rental.is_bid or bid < 1:
            raise Refusal(400, "invalid_price", "the instance is no bid, or the price is not above 0")
        rental.reprice(bid, self.now)
        if rental.has_gpus and bid < rental.machine.min_bid:
            self._outbid(rental)
        self._serve_waiting(rental.machine)

    def destroy(self, rental: Rental) -> None:
        """Ends it, with its disk."""
        rental.epoch += 1
        had = rental.has_gpus or rental.outbid
        rental.become("destroyed", self.now)
        rental.destroyed_at = self.now
        del self.rentals[rental.id]
        self.gone[rental.id] = rental
        while len(self.gone) > KEPT_GONE:
            oldest = self.gone.pop(next(iter(self.gone)))
            self.spent += oldest.gpu + oldest.storage
        self.runner.end(rental, remove=True)
        if had:
            self._release(rental.machine)

    def ended(self, rental: Rental, code: int, epoch: int) -> None:
        """What it runs since this epoch has ended; by itself, if nothing else has become of it."""
        if rental.id in self.rentals and rental.epoch == epoch and rental.intended == "running":
            rental.epoch += 1
            rental.become("exited", self.now, f"container exited with code {code}")

    # -- money ---------------------------------------------------------------------------------------------------------

    def bills(self) -> Mapping[int, Rental]:
        """Every instance that is remembered, billed up to now."""
        for rental in self.rentals.values():
            rental.bill(self.now)
        return self.gone | self.rentals

    def spent_usd(self) -> float:
        """Dollars spent in all."""
        rentals = self.bills().values()
        return (self.spent + sum(r.gpu + r.storage for r in rentals)) / (3600 * MICRO * MICRO)

    def credit(self) -> float:
        """Dollars that may still be spent."""
        return self.faults.credit_usd - self.spent_usd()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _require_gpus(self, rental: Rental) -> None:
        if not rental.has_gpus or rental.actual not in ("running", "exited"):
            raise Refusal(400, "invalid_state", f"instance {rental.id} is {rental.actual or 'created'}, not running")

    def _restart(self, rental: Rental, meanwhile: str) -> None:
        rental.epoch += 1
        self.runner.end(rental, remove=False)
        rental.become(meanwhile, self.now)
        self._later(rental, self.faults.stop_s, self._bring_up)

    def _bring_up(self, rental: Rental) -> None:
        rental.epoch += 1
        if rental.fresh:
            self._pull(rental)
        else:
            self._later(rental, self.faults.start_s, self._run)

    def _pull(self, rental: Rental) -> None:
        rental.become("loading", self.now, f"pulling {rental.launch.image}")
        faults, draw = self.faults, self.random.random()
        slow = draw < faults.stuck + faults.slow
        if draw >= faults.stuck:
            self._later(rental, faults.pull_s * (faults.slow_factor if slow else 1), self._run)

    def _run(self, rental: Rental) -> None:
        wipe, rental.fresh = rental.fresh, False
        rental.become("running", self.now, f"success, running {rental.launch.image}/{rental.launch.runtype}")
        self.runner.start(rental, wipe)

    def _stopped(self, rental: Rental) -> None:
        rental.epoch += 1
        self.runner.end(rental, remove=False)
        had = rental.has_gpus
        if had and rental.intended == "running":
            rental.become("rebooting", self.now)
            self._bring_up(rental)
            return
        rental.become("exited", self.now)
        if had:
            self._release(rental.machine)
