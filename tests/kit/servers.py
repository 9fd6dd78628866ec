"""Several servers on one database of PostgreSQL and one machine, and what stands before them."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.kit.live import end_workers
from tests.kit.netns import Network
from tests.kit.postgres import USER, database_url, query
from tests.kit.site import TIMEOUT_S, Site

WORKER = Path(__file__).parents[1] / "resilience" / "worker.py"
LOOK_S = 0.2
"""Time between two health checks of the balancer, and half of how long one may take."""
QUICK = {
    "POSTHOUSE_ENGINE__TICK_S": "0.2",
    "POSTHOUSE_ENGINE__STABILIZATION_S": "1",
    "POSTHOUSE_PROVIDERS__PROCESS__POLL_S": "0.5",
    "POSTHOUSE_PROVIDERS__PROCESS__GRACE_S": "2",
    "POSTHOUSE_SERVER__LOG_LEVEL": "error",
}
ONE_WORKER = {"min_load": 100, "target_util": 1, "cold_workers": 0, "cold_mult": 1, "max_workers": 1}
"""Parameters of an endpoint that has one worker, always."""


async def eventually(reached: Callable[[], Any]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not await asyncio.to_thread(reached):
            await asyncio.sleep(0.2)


class Balancer:
    """Passes connections on to servers that answer `/healthz`, in turns. It runs in a thread of its own."""

    def __init__(self) -> None:
        self.places: list[tuple[str, int]] = []
        """Where servers are."""
        self.port = 0
        self._healthy: list[tuple[str, int]] = []
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take_only(self, places: list[tuple[str, int]]) -> None:
        """From now on calls go to these, and nobody looks whether they answer."""
        self._loop.call_soon_threadsafe(self._watch.cancel)
        self._healthy = places

    def close(self) -> None:
        async def cancelled() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancelled(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            places = self.places
            found = await asyncio.gather(*(self._answers(place) for place in places))
            self._healthy = [place for place, healthy in zip(places, found, strict=True) if healthy]
            await asyncio.sleep(LOOK_S)

    async def _answers(self, place: tuple[str, int]) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2 * LOOK_S):
                reader, writer = await asyncio.open_connection(*place)
                try:
                    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    return b" 200 " in await reader.read(100)
                finally:
                    writer.close()
        return False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, IndexError, ZeroDivisionError, asyncio.CancelledError):
            self._turn += 1
            places = self._healthy or self.places  # on a busy machine none may answer in time
            place = places[self._turn % len(places)]
            its_reader, its_writer = await asyncio.open_connection(*place)
            await asyncio.gather(_pour(reader, its_writer), _pour(its_reader, writer))
        writer.close()


def place_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


class Estate:
    """Servers `0` to `count - 1`, whose workers are `tests/resilience/worker.py` in one folder."""

    def __init__(self, directory: Path, count: int, **settings: Any) -> None:
        self.directory, self.database, self.balancer = directory, database_url(), Balancer()
        self.sites = []
        for number in range(count):
            (folder := directory / str(number)).mkdir()
            site = Site(folder)
            site.environ |= QUICK | {f"POSTHOUSE_{name.upper()}": str(value) for name, value in settings.items()}
            site.environ |= {
                "POSTHOUSE_DATABASE__URL": self.database,
                "POSTHOUSE_PROVIDERS__PROCESS__DIRECTORY": str(directory / "workers"),
                "POSTHOUSE_PROVIDERS__PROCESS__PUBLIC_URL": self.balancer.url,
                "POSTHOUSE_PROVIDERS__PROCESS__WALL": "off",
            }
            self.sites.append(site)
        self.urls = [""] * count
        self.key = ""
        self._outside = ""
        """What leads workers out of where their servers are."""

    def enter(self, network: Network) -> None:
        """Has each server run in a place of its own; workers and clients are outside."""
        self._outside = network.outside
        for number, site in enumerate(self.sites):
            name = self.database.partition("@/")[2].partition("?")[0]
            site.within = network.within(number)
            site.environ |= {
                "POSTHOUSE_DATABASE__URL": f"postgresql://{USER}@{network.database}/{name}",
                "POSTHOUSE_SERVER__HOST": network.servers[number],
            }

    def start(self, number: int) -> None:
        """Starts a server, or starts it again where it was."""
        site = self.sites[number]
        facts = site.start(*(["--port", self.urls[number].rpartition(":")[2]] if self.urls[number] else []))
        self.urls[number] = facts["url"]
        if "admin_key_file" in facts:
            self.key = Path(facts["admin_key_file"]).read_text().strip()
        site.environ["POSTHOUSE_API_KEY"] = self.key
        self.balancer.places = [place_of(url) for url in self.urls if url]

    def make(self, name: str, at: int = 0, perf: float = 100.0, **scaling: Any) -> None:
        """Makes an endpoint with what it may rent, by calls of one server. `perf`: work/s that a worker can do."""
        site = self.sites[at]
        (site.directory / "onstart.sh").write_text(f'exec {self._outside} "$PYTHON" -I -S {WORKER}\n')
        env = f"-p 3000:3000 -e DRILL_PERF={perf}"
        site.json("template", "create", "--name", name, "--env", env, "--onstart", "onstart.sh")
        flags = [word for key, value in scaling.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        site.json("endpoint", "create", name, *flags)
        site.json("workergroup", "create", "--endpoint", name, "--template", name)

    def send(self, number: int, what: signal.Signals) -> None:
        """Sends a server a signal, and waits for the end of one that is killed."""
        server = self.sites[number].server
        assert server is not None
        server.send_signal(what)
        if what is signal.SIGKILL:
            server.communicate()
            self.sites[number].server = None

    def owner(self, name: str) -> int:
        """Which server has the endpoint now; -1: none that lives."""
        sql = "SELECT s.url FROM fleets f JOIN endpoints e ON e.id = f.endpoint_id JOIN servers s ON s.name = f.server"
        found = query(self.database, f"{sql} WHERE e.name = '{name}'").strip()
        return self.urls.index(found) if found in self.urls else -1

    def owned(self) -> list[int]:
        """How many endpoints each server has, the fewest first."""
        sql = "SELECT count(f.server) FROM servers s LEFT JOIN fleets f ON f.server = s.name GROUP BY s.name"
        return sorted(int(count) for count in query(self.database, sql).split())

    def workers(self) -> set[int]:
        """The processes of workers."""
        found = set()
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and os.readlink(folder / "cwd").startswith(f"{self.directory}/workers/"):
                    found.add(int(folder.name))
        return found

    def instances(self) -> list[str]:
        """The folders of workers."""
        return sorted(path.name for path in (self.directory / "workers").iterdir() if path.name[:4] == "post")

    def clear(self) -> None:
        for site in self.sites:
            if site.server is not None:
                site.server.send_signal(signal.SIGCONT)
            site.clear()
        end_workers(self.directory)
        self.balancer.close()
