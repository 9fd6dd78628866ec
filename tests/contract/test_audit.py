"""The record of what people did: every writing call leaves a row, and what is done to the record itself is found."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.audit import Act, ActFilter
from posthouse.cli import audit, main
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.worker import WorkerId
from posthouse.engine.orphans import Orphan, Orphans
from posthouse.server.auth import Scope
from posthouse.server.policies import POLICIES
from posthouse.store import acts, open_store
from posthouse.store.sql import SqlStore
from tests.kit.live import live_server
from tests.kit.rows import needs_file, sqlite_url
from tests.kit.web import Web, served, worker

CANARY = "canary-5f1d"
"""Stands in whatever may be secret."""


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


async def rows(web: Web, query: str = "", key: str = "admin") -> list[dict[str, Any]]:
    found = await web.call("GET", f"/v1/audit?limit=1000{query}", key=key)
    assert found.status == 200, found
    acts: list[dict[str, Any]] = found.body
    return acts


# -- every writing call ------------------------------------------------------------------------------------------------

SIGN_IN = ("POST", "/v1/session"), ("DELETE", "/v1/session")
WRITING = {
    call
    for call, least in POLICIES.items()
    if call[0] != "GET" and (call in SIGN_IN or (least is not None and least >= Scope.OPERATE))
}
JOBS, TEMPLATE, SECRET = "/api/v0/endptjobs", "/api/v0/template", "/api/v0/secrets"
A_TEMPLATE = {"name": "t", "image": "i", "env": f"-e TOKEN={CANARY}", "onstart": f"run {CANARY}"}
A_GROUP = {"endpoint_name": "e", "template_id": 1, "launch_args": CANARY}
A_SECRET = {"key": "TOKEN", "value": CANARY}
AN_ALIAS = {"targets": [{"model": "e"}]}
A_KEY = {"name": "k", "scope": "read"}
A_USER = {"name": "u", "scope": "read", "password": f"{CANARY}-long"}
OTHER = {"id": 1, "env": f"-e TOKEN=2-{CANARY}"}

MADE = {
    "endpoint": ("POST", JOBS, {"endpoint_name": "e"}),
    "template": ("POST", TEMPLATE, A_TEMPLATE),
    "group": ("POST", "/api/v0/workergroups", A_GROUP),
    "secret": ("POST", SECRET, A_SECRET),
    "alias": ("PUT", "/v1/aliases/a", AN_ALIAS),
    "key": ("POST", "/v1/keys", A_KEY),
    "user": ("POST", "/v1/users", A_USER),
    "drain": ("POST", "/v1/workers/7/drain", None),
}
"""How what a call needs is made. Each is the first of its kind, with the id 1."""

CALLS: dict[tuple[str, str], tuple[str, str, object, str]] = {
    # The call: what it needs, its path, its body, and the action that its row has.
    ("POST", "/v1/session"): ("", "/v1/session", {"key": "read"}, "session.begin"),
    ("DELETE", "/v1/session"): ("", "/v1/session", None, "session.end"),
    ("POST", JOBS): ("", JOBS, {"endpoint_name": "e"}, "endpoint.create"),
    ("PUT", JOBS + "/{endpoint_id}"): ("endpoint", f"{JOBS}/1", {"max_usd_day": 5}, "endpoint.update"),
    ("DELETE", JOBS + "/{endpoint_id}"): ("endpoint", f"{JOBS}/1", None, "endpoint.delete"),
    ("POST", "/v1/endpoints/{endpoint}/rotate-key"): (
        "endpoint",
        "/v1/endpoints/e/rotate-key",
        None,
        "endpoint.update",
    ),
    ("POST", "/v1/deployments"): ("", "/v1/deployments", {"name": "d", "recipe": "demo-llm"}, "workergroup.create"),
    ("POST", "/update_workers"): (
        "endpoint template group",
        "/update_workers",
        {"workergroup_id": 1},
        "workergroup.update_workers",
    ),
    ("POST", TEMPLATE): ("", TEMPLATE, A_TEMPLATE, "template.create"),
    ("PUT", TEMPLATE): ("template", TEMPLATE, OTHER, "template.update"),
    ("PUT", "/api/v1/template"): ("template", "/api/v1/template", OTHER, "template.update"),
    ("DELETE", TEMPLATE): ("template", TEMPLATE, {"template_id": 1}, "template.delete"),
    ("POST", SECRET): ("", SECRET, A_SECRET, "secret.create"),
    ("PUT", SECRET): ("secret", SECRET, {"key": "TOKEN", "value": f"2-{CANARY}"}, "secret.update"),
    ("DELETE", SECRET): ("secret", SECRET, {"key": "TOKEN"}, "secret.delete"),
    ("PUT", "/v1/aliases/{name}"): ("endpoint", "/v1/aliases/a", AN_ALIAS, "alias.create"),
    ("DELETE", "/v1/aliases/{name}"): ("endpoint alias", "/v1/aliases/a", None, "alias.delete"),
    ("PUT", "/v1/manifests/{name}"): ("endpoint", "/v1/manifests/a", {"alias": "a", **AN_ALIAS}, "alias.create"),
    ("DELETE", "/v1/manifests/{name}"): ("endpoint alias", "/v1/manifests/a", None, "alias.delete"),
    ("POST", "/v1/providers/{name}/check"): ("", "/v1/providers/shelf/check", None, "provider.check"),
    ("DELETE", "/v1/workers/{worker_id}"): ("endpoint worker", "/v1/workers/7", None, "worker.destroy"),
    ("POST", "/v1/workers/{worker_id}/drain"): ("endpoint worker", "/v1/workers/7/drain", None, "worker.drain"),
    ("DELETE", "/v1/workers/{worker_id}/drain"): (
        "endpoint worker drain",
        "/v1/workers/7/drain",
        None,
        "worker.undrain",
    ),
    ("POST", "/v1/workers/{worker_id}/restart"): ("endpoint worker", "/v1/workers/7/restart", None, "worker.restart"),
    ("POST", "/v1/keys"): ("", "/v1/keys", A_KEY, "key.create"),
    ("PUT", "/v1/keys/{key_id}"): ("key", "/v1/keys/{key}", {"at_once": 3}, "key.update"),
    ("DELETE", "/v1/keys/{key_id}"): ("key", "/v1/keys/{key}", None, "key.update"),
    ("POST", "/v1/users"): ("", "/v1/users", A_USER, "user.create"),
    ("PUT", "/v1/users/{name}"): ("user", "/v1/users/u", {"password": f"{CANARY}-longer"}, "user.update"),
    ("DELETE", "/v1/users/{name}"): ("user", "/v1/users/u", None, "user.delete"),
    ("POST", "/v1/accounts"): ("", "/v1/accounts", {"name": "acme"}, "account.create"),
    ("POST", "/v1/orphans/destroy"): ("", "/v1/orphans/destroy", {"instance_id": "i-9"}, "orphan.destroy"),
    ("POST", "/v1/orphans/adopt"): (
        "endpoint template group",
        "/v1/orphans/adopt",
        {"instance_id": "i-9", "workergroup_id": 1},
        "orphan.adopt",
    ),
}
for groups in ("autojobs", "workergroups"):
    path = f"/api/v0/{groups}"
    CALLS |= {
        ("POST", path): ("endpoint template", path, A_GROUP, "workergroup.create"),
        ("PUT", path + "/{group_id}"): ("endpoint template group", f"{path}/1", {"gpu_ram": 24}, "workergroup.update"),
        ("DELETE", path + "/{group_id}"): ("endpoint template group", f"{path}/1", None, "workergroup.delete"),
    }


@pytest.fixture
def orphan(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance without an owner, that is at the provider's."""
    instance = Instance("i-9", "posthouse-x-9", Observation.RUNNING)

    async def adopt(self: Orphans, orphan: Orphan, group: Any) -> Any:
        return worker(9, group.endpoint_id)

    monkeypatch.setattr(
        Orphans, "find", lambda self, instance_id, provider: Orphan(web.shelf, instance, WorkerId(9), 0.0, True)
    )
    monkeypatch.setattr(Orphans, "adopt", adopt)


