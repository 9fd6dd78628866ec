"""Signing in to the console over HTTP, its files, and what it asks of workers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.config import Rates
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import WorkerId
from posthouse.engine.samples import Sampler
from posthouse.server.throttle import Throttle
from tests.kit.web import Web, served, worker

SAME = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


async def sign_in(web: Web, key: str, **headers: str) -> tuple[int, dict[str, Any], str]:
    """Status and body of the answer, and the cookie that it sets."""
    async with web.session.post(f"{web.url}/v1/session", json={"key": key}, headers=headers) as reply:
        return reply.status, await reply.json(), reply.headers.get("Set-Cookie", "")


async def test_a_browser_signs_in_acts_and_signs_out(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    status, session, cookie = await sign_in(web, web.keys["operate"], **SAME)
    assert (status, session["scope"], session["account"]) == (201, "operate", "default")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    web.session.cookie_jar.clear()
    shown = {"Cookie": cookie.partition(";")[0], **SAME}
    path, change = f"{web.url}/api/v0/endptjobs/{endpoint_id}", {"endpoint_state": "suspended"}
    async with web.session.get(f"{web.url}/v1/session", headers=shown) as reply:
        assert (await reply.json())["csrf"] == session["csrf"]
    async with web.session.put(path, json=change, headers=shown) as reply:
        assert reply.status == 403
    async with web.session.put(path, json=change, headers={**shown, "X-CSRF-Token": session["csrf"]}) as reply:
        assert reply.status == 200
    signs_out = {**shown, "X-CSRF-Token": session["csrf"]}
    async with web.session.delete(f"{web.url}/v1/session", headers=signs_out) as reply:
        assert reply.status == 200
    async with web.session.get(f"{web.url}/v1/status", headers=shown) as reply:
        assert reply.status == 401


async def test_only_an_account_key_that_may_read_signs_in(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    for key, status in (("nonsense", 401), (web.keys["route"], 403), (web.endpoint_key(endpoint_id), 403)):
        assert (await sign_in(web, key))[0] == status
    assert (await sign_in(web, web.keys["read"], **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
    assert (await sign_in(web, "x" * 129))[0] == 400


async def test_wrong_keys_are_put_off_and_good_ones_are_not(tmp_path: Path) -> None:
    async with served(tmp_path, throttle=Throttle(Rates(wrong_keys_per_address=0.01))) as web:
        statuses = [(await sign_in(web, f"ph_{n:08x}_{'x' * 43}"))[0] for n in range(3)]
        assert (statuses[0], statuses[-1]) == (401, 429)
        assert (await sign_in(web, web.keys["read"]))[0] == 201


async def test_a_page_is_every_address_of_the_console_and_a_missing_file_is_none(web: Web) -> None:
    for path in ("/console", "/console/", "/console/endpoints/a%2Fb", "/console/workers/7"):
        async with web.session.get(web.url + path) as reply:
            assert (reply.status, reply.content_type) == (200, "text/html")
            assert "require-trusted-types-for 'script'" in reply.headers["Content-Security-Policy"]
            tag = reply.headers["ETag"]
    async with web.session.get(f"{web.url}/console", headers={"If-None-Match": tag}) as reply:
        assert reply.status == 304
    for path in ("/console/assets/none.js", "/console/assets/..%2f..%2ffiles.py", "/"):
        async with web.session.get(web.url + path) as reply:
            assert reply.status == 404


async def test_a_worker_is_drained_and_restarted_by_hand(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    fleet = web.staff(worker(1, endpoint_id))
    assert (await web.call("POST", "/v1/workers/1/restart", key="read")).status == 403
    assert (await web.call("POST", "/v1/workers/1/restart", key="operate")).status == 202
    assert fleet.workers[WorkerId(1)].outdated_at > 0
    answer = await web.call("POST", "/v1/workers/1/drain", key="operate")
    assert (answer.status, answer.body["look"], fleet.workers[WorkerId(1)].goal) == (202, "draining", Goal.COLD)
    again = await web.call("POST", "/v1/workers/1/drain", key="operate")
    assert (again.status, "takes no requests" in again.body["msg"]) == (409, True)
    answer = await web.call("DELETE", "/v1/workers/1/drain", key="operate")
    assert (answer.status, answer.body["look"], fleet.workers[WorkerId(1)].goal) == (202, "hot", Goal.HOT)
    again = await web.call("DELETE", "/v1/workers/1/drain", key="operate")
    assert (again.status, "does not drain now" in again.body["msg"]) == (409, True)
    page = (await web.call("GET", "/v1/workers/1", key="read")).body["page"]
    assert [one["text"] for one in page["story"]] == [
        f"is to {wish}, says key {web.keys['operate'][3:11]}" for wish in ("serve on", "rest", "restart")
    ]
    assert (await web.call("POST", "/v1/workers/9/drain")).status == 404


async def test_an_endpoint_has_a_history(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    web.staff(worker(1, endpoint_id, state=State.STOPPED, goal=Goal.COLD))
    sampler = Sampler(web.hub.endpoints.values, web.hub.clock.now, web.hub.store)
    for _ in range(3):
        await sampler.round()
    history = (await web.call("GET", f"/v1/endpoints/{endpoint_id}/history?most=2", key="read")).body
    assert (len(history["at"]), history["looks"]["cold"], history["step_s"]) == (2, [1.0, 1.0], 5.0)
