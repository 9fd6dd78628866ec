"""Several accounts on one installation: what each sees, and that names are its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId
from tests.kit.live import add_endpoint, live_server, pointed, until
from tests.kit.peer import complete
from tests.kit.web import Web, served, worker

ACME = AccountId(2)


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    """A web API where the account `acme` has a key for each scope: `acme-read` and so on."""
    async with served(tmp_path) as web:
        assert (await web.call("POST", "/v1/accounts", {"name": "acme"})).body["id"] == ACME
        for scope in ("route", "read", "operate", "admin"):
            made = await web.call("POST", "/v1/keys", {"name": scope, "scope": scope, "account": "acme"})
            assert made.status == 201, made
            web.keys[f"acme-{scope}"] = made.body["key"]
        yield web


async def make_all(web: Web, key: str) -> dict[str, Any]:
    """An endpoint, a template, a workergroup and a secret of the key's account, all with the same names and content."""
    endpoint = await web.call("POST", "/api/v0/endptjobs/", {"endpoint_name": "llm"}, key)
    template = await web.call("POST", "/api/v0/template/", {"name": "tgi", "image": "tgi"}, key)
    assert (endpoint.status, template.status) == (200, 200), (endpoint, template)
    made = {"endpoint": endpoint.body["result"], **template.body["template"]}
    group = await web.call(
        "POST", "/api/v0/workergroups/", {"endpoint_name": "llm", "template_hash": made["hash_id"]}, key
    )
    secret = await web.call("POST", "/api/v0/secrets/", {"key": "TOKEN", "value": f"of {key}"}, key)
    assert (group.status, secret.status) == (200, 200), (group, secret)
    return {**made, "group": group.body["id"]}


async def test_two_accounts_have_the_same_names_and_each_sees_its_own(web: Web) -> None:
    ours, theirs = await make_all(web, "operate"), await make_all(web, "acme-operate")
    assert ours["hash_id"] == theirs["hash_id"]
    assert (ours["id"], ours["creator_id"]) != (theirs["id"], theirs["creator_id"])
    for made, key, owner in ((ours, "operate", DEFAULT_ACCOUNT), (theirs, "acme-operate", ACME)):
        [endpoint] = (await web.call("GET", "/api/v0/endptjobs/", key=key)).body["results"]
        assert (endpoint["id"], endpoint["endpoint_name"], endpoint["user_id"]) == (made["endpoint"], "llm", owner)
        for path in ("workergroups", "autojobs"):
            [group] = (await web.call("GET", f"/api/v0/{path}/", key=key)).body["results"]
            assert (group["id"], group["endpoint_id"], group["template_id"], group["user_id"]) == (
                made["group"],
                made["endpoint"],
                made["id"],
                owner,
            )
        [template] = (await web.call("GET", "/api/v0/template/", key=key)).body["templates"]
        assert (template["id"], template["creator_id"]) == (made["id"], owner)
        assert (await web.call("GET", "/api/v0/secrets/", key=key)).body["secrets"] == {"TOKEN": f"of {key}"}
        assert (await web.call("GET", "/api/v0/users/current/", key=key)).body["id"] == owner
        assert (await web.call("GET", "/v1/status", key=key)).body["endpoints"] == 1
        assert (await web.call("GET", "/v1/endpoints/llm/explain", key=key)).status == 200
        taken = await web.call("POST", "/api/v0/endptjobs/", {"endpoint_name": "llm"}, key)
        assert (taken.status, "taken" in taken.body["msg"]) == (400, True)


