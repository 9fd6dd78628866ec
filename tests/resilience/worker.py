"""The smallest worker that speaks the protocol: it starts in a tenth of a second, so that drills can start thousands.

It needs nothing but Python's standard library. It writes each answer in pieces, tells of what it works on, and dies at
once on SIGTERM: whoever stops it too early breaks a stream, and the drill sees that.
"""

import asyncio
import json
import os
import random
from typing import Any

REPORT_S = 0.25
"""Between two reports while something happens."""
IDLE_REPORT_S = 5.0
TAKEN_S = 10.0
"""In which a server takes a report."""
PERF = float(os.environ.get("DRILL_PERF", "100"))
"""Work per second that it says it can do."""
SLOTS = int(os.environ.get("DRILL_SLOTS", "1000"))
"""Requests that it works on at a time; others queue."""
ERRORS = float(os.environ.get("DRILL_ERRORS", "0"))
"""The share of requests that it answers with status 500, and reports as failed."""


class Worker:
    def __init__(self) -> None:
        address = os.environ["REPORT_ADDR"]
        place, _, path = address.removeprefix("http://").rpartition("@")[2].partition("/")
        self.host, _, self.port = place.partition(":")
        self.path = f"/{path}" if path else ""
        port = os.environ["WORKER_PORT"]
        self.listens = os.environ["PUBLIC_IPADDR"], int(os.environ[f"VAST_TCP_PORT_{port}"])
        self.identity = {"mtoken": os.environ["MASTER_TOKEN"]}
        self.id = int(os.environ["CONTAINER_ID"])
        self.working: dict[int, float] = {}
        self.ended: list[dict[str, Any]] = []
        self.taken = 0
        self.slots = asyncio.Semaphore(SLOTS)
        self.changed = asyncio.Event()

    async def run(self) -> None:
        server = await asyncio.start_server(self.answer, *self.listens)
        async with server:
            await self.report()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request with as many pieces as it asks for, and closes the connection."""
        idx, ok, fails = 0, False, random.random() < ERRORS
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            auth, payload = body.get("auth_data") or body, body.get("payload") or body
            idx = int(auth["request_idx"])
            self.working[idx] = float(auth.get("cost") or 0.0)
            self.taken += 1
            self.changed.set()
            status = "500 Internal Server Error" if fails else "200 OK"
            lines = (f"HTTP/1.1 {status}", "content-type: application/json", "connection: close", "content-length: ")
            pieces = [b" "] * int(payload.get("pieces", 1)) + [b'{"done":true}']
            writer.write(("\r\n".join(lines) + f"{len(b''.join(pieces))}\r\n\r\n").encode())
            async with self.slots:
                for piece in pieces:
                    await asyncio.sleep(float(payload.get("piece_s", 0.0)))
                    writer.write(piece)
                    await writer.drain()
            ok = not fails
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()
            if idx:
                self.working.pop(idx, None)
                status = "Success" if ok else "Error" if fails else "Cancelled"
                self.ended.append({"request_idx": idx, "success": ok, "status": status})
                self.changed.set()

    async def report(self) -> None:
        while True:
            self.changed.clear()
            try:
                if self.ended:
                    count = len(self.ended)
                    await self.post("/delete_requests/", {"worker_id": self.id, "requests": self.ended[:count]})
                    del self.ended[:count]
                await self.post("/worker_status/", self.status())
            except (OSError, ValueError, asyncio.IncompleteReadError):
                self.changed.set()  # the server is away: told again
            await asyncio.sleep(REPORT_S)
            try:
                await asyncio.wait_for(self.changed.wait(), IDLE_REPORT_S)
            except TimeoutError:
                continue

    def status(self) -> dict[str, Any]:
        load = sum(self.working.values())
        amounts = {"cur_load": load, "new_load": 0.0, "rej_load": 0.0, "cur_perf": 0.0, "max_perf": PERF}
        counts = {"num_requests_working": len(self.working), "num_requests_recieved": self.taken}
        rest = {"loadtime": 0.1, "error_msg": "", "version": "1.1.0", "disk_usage": 1.0, "additional_disk_usage": 0.0}
        url = f"http://{self.listens[0]}:{self.listens[1]}"
        return {"id": self.id, "url": url, "working_request_idxs": list(self.working), **amounts, **counts, **rest}

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Raises: OSError, ValueError unless the server took it in time: one that stands still takes nothing."""
        async with asyncio.timeout(TAKEN_S):
            await self._post(path, body)

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        reader, writer = await asyncio.open_connection(self.host, int(self.port))
        try:
            raw = json.dumps(self.identity | body).encode()
            lines = (f"POST {self.path}{path} HTTP/1.1", f"host: {self.host}", "content-type: application/json")
            head = "\r\n".join((*lines, f"content-length: {len(raw)}", "connection: close"))
            writer.write(f"{head}\r\n\r\n".encode() + raw)
            status = (await reader.readline()).split()
            if status[1:2] != [b"200"]:
                raise ValueError(f"{path}: {status}")
            await reader.read()
        finally:
            writer.close()


if __name__ == "__main__":
    asyncio.run(Worker().run())