async def made(web: Web, needs: str) -> str:
    """Makes what a call needs; the id of a key, if one is among it."""
    key = ""
    for need in needs.split():
        if need == "worker":
            web.staff(worker(7, 1))
            continue
        answer = await web.call(*MADE[need])
        assert answer.status < 300, answer
        key = answer.body["id"] if need == "key" else key
    return key


def test_every_writing_call_has_its_example_here() -> None:
    assert set(CALLS) == WRITING


@pytest.mark.usefixtures("orphan")
@pytest.mark.parametrize("call", sorted(WRITING), ids=" ".join)
async def test_every_writing_call_leaves_a_row_with_who_and_no_secret(web: Web, call: tuple[str, str]) -> None:
    needs, path, body, action = CALLS[call]
    path = path.replace("{key}", await made(web, needs))
    body = {"key": web.keys["read"]} if action == "session.begin" else body
    before = await rows(web)
    answer = await web.call(call[0], path, body)
    assert answer.status < 300, answer
    now = await rows(web)
    row = now[0]
    count = 3 if call == ("POST", "/v1/deployments") else 1  # it makes three things
    assert (len(now), row["id"]) == (len(before) + count, before[0]["id"] + count)
    assert (row["action"], row["call"]) == (action, " ".join(call))
    assert row["request_id"] == answer.headers["x-request-id"]
    assert row["key_name"] == ("read" if action == "session.begin" else "admin")
    assert CANARY not in json.dumps(now)
    assert (await web.call("GET", "/v1/audit/verify")).body["problems"] == []


