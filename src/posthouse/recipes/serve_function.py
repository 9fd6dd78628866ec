"""Serves a Python function over HTTP: a JSON object in, one out. For any Python 3.9 or later, without packages.

    POST ROUTE    calls it, one request after the other, all in one thread
    GET /health   200 once its file has been loaded

`ValueError` is answered with 400, a GPU that is out of memory with 503, what else is raised with 500. After an error of
CUDA the process ends: its context never recovers.
"""

import argparse
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MAX_BODY = 256 * 2**20  # the agent in front of it takes less


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, route: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.route = route
        self.function: Callable[[Any], Any] | None = None
        self.thread = ThreadPoolExecutor(1)  # frameworks keep the GPU's state by thread

    def load(self, file: str, name: str) -> None:
        """Load the file and call its `load`, if there is one."""
        spec = importlib.util.spec_from_file_location("function", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        getattr(module, "load", lambda: None)()
        self.function = getattr(module, name)
        print("READY", flush=True)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200 if self.server.function else 503, {})
        else:
            self._answer(404, {"error": "there is GET /health and POST " + self.server.route})

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if self.path.partition("?")[0] != self.server.route:
            self._answer(404, {"error": "there is GET /health and POST " + self.server.route})
        elif self.server.function is None:
            self._answer(503, {"error": "the function is not loaded yet"})
        elif not size.isdigit() or int(size) > _MAX_BODY:
            self._answer(411, {"error": f"the body needs a Content-Length of at most {_MAX_BODY}"})
        else:
            try:
                payload = json.loads(self.rfile.read(int(size)) or b"{}")
            except ValueError:
                self._answer(400, {"error": "the body is not JSON"})
            else:
                self._answer(*self.server.thread.submit(_called, self.server.function, payload).result())

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass


def _called(function: Callable[[Any], Any], payload: Any) -> tuple[int, Any]:
    """Status and body of the answer."""
    try:
        result = function(payload)
        json.dumps(result)
        return 200, result
    except ValueError as error:
        return 400, {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - the seam of a request: it is logged, and the client told
        traceback.print_exc()
        if type(error).__name__ == "OutOfMemoryError":
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()
            return 503, {"error": "the GPU is out of memory"}
        if "CUDA error" in str(error):
            os._exit(1)
        return 500, {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True, help="the file with the function")
    parser.add_argument("--function", default="run", help="its name")
    parser.add_argument("--route", default="/", help="path that calls it")
    args = parser.parse_args()
    server = Server(args.port, args.route)

    def load() -> None:
        try:
            server.load(args.file, args.function)
        except BaseException:  # noqa: BLE001 - whatever it is, nothing will be served
            traceback.print_exc()
            print("posthouse: the function cannot be loaded", file=sys.stderr, flush=True)
            os._exit(1)

    server.thread.submit(load)
    server.serve_forever()


if __name__ == "__main__":
    main()
