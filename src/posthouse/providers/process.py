"""Workers as processes of this machine: every instance is a directory and a session of processes.

    <root>/posthouse-<installation>-<worker id>/
        instance.json   what was ordered; written before anything starts
        onstart.sh      the template's onstart, run by bash at every start
        output.log      what it printed; output.log.1 is what came before
        model.log       MODEL_LOG, which the template writes; begun anew at every start
        exit_code       how onstart ended, if it did
        tmp/            TMPDIR

Whether an instance lives is never written down: `procfs` sees it. So nothing is lost when the server dies, and workers
go on without it. A worker runs as the server's own user: this keeps workers tidy, it does not keep them in.
"""

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec

from posthouse.domain.errors import Busy, NotFound, OfferTaken, Refused
from posthouse.domain.instance import Instance, InstanceSpec
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Offer, Price
from posthouse.providers.procfs import MARK, Process, alive, census, marked, send
from posthouse.wire.search import matches, parse_search

PORTS: Final = range(20_000, 32_000)
"""Below Linux's ephemeral ports (32768 and up), so that no outgoing connection of the machine holds one."""

SLOTS_PER_CORE: Final = 4
"""Workers per core on a machine without a GPU: such workers mostly wait."""

LOG_BYTES: Final = 8 * 2**20
"""At this size output.log becomes output.log.1, so that an instance keeps at most twice as much."""

LOG_READ_BYTES: Final = 2**19
"""The most that `logs` reads of each of its two logs."""

ENV_BYTES: Final = 2**16
"""Largest environment of a template. Linux refuses single strings from 128 KiB on."""

ONSTART_BYTES: Final = 2**16
"""Largest onstart text. The protocol's own marketplace allows 4048 characters."""

MAX_PORTS: Final = 16
"""Most published ports of an instance."""

KILL_S: Final = 10.0
"""How long killed processes may take to vanish, in seconds; only a stuck device driver makes them take longer."""

MARK_S: Final = 5.0
"""How long a new process may take to show its mark, in seconds; it takes less than a millisecond."""

NVIDIA_SMI_S: Final = 20.0
"""How long nvidia-smi may take, in seconds. Without persistence mode it wakes the driver first, for some seconds."""

# $1 is a limit in KiB on each process's data, or empty. No core dumps; open files as container runtimes allow them;
# workers yield to the server, and are the first to go when memory runs out. -p: bash takes no code from variables.
_LAUNCH: Final = """
[ -z "$1" ] || ulimit -d "$1" || exit 126
ulimit -c 0
ulimit -n 65536 2>/dev/null
echo 500 2>/dev/null >/proc/self/oom_score_adj
nice -n 5 /bin/bash -p onstart.sh
echo $? >exit_code
"""


