"""The management API, over real HTTP: what it answers, whom it lets in, and what it does to memory and store."""

import asyncio
import base64
import hashlib
import json
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posthouse.config import Limits
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, PARAMETERS, EndpointId, EndpointState, Scaling, WorkergroupId
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.reports import Report
from posthouse.domain.worker import WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.fleet.events import Offered, Ticked, Written
from posthouse.ports import JournalEntry
from posthouse.server.middleware import MAX_BODY_BYTES, MAX_DEPTH
from posthouse.server.policies import POLICIES, PUBLIC
from tests.kit.web import Web, served, worker


def let_it_rest(web: Web) -> None:
    """Has every controller had its tick, so that nothing is due for a while."""
    now = web.hub.clock.now()
    for managed in web.hub.endpoints.values():
        managed.handle(Ticked(()), now)
        managed.handle(Written(ok=True), now)
    assert not rings(web)


def rings(web: Web) -> bool:
    """True if a controller wants to be told the time sooner than at its next tick."""
    return any(managed.wake_at < web.hub.clock.now() + 0.5 for managed in web.hub.endpoints.values())


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


async def reloaded(web: Web) -> Hub:
    """What a server that starts now would find in the store."""
    hub = Hub(web.hub.store, web.hub.clock, web.hub.providers, "shelf", web.hub.installation, stabilization_s=0.0)
    await hub.load()
    return hub


# -- who gets in ---------------------------------------------------------------------------------------------------


def example(path: str) -> str:
    for name in ("endpoint_id", "group_id", "worker_id", "endpoint", "key_id"):
        path = path.replace(f"{{{name}}}", "4711")
    return path


async def test_every_call_asks_for_exactly_the_scope_of_its_policy(web: Web) -> None:
    for (method, path), least in POLICIES.items():
        if path == "/v1/session" or path.startswith("/v1/oidc/"):
            continue  # who has no key yet asks for one: tests/contract/test_console.py, test_sign_in.py
        if least is PUBLIC:
            path = path.replace("{asset}", "swagger-ui.css").replace("{path}", "assets/console.js")
            async with web.session.request(method, web.url + path, headers={"Accept": "text/html"}) as reply:
                assert reply.status == 200
            continue
        assert (await web.call(method, example(path), key=None)).status == 401, path
        assert (await web.call(method, example(path), key="nonsense")).status == 401, path
        if path == "/v1/events":
            continue  # an answer without end: tests/contract/test_events.py
        for scope in ("route", "read", "operate", "admin"):
            answer = await web.call(method, example(path), key=scope)
            refused = scope not in [s.name.lower() for s in type(least) if s >= least]
            assert (answer.status == 403) is refused, (method, path, scope, answer)
            assert answer.status != 401


async def test_the_key_may_come_in_the_header_the_body_or_the_query(web: Web) -> None:
    path, key = "/api/v0/endptjobs/", web.keys["read"]
    for headers, body, query in (
        ({"Authorization": f"Bearer {key}"}, None, ""),
        ({"Authorization": key}, None, ""),
        ({}, {"api_key": key}, ""),
        ({}, None, f"?client_id=me&api_key={key}"),
    ):
        async with web.session.get(web.url + path + query, headers=headers, json=body) as reply:
            assert reply.status == 200


async def test_a_revoked_key_is_refused_at_once_and_after_a_restart(web: Web) -> None:
    made = await web.call("POST", "/v1/keys", {"name": "ci", "scope": "read"})
    assert made.status == 201
    key = made.body.pop("key")
    assert (await web.call("GET", "/v1/status", key=key)).status == 200
    assert (await web.call("DELETE", f"/v1/keys/{made.body['id']}")).body["revoked_at"] > 0
    assert (await web.call("GET", "/v1/status", key=key)).status == 401
    stored = {k.id: k for k in await web.hub.store.keys()}[made.body["id"]]
    assert stored.revoked_at > 0
    listed = (await web.call("GET", "/v1/keys")).body
    assert made.body["id"] in [row["id"] for row in listed]
    assert key not in str(listed)
    assert stored.digest not in str(listed)


async def test_the_last_admin_key_cannot_be_revoked(web: Web) -> None:
    [own] = [row["id"] for row in (await web.call("GET", "/v1/keys")).body if row["scope"] == "admin"]
    assert (await web.call("DELETE", f"/v1/keys/{own}")).status == 400
    second = (await web.call("POST", "/v1/keys", {"name": "second", "scope": "admin"})).body
    answers = await asyncio.gather(*(web.call("DELETE", f"/v1/keys/{i}") for i in (own, second["id"])))
    assert 200 in [a.status for a in answers]
    left = [r for r in web.keyring.records() if r.scope == "admin" and not r.revoked_at]
    assert len(left) == 1


async def test_an_endpoints_own_key_sees_that_endpoint_and_no_other(web: Web) -> None:
    own, other = await web.make_endpoint("own"), await web.make_endpoint("other")
    template = await web.make_template()
    groups = [
        (await web.call("POST", "/api/v0/workergroups/", {"endpoint_id": e, "template_id": template["id"]})).body["id"]
        for e in (own, other)
    ]
    key = web.endpoint_key(own)
    assert (await web.call("GET", f"/api/v0/endptjobs/{own}/", key=key)).body["result"]["api_key"] == key
    assert (await web.call("GET", f"/api/v0/endptjobs/{other}/", key=key)).status == 403
    assert (await web.call("POST", "/get_endpoint_workers/", {"id": own, "api_key": key}, key=None)).body == []
    assert (await web.call("POST", "/get_endpoint_workers/", {"id": other}, key=key)).status == 403
    assert (await web.call("POST", "/get_workergroup_workers/", {"id": groups[0]}, key=key)).body == []
    assert (await web.call("POST", "/get_autogroup_workers/", {"id": groups[1]}, key=key)).status == 403
    assert (await web.call("GET", "/api/v0/endptjobs/", key=key)).status == 403


async def test_a_rotated_endpoint_key_replaces_the_one_before(web: Web) -> None:
    endpoint_id = await web.make_endpoint("a/b.c")
    before = web.endpoint_key(endpoint_id)
    rotated = await web.call("POST", "/v1/endpoints/a%2Fb.c/rotate-key", key="operate")
    assert rotated.body == {"endpoint_id": endpoint_id, "api_key": web.endpoint_key(endpoint_id)}
    assert (await web.call("GET", f"/api/v0/endptjobs/{endpoint_id}", key=before)).status == 401
    assert (await web.call("GET", f"/api/v0/endptjobs/{endpoint_id}", key=rotated.body["api_key"])).status == 200
    assert (await reloaded(web)).managed(endpoint_id).fleet.endpoint.key_version == 2


