"""A `/route/` call as a span, and the time for which it is held as one within."""

from collections.abc import Callable

from posthouse import tracing
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Deliver
from posthouse.server.calls import Call, Leave
from posthouse.wire.route import RouteAsk, RouteReply, WaitReply

Go = Callable[[ManagedEndpoint, RouteAsk, Deliver, str, float], Leave | None]
"""Gives a request of a caller a worker, as `Router.route` does."""


def traced(
    call: Call, go: Go, managed: ManagedEndpoint, ask: RouteAsk, deliver: Deliver, caller: str, now: float
) -> Leave | None:
    """The same as `go`."""
    parent = next((value.decode("latin-1") for name, value in call.headers if name == tracing.HEADER.encode()), "")
    span, queue = tracing.begin("route", parent, "SERVER", endpoint=ask.endpoint), None

    def traced_deliver(reply: RouteReply | WaitReply | Exception) -> None:
        if queue is not None:
            queue.end()
        if isinstance(reply, Exception):
            span.end(error=type(reply).__name__)
        else:
            url = reply.url if isinstance(reply, RouteReply) else ""
            span.end(outcome="worker" if url else "waits", worker=url, request_idx=reply.request_idx)
        deliver(reply)

    try:
        leave = go(managed, ask, traced_deliver, caller, now)
    except Exception as error:
        span.end(error=type(error).__name__)
        raise
    if leave is None or span.is_over:
        return leave
    queue = tracing.begin("queue", span)

    def left() -> None:
        queue.end()
        span.end(outcome="left")
        leave()

    return left
