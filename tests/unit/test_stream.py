import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, EndpointId
from posthouse.engine import stream as module
from posthouse.engine.stream import KEEP_ALIVE, EventStream
from posthouse.errors import Busy
from posthouse.wire.rows.events import Logged

ACME = AccountId(2)


def line(text: str, endpoint_id: int = 1) -> Logged:
    return Logged(at=5.0, endpoint_id=endpoint_id, endpoint="llm", level="info0", text=text, worker_id=None)


class Viewer:
    """Reads a stream as a browser does: events by name, with their number and data."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self.frames = frames
        self.last = ""
        self.comments = 0

    async def read(self, count: int) -> list[tuple[str, dict[str, object]]]:
        found: list[tuple[str, dict[str, object]]] = []
        async with asyncio.timeout(120):
            while len(found) < count:
                for text in (await anext(self.frames)).decode().split("\n\n")[:-1]:
                    fields = dict(row.split(": ", 1) for row in text.split("\n"))
                    self.comments += "" in fields
                    self.last = fields.get("id", self.last)
                    if "event" in fields:
                        found.append((fields["event"], json.loads(fields["data"])))
        return found

    async def texts(self, count: int) -> list[object]:
        return [data["text"] for _, data in await self.read(count)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_S", 0.001)


async def test_every_viewer_gets_what_happens_from_when_it_came_in_its_order() -> None:
    stream = EventStream(1000)
    stream.publish(DEFAULT_ACCOUNT, line("before"))
    first = Viewer(stream.watch(None))
    waiting = asyncio.create_task(first.texts(3))
    await asyncio.sleep(0.01)
    for text in "abc":
        stream.publish(DEFAULT_ACCOUNT, line(text))
    assert await waiting == ["a", "b", "c"]
    assert first.last == "1004"
    assert (await Viewer(stream.watch(None, after=1003)).read(1)) == [
        ("log", {"at": 5.0, "endpoint_id": 1, "endpoint": "llm", "level": "info0", "text": "c", "worker_id": None})
    ]


async def test_a_viewer_sees_its_own_account_and_the_endpoint_that_it_asked_for_alone() -> None:
    stream = EventStream(0)
    stream.publish(DEFAULT_ACCOUNT, line("ours", 1))
    stream.publish(ACME, line("theirs", 2))
    stream.publish(ACME, line("theirs too", 3))
    assert await Viewer(stream.watch(None, after=0)).texts(3) == ["ours", "theirs", "theirs too"]
    assert await Viewer(stream.watch(DEFAULT_ACCOUNT, after=0)).texts(1) == ["ours"]
    assert await Viewer(stream.watch(ACME, after=0)).texts(2) == ["theirs", "theirs too"]
    viewer = Viewer(stream.watch(ACME, EndpointId(3), after=0))
    assert await viewer.texts(1) == ["theirs too"]
    more = asyncio.create_task(viewer.texts(1))
    await asyncio.sleep(0.01)
    stream.publish(DEFAULT_ACCOUNT, line("ours again", 3))
    stream.publish(ACME, line("theirs at last", 3))
    assert await more == ["theirs at last"]


async def test_who_comes_back_goes_on_where_it_was_and_is_told_of_what_is_kept_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    stream = EventStream(0)
    for number in range(1, 7):
        stream.publish(DEFAULT_ACCOUNT, line(str(number)))
    assert await Viewer(stream.watch(None, after=4)).texts(2) == ["5", "6"]
    assert await Viewer(stream.watch(None, after=3)).texts(3) == ["4", "5", "6"]
    found = await Viewer(stream.watch(None, after=2)).read(4)
    assert found[0] == ("lost", {"oldest": 4})
    assert [data["text"] for _, data in found[1:]] == ["4", "5", "6"]
    assert await Viewer(stream.watch(None, after=99)).read(0) == []  # of a server whose clock was ahead

    restarted = EventStream(1_000)
    viewer = Viewer(restarted.watch(None, after=6))
    assert await viewer.read(1) == [("lost", {"oldest": 1_001})]
    restarted.publish(DEFAULT_ACCOUNT, line("anew"))
    assert await viewer.texts(1) == ["anew"]


async def test_a_slow_viewer_is_told_that_it_lost_events_and_its_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    stream = EventStream(0)
    viewer = Viewer(stream.watch(None))
    stream.publish(DEFAULT_ACCOUNT, line("1"))
    await viewer.texts(0)
    assert await viewer.texts(1) == ["1"]
    for number in range(2, 9):
        stream.publish(DEFAULT_ACCOUNT, line(str(number)))
    assert await viewer.read(1) == [("lost", {"oldest": 6})]
    with pytest.raises(StopAsyncIteration):
        await anext(viewer.frames)
    assert stream.viewers == 0


async def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 10_000)
    stream = EventStream(0)
    for _ in range(100):
        stream.publish(DEFAULT_ACCOUNT, line("x" * 1000))
    assert 5 <= len(stream._kept) < 10
    assert stream._kept_bytes == sum(len(entry.encoded) for entry in stream._kept) <= 10_000


async def test_a_quiet_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    frames = EventStream(0).watch(None)
    assert (await anext(frames)).startswith(b"retry: ")
    assert [await anext(frames), await anext(frames)] == [KEEP_ALIVE, KEEP_ALIVE]


async def test_only_so_many_watch_at_once_and_none_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VIEWERS", 2)
    stream = EventStream(0)
    viewers = [stream.watch(None), stream.watch(None)]
    for frames in viewers:
        await anext(frames)
    with pytest.raises(Busy, match="2 streams are open"):
        stream.watch(None)
    await viewers[0].aclose()  # type: ignore[attr-defined]
    other = stream.watch(None)
    await anext(other)
    ends = [asyncio.create_task(anext(frames, b"the end")) for frames in (viewers[1], other)]
    await asyncio.sleep(0.01)
    stream.close()
    assert await asyncio.gather(*ends) == [b"the end", b"the end"]
    assert stream.viewers == 0
    with pytest.raises(Busy):
        stream.watch(None)


async def test_a_stream_ends_when_its_key_is_worth_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.01)
    stream, allowed = EventStream(0), [True]
    frames = stream.watch(None, allowed=lambda: allowed[0])
    assert (await anext(frames)).startswith(b"retry: ")
    assert await anext(frames) == KEEP_ALIVE
    allowed[0] = False
    stream.publish(DEFAULT_ACCOUNT, line("secret"))
    with pytest.raises(StopAsyncIteration):
        await anext(frames)
