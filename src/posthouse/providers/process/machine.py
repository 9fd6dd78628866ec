"""What this machine has: GPUs, cores, memory, ports."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse.errors import Refused
from posthouse.providers.process import keeper

PORTS: Final = range(20_000, 32_000)
"""Below Linux's ephemeral ports (32768 and up), so that no outgoing connection of the machine holds one."""

SLOTS_PER_CORE: Final = 4
"""Workers per core on a machine without a GPU: such workers mostly wait."""

NVIDIA_SMI_S: Final = 20.0
"""How long nvidia-smi may take, in seconds. Without persistence mode it wakes the driver first, for some seconds."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one worker."""

    offer_id: str = "cpu"
    gpu_name: str = "CPU"
    gpu_ram_mb: int = 0
    num_gpus: int = 0


def slots(wanted: int | Mapping[int, Slot] | None) -> dict[int, Slot]:
    """Every slot by number; a GPU's number is nvidia-smi's.

    `wanted`: the slots themselves, or how many, sharing what there is; None gives each GPU one worker, or each core
    `SLOTS_PER_CORE` where there is no GPU. Raises: Refused if nvidia-smi fails.
    """
    if isinstance(wanted, Mapping):
        return dict(wanted)
    if wanted is not None:
        return dict.fromkeys(range(wanted), Slot())
    return _gpus() or dict.fromkeys(range(cores() * SLOTS_PER_CORE), Slot())


def attributes() -> dict[str, object]:
    """What searches may ask for beside GPUs, in the protocol's names and units."""
    return {"cpu_cores": cores(), "cpu_ram": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def full_disk(directory: Path, min_free_gb: float) -> str:
    """What is wrong if less than so much of the disk with the directory is free, or 5 % of a small one; else empty."""
    disk = os.statvfs(directory)
    free_gb, total_gb = (blocks * disk.f_frsize / 1e9 for blocks in (disk.f_bavail, disk.f_blocks))
    enough_gb = min(min_free_gb, keeper.SMALL_DISK * total_gb)
    return f"the disk has {free_gb:.3g} GB free, of {enough_gb:.3g} GB needed" if free_gb < enough_gb else ""


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _gpus() -> dict[int, Slot]:
    """A slot for every GPU, by its index. Raises: Refused if there is an nvidia-smi and it does not answer."""
    if (command := shutil.which("nvidia-smi")) is None:
        return {}
    query = [command, "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True
        )
        rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]
        found = {}
        for index, full_name, ram in rows:
            name = re.sub(r"^NVIDIA (GeForce )?", "", full_name)  # the marketplace's names have no maker in front
            # Boards that share the machine's memory state none.
            found[int(index)] = Slot(f"gpu {name} {ram}", name, int(ram) if ram.isdecimal() else 0, num_gpus=1)
        return found
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Refused(
            f"nvidia-smi does not work here ({error}); repair it, or set `slots` to do without GPUs"
        ) from error
