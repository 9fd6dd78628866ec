"""The clients of a world: when they ask, and what they do with an answer."""

from collections.abc import Callable, Iterable

from posthouse.fleet.events import Assignment, Left, Waiting
from posthouse.sim.client import Client, ClientBehaviour, ClientKind
from posthouse.sim.instance import SimInstance
from posthouse.sim.timeline import START_AT, Timeline
from posthouse.sim.traffic import Arrival

FORGETFUL_S = 1.0
"""How soon a client asks again whose server was away."""


class Clients(Timeline):
    """Everybody who asks for workers."""

    def __init__(
        self,
        traffic: Iterable[Arrival],
        behaviour: ClientBehaviour,
        hold_s: float,
        seed: int,
        log: Callable[[str], object] | None,
    ) -> None:
        """`hold_s`: how long a request without a worker is held open."""
        super().__init__(seed, log)
        self.behaviour, self.hold_s = behaviour, hold_s
        self.held: dict[int, Client] = {}
        """Those whose request is held open, by its index."""
        self.pending = 0
        """Requests that are neither answered nor given up."""
        self.expects_more = True
        """Whether the traffic goes on."""
        self._traffic = iter(traffic)

    def on_request(self, client: Client) -> None:
        """Called for each new request, before it is asked."""

    def on_end(self, client: Client) -> None:
        """Called when a request has been answered or given up."""

    def request(self, cost: float, broken: bool = False) -> Client:
        """A new request, asked now. `broken`: its client reaches no worker."""
        client = Client(cost, self.now, broken)
        self.pending += 1
        self.on_request(client)
        if self.behaviour.timeout_s > 0 and self.behaviour.kind is ClientKind.POLLING:
            self.after(self.behaviour.timeout_s, self._lose_patience, client)
        self._ask(client)
        return client

    def _next_arrival(self) -> None:
        arrival = next(self._traffic, None)
        self.expects_more = arrival is not None
        if arrival is not None:
            self.after(START_AT + arrival[0] - self.now, self._arrive, arrival[1])

    def _arrive(self, cost: float) -> None:
        self._next_arrival()
        self.request(cost)

    def _ask(self, client: Client) -> None:
        if client.gone:
            return
        if self.down:
            self.after(FORGETFUL_S, self._ask, client)
            return
        polls = self.behaviour.kind is ClientKind.POLLING
        outcome = self.fleet.assign(client.idx, client.cost, self.now, polls, self.hold_s)
        self._perform()
        self.audit.asked(client.idx, client.cost, outcome, self.now)
        if isinstance(outcome, Assignment):
            self.happened("request", outcome.request_idx, "goes to worker", outcome.worker.id)
            self._send(client, outcome)
            return
        self.happened("request", outcome.request_idx, "waits")
        client.idx = outcome.request_idx
        if outcome.held:
            self.held[client.idx] = client
        else:
            self._answered_without_worker(client, outcome.denied)

    def _deliver(self, idx: int, outcome: Assignment | Waiting) -> None:
        """Tells a client what has become of its request that was held open."""
        client = self.held.pop(idx, None)
        if client is None:
            return
        if isinstance(outcome, Assignment):
            self.audit.asked(idx, client.cost, outcome, self.now)
            self.happened("request", idx, "goes to worker", outcome.worker.id)
            self._send(client, outcome)
        else:
            self._answered_without_worker(client, outcome.denied)

    def _answered_without_worker(self, client: Client, denied: str) -> None:
        if denied:
            self.audit.forgotten(client.idx)
            self._give_up(client)
            return
        if self.behaviour.kind is ClientKind.POLLING:
            self.after(client.poll_s(self.behaviour, self._random), self._ask, client)
            return
        client.idx = 0  # to ask again is another request
        client.tries += 1
        if client.tries > self.behaviour.retries:
            self._give_up(client)
        else:
            self.after(self.behaviour.retry_s, self._ask, client)

    def _lose_patience(self, client: Client) -> None:
        if client.answered_at or client.gone:
            return
        if self.held.pop(client.idx, None) is not None and not self.down:
            self.tell(Left(client.idx))  # the server sees the connection close
            self.audit.forgotten(client.idx)
        instance = next((b for b in self.instances.values() if client.idx in b.working), None)
        client.gone = True
        if instance is not None:
            self._leave(instance, client, success=False)
        self._give_up(client)

    def _give_up(self, client: Client) -> None:
        client.gone = True
        self.happened("request", client.idx, "is given up")
        self._close(client)

    def _close(self, client: Client) -> None:
        self.pending -= 1
        self.on_end(client)

    # -- what workers and the server do --------------------------------------------------------------------------------

    def _send(self, client: Client, to: Assignment) -> None:
        """The request comes to its worker."""
        raise NotImplementedError

    def _leave(self, instance: SimInstance, client: Client, success: bool) -> None:
        """A request ends at a worker."""
        raise NotImplementedError

    def _perform(self) -> None:
        """Does what the controller asked for and nobody has done yet."""
        raise NotImplementedError
