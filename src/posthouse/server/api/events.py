"""`GET /v1/events`: what happens, as a stream of server-sent events."""

from typing import Annotated

from fastapi import FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse

from posthouse.engine.hub import Hub
from posthouse.engine.stream import EventStream
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.console.sessions import Sessions
from posthouse.server.middleware import Caller
from posthouse.wire.rows.events import Happening, Lost

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no", "connection": "close"}
"""Neither a browser nor a proxy may keep what is new; and when the stream ends, so does its connection."""


class EventStreamResponse(StreamingResponse):
    media_type = "text/event-stream"


def add_event_routes(app: FastAPI, hub: Hub, stream: EventStream, sessions: Sessions) -> None:
    @app.get("/v1/events", response_model=Happening | Lost, responses={200: {"content": {"text/event-stream": {}}}})
    async def watch_events(
        caller: Caller,
        endpoint: str = "",
        after: Annotated[int | None, Query(ge=0)] = None,
        last_event_id: Annotated[int | None, Header(ge=0)] = None,
        beat_s: Annotated[float | None, Query(ge=1, le=60)] = None,
    ) -> Response:
        """What happens to your endpoints, or to `endpoint`, by its name or id, as server-sent events.

        It begins with what happens next, or after the event that `after` or the header `Last-Event-ID` names. Each
        event's `data` is one of the objects below, and its name says which. Comments keep a quiet stream open; with
        `beat_s` it has an event `beat` instead, after so many seconds without an event.
        """
        wanted = find_endpoint(hub, caller, endpoint) if endpoint else None
        seen = last_event_id if after is None else after
        frames = stream.watch(caller.sees, wanted, seen, lambda: sessions.lasts(caller, hub.clock.now()), beat_s)
        return EventStreamResponse(frames, headers=HEADERS)
