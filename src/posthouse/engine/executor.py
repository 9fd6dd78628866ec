"""Carries commands out at providers: bounded, one at a time for each worker; every answer is an observation."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from posthouse import bootstrap, tracing
from posthouse.domain.endpoint import AccountId, EndpointId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command
from posthouse.domain.worker import Worker
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import BadRequest, Busy, OfferTaken, Refused, Unavailable
from posthouse.fleet.events import Answered, Level, Run
from posthouse.ports import InstanceSpec, Provider, RegistryLogin
from posthouse.template import Template
from posthouse.wire.env import parse_env

log = structlog.get_logger()

BUSY_TRIES = 5
"""How many times a command is tried at a provider that answers Busy."""
REGISTRY_LOGIN = "REGISTRY_LOGIN"
"""Secrets whose names begin so are no variables: each is `HOST USER PASSWORD`, for the images of that registry."""
FAILURE_SHOWN_S = 2.0
"""How long a worker that failed is shown as going, with what it said, before it is destroyed: long enough to be seen
in a list that is read every second."""
LOADING_TIMEOUT = "POSTHOUSE_LOADING_TIMEOUT_S"
"""The variable that tells our agent how long its template lets it load."""
DOCKER_HUB = "docker.io"
"""The registry of images that name none."""


@dataclass(slots=True)
class Executor:
    hub: Hub
    report_url: Callable[[Worker], str]
    """Where a worker reaches the server: its provider may have an address of its own for that."""
    worker_token: Callable[[int], str]
    secrets: Callable[[AccountId], Mapping[str, str]]
    """What every new instance finds in its environment, unless its template says otherwise. Raises: Refused."""
    root_pem: str
    """The root of the server's certificate, which workers must trust to report; empty where every machine does."""
    most_at_once: int
    timeout_s: float
    on_answer: Callable[[str], None]
    """Called with the provider's name after each answer: its list is worth a look."""
    counts: Counter[str] = field(default_factory=Counter)
    _slots: asyncio.Semaphore = field(init=False)
    _rents: asyncio.Semaphore = field(init=False)
    """Of the slots, those that rentals may have: however many of them wait for a market, what ends has a slot."""
    _tasks: dict[asyncio.Task[None], ManagedEndpoint | None] = field(default_factory=dict)
    """Commands in flight, with the endpoint whose worker each is for."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.most_at_once)
        self._rents = asyncio.Semaphore(self.most_at_once - self.most_at_once // 4)

    def submit(self, managed: ManagedEndpoint, command: Run) -> None:
        """Begins to carry out a command; its answer goes to the controller as `Answered`."""
        worker = command.worker
        if command.command is Command.RENT:
            self.hub.offers.take(worker.provider, worker.offer_id)
        self._spawn(self._carry_out(managed, worker, command.command), managed)

    def destroy_orphan(self, provider: Provider, instance: Instance) -> None:
        """Begins to destroy an instance that carries our label and belongs to no worker."""
        self._spawn(self._destroy_orphan(provider, instance))

    def is_idle(self, endpoint_id: EndpointId) -> bool:
        """Whether no command of the endpoint is in flight."""
        return all(whose is None or whose.fleet.endpoint.id != endpoint_id for whose in self._tasks.values())

    async def settle(self, managed: ManagedEndpoint) -> None:
        """Waits for an endpoint's commands that are in flight: its next owner must know their outcome."""
        tasks = {task for task, whose in self._tasks.items() if whose is managed}
        if tasks:
            await asyncio.wait(tasks, timeout=self.timeout_s)

    async def close(self) -> None:
        """Waits for the commands that are in flight, so that no answer is lost at a graceful stop."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self.timeout_s)

    def _spawn(self, work: Coroutine[Any, Any, None], managed: ManagedEndpoint | None = None) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = managed
        task.add_done_callback(self._tasks.pop)

    async def _carry_out(self, managed: ManagedEndpoint, worker: Worker, command: Command) -> None:
        provider = self.hub.provider_of(worker)
        failure, blame, instance = "", True, None
        outcome = "done"
        if command is Command.DESTROY and worker.message and not managed.leaving:
            await asyncio.sleep(FAILURE_SHOWN_S)
        try:
            async with self._rents if command is Command.RENT else nullcontext(), self._slots:
                async with asyncio.timeout(self.timeout_s):
                    with tracing.within(str(command), worker=int(worker.id), provider=worker.provider):
                        instance = await self._ask(managed, provider, worker, command)
            self.counts[f"{command}_ok"] += 1
        except OfferTaken as error:
            failure, blame = f"offer {worker.offer_id} was taken: {error}", False
        except Busy as error:  # no room for a worker that exists: its machine is not to blame
            failure = f"{command}: {error}"
            blame = command is Command.RENT and not isinstance(error, Unavailable)
        except (Refused, BadRequest) as error:
            failure = f"{command}: {error}"
        except TimeoutError:
            # The outcome is unknown: only the silence is noted, and the provider's next list decides.
            outcome = f"no answer within {self.timeout_s:g} s, so its provider's next list decides"
            log.warning("command without an answer", worker=worker.id, command=str(command), after_s=self.timeout_s)
            self.counts[f"{command}_unclear"] += 1
        except Exception as error:  # noqa: BLE001 - the seam of an action: a provider may raise anything, and the outcome is unknown
            outcome = f"its outcome is unclear, so its provider's next list decides: {error!r}"[:300]
            log.warning(
                "command with an unclear outcome", worker=worker.id, command=str(command), error=repr(error)[:300]
            )
            self.counts[f"{command}_unclear"] += 1
        now = self.hub.clock.now()
        if failure:
            log.warning("command refused", worker=worker.id, command=str(command), why=failure[:300])
            self.counts[f"{command}_refused"] += 1
        managed.history.note(now, Level.DEBUG, f"{command}: {failure or outcome}", worker.id, worker.group_id)
        managed.handle(Answered(worker.id, command, failure, blame, instance), now)
        self.on_answer(worker.provider)

    async def _ask(
        self, managed: ManagedEndpoint, provider: Provider | None, worker: Worker, command: Command
    ) -> Instance | None:
        if provider is None:
            raise Refused(f"provider {worker.provider!r} is not configured")
        for attempt in range(BUSY_TRIES):
            try:
                return await self._ask_once(managed, provider, worker, command)
            except Busy as busy:
                if attempt == BUSY_TRIES - 1:
                    raise
                await asyncio.sleep(busy.retry_after_s)
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(
        self, managed: ManagedEndpoint, provider: Provider, worker: Worker, command: Command
    ) -> Instance | None:
        spec = await self._spec(worker) if command in (Command.RENT, Command.UPDATE) else None
        instance_id = worker.instance_id
        if command is not Command.RENT and not instance_id:  # its creation was never answered: look by label
            instance_id = next((i.id for i in await provider.instances() if i.label == worker.label), "")
        self._check_lease(managed)
        if command is Command.RENT:
            assert spec is not None
            return await provider.create(worker.offer_id, spec, _ceiling_usd_h(worker))
        if instance_id:
            if spec is not None:
                return await provider.update(instance_id, spec)
            if command is Command.START:
                await provider.start(instance_id)
            elif command is Command.STOP:
                await provider.stop(instance_id)
            else:
                await provider.destroy(instance_id)
        return None

    def _check_lease(self, managed: ManagedEndpoint) -> None:
        """Raises: Unavailable unless this server is known to have the endpoint at this moment: then nothing begins."""
        here = self.hub.endpoints.get(managed.fleet.endpoint.id) is managed
        if not (here and self.hub.lease.holds()):
            raise Unavailable("this server's lease of the endpoint is over or in doubt", self.hub.tick_s)

    async def _template(self, worker: Worker) -> Template:
        """The template that the worker is to run: that of its workergroup, or what it or a former one once was."""
        template = self.hub.template_of(worker)
        if template is None:
            raise Refused(f"workergroup {worker.group_id} or its template was deleted")
        if worker.build in ("", template.build()):
            return template
        others = [t for t in self.hub.templates.values() if t.account_id == template.account_id]
        runs = next((t.runs() for t in others if t.build() == worker.build), None)
        runs = runs or await self.hub.store.version(worker.build)
        if runs is None:
            raise Refused(f"what version {worker.build} of workergroup {worker.group_id} runs is no longer stored")
        image, tag, env, onstart = runs
        return replace(template, image=image, tag=tag, env=env, onstart=onstart)

    async def _spec(self, worker: Worker) -> InstanceSpec:
        template, group = await self._template(worker), self.hub.workergroups[worker.group_id]
        variables, ports = parse_env(template.env)
        secrets = self.secrets(template.account_id)
        logins = {name for name in secrets if name.startswith(REGISTRY_LOGIN)}
        env = {name: value for name, value in secrets.items() if name not in logins} | variables
        onstart, trust = bootstrap.script(template.onstart, self.root_pem)
        token = self.worker_token(worker.id)
        return InstanceSpec(
            label=worker.label,
            worker_id=worker.id,
            image=f"{template.image}:{template.tag}" if template.tag else template.image,
            onstart=onstart,
            disk_gb=template.disk_gb,
            env={
                **({LOADING_TIMEOUT: f"{template.loading_timeout_s:g}"} if template.loading_timeout_s else {}),
                **env,
                **trust,
                "REPORT_ADDR": bootstrap.with_token(self.report_url(worker), token),
                "MASTER_TOKEN": token,
                "USE_SSL": env.get("USE_SSL", "false"),
                "PYTHON": env.get("PYTHON", "python3"),
            },
            ports=ports or (bootstrap.DEFAULT_PORT,),
            num_gpus=worker.num_gpus,
            gpu_ram_gb=group.gpu_ram,
            launch_args=group.launch_args,
            registry=_registry(template.image, [secrets[name] for name in sorted(logins)]),
        )

    async def _destroy_orphan(self, provider: Provider, instance: Instance) -> None:
        try:
            async with self._slots, asyncio.timeout(self.timeout_s):
                if not self.hub.lease.holds():
                    return
                await provider.destroy(instance.id)
            self.counts["orphans_destroyed"] += 1
            log.warning("destroyed an instance that no worker owns", label=instance.label, provider=provider.name)
        except Exception as error:  # noqa: BLE001 - the seam of an action: the next list shows the orphan again
            log.warning("could not destroy an orphan", label=instance.label, error=repr(error)[:300])


def _ceiling_usd_h(worker: Worker) -> float:
    """What the worker may cost while it serves: what it was chosen at, but for rounding."""
    return worker.price.ready_usd_h * (1 + 1e-6)


def _registry(image: str, logins: Sequence[str]) -> RegistryLogin | None:
    """The login for the image's registry. Raises: Refused for one that is not `HOST USER PASSWORD`."""
    first, slash, _ = image.partition("/")
    host = first if slash and ("." in first or ":" in first or first == "localhost") else DOCKER_HUB
    for login in logins:
        parts = login.split(maxsplit=2)
        if len(parts) != 3:
            raise Refused(f"secret {REGISTRY_LOGIN}...: must be HOST USER PASSWORD, with blanks between")
        if parts[0] == host:
            return RegistryLogin(*parts)
    return None
