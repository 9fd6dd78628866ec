"""The workers of a world: how they serve, what they report, and how they die."""

from collections.abc import Callable, Iterable

from posthouse.domain.lifecycle import Observation
from posthouse.domain.reports import Ended
from posthouse.fleet.events import Assignment, Reported, RequestsEnded
from posthouse.sim.client import RECONNECT_S, Client, ClientBehaviour
from posthouse.sim.clients import Clients
from posthouse.sim.instance import HEARTBEAT_S, REPORT_S, SimInstance
from posthouse.sim.traffic import Arrival


class Workers(Clients):
    """Everything that serves requests."""

    def __init__(
        self,
        traffic: Iterable[Arrival],
        behaviour: ClientBehaviour,
        hold_s: float,
        seed: int,
        log: Callable[[str], object] | None,
    ) -> None:
        super().__init__(traffic, behaviour, hold_s, seed, log)
        self.lose_ends = False
        self.speed = 1.0
        """How fast workers really are, as a share of what they say."""
        self.errors: dict[int, float] = {}
        """The share of requests that fail, by version."""
        self.failed = 0
        """Requests that a worker answered with an error."""

    def _become_ready(self, instance: SimInstance, life: int) -> None:
        if instance.life != life:
            return
        instance.ready, instance.changed = True, True
        if life:
            instance.began_at = self.now
            self._plan_heartbeat(instance, self.now)
        else:
            self.report_soon(instance)
        if instance.host.hardware.crashes_h > 0:
            span_s = self._chance.expovariate(instance.host.hardware.crashes_h / 3600)
            self.after(span_s, self._crash, instance, instance.life)

    def _crash(self, instance: SimInstance, life: int) -> None:
        if instance.life == life:
            self.happened("worker", instance.worker_id, "dies")
            self.kill(instance, Observation.EXITED)

    def kill(self, instance: SimInstance, seen: Observation, ordered: bool = False) -> None:
        """Ends what runs in the instance, at once; its clients notice. `ordered`: by a command, so it is no fault."""
        instance.life += 1
        instance.seen, instance.ready, instance.served = seen, False, 0
        instance.queue.clear()
        instance.ended.clear()
        clients, instance.working = list(instance.working.values()), {}
        if not ordered:
            self.audit.disturb(self.now)
        for client in clients:
            self.after(RECONNECT_S, self._ask, client)

    def _plan_heartbeat(self, instance: SimInstance, at: float) -> None:
        instance.heartbeat_at = at
        self.after(at - self.now, self._heartbeat, instance, instance.life, at)

    def report_soon(self, instance: SimInstance) -> None:
        """Has a worker report with its next beat, because something has changed."""
        instance.changed = True
        at = instance.next_beat_at(self.now)
        if at < instance.heartbeat_at:
            self._plan_heartbeat(instance, at)

    def _heartbeat(self, instance: SimInstance, life: int, planned_at: float) -> None:
        if instance.life != life or instance.heartbeat_at != planned_at:
            return
        if self.down or instance.worker_id not in self.fleet.workers:
            self._plan_heartbeat(instance, self.now + HEARTBEAT_S)
            return
        self.audit.touch(instance.worker_id)
        if instance.ended and not self.lose_ends:
            self.tell(RequestsEnded(instance.worker_id, tuple(instance.ended)))
            for ended in instance.ended:
                self.audit.ended(instance.worker_id, ended.request_idx)
        instance.ended.clear()
        if instance.changed or self.now - instance.reported_at >= REPORT_S - HEARTBEAT_S / 2:
            instance.changed, instance.reported_at = False, self.now
            self.tell(Reported(instance.worker_id, instance.report()))
        self._plan_heartbeat(instance, instance.reported_at + REPORT_S)

    def _send(self, client: Client, to: Assignment) -> None:
        client.idx, client.assigned_at = to.request_idx, self.now
        client.workers.append(to.worker.id)
        instance = self.instances.get(to.worker.label)
        if instance is None or not instance.ready or instance.deaf or client.broken:  # connection refused
            self.after(RECONNECT_S, self._ask, client)
            return
        instance.working[client.idx] = client
        self.report_soon(instance)
        if instance.served < instance.host.hardware.slots:
            self._serve(instance, client)
        else:
            instance.queue.append(client)

    def _serve(self, instance: SimInstance, client: Client) -> None:
        kind = instance.host.hardware
        instance.served += 1
        client.began_at = self.now
        span_s = kind.overhead_s * instance.host.factor + client.cost * kind.slots / (instance.perf * self.speed)
        self.after(span_s, self._finish, instance, instance.life, client)

    def _finish(self, instance: SimInstance, life: int, client: Client) -> None:
        if instance.life != life or client.gone:
            return
        errs = self.errors.get(instance.version, 0.0)
        failed = errs > 0 and self._chance.random() < errs
        self.failed += failed
        client.answered_at = self.now
        self.happened("request", client.idx, "failed" if failed else "is answered")
        self._leave(instance, client, success=not failed)
        self._close(client)

    def _leave(self, instance: SimInstance, client: Client, success: bool) -> None:
        """A request ends at a worker, in its slot or in its queue."""
        del instance.working[client.idx]
        instance.ended.append(Ended(client.idx, success))
        self.report_soon(instance)
        if client in instance.queue:
            instance.queue.remove(client)
            return
        instance.served -= 1
        if instance.queue:
            self._serve(instance, instance.queue.popleft())
