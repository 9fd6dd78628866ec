"""What the gateway reads of requests and answers while they pass."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.cli import main
from posthouse.client import BadRequest, Busy, TimedOut, Unauthorized, Unreachable, WorkerFailed
from posthouse.client.errors import ClientError
from posthouse.gateway.aliases import MAX_STEPS, Step, steps, too_long
from posthouse.gateway.asked import read
from posthouse.gateway.counted import END_BYTES, MAX_EVENT_BYTES, Document, Events, Usage
from posthouse.gateway.errors import Refused, as_event, refusal, refused_by_agent, unknown_model
from posthouse.gateway.learned import AFTER, MAX_KINDS, Learned
from posthouse.gateway.records import Record, Records
from posthouse.gateway.records import read as read_records
from posthouse.gateway.repeats import KEPT_S, MAX_ANSWER_BYTES, MAX_BYTES, Repeats
from posthouse.gateway.retries import MAX_AT_ONCE, PER_S, SHARE, Retries
from posthouse.gateway.upload import Field, Upload
from posthouse.wire.rows import Alias, AliasFallback, AliasTarget

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
FIRST = b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
LONG = b'data: {"choices":[{"text":"' + b"x" * (2 * MAX_EVENT_BYTES) + b'"}]}\n\n'


def passed(events: Events, *chunks: bytes) -> bytes:
    return b"".join(events.feed(chunk) for chunk in chunks) + events.rest()


@given(
    st.lists(st.sampled_from([FIRST, LONG, b": ping\n\n", b"event: x\ndata: 1\n\n"]), max_size=4),
    st.lists(st.integers(1, 40_000), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_however_a_stream_is_cut_only_the_event_of_usage_is_taken_out(
    before: list[bytes], cuts: list[int], hides: bool, crlf: bool
) -> None:
    sent, kept = [b"".join([*before, *more, DONE]) for more in ([LAST], [] if hides else [LAST])]
    if crlf:
        sent, kept = sent.replace(b"\n", b"\r\n"), kept.replace(b"\n", b"\r\n")
    events, chunks = Events(hides), []
    rest = sent
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    assert passed(events, *chunks, rest) == kept
    assert events.usage == Usage(3, 2)
    assert events.is_whole


def test_a_stream_passes_event_by_event_and_byte_by_byte_in_a_long_one() -> None:
    events = Events(hides_usage=True)
    assert events.feed(FIRST[:-1]) == b""
    assert events.is_whole
    assert events.feed(b"\n") == FIRST
    assert len(events.feed(LONG[:-10])) == len(LONG) - 12
    assert not events.is_whole
    assert events.feed(LONG[-10:]) == LONG[-12:]
    assert events.is_whole


def test_a_last_event_without_its_empty_line_passes() -> None:
    assert passed(Events(hides_usage=True), FIRST, b"data: [DONE]") == FIRST + b"data: [DONE]"
    assert passed(Events(hides_usage=True), FIRST, LAST.rstrip()) == FIRST


def test_usage_in_an_event_that_says_more_passes() -> None:
    event = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    events = Events(hides_usage=True)
    assert passed(events, event) == event
    assert events.usage == Usage(3, 2)


@pytest.mark.parametrize(
    "odd", [b'{"usage":7}', b'{"usage":{"prompt_tokens":"x"}}', b'{"usage"', b"[" * 10_000 + b'"usage"', b'"usage"\xff']
)
def test_odd_usage_passes_and_counts_nothing(odd: bytes) -> None:
    events, document = Events(hides_usage=True), Document()
    event = b"data: " + odd + b"\n\n"
    assert passed(events, event) == event
    assert (document.feed(odd), document.rest()) == (odd, b"")
    assert events.usage is document.usage is None


@pytest.mark.parametrize("after", [b"", b',"timings":{"x":1}', b',"text":"\\"usage\\":{}"', b'\n, "x": [1]'])
def test_the_usage_of_a_document_is_found_at_its_end(after: bytes) -> None:
    document = Document()
    parts = (b'{"data":[', b"1.5," * END_BYTES, b'0],"us', b'age" : {"prompt_tokens":3,"total_tokens":3}', after, b"}")
    for part in parts:
        assert document.feed(part) == part
    assert document.usage == Usage(3, 0)
    document.feed(b" " * END_BYTES)
    assert document.usage is None


def test_a_body_is_left_as_it_is_unless_it_streams_without_usage() -> None:
    for text in (
        b' {"model":"a", "stream" : false,"x":1.0}',
        b'{"model":"a","stream":true,"stream_options":{"include_usage":true}}',
        b'{"model":"a","stream":true,"stream_options":7}',
        b'{"model":"a","stream":"true"}',
    ):
        assert read(CHAT, text).body is text
        assert not read(CHAT, text).hides_usage
    assert read(EMBEDDINGS, b'{"model":"a","stream":true}').body == b'{"model":"a","stream":true}'
    asked = read(CHAT, b'{"model":"a","stream":true,"x":{"b": 1.00,"a":"\\u00e9"},"stream_options":{"y": 1.0}}')
    assert asked.body == (
        b'{"model":"a","stream":true,"x":{"b": 1.00,"a":"\\u00e9"},"stream_options":{"y":1.0,"include_usage":true}}'
    )
    assert asked.hides_usage


@given(
    st.lists(st.tuples(st.sampled_from(["x", "modell", "file"]), st.binary(max_size=60)), max_size=4),
    st.lists(st.integers(1, 200), max_size=20),
    st.text(min_size=1, max_size=20),
)
def test_a_form_s_field_is_found_however_the_form_is_cut(
    others: list[tuple[str, bytes]], cuts: list[int], model: str
) -> None:
    if any(b"--b0" in content for _, content in others) or "\r" in model or "\n" in model:
        return
    head = b'--b0\r\nContent-Disposition: form-data; name="%s"; filename="name=model"\r\n\r\n%s\r\n'
    form = b"".join(head % (name.encode(), content) for name, content in others)
    form += b'--b0\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n--b0--\r\n"
    field, came = Field("model", "multipart/form-data; boundary=b0"), bytearray()
    rest, found = form, False
    for cut in [*cuts, len(form)]:
        came += rest[:cut]
        rest = rest[cut:]
        if found := field.found(came):
            break
    assert found
    assert field.value == model


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 0}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 1e10}, None),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": True}, None),
    ],
)
def test_the_cost_is_the_tokens_asked_for(fields: dict[str, object], cost: float | None) -> None:
    assert read(CHAT, json.dumps({"model": "a", **fields}).encode()).cost == cost


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (Unauthorized("x", 401), 401, "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
        (BadRequest("x", 400), 400, "invalid_request", {}),
        (Busy("x", 429), 429, "rate_limit_exceeded", {"Retry-After": "5"}),
        (Busy("x", 503), 503, "unavailable", {"Retry-After": "5"}),
        (Unreachable("x"), 503, "unavailable", {"Retry-After": "5"}),
        (TimedOut("x"), 504, "timeout", {"X-Should-Retry": "false"}),
        (ClientError("x", 307), 502, "bad_gateway", {}),
        (WorkerFailed("x", 429, begun=False, retry_after_s=7.5), 429, "rate_limit_exceeded", {"Retry-After": "8"}),
        (WorkerFailed("x", 408, begun=False), 503, "unavailable", {"Retry-After": "5"}),
        (WorkerFailed("x"), 502, "worker_failed", {"X-Should-Retry": "false"}),
        (WorkerFailed("x", 500, "oom"), 500, "worker_failed", {"X-Should-Retry": "false"}),
    ],
)
def test_an_error_says_whether_to_come_back(
    error: ClientError, status: int, code: str, headers: dict[str, str]
) -> None:
    refused = refusal(error)
    assert (refused.status, refused.code, refused.headers) == (status, code, headers)


def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    assert str(unknown_model("x", [])) == "model: there is no model 'x'; this key has none"
    many = str(unknown_model("x", [f"m{number}" for number in range(25)]))
    assert many.endswith("'m19' and 5 more")


def test_what_an_agent_says_itself_gets_openai_s_shape() -> None:
    for engine in (b'{"error":{"message":"no"}}', b"{}", b"no", b"\xff"):
        assert refused_by_agent(422, engine, opaque=False) is None
    for status, told in ((422, 422), (401, 502)):
        refused = refused_by_agent(status, b'{"error":"no"}', opaque=False)
        assert refused is not None
        assert (refused.status, str(refused)) == (told, "the worker refuses: no")


def test_a_refusal_of_a_worker_becomes_an_event() -> None:
    assert as_event(400, b'{"error":{"message":"no"}}') == b'data: {"error":{"message":"no"}}\n\n'
    for odd in (b'{"error":"no"}', b"no", b"", b"\xff"):
        event = as_event(418, odd)
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "worker_refused"
    assert Refused(500, "x", "two\nlines").event().count(b"\n") == 2


def test_a_fifth_of_the_requests_may_be_tried_again_and_one_a_second() -> None:
    now = 0.0
    retries = Retries(lambda: now)
    assert sum(retries.take() for _ in range(1000)) == MAX_AT_ONCE
    for _ in range(100):
        retries.began()
    assert sum(retries.take() for _ in range(1000)) == pytest.approx(100 * SHARE, abs=1)
    now += 7 * PER_S
    assert sum(retries.take() for _ in range(1000)) == 7
    now += 1e9
    assert sum(retries.take() for _ in range(1000)) == MAX_AT_ONCE


def test_an_answer_is_kept_for_whoever_repeats_the_request() -> None:
    repeats = Repeats(lambda: 0.0)
    first = repeats.begin("key", "once", CHAT, b"{}")
    with pytest.raises(Refused, match="still worked on") as busy:
        repeats.begin("key", "once", CHAT, b"{}")
    assert (busy.value.status, busy.value.headers) == (409, {"Retry-After": "1"})
    first.feed(b"an ")
    first.feed(b"answer")
    repeats.end(first, 200, b"x")
    again = repeats.begin("key", "once", CHAT, b"{}")
    assert (again.status, bytes(again.answer), again.content_type) == (200, b"an answer", b"x")
    for other in ((CHAT, b"{} "), (EMBEDDINGS, b"{}")):
        with pytest.raises(Refused, match="used for another request"):
            repeats.begin("key", "once", *other)
    assert repeats.begin("another key", "once", CHAT, b"{}").status == 0
    for wrong in ("", "x" * 256):
        with pytest.raises(Refused, match="must have 1 to 255"):
            repeats.begin("key", wrong, CHAT, b"{}")


def test_what_failed_or_is_long_is_worked_out_again() -> None:
    repeats = Repeats(lambda: 0.0)
    for status, size in ((0, 1), (500, 1), (400, 1), (200, MAX_ANSWER_BYTES + 1)):
        repeat = repeats.begin("key", "once", CHAT, b"{}")
        assert repeat.status == 0
        repeat.feed(bytes(size // 2))
        repeat.feed(bytes(size - size // 2))
        assert len(repeat.answer) <= MAX_ANSWER_BYTES
        repeats.end(repeat, status, b"")


def test_old_answers_go_and_so_do_those_beyond_the_room() -> None:
    now = 0.0
    repeats = Repeats(lambda: now)

    def ask(name: str) -> int:
        repeat = repeats.begin("key", name, CHAT, b"{}")
        before = repeat.status
        if not before:
            repeat.feed(bytes(MAX_ANSWER_BYTES))
            repeats.end(repeat, 200, b"")
        return before

    assert [ask("a"), ask("a")] == [0, 200]
    for number in range(MAX_BYTES // MAX_ANSWER_BYTES):
        ask(f"other {number}")
    assert [ask("a"), ask("a")] == [0, 200]
    now += KEPT_S + 1
    assert ask("a") == 0


def record(at: float = 1.0, model: str = "m", prompt_tokens: int | None = None) -> Record:
    return Record(
        at=at,
        id="r",
        key="k",
        model=model,
        path=CHAT,
        worker="w",
        status=200,
        outcome="complete",
        begun=0,
        wait_s=0,
        first_byte_s=0,
        took_s=1,
        work=None,
        prompt_tokens=prompt_tokens,
        completion_tokens=None,
        events=0,
    )


def test_records_stay_within_their_bounds_and_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    for begin in (0, 50):
        records = Records(path, 10_000)
        for number in range(begin, begin + 50):
            records.add(record(at=float(number)))
        records.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["requests.jsonl", "requests.jsonl.1"]
    assert 5_000 < sum(file.stat().st_size for file in files) <= 10_000
    assert path.stat().st_mode & 0o077 == 0
    kept = [found.at for found in read_records(path)]
    assert kept == [float(number) for number in range(100 - len(kept), 100)]
    with path.open("ab") as file:
        file.write(b'{"at":')  # a crash
    assert [found.at for found in read_records(path)] == kept


def test_records_become_csv_without_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = Records(tmp_path / "r", 10_000)
    for model, at in (("other", 1.0), ('=1+"a",b', 2.0), ('=1+"a",b', 3.0)):
        records.add(record(model=model, at=at, prompt_tokens=3))
    records.close()
    assert main(["records", str(tmp_path / "r"), "--model", '=1+"a",b', "--json"]) == 0
    assert [json.loads(line)["at"] for line in capsys.readouterr().out.splitlines()] == [2.0, 3.0]
    assert main(["records", str(tmp_path / "r"), "--since", "60"]) == 0
    assert capsys.readouterr().out == ",".join(Record.__struct_fields__) + "\r\n"
    assert main(["records", str(tmp_path / "r")]) == 0
    names, _, row, _ = csv.reader(io.StringIO(capsys.readouterr().out))
    assert names[:4] == ["at", "id", "key", "model"]
    assert (row[3], row[names.index("prompt_tokens")]) == ('\'=1+"a",b', "3")


def test_a_full_disk_costs_records_and_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "r").symlink_to("/dev/full")
    records = Records(tmp_path / "r", 10_000)
    for _ in range(2):
        records.add(record())
    records.close()
    assert caplog.text.count("cannot be written: [Errno 28]") == 1


def test_what_states_no_work_announces_what_its_kind_came_to() -> None:
    learned, kind = Learned(), ("ph_1", "chat", CHAT)
    for tokens in (100, 200, 300, 400):
        learned.counted(kind, Usage(7, tokens))
        assert learned.work(kind) is None
    learned.counted(kind, Usage(7, 500))
    assert learned.work(kind) == 300
    for _ in range(100):
        learned.counted(kind, Usage(7, 50))
    assert learned.work(kind) == pytest.approx(50, abs=0.1)
    for other in (("ph_2", "chat", CHAT), ("ph_1", "x", CHAT), ("ph_1", "chat", EMBEDDINGS)):
        assert learned.work(other) is None
    for _ in range(AFTER):
        learned.counted(("ph_1", "chat", EMBEDDINGS), Usage(7, 0))
    assert learned.work(("ph_1", "chat", EMBEDDINGS)) is None
    for number in range(MAX_KINDS):
        learned.counted(("ph_1", f"m{number}", CHAT), Usage(7, 1))
    assert learned.work(kind) is None


def test_an_alias_draws_its_target_by_weight_and_its_fallbacks_follow() -> None:
    canary = Alias(name="c", targets=[AliasTarget(model="a", weight=3), AliasTarget(model="b")])
    draws = [0, 0.5, 0.74, 0.75, 0.999]
    drawn = [steps({"c": canary}, "c", lambda: draws.pop(0))[0].model for _ in range(len(draws))]
    assert drawn == ["a", "a", "a", "b", "b"]
    none = Alias(name="c", targets=[AliasTarget(model="a", weight=0), AliasTarget(model="b")])
    assert steps({"c": none}, "c", lambda: 0.0) == [Step("b")]
    outer = Alias(
        name="o",
        targets=[AliasTarget(model="c")],
        fallbacks=[AliasFallback(model="d", faults=["failed"]), AliasFallback(model="i", faults=["no_worker"])],
        wait_s=5,
    )
    inner = Alias(name="i", targets=[AliasTarget(model="e")], fallbacks=[AliasFallback(model="f")], wait_s=7)
    assert steps({"o": outer, "c": canary, "i": inner}, "o", lambda: 0.0) == [
        Step("a"),
        Step("d", frozenset({"failed"}), 5),
        Step("e", frozenset({"no_worker"}), 7),
        Step("f", frozenset({"no_worker", "rate_limited", "failed"}), 7),
    ]


def test_a_circle_of_aliases_comes_to_an_end() -> None:
    """No server takes one; two servers may at once."""
    circle = {name: Alias(name=name, targets=[AliasTarget(model=other)]) for name, other in (("a", "b"), ("b", "a"))}
    assert steps(circle, "a", lambda: 0.0) == []
    wide = Alias(name="w", targets=[AliasTarget(model="w")], fallbacks=[AliasFallback(model="x")] * 8)
    assert len(steps({"w": wide}, "w", lambda: 0.0)) <= MAX_STEPS


@pytest.mark.parametrize(
    ("status", "said", "found"),
    [
        (400, b'{"error":{"code":"context_length_exceeded"}}', True),
        (400, b'{"error":{"message":"This model\'s maximum context length is 8 tokens"}}', True),
        (400, b'{"error":{"type":"exceed_context_size_error"}}', True),
        (400, b'{"message":"The input exceeds the maximum allowed length"}', True),
        (400, b'{"error":{"message":"temperature: must be at most 2"}}', False),
        (200, b"context_length_exceeded", False),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_what_engines_say(status: int, said: bytes, found: bool) -> None:
    assert too_long(status, said) is found


def test_a_form_s_model_is_replaced_and_its_length_with_it() -> None:
    form = b'--b0\r\nContent-Disposition: form-data; name="model"\r\n\r\nfast\r\n--b0\r\nx'
    rest = b"y\r\n--b0--\r\n"
    field = Field("model", "multipart/form-data; boundary=b0")
    assert field.found(bytearray(form))

    left = [rest]

    class Client:
        length = len(form + rest)
        streams = False

        @staticmethod
        async def read() -> bytes:
            return left.pop() if left else b""

    async def sent(upload: Upload) -> bytes:
        return b"".join([piece async for piece in upload.pieces()])

    upload = Upload(cast(Any, Client), form, 10_000, 5.0, field)
    for model in ("a-longer-model", "m"):
        upload.model = model
        whole = asyncio.run(sent(upload))
        assert whole == (form + rest).replace(b"fast", model.encode())
        assert upload.size == len(whole)