class _Record(msgspec.Struct, frozen=True):
    """instance.json. The defaults stand for a record that cannot be read."""

    worker_id: int = 0
    env: dict[str, str] = {}
    offer_id: str = ""
    slot: int = -1
    host: str = ""
    ports: dict[int, int] = {}
    """Published port as the template names it, and the port of this machine that it became."""
    http_port: int = 0
    model_port: int = 0
    wanted: Literal["running", "halted", "updated"] = "running"
    """`updated`: what runs is ended, so that what is ordered here runs; meanwhile the slot is kept."""
    onstart: str | None = None
    """None in records of before there were updates: onstart.sh is there as it was made."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """Room for one worker."""

    offer_id: str = "cpu"
    gpu_name: str = "CPU"
    gpu_ram_mb: int = 0
    num_gpus: int = 0


class ProcessProvider:
    """The `Provider` port on this machine.

    An instance holds its slot while it is meant to run or anything of it lives, and gives it up when it is stopped:
    so cold workers of one endpoint leave the GPU to another's, and a start may be told `Busy`.
    """

    name = "process"
    poll_s = 2.0

    def __init__(
        self,
        root: Path,
        installation: str,
        host: str = "127.0.0.1",
        slots: int | None = None,
        memory_gb: float | None = None,
        price: Price = Price(),  # noqa: B008 - frozen
        ports: range = PORTS,
        grace_s: float = 10.0,
    ) -> None:
        """`host`: the address at which others reach this machine. `slots`: how many workers may run at once, sharing
        what there is; None gives each GPU one worker, or each core `SLOTS_PER_CORE` where there is no GPU.
        `memory_gb`: limit on the data of each process of a worker, not on GPU memory. `grace_s`: how long a worker
        has to end after SIGTERM.

        Raises: Refused for an installation that no label could carry.
        """
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", installation):
            raise Refused(f"installation: {installation!r} may only have letters, digits and _.- and 64 characters")
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root.resolve()
        self._label = re.compile(rf"posthouse-{re.escape(installation)}-[0-9]{{1,19}}")
        self._host = host
        self._slots_wanted = slots
        self._memory_gb = memory_gb
        self._price = price
        self._ports = ports
        self._grace_s = grace_s
        self._children: list[subprocess.Popen[bytes]] = []
        self._recovered = False
        self._directories: list[Path] = []
        # Held by every thread that lists or starts instances, so that none sees another's instance half made.
        self._lock = threading.Lock()

    # -- the port ----------------------------------------------------------------------------------------------------

    async def offers(self, filters: Mapping[str, object], disk_gb: float) -> Sequence[Offer]:
        """Free slots, by kind. Workers share the disk: `disk_gb` is not reserved.

        Filters work on gpu_name, num_gpus, gpu_ram, cpu_cores, cpu_ram and dph_total; others are ignored.
        Raises: BadRequest; Refused if nvidia-smi fails.
        """
        return await asyncio.to_thread(self._offers, filters)

    async def create(self, offer_id: str, spec: InstanceSpec) -> Instance:
        """The instance, started. One that has the label already is returned as it is.

        Raises: OfferTaken, Refused for a spec that cannot be run.
        """
        return await asyncio.to_thread(self._create, offer_id, spec)

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
        return await asyncio.to_thread(lambda: self._seen(self._root / instance_id, census()))

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
        return await asyncio.to_thread(_last_lines, self._root / instance_id, tail)

    async def close(self) -> None:
        with self._lock:
            self._reap()
            for child in self._children:
                child.returncode = 0  # it goes on without us, and its finaliser must not complain
            self._children.clear()

    # -- in threads, one at a time -------------------------------------------------------------------------------------

    def _offers(self, filters: Mapping[str, object]) -> list[Offer]:
        parsed = parse_search(filters)
        with self._lock:
            free = self._free_slots(census())
        offers = []
        for slot, available in Counter(free.values()).items():
            values = {
                "gpu_name": slot.gpu_name,
                "num_gpus": slot.num_gpus,
                "gpu_ram": slot.gpu_ram_mb,
                "cpu_cores": _cores(),
                "cpu_ram": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6,
                "dph_total": self._price.ready_usd_h,
            }
            if matches(parsed, values):
                offers.append(
                    Offer(
                        id=slot.offer_id,
                        provider=self.name,
                        machine=socket.gethostname(),
                        price=self._price,
                        gpu_name=slot.gpu_name,
                        num_gpus=slot.num_gpus,
                        available=available,
                    )
                )
        return offers

    def _create(self, offer_id: str, spec: InstanceSpec) -> Instance:
        self._check(spec)
        directory = self._root / spec.label
        with self._lock:
            running = census()
            if (directory / "instance.json").exists():
                return self._seen(directory, running)
            free = [number for number, slot in self._free_slots(running).items() if slot.offer_id == offer_id]
            if not free:
                raise OfferTaken(f"{offer_id}: no free slot on this machine")
            chosen = self._free_ports(len(spec.ports) + 2, avoid=spec.ports)
            record = _Record(
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
            _write(draft, record)
            draft.rename(directory)
            self._launch(directory, record)
            return self._seen(directory, census())

    def _start(self, instance_id: str) -> None:
        with self._lock:
            directory, record = self._ordered(instance_id)
            running = census()
            if str(directory) in running:
                if record.wanted != "running":
                    raise Busy(f"{instance_id} is still being stopped", self.poll_s)
                return
            slot = self._slot_for(instance_id, record, running)
            record = msgspec.structs.replace(record, slot=slot, host=self._host, wanted="running")
            (directory / "exit_code").unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # a line of the last run that says "ready" must not be read again
                (directory / "model.log").replace(directory / "model.log.1")
            _write(directory, record)
            self._launch(directory, record)

    def _revise(self, instance_id: str, spec: InstanceSpec) -> None:
        """Writes what is to run from now on. Should the server die before it does, the list says halted."""
        self._check(spec)
        with self._lock:
            directory, record = self._ordered(instance_id)
            added = [port for port in spec.ports if port not in record.ports]
            ports = record.ports | dict(zip(added, self._free_ports(len(added), avoid=spec.ports), strict=True))
            record = msgspec.structs.replace(
                record,
                env=spec.env,
                onstart=spec.onstart,
                ports={port: ports[port] for port in spec.ports},
                slot=self._slot_for(instance_id, record, census()),
                wanted="updated",
            )
            _write(directory, record)

    def _halt(self, instance_id: str) -> None:
        """Writes that the instance is to be stopped. Should the server die then, it was stopped and did not fail."""
        directory = self._root / instance_id
        with self._lock:
            if (directory / "instance.json").exists():
                _write(directory, msgspec.structs.replace(_read(directory), wanted="halted"))

    def _discard(self, instance_id: str) -> None:
        """Removes a directory, which leaves the list at once however long that takes."""
        tombstone = self._root / f".gone-{instance_id}-{secrets.token_hex(4)}"
        with self._lock, suppress(FileNotFoundError):
            (self._root / instance_id).rename(tombstone)
        _remove(tombstone)

    def _instances(self) -> list[Instance]:
        with self._lock:
            running = census()
            if not self._recovered:
                self._recover(running)
                self._recovered = True
            labels = set(self._labels())
            # Processes whose directory somebody removed by hand are listed too, or they would run for ever.
            labels |= {os.path.basename(d) for d in running if os.path.dirname(d) == str(self._root)}
            found = [self._root / label for label in sorted(labels) if self._label.fullmatch(label)]
            self._directories = found  # kept, so that the strings that each Path interns live on for the next ones
            for directory in found:
                _rotate(directory)
            self._reap()
            return [self._seen(directory, running) for directory in found]

    def _recover(self, running: dict[str, list[Process]]) -> None:
        """Finishes what a server that died left half done: stops, removals, creations that never got their name."""
        for label in self._labels():
            directory = self._root / label
            if _read(directory).wanted != "running":
                for process in running.get(str(directory), []):
                    send(process, signal.SIGKILL)
        for path in self._root.iterdir():
            aside = re.fullmatch(r"\.(?:new|gone)-(.+)-[0-9a-f]{8}", path.name)
            if aside and self._label.fullmatch(aside[1]):
                _remove(path)

    # -- parts -------------------------------------------------------------------------------------------------------

    @cached_property
    def _slots(self) -> dict[int, _Slot]:
        """Every slot by number; a GPU's number is nvidia-smi's."""
        if self._slots_wanted is not None:
            return dict.fromkeys(range(self._slots_wanted), _Slot())
        return _gpus() or dict.fromkeys(range(_cores() * SLOTS_PER_CORE), _Slot())

    def _free_slots(self, running: dict[str, list[Process]], but: str = "") -> dict[int, _Slot]:
        """The slots that no instance holds, other than `but`."""
        taken = set()
        for label in self._labels():
            record = _read(self._root / label)
            if label != but and (record.wanted != "halted" or str(self._root / label) in running):
                taken.add(record.slot)
        return {number: slot for number, slot in self._slots.items() if number not in taken}

    def _slot_for(self, instance_id: str, record: _Record, running: dict[str, list[Process]]) -> int:
        """The instance's own slot, or another of its kind. Raises: Busy if there is none."""
        free = self._free_slots(running, but=instance_id)
        fitting = [number for number, slot in free.items() if slot.offer_id == record.offer_id]
        if not fitting:
            raise Busy(f"{instance_id}: no free slot of {record.offer_id!r} on this machine", self.poll_s)
        return record.slot if record.slot in fitting else fitting[0]

    def _ordered(self, instance_id: str) -> tuple[Path, _Record]:
        """The instance's directory, and what was ordered. Raises: NotFound."""
        directory = self._root / instance_id
        if not self._label.fullmatch(instance_id) or not (directory / "instance.json").exists():
            raise NotFound(f"instance {instance_id!r} is not on this machine")
        return directory, _read(directory)

    def _free_ports(self, count: int, avoid: Sequence[int]) -> list[int]:
        """Ports that nothing listens on and no instance of ours has, stopped ones included. Raises: Refused.

        Taken at random: a client that still holds the address of a worker that is gone should not meet its successor.
        """
        taken = set(avoid)
        for label in self._labels():
            record = _read(self._root / label)
            taken |= {*record.ports.values(), record.http_port, record.model_port}
        shuffled = secrets.SystemRandom().sample(self._ports, len(self._ports))
        free = list(islice((port for port in shuffled if port not in taken and _bindable(port)), count))
        if len(free) < count:
            raise Refused(f"ports {self._ports.start} to {self._ports.stop - 1} are all taken; destroy instances")
        return free

    def _labels(self) -> list[str]:
        """The labels of our instances that have a directory."""
        names = [name for name in os.listdir(self._root) if self._label.fullmatch(name)]
        return [name for name in names if (self._root / name / "instance.json").exists()]

    def _check(self, spec: InstanceSpec) -> None:
        """Raises: Refused if the spec cannot be run as it stands."""
        if not self._label.fullmatch(spec.label):
            raise Refused(f"label: {spec.label!r} must match {self._label.pattern}")
        for name, value in spec.env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise Refused(f"env: {name!r} is no name for a variable; letters, digits and _ are allowed")
            if not _plain(value):
                raise Refused(f"env: the value of {name} has a NUL or is no Unicode text")
        if not _plain(spec.onstart):
            raise Refused("onstart: has a NUL or is no Unicode text")
        if sum(len(name.encode()) + len(value.encode()) for name, value in spec.env.items()) > ENV_BYTES:
            raise Refused(f"env: more than {ENV_BYTES} bytes")
        if len(spec.onstart.encode()) > ONSTART_BYTES:
            raise Refused(f"onstart: more than {ONSTART_BYTES} bytes")
        legal = all(0 < port < 65_536 for port in spec.ports)
        if not legal or not 1 <= len(set(spec.ports)) == len(spec.ports) <= MAX_PORTS:
            raise Refused(f"ports: {spec.ports} must be 1 to {MAX_PORTS} different ports from 1 to 65535")

    def _launch(self, directory: Path, record: _Record) -> None:
        """Starts onstart in a session of its own, from which on it does not need us."""
        if record.onstart is not None:
            (directory / "onstart.sh").write_bytes(record.onstart.encode())
        memory_kib = "" if self._memory_gb is None else str(int(self._memory_gb * 1e9 / 1024))
        with open(directory / "output.log", "ab", opener=_private) as log:
            child = subprocess.Popen(  # noqa: S603 - nothing of the spec is among the arguments
                ["/bin/bash", "-p", "-c", _LAUNCH, "posthouse", memory_kib],
                cwd=directory,
                env=self._environment(directory, record),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        # For an instant after a program has begun, its environment reads as empty, and the census would not know it.
        until = time.monotonic() + MARK_S
        while child.poll() is None and not marked(child.pid) and time.monotonic() < until:
            time.sleep(0.001)

    def _environment(self, directory: Path, record: _Record) -> dict[str, str]:
        """What a worker finds around it: the template's variables and the protocol's, none of the server's own.

        There is no port namespace, so a worker's internal port is its external one.
        """
        worker_port = next(iter(record.ports.values()))
        external = {**record.ports, worker_port: worker_port}
        # By number, as some model servers cannot read a UUID here; in nvidia-smi's order, which is not CUDA's own.
        gpu = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(record.slot)}
        return {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "LANG": "C.UTF-8",
            **record.env,
            MARK: str(directory),
            "CONTAINER_ID": str(record.worker_id),
            "PUBLIC_IPADDR": record.host,
            **{f"VAST_TCP_PORT_{inner}": str(outer) for inner, outer in external.items()},
            "WORKER_PORT": str(worker_port),
            "WORKER_HTTP_PORT": str(record.http_port),
            "MODEL_PORT": str(record.model_port),
            "MODEL_LOG": str(directory / "model.log"),
            "HOME": str(directory),
            "TMPDIR": str(directory / "tmp"),
            "PYTHON": sys.executable,
            **({} if record.offer_id == "cpu" else gpu),
        }

    def _seen(self, directory: Path, running: dict[str, list[Process]]) -> Instance:
        """The instance as it is listed."""
        record = _read(directory)
        lives = str(directory) in running
        halted = record.wanted != "running"
        return Instance(
            id=directory.name,
            label=directory.name,
            seen=Observation.RUNNING if lives else Observation.HALTED if halted else Observation.EXITED,
            addresses=frozenset(f"{record.host}:{port}" for port in record.ports.values()),
            progress=f"{_size(directory / 'output.log') + _size(directory / 'model.log')} bytes of log",
            message="" if lives or halted else _last_words(directory),
        )

    async def _end(self, directory: Path) -> None:
        """Ends every process of an instance: SIGTERM, and SIGKILL for what is left after `grace_s`."""
        now = asyncio.get_running_loop().time
        kill_at = now() + self._grace_s
        while members := await asyncio.to_thread(self._members, directory):
            if now() > kill_at + KILL_S:
                raise Busy(f"{directory.name}: {len(members)} processes outlive SIGKILL", self.poll_s)
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


