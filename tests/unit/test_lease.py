"""The lease of one of several servers, as this server knows it."""

from typing import cast

import pytest

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.lease import MARGIN, SharedLease, SoleLease
from posthouse.sharing import Servers


class Table:
    """What the store answers."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, str, float]] = []
        self.taken: list[tuple[str, int]] = []

    async def register(self, server: str, url: str, lease_s: float) -> None:
        self.registered.append((server, url, lease_s))

    async def acquire(self, server: str, endpoint_id: EndpointId) -> int | None:
        self.taken.append((server, endpoint_id))
        return None if endpoint_id == 9 else 7


def lease(at: list[float]) -> tuple[SharedLease, Table]:
    table = Table()
    return SharedLease(cast(Servers, table), "id", 2.0, lambda: at[0]), table


def test_it_holds_for_less_than_its_length_from_before_it_was_asked_for() -> None:
    at = [100.0]
    held, _ = lease(at)
    assert not held.holds()
    held.renewed(100.0)
    at[0] = 100.0 + 2.0 * (1 - MARGIN) - 0.001
    assert held.holds()
    at[0] += 0.001
    assert not held.holds()


def test_once_it_is_over_it_is_in_doubt_until_the_store_was_asked_or_cannot_be() -> None:
    at = [100.0]
    held, _ = lease(at)
    held.renewed(100.0)
    assert not held.may_be_lost()
    at[0] = 130.0  # it was stopped
    assert held.may_be_lost()
    held.cut_off = True
    assert not held.may_be_lost()  # nobody can have taken anything, as far as it knows: it routes on
    assert not held.holds()  # and begins nothing
    held.renewed(130.0)
    assert held.holds()
    assert not held.cut_off


@pytest.mark.asyncio
async def test_each_life_has_a_name_of_its_own_and_nothing_of_the_one_before() -> None:
    held, table = lease([0.0])
    await held.register("http://a")
    held.renewed(0.0)
    held.granted[EndpointId(1)] = 5
    first = held.server
    await held.register("http://a")
    assert held.server != first
    assert {name.partition("-")[0] for name in (first, held.server)} == {"id"}
    assert [registered[1:] for registered in table.registered] == [("http://a", 2.0)] * 2
    assert (held.holds(), held.granted) == (False, {})


@pytest.mark.asyncio
async def test_what_was_claimed_is_not_asked_for_again_but_once() -> None:
    held, table = lease([0.0])
    held.granted[EndpointId(1)] = 5
    assert [await held.acquire(EndpointId(i)) for i in (1, 1, 9)] == [5, 7, None]
    assert [endpoint_id for _, endpoint_id in table.taken] == [1, 9]


def test_the_only_server_holds_everything_at_any_time() -> None:
    assert SoleLease().holds()
    assert not SoleLease().is_shared()
