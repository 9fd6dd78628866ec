"""Many endpoints are opened at once: requests are answered meanwhile, and nothing more is opened without the lease."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.engine.hub import OPENED, Hub
from posthouse.engine.lease import SoleLease
from posthouse.ports import FleetRecord, Store

IDS = [EndpointId(number) for number in range(1, 2 * OPENED + 2)]


async def open_fleets(epochs: Mapping[EndpointId, int]) -> Mapping[EndpointId, FleetRecord]:
    return {endpoint_id: FleetRecord(0, ()) for endpoint_id in epochs}


def hub_of() -> Hub:
    clock, store = cast(Any, SimpleNamespace(now=lambda: 1000.0)), cast(Store, SimpleNamespace(open_fleets=open_fleets))
    hub = Hub(store, clock, {}, "", "test", 0.0, cast(Any, SoleLease()))
    for endpoint_id in IDS:
        hub.directory.put(Endpoint(endpoint_id, f"e{endpoint_id}"))
    return hub


async def test_others_have_their_turn_while_many_endpoints_are_opened() -> None:
    hub, seen = hub_of(), set[int]()
    taking = asyncio.create_task(hub.take_over_all(IDS))
    while not taking.done():
        seen.add(len(hub.endpoints))
        await asyncio.sleep(0)
    assert seen >= {OPENED - 1, 2 * OPENED - 1}
    assert sorted(hub.endpoints) == IDS


async def test_a_server_that_is_declared_dead_meanwhile_opens_no_more() -> None:
    hub = hub_of()
    taking = asyncio.create_task(hub.take_over_all(IDS))
    while not hub.endpoints:
        await asyncio.sleep(0)
    hub.lease = cast(Any, SoleLease(server="its next lease"))
    await taking
    assert len(hub.endpoints) == OPENED - 1
