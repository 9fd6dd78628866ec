"""Instances as processes of this machine, so that the whole road can be walked: rent, boot, report, serve, destroy.

There is no container and no wall: what an instance runs can do what this program can. So it is done only on request,
and only for who has the market's key.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

from posthouse.hosts import is_free
from posthouse.market.model import Rental
from posthouse.market.rows import published

MARK: Final = "MARKET_INSTANCE"
"""The variable by which the processes of an instance are found."""
PORTS: Final = range(14_000, 19_000)
LOG_READ_BYTES: Final = 2**20
GRACE_S: Final = 10.0


class NoRunner:
    """Instances that run nothing, at addresses that lead nowhere."""

    def place(self, rental: Rental) -> tuple[str, dict[int, int]]:
        first = 40_000 + rental.id % 10_000
        return rental.machine.ip, {port: first + n for n, port in enumerate(published(rental.launch.env))}

    def start(self, rental: Rental, wipe: bool) -> None:
        return None

    def end(self, rental: Rental, remove: bool) -> None:
        return None

    def logs(self, rental: Rental) -> str:
        return f"{rental.launch.image} runs on a simulated machine\n" if rental.actual == "running" else ""


class LocalRunner:
    """Instances as processes of this machine, each with a directory."""

    def __init__(self, directory: Path, seed: int = 0) -> None:
        self.directory = directory
        self.ended: Callable[[Rental, int, int], object] = lambda rental, code, epoch: None
        """Called, from a thread, when what an instance runs has ended unasked: with its exit code and its epoch."""
        self._random = Random(seed)
        self._inside: dict[int, tuple[int, int]] = {}
        """Two ports of each instance for what stays inside: there is one network for all."""
        self._taken: dict[int, set[int]] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._threads: dict[int, ThreadPoolExecutor] = {}
        """One of each instance, so that what it is told happens in turn."""

    def place(self, rental: Rental) -> tuple[str, dict[int, int]]:
        taken = {port for ports in self._taken.values() for port in ports}
        free = (port for port in self._random.sample(PORTS, len(PORTS)) if port not in taken and is_free(port))
        if rental.id not in self._inside:
            self._inside[rental.id] = next(free), next(free)
        ports = {port: next(free) for port in published(rental.launch.env)}
        self._taken.setdefault(rental.id, set()).update(ports.values(), self._inside[rental.id])
        return "127.0.0.1", ports

    def start(self, rental: Rental, wipe: bool) -> None:
        self._thread(rental).submit(self._start, rental, rental.epoch, self._environment(rental), wipe)

    def end(self, rental: Rental, remove: bool) -> None:
        thread = self._thread(rental)
        thread.submit(self._end, rental.id, remove)
        if remove:
            del self._threads[rental.id]
            self._taken.pop(rental.id, None)
            self._inside.pop(rental.id, None)
            thread.shutdown(wait=False)

    def logs(self, rental: Rental) -> str:
        try:
            with open(self._home(rental.id) / "output.log", "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_READ_BYTES))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Ends every instance."""
        threads = list(self._threads.items())
        for rental_id, thread in threads:
            thread.submit(self._end, rental_id, True)
        for _, thread in threads:
            thread.shutdown()

    # -- in the thread of the instance ---------------------------------------------------------------------------------

    def _start(self, rental: Rental, epoch: int, environ: Mapping[str, str], wipe: bool) -> None:
        home = self._home(rental.id)
        if wipe:
            shutil.rmtree(home, ignore_errors=True)
        (home / "workspace").mkdir(parents=True, exist_ok=True)
        launch = rental.launch
        only = launch.runtype == "args"
        argv = [launch.onstart or "sh", *launch.args] if only else ["bash", "-c", launch.onstart]
        with open(home / "output.log", "ab") as log:
            try:
                child = subprocess.Popen(  # noqa: S603 - running what is ordered is what this is for
                    argv,
                    cwd=home / "workspace",
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"{argv[0]}: {error.strerror}\n".encode())
                self.ended(rental, 127, epoch)
                return

        self._children[rental.id] = child

        def watch() -> None:
            code = child.wait()
            if only and self._children.get(rental.id) is child:  # with ssh the container lives on
                self.ended(rental, code, epoch)

        threading.Thread(target=watch, daemon=True).start()

    def _end(self, rental_id: int, remove: bool) -> None:
        """As a container is stopped: SIGTERM for its first process, then SIGKILL for all that is left."""
        home = self._home(rental_id)
        child = self._children.pop(rental_id, None)
        if child is not None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_S)
        until = time.monotonic() + GRACE_S
        while (found := _marked(str(home))) and time.monotonic() < until:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if remove:
            shutil.rmtree(home, ignore_errors=True)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _home(self, rental_id: int) -> Path:
        return self.directory / str(rental_id)

    def _thread(self, rental: Rental) -> ThreadPoolExecutor:
        return self._threads.setdefault(rental.id, ThreadPoolExecutor(1, f"instance-{rental.id}"))

    def _environment(self, rental: Rental) -> dict[str, str]:
        """What the market sets in every container, and the ports that an instance must take where it has no network of
        its own."""
        ports, inside = rental.ports, self._inside[rental.id]
        first = next(iter(ports.values()), 0)
        return {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "LANG": "C.UTF-8",
            "CONTAINER_ID": str(rental.id),
            "CONTAINER_API_KEY": f"instance-{rental.id}",
            "PUBLIC_IPADDR": "127.0.0.1",
            **{name: value for name, value in rental.launch.env.items() if not name.startswith("-")},
            **{f"VAST_TCP_PORT_{inner}": str(outer) for inner, outer in ports.items()},
            f"VAST_TCP_PORT_{first}": str(first),
            "WORKER_PORT": str(first),
            "WORKER_HTTP_PORT": str(inside[0]),
            "MODEL_PORT": str(inside[1]),
            "WORKSPACE": str(self._home(rental.id) / "workspace"),
            MARK: str(self._home(rental.id)),
        }


def _marked(home: str) -> list[int]:
    """The processes of an instance that are not zombies."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
            if f"\0{MARK}={home}\0".encode() in b"\0" + environ.read():
                found.append(int(name))
    return found
