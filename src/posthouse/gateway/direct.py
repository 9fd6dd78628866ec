"""Direct mode: the caller is told of a worker and gets its proof, and no byte of the answer passes here."""

import base64
from typing import Final

import msgspec

from posthouse.client.answers import Routed
from posthouse.gateway.aliases import Step
from posthouse.gateway.errors import RETRY_S, Refused
from posthouse.gateway.exchange import Exchange
from posthouse.gateway.outward import REQUEST_ID
from posthouse.http1.reply import Reply
from posthouse.wire.grant import AUTH_HEADER

DIRECT_HEADER: Final = b"x-posthouse-direct"
"""With it a caller asks for this mode; any value but an empty one."""
MODEL_HEADER: Final = b"x-posthouse-model"
"""What the caller's `model` stands for, as the worker's engine knows it."""


class _Found(Exception):
    """There is a worker."""

    def __init__(self, routed: Routed) -> None:
        super().__init__(routed.url)
        self.routed = routed


class DirectExchange(Exchange):
    """A request whose caller goes to the worker itself."""

    async def run(self) -> None:
        """Answer with 307, a worker's address and the proof that it takes. Raises: Refused."""
        self._asked = msgspec.structs.replace(self._asked, stream=False)  # no comment may begin an answer
        try:
            await super().run()
        except _Found as found:
            proof = base64.b64encode(msgspec.json.encode(found.routed.auth_data))
            headers = [
                (b"location", (found.routed.url.rstrip("/") + self._asked.path).encode()),
                (AUTH_HEADER.lower().encode(), proof),
                (MODEL_HEADER, (found.routed.model or self._asked.model).encode()),
                (REQUEST_ID, self._client.id.encode()),
            ]
            self._client.answer(307, b"", headers)

    async def _begin_outside(self, step: Step) -> tuple[Reply, bytes]:
        text = "no worker is free; the fallback on a server that is not ours takes no direct request"
        raise Refused(503, "no_worker", text, retry_s=RETRY_S)

    async def _ask(self, routed: Routed) -> tuple[Reply, bytes]:
        self._client.prove()
        self._worker, self._outcome, self.status = routed.url, "direct", 307
        raise _Found(routed)