# -- the shape of every answer ---------------------------------------------------------------------------------------


async def test_answers_are_bare_json_with_or_without_a_slash_at_the_end(web: Web) -> None:
    for path in ("/api/v0/endptjobs", "/api/v0/endptjobs/", "/v1/status", "/v1/status/", "/nowhere/"):
        assert (await web.call("GET", path)).headers["content-type"] == "application/json"
    async with web.session.post(web.url + "/api/v0/endptjobs", headers={"Authorization": web.keys["admin"]}) as reply:
        assert (reply.status, reply.history) == (200, ())  # no redirect, no body, no content type


async def test_errors_have_one_shape(web: Web) -> None:
    cases: list[tuple[str, str, object, int, str]] = [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("PATCH", "/api/v0/endptjobs", None, 405, "method_not_allowed"),
        ("GET", "/api/v0/endptjobs/7", None, 404, "no_such_endpoint"),
        ("GET", "/api/v0/endptjobs/seven", None, 400, "invalid_args"),
        ("DELETE", f"/api/v0/endptjobs/{10**30}", None, 404, "no_such_endpoint"),
        ("DELETE", "/api/v0/autojobs/7/", None, 404, "no_such_workergroup"),
        ("DELETE", "/api/v0/template/", {"template_id": 7}, 404, "no_such_template"),
        ("DELETE", "/api/v0/template/", {}, 400, "invalid_args"),
        ("POST", "/get_endpoint_workers/", {}, 400, "invalid_args"),
        ("POST", "/get_endpoint_workers/", {"id": 7}, 404, "not_found"),
        ("GET", "/v1/workers/7/logs", None, 404, "not_found"),
        ("DELETE", "/v1/workers/7", None, 404, "not_found"),
        ("DELETE", "/v1/keys/7", None, 404, "not_found"),
        ("GET", "/v1/endpoints/none/explain", None, 404, "not_found"),
        ("POST", "/v1/keys", {"name": "x", "scope": "king"}, 400, "invalid_args"),
        ("POST", "/v1/keys", {"name": "", "scope": "read"}, 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", [1], 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b"{", 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b"\xff", 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b'{"min_load": NaN}', 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b"[" * 500_000, 400, "invalid_args"),
        ("POST", "/api/v0/endptjobs/", b" " * (MAX_BODY_BYTES + 1), 413, "too_large"),
    ]
    for method, path, body, status, code in cases:
        answer = await web.call(method, path, body)
        assert (answer.status, answer.body["success"], answer.body["error"]) == (status, False, code), (path, answer)
        assert answer.body["msg"]


async def test_what_nobody_foresaw_is_an_id_for_the_user_and_a_trace_in_the_log(
    web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web.hub, "providers", None)
    answer = await web.call("GET", "/v1/status")
    assert (answer.status, answer.body["error"]) == (500, "internal_error")
    assert "Traceback" not in answer.body["msg"]
    assert answer.headers["x-request-id"] in answer.body["msg"]
    logged = capsys.readouterr().out
    assert answer.headers["x-request-id"] in logged
    assert "Traceback" in logged
    assert web.keys["admin"] not in logged


async def test_the_openapi_page_describes_our_own_calls(web: Web) -> None:
    spec = (await web.call("GET", "/openapi.json", key=None)).body
    assert "/v1/endpoints/{endpoint}/explain" in spec["paths"]
    assert spec["components"]["schemas"]["Worker"]["properties"]["price_usd_h"]["description"]
    tags = {path: call["tags"] for path, calls in spec["paths"].items() for call in calls.values()}
    assert tags["/v1/keys"] == ["Management, Posthouse's own"]
    assert tags["/update_workers"] == ["Management, in the protocol's words"]


# -- endpoints -------------------------------------------------------------------------------------------------------


async def test_a_new_endpoint_has_the_servers_defaults_where_nothing_was_said(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama", min_load=10, cold_workers=None, autoscaler_instance="prod")
    row = (await web.call("GET", f"/api/v0/endptjobs/{endpoint_id}/")).body["result"]
    assert row == asdict(Scaling(min_load=10.0)) | {
        "id": endpoint_id,
        "endpoint_name": "llama",
        "endpoint_state": "active",
        "api_key": web.endpoint_key(endpoint_id),
        "user_id": 1,
        "created_at": web.hub.managed(endpoint_id).fleet.endpoint.created_at,
        "auto_delete_in_seconds": None,
        "auto_delete_due_24h": False,
    }
    assert (await web.call("GET", "/api/v0/endptjobs/")).body == {"success": True, "results": [row]}
    assert rings(web)
    assert (await reloaded(web)).managed(endpoint_id).fleet.endpoint == web.hub.managed(endpoint_id).fleet.endpoint


async def test_null_leaves_a_parameter_as_it_is_and_none_takes_it_back(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama", min_load=10, inactivity_timeout=60, min_workers=2)
    change = {
        **dict.fromkeys(PARAMETERS),
        "endpoint_name": "mistral",
        "endpoint_state": "suspended",
        "max_workers": 7,
        "inactivity_timeout": "none",
    }
    assert (await web.call("PUT", f"/api/v0/endptjobs/{endpoint_id}/", change)).body == {"success": True}
    endpoint = web.hub.managed(endpoint_id).fleet.endpoint
    assert endpoint.scaling == Scaling(min_load=10.0, cold_workers=2, max_workers=7)
    assert (endpoint.name, endpoint.state) == ("mistral", EndpointState.SUSPENDED)
    assert [(e.account_id, e.name, e.id) for e in web.hub.directory] == [(DEFAULT_ACCOUNT, "mistral", endpoint_id)]
    assert (await reloaded(web)).managed(endpoint_id).fleet.endpoint == endpoint


async def test_changes_at_the_same_time_are_all_kept(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    changes = [{"min_load": 5}, {"max_workers": 9}, {"cold_mult": 2}, {"target_util": 0.5}, {"max_queue_time": 3}]
    await asyncio.gather(*(web.call("PUT", f"/api/v0/endptjobs/{endpoint_id}", change) for change in changes))
    wanted = Scaling(min_load=5.0, max_workers=9, cold_mult=2.0, target_util=0.5, max_queue_time=3.0)
    assert web.hub.managed(endpoint_id).fleet.endpoint.scaling == wanted
    assert (await reloaded(web)).managed(endpoint_id).fleet.endpoint.scaling == wanted


async def test_an_endpoint_in_auto_mode_begins_without_the_bounds_of_fixed_ratios(web: Web) -> None:
    made = (await web.call("POST", "/api/v0/endptjobs", {"endpoint_name": "a", "slo_mode": "auto"})).body["result"]
    scaling = web.hub.managed(made).fleet.endpoint.scaling
    assert scaling == Scaling(slo_mode="auto", target_util=1.0, cold_workers=0)
    assert (await reloaded(web)).managed(made).fleet.endpoint.scaling == scaling
    shown = (await web.call("GET", f"/api/v0/endptjobs/{made}")).body["result"]
    assert (shown["slo_mode"], shown["target_util"]) == ("auto", 1.0)
    bounded = {"endpoint_name": "b", "slo_mode": "auto", "target_util": 0.8}
    made = (await web.call("POST", "/api/v0/endptjobs", bounded)).body["result"]
    assert web.hub.managed(made).fleet.endpoint.scaling.target_util == 0.8
    await web.call("PUT", f"/api/v0/endptjobs/{made}", {"slo_mode": "fixed"})
    assert web.hub.managed(made).fleet.endpoint.scaling == Scaling(target_util=0.8, cold_workers=0)


async def test_a_wrong_parameter_is_refused_by_name_and_changes_nothing(web: Web) -> None:
    cases: list[dict[str, object]] = [
        {"min_load": -1},
        {"min_load": True},
        {"min_load": "much"},
        {"min_load": "inf"},
        {"target_util": 0},
        {"slo_mode": "fast"},
        {"slo_mode": 1},
        {"target_util": 1.1},
        {"cold_workers": 1.5},
        {"cold_workers": 10**30},
        {"max_workers": 1001},
        {"max_queue_time": []},
        {"max_usd_h": {}},
        {"min_workers": 3, "cold_workers": 4},
        {"endpoint_state": "destroyed"},
        {"endpoint_name": ""},
        {"endpoint_name": " a"},
        {"endpoint_name": "a\nb"},
        {"endpoint_name": "a" * 256},
        {"endpoint_name": 7},
        {"endpoint_name": "taken"},
    ]
    await web.make_endpoint("taken")
    endpoint_id = await web.make_endpoint("llama")
    before = web.hub.managed(endpoint_id).fleet.endpoint
    for wrong in cases:
        for method, path in (("PUT", f"/api/v0/endptjobs/{endpoint_id}"), ("POST", "/api/v0/endptjobs")):
            answer = await web.call(method, path, wrong)
            assert (answer.status, next(iter(wrong)) in answer.body["msg"]) == (400, True), (wrong, answer)
    assert web.hub.managed(endpoint_id).fleet.endpoint == before
    assert len(web.hub.endpoints) == 2


async def test_of_two_endpoints_with_one_name_at_one_time_one_is_made(web: Web) -> None:
    answers = await asyncio.gather(
        *(web.call("POST", "/api/v0/endptjobs/", {"endpoint_name": "llama"}) for _ in range(4))
    )
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]


async def test_a_deleted_endpoint_frees_its_name_at_once_and_lets_its_workers_go(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama")
    template = await web.make_template()
    await web.call("POST", "/api/v0/autojobs/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    fleet = web.staff(worker(1), worker(2, goal=Goal.COLD), worker(3, goal=Goal.GONE))
    let_it_rest(web)
    gone = await web.call("DELETE", f"/api/v0/endptjobs/{endpoint_id}/", {"endptjob_id": endpoint_id})
    assert (gone.body["success"], gone.body["deleted_workers"], gone.body["failed_workers"]) == (True, 2, 0)
    assert {w.goal for w in fleet.workers.values()} == {Goal.GONE}
    assert web.hub.endpoints[endpoint_id].leaving
    assert web.hub.workergroups == {}
    assert rings(web)
    assert (await web.call("GET", "/api/v0/endptjobs/")).body["results"] == []
    assert (await web.call("GET", f"/api/v0/endptjobs/{endpoint_id}/")).status == 404
    assert len((await web.call("GET", "/v1/workers")).body) == 3  # they still cost money, so they are still shown
    assert await web.make_endpoint("llama") != endpoint_id
    assert endpoint_id not in (await reloaded(web)).endpoints


# -- workergroups ----------------------------------------------------------------------------------------------------


async def test_both_names_of_workergroups_show_the_same(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama", max_workers=3)
    template = await web.make_template()
    ask = {"endpoint_name": "llama", "template_hash": template["hash_id"], "search_params": "gpu_ram>=24", "gpu_ram": 8}
    made = await web.call("POST", "/api/v0/autojobs/", ask)
    assert made.body == {"success": True, "id": 1}
    rows = (await web.call("GET", "/api/v0/workergroups/")).body["results"]
    assert rows == (await web.call("GET", "/api/v0/autojobs")).body["results"]
    scaling = asdict(web.hub.managed(endpoint_id).fleet.endpoint.scaling)
    assert rows == [
        {
            "id": 1,
            "endpoint_id": endpoint_id,
            "endpoint_name": "llama",
            "template_id": template["id"],
            "template_hash": template["hash_id"],
            "search_params": "gpu_ram>=24",
            "launch_args": "",
            "gpu_ram": 8.0,
            "provider": "",
            "signature_scheme": "",
            "test_workers": 0,
            **{n: scaling[n] for n in ("min_load", "target_util", "cold_mult", "cold_workers", "max_workers")},
            "user_id": 1,
            "created_at": web.hub.workergroups[WorkergroupId(1)].created_at,
        }
    ]
    assert (await web.call("GET", "/api/v0/workergroups/1/")).body["result"] == rows[0]
    assert (await reloaded(web)).workergroups == web.hub.workergroups


async def test_a_search_is_text_or_an_object_and_saying_none_means_the_templates(web: Web) -> None:
    cases: list[tuple[object, str]] = [
        ("", ""),
        (None, ""),
        ("verified=True rentable=True rented=False", ""),
        (" gpu_ram>=24 ", "gpu_ram>=24"),
        ('{"gpu_ram": {"gte": 24000}}', '{"gpu_ram": {"gte": 24000}}'),
        ({"gpu_ram": {"gte": 24000}}, '{"gpu_ram":{"gte":24000}}'),
        ({}, ""),
    ]
    ask = {"endpoint_id": await web.make_endpoint(), "template_id": (await web.make_template())["id"]}
    for said, kept in cases:
        made = await web.call("POST", "/api/v0/workergroups/", ask | {"search_params": said})
        assert web.hub.workergroups[made.body["id"]].search_params == kept


async def test_what_the_command_line_adds_to_an_update_does_not_overwrite_the_search(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    template = await web.make_template()
    ask = {"endpoint_id": endpoint_id, "template_id": template["id"], "search_params": "gpu_ram>=24"}
    await web.call("POST", "/api/v0/workergroups/", ask)
    web.shelf.stock = [Offer("small", "shelf", "host", Price(), gpu_ram_mb=32_000)]
    await web.hub.offers.refresh(web.shelf)
    before = web.hub.offers_for(EndpointId(endpoint_id))
    other = await web.make_template("other")
    change = {
        "search_params": "verified=True rentable=True rented=False",
        "gpu_ram": 32,
        "template_hash": other["hash_id"],
        "endpoint_id": None,
        "launch_args": None,
        "provider": "shelf",
        "signature_scheme": "A4",
    }
    assert (await web.call("PUT", "/api/v0/autojobs/1/", change)).body == {"success": True}
    group = web.hub.workergroups[WorkergroupId(1)]
    assert (group.search_params, group.gpu_ram, group.template_id) == ("gpu_ram>=24", 32.0, other["id"])
    assert (group.provider, group.signature_scheme) == ("shelf", "A4")
    assert len(before) == 1
    assert web.hub.offers_for(EndpointId(endpoint_id)) is not before  # what was found for the old template
    await web.call("PUT", "/api/v0/autojobs/1/", {"search_params": ""})
    assert web.hub.workergroups[WorkergroupId(1)].search_params == ""


async def test_a_wrong_workergroup_is_refused_by_name(web: Web) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"endpoint_id": None}, "Please assign your workergroup to a valid endpoint identifier"),
        ({"endpoint_id": 7}, "Please assign your workergroup to a valid endpoint identifier"),
        ({"endpoint_id": None, "endpoint_name": "none"}, "endpoint_name"),
        ({"endpoint_name": "other"}, "endpoint_name"),
        ({"endpoint_id": "x"}, "endpoint_id"),
        ({"template_id": None}, "template_hash or template_id"),
        ({"template_id": 7}, "template_id 7"),
        ({"template_hash": "0" * 32}, "template_hash"),
        ({"template_hash": 5}, "template_hash"),
        ({"search_params": "gpu_ram=>24"}, "search_params"),
        ({"search_params": 5}, "search_params"),
        ({"search_params": {"gpu_ram": 5}}, "search_params"),
        ({"search_params": {"gpu_name": {"eq": "x" * 5000}}}, "search_params"),
        ({"gpu_ram": -1}, "gpu_ram"),
        ({"launch_args": "a\0"}, "launch_args"),
        ({"provider": "mars"}, "provider"),
        ({"signature_scheme": "A6"}, "signature_scheme"),
    ]
    right = {"endpoint_id": await web.make_endpoint("llama"), "template_id": (await web.make_template())["id"]}
    await web.make_endpoint("other")
    for wrong, named in cases:
        answer = await web.call("POST", "/api/v0/workergroups/", right | wrong)
        assert (answer.status, named in answer.body["msg"]) == (400, True), (wrong, answer)
    assert web.hub.workergroups == {}


async def test_a_workergroup_stays_with_its_endpoint(web: Web) -> None:
    first, second = await web.make_endpoint("first"), await web.make_endpoint("second")
    template = await web.make_template()
    await web.call("POST", "/api/v0/workergroups/", {"endpoint_id": first, "template_id": template["id"]})
    assert (await web.call("PUT", "/api/v0/workergroups/1", {"endpoint_id": first})).status == 200
    assert (await web.call("PUT", "/api/v0/workergroups/1", {"endpoint_id": second})).status == 400


async def test_deleting_a_workergroup_lets_its_own_workers_go(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    template = await web.make_template()
    for _ in range(2):
        await web.call("POST", "/api/v0/autojobs/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    fleet = web.staff(worker(1), worker(2, group_id=WorkergroupId(2)))
    rows = (await web.call("POST", "/get_workergroup_workers/", {"id": 2})).body
    assert [row["id"] for row in rows] == [2]
    assert (await web.call("DELETE", "/api/v0/workergroups/2/")).body["deleted_workers"] == 1
    assert [w.goal for w in fleet.workers.values()] == [Goal.HOT, Goal.GONE]
    assert list((await reloaded(web)).workergroups) == [1]


# -- templates -------------------------------------------------------------------------------------------------------


async def test_a_template_changes_its_hash_with_every_edit(web: Web) -> None:
    fields = {
        "image": "ghcr.io/x/tgi",
        "tag": "1.0.3",
        "env": "-e A=b -p 3000:3000",
        "onstart": "echo one\necho two",
        "recommended_disk_space": "16.5",
        "extra_filters": {"gpu_ram": {"gte": 24000}},
        "desc": "d",
        "readme": "r",
        "private": False,
        "loading_timeout_s": 7200.0,
    }
    made = await web.make_template("tgi", **fields, href=None, ssh_direct=False, runtype="args")
    template = web.hub.templates[made["id"]]
    assert made == fields | {
        "id": 1,
        "hash_id": template.hash_id,
        "creator_id": 1,
        "name": "tgi",
        "recommended_disk_space": 16.5,
        "extra_filters": '{"gpu_ram":{"gte":24000}}',
        "created_at": template.created_at,
    }
    assert await web.make_template("tgi", **fields) == made  # the same content is the same template
    for path, value in (("/api/v1/template/", "c d"), ("/api/v0/template/", "e")):
        change = {"id": made["id"], "hash_id": made["hash_id"], "env": {"A": value}}
        change |= {"image": None, "loading_timeout_s": None}
        changed = (await web.call("PUT", path, change)).body["template"]
        assert changed == made | {"env": shlex.join(["-e", f"A={value}"]), "hash_id": changed["hash_id"]}
        assert changed["hash_id"] != made["hash_id"]
        assert (await web.call("PUT", path, change)).status == 404  # that hash is no longer
        made = changed
    assert (await reloaded(web)).templates == web.hub.templates


async def test_templates_are_found_by_what_they_are(web: Web) -> None:
    first = await web.make_template("one", recommended_disk_space=8)
    await web.make_template("two", recommended_disk_space=64)

    async def found(filters: str) -> list[str]:
        answer = await web.call("GET", f'/api/v0/template/?select_cols=["*"]&select_filters={filters}')
        assert answer.body["templates_found"] == len(answer.body["templates"])
        return [row["name"] for row in answer.body["templates"]]

    assert await found("{}") == ["one", "two"]
    assert await found(f'{{"hash_id":{{"eq":"{first["hash_id"]}"}}}}') == ["one"]
    assert await found('{"recommended_disk_space":{"gt":"10"}}') == ["two"]
    refused = await web.call("GET", '/api/v0/template/?select_filters={"count_created":{"gt":1}}')
    assert (refused.status, "count_created" in refused.body["msg"]) == (400, True)


async def test_who_may_only_read_sees_the_names_of_variables_and_not_what_they_hold(web: Web) -> None:
    env = "-e 'HF_TOKEN=hf secret' -e A= -p 8000:3000"
    await web.make_template("one", env=env)

    async def seen(key: str, filters: str = "{}") -> list[str]:
        answer = await web.call("GET", f"/api/v0/template/?select_filters={filters}", key=key)
        return [row["env"] for row in answer.body["templates"]]

    assert await seen("operate") == [env]
    assert await seen("read") == ["-e HF_TOKEN=*** -e A=*** -p 3000:3000"]
    assert await seen("read", json.dumps({"env": {"eq": env}})) == []


async def test_the_docs_page_runs_only_its_own_scripts(web: Web) -> None:
    async with web.session.get(f"{web.url}/docs") as answer:
        policy, page = answer.headers["Content-Security-Policy"], await answer.read()
    [inline] = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


async def test_a_wrong_template_is_refused_by_name(web: Web) -> None:
    cases: list[dict[str, object]] = [
        {"name": ""},
        {"name": 5},
        {"image": "a\nb"},
        {"tag": "a" * 256},
        {"env": "--gpus all"},
        {"env": ["A=b"]},
        {"onstart": "echo \0"},
        {"onstart": "a" * 300_000},
        {"recommended_disk_space": -1},
        {"extra_filters": {"gpu_ram": {"like": 1}}},
        {"extra_filters": 5},
        {"private": "yes"},
        {"loading_timeout_s": -1},
        {"loading_timeout_s": "soon"},
    ]
    for wrong in cases:
        answer = await web.call("POST", "/api/v0/template/", {"name": "tgi"} | wrong)
        assert (answer.status, next(iter(wrong)) in answer.body["msg"]) == (400, True), (wrong, answer)
    assert web.hub.templates == {}


async def test_a_template_in_use_stays_until_nobody_uses_it(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    template = await web.make_template()
    await web.call("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    refused = await web.call("DELETE", "/api/v0/template/", {"hash_id": template["hash_id"]})
    assert (refused.status, "workergroup 1" in refused.body["msg"]) == (400, True)
    await web.call("DELETE", "/api/v0/workergroups/1/")
    assert (await web.call("DELETE", "/api/v0/template/", {"hash_id": template["hash_id"]})).status == 200
    assert (await reloaded(web)).templates == {}


@pytest.mark.parametrize(
    ("edit", "marked"),
    [
        ({"env": "-e A=2"}, 2),
        ({"onstart": "echo 2"}, 2),
        ({"image": "x/y"}, 2),
        ({"tag": "2"}, 2),
        ({"env": "-e A=1", "name": "other", "desc": "text", "extra_filters": "num_gpus=2"}, 0),
    ],
)
async def test_an_edit_of_what_workers_run_has_them_updated(web: Web, edit: dict[str, object], marked: int) -> None:
    endpoint_id = await web.make_endpoint()
    template = await web.make_template(env="-e A=1")
    group = {"endpoint_id": endpoint_id, "template_id": template["id"]}
    assert (await web.call("POST", "/api/v0/workergroups/", group)).status == 200
    fleet = web.staff(worker(1, endpoint_id), worker(2, endpoint_id), worker(3, endpoint_id, group_id=9))
    assert (await web.call("PUT", "/api/v0/template/", {"id": template["id"], **edit})).status == 200
    assert [w.id for w in fleet.workers.values() if w.outdated_at] == [1, 2][:marked]


async def test_another_template_for_a_workergroup_has_its_workers_updated(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    template, same, other = [await web.make_template(n, env=f"-e A={a}") for n, a in (("a", 1), ("b", 1), ("c", 2))]
    group = {"endpoint_id": endpoint_id, "template_id": template["id"]}
    group_id = (await web.call("POST", "/api/v0/workergroups/", group)).body["id"]
    fleet = web.staff(worker(1, endpoint_id, group_id=group_id))
    for change in ({"gpu_ram": 8}, {"template_id": template["id"]}, {"template_hash": same["hash_id"]}):
        assert (await web.call("PUT", f"/api/v0/autojobs/{group_id}/", change)).status == 200
        assert not fleet.workers[WorkerId(1)].outdated_at
    assert (await web.call("PUT", f"/api/v0/autojobs/{group_id}/", {"template_id": other["id"]})).status == 200
    assert fleet.workers[WorkerId(1)].outdated_at


async def test_an_edit_may_not_make_two_templates_the_same(web: Web) -> None:
    await web.make_template("one")
    two = await web.make_template("two")
    assert (await web.call("PUT", "/api/v1/template/", {"id": two["id"], "name": "one"})).status == 400
    assert (await web.call("PUT", "/api/v1/template/", {"id": two["id"], "name": "two"})).status == 200


async def test_a_server_has_room_for_as_much_as_its_limits_say(tmp_path: Path) -> None:
    limits = Limits(endpoints=1, workergroups=1, templates=1, keys=5, workers_per_endpoint=20)
    async with served(tmp_path, limits) as web:
        ask = {"endpoint_id": await web.make_endpoint(), "template_id": (await web.make_template())["id"]}
        for path, body in (("workergroups", ask), ("endptjobs", {"endpoint_name": "b"}), ("template", {"name": "b"})):
            if path == "workergroups":
                assert (await web.call("POST", f"/api/v0/{path}", body)).status == 200
            refused = await web.call("POST", f"/api/v0/{path}", body)
            assert (refused.status, "limit is 1" in refused.body["msg"]) == (400, True)
        new = {"name": "n", "scope": "read"}
        assert [(await web.call("POST", "/v1/keys", new)).status for _ in range(2)] == [201, 400]
        assert (await web.call("POST", "/api/v0/endptjobs", {"max_workers": 21})).status == 400


# -- workers, and our own calls ----------------------------------------------------------------------------------------


async def test_a_wrong_search_of_offers_is_refused_by_name(web: Web) -> None:
    cases: list[tuple[str, str, object, str]] = [
        ("POST", "/api/v0/bundles/", {"type": "bid"}, "type"),
        ("POST", "/api/v0/bundles/", {"limit": 0}, "limit"),
        ("POST", "/api/v0/bundles/", {"allocated_storage": -1}, "allocated_storage"),
        ("POST", "/api/v0/bundles/", {"gpu_ram": 24}, "search"),
        ("PUT", "/api/v0/search/asks/", {"select_cols": ["*"]}, "q"),
    ]
    for method, path, body, names in cases:
        answer = await web.call(method, path, body, key="read")
        assert (answer.status, answer.body["error"]) == (400, "invalid_args"), (body, answer)
        assert answer.body["msg"].startswith(f"{names}:"), answer


async def test_workers_are_listed_with_numbers_only(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    fleet = web.staff(worker(1), worker(2, state=State.STOPPED, goal=Goal.COLD), worker(3, state=State.WANTED))
    fleet.assign(0, 250.0, web.hub.clock.now())
    rows = (await web.call("POST", "/get_endpoint_workers/", {"id": endpoint_id})).body
    assert 0 <= rows[0].pop("cur_load_rolling_avg") < 250
    assert rows[0] == {
        "id": 1,
        "status": "idle",
        "gpu_name": "RTX 4090",
        "cur_load": 250.0,
        "new_load": 0.0,
        "cur_perf": 0.0,
        "perf": 100.0,
        "measured_perf": 100.0,
        "dlperf": 0.0,
        "reliability": 1.0,
        "reqs_working": 1,
        "disk_usage": 0.0,
        "loaded_at": 2.0,
        "started_at": 1.0,
    }
    assert [row["status"] for row in rows] == ["idle", "stopped", "creating"]


async def test_the_status_counts_what_endpoints_cost_that_are_deleted(web: Web) -> None:
    await web.make_endpoint("llama")
    web.staff(worker(1, spent_usd=7.0))
    managed = web.hub.named("llama")
    assert managed is not None
    web.hub.treasury.settle(managed, web.hub.clock.now())
    await web.call("DELETE", f"/api/v0/endptjobs/{managed.fleet.endpoint.id}/")
    web.hub.endpoints.clear()  # its last worker is gone
    status = (await web.call("GET", "/v1/status", key="read")).body
    assert (status["standing"], status["usd_h"]) == ([], 0)
    assert status["spent_usd"] >= 7.0


async def test_a_worker_is_shown_with_its_cost_and_can_be_sent_away(web: Web) -> None:
    await web.make_endpoint("llama")
    await web.make_endpoint("empty")
    fleet = web.staff(worker(1, message="a log line"), worker(2))
    fleet.assign(0, 250.0, web.hub.clock.now())
    [row, _] = (await web.call("GET", "/v1/workers?endpoint=llama", key="read")).body
    assert row.pop("age_s") > 0
    assert row.pop("spent_usd") > 0  # this one is idle for long
    assert row == {
        "id": 1,
        "endpoint": "llama",
        "workergroup_id": 1,
        "state": "idle",
        "goal": "hot",
        "url": "http://127.0.0.1:9",
        "instance_id": "i-1",
        "provider": "shelf",
        "machine": "m",
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "perf": 100.0,
        "outstanding": 250.0 if 1 in fleet.ledger.at else 0.0,
        "busy": 1 in fleet.ledger.at,
        "penalty_s": 0.0,
        "price_usd_h": 0.5,
        "load_s": 0.0,
        "version": "",
        "scheme": "",
        "message": "a log line",
        "gone_at": 0.0,
        "build": "",
        "update": "",
        "look": "hot",
        "page": None,
    }
    assert (await web.call("GET", "/v1/workers?endpoint=empty")).body == []
    assert (await web.call("GET", "/v1/workers?endpoint=7")).status == 404
    let_it_rest(web)
    gone = await web.call("DELETE", "/v1/workers/1", key="operate")
    assert (gone.status, gone.body["goal"]) == (202, "gone")
    assert [w.goal for w in fleet.workers.values()] == [Goal.GONE, Goal.HOT]
    assert rings(web)


async def test_a_worker_that_is_gone_is_shown_for_a_day_with_what_it_said_and_its_logs(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama")
    web.staff(worker(1), worker(2))
    managed, now = web.hub.managed(endpoint_id), web.hub.clock.now()
    for worker_id, age_s in ((7, 90_000.0), (8, 60.0), (9, 30.0)):
        row = worker(worker_id, state=State.DESTROYED, message="CUDA out of memory")
        managed.gone.append((now - age_s, row))
    web.shelf.lines["posthouse-x-9"] = ["Traceback"]
    rows = (await web.call("GET", "/v1/workers?endpoint=llama&gone=true", key="read")).body
    assert [(row["id"], row["state"], row["message"]) for row in rows[2:]] == [
        (8, "destroyed", "CUDA out of memory"),
        (9, "destroyed", "CUDA out of memory"),
    ]
    assert len((await web.call("GET", "/v1/workers?endpoint=llama")).body) == 2
    assert (await web.call("GET", "/v1/workers/9/logs", key="read")).body == {"text": "Traceback"}
    assert (await web.call("GET", "/v1/workers/7/logs")).status == 404
    [row] = (await web.call("GET", "/v1/status", key="read")).body["standing"]
    assert (row["endpoint"], row["workers"], row["why"]) == ("llama", {"idle": 2}, "")
    web.staff(worker(1, state=State.CREATING, message="GET /health: connection refused"))
    web.hub.managed(endpoint_id).gone.extend(managed.gone)
    [row] = (await web.call("GET", "/v1/status", key="read")).body["standing"]
    assert row["why"] == "the last 2 ended with: CUDA out of memory"
    long = f"the model server ended with status 1: {'line | ' * 60}CUDA out of memory"
    web.hub.managed(endpoint_id).gone.append((now, worker(9, state=State.DESTROYED, message=long)))
    [row] = (await web.call("GET", "/v1/status", key="read")).body["standing"]
    assert row["why"].startswith("the last one said: the model server ended with status 1: line")
    assert row["why"].endswith("line | CUDA out of memory")
    assert len(row["why"]) < 350
    explained = (await web.call("GET", "/v1/endpoints/llama/explain", key="read")).body
    assert list(explained["failures"]) == ["8", "9"]
    for took_s in (3, 4):
        gone_worker = worker(10 + took_s, state=State.DESTROYED, message=f"ended after {took_s} s")
        web.hub.managed(endpoint_id).gone.append((now, gone_worker))
    [row] = (await web.call("GET", "/v1/status", key="read")).body["standing"]
    assert row["why"] == "the last 2 ended with: ended after 4 s"


async def test_a_worker_that_is_gone_is_shown_after_a_restart_too(web: Web) -> None:
    endpoint_id, now = await web.make_endpoint("llama"), web.hub.clock.now()
    gone = [worker(n, state=State.DESTROYED, since=now - age_s, message="m") for n, age_s in ((7, 90_000.0), (8, 60.0))]
    version = (await web.hub.store.open_fleet(endpoint_id, 1)).version
    await web.hub.store.commit(endpoint_id, version, 1, gone, None)
    managed = (await reloaded(web)).managed(endpoint_id)
    assert managed.recently_gone(now) == [(gone[1].since, gone[1])]
    assert managed.last_failures(now) == [gone[1]]


async def test_a_template_says_how_long_its_workers_may_load_also_those_that_tell_no_limit_themselves(web: Web) -> None:
    endpoint_id = await web.make_endpoint()
    template = await web.make_template(loading_timeout_s=5000.0)
    await web.call("POST", "/api/v0/autojobs/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    clock: Any = SimpleNamespace(now=lambda: 1000.0)
    web.hub.clock, ingest = clock, Ingest(web.hub, lambda *_: True)
    loading = worker(1, state=State.MODEL_LOADING, since=1000.0, progressed_at=1000.0)
    fleet = web.staff(loading, replace(loading, id=WorkerId(2)))
    for at in (1000.0, 5990.0, 6010.0):
        clock.now = lambda at=at: at
        ingest.report(fleet.managed, 1, Report())
        ingest.report(fleet.managed, 2, Report(loading_timeout_s=9000.0))
        fleet.roster.advance(at, 60.0)
        assert fleet.workers[WorkerId(1)].state is (State.MODEL_LOADING if at < 6000.0 else State.ERROR)
    assert fleet.workers[WorkerId(1)].message == "model_loading for 5010 s, longer than loading_timeout_s 5000"
    assert fleet.workers[WorkerId(2)].state is State.MODEL_LOADING


async def test_a_refusal_names_the_field_what_is_wrong_and_what_is_allowed(web: Web) -> None:
    template = {"name": 5, "tag": "a\nb", "private": "yes", "recommended_disk_space": "big"}
    cases: list[tuple[str, str, object, list[str]]] = [
        ("POST", "/v1/keys", {"nam": "x", "scope": "king"}, [
            "name: is required; it must be text of 1 to 255 characters",
            "scope: must be one of route, read, operate, admin, not 'king'",
            "nam: there is no such field. Did you mean name? Allowed: requests_per_minute, work_per_minute, at_once, ",
        ]),
        ("POST", "/api/v0/template", template, [
            "name: must be text of at most 255 characters, not 5",
            "tag: must have printable characters only",
            "recommended_disk_space: must be a number from 0 to 1000000, not 'big'",
            "private: must be true or false, not 'yes'",
        ]),
        ("POST", "/get_endpoint_workers", [1], ["body: must be a JSON object, with the fields id"]),
        ("POST", "/get_endpoint_workers", None, ["id: is required; it must be a whole number from 1 to"]),
        ("PUT", "/api/v0/search/asks", {"q": {"limit": 0}}, ["q.limit: must be a whole number from 1 to 2147483648"]),
        ("POST", "/api/v0/endptjobs", {"min_load": []}, ["min_load: must be a number from 0 to 1e+12, not []"]),
        ("PUT", "/api/v0/autojobs/1", {"signature_scheme": "A6"}, ["must be one of (empty), A4, A5, A5S, U, not 'A6'"]),
        ("GET", "/v1/workers/x/logs?tail=0", None, [
            "worker_id: must be a whole number, not 'x'",
            "tail: must be a whole number from 1 to 100000, not '0'",
        ]),
        ("POST", "/api/v0/secrets", {"key": "A", "value": ["x"]}, ["value: must be text"]),
    ]  # fmt: skip
    for method, path, body, texts in cases:
        answer = await web.call(method, path, body)
        assert answer.status == 400, answer
        assert [text for text in texts if text not in answer.body["msg"]] == [], answer
        assert "Input should" not in answer.body["msg"]


async def test_an_unknown_field_is_refused_where_it_can_only_be_a_mistake(web: Web) -> None:
    cases: list[tuple[str, dict[str, object], str]] = [
        ("/api/v0/endptjobs", {"endpoint_name": "a", "what_a_peer_sends": 1}, ""),
        ("/api/v0/endptjobs", {"endpoint_name": "b", "max_wrokers": 1}, "max_wrokers: there is no such field. Did you"),
        (
            "/api/v0/endptjobs",
            {"endpoint_name": "b", "min_laod": 1},
            "min_laod: there is no such field. Did you mean min",
        ),
        ("/api/v0/autojobs", {"endpoint_name": "a", "template_hsah": "x"}, "template_hsah: there is no such field"),
        ("/api/v0/template", {"name": "t", "runtype": "args", "docker_login_user": "u", "created_at": 1.0}, ""),
        ("/api/v0/template", {"name": "t", "imagee": "x"}, "imagee: there is no such field. Did you mean image?"),
        ("/api/v0/template", {"name": "t", "environment": "x"}, "environment: there is no such field."),
        (
            "/api/v0/template",
            {"name": "t", "imagee": 1, "b": 2, "c": 3},
            "imagee: there is no such field. Did you mean ",
        ),
    ]
    for path, body, says in cases:
        answer = await web.call("POST", path, body)
        assert (answer.status, answer.body["msg"][: len(says)] if says else "") == (400 if says else 200, says), answer
    assert answer.body["msg"].endswith("loading_timeout_s; nor are there b, c")
    assert [(m.fleet.endpoint.name, len(web.hub.workergroups)) for m in web.hub.endpoints.values()] == [("a", 0)]
    key = {"name": "x", "scope": "read", "api_key": web.keys["admin"]}
    assert (await web.call("POST", "/v1/keys", key, key=None)).status == 201  # who asks may stand in the body
    refused = await web.call("POST", "/v1/keys", key | {"scop": "read"})
    assert (refused.status, "scop: there is no such field" in refused.body["msg"]) == (400, True)


async def test_logs_are_the_last_lines_that_the_provider_has(web: Web) -> None:
    await web.make_endpoint()
    web.staff(worker(1), worker(2, instance_id=""), worker(3, provider="mars"))
    web.shelf.lines["i-1"] = [f"line {i}" for i in range(5)]
    assert (await web.call("GET", "/v1/workers/1/logs?tail=2", key="read")).body == {"text": "line 3\nline 4"}
    assert (await web.call("GET", "/v1/workers/2/logs")).body == {"text": ""}
    assert (await web.call("GET", "/v1/workers/3/logs")).status == 404
    assert (await web.call("GET", "/v1/workers/1/logs?tail=0")).status == 400


DECISION = {
    "at": 0.0,
    "hot_need": 10.0,
    "hot_supply": None,
    "ready_supply": 0.0,
    "goals": {"3": "hot"},
    "rentals": [{"workergroup": 1, "offer": "o", "goal": "cold"}],
    "because": [{"what": "load", "value": 9.0, "rule": "mean of the last minute", "obstacle": False}],
}


async def test_status_explain_and_journal_answer_by_name_and_by_id(web: Web) -> None:
    endpoint_id = await web.make_endpoint("a/b c")
    status = (await web.call("GET", "/v1/status", key="read")).body
    assert status.pop("uptime_s") >= 0
    assert status["installation"] == web.hub.installation
    assert (status["providers"], status["default_provider"], status["endpoints"]) == (["shelf"], "shelf", 1)
    for at in (1.0, 2.0, 3.0):
        version = (await web.hub.store.open_fleet(endpoint_id, 1)).version
        await web.hub.store.commit(endpoint_id, version, 1, [], JournalEntry(endpoint_id, at, DECISION | {"at": at}))
    for name in ("a%2Fb%20c", str(endpoint_id)):
        explained = (await web.call("GET", f"/v1/endpoints/{name}/explain")).body
        assert explained["endpoint"] == "a/b c"
        assert (explained["decision"], explained["scaling"]) == (None, asdict(Scaling()))
        entries = (await web.call("GET", f"/v1/endpoints/{name}/journal?limit=2")).body
        said = {"title": "Wake worker 3, rent 1 cold worker", "text": "9 of load needs 10; 0 is ready."}
        assert entries == [{"at": at, "decision": DECISION | {"at": at}} | said for at in (3.0, 2.0)]
    assert (await web.call("GET", "/v1/endpoints/1/journal?limit=0")).status == 400


async def test_the_current_user_is_the_installation(web: Web) -> None:
    assert (await web.call("GET", "/api/v0/users/current")).body == {
        "id": 1,
        "username": web.hub.installation,
        "host_agreement_accepted": False,
        "api_key": "",
    }


async def test_providers_are_listed_with_what_they_can_do_and_whether_they_answer(web: Web) -> None:
    row = {"name": "shelf", "type": "shelf", "default": True, "capabilities": ["stop", "update", "logs"]}
    rows = (await web.call("GET", "/v1/providers", key="read")).body
    assert rows == [{**row, "answers": False, "offers": None, "catalog_age_s": None}]
    web.shelf.stock = [Offer(f"o{n}", "shelf", "host", Price()) for n in range(3)]
    await web.hub.offers.refresh(web.shelf)
    web.hub.listing["shelf"] = True
    web.hub.offers.take("shelf", "o1")
    [found] = (await web.call("GET", "/v1/providers", key="read")).body
    assert found.pop("catalog_age_s") >= 0
    assert found == {**row, "answers": True, "offers": 2}


async def test_offers_are_found_by_a_search_over_all_providers_the_cheapest_first(web: Web) -> None:
    assert (await web.call("GET", "/v1/offers")).status == 503, "no provider has said what it offers"
    web.shelf.stock = [
        Offer(f"o{usd}", "shelf", "host", Price(usd, usd, 0.01), "RTX 4090", 1, gpu_ram_mb=24_000 * usd)
        for usd in (2, 1, 3)
    ]
    await web.hub.offers.refresh(web.shelf)
    found = (await web.call("GET", "/v1/offers?search=gpu_ram>=40&provider=shelf", key="read")).body
    assert [(row["id"], row["ready_usd_h"], row["why"]) for row in found] == [("o2", 2, ""), ("o3", 3, "")]
    assert [row["id"] for row in (await web.call("GET", "/v1/offers?limit=1")).body] == ["o1"]
    assert (await web.call("GET", "/v1/offers?provider=mars")).body["msg"].endswith("allowed: shelf")


async def test_offers_of_an_endpoint_are_ranked_as_it_would_rent_them(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama", max_usd_h=2)
    fleet = web.hub.managed(endpoint_id).fleet
    kinds = {"small": Price(1, 1), "large": Price(3, 3, 0.5), "new": Price(1.5, 1.5)}
    offers = [GroupOffer(WorkergroupId(1), Offer(n, "shelf", n, price, n, 1)) for n, price in kinds.items()]
    fleet.handle(Offered(tuple(offers)), web.hub.clock.now())
    for worker_id, (name, perf) in enumerate({"small": 10.0, "large": 90.0}.items(), 1):
        fleet.roster.estimator.measured(
            replace(worker(worker_id), group_id=WorkergroupId(1), gpu_name=name, perf=perf, price=kinds[name])
        )
    found = (await web.call("GET", "/v1/offers?endpoint=llama")).body
    assert [(row["id"], row["perf"], row["obstacle"]) for row in found] == [
        ("large", 90.0, "max_usd_h 2 would be exceeded"),
        ("new", 30.0, ""),
        ("small", 10.0, ""),
    ]
    assert found[2]["why"] == "$1.00/h for 10 work/s; ready in 120 s"


async def test_a_provider_is_asked_now_and_each_thing_that_fails_is_said(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.shelf.stock = [Offer("o", "shelf", "host", Price(0.3, 0.3))]
    rows = (await web.call("POST", "/v1/providers/shelf/check")).body
    assert [(row["what"], row["ok"], row["text"]) for row in rows[:2]] == [
        ("instances", True, "of this installation: 0"),
        ("offers", True, "1, the cheapest at 0.3 $/h"),
    ]
    assert rows[2] == {"what": "can", "ok": True, "text": "stop a worker and keep its disk, for cold workers"}

    async def fails() -> list[Offer]:
        raise OSError("no route to host")

    monkeypatch.setattr(web.shelf, "catalog", fails)
    monkeypatch.setattr(web.shelf, "troubles", lambda: ["the disk is full"])
    rows = (await web.call("POST", "/v1/providers/shelf/check")).body
    assert [row["text"] for row in rows if not row["ok"]] == ["no route to host", "the disk is full"]
    assert (await web.call("POST", "/v1/providers/mars/check")).status == 404
