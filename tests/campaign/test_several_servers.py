"""Servers that share a database, through virtual hours of deaths, cuts and stops: one owner acts, nothing is lost."""

import asyncio
from typing import Any

import pytest

from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint, NewTemplate, NewWorkergroup
from posthouse.errors import PosthouseError
from posthouse.wire.route import RouteAsk, RouteReply
from tests.campaign.servers import Estate, Member, live
from tests.kit.marks import long

NAMES = ["e0", "e1", "e2", "e3"]


async def make(member: Member, name: str, **scaling: Any) -> None:
    management = member.management
    template = await management.templates.create(NewTemplate(name=name, image="v1"))
    plain = {"endpoint_name": name, "cold_workers": 0, "cold_mult": 1, **scaling}
    await management.endpoints.create(NewEndpoint.model_validate(plain))
    await management.workergroups.create(NewWorkergroup(endpoint_name=name, template_id=template.id))


async def begin(estate: Estate) -> None:
    for name in estate.names:
        await estate.start(name)
    for number, name in enumerate(NAMES):
        await estate.up[estate.names[number % len(estate.names)]].call(
            make(estate.up[estate.names[number % len(estate.names)]], name, min_load=60, max_workers=3)
        )


def is_settled(estate: Estate) -> bool:
    """Whether every server has its share, and what they know is what is there."""
    shares = sorted(len(member.hub.endpoints) for member in estate.up.values())
    return (
        all(len(owners) == 1 for owners in estate.owners().values())
        and max(shares) - min(shares) <= 1
        and sorted(estate.known()) == estate.there()
    )


async def settle(estate: Estate) -> None:
    """Waits until all is in order."""
    for _ in range(3600):
        if is_settled(estate):
            return
        await asyncio.sleep(5.0)
    raise AssertionError(f"{estate.owners()}, {sorted(estate.known())}, {estate.there()}")


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

    async def scenario(estate: Estate) -> None:
        await begin(estate)
        random, waiting = estate.world.random, set[asyncio.Task[None]]()
        for _ in range(30):
            await asyncio.sleep(random.uniform(0.0, 90.0))
            name, what = random.choice(estate.names), random.random()
            if name not in estate.up:
                await estate.start(name)
            elif what < 0.35:
                await edit(estate, name)
            elif what < 0.5:
                estate.kill(name)
            elif what < 0.6:
                await estate.stop(name)
            else:
                befall = estate.still if what < 0.8 else estate.cut
                waiting.add(asyncio.create_task(befall(name, random.choice([1.0, 5.0, 30.0, 120.0]))))
        await asyncio.wait(waiting)
        for name in estate.names:
            if name not in estate.up:
                await estate.start(name)
        await settle(estate)
        assert len(set(estate.there())) == len(estate.there())

    live(seed, 3, scenario)


async def edit(estate: Estate, name: str) -> None:
    random, member = estate.world.random, estate.up[name]
    scaling = {"min_load": random.choice([0, 1, 60, 150]), "inactivity_timeout": random.choice([0, "none"])}
    wanted = random.choice(NAMES)
    endpoint = next(e for e in estate.disk.endpoints() if e.name == wanted)
    try:
        async with asyncio.timeout(60):
            changes = EndpointChanges.model_validate(scaling)
            await member.call(member.management.endpoints.update(endpoint.id, changes))
    except (PosthouseError, TimeoutError):
        return  # it was changed at another one, or this one cannot reach the database
