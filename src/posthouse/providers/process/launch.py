"""Starts an instance's keeper, with what it is to run and the environment of a worker."""

import marshal
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from posthouse import bootstrap
from posthouse.providers.process import keeper
from posthouse.providers.process.files import Record, begin_home, opened
from posthouse.providers.process.keeper import APPEND, open_plain
from posthouse.providers.process.procfs import MARK, marked

BEGIN_S: Final = 20.0
"""How long is waited for the begin of onstart, in seconds, which takes a tenth of a second."""

MARK_S: Final = 5.0
"""How long a new process may take to show its mark, in seconds; it takes less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a worker may have."""

    memory_gb: float | None = None
    """On the data of each of its processes, not on GPU memory."""
    file_gb: float = 500.0
    """Of one file."""
    disk_gb: float = 0.0
    """Of all its files; 0: any."""
    min_free_gb: float = 0.0
    """With less of the disk free, workers that use more than their template asks for are ended, and none is made."""
    processes: int = 32_768
    """Of one user, threads included."""
    hidden: Path | None = None
    """What it must not read, where the system has a wall: all there but its own directory."""


def launch(directory: Path, record: Record, bounds: Bounds, groups: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts onstart in the care of a keeper, from which on it does not need us. Raises: OSError.

    `groups`: of the record's user, beside its own.
    """
    begin_home(directory, record.uid)
    limits = {"FSIZE": int(bounds.file_gb * 1e9), "NPROC": bounds.processes}
    order = {
        "directory": str(directory),
        "home": str(directory / "home"),
        "hidden": str(bounds.hidden or ""),
        "onstart": record.onstart,
        "env": _environment(directory, record),
        "disk": [int(gb * 1e9) for gb in (bounds.disk_gb, record.disk_gb, bounds.min_free_gb)],
        "uid": record.uid,
        "groups": list(groups),
        "limits": limits if bounds.memory_gb is None else {**limits, "DATA": int(bounds.memory_gb * 1e9)},
    }
    with opened(directory) as folder, open(open_plain("output.log", APPEND, folder), "ab") as log:
        child = subprocess.Popen(  # noqa: S603 - nothing of the spec is among the arguments
            [sys.executable, "-I", "-S", keeper.__file__],
            cwd="/",
            env={MARK: str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert child.stdin is not None
    with child.stdin as told:
        told.write(marshal.dumps(order))
    # For an instant after a program has begun, its environment reads as empty, and the census would not know it.
    until = time.monotonic() + MARK_S
    while child.poll() is None and not marked(child.pid) and time.monotonic() < until:
        time.sleep(0.001)
    return child


def wait_until_begun(child: subprocess.Popen[bytes]) -> None:
    """Waits until onstart has begun, so that a signal reaches it and not what makes it ready."""
    if child.stdout is not None:
        with child.stdout as begun:
            select.select([begun], [], [], BEGIN_S)


def _environment(directory: Path, record: Record) -> dict[str, str]:
    """What a worker finds around it: the template's variables and the protocol's, none of the server's own.

    There is no port namespace, so a worker's internal port is its external one.
    """
    home = directory / "home"
    listen_port = next(iter(record.ports.values()))
    # By number, as some model servers cannot read a UUID here; in nvidia-smi's order, which is not CUDA's own.
    gpu = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(record.slot)}
    return {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "LANG": "C.UTF-8",
        **record.env,
        MARK: str(directory),
        **bootstrap.variables(
            record.worker_id,
            record.host,
            record.ports,
            listen_port,
            (record.http_port, record.model_port),
            str(home / "model.log"),
        ),
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHON": sys.executable,
        **({} if record.offer_id == "cpu" else gpu),
    }
