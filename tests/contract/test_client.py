"""The client on the wire, against a recording server and recording workers."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar, get_origin, get_type_hints

import pytest
from aiohttp import web

from posthouse.client import (
    AsyncClient,
    BadRequest,
    Client,
    ClientError,
    NotFound,
    Routed,
    TimedOut,
    Unauthorized,
    Unreachable,
    Waiting,
    WorkerFailed,
    requests,
)
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Scaling
from posthouse.domain.estimates import Estimates
from posthouse.wire import rows

T = TypeVar("T")
KEY = "a-key"
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens
Reply = tuple[int, Any]


@dataclass
class Peer:
    """Plays the server and the worker. Answers from scripts, whose last line repeats, and records what it is asked."""

    url: str = ""
    routes: list[Any] = field(default_factory=lambda: ["worker"])
    retry_after: str = ""
    works: list[Reply] = field(default_factory=lambda: [(200, {"generated_text": "hello"})])
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    worked: list[tuple[str, Any]] = field(default_factory=list)
    managed: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    streaming: int = 0

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/route/", self.route)
        app.router.add_post("/worker/stream", self.stream)
        app.router.add_post("/worker/generate_stream", self.stream)
        app.router.add_post("/worker/{path:.*}", self.work)
        app.router.add_route("*", "/{path:.*}", self.manage)
        return app

    async def route(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "api_key: missing, wrong or revoked"}, status=401)
        step = self.routes.pop(0) if len(self.routes) > 1 else self.routes[0]
        if isinstance(step, int):
            return web.json_response({"error": "not now"}, status=step)
        idx = body["request_idx"] or 77
        if step == "wait":
            return web.json_response({"endpoint": body["endpoint"], "status": "loading: 1", "request_idx": idx})
        url = f"{self.url}/worker" if step == "worker" else step
        reply = {
            "endpoint": body["endpoint"],
            "cost": body.get("cost", 100),
            "reqnum": len(self.asked),
            "signature": "sig",
        }
        return web.json_response({**reply, "url": url, "request_idx": idx, "extra": 1})

    async def work(self, request: web.Request) -> web.StreamResponse:
        self.worked.append((f"/{request.match_info['path']}", await request.json()))
        self.headers.append(dict(request.headers))
        status, body = self.works.pop(0) if len(self.works) > 1 else self.works[0]
        if body == "break":
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"half")
            assert request.transport is not None
            request.transport.close()
            return response
        headers = {"Retry-After": self.retry_after} if self.retry_after else None
        return web.json_response(body, status=status, headers=headers)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.worked.append((request.path.removeprefix("/worker"), await request.json()))
        status, script = self.works.pop(0) if len(self.works) > 1 else self.works[0]
        if status != 200:
            return web.Response(status=status)
        self.streaming += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for line in script:
                if line == "break":
                    assert request.transport is not None
                    request.transport.close()
                    return response
                if line == "hang":
                    await asyncio.sleep(3600)
                await response.write(f"data:{line}\n\n".encode())
            return response
        finally:
            self.streaming -= 1

    async def manage(self, request: web.Request) -> web.Response:
        call = f"{request.method} {request.path_qs}"
        self.managed.append((call, await request.json() if request.can_read_body else None))
        status, body = self.replies.get(call, (404, {"success": False, "error": "not_found", "msg": f"no {call}"}))
        headers = {"Retry-After": self.retry_after} if self.retry_after else None
        return web.json_response(body, status=status, headers=headers)

    async def serve(self) -> web.AppRunner:
        runner = web.AppRunner(self.application(), handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "POLL_S", (0.0, 0.001))
    monkeypatch.setattr(requests, "BACK_OFF_S", (0.001, 0.002))
    monkeypatch.delenv("POSTHOUSE_URL", raising=False)
    monkeypatch.delenv("POSTHOUSE_API_KEY", raising=False)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    runner = await peer.serve()
    yield peer
    await runner.cleanup()


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(peer.url, KEY, timeout_s=20) as client:
        yield client


@pytest.fixture
def peer_beside() -> Iterator[Peer]:
    """A peer on a loop in another thread, for the blocking client."""
    peer, loop = Peer(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(peer.serve(), loop).result(120)
    yield peer
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(120)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(120)
    loop.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


async def test_route_returns_the_worker_as_the_wire_names_it(peer: Peer, client: AsyncClient) -> None:
    routed = await client.route("llm", cost=256)
    assert isinstance(routed, Routed)
    assert (routed.url, routed.cost, routed.reqnum, routed.request_idx) == (f"{peer.url}/worker", 256, 1, 77)
    assert routed.auth_data["extra"] == 1
    assert peer.asked == [{"endpoint": "llm", "cost": 256, "request_idx": 0}]


async def test_route_says_when_no_worker_is_free(peer: Peer, client: AsyncClient) -> None:
    peer.routes = ["wait"]
    assert await client.route("llm") == Waiting("llm", "loading: 1", 77)


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "many"])
async def test_a_cost_that_is_none_is_refused_before_it_is_sent(peer: Peer, client: AsyncClient, cost: Any) -> None:
    with pytest.raises(BadRequest, match="cost is"):
        await client.route("llm", cost=cost)
    assert peer.asked == []


@pytest.mark.parametrize("cost", [256, 256.0, 1e16, 0.1])
async def test_a_worker_gets_the_very_digits_that_were_signed(peer: Peer, client: AsyncClient, cost: float) -> None:
    await client.request("llm", "/generate", {}, cost=cost)
    got = peer.worked[0][1]["auth_data"]["cost"]
    assert (type(got), got) == (type(cost), cost)


async def test_a_request_wraps_its_payload_and_keeps_the_key_from_the_worker(peer: Peer, client: AsyncClient) -> None:
    answer = await client.request("llm", "/v1/completions", {"prompt": "hi"}, cost=3)
    assert (answer.status, answer.json()) == (200, {"generated_text": "hello"})
    assert (answer.worker_url, answer.attempts) == (f"{peer.url}/worker", 1)
    assert answer.wait_s >= 0
    [(path, body)] = peer.worked
    assert path == "/v1/completions"
    assert body["payload"] == {"prompt": "hi"}
    assert {"endpoint", "cost", "reqnum", "signature", "url", "request_idx"} <= set(body["auth_data"])
    assert KEY not in str(peer.headers)


async def test_waiting_asks_again_under_the_same_number(peer: Peer, client: AsyncClient) -> None:
    peer.routes = ["wait", "wait", "worker"]
    told: list[Waiting] = []
    answer = await client.request("llm", "/generate", {}, cost=5, on_waiting=told.append)
    assert answer.attempts == 1
    assert [(ask["request_idx"], ask["cost"]) for ask in peer.asked] == [(0, 5), (77, 5), (77, 5)]
    assert [waiting.status for waiting in told] == ["loading: 1"] * 2


@pytest.mark.parametrize(
    "failure", [(408, {}), (429, {}), (500, {"error": "out of memory"}), (503, {}), (200, "break")]
)
async def test_a_failing_worker_is_replaced_under_the_same_number(
    peer: Peer, client: AsyncClient, failure: Reply
) -> None:
    peer.works = [failure, (200, {"generated_text": "second"})]
    answer = await client.request("llm", "/generate", {})
    assert (answer.json()["generated_text"], answer.attempts) == ("second", 2)
    assert [ask["request_idx"] for ask in peer.asked] == [0, 77]
    assert [body["auth_data"]["reqnum"] for _, body in peer.worked] == [1, 2]


async def test_a_dead_worker_is_replaced(peer: Peer, client: AsyncClient) -> None:
    peer.routes = [CLOSED, "wait", "worker"]
    assert (await client.request("llm", "/generate", {})).attempts == 2
    assert [ask["request_idx"] for ask in peer.asked] == [0, 77, 77]


async def test_workers_that_are_too_busy_end_the_request_after_all_tries(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(503, {"error": "out of slots"})]
    with pytest.raises(WorkerFailed, match="out of slots") as failed:
        await client.request("llm", "/generate", {}, retries=2)
    assert failed.value.status == 503
    assert len(peer.worked) == 3


@pytest.mark.parametrize("failure", [(500, {"error": "CUDA error"}), (502, {}), (200, "break")])
async def test_what_workers_have_begun_is_tried_once_more(peer: Peer, client: AsyncClient, failure: Reply) -> None:
    peer.works = [(503, {}), failure]
    with pytest.raises(WorkerFailed, match="it was begun 2 times and is not tried again"):
        await client.request("llm", "/generate", {})
    assert len(peer.worked) == 3


async def test_a_worker_is_left_alone_for_as_long_as_it_asks(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(429, {}), (200, {})]
    peer.retry_after = "3600"
    with pytest.raises(TimedOut):
        await client.request("llm", "/generate", {}, timeout_s=1.0)
    assert len(peer.worked) == 1


async def test_what_a_worker_refuses_is_not_tried_again(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(422, {"error": "inputs is missing"})]
    with pytest.raises(BadRequest, match="inputs is missing"):
        await client.request("llm", "/generate", {})
    assert len(peer.asked) == 1


async def test_a_wrong_key_raises_at_once(peer: Peer) -> None:
    async with AsyncClient(peer.url, "wrong") as client:
        with pytest.raises(Unauthorized, match="api_key") as refused:
            await client.request("llm", "/generate", {})
    assert refused.value.status == 401
    assert len(peer.asked) == 1


async def test_a_server_that_is_not_there_raises_at_once() -> None:
    async with AsyncClient(CLOSED, KEY) as client:
        with pytest.raises(Unreachable, match="did not answer"):
            await client.request("llm", "/generate", {})


async def test_a_server_that_restarts_is_waited_for(peer: Peer, client: AsyncClient) -> None:
    peer.routes = ["wait", 503, 502, "worker"]
    assert (await client.request("llm", "/generate", {})).status == 200
    assert [ask["request_idx"] for ask in peer.asked] == [0, 77, 77, 77]


async def test_time_that_runs_out_says_what_was_waited_for(peer: Peer, client: AsyncClient) -> None:
    peer.routes = ["wait"]
    with pytest.raises(TimedOut, match=r"no answer within 0\.3 s; last: loading: 1"):
        await client.request("llm", "/generate", {}, timeout_s=0.3)


async def test_an_answer_of_another_protocol_is_an_error(peer: Peer, client: AsyncClient) -> None:
    async with AsyncClient(f"{peer.url}/other", KEY) as other:
        peer.replies["POST /other/route/"] = (200, {"url": 5})
        with pytest.raises(ClientError, match="another protocol"):
            await other.route("llm")


async def test_a_stream_yields_events_as_they_come(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(200, ['{"n":1}', "two", "[DONE]"])]
    assert [event async for event in client.stream("llm", "/stream", {"x": 1})] == [{"n": 1}, "two"]
    assert peer.worked[0][1]["payload"] == {"x": 1}


async def test_a_stream_that_has_not_begun_is_tried_again(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(503, []), (200, ["1"])]
    assert [event async for event in client.stream("llm", "/stream", {})] == [1]
    assert [ask["request_idx"] for ask in peer.asked] == [0, 77]


async def test_a_stream_that_has_begun_is_not_tried_again(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(200, ["1", "break"])]
    stream = client.stream("llm", "/stream", {})
    assert await anext(stream) == 1
    with pytest.raises(WorkerFailed, match="broke off"):
        await anext(stream)
    assert len(peer.asked) == 1


async def test_leaving_a_stream_hangs_up(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(200, ["1", "hang"])]
    stream = client.stream("llm", "/stream", {})
    assert await anext(stream) == 1
    assert peer.streaming == 1
    await stream.aclose()
    await until(lambda: peer.streaming == 0)


async def test_cancelling_a_request_hangs_up(peer: Peer, client: AsyncClient) -> None:
    peer.works = [(200, ["1", "hang"])]
    task = asyncio.create_task(client.request("llm", "/stream", {}))
    await until(lambda: peer.streaming == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: peer.streaming == 0)


async def test_generate_has_the_published_shape(peer: Peer, client: AsyncClient) -> None:
    answer = await client.generate("llm", "What is Deep Learning?", 64)
    assert answer.json() == {"generated_text": "hello"}
    [(path, body)] = peer.worked
    assert path == "/generate"
    assert body["inputs"] == "What is Deep Learning?"
    assert body["parameters"] == {"max_new_tokens": 64}
    assert {"endpoint", "cost", "reqnum", "signature", "url"} <= set(body)
    assert peer.asked[0]["cost"] == 64


async def test_generate_can_stream(peer: Peer, client: AsyncClient) -> None:
    peer.works = [
        (200, ['{"token":{"text":"a"},"generated_text":null}', '{"token":{"text":"b"},"generated_text":"ab"}'])
    ]
    events = [event async for event in client.generate_stream("llm", "hi")]
    assert [event["token"]["text"] for event in events] == ["a", "b"]
    assert peer.worked[0][0] == "/generate_stream"


def whole(kind: type[T], **given: Any) -> T:
    """A row with these values, and others that do not matter."""
    plain = {int: 1, float: 2.5, str: "text", bool: True}
    types = get_type_hints(kind)
    blank = {f.name: plain.get(types[f.name]) for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    lists: dict[str, Any] = {n: [] for n in blank if get_origin(types[n]) is list}
    return kind(**blank | lists | given)


LLM = whole(rows.Endpoint, id=7, endpoint_name="llm", max_usd_h=0.5)
SEVEN = whole(rows.Endpoint, id=8, endpoint_name="7")
ENDPOINTS = (200, {"success": True, "results": [{**asdict(LLM), "a_later_field": 1}, asdict(SEVEN)]})


async def test_an_endpoint_is_found_by_its_name_or_else_by_its_id(peer: Peer, client: AsyncClient) -> None:
    peer.replies["GET /api/v0/endptjobs/"] = ENDPOINTS
    assert (await client.endpoint("llm")).id == 7
    assert (await client.endpoint(8)).endpoint_name == "7"
    assert (await client.endpoint("7")).id == 8
    with pytest.raises(NotFound, match="no endpoint 'other'"):
        await client.endpoint("other")


OK: Reply = (200, {"success": True})
TEMPLATE = whole(rows.Template, id=4, hash_id="h")
METRICS = whole(rows.WorkerMetrics)
WORKER = whole(rows.Worker)
KEY_ROW = whole(rows.Key)
STATUS = whole(rows.Status)
MINTED = whole(rows.MintedKey)
PROVIDER = whole(rows.Provider)
OFFER = whole(rows.RankedOffer)
CHECK = whole(rows.ProviderCheck)
ACCOUNT = whole(rows.Account)
REACHABLE = whole(rows.Reachable)
GROUP, LOGS = whole(rows.Workergroup), whole(rows.EventLogs)
REASON = rows.Reason(what="load", value=9.0, rule="mean", obstacle=True)
DECISION = rows.Decision(at=1.0, hot_need=None, hot_supply=2.0, ready_supply=0.0, goals={"3": "hot"}, because=[REASON])
EXPLAINED = whole(
    rows.Explanation,
    scaling=Scaling(max_workers=3),
    workers=rows.WorkerCounts(by_state={"idle": 1}, by_goal={}),
    demand=Demand(rate=3.0),
    estimates=Estimates(perf={"a": 1.0}),
    decision=DECISION,
    messages={"1": "m"},
    failures={"2": "f"},
    limited={"requests": 1},
)
SEGMENT = whole(rows.Segment, figures={"usd": 1.0})
TRAFFIC = whole(rows.Traffic, scaling=Scaling(), kinds=[whole(rows.MachineKind)], segments=[SEGMENT])


@pytest.mark.parametrize(
    ("call", "arguments", "options", "request_line", "body", "reply", "result"),
    [
        ("endpoints", (), {}, "GET /api/v0/endptjobs/", None, ENDPOINTS, [LLM, SEVEN]),
        (
            *("create_endpoint", ("llm",), {"min_load": 5}, "POST /api/v0/endptjobs/"),
            *({"endpoint_name": "llm", "min_load": 5}, (200, {"success": True, "result": 7}), 7),
        ),
        (
            *("update_endpoint", (7,), {"endpoint_state": "stopped"}, "PUT /api/v0/endptjobs/7/"),
            *({"endpoint_state": "stopped"}, OK, None),
        ),
        ("delete_endpoint", (7,), {}, "DELETE /api/v0/endptjobs/7/", None, OK, None),
        ("endpoint_workers", (7,), {}, "POST /get_endpoint_workers/", {"id": 7}, (200, [asdict(METRICS)]), [METRICS]),
        ("endpoint_logs", (7, 5), {}, "POST /get_endpoint_logs/", {"id": 7, "tail": 5}, (200, asdict(LOGS)), LOGS),
        ("workergroups", (), {}, "GET /api/v0/workergroups/", None, (200, {"results": [asdict(GROUP)]}), [GROUP]),
        (
            *("create_workergroup", (), {"endpoint_id": 7, "template_hash": "h"}, "POST /api/v0/workergroups/"),
            *({"endpoint_id": 7, "template_hash": "h"}, (200, {"success": True, "id": 3}), 3),
        ),
        ("update_workergroup", (3,), {"gpu_ram": 8}, "PUT /api/v0/workergroups/3/", {"gpu_ram": 8}, OK, None),
        ("delete_workergroup", (3,), {}, "DELETE /api/v0/workergroups/3/", None, OK, None),
        ("templates", (), {}, "GET /api/v0/template/", None, (200, {"templates": [asdict(TEMPLATE)]}), [TEMPLATE]),
        (
            *("create_template", ("t",), {"onstart": "x"}, "POST /api/v0/template/"),
            *({"name": "t", "onstart": "x"}, (200, {"success": True, "template": asdict(TEMPLATE)}), TEMPLATE),
        ),
        (
            *("update_template", (4,), {"name": "u"}, "PUT /api/v0/template/"),
            *({"id": 4, "name": "u"}, (200, {"success": True, "template": asdict(TEMPLATE)}), TEMPLATE),
        ),
        ("delete_template", (4,), {}, "DELETE /api/v0/template/", {"template_id": 4}, OK, None),
        ("explain", ("a b/c",), {}, "GET /v1/endpoints/a%20b%2Fc/explain", None, (200, asdict(EXPLAINED)), EXPLAINED),
        (
            "traffic",
            ("l",),
            {"last_s": 5},
            "GET /v1/endpoints/l/traffic?last_s=5",
            None,
            (200, asdict(TRAFFIC)),
            TRAFFIC,
        ),
        ("check_provider", ("a/b",), {}, "POST /v1/providers/a%2Fb/check", None, (200, [asdict(CHECK)]), [CHECK]),
        ("offers", (), {"endpoint": 7}, "GET /v1/offers?endpoint=7&limit=100", None, (200, [asdict(OFFER)]), [OFFER]),
        (
            *("offers", ("gpu_ram>=24",), {"disk_gb": 9}),
            *("GET /v1/offers?search=gpu_ram%3E%3D24&disk_gb=9&limit=100", None, (200, []), []),
        ),
        ("providers", (), {}, "GET /v1/providers", None, (200, [asdict(PROVIDER)]), [PROVIDER]),
        ("reachable", (), {}, "GET /v1/endpoints", None, (200, [asdict(REACHABLE)]), [REACHABLE]),
        ("accounts", (), {}, "GET /v1/accounts", None, (200, [asdict(ACCOUNT)]), [ACCOUNT]),
        ("create_account", ("a",), {}, "POST /v1/accounts", {"name": "a"}, (201, asdict(ACCOUNT)), ACCOUNT),
        ("rotate_endpoint_key", (7,), {}, "POST /v1/endpoints/7/rotate-key", None, (200, {"api_key": "k"}), "k"),
        ("workers", (), {}, "GET /v1/workers", None, (200, [asdict(WORKER)]), [WORKER]),
        ("workers", ("l&m",), {}, "GET /v1/workers?endpoint=l%26m", None, (200, [asdict(WORKER)]), [WORKER]),
        ("delete_worker", (1,), {}, "DELETE /v1/workers/1", None, (202, {"id": 1}), None),
        ("worker_logs", (1,), {"tail": 5}, "GET /v1/workers/1/logs?tail=5", None, (200, {"text": "lines"}), "lines"),
        ("keys", (), {}, "GET /v1/keys", None, (200, [asdict(KEY_ROW)]), [KEY_ROW]),
        (
            *("create_key", ("ci", "route"), {}, "POST /v1/keys"),
            *({"name": "ci", "scope": "route"}, (201, asdict(MINTED)), MINTED),
        ),
        (
            *("update_key", ("a",), {"at_once": 2}, "PUT /v1/keys/a"),
            *({"name": None, "at_once": 2}, (200, asdict(KEY_ROW)), KEY_ROW),
        ),
        ("delete_key", ("a",), {}, "DELETE /v1/keys/a", None, OK, None),
        ("status", (), {}, "GET /v1/status", None, (200, asdict(STATUS)), STATUS),
    ],
)
async def test_management_speaks_the_wire(
    peer: Peer,
    client: AsyncClient,
    call: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    request_line: str,
    body: Any,
    reply: Reply,
    result: Any,
) -> None:
    peer.replies[request_line] = reply
    assert await getattr(client, call)(*arguments, **options) == result
    assert peer.managed == [(request_line, body)]


async def test_an_answer_without_what_it_must_have_is_of_another_protocol(peer: Peer, client: AsyncClient) -> None:
    peer.replies["GET /api/v0/endptjobs/"] = (200, {"success": True, "results": [{"id": 7}]})
    with pytest.raises(ClientError, match=r"another protocol: .*endpoint_name"):
        await client.endpoints()


async def test_a_parameter_that_no_endpoint_has_is_refused_before_it_is_sent(peer: Peer, client: AsyncClient) -> None:
    with pytest.raises(BadRequest, match=r"max_worker: there is no such field\. Did you mean max_workers\?"):
        await client.create_endpoint("llm", max_worker=3)
    with pytest.raises(BadRequest, match=r"Did you mean endpoint_state\?"):
        await client.update_endpoint(7, endpoint_stat="stopped")
    assert peer.managed == []


async def test_a_failure_that_comes_with_200_is_a_failure(peer: Peer, client: AsyncClient) -> None:
    reply = {"success": False, "error": "invalid_args", "msg": "min_load is below 0"}
    peer.replies["PUT /api/v0/endptjobs/7/"] = (200, reply)
    with pytest.raises(BadRequest, match="min_load is below 0") as refused:
        await client.update_endpoint(7, min_load=-1)
    assert refused.value.code == "invalid_args"


async def test_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFound, match="no GET /v1/status"):
        await client.status()


def test_address_and_key_come_from_the_environment(peer_beside: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHOUSE_URL", f"{peer_beside.url}/")
    monkeypatch.setenv("POSTHOUSE_API_KEY", f"{KEY}\n")
    with Client() as client:
        assert client.generate("llm", "hi").text == '{"generated_text": "hello"}'


@pytest.mark.filterwarnings("error")
def test_the_blocking_client_does_the_same_and_leaves_nothing_open(peer_beside: Peer) -> None:
    peer = peer_beside
    threads = threading.active_count()
    client = Client(peer.url, KEY, timeout_s=20)
    assert isinstance(client.route("llm"), Routed)
    assert client.request("llm", "/generate", {}).json() == {"generated_text": "hello"}
    assert client.generate("llm", "hi").attempts == 1
    peer.works = [(200, ["1", "2"])]
    assert list(client.stream("llm", "/stream", {})) == [1, 2]
    assert list(client.generate_stream("llm", "hi")) == [1, 2]
    peer.replies["GET /api/v0/endptjobs/"] = ENDPOINTS
    assert client.endpoint("llm").id == 7
    with pytest.raises(NotFound):
        client.status()
    client.close()
    client.close()
    assert threading.active_count() == threads
    del client
    gc.collect()  # warnings of what was left open are errors here


@pytest.mark.filterwarnings("error")
def test_closing_the_blocking_client_in_the_middle_of_a_stream_hangs_up(peer_beside: Peer) -> None:
    peer_beside.works = [(200, ["1", "hang"])]
    with Client(peer_beside.url, KEY) as client:
        stream = client.stream("llm", "/stream", {})
        assert next(stream) == 1
    asyncio.run(until(lambda: peer_beside.streaming == 0))
    stream.close()
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_closing_the_blocking_client_ends_what_other_threads_wait_for(peer_beside: Peer) -> None:
    peer_beside.works = [(200, ["1", "hang"])]
    peer_beside.routes = ["worker", "wait"]
    waits, streams = threading.Event(), threading.Event()
    client = Client(peer_beside.url, KEY)
    stream = client.stream("llm", "/stream", {})

    def ask() -> None:
        client.request("llm", "/generate", {}, on_waiting=lambda _: waits.set())

    def read() -> None:
        for _ in stream:
            streams.set()

    with ThreadPoolExecutor() as threads:
        read_there = threads.submit(read)
        assert streams.wait(20)
        asked_there = threads.submit(ask)
        assert waits.wait(20)
        client.close()
        for there in (asked_there, read_there):
            with pytest.raises(ClientError, match="closed before there was an answer"):
                there.result(120)
    with pytest.raises(ClientError, match="is closed"):
        client.request("llm", "/generate", {})
    stream.close()
    gc.collect()


async def test_the_blocking_client_works_beside_a_running_loop(peer_beside: Peer) -> None:
    with Client(peer_beside.url, KEY) as client:
        assert client.request("llm", "/generate", {}).status == 200


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert calls(Client) == calls(AsyncClient)