# -- what a row says ---------------------------------------------------------------------------------------------------


async def test_a_row_says_what_a_field_said_before_and_says_now(web: Web) -> None:
    endpoint_id = await web.make_endpoint("e", max_workers=3)
    await web.call("PUT", f"{JOBS}/{endpoint_id}", {"max_workers": 5, "max_usd_day": 7.5})
    row = (await rows(web))[0]
    assert (row["before"], row["after"]) == (
        {"max_workers": 3, "max_usd_day": None},
        {"max_workers": 5, "max_usd_day": 7.5},
    )
    assert (row["subject"], row["name"], row["endpoint_id"], row["via"]) == ("1", "e", 1, "key")


async def test_of_variables_that_changed_their_names_are_told(web: Web) -> None:
    await made(web, "template")
    await web.call("PUT", TEMPLATE, OTHER)
    row = (await rows(web))[0]
    assert row["before"]["env"] == "-e TOKEN=***"
    assert row["after"]["env"] == "-e TOKEN=*** (changed)"


async def test_deleting_an_endpoint_tells_of_its_workergroups_too(web: Web) -> None:
    await made(web, "endpoint template group")
    await web.call("DELETE", f"{JOBS}/1")
    assert [row["action"] for row in await rows(web)][:2] == ["endpoint.delete", "workergroup.delete"]
    assert {row["action"] for row in await rows(web, "&endpoint=1")} >= {"endpoint.create", "workergroup.create"}


async def test_an_account_sees_its_own_rows_and_may_not_verify(web: Web) -> None:
    await web.call("POST", "/v1/accounts", {"name": "acme"})
    key = await web.call("POST", "/v1/keys", {"name": "theirs", "scope": "admin", "account": "acme"})
    theirs = key.body["key"]
    await web.make_endpoint("ours")
    await web.call("POST", JOBS, {"endpoint_name": "e"}, key=theirs)
    assert [row["action"] for row in await rows(web, key=theirs)] == ["endpoint.create", "key.create"]
    assert {row["account"] for row in await rows(web, key=theirs)} == {"acme"}
    assert (await web.call("GET", "/v1/audit/verify", key=theirs)).status == 403
    assert (await web.call("GET", "/v1/audit", key="operate")).status == 403


