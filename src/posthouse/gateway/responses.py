"""OpenAI's responses, which go on from each other and can be asked for later: at the worker that keeps them."""

import msgspec

from posthouse.client.answers import Routed
from posthouse.client.errors import NotFound, Unauthorized
from posthouse.gateway.aliases import Step
from posthouse.gateway.asked import Asked, going_on
from posthouse.gateway.counted import Passing
from posthouse.gateway.errors import Refused, unknown_response
from posthouse.gateway.exchange import Exchange
from posthouse.gateway.inward import Request
from posthouse.gateway.repeats import Repeat
from posthouse.gateway.stored import CALLS, PATH, Home, Renamed, found
from posthouse.gateway.ways import Ways
from posthouse.http1.reply import Reply
from posthouse.wire.grant import read


class ResponseExchange(Exchange):
    """A request whose answer is a response, or that goes on from one."""

    _changes = True

    def __init__(self, ways: Ways, client: Request, key: str, asked: Asked, repeat: Repeat | None = None) -> None:
        super().__init__(ways, client, key, asked, repeat)
        self._at = asked.home

    async def run(self) -> None:
        if self._asked.home is None and isinstance(self._asked.body, bytes):
            self._asked = going_on(self._asked, self._asked.body, self._key)
        await super().run()

    async def _begin(self) -> tuple[Reply, bytes]:
        if (home := self._asked.home) is None:
            return await super()._begin()
        holds = home.adapter and self._named.endswith(f":{home.adapter}")
        self._asked = msgspec.structs.replace(self._asked, adapter=home.adapter if holds else "")
        try:
            return await self._begin_at(Step(home.endpoint))
        except (Unauthorized, NotFound):
            raise unknown_response(goes_on=self._asked.path == PATH) from None

    async def _ask(self, routed: Routed) -> tuple[Reply, bytes]:
        grant = read(routed.signature)
        self._at = Home(grant.worker_id, self._asked.model, self._asked.adapter) if grant else None
        return await super()._ask(routed)

    def _passes(self, is_stream: bool) -> Passing:
        return Renamed(super()._passes(is_stream), self._key, lambda: self._at)


def of_response(client: Request, key: str) -> Asked:
    """A call about a response that a worker keeps. Raises: Refused."""
    named, slash, rest = client.path.removeprefix(f"{PATH}/").partition("/")
    if client.method not in CALLS.get(slash + rest, ()):
        status = 405 if slash + rest in CALLS else 404
        raise Refused(
            status, "unknown_url", f"{client.method} {client.path[:200]}: there is no such call of a response"
        )
    if (known := found(key, named)) is None:
        raise unknown_response(goes_on=False)
    own, home = known
    query = f"?{client.head.query.decode('latin-1')}" if client.head.query else ""
    path = f"{PATH}/{own}{slash}{rest}{query}"
    return Asked(home.endpoint, path, None, 0.0, method=client.method, home=home)
