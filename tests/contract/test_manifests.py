"""Manifests over HTTP, with the plain calls that a Terraform provider for REST makes: create, read, update, delete."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.domain.offer import Offer, Price
from posthouse.errors import Unavailable
from tests.kit.web import Answer, Web, served

PATH = "/v1/manifests/"
CHAT: dict[str, Any] = {
    "endpoint": "chat",
    "scaling": {"min_load": 0, "cold_workers": 0, "max_workers": 2, "max_usd_h": None},
    "recipe": "demo-llm",
    "parameters": {"tokens_per_s": 100},
    "workergroups": [{"provider": "shelf"}, {"provider": "shelf", "search": "gpu_ram>=24"}],
}
"""What a user of Terraform writes as the data of a resource."""


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        web.shelf.stock = [
            Offer(str(n), "shelf", f"m{n}", Price(usd, usd / 10), gpu_ram_mb=48_000) for n, usd in OFFERS
        ]
        await web.hub.offers.refresh(web.shelf)
        yield web


OFFERS = ((1, 0.25), (2, 0.75))


async def put(web: Web, body: dict[str, Any], query: str = "", key: str = "operate", **headers: str) -> Answer:
    return await web.call("PUT", f"{PATH}{body.get('endpoint') or body['alias']}{query}", body, key=key, **headers)


async def read(web: Web, name: str = "chat", key: str = "operate") -> dict[str, Any]:
    answer = await web.call("GET", PATH + name, {}, key=key)  # such providers send an empty object
    assert answer.status == 200, answer
    assert answer.headers["etag"]
    body: dict[str, Any] = answer.body
    return body


def steps(answer: Answer) -> list[str]:
    """What a call has changed."""
    assert answer.status == 200, answer
    return [f"{change['how']} {change['what']}" for change in answer.body["status"]["changes"]]


def drift(body: dict[str, Any]) -> set[str]:
    """What has drifted, with the fields."""
    return {f"{change['what']}: {', '.join(change['fields'])}" for change in body["status"]["drift"]}


def without_status(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "status"}


async def test_a_resource_is_created_read_without_drift_changed_outside_updated_and_destroyed(web: Web) -> None:
    assert (await web.call("GET", PATH + "chat", key="operate")).status == 404
    planned = await put(web, CHAT, "?dry_run=true")
    assert steps(planned)[:2] == ["create template chat", "create endpoint chat"]
    assert (planned.body["status"]["most_usd_h"], planned.body["status"]["endpoint_id"]) == (1.5, None)
    assert planned.body["status"]["most"] == "$1.5 an hour: 2 workers at $0.75, the dearest of 4 offers"
    assert not web.hub.directory.find(DEFAULT_ACCOUNT, "chat"), "nothing is made"

    created = await put(web, CHAT)
    assert steps(created) == steps(planned)
    assert len(steps(created)) == 4
    assert without_status(created.body) == CHAT, "what was sent comes back, so that nothing seems to differ"
    shown = await read(web)
    assert without_status(shown) == CHAT
    assert drift(shown) == set()
    status = shown["status"]
    assert (status["endpoint_id"], len(status["workergroup_ids"])) == (1, 2)
    assert status["applied_at"] <= web.hub.clock.now()
    assert steps(await put(web, CHAT)) == []

    [template] = (await web.call("GET", "/api/v0/template/")).body["templates"]
    assert status["template_id"] == template["id"]
    await web.call("PUT", "/api/v0/endptjobs/1/", {"max_workers": 9, "max_usd_h": 3})
    await web.call("DELETE", f"/api/v0/workergroups/{status['workergroup_ids'][1]}/")
    shown = await read(web)
    assert shown["scaling"] == {**CHAT["scaling"], "max_workers": 9, "max_usd_h": 3.0}
    assert "recipe" not in shown
    assert (shown["workergroups"], "TOKENS_PER_S" in shown["template"]["env"]) == ([{"provider": "shelf"}], True)
    assert drift(shown) == {"endpoint chat: max_workers, max_usd_h", "workergroup of shelf: template, provider, search"}
    changed = {**CHAT, "scaling": {**CHAT["scaling"], "max_workers": 3}, "parameters": {"tokens_per_s": 7}}
    assert steps(await put(web, changed)) == [
        "change template chat",
        "change endpoint chat",
        "create workergroup of shelf",
    ]
    assert without_status(await read(web)) == changed

    gone = await web.call("DELETE", PATH + "chat?dry_run=true", key="operate")
    assert steps(gone) == ["delete endpoint chat", "delete template chat"]
    gone = await web.call("DELETE", PATH + "chat", key="operate")
    assert steps(gone) == ["delete endpoint chat", "delete template chat"]
    assert not web.hub.templates
    assert (await web.call("GET", PATH + "chat", key="operate")).status == 404
    assert (await web.call("DELETE", PATH + "chat", key="operate")).status == 404


async def test_what_was_made_otherwise_is_imported_by_reading_it(web: Web) -> None:
    endpoint_id = await web.make_endpoint("llama", max_workers=4)
    template = await web.make_template(
        "llama", env="-e A=1 -p 3000:3000", extra_filters="gpu_ram>=24", tag="1", image="x"
    )
    group = {"endpoint_id": endpoint_id, "template_id": template["id"], "gpu_ram": 8}
    await web.call("POST", "/api/v0/workergroups/", group)
    shown = await read(web, "llama")
    assert shown["template"]["image"] == "x:1"
    assert (shown["status"]["applied_at"], drift(shown)) == (None, set())
    listed = (await web.call("GET", "/v1/manifests", key="operate")).body
    assert [without_status(one) for one in listed] == [without_status(shown)]
    assert steps(await put(web, shown)) == [], "what was read is what there is, and its status is passed over"
    assert (await read(web, "llama"))["status"]["applied_at"]
    assert steps(await put(web, {**shown, "template": {**shown["template"], "image": "x:2"}})) == [
        "change template llama"
    ]
    assert (await read(web, "llama"))["template"]["image"] == "x:2"


async def test_what_no_manifest_could_say_is_shown_all_the_same(web: Web) -> None:
    endpoint_id = await web.make_endpoint("bare", max_workers=0)
    shown = await read(web, "bare")
    assert (shown["template"], shown["status"]["endpoint_id"]) == ("", endpoint_id)
    assert shown["status"]["most"].startswith("not known: template: must be the name of a template")
    assert len(steps(await put(web, {**shown, "template": {}}))) == 2
    await put(web, {"endpoint": "chat", "template": {"search": "num_gpus=0"}})
    before = web.hub.providers
    web.hub.providers = {}
    try:
        shown = await read(web)
    finally:
        web.hub.providers = before
    assert "no provider" in shown["status"]["most"]


async def test_aliases_are_resources_too(web: Web) -> None:
    await put(web, CHAT)
    fast = {"alias": "fast", "targets": [{"model": "chat", "weight": 1.0}]}
    made = await put(web, fast)
    assert steps(made) == ["create alias fast"]
    assert (await web.call("GET", PATH + "fast", key="operate")).headers["etag"] == made.headers["etag"]
    assert without_status(await read(web, "fast")) == fast
    assert steps(await put(web, fast)) == []
    assert (await put(web, {**fast, "targets": [{"model": "nowhere"}]})).status == 400
    named = await web.call("DELETE", PATH + "chat", key="operate")
    assert (named.status, "is named by the alias 'fast'" in named.body["msg"]) == (400, True)
    assert steps(await web.call("DELETE", PATH + "fast", key="operate")) == ["delete alias fast"]


async def test_no_update_is_lost_between_two_who_read_the_same(web: Web) -> None:
    assert (await put(web, CHAT, if_match='"0"')).status == 412
    assert (await put(web, CHAT, if_none_match="*")).status == 200
    assert (await put(web, CHAT, if_none_match="*")).status == 412
    tag = (await web.call("GET", PATH + "chat", key="operate")).headers["etag"]
    first = await put(web, {**CHAT, "scaling": {"max_workers": 5}}, if_match=tag)
    assert first.status == 200
    second = await put(web, {**CHAT, "scaling": {"max_workers": 6}}, if_match=tag)
    assert (second.status, second.body["error"]) == (412, "precondition_failed")
    assert first.headers["etag"] in second.body["msg"]
    assert (await web.call("DELETE", PATH + "chat", key="operate", if_match=tag)).status == 412
    await web.call("PUT", "/api/v0/endptjobs/1/", {"max_workers": 9})  # outside
    assert (await web.call("DELETE", PATH + "chat", key="operate", if_match=first.headers["etag"])).status == 412
    tag = (await web.call("GET", PATH + "chat", key="operate")).headers["etag"]
    assert (await web.call("DELETE", PATH + "chat", key="operate", if_match=f'"0", W/{tag}')).status == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "other"}, "endpoint: must be 'chat', as in the path, not 'other'"),
        ({"endpoint": None}, "endpoint: is not given"),
        ({"scalling": {}}, "scalling: there is no such field. Did you mean scaling?"),
        ({"scaling": {"max_worker": 1}}, "scaling.max_worker: there is no such scaling parameter"),
        ({"scaling": {"max_workers": 99_999}}, "scaling.max_workers: must be a whole number from 0 to 10000"),
        ({"scaling": {"max_workers": 9_999}}, "max_workers: must be a whole number from 0 to"),
        ({"recipe": "none"}, "recipe: there is no recipe 'none'"),
        ({"parameters": {"x": 1}}, "parameters.x: there is no such parameter"),
        ({"workergroups": [{"provider": "nowhere"}]}, "workergroups[0].provider: there is no provider"),
        ({"workergroups": [{}, {"signature_scheme": "A9"}]}, "workergroups[1].signature_scheme: must be one of"),
        ({"workergroups": [{"gpu_ram": -1}]}, "workergroups[0].gpu_ram: must be a number from 0 to 1000000"),
        ({"workergroups": [{"search": "gpu_rams>=1"}]}, "workergroups[0].search: gpu_rams: there is no such field"),
        ({"workergroups": [{"template": "nowhere"}]}, "workergroups[0].template: nowhere: there is no such template"),
        ({"recipe": None, "parameters": None, "template": {"image": "x" * 5000}}, "template.image: must be text of at"),
        ({"recipe": None, "parameters": None, "template": {"disk_gb": 1e9}}, "template.disk_gb: must be a number from"),
        ({"keys": {"web": {"at_once": -1}}}, "keys.web.at_once: must be a whole number from 0"),
        ({"keys": {"web": {"at_once": 1}}}, "keys.web: there is no key of this name"),
    ],
)
async def test_what_is_wrong_is_told_with_its_field_before_anything_is_done(
    web: Web, change: dict[str, Any], words: str
) -> None:
    answer = await web.call("PUT", PATH + "chat", {**CHAT, **change})
    assert (answer.status, answer.body["msg"][: len(words)]) == (400, words)
    assert not web.hub.templates
    assert not len(web.hub.directory)


async def test_what_fails_half_way_is_told_and_the_same_again_ends_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise Unavailable("the database cannot be used now", 5.0)

    with monkeypatch.context() as patch:
        patch.setattr(type(web.hub.store), "add_workergroup", fails)
        answer = await put(web, CHAT)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    said = "2 of 4 steps were done (template chat created, endpoint chat created): the same again goes on"
    assert said in answer.body["msg"]
    assert drift(await read(web)) == {
        "workergroup of shelf: template, provider",
        "workergroup of shelf: template, provider, search",
    }
    assert steps(await put(web, CHAT)) == ["create workergroup of shelf"] * 2
    assert drift(await read(web)) == set()


async def test_an_account_sees_and_changes_its_own_alone(web: Web) -> None:
    await web.call("POST", "/v1/accounts", {"name": "acme"})
    minted = await web.call("POST", "/v1/keys", {"name": "tf", "scope": "admin", "account": "acme"})
    key = minted.body["key"]
    await put(web, CHAT)
    assert (await web.call("GET", PATH + "chat", key=key)).status == 404
    assert (await web.call("DELETE", PATH + "chat", key=key)).status == 404
    assert (await web.call("GET", "/v1/manifests", key=key)).body == []
    body = {"endpoint": "chat", "scaling": {"max_workers": 0}, "template": {"desc": "another"}}
    assert len(steps(await put(web, body, key=key))) == 3
    assert without_status(await read(web)) == CHAT
    assert without_status(await read(web, key=key)) == body
    for kind in ("read", "route"):
        assert (await web.call("GET", PATH + "chat", key=kind)).status == 403


async def test_limits_of_keys_need_an_admin(web: Web) -> None:
    await web.call("POST", "/v1/keys", {"name": "web", "scope": "route"})
    body = {**CHAT, "keys": {"web": {"at_once": 3}}}
    assert (await put(web, body)).status == 403
    assert steps(await put(web, body, key="admin"))[-1] == "change key web"
    [record] = [record for record in web.keyring.records() if record.name == "web"]
    assert record.at_once == 3
    await web.call("PUT", f"/v1/keys/{record.id}", {"at_once": 4})
    shown = await read(web, key="admin")
    assert (shown["keys"], drift(shown)) == ({"web": {"at_once": 4}}, {"key web: at_once"})
    assert "keys" not in await read(web)


async def test_each_step_is_in_the_audit_with_the_call(web: Web) -> None:
    assert (await put(web, {"endpoint": "chat", "template": {"env": {"A": "SECRETLY"}}})).status == 200
    acts = (await web.call("GET", "/v1/audit")).body
    assert {act["action"] for act in acts} >= {
        "template.create",
        "endpoint.create",
        "manifest.apply",
        "workergroup.create",
    }
    assert {act["call"] for act in acts} >= {"PUT /v1/manifests/{name}"}
    assert "SECRETLY" not in str(acts)


async def test_a_manifest_goes_with_its_endpoint_and_is_renamed_with_it(web: Web) -> None:
    await put(web, CHAT)
    await web.call("PUT", "/api/v0/endptjobs/1/", {"endpoint_name": "talk"})
    assert (await web.call("GET", PATH + "chat", key="operate")).status == 404
    assert drift(await read(web, "talk")) >= {"workergroup 1: template"}
    await web.call("DELETE", "/api/v0/endptjobs/1/")
    await put(web, {"endpoint": "talk", "template": "chat"})
    assert drift(await read(web, "talk")) == set()