async def test_filters_and_pages(web: Web) -> None:
    for name in "abc":
        await web.make_endpoint(name)
    await made(web, "key template")
    assert [row["name"] for row in await rows(web, "&action=endpoint")] == ["c", "b", "a"]
    assert await rows(web, "&action=endpoint.create&endpoint=b") == await rows(web, "&subject=2&action=endpoint")
    assert await rows(web, "&action=end") == []
    assert {row["key_name"] for row in await rows(web, "&key=admin")} == {"admin"}
    everything = await rows(web)
    assert await rows(web, f"&before={everything[3]['id']}") == everything[4:]
    assert await rows(web, f"&request_id={everything[0]['request_id']}") == everything[:1]
    assert await rows(web, f"&since={everything[2]['at']}") == everything[:3]
    assert await rows(web, f"&until={everything[2]['at']}") == everything[3:]


async def test_a_decent_request_id_of_the_caller_is_kept_and_another_one_is_not(web: Web) -> None:
    for said, kept in (("deploy-42", True), ("x" * 65, False), ("a b", False)):
        headers = {"Authorization": f"Bearer {web.keys['admin']}", "X-Request-ID": said}
        async with web.session.get(f"{web.url}/v1/status", headers=headers) as answer:
            assert (answer.headers["X-Request-ID"] == said) is kept


async def test_a_change_that_fails_leaves_no_row(web: Web) -> None:
    await made(web, "endpoint template group")
    before = await rows(web)
    assert (await web.call("DELETE", TEMPLATE, {"template_id": 1})).status == 400
    assert (await web.call("PUT", f"{JOBS}/1", {"max_workers": 10**9})).status == 400
    assert (await web.call("POST", "/v1/workers/99/drain")).status == 404
    assert await rows(web) == before


async def test_settings_that_changed_while_it_was_down_leave_a_row_and_no_secret(tmp_path: Path) -> None:
    wanted = ActFilter(action="settings.update")
    for day in (None, 5.0, 5.0, None):
        async with live_server(tmp_path, **{"money.max_usd_day": day}) as server:
            found = await server.hub.store.acts(wanted)
    assert [(json.loads(act.before), json.loads(act.after)) for act in found[:-1]] == [
        ({"money.max_usd_day": 5.0}, {"money.max_usd_day": None}),
        ({"money.max_usd_day": None}, {"money.max_usd_day": 5.0}),
    ]
    first = json.loads(found[-1].after)
    assert first["engine.tick_s"] == 0.2
    assert "server.host" not in first  # a default


