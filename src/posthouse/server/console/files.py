"""The console's files: a bundle that `npm run build` makes of `console/`, and the wheel carries."""

import gzip
import hashlib
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from posthouse.errors import NotFound

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What a page of the console may do: run its own files, and call this server."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
    "txt": "text/plain; charset=utf-8",
}
PAGE: Final = "index.html"


class File(NamedTuple):
    """A file of the bundle."""

    content: bytes
    packed: bytes
    """The same with gzip; empty where that is not shorter."""
    kind: str
    tag: str


def add_console_routes(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def lead_to_console(request: Request) -> Response:
        """Redirects a browser that opens the server's root to the console."""
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)
        return RedirectResponse("/console/", 303)

    @app.get("/console", include_in_schema=False)
    def console_page(request: Request) -> Response:
        """The console, for a browser."""
        return _answer(PAGE, request)

    @app.get("/console/{path:path}", include_in_schema=False)
    def console_file(path: str, request: Request) -> Response:
        """A file, or the page: every address of the console is one of the page's own."""
        if path.startswith("assets/") and path not in bundle():
            raise NotFound(f"the console has no file {path[:100]!r}")
        return _answer(path if path in bundle() else PAGE, request)


@lru_cache(1)
def bundle() -> dict[str, File]:
    """Every file by its path, in memory: some 250 kB."""
    found: dict[str, File] = {}

    def take(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                take(entry, f"{prefix}{entry.name}/")
            elif (kind := TYPES.get(entry.name.rpartition(".")[2])) is not None:
                content = entry.read_bytes()
                packed = gzip.compress(content, 9, mtime=0)
                tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
                found[prefix + entry.name] = File(content, packed if len(packed) < len(content) else b"", kind, tag)

    take(resources.files(__package__).joinpath("bundle"), "")
    return found


def _answer(path: str, request: Request) -> Response:
    file = bundle()[path]
    headers = {**HEADERS, "ETag": file.tag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if file.packed and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, media_type=file.kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.kind, headers=headers)
