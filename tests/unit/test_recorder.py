"""The recorder: what fleets have on their traffic logs is stored in order, and a store that is away harms nobody."""

import asyncio
import threading
from typing import Any

import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.engine.hub import Hub
from posthouse.engine.managed import SEGMENTS_KEPT
from posthouse.engine.recorder import Recorder, traffic
from posthouse.errors import Unavailable
from posthouse.recording.log import SEGMENT_S, Slice, unpacked
from posthouse.recording.segment import Segment
from tests.kit.fleets import NOW, Fleet


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> float:
        return self.at

    wall = now


class Store:
    """Keeps segments, unless it is away."""

    def __init__(self) -> None:
        self.away, self.tries, self.kept = False, 0, list[tuple[int, Segment]]()

    async def add_segment(self, endpoint_id: int, segment: Segment, keep_bytes: int) -> None:
        self.tries += 1
        if self.away:
            raise Unavailable("not now", 1.0)
        self.kept.append((endpoint_id, segment))

    async def segments(self, endpoint_id: int, after: float = 0.0) -> list[Segment]:
        return [segment for i, segment in self.kept if i == endpoint_id and segment.until > after]


class Site:
    """A hub with endpoints 1 and 2, and what records them."""

    def __init__(self, keep_bytes: int = 10**6) -> None:
        self.clock, self.store = Clock(), Store()
        store: Any = self.store
        self.hub = Hub(store, self.clock, {}, "", "test", stabilization_s=0.0)
        for number in (1, 2):
            endpoint = Endpoint(EndpointId(number), f"e{number}")
            self.hub.endpoints[endpoint.id] = Fleet(endpoint, NOW).managed
        self.recorder = Recorder(self.hub, keep_bytes)

    def fleet(self, number: int = 1) -> Fleet:
        fleet = self.hub.endpoints[EndpointId(number)].fleet
        assert isinstance(fleet, Fleet)
        return fleet

    async def pass_time(self, span_s: float = SEGMENT_S) -> None:
        self.clock.at += span_s
        await self.recorder.keep_all()


def asked(segment: Segment) -> list[float]:
    return [float(work) for work in unpacked(segment.asked)[1]]


async def test_what_was_asked_is_stored_once_it_is_a_reel_long_and_nothing_of_it_twice() -> None:
    site = Site()
    site.fleet().assign(0, 5.0, NOW)
    await site.pass_time(SEGMENT_S / 2)
    assert site.store.kept == []
    await site.pass_time(SEGMENT_S / 2)
    await site.pass_time()
    site.fleet().assign(0, 7.0, site.clock.now())
    await site.pass_time()
    assert [(i, asked(segment)) for i, segment in site.store.kept] == [(1, [5.0]), (1, [7.0])]
    first, second = (segment for _, segment in site.store.kept)
    assert first.until == second.since  # what is idle in between is on the second


async def test_at_the_end_what_there_is_is_stored_at_once() -> None:
    site = Site()
    site.fleet(2).assign(0, 5.0, NOW)
    await site.recorder.keep_all(at_once=True)
    assert [(i, asked(segment)) for i, segment in site.store.kept] == [(2, [5.0])]


async def test_every_reel_is_packed_by_the_same_thread_whatever_others_are_busy_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, open_gate, packed_by, pack = Site(), threading.Event(), set[int](), Slice.pack

    def noting(piece: Slice) -> Segment:
        packed_by.add(threading.get_ident())
        return pack(piece)

    monkeypatch.setattr(Slice, "pack", noting)
    busy = []
    for _ in range(3):
        site.fleet().assign(0, 5.0, site.clock.now())
        await site.pass_time()
        busy.append(asyncio.create_task(asyncio.to_thread(open_gate.wait)))
        await asyncio.sleep(0)
    open_gate.set()
    await asyncio.gather(*busy)
    assert len(site.store.kept) == 3
    assert len(packed_by) == 1


async def test_while_the_store_is_away_reels_wait_in_order_and_it_is_tried_once_a_round() -> None:
    site = Site()
    site.store.away = True
    for number in (1.0, 2.0, 3.0):
        site.fleet(1).assign(0, number, site.clock.now())
        site.fleet(2).assign(0, number, site.clock.now())
        await site.pass_time()
    assert site.store.tries == 3
    reply = await traffic(site.hub, EndpointId(1), 1e10)
    assert [asked(Segment(**segment)) for segment in reply["segments"]] == [[1.0], [2.0], [3.0], []]
    site.store.away = False
    await site.pass_time()
    for endpoint_id in (1, 2):
        assert [asked(segment) for i, segment in site.store.kept if i == endpoint_id] == [[1.0], [2.0], [3.0]]


async def test_where_it_stays_away_the_oldest_reels_are_lost_and_counted() -> None:
    site = Site()
    site.store.away = True
    for number in range(SEGMENTS_KEPT + 2):
        site.fleet().assign(0, float(number), site.clock.now())
        await site.pass_time()
    assert site.recorder.counts["lost_segments"] == 2
    site.store.away = False
    await site.pass_time()
    assert [asked(segment) for _, segment in site.store.kept] == [[float(n)] for n in range(2, SEGMENTS_KEPT + 2)]


async def test_where_nothing_is_to_be_kept_nothing_is() -> None:
    site = Site(keep_bytes=0)
    site.fleet().assign(0, 5.0, NOW)
    await site.pass_time()
    assert site.fleet().traffic_log.blank
    assert (site.store.tries, site.hub.endpoints[EndpointId(1)].unkept) == (
        0,
        type(site.hub.endpoints[EndpointId(1)].unkept)(),
    )


async def test_what_is_told_has_the_latest_too_and_takes_nothing_off_the_tape() -> None:
    site = Site()
    site.fleet().assign(0, 5.0, NOW)
    for _ in range(2):
        reply = await traffic(site.hub, EndpointId(1), 1e10)
        assert [asked(Segment(**segment)) for segment in reply["segments"]] == [[5.0]]
    site.fleet().assign(0, 6.0, NOW + 1)
    assert len(site.fleet().drain_traffic(NOW + 2).at) == 2