async def test_nothing_of_another_account_is_there(web: Web) -> None:
    ours, theirs = await make_all(web, "operate"), await make_all(web, "acme-operate")
    endpoint, group = ours["endpoint"], ours["group"]
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/api/v0/endptjobs/{endpoint}/", None),
        ("PUT", f"/api/v0/endptjobs/{endpoint}/", {"max_workers": 1}),
        ("DELETE", f"/api/v0/endptjobs/{endpoint}/", None),
        ("POST", "/get_endpoint_workers/", {"id": endpoint}),
        ("POST", "/get_endpoint_logs/", {"id": endpoint}),
        ("GET", f"/v1/endpoints/{endpoint}/explain", None),
        ("GET", f"/v1/endpoints/{endpoint}/journal", None),
        ("GET", f"/v1/endpoints/{endpoint}/traffic", None),
        ("POST", f"/v1/endpoints/{endpoint}/rotate-key", None),
        ("GET", f"/v1/workers?endpoint={endpoint}", None),
        *(("GET", f"/api/v0/{path}/{group}/", None) for path in ("workergroups", "autojobs")),
        *(("PUT", f"/api/v0/{path}/{group}/", {"gpu_ram": 1}) for path in ("workergroups", "autojobs")),
        *(("DELETE", f"/api/v0/{path}/{group}/", None) for path in ("workergroups", "autojobs")),
        *(("POST", f"/get_{path}_workers/", {"id": group}) for path in ("workergroup", "autogroup")),
        *(("POST", f"/get_{path}_logs/", {"id": group}) for path in ("workergroup", "autogroup")),
        ("PUT", "/api/v0/template/", {"id": ours["id"], "hash_id": ours["hash_id"], "image": "x"}),
        ("DELETE", "/api/v0/template/", {"template_id": ours["id"]}),
    ]
    for method, path, body in calls:
        refused = await web.call(method, path, body, "acme-admin")
        assert refused.status == 404, (method, path, refused)
    updated = await web.call("POST", "/update_workers/", {"workergroup_id": group}, "acme-operate")
    assert (updated.status, updated.body["success"]) == (200, False)
    for body in (
        {"endpoint_id": endpoint, "template_id": theirs["id"]},
        {"endpoint_id": theirs["endpoint"], "template_id": ours["id"]},
    ):
        assert (await web.call("POST", "/api/v0/workergroups/", body, "acme-operate")).status == 400
    moved = await web.call(
        "PUT", f"/api/v0/workergroups/{theirs['group']}/", {"template_id": ours["id"]}, "acme-operate"
    )
    assert moved.status == 400
    [kept] = (await web.call("GET", "/api/v0/endptjobs/", key="operate")).body["results"]
    assert kept["max_workers"] == 16
    assert len((await web.call("GET", "/api/v0/workergroups/", key="operate")).body["results"]) == 1


async def test_a_worker_is_seen_and_sent_away_by_its_account_alone(web: Web) -> None:
    ours, theirs = await make_all(web, "operate"), await make_all(web, "acme-operate")
    web.staff(worker(7, ours["endpoint"]))
    web.staff(worker(8, theirs["endpoint"]))
    web.shelf.lines["i-8"] = ["ready"]
    for key, seen in (("read", [7]), ("acme-admin", [8]), ("admin", [7, 8])):
        assert [row["id"] for row in (await web.call("GET", "/v1/workers", key=key)).body] == seen
    for method, path in (
        ("GET", "/api/v0/instances/7/"),
        ("GET", "/v1/workers/7/logs"),
        ("DELETE", "/v1/workers/7"),
    ):
        assert (await web.call(method, path, key="acme-admin")).status == 404, path
        assert (await web.call(method, path.replace("7", "8"), key="acme-admin")).status < 300, path


async def test_an_admin_of_the_installation_sees_and_changes_all(web: Web) -> None:
    ours, theirs = await make_all(web, "admin"), await make_all(web, "acme-operate")
    rows = (await web.call("GET", "/api/v0/endptjobs/")).body["results"]
    assert [(row["id"], row["user_id"]) for row in rows] == [(ours["endpoint"], 1), (theirs["endpoint"], ACME)]
    assert len((await web.call("GET", "/api/v0/workergroups/")).body["results"]) == 2
    assert len((await web.call("GET", "/api/v0/template/")).body["templates"]) == 2
    assert (await web.call("GET", "/v1/endpoints/llm/explain")).body["endpoint"] == "llm"
    changed = await web.call("PUT", f"/api/v0/endptjobs/{theirs['endpoint']}/", {"max_workers": 3})
    assert changed.status == 200
    [row] = (await web.call("GET", "/api/v0/endptjobs/", key="acme-read")).body["results"]
    assert row["max_workers"] == 3
    assert (await web.call("DELETE", f"/api/v0/endptjobs/{theirs['endpoint']}/")).status == 200
    assert (await web.call("GET", "/api/v0/endptjobs/", key="acme-read")).body["results"] == []