@needs_file
async def test_the_command_lists_and_verifies(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_URL", web.url)
    monkeypatch.setenv("POSTHOUSE_API_KEY", web.keys["admin"])
    monkeypatch.setattr(audit, "PAGE", 2)

    async def told(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, words)
        return code, capsys.readouterr().out

    await web.make_template(desc="\u202e\x1b[31m")
    endpoint_id = await web.make_endpoint("e", max_workers=3)
    await web.call("PUT", f"{JOBS}/{endpoint_id}", {"max_workers": 5})
    code, text = await told("audit", "list", "--limit", "3")
    lines = text.splitlines()
    assert code == 0
    assert "max_workers 3 → 5" in lines[2]
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", lines[2])
    assert "desc" in text
    assert not {"\u202e", "\x1b"} & set(text)
    code, text = await told("audit", "list", "--all", "--json")
    assert [act["id"] for act in json.loads(text)] == [7, 6, 5, 4, 3, 2, 1]
    code, text = await told("audit", "verify")
    assert (code, text.splitlines()[0]) == (0, "7 acts, all as they were written")
    head = text.split()[-1]
    meddle(tmp_path, "DELETE FROM audit WHERE id = 5")
    assert await told("audit", "verify", "--head", head) == (1, f"row 5 is missing\nhead {head}\n")
    code, text = await told("audit", "verify", "--json")
    assert (code, json.loads(text)["ok"]) == (1, False)


# -- the chain ---------------------------------------------------------------------------------------------------------


async def chain(store: SqlStore, count: int) -> None:
    for number in range(count):
        await store.note(Act("worker.drain", str(number)))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await open_store(sqlite_url(tmp_path / "posthouse.db"))
    await chain(store, 10)
    yield store
    await store.close()


def meddle(tmp_path: Path, *statements: str) -> None:
    with sqlite3.connect(tmp_path / "posthouse.db") as db:
        for statement in statements:
            db.execute(statement)


COPY = "INSERT INTO audit SELECT {}, at, account_id, via, key_id, key_name, call, request_id, action, 'x', name, "
COPY += "endpoint_id, before, after, hash FROM audit WHERE id = 5"


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["UPDATE audit SET key_name = 'mallory' WHERE id = 4"], "row 4 is not what was written"),
        (["UPDATE audit SET at = at + 1 WHERE id = 10"], "row 10 is not what was written"),
        (["DELETE FROM audit WHERE id = 4"], "row 4 is missing"),
        (["DELETE FROM audit WHERE id BETWEEN 1 AND 3"], "rows 1 to 3 are missing"),
        (["DELETE FROM audit WHERE id > 7"], "rows 8 to 10 are missing"),
        (["DELETE FROM audit"], "rows 1 to 10 are missing"),
        ([COPY.format(11)], "rows after 10 were added"),
        ([COPY.format(0)], "row 0 was added"),
        (
            ["UPDATE audit SET id = -id WHERE id > 5", "UPDATE audit SET id = 1 - id WHERE id < 0", COPY.format(6)],
            "row 6 is not what was written",
        ),
        (["DELETE FROM audit_head"], "the head of the chain is missing"),
        (["UPDATE audit_head SET hash = 'f'"], "row 10 is not the one that the head of the chain names"),
    ],
)
async def test_what_was_changed_removed_or_added_is_found(
    store: SqlStore, tmp_path: Path, statements: list[str], problem: str
) -> None:
    assert (await store.check_acts()).problems == ()
    meddle(tmp_path, *statements)
    problems = (await store.check_acts()).problems
    assert any(problem in one for one in problems), problems


async def test_a_chain_that_was_cut_with_its_head_is_found_by_who_noted_that_elsewhere(
    store: SqlStore, tmp_path: Path
) -> None:
    noted = await store.check_acts()
    witness = f"{noted.last_id}:{noted.hash}"
    assert (await store.check_acts(witness)).problems == ()
    hash_of_7 = "(SELECT hash FROM audit WHERE id = 7)"
    meddle(tmp_path, f"UPDATE audit_head SET last_id = 7, hash = {hash_of_7}", "DELETE FROM audit WHERE id > 7")
    assert (await store.check_acts()).problems == ()  # this is what the chain by itself cannot tell
    assert "row 10" in (await store.check_acts(witness)).problems[0]
    await chain(store, 5)
    assert (await store.check_acts()).problems == ()
    assert "another hash" in (await store.check_acts(witness)).problems[0]


async def test_a_lost_head_refuses_nothing_and_is_told_for_ever(store: SqlStore, tmp_path: Path) -> None:
    meddle(tmp_path, "DELETE FROM audit_head")
    await chain(store, 1)
    [problem] = (await store.check_acts()).problems
    assert "deleted once" in problem


async def test_beyond_the_bound_the_oldest_go_and_the_chain_holds(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "KEEP", 20)
    monkeypatch.setattr(acts, "TRIMMED", 5)
    await chain(store, 37)
    found = await store.check_acts()
    assert found.problems == ()
    kept = await store.acts(ActFilter(limit=1000))
    assert 20 <= len(kept) <= 25
    assert (kept[0].id, kept[-1].id) == (47, found.first_id)
    assert found.first_id > 1
