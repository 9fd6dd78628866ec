"""A virtual day from a seed: storms of faults, edits and traffic, each followed by a calm in which all must settle."""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import structlog

from posthouse.domain.endpoint import EndpointId, EndpointState
from posthouse.engine.management.inputs import (
    EndpointChanges,
    NewEndpoint,
    NewTemplate,
    NewWorkergroup,
    TemplateChanges,
    TemplateRef,
    WorkergroupChanges,
)
from posthouse.errors import BadRequest, PosthouseError
from posthouse.wire.route import RouteAsk, RouteReply
from tests.campaign.awaits import AWAITS, CHANGES, Await
from tests.campaign.checks import Broken, Checks
from tests.campaign.disk import Disk
from tests.campaign.server import Gone, Server
from tests.campaign.storage import BACKUP, Storage
from tests.campaign.virtual import VirtualLoop
from tests.campaign.world import World

HOUR_S = 3600.0
STORM_S = 1.5 * HOUR_S
SETTLE_S = 1.25 * HOUR_S
"""Within this time after the last fault and the last new request everything must be as it should. The longest chain:
900 s until a load counts as stuck, 600 s of patience after failures, a new load, 600 s until cold workers go."""
REST_S = 0.25 * HOUR_S
"""For so long nothing may be asked of the provider then."""
EXCHANGE_S = 0.75 * HOUR_S
"""How long it may take a cheaper worker to take over, and the one that it replaces to go."""
MAX_EXCHANGES = 5
"""In one calm, with the hours that they take."""
PROBE_S = 900.0
"""A request after the calm must be served within this time, by a worker that may have to be made first."""
AIMED_S = 1800.0
"""How long an aimed crash waits for the server to come to that place; then it strikes wherever it is."""
EMPTY = 0.03
"""Share of empty lists where storage is faulty."""
RESTORE_S = 300.0
"""How long it takes an operator to restore a backup: longer than any call of before that is on its way."""
OPERATED_S = 600.0
"""How long after the last fault an operator looks what nobody owns."""
POLL_S = (0.5, 5.0)
"""How long clients sleep between two calls: the protocol's client does so."""
RETRIES = 5

RARE_EDITS = ("rotate key", "add template", "delete template")
TEMPLATES = ("one", "two", "three")
EDITS = (
    *("parameters", "parameters", "state", "state", "update", "cancel", "template", "switch"),
    *("dismiss", "delete group", "delete endpoint", "add"),
)


