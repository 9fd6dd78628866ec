"""The server's own HTTP server: the calls of the fast path, and an application for everything else."""

from posthouse.http1 import server
from posthouse.server.asgi import App
from posthouse.server.connection import Connection
from posthouse.server.fastpath import FastPath


class HttpServer(server.HttpServer):
    """Serves `fast` where requests are read, and `app` for everything else."""

    def __init__(self, fast: FastPath, app: App, max_connections: int = 10_000) -> None:
        super().__init__(max_connections)
        self.fast = fast
        self.app = app

    def connection(self) -> Connection:
        return Connection(self)
