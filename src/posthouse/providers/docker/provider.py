"""The `Provider` port on an engine."""

import asyncio
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities, Offer
from posthouse.errors import Busy, NotFound, PosthouseError, Refused
from posthouse.ports import InstanceSpec
from posthouse.providers.docker import layout
from posthouse.providers.docker.engine import RETRY_S, Engine, NameTaken, PortTaken
from posthouse.providers.docker.layout import UNBEGUN, Found, Place
from posthouse.providers.docker.listing import Making, Misnamed, lines_of, seen
from posthouse.providers.docker.room import Room
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.docker.stock import Stock
from posthouse.providers.plugin import Context

PORT_TRIES: Final = 5
"""How often a new worker is given other ports where something else has them."""
EVENTS_AGAIN_S: Final = 5.0
STOPPED_BY_S: Final = 30.0
"""A stop is over so long after the time that a worker has to end."""
NONE: Final[Mapping[str, Making]] = MappingProxyType({})
MAX_LINES: Final = 10_000
BEFORE_BYTES: Final = 2**18
"""Most that is kept of what a worker printed before an update."""


class DockerProvider:
    """The `Provider` port on an engine."""

    def __init__(self, settings: DockerSettings, context: Context) -> None:
        """Raises: Refused for certificates that cannot be used, or an installation that no label could carry."""
        self.name = context.name
        self.capabilities = Capabilities()
        self._settings = settings
        self._installation = context.installation
        self._label = bootstrap.labels(context.installation)
        self._mark = f"{layout.INSTALLATION}={context.installation}"
        self._engine = Engine(context.name, settings.url, settings.tls_dir)
        self._stock = Stock(self._engine, context.installation)
        own_host = urlsplit(settings.url).hostname
        self._machine = own_host or socket.gethostname()
        self._host = settings.host or own_host or "127.0.0.1"
        self._room = Room(settings)
        self._choosing = asyncio.Lock()
        """Held while a worker takes a slot, so that no two take the same."""
        self._making: dict[str, Making] = {}
        self._moving: set[str] = set()
        self._misnamed = Misnamed()
        self._naming = asyncio.Lock()
        """Held while a name is mended, so that a stop sees the one or the other."""
        self._unreached = ""
        self._bell = context.bell
        self._events = asyncio.create_task(_listen(self))

    # -- what there is -----------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        """Free slots. Workers share the disk, which costs nothing."""
        info = await self._engine.info()
        self._room.has_cores(info["NCPU"])
        active = sum(worker.active for worker in (await self._found()).values())
        attributes = {"cpu_cores": info["NCPU"], "cpu_ram": info["MemTotal"] / 1e6}
        return [replace(self._room.offer(active), provider=self.name, machine=self._machine, attributes=attributes)]

    async def instances(self) -> Sequence[Instance]:
        """Every instance of this installation on the engine, whichever server started it."""
        making = dict(self._making)  # what the list shows without a container, or before its start, may run by now
        workers = await self._found()
        await self._mend(workers)
        return await asyncio.gather(*(self._seen(worker, making) for worker in workers.values()))

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines that its container printed and, if the template writes it, of model.log: half each then."""
        tail = min(tail, MAX_LINES)
        worker = (await self._found()).get(instance_id) if tail > 0 else None
        if worker is None or not worker.container:
            return ""
        model = lines_of(await self._engine.read(worker.container, layout.MODEL_LOG))[-max(1, tail // 2) :]
        before = lines_of(await self._engine.read(worker.container, layout.BEFORE)) if worker.generation else []
        try:
            printed = before + lines_of(await self._engine.logs(worker.container, tail))
        except NotFound:
            return ""
        return "".join(printed[-max(1, tail - len(model)) :] + model)

    def troubles(self) -> list[str]:
        return [self._unreached] if self._unreached else []

    async def close(self) -> None:
        """Lets go of the engine. Pulls that have not ended are given up; the engine keeps what it has."""
        tasks = [making.task for making in self._making.values() if making.task]
        tasks += [*self._stock.tasks, self._events]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._engine.close()

    # -- what is done ------------------------------------------------------------------------------------------------

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, started, or still without its image. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for a spec that cannot be run.
        """
        bootstrap.check(spec, self._label)
        image = self._image(spec)
        async with self._choosing:
            workers = await self._found()
            worker = workers.get(spec.label)
            place = worker.place if worker else self._room.place(offer_id, spec, max_usd_h, workers)
            making = None
            if (worker is None or not worker.container) and spec.label not in self._making:
                making = self._making[spec.label] = Making(image, place)  # it holds its place from here on
        if making is not None:
            await self._make(spec, place, making)
        elif worker and worker.state in UNBEGUN and spec.label not in self._making:  # a call before was cut short
            await self._engine.start(worker.container)
        return await self._seen_now(spec.label)

    async def start(self, instance_id: str) -> None:
        """Runs onstart again in the same container. Raises: NotFound; Busy while no slot is free, or not its GPU.

        Its name says last that it is not meant to be stopped: should the server die before, it has not failed.
        """
        with self._moved(instance_id):
            async with self._choosing:  # until it runs nothing else may have its slot
                workers = await self._found()
                worker = self._known(workers, instance_id)
                if not worker.container:  # it starts as soon as its image is there
                    return
                if worker.state not in layout.RUNNING:
                    self._room.require(worker, workers)
                    await self._engine.start(worker.container)
            await self._name(worker, halted=False)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Replaces its container by one of the new image on the same volumes and, as far as they are still published,
        the same ports.

        Raises: NotFound, Refused for a spec that cannot be run; Busy while no slot is free or its image is on its way.
        """
        bootstrap.check(spec, self._label)
        async with self._choosing:
            workers = await self._found()
            worker = self._known(workers, instance_id)
            if not worker.container:
                raise Busy(f"{instance_id}: its image is still being pulled", RETRY_S)
            self._room.require(worker, workers)
            place = replace(worker.place, ports=self._room.ports_for(spec, workers, worker.place))
        await self._stock.require(self._image(spec), spec.registry)
        with self._moved(instance_id):
            for left in worker.others:
                await self._engine.remove(left, anonymous=True)
            volumes = layout.own_volumes(await self._engine.inspect(worker.container), instance_id)
            carried = [f"{name}:{path}" for path, name in volumes.items() if path != layout.WORKSPACE]
            new = await self._new_container(spec, place, worker.generation + 1, carried)
            try:
                await self._halt(worker)
                printed = await self._engine.logs(worker.container, MAX_LINES)
                await self._engine.write(new, layout.WORKSPACE, layout.archive(layout.BEFORE, printed[-BEFORE_BYTES:]))
                await self._engine.start(new)
            except PosthouseError:
                await self._engine.remove(new, anonymous=True)
                await self._name(replace(worker, halted=not worker.halted), worker.halted)
                if worker.state in layout.RUNNING:
                    await self._engine.start(worker.container)
                raise
            await self._engine.remove(worker.container, anonymous=False)
        return await self._seen_now(instance_id)

    async def stop(self, instance_id: str) -> None:
        """Ends its processes and keeps its container."""
        with self._moved(instance_id):
            async with self._naming:
                worker = (await self._found()).get(instance_id)
            if worker is not None and worker.container:
                await self._halt(worker)
            elif instance_id in self._making:
                raise Busy(f"{instance_id}: its image is still being pulled", RETRY_S)

    async def destroy(self, instance_id: str) -> None:
        """Removes its containers, its own volume and those without a name. What workers share stays."""
        if not self._label.fullmatch(instance_id):
            return
        if (making := self._making.pop(instance_id, None)) and making.task:
            making.task.cancel()
            await asyncio.wait([making.task])
        worker = (await self._found()).get(instance_id)
        if worker is None:
            return
        volumes = {instance_id}
        for container in filter(None, (worker.container, *worker.others)):
            with suppress(NotFound):
                volumes |= set(layout.own_volumes(await self._engine.inspect(container), instance_id).values())
            await self._engine.remove(container, anonymous=True)
        for volume in volumes:
            await self._engine.remove_volume(volume)

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _found(self) -> dict[str, Found]:
        try:
            volumes, containers = await self._engine.listed(self._mark)
        except (OSError, TimeoutError) as error:
            self._unreached = f"provider {self.name}: the engine at {self._settings.url} does not answer: {error}"[:300]
            raise
        self._unreached = ""
        unlisted = {label: Found(making.place) for label, making in self._making.items()}
        return unlisted | layout.found(volumes, containers, self._label)

    def _known(self, workers: dict[str, Found], instance_id: str) -> Found:
        worker = workers.get(instance_id)
        if worker is None or not (worker.container or instance_id in self._making):
            raise NotFound(f"instance {instance_id!r} is not on this engine")
        return worker

    async def _seen(self, worker: Found, making: Mapping[str, Making] = NONE) -> Instance:
        """`making`: what was being made before it was found."""
        published = worker.place.ports if self._settings.network != "host" else worker.place.ports[:-2]
        addresses = frozenset(f"{self._host}:{outside}" for _, outside in published)
        label = worker.place.label
        made = self._making.get(label, making.get(label))
        return await seen(self._engine, worker, made, addresses, label in self._moving)

    async def _seen_now(self, instance_id: str) -> Instance:
        worker = (await self._found()).get(instance_id)
        if worker is None:
            raise Refused(f"{instance_id} was removed while it was made")
        return await self._seen(worker)

    @contextmanager
    def _moved(self, instance_id: str) -> Iterator[None]:
        """Meanwhile the instance is listed as on its way, unless it runs: for a moment nothing else of it is true."""
        self._moving.add(instance_id)
        try:
            yield
        finally:
            self._moving.discard(instance_id)

    async def _halt(self, worker: Found) -> None:
        """Ends a worker's container. Its name says so first: should the server die then, it was stopped and has not
        failed."""
        await self._name(worker, halted=True)
        if worker.state in layout.RUNNING:
            await self._engine.stop(worker.container, self._settings.grace_s)

    async def _mend(self, workers: Mapping[str, Found]) -> None:
        """Names what has run for longer than a stop takes as what is meant to run."""
        now = asyncio.get_running_loop().time()
        for worker in self._misnamed.overdue(workers, self._settings.grace_s + STOPPED_BY_S, now):
            async with self._naming:
                if worker.place.label not in self._moving:
                    with suppress(NotFound):
                        await self._name(worker, halted=False)

    async def _name(self, worker: Found, halted: bool) -> None:
        """Lets the name of a worker's container say whether it is meant to be stopped."""
        if worker.halted != halted:
            name = layout.name_of(worker.place.label, worker.generation, halted)
            await self._engine.rename(worker.container, name)

    async def _make(self, spec: InstanceSpec, place: Place, making: Making) -> None:
        """Makes a new worker's volume and container and starts it; without its image, as soon as that is there."""
        try:
            place = layout.place_of(await self._engine.make_volume(spec.label, place.labels(self._installation)))
            if await self._engine.has_image(making.image):
                await self._launch(spec, place, making)
            else:
                making.pull = self._stock.pull(making.image, spec.registry)
                making.task = asyncio.create_task(self._bring(spec, place, making))
        except PosthouseError:
            await self.destroy(spec.label)
            raise
        except BaseException:
            self._making.pop(spec.label, None)  # a call that asks for it again goes on from here
            raise

    async def _bring(self, spec: InstanceSpec, place: Place, making: Making) -> None:
        """Launches a worker once its image is there. What goes wrong is listed with it."""
        assert making.pull is not None
        try:
            await asyncio.shield(making.pull.task)
            await self._launch(spec, place, making)
        except Exception as error:  # noqa: BLE001 - the seam of a task: whatever it is, it is shown, and the worker replaced
            making.error = str(error)[:400] or repr(error)
        finally:
            self._bell()

    async def _launch(self, spec: InstanceSpec, place: Place, making: Making) -> None:
        """Makes a new worker's container and starts it, with other ports where something else has these."""
        for attempt in range(PORT_TRIES):
            try:
                container = await self._new_container(spec, place)
            except NameTaken:  # by a call before, whose answer was lost
                break
            try:
                await self._engine.start(container)
                break
            except PortTaken:
                if attempt == PORT_TRIES - 1:
                    raise
                await self._engine.remove(container, anonymous=True)
                place = replace(place, ports=self._room.ports_for(spec, await self._found()))
        self._making.pop(spec.label, None)

    async def _new_container(
        self, spec: InstanceSpec, place: Place, generation: int = 0, carried: Sequence[str] = ()
    ) -> str:
        """The id of a container that does not run yet. Raises: NameTaken."""
        body = layout.container(
            self._settings,
            self._installation,
            self._host,
            replace(spec, image=self._image(spec)),
            place,
            generation,
            await self._stock.agent(self._image(spec)) if self._settings.agent == "mount" else "",
            carried,
        )
        return await self._engine.create(layout.name_of(spec.label, generation), body)

    def _image(self, spec: InstanceSpec) -> str:
        """The image that it runs. Raises: Refused if there is none."""
        if image := spec.image or self._settings.image:
            return image
        raise Refused(f"image: its template names none, and neither does providers.{self.name}.image")


async def _listen(provider: DockerProvider) -> None:
    """Rings the bell at what the engine tells of our containers. The list is the truth; this only hastens it."""
    while True:
        with suppress(OSError, PosthouseError):
            async for _ in provider._engine.events(provider._mark):
                provider._bell()
        await asyncio.sleep(EVENTS_AGAIN_S)
