"""`GET /v1/events` of a running server: a browser's view of what happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from tests.kit.live import add_endpoint

Event = tuple[str, dict[str, Any]]


class Viewer:
    """Reads a stream of server-sent events from a socket."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content
        self.last_id = ""

    async def read(self) -> Event | None:
        """The next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := (await self._lines.readline()).decode():
            if line != "\n":
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
            elif "event" in fields:
                self.last_id = fields.get("id", self.last_id)
                return fields["event"], json.loads(fields["data"])
            else:
                fields = {}
        return None

    async def until(self, reached: Callable[[Event], bool]) -> list[Event]:
        """Everything up to the event that is waited for."""
        found: list[Event] = []
        async with asyncio.timeout(120):
            while not (found and reached(found[-1])):
                event = await self.read()
                assert event is not None, found
                found.append(event)
        return found


@asynccontextmanager
async def watch(
    server: Running, key: str, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Viewer]:
    sent = {"Authorization": f"Bearer {key}", **(headers or {})}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{server.url}/v1/events{query}", headers=sent, timeout=aiohttp.ClientTimeout(None)) as response,
    ):
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield Viewer(response)


def is_idle(event: Event) -> bool:
    return event[0] == "worker" and event[1]["state"] == "idle"


async def test_a_viewer_sees_how_an_endpoint_gets_its_first_worker(server: Running, owner: AsyncClient) -> None:
    async with watch(server, server.admin_key) as viewer:
        endpoint_id = await add_endpoint(owner, "llm")
        found = await viewer.until(is_idle)
        states = [data["state"] for kind, data in found if kind == "worker"]
        assert (states[0], states[-1]) == ("creating", "idle")
        [first] = [data for kind, data in found if kind == "decision" and data["decision"]["rentals"]]
        assert {"what", "value", "rule"} <= first["decision"]["because"][0].keys()
        assert all(data["endpoint_id"] == endpoint_id and data["endpoint"] == "llm" for _, data in found)
        await viewer.until(lambda event: event[0] == "log" and "it reports that it is ready" in event[1]["text"])
        summary = await viewer.until(lambda event: event[0] == "endpoint" and event[1]["workers"].get("idle") == 1)
        assert summary[-1][1]["usd_h"] == pytest.approx(0.4)


async def test_who_comes_back_goes_on_after_the_last_event_that_it_saw(server: Running, owner: AsyncClient) -> None:
    async with watch(server, server.admin_key) as viewer:
        await add_endpoint(owner, "llm")
        before = await viewer.until(lambda event: event[0] == "worker")
        cursor = viewer.last_id
        rest = await viewer.until(is_idle)
    assert is_idle(rest[-1])
    assert not any(is_idle(event) for event in before)
    for query, headers in ((f"?after={cursor}", {}), ("", {"Last-Event-ID": cursor})):
        async with watch(server, server.admin_key, query, headers) as viewer:
            again = await viewer.until(is_idle)
        assert [e for e in again if e[0] != "endpoint"] == [e for e in rest if e[0] != "endpoint"]
    async with watch(server, server.admin_key, "?after=1") as viewer:
        kind, data = (await viewer.until(lambda event: True))[0]
        assert (kind, data["oldest"] > 1) == ("lost", True)


async def test_each_account_watches_its_own_and_only_with_a_key_that_may_read(
    server: Running, owner: AsyncClient
) -> None:
    await owner.create_account("acme")
    theirs = (await owner.create_key("x", "operate", "acme")).key
    route = (await owner.create_key("x", "route")).key
    async with (
        AsyncClient(server.url, theirs) as acme,
        watch(server, theirs) as viewer,
        watch(server, server.admin_key) as all_of_it,
    ):
        await owner.create_endpoint("ours", min_load=0)
        await acme.create_endpoint("theirs", min_load=0)
        found = await viewer.until(lambda event: event[0] == "endpoint")
        assert {data["endpoint"] for _, data in found} == {"theirs"}
        seen: set[str] = set()

        def saw_both(event: Event) -> bool:
            seen.add(event[1]["endpoint"])
            return seen >= {"ours", "theirs"}

        await all_of_it.until(saw_both)
    async with aiohttp.ClientSession() as http:
        for key, query, status in (
            (route, "", 403),
            ("", "", 401),
            (server.admin_key, "?endpoint=nobody", 404),
            (theirs, "?endpoint=ours", 404),
            (server.admin_key, "?after=x", 400),
        ):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with http.get(f"{server.url}/v1/events{query}", headers=headers) as reply:
                assert reply.status == status, (query, await reply.text())


async def test_a_stream_of_one_endpoint_has_that_one_alone(server: Running, owner: AsyncClient) -> None:
    await owner.create_endpoint("one", min_load=0)
    await owner.create_endpoint("two", min_load=0)
    async with watch(server, server.admin_key, "?endpoint=two") as viewer:
        for _ in range(3):
            await owner.update_endpoint((await owner.endpoint("one")).id, max_workers=1, min_load=0)
        found = await viewer.until(lambda event: event[0] == "endpoint")
    assert {data["endpoint"] for _, data in found} == {"two"}


async def test_a_stream_ends_with_its_key(server: Running, owner: AsyncClient) -> None:
    made = await owner.create_key("x", "read")
    async with watch(server, made.key) as viewer:
        await owner.delete_key(made.id)
        await owner.create_endpoint("llm", min_load=0)
        async with asyncio.timeout(120):
            while await viewer.read() is not None:
                pass


async def test_a_server_that_stops_waits_for_no_viewer(
    server: Running, owner: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.http1.server.HttpServer.close.__defaults__", (600.0,))
    async with watch(server, server.admin_key) as viewer:
        ended = asyncio.create_task(viewer.read())
        await asyncio.sleep(0.1)
        async with asyncio.timeout(120):
            await server.close()
            while await ended is not None:
                ended = asyncio.create_task(viewer.read())
