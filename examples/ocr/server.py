"""A small OCR server: reads the text in a picture, on the CPU, with models that come inside the package `rapidocr`.

POST /ocr      {"image": "<PNG or JPEG in base64>"} -> {"text": ..., "lines": [{"text", "score", "box"}, ...]}
GET  /health   200; the server listens once its models are loaded

Standard library for HTTP; the agent in front of it bounds how many requests come at once.
"""

import argparse
import base64
import binascii
import io
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image
from rapidocr import RapidOCR

MAX_BODY_BYTES = 20 * 2**20
MAX_PIXELS = 25_000_000  # a page at 400 dpi has 15 million
SILENCE_S = 30.0  # longest time without a byte from a client


class Wrong(Exception):
    """What is wrong with a request."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class Reader:
    """The models. They read one picture at a time."""

    def __init__(self, threads: int) -> None:
        self._one_at_a_time = threading.Lock()
        self._ocr = RapidOCR(
            params={"Global.log_level": "warning", "EngineConfig.onnxruntime.intra_op_num_threads": threads}
        )

    def read(self, picture: Image.Image) -> list[dict[str, Any]]:
        """Returns the lines of text, from top to bottom; `instance` is the corners in pixels, `score` up to 1."""
        with self._one_at_a_time:
            found = self._ocr(np.asarray(picture.convert("RGB"))[:, :, ::-1])  # it expects BGR
        if found.txts is None:
            return []
        return [
            {"text": text, "score": round(float(score), 4), "box": instance.round().astype(int).tolist()}
            for text, score, instance in zip(found.txts, found.scores, found.instances, strict=True)
        ]


def picture_in(body: bytes) -> Image.Image:
    """Raises: Wrong, naming the field."""
    try:
        image = json.loads(body)["image"]
        picture = Image.open(io.BytesIO(base64.b64decode(image, validate=True)), formats=("PNG", "JPEG"))
        if picture.width * picture.height > MAX_PIXELS:
            raise Wrong(f"image: has {picture.width} x {picture.height} pixels, at most {MAX_PIXELS} are allowed")
        picture.load()
    except (ValueError, TypeError, KeyError, binascii.Error, OSError, SyntaxError, Image.DecompressionBombError):
        raise Wrong('the body must be {"image": "<PNG or JPEG in base64>"}') from None
    return picture


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S
    reader: Reader

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"status": "ok"})
        else:
            self._answer(404, {"error": "there are only GET /health and POST /ocr"})

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path != "/ocr":
                raise Wrong("there are only GET /health and POST /ocr", 404)
            lines = self.reader.read(picture_in(body))
        except Wrong as error:
            self._answer(error.status, {"error": str(error)})
        else:
            self._answer(200, {"text": "\n".join(line["text"] for line in lines), "lines": lines})

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # the body stays unread
            raise Wrong(f"Content-Length must be a number of at most {MAX_BODY_BYTES}", 413 if length else 411)
        return self.rfile.read(int(length))

    def _answer(self, status: int, reply: dict[str, Any]) -> None:
        body = json.dumps(reply, ensure_ascii=False).encode()
        with suppress(ConnectionError):  # the client has left
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads the text in pictures, over HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for one picture (default 1)")
    given = parser.parse_args()
    Handler.reader = Reader(given.threads)
    server = ThreadingHTTPServer((given.host, given.port), Handler)
    print(f"models loaded, listening on http://{given.host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
