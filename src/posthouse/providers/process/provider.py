"""The `Provider` port on this machine."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog

from posthouse import bootstrap
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.errors import Busy, OfferTaken
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import Context
from posthouse.providers.process import files, keeper, machine, users
from posthouse.providers.process.files import Record, read_record, write_record
from posthouse.providers.process.inventory import RETRY_S, Inventory
from posthouse.providers.process.keeper import landlock_abi
from posthouse.providers.process.launch import Bounds, launch, wait_until_begun
from posthouse.providers.process.procfs import Process, alive, send, to_end
from posthouse.providers.process.settings import ProcessSettings
from posthouse.providers.process.threads import Threads

log = structlog.get_logger()

KILL_S: Final = 10.0
"""How long killed processes may take to vanish, in seconds; only a stuck device driver makes them take longer."""
CALL_S: Final = 60.0
"""How long the file system may keep a call waiting, in seconds."""


class ProcessProvider:
    """The `Provider` port on this machine.

    An instance holds its slot while it is meant to run or anything of it lives, and gives it up when it is stopped:
    so cold workers of one endpoint leave the GPU to another's, and a start may be told `Busy`.
    """

    Settings = ProcessSettings
    capabilities = Capabilities()

    @classmethod
    async def open(cls, settings: ProcessSettings, context: Context) -> Self:
        """The provider with these settings."""
        own = "workers" if context.name == "process" else f"workers-{context.name}"
        provider = cls(
            settings.directory or context.data_dir / own,
            context.installation,
            slots=settings.slots or None,
            bounds=settings.bounds(context.data_dir if settings.wall == "auto" else None),
            grace_s=settings.grace_s,
            price=Price(settings.ready_usd_h, settings.loading_usd_h, settings.stopped_usd_h),
            name=context.name,
        )
        provider.users, why = users.chosen(settings.users, provider.wall or settings.wall == "off", provider.root)
        _warn(provider, why)
        return provider

    def __init__(
        self,
        root: Path,
        installation: str,
        host: str = "127.0.0.1",
        slots: int | Mapping[int, machine.Slot] | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        price: Price = Price(),  # noqa: B008 - frozen
        ports: range = machine.PORTS,
        grace_s: float = 10.0,
        name: str = "process",
    ) -> None:
        """`host`: where others reach this machine. `slots`: as `machine.slots` has them. `grace_s`: how long a worker
        has to end after SIGTERM. Raises: Refused for an installation that no label could carry.
        """
        self.name = name
        self._label = bootstrap.labels(installation)
        self._inventory = Inventory(root, self._label, slots, ports, price)
        self.root = self._inventory.root
        self.users = range(0)
        """User ids for workers that are made from now on; none: they run as the server does."""
        self._host = host
        self.wall = bounds.hidden is not None and landlock_abi() >= keeper.ABI
        self._bounds = replace(bounds, hidden=bounds.hidden and bounds.hidden.resolve() if self.wall else None)
        self._price = price
        self._grace_s = grace_s
        self._children: list[subprocess.Popen[bytes]] = []
        self._recovered = False
        self.obstacle = ""
        """Why no worker is made now."""
        self._threads = Threads(8, CALL_S)
        self._log_threads = Threads(4, CALL_S)
        """Apart from those that list and start: a reader of logs waits for the worker's own files."""

    async def catalog(self) -> Sequence[Offer]:
        """Free slots, by kind. Workers share the disk, which costs nothing. Raises: Refused if nvidia-smi fails."""
        return await self._threads.run(self._catalog)

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, started. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for a spec that cannot be run.
        """
        return await self._threads.run(self._create, offer_id, spec, max_usd_h)

    async def start(self, instance_id: str) -> None:
        """Runs onstart again in the same directory, on the same ports.

        Raises: NotFound; Busy while it still stops, while no slot is free, and while the disk is nearly full.
        """
        if self._label.fullmatch(instance_id):
            await self._end(self.root / instance_id, self._inventory.failed)  # what a run that failed left behind
        await self._threads.run(self._start, instance_id)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Ends its processes and runs the new onstart with the new environment, in the same directory, on the same
        ports as far as they are still published.

        Raises: NotFound, Refused for a spec that cannot be run; Busy while no slot is free, and if processes outlive
        SIGKILL.
        """
        await self._threads.run(self._revise, instance_id, spec)
        await self._end(self.root / instance_id, self._inventory.halted)
        await self._threads.run(self._start, instance_id)
        return await self._threads.run(self._seen, instance_id)

    async def stop(self, instance_id: str) -> None:
        """Ends its processes and keeps its directory. Raises: Busy if they outlive SIGKILL."""
        if not self._label.fullmatch(instance_id):
            return
        await self._threads.run(self._halt, instance_id)
        await self._end(self.root / instance_id, self._inventory.halted)

    async def destroy(self, instance_id: str) -> None:
        """Ends its processes and removes its directory. Raises: Busy if they outlive SIGKILL."""
        if not self._label.fullmatch(instance_id):
            return
        await self._end(self.root / instance_id)
        tombstone = self.root / f".gone-{instance_id}-{secrets.token_hex(4)}"
        await self._threads.run(self._discard, instance_id, tombstone)
        with suppress(TimeoutError):  # it goes on; should the server end, the next one does it
            await self._threads.run(files.remove, tombstone)

    async def instances(self) -> Sequence[Instance]:
        """Every instance of this installation, whichever server started it."""
        return await self._threads.run(self._instances)

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines of output.log and, if the template writes it, of model.log: half of `tail` each then.

        Of an instance that is gone: what it printed last, for a day.
        """
        if not self._label.fullmatch(instance_id) or tail < 1:
            return ""
        return await self._log_threads.run(files.last_lines, self.root / instance_id, tail)

    def troubles(self) -> list[str]:
        """Why it makes no worker, and whom workers could harm."""
        wall = f"workers of provider {self.name} can read this server's keys: Landlock is off or not in this system"
        return [text for text in ("" if self.wall or self.users else wall, self.obstacle) if text]

    async def close(self) -> None:
        self._reap()
        for child in self._children:
            child.returncode = 0  # it goes on without us, and its finaliser must not complain
        self._children.clear()

    # -- in threads, one at a time -----------------------------------------------------------------------------------

    def _catalog(self) -> list[Offer]:
        with self._inventory.alone():
            free = {} if self._disk_is_full() else self._inventory.free_slots(self._inventory.census())
        attributes = machine.attributes()
        return [
            Offer(
                id=slot.offer_id,
                provider=self.name,
                machine=socket.gethostname(),
                price=self._price,
                gpu_name=slot.gpu_name,
                num_gpus=slot.num_gpus,
                available=available,
                capabilities=self.capabilities,
                gpu_ram_mb=slot.gpu_ram_mb,
                attributes=attributes,
            )
            for slot, available in Counter(free.values()).items()
        ]

    def _create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        bootstrap.check(spec, self._label)
        directory = self.root / spec.label
        with self._inventory.alone():
            running = self._inventory.census()
            if (directory / "instance.json").exists():
                return self._inventory.seen(directory, running)
            if self._price.ready_usd_h > max_usd_h:
                raise OfferTaken(f"{offer_id}: costs {self._price.ready_usd_h:g} $/h, more than {max_usd_h:g}")
            free = [number for number, slot in self._inventory.free_slots(running).items() if slot.offer_id == offer_id]
            if not free:
                raise OfferTaken(f"{offer_id}: no free slot on this machine")
            if self._disk_is_full():
                raise OfferTaken(f"{offer_id}: {self.obstacle}")
            chosen = self._inventory.free_ports(len(spec.ports) + 2, avoid=spec.ports)
            record = Record(
                worker_id=spec.worker_id,
                env=spec.env,
                offer_id=offer_id,
                slot=free[0],
                host=self._host,
                ports=dict(zip(spec.ports, chosen, strict=False)),
                http_port=chosen[-2],
                model_port=chosen[-1],
                onstart=spec.onstart,
                disk_gb=spec.disk_gb,
                uid=users.free(self.users, self.root) if self.users else 0,
                boot_id=machine.boot_id(),
            )
            # Made aside and renamed, so that a directory with our label is always whole.
            draft = self.root / f".new-{spec.label}-{secrets.token_hex(4)}"
            users.make_directory(draft, record.uid)
            write_record(draft, record)
            draft.rename(directory)
            child = self._launch(directory, record)
        wait_until_begun(child)
        return self._seen(spec.label)

    def _start(self, instance_id: str) -> None:
        with self._inventory.alone():
            directory, record = self._inventory.ordered(instance_id)
            running = self._inventory.census()
            if str(directory) in running:
                if record.wanted != "running":
                    raise Busy(f"{instance_id} is still being stopped", RETRY_S)
                return
            slot = self._inventory.slot_for(instance_id, record, running)
            if self._disk_is_full():
                raise Busy(f"{instance_id}: {self.obstacle}", RETRY_S)
            record = msgspec.structs.replace(
                record, slot=slot, host=self._host, wanted="running", boot_id=machine.boot_id()
            )
            write_record(directory, record)
            child = self._launch(directory, record)
        wait_until_begun(child)

    def _revise(self, instance_id: str, spec: InstanceSpec) -> None:
        """Writes what is to run from now on. Should the server die before it does, the list says halted."""
        bootstrap.check(spec, self._label)
        with self._inventory.alone():
            directory, record = self._inventory.ordered(instance_id)
            added = [port for port in spec.ports if port not in record.ports]
            new = dict(zip(added, self._inventory.free_ports(len(added), avoid=spec.ports), strict=True))
            record = msgspec.structs.replace(
                record,
                env=spec.env,
                onstart=spec.onstart,
                ports={port: (record.ports | new)[port] for port in spec.ports},
                slot=self._inventory.slot_for(instance_id, record, self._inventory.census()),
                wanted="updated",
            )
            write_record(directory, record)

    def _halt(self, instance_id: str) -> None:
        """Writes that the instance is to be stopped. Should the server die then, it was stopped and did not fail."""
        directory = self.root / instance_id
        with self._inventory.alone():
            if (directory / "instance.json").exists():
                write_record(directory, msgspec.structs.replace(read_record(directory), wanted="halted"))

    def _discard(self, instance_id: str, tombstone: Path) -> None:
        """Takes a directory out of the list, from which on it need only be removed."""
        directory = self.root / instance_id
        with self._inventory.alone(), suppress(FileNotFoundError):
            files.keep_ended(directory)
            directory.rename(tombstone)

    def _instances(self) -> list[Instance]:
        with self._inventory.alone():
            running = self._inventory.census()
            if not self._recovered:
                self._inventory.recover(running)
                self._recovered = True
            found = self._inventory.directories(running)
            self._disk_is_full()
            self._reap()
            return [self._inventory.seen(directory, running) for directory in found]

    def _seen(self, instance_id: str) -> Instance:
        with self._inventory.alone():
            return self._inventory.seen(self.root / instance_id, self._inventory.census())

    def _launch(self, directory: Path, record: Record) -> subprocess.Popen[bytes]:
        child = launch(directory, record, self._bounds, users.groups(self.root))
        self._children.append(child)
        return child

    async def _end(self, directory: Path, holds: Callable[[Path], bool] = lambda directory: True) -> None:
        """Ends every process of an instance, SIGTERM, and SIGKILL for what is left after `grace_s`: while the reason
        for it holds, as a call whose caller has given up may go on here when a later one starts the instance."""
        now = asyncio.get_running_loop().time
        kill_at = now() + self._grace_s
        while members := await self._threads.run(self._members, directory, holds):
            if now() > kill_at + KILL_S:
                raise Busy(f"{directory.name}: {len(members)} processes outlive SIGKILL", RETRY_S)
            until = kill_at if now() < kill_at else now() + 0.2
            for process in to_end(members):
                send(process, signal.SIGTERM if until == kill_at else signal.SIGKILL)
            # Watching these few is cheaper than another census; who was born meanwhile is found by the next one.
            while any(map(alive, members)) and now() < until:  # noqa: ASYNC110 - nobody tells us of others' children
                await asyncio.sleep(0.05)

    def _members(self, directory: Path, holds: Callable[[Path], bool]) -> list[Process]:
        with self._inventory.alone():
            self._reap()
            return self._inventory.census().get(str(directory), []) if holds(directory) else []

    def _disk_is_full(self) -> bool:
        """Whether there is too little room for another worker; `obstacle` says why."""
        full = machine.full_disk(self.root, self._bounds.min_free_gb)
        self.obstacle = f"provider {self.name} makes no worker: {full}" if full else ""
        return bool(full)

    def _reap(self) -> None:
        """Takes leave of children that have ended, so that none stays a zombie."""
        for child in [child for child in self._children if child.poll() is not None]:
            self._children.remove(child)  # in place: another thread may be adding one


def _warn(provider: ProcessProvider, why: str) -> None:
    """`why`: what keeps workers from having users of their own."""
    for trouble in provider.troubles():
        log.warning(trouble, why=why)
    if os.geteuid() == 0 and not provider.users:
        log.warning(
            "workers run as root, as this server does, and can change this system: the setting `users` of the provider "
            "gives each a user of its own",
            provider=provider.name,
        )