def _gpus() -> dict[int, _Slot]:
    """A slot for every GPU, by its index. Raises: Refused if there is an nvidia-smi and it does not answer."""
    if (command := shutil.which("nvidia-smi")) is None:
        return {}
    query = [command, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True
        )
        rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
        slots = {}
        for index, full_name, ram in rows:
            name = re.sub(r"^NVIDIA (GeForce )?", "", full_name)  # the marketplace's names have no maker in front
            # Boards that share the machine's memory state none.
            slots[int(index)] = _Slot(f"gpu {name} {ram}", name, int(ram) if ram.isdecimal() else 0, num_gpus=1)
        return slots
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Refused(
            f"nvidia-smi does not work here ({error}); repair it, or set `slots` to do without GPUs"
        ) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _bindable(port: int) -> bool:
    """True if nothing on this machine has the port, on any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _plain(text: str) -> bool:
    """True if the operating system can take the text as it is."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(directory: Path, record: _Record) -> None:
    """Replaces instance.json in one step. It holds the worker's token, so nobody else may read it."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".instance-", delete=False) as draft:
        draft.write(msgspec.json.encode(record))
        draft.flush()
        os.fsync(draft.fileno())
    os.replace(draft.name, directory / "instance.json")


def _read(directory: Path) -> _Record:
    """What was ordered; the empty record if it cannot be read, which lists as EXITED and so is replaced."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((directory / "instance.json").read_bytes(), type=_Record)
    return _Record()