@dataclass(slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    hours: float
    faults: Counter[str]
    happened: Counter[str]
    crashed_at: Counter[str]
    """Crashes by where in the engine something waited then."""
    violation: str = ""


def run(seed: int, hours: float = 24.0, storage: bool = False) -> Outcome:
    """Lives through a day. Deterministic: what the seed does, it does again. `storage`: what is stored breaks, too."""
    loop = VirtualLoop()
    day = Day(seed, loop, Storage(seed) if storage else None)
    violation = ""
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # The only places where the engine itself looks at a clock.
    time = SimpleNamespace(
        perf_counter=loop.time, clock_gettime=lambda which: loop.time(), time=lambda: day.world.wall_s + loop.time()
    )
    try:
        with patch("posthouse.engine.clock.time", time), patch("posthouse.engine.loop.time", time):
            loop.run_until_complete(day.live(hours * HOUR_S))
    except Broken as error:
        violation = str(error)
    except Exception as error:
        violation = f"at {loop.time():.3f} s: {error!r}"
    finally:
        day.close()
        structlog.configure(**logs)
    return Outcome(seed, hours, day.world.counts, day.happened, day.crashed_at, violation)


class Day:
    def __init__(self, seed: int, loop: VirtualLoop, storage: Storage | None = None) -> None:
        self.loop, self.storage = loop, storage
        self.world = World(seed, loop)
        self.random = self.world.random
        self.checks = Checks()
        self.disk = Disk()
        self.world.written = self.disk.has_label
        self.tick_s = self.random.choice([30.0, 60.0])
        self.server = Server(self.world, self.disk, self.checks, self.tick_s)
        self.happened: Counter[str] = Counter()
        self.crashed_at: Counter[str] = Counter()
        self._aims = seed % 2 == 1
        """On every other day each crash is aimed at some await of the engine."""
        self.world.thorough = self._aims
        self._operator = Random(seed)
        """Apart from that of the day, which stays as it is whether an operator has to look or not."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._crashes = self.random.random() < 0.8
        self._edits = self.random.random() < 0.8
        self._names = 0
        self._busy = self.random.choice([0.3, 0.8])
        if storage is not None:
            self._crashes = True
            self.world.lists_nothing = lambda: storage.random.random() < EMPTY

    def close(self) -> None:
        self.loop.end()

    async def live(self, span_s: float) -> None:
        self.loop.set_exception_handler(lambda loop, context: self._fail(context.get("exception")))
        await self._begin()
        await self._set_up()
        while self.loop.time() < span_s:
            await self._storm()
            await self._calm()

    def _fail(self, error: BaseException | None) -> None:
        if self._failure is None:
            self._failure = error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task.add_done_callback(ended)

    async def _pass(self, span_s: float) -> None:
        """Lets time pass, and stops where something is broken."""
        until = self.loop.time() + span_s
        while (left_s := until - self.loop.time()) > 0:
            await asyncio.sleep(min(left_s, 60.0))
            self._raise()

    def _raise(self) -> None:
        if self._failure is None and self.checks.found is not None:
            self._failure = self.checks.found
        if self._failure is not None:
            raise self._failure

    # -- the server ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        while True:
            self.server = Server(self.world, self.disk, self.checks, self.tick_s)
            with suppress(PosthouseError):
                await self.server.start()
            if self.server.up:  # and was not killed the very moment that it was
                return
            self.server.kill()
            await asyncio.sleep(5.0)

    async def _set_up(self) -> None:
        for number in range(len(TEMPLATES)):
            await self._edit(self.server.management.templates.create(NewTemplate(name=TEMPLATES[number], image="v1")))
        for _ in range(self.random.choice([1, 1, 2])):
            await self._add_endpoint()

    async def _crash(self) -> None:
        """Ends the server at some step, and begins it again on what the disk has."""
        server, dead = self.server, asyncio.Event()
        how = "aimed" if self._aims else self.random.choice(["now", "commit", "commit", "put", "stop"])

        def kill() -> None:
            self._kill(server)
            dead.set()

        if how == "stop":
            self.happened["restarts"] += 1
            await self._stop(server)
        else:
            self.happened["crashes"] += 1
            if how == "aimed":
                self._aim(self.random.choice(AWAITS), server, dead)
            elif how == "now":
                self.loop.after_steps = self.loop.steps + self.random.randrange(1, 20), kill
            else:
                server.kill_at(how, self.random.randrange(0, 12), kill)
            try:
                async with asyncio.timeout(AIMED_S if self._aims else 120.0):
                    await dead.wait()
            except TimeoutError:
                kill()
        if self.random.random() < 0.3:
            self.happened["clock set"] += 1
            self.world.wall_s += self.random.choice([-1, 1]) * self.random.choice([1.0, 300.0, HOUR_S, 24 * HOUR_S])
        await asyncio.sleep(self.random.choice([0.0, 1.0, 10.0, 60.0, 600.0]))
        if self.storage is not None:
            await self._break_storage(self.storage)
        await self._begin()
        self.loop.at_each_step = None

    async def _break_storage(self, storage: Storage) -> None:
        """Something becomes of the store's file while the server is down. Where it is refused, a backup is restored."""
        kind, found = storage.fault(self.disk)
        self.happened[f"storage: {kind}{'' if found else ', refused'}"] += 1
        if kind == BACKUP or found is None:
            await asyncio.sleep(RESTORE_S)
            self.disk = found or storage.restored()
            self.checks.store_restored()
            self.world.forget_asked()
        else:
            if found.fleets() != self.disk.fleets():  # an old row of a fleet whose workers are as they were
                self.checks.store_restored()
            self.disk = found
        self.world.written = self.disk.has_label

    def _kill(self, server: Server) -> None:
        self.crashed_at.update(map(str, server.waits_at()))
        server.kill()

    async def _stop(self, server: Server) -> None:
        try:
            await server.stop()
        except PosthouseError:
            server.kill()

    def _aim(self, at: Await, server: Server, dead: asyncio.Event) -> None:
        """Has the server die as soon as it waits there, and sees to it that it comes there."""

        stopping = False

        def look() -> bool:
            nonlocal stopping
            waits_at = self.server.waits_at()
            if at not in waits_at:
                if at.function == "close" and not stopping and any(place.module == "executor" for place in waits_at):
                    stopping = True
                    self._spawn(self._stop(server))
                return False
            self._kill(self.server)
            self.loop.at_each_step = None
            dead.set()
            return True

        self.loop.at_each_step = look
        if at.module == "hub":  # the next one dies as it begins
            self._kill(server)
            dead.set()
        elif at.module in CHANGES:
            for _ in range(12):
                self._spawn(self._change())

    # -- storm and calm ------------------------------------------------------------------------------------------------

    async def _storm(self) -> None:
        if self.storage is not None:
            self.storage.back_up(self.disk)
        self.world.storm(True)
        if not len(self.server.hub.directory):
            await self._add_endpoint()
        until = self.loop.time() + STORM_S
        self._spawn(self._traffic(until))
        if self._edits:
            self._spawn(self._operate(until))
        while self.loop.time() < until:
            await self._pass(self.random.uniform(10.0, HOUR_S))
            if self._crashes:
                await self._crash()
            if self.random.random() < 0.3:
                self.happened["freezes"] += 1
                self.loop.skip(self.random.choice([2.0, 30.0, 90.0, 400.0]))
        self.world.storm(False)

    async def _calm(self) -> None:
        await self._pass(OPERATED_S)
        await self._end_orphans()
        await self._pass(SETTLE_S - OPERATED_S)
        for _ in range(MAX_EXCHANGES):
            if await self._rests():
                break
        else:
            self.checks.broken("convergence", "workers are replaced by cheaper ones forever")
        self.happened["calms"] += 1
        for fleet in [managed.fleet for managed in self.server.hub.endpoints.values()]:
            endpoint = fleet.endpoint
            if str(endpoint.state) == "active" and endpoint.scaling.max_workers and self._has_group(endpoint.id):
                before = self.happened["served"]
                await self._client(endpoint.name, 100.0, PROBE_S)
                self._raise()
                if self.happened["served"] == before:
                    self.checks.broken("convergence", f"endpoint {endpoint.id} served nothing for {PROBE_S:.0f} s")

    async def _rests(self) -> bool:
        """Whether nothing moves for a while. False if a cheaper worker takes over.

        That may be at any time: what is held against a machine halves each hour.
        """
        began_s, before = self.loop.time(), self.world.commands
        if self.checks.exchanged_s < began_s - EXCHANGE_S:
            self.checks.settled()
            await self._pass(REST_S)
            if self.checks.exchanged_s < began_s:
                self.checks.settled()
                if self.world.commands != before:
                    self.checks.broken("convergence", f"at rest {self.world.commands - before} commands were given")
                return True
        await self._pass(EXCHANGE_S)
        return False

    async def _end_orphans(self) -> None:
        """What the server leaves to an operator: each instance that nobody owns is adopted or destroyed."""
        orphans, random = self.server.orphans, self.storage.random if self.storage is not None else self._operator
        if not orphans.troubles():
            return
        for orphan in [orphan for orphan in orphans.all() if not orphan.known]:
            groups = list(self.server.hub.workergroups.values())
            adopted = bool(groups) and random.random() < 0.5
            self.happened[f"operator: {'adopts' if adopted else 'destroys'}"] += 1
            try:
                if adopted:
                    await self.server.call(orphans.adopt(orphan, random.choice(groups)))
                    self.checks.adopted.add(orphan.instance.label)
                else:
                    await self.server.call(orphans.end([orphan]))
            except BadRequest:  # it has its max_workers
                await self.server.call(orphans.end([orphan]))

    def _has_group(self, endpoint_id: EndpointId) -> bool:
        return bool(self.server.hub.groups_of(endpoint_id))

    # -- clients -------------------------------------------------------------------------------------------------------

    async def _traffic(self, until: float) -> None:
        """Bursts of requests with pauses between them."""
        while self.loop.time() < until:
            await asyncio.sleep(self.random.expovariate(self._busy / 900.0))
            names = [endpoint.name for endpoint in self.server.hub.directory] if self.server.up else []
            if not names:
                continue
            name, gap_s = self.random.choice(names), self.random.choice([0.2, 2.0, 20.0])
            for _ in range(self.random.choice([1, 2, 5, 10])):
                if self.loop.time() >= until:
                    return
                cost = self.random.choice([10.0, 100.0, 100.0, 1000.0])
                self._spawn(self._client(name, cost, self.random.choice([20.0, 60.0, 60.0, 240.0])))
                await asyncio.sleep(self.random.expovariate(1.0 / gap_s))

    async def _client(self, name: str, cost: float, timeout_s: float) -> None:
        """Asks until it is served, or gives up."""
        self.happened["requests"] += 1
        until = self.loop.time() + timeout_s
        idx, failures = 0, 0
        while (left_s := until - self.loop.time()) > 0:
            server = self.server
            try:
                reply = await server.route(RouteAsk(name, cost, idx), left_s)
            except BadRequest:
                return
            except Gone:
                await asyncio.sleep(self.random.uniform(0.5, 5.0))
                continue
            if reply is None:  # it left, or there is no such endpoint
                break
            idx = reply.request_idx or idx
            if isinstance(reply, RouteReply):
                if server.up and server is self.server:
                    self.checks.routed(reply)
                served = self.world.serve(reply.url, idx, cost)
                await asyncio.wait([served], timeout=max(0.0, until - self.loop.time()))
                if not served.done():
                    self.world.abandon(reply.url, idx)
                    break
                if served.result():
                    self.happened["served"] += 1
                    return
                failures += 1
                if failures > RETRIES:
                    break
                await asyncio.sleep(min(0.5 * 2**failures, 10.0))
                continue
            await asyncio.sleep(self.random.uniform(*POLL_S))
        self.happened["given up"] += 1

    # -- the operator --------------------------------------------------------------------------------------------------

    async def _operate(self, until: float) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(60.0, 2400.0))
            if self.loop.time() >= until:
                return
            await self._change()

    async def _edit(self, change: Coroutine[Any, Any, Any]) -> None:
        if not self.server.up:
            change.close()
            self.happened["edits failed"] += 1
            return
        try:
            await self.server.call(change)
        except PosthouseError:
            self.happened["edits failed"] += 1

    async def _add_endpoint(self) -> None:
        self._names += 1
        name = f"endpoint-{self._names}"
        management = self.server.management
        new = NewEndpoint.model_validate({"endpoint_name": name, **self._parameters()})
        await self._edit(management.endpoints.create(new))
        for _ in range(self.random.choice([1, 1, 2])):
            if not self.server.up:
                return
            template = self.random.choice(list(self.server.hub.templates.values()) or [None])
            if template is not None:
                new_group = NewWorkergroup(endpoint_name=name, template_id=template.id)
                await self._edit(management.workergroups.create(new_group))

    def _parameters(self) -> dict[str, Any]:
        """Parameters as the wire has them, within what machines of this world can do."""
        choose = self.random.choice
        return {
            "min_load": choose([0, 0, 1, 60]),
            "target_util": choose([0.5, 0.9]),
            "cold_mult": choose([0, 1, 3]),
            "cold_workers": choose([0, 0, 1, 3]),
            "max_workers": choose([0, 1, 2, 4, 6]),
            "max_queue_time": choose([1, 30]),
            "target_queue_time": choose([1, 10]),
            "inactivity_timeout": choose(["none", 0, 60, 600]),
        }

    async def _change(self) -> None:
        """Changes something, at random, if the server lives."""
        if not self.server.up:
            return
        hub, management, choose = self.server.hub, self.server.management, self.random.choice
        endpoints, groups = [endpoint.id for endpoint in hub.directory], list(hub.workergroups)
        kind = choose(EDITS + RARE_EDITS if self._aims else EDITS)
        self.happened[f"edit: {kind}"] += 1
        workers = [i for managed in hub.endpoints.values() for i in managed.fleet.workers]
        if kind == "add" and len(endpoints) < 2:
            await self._add_endpoint()
        elif kind == "parameters" and endpoints:
            said = self._parameters()
            changes = EndpointChanges.model_validate({n: said[n] for n in said if choose([0, 1])})
            await self._edit(management.endpoints.update(choose(endpoints), changes))
        elif kind == "state" and endpoints:
            state = choose(["active", "active", "suspended", "stopped"])
            changes = EndpointChanges(endpoint_state=EndpointState(state))
            await self._edit(management.endpoints.update(choose(endpoints), changes))
        elif kind in ("update", "cancel") and groups:
            use_cases = management.workergroups
            await self._edit(
                (use_cases.update_workers if kind == "update" else use_cases.cancel_update)(choose(groups))
            )
        elif kind == "template" and hub.templates:
            self._names += 1
            edit = TemplateChanges(id=choose(list(hub.templates)), image=f"v{self._names}")
            await self._edit(management.templates.update(edit))
        elif kind == "rotate key" and endpoints:
            await self._edit(management.endpoints.rotate_key(choose(endpoints)))
        elif kind == "add template" and len(hub.templates) < 2 * len(TEMPLATES):
            self._names += 1
            await self._edit(management.templates.create(NewTemplate(name=f"template-{self._names}", image="v1")))
        elif kind == "delete template" and hub.templates:
            await self._edit(management.templates.delete(TemplateRef(template_id=choose(list(hub.templates)))))
        elif kind == "switch" and groups and hub.templates:
            switch = WorkergroupChanges(template_id=choose(list(hub.templates)))
            await self._edit(management.workergroups.update(choose(groups), switch))
        elif kind == "dismiss" and workers:
            await self._edit(management.workers.dismiss(choose(workers)))
        elif kind == "delete group" and groups:
            await self._edit(management.workergroups.delete(choose(groups)))
        elif kind == "delete endpoint" and endpoints:
            await self._edit(management.endpoints.delete(choose(endpoints)))
