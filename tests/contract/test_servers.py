"""Servers that share a database: who lives, who has what, and what a former owner may still do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from sqlalchemy import text

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.domain.lifecycle import State
from posthouse.errors import StaleVersion, Unavailable
from posthouse.store import SqlStore, open_store
from posthouse.store.servers import PostgresServers
from tests.kit.postgres import database_url, query
from tests.kit.rows import NO_ID, worker

LONG_S = 1000.0
TIMEOUT_S = 60.0


class Site:
    """A store, and the connections of servers `a` and `b`."""

    def __init__(self, url: str, store: SqlStore, a: PostgresServers, b: PostgresServers) -> None:
        self.url, self.store, self.a, self.b = url, store, a, b

    async def enter(self, a_s: float = LONG_S, b_s: float = LONG_S) -> None:
        await self.a.register("a-1", "http://a", a_s)
        await self.b.register("b-1", "http://b", b_s)

    async def make(self, count: int) -> list[EndpointId]:
        return [(await self.store.add_endpoint(Endpoint(NO_ID, f"e{number}"))).id for number in range(count)]

    def late(self, server: str) -> None:
        """Has a server's lease be over."""
        query(self.url, f"UPDATE servers SET until = 0 WHERE name = '{server}'")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    url = database_url()
    async with AsyncExitStack() as stack:
        store = await open_store(url)
        stack.push_async_callback(store.close)
        found: list[Any] = [store.servers(20.0), store.servers(20.0)]
        for servers in found:
            stack.push_async_callback(servers.close)
        yield Site(url, store, *found)


async def test_servers_know_of_each_other_until_they_leave(site: Site) -> None:
    await site.enter()
    found = await site.a.renew("a-1", LONG_S)
    assert found is not None
    assert [tuple(one) for one in found[0]] == [("a-1", "http://a", False), ("b-1", "http://b", False)]
    await site.b.withdraw("b-1")
    found = await site.a.renew("a-1", LONG_S)
    assert found is not None
    assert [tuple(one) for one in found[0]] == [("a-1", "http://a", False), ("b-1", "", False)]
    await site.b.deregister("b-1")
    await site.b.deregister("b-1")
    found = await site.a.renew("a-1", LONG_S)
    assert found is not None
    assert [one.name for one in found[0]] == ["a-1"]


async def test_who_is_late_can_renew_until_another_ends_its_life(site: Site) -> None:
    await site.enter()
    site.late("a-1")
    found = await site.b.renew("b-1", LONG_S)
    assert found is not None
    assert [one.expired for one in found[0]] == [True, False]
    assert await site.a.renew("a-1", LONG_S) is not None
    assert await site.b.evict_expired("b-1") == []
    site.late("a-1")
    assert await site.b.evict_expired("b-1") == ["a-1"]
    assert await site.a.renew("a-1", LONG_S) is None
    assert await site.a.claim("a-1", 10) == {}
    assert await site.a.acquire("a-1", EndpointId(1)) is None


async def test_a_new_life_ends_the_one_before(site: Site) -> None:
    await site.enter()
    ids = await site.make(1)
    await site.a.owners()
    await site.a.claim("a-1", 1)
    await site.a.register("a-2", "http://a", LONG_S)
    assert await site.a.renew("a-1", LONG_S) is None
    assert await site.b.owners() == {ids[0]: ""}


async def test_what_is_free_is_claimed_by_one_alone(site: Site) -> None:
    await site.enter()
    ids = await site.make(9)
    assert await site.a.owners() == dict.fromkeys(ids, "")
    claims = [site.a.claim("a-1", 5), site.b.claim("b-1", 5), site.a.claim("a-1", 0)]
    a, b, none = await asyncio.gather(*claims)
    if len(a) + len(b) < len(ids):  # those that both looked at were left out by one
        b = {**b, **await site.b.claim("b-1", 5)}
    assert none == {}
    assert sorted([*a, *b]) == ids
    assert await site.b.owners() == {**dict.fromkeys(a, "a-1"), **dict.fromkeys(b, "b-1")}