def _remove(directory: Path) -> None:
    """Removes a directory; a read-only folder in it (caches of package tools) is no obstacle."""
    for folder, _, _ in os.walk(directory):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _end_of(path: Path, size: int) -> bytes:
    """The last `size` bytes of a file, empty if there is none."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)
    return b""


def _rotate(directory: Path) -> None:
    """Keeps output.log within its bound. Its writers append, so that they go on at the new start."""
    if _size(log := directory / "output.log") > LOG_BYTES:
        with suppress(OSError):  # on a full disk all the more room must be made
            (directory / "output.log.1").write_bytes(_end_of(log, LOG_BYTES))
        os.truncate(log, 0)


def _last_lines(directory: Path, tail: int) -> str:
    output = _end_of(directory / "output.log", LOG_READ_BYTES)
    if len(output) < LOG_READ_BYTES:
        output = _end_of(directory / "output.log.1", LOG_READ_BYTES - len(output)) + output
    model = _end_of(directory / "model.log", LOG_READ_BYTES)
    texts = [log.decode(errors="replace").splitlines() for log in (output, model) if log]
    share = max(1, tail // max(1, len(texts)))
    return "".join(f"{line}\n" for lines in texts for line in lines[-share:])


def _last_words(directory: Path) -> str:
    """Why an instance that should run does not."""
    if not (directory / "output.log").exists():
        return "was created and never started"
    code = _end_of(directory / "exit_code", 8).decode(errors="replace").strip()
    lines = _end_of(directory / "output.log", 4096).decode(errors="replace").split("\n")
    last = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"ended {f'with exit code {code}' if code else 'without an exit code'}; last line: {last}"
