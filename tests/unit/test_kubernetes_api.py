"""A cluster's API that answers late, wrongly or not at all: what its client makes of that."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from aiohttp import web

from posthouse.errors import Busy, Refused
from posthouse.providers.answers import NoAnswer
from posthouse.providers.kubernetes.api import Cluster, Expired
from tests.kit.kubelet import certificate

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
PODS = "/api/v1/pods"


def kubeconfig(folder: Path, url: str, token: str = "good", **cluster: object) -> Path:
    file = folder / "config"
    user = {"tokenFile": str(folder / "token")}
    (folder / "token").write_text(token)
    dashed = {name.replace("_", "-"): value for name, value in cluster.items()}
    config = {
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": url} | dashed}],
        "users": [{"name": "a", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    file.write_text(json.dumps(config))
    return file


@asynccontextmanager
async def answering(folder: Path, answer: Answer, call_s: float = 5.0) -> AsyncIterator[Cluster]:
    """A client of a cluster that answers every call in one way."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    cluster = Cluster("kube", kubeconfig(folder, f"http://127.0.0.1:{port}"), "", call_s)
    try:
        yield cluster
    finally:
        await cluster.close()
        await runner.cleanup()


def page(*names: str, more: str = "", version: str = "7") -> web.Response:
    items = [{"metadata": {"name": name}} for name in names]
    return web.json_response({"items": items, "metadata": {"continue": more, "resourceVersion": version}})


def gone(request: web.Request) -> web.Response:
    return web.json_response({"reason": "Expired", "message": "too old resource version"}, status=410)


async def test_a_list_is_read_to_its_end_and_begun_anew_if_its_pages_expire(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query.get("continue", ""))
        if asked == ["", "next"]:
            return gone(request)
        return page("b") if asked[-1] else page("a", more="next")

    async with answering(tmp_path, answer) as cluster:
        assert [one["metadata"]["name"] for one in await cluster.objects(PODS)] == ["a", "b"]
    assert asked == ["", "next", "", "next"]


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"items": {}}', '{"items": []}', "<html>"])
async def test_what_is_no_list_is_no_empty_list(tmp_path: Path, body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body)

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(NoAnswer):
            await cluster.objects(PODS)


async def test_a_list_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.providers.kubernetes.api.MAX_PAGES", 3)

    async def answer(request: web.Request) -> web.Response:
        return page("a", more="next")

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(NoAnswer, match="does not end"):
            await cluster.objects(PODS)


async def test_an_answer_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.providers.kubernetes.api.ANSWER_BYTES", 100_000)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="x" * 300_000)

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(NoAnswer, match="more than"):
            await cluster.objects(PODS)


async def test_a_token_that_has_expired_is_read_again_once(tmp_path: Path) -> None:
    tokens: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        (tmp_path / "token").write_text("fresh")
        return page() if tokens[-1] == "Bearer fresh" else web.json_response({}, status=401)

    async with answering(tmp_path, answer) as cluster:
        assert await cluster.objects(PODS) == []
        assert tokens == ["Bearer good", "Bearer fresh"]


async def test_credentials_that_are_no_good_are_told(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({}, status=401)

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(Refused, match="credentials"):
            await cluster.objects(PODS)


async def test_a_cluster_that_is_asked_too_often_says_when(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "3"})

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(Busy, match="slow down") as raised:
            await cluster.objects(PODS)
    assert raised.value.retry_after_s == 3


async def test_an_answer_that_comes_too_late_or_not_at_all_is_none(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.query.get("drop"):
            assert request.transport is not None
            request.transport.abort()
        await asyncio.sleep(30)
        raise AssertionError

    async with answering(tmp_path, answer, call_s=0.2) as cluster:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
            await cluster.call("POST", PODS, {})
        with pytest.raises(ConnectionError):
            await cluster.call("POST", PODS, {}, query={"drop": "1"})


async def test_an_answer_that_is_cut_short_is_none(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"items": [')
        assert request.transport is not None
        request.transport.close()
        return response

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(ConnectionError):
            await cluster.objects(PODS)


async def watched(cluster: Cluster) -> list[str]:
    return [kind async for kind in cluster.changes(PODS, {"labelSelector": "a=b"})]


async def test_a_watch_begins_where_the_list_is_and_tells_of_each_change(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["labelSelector"] == "a=b"
        if not request.query.get("watch"):
            return page(version="41")
        assert request.query["resourceVersion"] == "41"
        return web.Response(text='{"type": "ADDED", "object": {}}\n{"type": "DELETED", "object": {}}\n')

    async with answering(tmp_path, answer) as cluster:
        assert await watched(cluster) == ["", "ADDED", "DELETED"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_watch_that_is_too_old_ends(tmp_path: Path, at_once: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.query.get("watch"):
            return page()
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        return gone(request) if at_once else web.json_response({"type": "ERROR", "object": status})

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(Expired):
            await watched(cluster)


async def test_a_cluster_that_never_says_farewell_keeps_no_connection_open(tmp_path: Path) -> None:
    tls, left = certificate(tmp_path), Queue[int]()

    def serve() -> None:
        """Answers a list and begins a watch over TLS, says nothing more, and tells of each connection that is gone."""
        while True:
            with suppress(OSError), tls.wrap_socket(listener.accept()[0], server_side=True) as client:
                while b"watch=true" not in client.recv(65_536):
                    body = b'{"metadata": {"resourceVersion": "1"}}'
                    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                client.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                with suppress(ConnectionError):
                    while socket.socket.recv(client, 65_536):  # the bytes as they are: its own farewell is no end
                        pass
                left.put(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        cluster = Cluster("kube", kubeconfig(tmp_path, url, insecure_skip_tls_verify=True), "", 60.0)
        async with aclosing(cluster.changes(PODS, {})) as changes:
            assert await anext(changes) == ""
        await cluster.close()
        assert await asyncio.to_thread(left.get, timeout=20) == 1


async def test_what_a_watch_says_that_is_no_event_is_an_error(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return page() if not request.query.get("watch") else web.Response(text="nonsense\n")

    async with answering(tmp_path, answer) as cluster:
        with pytest.raises(ValueError, match="JSON"):
            await watched(cluster)


async def test_a_second_context_of_the_file_is_used_if_it_is_named(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "http://127.0.0.1:1")
    config: dict[str, Any] = json.loads(file.read_text())
    config["clusters"].append({"name": "b", "cluster": {"server": "http://127.0.0.1:2"}})
    config["contexts"].append({"name": "b", "context": {"cluster": "b", "user": "a"}})
    file.write_text(json.dumps(config))
    cluster = Cluster("kube", file, "b", 1.0)
    await cluster.connect()
    assert cluster.url == "http://127.0.0.1:2"
    await cluster.close()
    with pytest.raises(Refused, match=r"providers\.kube\.kubeconfig"):
        await Cluster("kube", file, "none", 1.0).connect()
