"""Servers that share a database, through virtual hours of deaths, cuts and stops: one owner acts, nothing is lost."""

import asyncio
from typing import Any

import pytest

from posthouse.wire.route import RouteAsk, RouteReply
from tests.campaign import several
from tests.campaign.servers import Estate, live
from tests.campaign.several import NAMES, begin, is_settled
from tests.kit.marks import long


def test_endpoints_are_shared_evenly_and_those_of_a_dead_server_move() -> None:
    async def scenario(estate: Estate) -> None:
        await begin(estate)
        await asyncio.sleep(900)
        assert is_settled(estate)
        before = estate.there()
        victim = estate.owners()[estate.register.wanted()[0]][0]
        estate.kill(victim)
        began = estate.loop.time()
        while any(not owners for owners in estate.owners().values()):
            assert estate.loop.time() - began < 3.0  # of virtual time
            await asyncio.sleep(0.1)
        await asyncio.sleep(900)
        assert is_settled(estate)
        assert estate.there() == before
        for member in estate.up.values():
            for managed in member.hub.endpoints.values():
                assert isinstance(await member.route(RouteAsk(managed.fleet.endpoint.name, 10.0, 0), 5.0), RouteReply)
        await estate.start(victim)
        await asyncio.sleep(60)
        assert is_settled(estate)
        assert estate.there() == before

    live(1, 3, scenario)


def test_those_of_a_dead_server_move_after_a_restart_of_the_database_too() -> None:
    async def scenario(estate: Estate) -> None:
        await begin(estate)
        await asyncio.sleep(60)
        lives = {member.lease.server for member in estate.up.values()}
        await estate.restart_database()
        await asyncio.sleep(60)
        assert {member.lease.server for member in estate.up.values()} == lives  # it was shorter than a lease
        estate.kill(estate.owners()[estate.register.wanted()[0]][0])
        began = estate.loop.time()
        while any(not owners for owners in estate.owners().values()):
            assert estate.loop.time() - began < 3.0  # of virtual time
            await asyncio.sleep(0.1)

    live(1, 3, scenario)


def test_a_database_that_nobody_reaches_for_long_moves_nothing() -> None:
    async def scenario(estate: Estate) -> None:
        await begin(estate)
        await asyncio.sleep(900)
        before, workers = estate.owners(), estate.there()
        lives = {member.lease.server for member in estate.up.values()}
        cuts = [asyncio.create_task(estate.cut(n, 120.0 + number)) for number, n in enumerate(estate.names)]
        await asyncio.sleep(110.0)
        for name in NAMES:
            assert isinstance(await routed(estate, name), RouteReply)
        await asyncio.wait(cuts)
        await asyncio.sleep(60)
        assert (estate.owners(), estate.there()) == (before, workers)
        assert {member.lease.server for member in estate.up.values()} == lives

    live(2, 3, scenario)


async def routed(estate: Estate, name: str) -> Any:
    """What the server says that has the endpoint."""
    member = next(m for m in estate.up.values() if m.hub.named(name) is not None)
    return await member.route(RouteAsk(name, 10.0, 0), 5.0)


@pytest.mark.parametrize("seed", [3, *map(long, range(4, 25))])
def test_one_owner_acts_whatever_befalls_servers(seed: int) -> None:
    """Killed, stopped, standing still, cut off from the database, and all that while workers come and go."""
    assert several.run(seed).violation == ""
