"""Requests of a gateway's callers, as they come in together."""

import asyncio
from itertools import pairwise

from posthouse.gateway import inward
from posthouse.gateway.inward import Inward, Request

ASKED = b"GET /alive HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """Takes everything."""

    def is_closing(self) -> bool:
        return False


async def test_of_requests_that_come_together_some_begin_in_each_turn_and_none_whose_caller_has_left() -> None:
    begun: list[Request] = []

    async def answer(request: Request) -> None:
        begun.append(request)

    callers = Inward(answer, 4096, 0, 0.0)
    count = 2 * inward.AT_ONCE + 3
    connections = [callers.connection() for _ in range(count)]
    for connection in connections:
        connection.connection_made(Transport())
        connection.data_received(ASKED)
    connections[1].connection_lost(None)
    seen = []
    while len(begun) < count - 1:
        seen.append(len(begun))
        await asyncio.sleep(0)
    assert max(later - before for before, later in pairwise(seen)) == inward.AT_ONCE
    assert [request.connection for request in begun] == [connections[0], *connections[2:]]
