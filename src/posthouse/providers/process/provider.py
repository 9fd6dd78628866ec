"""The `Provider` port on this machine."""

import asyncio
import secrets
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec
from pydantic import Field

from posthouse import bootstrap
from posthouse.config import ProviderSettings
from posthouse.domain.capabilities import Capabilities
from posthouse.domain.errors import Busy, OfferTaken
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Offer, Price
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import Context
from posthouse.providers.process import files, machine
from posthouse.providers.process.files import Record, read_record, write_record
from posthouse.providers.process.inventory import RETRY_S, Inventory
from posthouse.providers.process.launch import launch
from posthouse.providers.process.procfs import Process, alive, census, send

KILL_S: Final = 10.0
"""How long killed processes may take to vanish, in seconds; only a stuck device driver makes them take longer."""


class ProcessSettings(ProviderSettings):
    """Workers as processes on this machine."""

    poll_s: float = Field(2.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(2.0, ge=0.05, le=86_400, description="Time between two looks for free slots, in seconds.")
    slots: int = Field(
        0, ge=0, le=1000, description="Most workers on this machine; 0: one per GPU, or four per CPU core."
    )
    memory_gb: float = Field(0.0, ge=0, le=1e6, description="Most memory per worker, in GB; 0: no limit.")
    grace_s: float = Field(
        10.0, ge=0, le=600, description="Time that a worker has to end by itself before it is killed, in seconds."
    )
    ready_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a ready worker, in US dollars per hour.")
    loading_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a loading worker, in US dollars per hour.")
    stopped_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a stopped worker, in US dollars per hour.")


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
        return cls(
            context.data_dir / own,
            context.installation,
            slots=settings.slots or None,
            memory_gb=settings.memory_gb or None,
            grace_s=settings.grace_s,
            price=Price(settings.ready_usd_h, settings.loading_usd_h, settings.stopped_usd_h),
            name=context.name,
        )

    def __init__(
        self,
        root: Path,
        installation: str,
        host: str = "127.0.0.1",
        slots: int | None = None,
        memory_gb: float | None = None,
        price: Price = Price(),  # noqa: B008 - frozen
        ports: range = machine.PORTS,
        grace_s: float = 10.0,
        name: str = "process",
    ) -> None:
        """`host`: the address at which others reach this machine. `slots`: how many workers may run at once, sharing
        what there is; None gives each GPU one worker, or each core a few where there is no GPU.
        `memory_gb`: limit on the data of each process of a worker, not on GPU memory. `grace_s`: how long a worker
        has to end after SIGTERM.

        Raises: Refused for an installation that no label could carry.
        """
        self.name = name
        self._label = bootstrap.labels(installation)
        self._inventory = Inventory(root, self._label, slots, ports)
        self._root = self._inventory.root
        self._host = host
        self._memory_gb = memory_gb
        self._price = price
        self._grace_s = grace_s
        self._children: list[subprocess.Popen[bytes]] = []
        self._recovered = False
        # Held by every thread that lists or starts instances, so that none sees another's instance half made.
        self._lock = threading.Lock()

    # -- the port ----------------------------------------------------------------------------------------------------

    async def catalog(self) -> Sequence[Offer]:
        """Free slots, by kind. Workers share the disk, which costs nothing. Raises: Refused if nvidia-smi fails."""
        return await asyncio.to_thread(self._catalog)

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """The instance, started. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for a spec that cannot be run.
        """
        return await asyncio.to_thread(self._create, offer_id, spec, max_usd_h)

    async def start(self, instance_id: str) -> None:
        """Runs onstart again in the same directory, on the same ports.

        Raises: NotFound; Busy while it still stops and while no slot is free.
        """
        await asyncio.to_thread(self._start, instance_id)

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        """Ends its processes and runs the new onstart with the new environment, in the same directory, on the same
        ports as far as they are still published.

        Raises: NotFound, Refused for a spec that cannot be run; Busy while no slot is free, and if processes outlive
        SIGKILL.
        """
        await asyncio.to_thread(self._revise, instance_id, spec)
        await self._end(self._root / instance_id)
        await asyncio.to_thread(self._start, instance_id)
        return await asyncio.to_thread(lambda: self._inventory.seen(self._root / instance_id, census()))

    async def stop(self, instance_id: str) -> None:
        """Ends its processes and keeps its directory. Raises: Busy if they outlive SIGKILL."""
        if not self._label.fullmatch(instance_id):
            return
        await asyncio.to_thread(self._halt, instance_id)
        await self._end(self._root / instance_id)

    async def destroy(self, instance_id: str) -> None:
        """Ends its processes and removes its directory. Raises: Busy if they outlive SIGKILL."""
        if not self._label.fullmatch(instance_id):
            return
        await self._end(self._root / instance_id)
        await asyncio.to_thread(self._discard, instance_id)

    async def instances(self) -> Sequence[Instance]:
        """Everything of this installation, whoever started it."""
        return await asyncio.to_thread(self._instances)

    async def logs(self, instance_id: str, tail: int) -> str:
        """The last lines of output.log and, if the template writes it, of model.log: half of `tail` each then."""
        if not self._label.fullmatch(instance_id) or tail < 1:
            return ""
        return await asyncio.to_thread(files.last_lines, self._root / instance_id, tail)

    async def close(self) -> None:
        with self._lock:
            self._reap()
            for child in self._children:
                child.returncode = 0  # it goes on without us, and its finaliser must not complain
            self._children.clear()

    # -- in threads, one at a time -----------------------------------------------------------------------------------

    def _catalog(self) -> list[Offer]:
        with self._lock:
            free = self._inventory.free_slots(census())
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
        directory = self._root / spec.label
        with self._lock:
            running = census()
            if (directory / "instance.json").exists():
                return self._inventory.seen(directory, running)
            if self._price.ready_usd_h > max_usd_h:
                raise OfferTaken(f"{offer_id}: costs {self._price.ready_usd_h:g} $/h, more than {max_usd_h:g}")
            free = [number for number, slot in self._inventory.free_slots(running).items() if slot.offer_id == offer_id]
            if not free:
                raise OfferTaken(f"{offer_id}: no free slot on this machine")
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
            )
            # Made aside and renamed, so that a directory with our label is always whole.
            draft = self._root / f".new-{spec.label}-{secrets.token_hex(4)}"
            draft.mkdir(mode=0o700)
            (draft / "tmp").mkdir()
            write_record(draft, record)
            draft.rename(directory)
            self._launch(directory, record)
            return self._inventory.seen(directory, census())

    def _start(self, instance_id: str) -> None:
        with self._lock:
            directory, record = self._inventory.ordered(instance_id)
            running = census()
            if str(directory) in running:
                if record.wanted != "running":
                    raise Busy(f"{instance_id} is still being stopped", RETRY_S)
                return
            slot = self._inventory.slot_for(instance_id, record, running)
            record = msgspec.structs.replace(record, slot=slot, host=self._host, wanted="running")
            (directory / "exit_code").unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # a line of the last run that says "ready" must not be read again
                (directory / "model.log").replace(directory / "model.log.1")
            write_record(directory, record)
            self._launch(directory, record)

    def _revise(self, instance_id: str, spec: InstanceSpec) -> None:
        """Writes what is to run from now on. Should the server die before it does, the list says halted."""
        bootstrap.check(spec, self._label)
        with self._lock:
            directory, record = self._inventory.ordered(instance_id)
            added = [port for port in spec.ports if port not in record.ports]
            new = dict(zip(added, self._inventory.free_ports(len(added), avoid=spec.ports), strict=True))
            record = msgspec.structs.replace(
                record,
                env=spec.env,
                onstart=spec.onstart,
                ports={port: (record.ports | new)[port] for port in spec.ports},
                slot=self._inventory.slot_for(instance_id, record, census()),
                wanted="updated",
            )
            write_record(directory, record)

    def _halt(self, instance_id: str) -> None:
        """Writes that the instance is to be stopped. Should the server die then, it was stopped and did not fail."""
        directory = self._root / instance_id
        with self._lock:
            if (directory / "instance.json").exists():
                write_record(directory, msgspec.structs.replace(read_record(directory), wanted="halted"))

    def _discard(self, instance_id: str) -> None:
        """Removes a directory, which leaves the list at once however long that takes."""
        tombstone = self._root / f".gone-{instance_id}-{secrets.token_hex(4)}"
        with self._lock, suppress(FileNotFoundError):
            (self._root / instance_id).rename(tombstone)
        files.remove(tombstone)

    def _instances(self) -> list[Instance]:
        with self._lock:
            running = census()
            if not self._recovered:
                self._inventory.recover(running)
                self._recovered = True
            found = self._inventory.directories(running)
            for directory in found:
                files.rotate(directory)
            self._reap()
            return [self._inventory.seen(directory, running) for directory in found]

    def _launch(self, directory: Path, record: Record) -> None:
        self._children.append(launch(directory, record, self._memory_gb))

    async def _end(self, directory: Path) -> None:
        """Ends every process of an instance: SIGTERM, and SIGKILL for what is left after `grace_s`."""
        now = asyncio.get_running_loop().time
        kill_at = now() + self._grace_s
        while members := await asyncio.to_thread(self._members, directory):
            if now() > kill_at + KILL_S:
                raise Busy(f"{directory.name}: {len(members)} processes outlive SIGKILL", RETRY_S)
            until = kill_at if now() < kill_at else now() + 1
            for process in members:
                send(process, signal.SIGTERM if until == kill_at else signal.SIGKILL)
            # Watching these few is cheaper than another census; who was born meanwhile is found by the next one.
            while any(map(alive, members)) and now() < until:  # noqa: ASYNC110 - nobody tells us of others' children
                await asyncio.sleep(0.05)

    def _members(self, directory: Path) -> list[Process]:
        with self._lock:
            members = census().get(str(directory), [])
            self._reap()
            return members

    def _reap(self) -> None:
        """Takes leave of children that have ended, so that none stays a zombie."""
        self._children = [child for child in self._children if child.poll() is None]
