"""The server's own HTTP server: the calls of the fast path, and an application for everything else."""

import structlog

from posthouse.http1 import server
from posthouse.server.asgi import App
from posthouse.server.calls import Call
from posthouse.server.connection import Connection
from posthouse.server.fastpath import FastPath

log = structlog.get_logger()


class HttpServer(server.HttpServer):
    """Serves `fast` where requests are read, and `app` for everything else."""

    def __init__(self, fast: FastPath, app: App, max_connections: int = 10_000) -> None:
        super().__init__(max_connections)
        self.fast = fast
        self.app = app
        self._due: list[tuple[Connection, Call]] = []

    def connection(self) -> Connection:
        return Connection(self)

    def answer_soon(self, connection: Connection, call: Call) -> None:
        """Has a call answered once all that has come on other connections has been read."""
        if not self._due:
            connection.loop.call_soon(self._answer_due)
        self._due.append((connection, call))

    def _answer_due(self) -> None:
        due, self._due = self._due, []
        for connection, call in due:
            try:
                connection.answer(call)
            except Exception as error:  # noqa: BLE001 - others are due after it
                log.error("an answer could not be written", error=repr(error)[:500])
                connection.transport.abort()
