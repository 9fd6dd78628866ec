"""How the client reads streams and errors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.client import Answer, BadRequest, Client, ClientError, NotFound, Unauthorized, WorkerFailed
from posthouse.client.errors import refusal
from posthouse.client.events import MAX_EVENT_BYTES, ServerEvent, events

SSE = "text/event-stream"


async def read(content_type: str, *chunks: bytes, most: int = MAX_EVENT_BYTES) -> list[Any]:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [event async for event in events(content_type, arriving(), most)]


async def test_events_of_sse_are_decoded_and_done_is_dropped() -> None:
    assert await read(SSE, b'data:{"a":1}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n') == [{"a": 1}, {"a": 2}]


async def test_events_may_be_cut_anywhere() -> None:
    stream = 'data: {"text":"Grüße"}\r\n\r\n: a comment\r\n\r\nevent: end\r\ndata: bye\r\n\r\n'.encode()
    for size in (1, 2, 3, 7, 64):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert await read(SSE, *pieces) == [{"text": "Grüße"}, ServerEvent("bye", "end")]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_every_form_that_the_standard_allows_is_read(end: str, mark: str, size: int) -> None:
    rows = [
        "data: 1",
        "",
        ":ping",
        "",
        "retry: 50",
        "event:delta",
        "id: a",
        "data: 2",
        "data:",
        "",
        "event: none",
        "",
        "data",
    ]
    stream = (mark + end.join([*rows, "", "id: b\0", "data: 3", "", "id", "data: 4", "", ""])).encode()
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert await read(SSE, *pieces) == [
        1,
        ServerEvent(2, "delta", "a", 50),
        ServerEvent("", "", "a", 50),
        ServerEvent(3, "", "a", 50),
        4,
    ]


async def test_a_large_event_in_small_pieces_is_read_in_time_that_grows_with_its_size() -> None:
    text = "x" * 8_000_000
    stream = f'data: "{text}"\n\n'.encode()
    assert await read(SSE, *(stream[i : i + 4096] for i in range(0, len(stream), 4096))) == [text]


async def test_data_of_several_lines_is_one_event_and_the_last_needs_no_empty_line() -> None:
    assert await read(SSE, b"data: one\ndata: two\n\ndata: 3") == ["one\ntwo", 3]
    assert await read(SSE, b"data: 1\n\ndata: [DONE]") == [1]


async def test_json_lines_are_events() -> None:
    assert await read("application/x-ndjson", b'{"a":1}\n\n{"a"', b":2}\nnot json") == [{"a": 1}, {"a": 2}, "not json"]


async def test_other_streams_come_as_bytes() -> None:
    assert await read("audio/wav", b"\x00\x01", b"\x02") == [b"\x00\x01", b"\x02"]


@pytest.mark.parametrize("line", [b"data: ", b"data: x\n"])
async def test_an_event_without_end_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="longer than"):
        await read(SSE, *[line * 20] * 48, b"x" * 101, most=100)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "said"),
    [
        (401, b'{"error": "key is wrong"}', Unauthorized, "", "key is wrong"),
        (400, b'{"success": false, "error": "invalid_args", "msg": "no name"}', BadRequest, "invalid_args", "no name"),
        (404, b'{"success": false, "error": "no_such_endpoint", "msg": ""}', NotFound, "", "no_such_endpoint"),
        (400, b'{"error": {"message": "prompt is missing", "type": "x"}}', BadRequest, "", "prompt is missing"),
        (422, b'{"detail": [{"loc": ["body", "scope"]}]}', BadRequest, "", "scope"),
        (500, b"<html>\xff", ClientError, "", "<html>"),
        (403, b"", Unauthorized, "", "no explanation"),
    ],
)
def test_every_shape_of_error_is_understood(
    status: int, body: bytes, kind: type[ClientError], code: str, said: str
) -> None:
    error = refusal(status, body, "GET /x")
    assert (type(error), error.status, error.code) == (kind, status, code)
    assert str(error).startswith("GET /x: ")
    assert said in error.message


def test_an_answer_that_is_no_json_says_so() -> None:
    answer = Answer(200, b"hello", "text/plain", "http://w", 0.0, 1)
    assert answer.text == "hello"
    with pytest.raises(WorkerFailed, match="http://w is not JSON"):
        answer.json()


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHOUSE_URL", "localhost:8080")
    with pytest.raises(BadRequest, match="must begin with http"):
        Client()


def test_a_file_of_roots_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("absent.pem", "empty.pem"):
        monkeypatch.setenv("POSTHOUSE_CA", str(tmp_path / name))
        with pytest.raises(BadRequest, match=rf"ca is '.*/{name}'; it must be a file of certificates in PEM"):
            Client()
