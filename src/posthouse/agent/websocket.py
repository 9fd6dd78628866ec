"""WebSockets: messages passed on between a client and the model server, in both directions at once."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientWebSocketResponse,
    ClientWSTimeout,
    WSMsgType,
    WSServerHandshakeError,
    web,
)
from yarl import URL

from posthouse.relay import Ending, Relay

log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 30.0  # who does not answer a ping in half of that is gone
_CLOSE_S: Final = 5.0
_LAST_S: Final = 1.0  # for the last words once a client has gone
_GOING_AWAY: Final = 1001
_ABNORMAL: Final = 1006  # no close frame came
_PASSED_ON: Final = frozenset(range(1000, 5000)) - {1004, 1005, _ABNORMAL, 1015}  # RFC 6455, 7.4

_Socket = web.WebSocketResponse | ClientWebSocketResponse


class Rejected(Exception):
    """The model server takes no WebSocket here; it answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def join(
    relay: Relay, client: web.Request, url: URL, headers: Mapping[str, str], max_message_bytes: int, silence_s: float
) -> tuple[web.StreamResponse, Ending]:
    """Return once one of the two has closed, and how it ended. `silence_s`: longest time without a message; 0: none.

    Raises: Rejected; the error that the relay's `refuse` makes when the model server does not answer.
    """
    joined = asyncio.create_task(_join(relay, client, url, headers, max_message_bytes, silence_s))
    try:
        return await asyncio.shield(joined)
    except asyncio.CancelledError:  # also when the client has closed in order: the model server is to hear of it
        await asyncio.wait([joined], timeout=_LAST_S)
        joined.cancel()
        await asyncio.wait([joined])
        if joined.cancelled() or joined.exception() or (task := asyncio.current_task()) is None:
            raise
        task.uncancel()
        return joined.result()


async def _join(
    relay: Relay, client: web.Request, url: URL, headers: Mapping[str, str], max_message_bytes: int, silence_s: float
) -> tuple[web.StreamResponse, Ending]:
    offered = [p.strip() for p in client.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
    passed = relay.headers(client, own_body=False, more=headers)
    for name in [name for name in passed if name.lower().startswith("sec-websocket-")]:
        passed.popall(name, None)  # of this one connection
    try:
        model = await relay.session.ws_connect(
            url,
            headers=passed,
            protocols=offered,
            max_msg_size=max_message_bytes,
            heartbeat=_HEARTBEAT_S,
            timeout=ClientWSTimeout(ws_close=_CLOSE_S),
        )
    except WSServerHandshakeError as error:
        raise Rejected(error.status) from None
    except TimeoutError:
        raise relay.refuse("silent") from None
    except (ClientError, OSError) as error:
        log.warning("relay: %s", type(error).__name__)
        raise relay.refuse("unreachable" if isinstance(error, ClientConnectorError) else "broke off") from None
    async with model:
        chosen = [model.protocol] if model.protocol else []
        response = web.WebSocketResponse(
            protocols=chosen, max_msg_size=max_message_bytes, heartbeat=_HEARTBEAT_S, timeout=_CLOSE_S, compress=False
        )
        await response.prepare(client)
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(silence_s or None) as quiet:

                def said(is_answer: bool) -> None:
                    if silence_s:
                        quiet.reschedule(loop.time() + silence_s)
                    if is_answer:
                        relay.on_answer()

                ways = [
                    asyncio.create_task(_pass_on(response, model, relay.stall_s, lambda: said(is_answer=False))),
                    asyncio.create_task(_pass_on(model, response, relay.stall_s, lambda: said(is_answer=True))),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    by_client = ways[0].done()
                    ended, other = (response, model) if by_client else (model, response)
                    await _close(other, ended.close_code)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.wait(ways)
        await _close(response, _GOING_AWAY)
    left = response.close_code in {None, _ABNORMAL}
    return response, "client left" if left else "broken" if model.close_code == _ABNORMAL else "complete"


async def _close(socket: _Socket, code: int | None) -> None:
    """Close it with the code that the other side was closed with, unless it has closed itself."""
    with suppress(ClientError, OSError, TimeoutError, RuntimeError):
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(code=code if code in _PASSED_ON else _GOING_AWAY)


async def _pass_on(source: _Socket, target: _Socket, stall_s: float, said: Callable[[], None]) -> None:
    """Pass messages on until the source closes, or the target takes nothing for a while."""
    async for message in source:
        said()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(stall_s):
                if message.type is WSMsgType.TEXT:
                    await target.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await target.send_bytes(message.data)
            continue
        return
