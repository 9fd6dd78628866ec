"""Each middleware by itself, around the smallest application."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from posthouse import errors
from posthouse.errors import BadRequest, Busy, IllegalMove, NotFound, OfferTaken, PosthouseError
from posthouse.server.errors import TooLarge, problem
from posthouse.server.middleware import BodyMiddleware, ErrorMiddleware, JsonMiddleware, RequestMiddleware

NOBODY_CALLS = {PosthouseError, OfferTaken, IllegalMove}
"""Errors that no call of a user brings about."""


async def answer(app: Any, *pieces: bytes, method: str = "POST", path: str = "/x") -> tuple[int, Any]:
    """Status and body; 0 where nothing was sent."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    said = b"".join(message.get("body", b"") for message in sent)
    return (sent[0]["status"] if sent else 0), json.loads(said) if said else None


def echo(scope: Any, receive: Any, send: Any) -> Any:
    """Says what it was asked."""

    async def run() -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        said = {"method": scope["method"], "path": scope["path"], "body": len(body)}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    return run()


def failing(error: Exception) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "code", "path"),
    [
        (BadRequest("name: is missing"), 400, "invalid_args", "/x"),
        (NotFound("there is no endpoint 7"), 404, "no_such_endpoint", "/api/v0/endptjobs/7"),
        (NotFound("there is no key k"), 404, "not_found", "/v1/keys/k"),
        (Busy("the provider is", 3.2), 503, "busy", "/x"),
    ],
)
async def test_what_was_raised_on_purpose_is_the_answer(error: Exception, status: int, code: str, path: str) -> None:
    got, said = await answer(ErrorMiddleware(failing(error)), path=path)
    assert (got, said) == (status, {"success": False, "error": code, "msg": str(error)})


async def test_a_bug_is_answered_without_its_text_logged_with_it_and_raised_again() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [(b"x-request-id", b"r-1")]}
    app = RequestMiddleware(ErrorMiddleware(failing(ZeroDivisionError("secret"))))
    with capture_logs() as logs, pytest.raises(ZeroDivisionError):
        await app(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert "ZeroDivisionError: secret" in logs[0]["trace"]
    assert logs[0]["request_id"] == "r-1"
    assert b"r-1" in sent[1]["body"]
    assert (b"x-request-id", b"r-1") in sent[0]["headers"]


async def test_a_body_is_read_to_its_limit_and_given_on_whole() -> None:
    limited = BodyMiddleware(echo, max_bytes=10)
    assert await answer(limited, b"12345", b"67890") == (200, {"method": "POST", "path": "/x", "body": 10})
    with pytest.raises(TooLarge, match="at most 10 bytes"):
        await answer(limited, b"12345", b"678901")


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b"[[1]]", b'{"a": [1, 2]}'])
async def test_json_up_to_its_depth_passes(body: bytes) -> None:
    assert (await answer(BodyMiddleware(JsonMiddleware(echo, max_depth=3)), body))[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[[[1]]]", b'{"a": {"b": [1]}}', b"[" * 100_000, b"\xff"])
async def test_what_is_no_json_or_too_deep_does_not(body: bytes) -> None:
    with pytest.raises(BadRequest, match="body: "):
        await answer(BodyMiddleware(JsonMiddleware(echo, max_depth=3)), body)


async def test_head_is_a_get_and_a_slash_at_the_end_is_none() -> None:
    said = await answer(RequestMiddleware(echo), method="HEAD", path="/v1/status/")
    assert said == (200, {"method": "GET", "path": "/v1/status", "body": 0})


def test_every_error_that_a_call_may_bring_about_has_its_answer() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PosthouseError)}
    for kind in kinds:
        error = kind("x", 1.0) if issubclass(kind, Busy) else kind("x")
        assert (problem(error) is None) is (kind in NOBODY_CALLS), kind