async def test_many_claim_among_many_and_none_gets_what_another_has(site: Site) -> None:
    await site.make(1)
    await site.a.owners()
    for table, name in ("endpoints", "id"), ("fleets", "endpoint_id"):
        more = f"jsonb_build_object('{name}', {name} + n)" + (
            " || jsonb_build_object('name', n)" if name == "id" else ""
        )
        copy = f"SELECT (jsonb_populate_record(t, {more})).* FROM {table} t, generate_series(1, 2000) n"
        query(site.url, f"INSERT INTO {table} {copy}")  # a look at all takes a while, in which others claim
    async with AsyncExitStack() as stack:
        servers = {f"{letter}-1": store for letter in "cdefgh" if (store := site.store.servers(20.0))}
        for name, one in servers.items():
            stack.push_async_callback(one.close)
            await one.register(name, "http://x", LONG_S)
        for _ in range(3):
            claimed = await asyncio.gather(*(one.claim(name, 5) for name, one in servers.items()))
            found = [endpoint_id for claims in claimed for endpoint_id in claims]
            assert len(found) == len(set(found)) >= 5
            query(site.url, "UPDATE fleets SET server = '-'")


async def test_a_former_owner_can_write_nothing_from_the_moment_of_the_claim(site: Site) -> None:
    await site.enter()
    [endpoint_id] = await site.make(1)
    await site.a.owners()
    epoch = (await site.a.claim("a-1", 1))[endpoint_id]
    version = (await site.store.open_fleet(endpoint_id, epoch)).version
    version = await site.store.commit(endpoint_id, version, epoch, [worker(1, endpoint_id)], None)
    assert await site.b.acquire("b-1", endpoint_id) is None  # it has an owner
    site.late("a-1")
    await site.b.evict_expired("b-1")
    later = await site.b.acquire("b-1", endpoint_id)
    assert later is not None
    assert later > epoch
    with pytest.raises(StaleVersion):  # though nobody has opened it yet
        await site.store.commit(endpoint_id, version, epoch, [], None)
    record = await site.store.open_fleet(endpoint_id, later)
    assert [one.id for one in record.workers] == [1]
    await site.a.register("a-2", "http://a", LONG_S)
    await site.b.release("b-1", endpoint_id)
    assert await site.a.acquire("a-2", endpoint_id) == later + 1
    assert await site.a.acquire("a-2", endpoint_id) == later + 2  # again: what it began before counts no more


async def test_what_a_server_has_locked_that_stands_still_is_free_soon(site: Site) -> None:
    await site.enter()
    [endpoint_id] = await site.make(1)
    await site.a.owners()
    await site.a.claim("a-1", 1)
    with suppress(Unavailable):
        async with site.store._transaction() as db:  # its writer stops here
            await db.execute(text("SELECT * FROM fleets FOR UPDATE"))
            site.late("a-1")
            await site.b.evict_expired("b-1")
            assert await site.b.claim("b-1", 1) == {}
            async with asyncio.timeout(TIMEOUT_S):
                while not await site.b.claim("b-1", 1):
                    await asyncio.sleep(0.1)
    assert await site.store.endpoints() != []  # and a new connection goes on
    assert await site.b.owners() == {endpoint_id: "b-1"}


async def test_an_endpoint_that_was_deleted_has_an_owner_while_it_has_workers(site: Site) -> None:
    await site.enter()
    [endpoint_id] = await site.make(1)
    epoch = await site.a.acquire("a-1", endpoint_id)
    assert epoch is not None
    version = await site.store.commit(endpoint_id, 0, epoch, [worker(1, endpoint_id)], None)
    await site.store.drop_endpoint(endpoint_id)
    assert await site.b.owners() == {endpoint_id: "a-1"}
    await site.store.commit(endpoint_id, version, epoch, [worker(1, endpoint_id, state=State.DESTROYED)], None)
    assert await site.b.owners() == {}
    assert await site.b.acquire("b-1", EndpointId(0)) == 1  # of instances that nobody owns


async def test_changes_are_told(site: Site) -> None:
    told = asyncio.Queue[str]()
    await site.enter()
    site.a.on_notice = told.put_nowait
    ids = await site.make(1)
    while await told.get() != "endpoints":  # how it was entered may be told late
        pass
    await site.b.acquire("b-1", ids[0])
    while await told.get() != "owners":
        pass


async def test_what_was_shared_first_is_shared(site: Site) -> None:
    assert await site.a.shared_file("secret") is None
    assert await site.a.put_shared_file("secret", b"\0one") == b"\0one"
    assert await site.b.put_shared_file("secret", b"two") == b"\0one"
    assert await site.b.shared_file("secret") == b"\0one"
    assert await site.b.put_shared_file("secret", b"three", replace=True) == b"three"
    assert await site.a.shared_file("secret") == b"three"