async def test_keys_and_accounts_are_made_by_whom_they_are_for(web: Web) -> None:
    seen = (await web.call("GET", "/v1/keys", key="acme-admin")).body
    assert {row["account"] for row in seen} == {"acme"}
    assert len(seen) == 4
    assert {row["account"] for row in (await web.call("GET", "/v1/keys")).body} == {"default", "acme"}
    own = await web.call("POST", "/v1/keys", {"name": "x", "scope": "read"}, "acme-admin")
    assert (own.status, own.body["account"]) == (201, "acme")
    same = await web.call("POST", "/v1/keys", {"name": "x", "scope": "read", "account": "acme"}, "acme-admin")
    assert same.status == 201
    for name in ("default", "nobody"):
        refused = await web.call("POST", "/v1/keys", {"name": "x", "scope": "read", "account": name}, "acme-admin")
        assert (refused.status, refused.body["error"]) == (403, "forbidden")
    unknown = await web.call("POST", "/v1/keys", {"name": "x", "scope": "read", "account": "nobody"})
    assert (unknown.status, "account" in unknown.body["msg"]) == (400, True)
    ours = next(row["id"] for row in (await web.call("GET", "/v1/keys")).body if row["account"] == "default")
    assert (await web.call("DELETE", f"/v1/keys/{ours}", key="acme-admin")).status == 404
    for method, body in (("GET", None), ("POST", {"name": "new"})):
        assert (await web.call(method, "/v1/accounts", body, "acme-admin")).status == 403
        assert (await web.call(method, "/v1/accounts", body, "operate")).status == 403
    assert [row["name"] for row in (await web.call("GET", "/v1/accounts")).body] == ["default", "acme"]
    for name in ("acme", "", " x", "a\nb", "x" * 256):
        assert (await web.call("POST", "/v1/accounts", {"name": name})).status == 400
    last = next(r["id"] for r in (await web.call("GET", "/v1/keys", key="acme-admin")).body if r["scope"] == "admin")
    assert (await web.call("DELETE", f"/v1/keys/{last}", key="acme-admin")).status == 200
    assert (await web.call("GET", "/v1/keys", key="acme-admin")).status == 401


async def test_an_endpoint_key_is_of_its_endpoint_whoever_owns_it(web: Web) -> None:
    ours, theirs = await make_all(web, "operate"), await make_all(web, "acme-operate")
    key = web.endpoint_key(theirs["endpoint"])
    assert (await web.call("POST", "/get_endpoint_workers/", {"id": theirs["endpoint"]}, key)).status == 200
    assert (await web.call("POST", "/get_endpoint_workers/", {"id": ours["endpoint"]}, key)).status == 403
    assert (await web.call("GET", "/api/v0/endptjobs/", key=key)).status == 403


async def route(http: aiohttp.ClientSession, server: Running, key: str) -> tuple[int, Any]:
    async with http.post(f"{server.url}/route/", json={"endpoint": "llm", "api_key": key, "cost": 1}) as reply:
        return reply.status, await reply.json()


async def test_two_accounts_are_served_under_the_same_name_each_by_its_own_workers(tmp_path: Path) -> None:
    async with (
        live_server(tmp_path / "data") as server,
        AsyncClient(server.url, server.admin_key) as admin,
        aiohttp.ClientSession() as http,
    ):
        await admin.create_account("acme")
        keys = [server.admin_key, (await admin.create_key("acme", "operate", "acme")).key]
        fleets = []
        for key in keys:
            async with AsyncClient(server.url, key) as client:
                endpoint_id = await add_endpoint(client, "llm")
            fleets.append(server.hub.managed(endpoint_id).fleet)
        await until(
            lambda: all(any(str(w.state) == "idle" for w in fleet.workers.values()) for fleet in fleets),
            "all are ready",
        )
        for number, (key, fleet) in enumerate(zip(keys, fleets, strict=True)):
            status, reply = await route(http, server, key)
            assert status == 200
            assert reply["url"] in {w.url for w in fleet.workers.values()}
            before = [f.counters.routed for f in fleets]
            async with pointed(server, key) as client:
                endpoint = await client.get_endpoint("llm")
                answers = await asyncio.gather(*(complete(endpoint) for _ in range(3)))
            assert all(answer["response"]["choices"][0]["text"].strip() for answer in answers)
            after = [f.counters.routed for f in fleets]
            assert after[number] >= before[number] + 3
            assert after[1 - number] == before[1 - number]
        theirs = server.hub.managed(fleets[1].endpoint.id).fleet.endpoint
        assert (theirs.name, theirs.account_id) == ("llm", ACME)
