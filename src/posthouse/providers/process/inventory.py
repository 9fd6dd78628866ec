"""Which instances there are on this machine, which slots and ports they hold, and how each is listed."""

import fcntl
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Price
from posthouse.errors import Busy, NotFound, Refused
from posthouse.hosts import in_url, is_free
from posthouse.providers.process import files, machine
from posthouse.providers.process.files import Record, read_record
from posthouse.providers.process.procfs import Process, census, send, to_end

RETRY_S = 2.0
"""After how long what cannot be done now is worth another try, in seconds."""

LOCK_S, LOCK_LOOK_S = 20.0, 0.01
"""How long a call waits for another one, and between two looks for one of another process, in seconds."""

REBOOTED = "the machine was rebooted; "

Running = dict[str, list[Process]]
"""Live processes by their instance's directory, as `census` finds them."""


class Inventory:
    """The directories of one installation below one root. For one thread of one process at a time, which is `alone`."""

    def __init__(
        self,
        root: Path,
        label: re.Pattern[str],
        slots: int | Mapping[int, machine.Slot] | None,
        ports: range,
        price: Price,
    ) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = root.resolve()
        self.label = label
        self._slots_wanted = slots
        self._ports = ports
        self._price = price
        self._directories: list[Path] = []
        self._lock = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps others waiting, so that nobody sees another's instance half made. Raises: Busy.

        Other threads and other processes: two servers may share a machine, and a provider whose server is gone may
        still be at work there.
        """
        until = time.monotonic() + LOCK_S
        if not self._lock.acquire(timeout=LOCK_S):
            raise Busy(f"{self.root}: the file system keeps everything waiting", RETRY_S)
        try:
            with files.opened(self.root) as folder:
                while not _locked(folder):
                    if time.monotonic() > until:
                        raise Busy(f"{self.root}: another server is at work there", RETRY_S)
                    time.sleep(LOCK_LOOK_S)
                yield
        finally:
            self._lock.release()

    @cached_property
    def slots(self) -> dict[int, machine.Slot]:
        """Every slot by number. Raises: Refused if nvidia-smi fails."""
        return machine.slots(self._slots_wanted)

    def census(self) -> Running:
        """What runs of all instances."""
        return census(f"{self.root}/")

    def labels(self) -> list[str]:
        """The labels of our instances that have a directory."""
        names = [name for name in os.listdir(self.root) if self.label.fullmatch(name)]
        return [name for name in names if (self.root / name / "instance.json").exists()]

    def directories(self, running: Running) -> list[Path]:
        """Every instance's directory, also where somebody removed it by hand: its processes would run forever."""
        labels = set(self.labels())
        labels |= {os.path.basename(d) for d in running if os.path.dirname(d) == str(self.root)}
        # Kept, so that the strings that each Path interns live on for the next ones.
        self._directories = [self.root / label for label in sorted(labels) if self.label.fullmatch(label)]
        return self._directories

    def ordered(self, instance_id: str) -> tuple[Path, Record]:
        """The instance's directory, and what was ordered. Raises: NotFound."""
        directory = self.root / instance_id
        if not self.label.fullmatch(instance_id) or not (directory / "instance.json").exists():
            raise NotFound(f"instance {instance_id!r} is not on this machine")
        return directory, read_record(directory)

    def seen(self, directory: Path, running: Running) -> Instance:
        """The instance as it is listed."""
        record = read_record(directory)
        halted = record.wanted != "running"
        lives = str(directory) in running and (halted or not self.failed(directory))
        host = in_url(record.host)
        rebooted = record.boot_id not in ("", machine.boot_id())
        return Instance(
            id=directory.name,
            label=directory.name,
            seen=Observation.RUNNING if lives else Observation.HALTED if halted else Observation.EXITED,
            addresses=frozenset(f"{host}:{port}" for port in record.ports.values()),
            progress=f"{files.log_bytes(directory)} bytes of log",
            message="" if lives or halted else REBOOTED * rebooted + files.last_words(directory),
            price=self._price,
        )

    def halted(self, directory: Path) -> bool:
        """Whether the instance is meant to be stopped, or nothing says that it is not."""
        return not (directory / "instance.json").exists() or read_record(directory).wanted != "running"

    def failed(self, directory: Path) -> bool:
        """Whether onstart ended as what has failed ends. What it left in the background serves nobody then."""
        return files.exit_code(directory) not in ("", "0")

    def free_slots(self, running: Running, but: str = "") -> dict[int, machine.Slot]:
        """The slots that no instance holds, other than `but`."""
        taken = set()
        for label in self.labels():
            record = read_record(self.root / label)
            if label != but and (record.wanted != "halted" or str(self.root / label) in running):
                taken.add(record.slot)
        return {number: slot for number, slot in self.slots.items() if number not in taken}

    def slot_for(self, instance_id: str, record: Record, running: Running) -> int:
        """The instance's own slot, or another of its kind. Raises: Busy if there is none."""
        free = self.free_slots(running, but=instance_id)
        fitting = [number for number, slot in free.items() if slot.offer_id == record.offer_id]
        if not fitting:
            raise Busy(f"{instance_id}: no free slot of {record.offer_id!r} on this machine", RETRY_S)
        return record.slot if record.slot in fitting else fitting[0]

    def free_ports(self, count: int, avoid: Sequence[int]) -> list[int]:
        """Ports that nothing listens on and no instance of ours has, stopped ones included. Raises: Refused.

        Taken at random: a client that still holds the address of a worker that is gone should not meet its successor.
        """
        taken = set(avoid)
        for label in self.labels():
            record = read_record(self.root / label)
            taken |= {*record.ports.values(), record.http_port, record.model_port}
        shuffled = secrets.SystemRandom().sample(self._ports, len(self._ports))
        free = list(islice((port for port in shuffled if port not in taken and is_free(port)), count))
        if len(free) < count:
            raise Refused(f"ports {self._ports.start} to {self._ports.stop - 1} are all taken; destroy instances")
        return free

    def recover(self, running: Running) -> None:
        """Finishes what a server that died left half done: stops, removals, creations that never got their name."""
        for label in self.labels():
            directory = self.root / label
            if self.halted(directory):
                for process in to_end(running.get(str(directory), [])):
                    send(process, signal.SIGKILL)
        for path in self.root.iterdir():
            aside = re.fullmatch(r"\.(?:new|gone)-(.+)-[0-9a-f]{8}", path.name)
            if aside and self.label.fullmatch(aside[1]):
                files.remove(path)


def _locked(descriptor: int) -> bool:
    """Whether the directory is locked for us now, until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
