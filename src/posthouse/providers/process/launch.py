"""Starts an instance in a session of its own, with the environment of a worker."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from posthouse import bootstrap
from posthouse.providers.process.files import Record, begin_log
from posthouse.providers.process.procfs import MARK, marked

MARK_S: Final = 5.0
"""How long a new process may take to show its mark, in seconds; it takes less than a millisecond."""

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


def launch(directory: Path, record: Record, memory_gb: float | None) -> subprocess.Popen[bytes]:
    """Starts onstart in a session of its own, from which on it does not need us."""
    if record.onstart is not None:
        (directory / "onstart.sh").write_bytes(record.onstart.encode())
    memory_kib = "" if memory_gb is None else str(int(memory_gb * 1e9 / 1024))
    with open(directory / "output.log", "ab", opener=begin_log) as log:
        child = subprocess.Popen(  # noqa: S603 - nothing of the spec is among the arguments
            ["/bin/bash", "-p", "-c", _LAUNCH, "posthouse", memory_kib],
            cwd=directory,
            env=_environment(directory, record),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # For an instant after a program has begun, its environment reads as empty, and the census would not know it.
    until = time.monotonic() + MARK_S
    while child.poll() is None and not marked(child.pid) and time.monotonic() < until:
        time.sleep(0.001)
    return child


def _environment(directory: Path, record: Record) -> dict[str, str]:
    """What a worker finds around it: the template's variables and the protocol's, none of the server's own.

    There is no port namespace, so a worker's internal port is its external one.
    """
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
            str(directory / "model.log"),
        ),
        "HOME": str(directory),
        "TMPDIR": str(directory / "tmp"),
        "PYTHON": sys.executable,
        **({} if record.offer_id == "cpu" else gpu),
    }
