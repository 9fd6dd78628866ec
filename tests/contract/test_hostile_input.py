"""What nobody honest sends, to every call there is: refused in words, and the server goes on.

`ROWS` has every route with what is wrong only there; `BODIES` go to all of them.
"""

import io
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from structlog.testing import capture_logs

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.server.auth import Keyring
from posthouse.server.fastpath import ROUTES
from posthouse.server.middleware import MAX_BODY_BYTES, MAX_DEPTH
from posthouse.wire.status import MAX_INDEXES
from tests.fuzz.site import Case, Site, site
from tests.kit.live import live_server, until
from tests.kit.marks import long
from tests.kit.puppets import Puppet, puppets, route, two_ready
from tests.kit.routes import calls

UNLIMITED = {
    "rates.routes_per_address": 0,
    "rates.routes_per_key": 0,
    "rates.calls_per_address": 0,
    "rates.calls_per_key": 0,
    "rates.wrong_keys_per_address": 0,
    "rates.reports_per_worker": 0,
}
DEEP = MAX_DEPTH + 1


@dataclass(frozen=True)
class Row:
    """One wrong call: the server must refuse it, or, where `ignored`, may do as if the wrong part were not there."""

    body: Any = None
    query: str = ""
    path: dict[str, str] = field(default_factory=dict)
    ignored: bool = False


BODIES = {
    "half": b'{"a":',
    "not UTF-8": b'{"a":"\xff\xfe"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a list": b"[1]",
    "a text": b'"text"',
    "a number": b"17",
    "two objects": b"{}{}",
    "NaN": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "a huge float": b'{"a":1e99999}',
    "a huge integer": b'{"a":' + b"9" * 50_000 + b"}",
    "lists in lists": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "lists without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 30_000,
    "half a surrogate": b'{"a":"\\ud800"}',
    "NUL": b'{"\\u0000":"\\u0000"}',
    "a bare NUL": b'{"a":"\x00"}',
    "too long": b" " * (MAX_BODY_BYTES + 1),
    "a long name": b'{"' + b"x" * 100_000 + b'":1}',
    "many names": json.dumps({f"{n}": n for n in range(20_000)}).encode(),
    "a form": b"a=1&b=2",
    "XML": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}
"""Bodies that no call expects. Calls that read no field of a body may ignore what is JSON in it."""

NUMBERS: tuple[Any, ...] = (-1, 1.5, "x", "1e999", "nan", True, [], {}, 10**400, -(2**63), " ")
"""Wrong wherever a small whole number is meant."""
IDS = ("-1", "1.5", "x", "9" * 400, "%00", "%ff", "%2e%2e%2f1", "1;2", "a" * 3000, "'%20OR%201=1")
TEXTS: tuple[Any, ...] = (7, True, [], {}, ["x"], {"x": 1}, "a\0b", "x" * 70_000)
"""Wrong wherever a short text is meant."""


def ids(name: str) -> list[Row]:
    return [Row(path={name: wrong}) for wrong in IDS]


def of(fields: dict[str, tuple[Any, ...]], **right: Any) -> list[Row]:
    """A row for each wrong value of each field, with the other fields right."""
    return [Row(body={**right, name: wrong}) for name, values in fields.items() for wrong in values]


SCALING: dict[str, tuple[Any, ...]] = {
    "max_workers": NUMBERS,
    "cold_workers": NUMBERS,
    "min_load": (-1, "x", "inf", True, [], 1e300),
    "target_util": (0, -1, 2, "nan", {}),
    "endpoint_name": (*TEXTS, "", " a", "a\nb", "x" * 256),
}
GROUP: dict[str, tuple[Any, ...]] = {
    "endpoint_id": NUMBERS,
    "search_params": (7, True, "gpu_ram=>", "x" * 5000, {"a": {"like": 1}}, {"a": {"eq": {"b": {}}}}, "{" * 4000),
    "gpu_ram": (-1, "x", [], 1e300),
    "launch_args": TEXTS[:7],
    "provider": (*TEXTS[:7], "mars"),
    "signature_scheme": ("A6", 7, {}),
}
TEMPLATE: dict[str, tuple[Any, ...]] = {
    "name": (*TEXTS, ""),
    "image": TEXTS,
    "env": ("--gpus all", ["A=b"], "-e 'A", 7, "-e A=\0"),
    "onstart": (7, "echo \0", "x" * 300_000),
    "recommended_disk_space": (-1, "x", "nan", [], 1e300),
    "extra_filters": (7, "gpu_ram=>", {"a": {"like": 1}}),
}


def each(name: str, *values: Any, **more: Any) -> list[dict[str, Any]]:
    return [{name: value, **more} for value in values]


MANIFESTS = [
    *each("endpoint", "y", *TEXTS),
    *each("scaling", 7, [], {"x": 1}, {"max_workers": {}}, {"max_workers": 10**400}),
    *each("template", 7, [], "", {"env": "-e A=\0"}, {"env": {"A": "\0"}}, {"env": {"A": {}}}, {"x": 1}),
    *each("template", *each("image", {}, "\0", "x" * 300_000), *each("onstart", {}, "\0", "x" * 300_000)),
    *each("template", *each("disk_gb", -1, 1e300, "x", True)),
    *each("recipe", 7, "none", {}, "../x", template=None),
    *each("parameters", 7, {"x": 1}, {"load_s": "\0"}, recipe="demo-llm", template=None),
    *each("workergroups", 7, [], [7], [{}] * 101, [{"search": "a=>"}], [{"provider": "mars"}]),
    *each("keys", 7, {"x": 7}, {"x": {"at_once": 10**400}}, {"\0": {}}),
    {"alias": "x"},
    {"endpoint": None, "template": None, "alias": "x", "targets": [{"model": {}}]},
]
LIMITS: dict[str, tuple[Any, ...]] = dict.fromkeys(("requests_per_minute", "work_per_minute", "at_once"), NUMBERS)
LOGS: dict[str, tuple[Any, ...]] = {"id": NUMBERS, "tail": (*NUMBERS[1:9], -(2**70))}
SECRET: dict[str, tuple[Any, ...]] = {"key": (*TEXTS, "", "A B", "1A", "MASTER_TOKEN", "x" * 129)}
FILTERS: dict[str, tuple[Any, ...]] = {
    "limit": (0, *NUMBERS),
    "type": ("bid", 7, []),
    "allocated_storage": (-1, "x", 1e300),
    "gpu_ram": (5, {"like": 1}, {"gte": {}}, []),
}
QUERIES = ("limit=0", "limit=-1", "limit=1001", "limit=x", "limit=NaN", f"limit={'9' * 400}", "limit=%00")
SELECT = ("{", "[]", "7", '{"a":{"eq":1}}', '{"id":{"like":1}}', "[" * 3000, '{"id":5}', "\ud800x")

GROUPS_ROWS = {
    ("GET", ""): [],
    ("POST", ""): of(GROUP, endpoint_name="llm"),
    ("GET", "/{group_id}"): ids("group_id"),
    ("PUT", "/{group_id}"): [*ids("group_id"), *of(GROUP)],
    ("DELETE", "/{group_id}"): ids("group_id"),
}
INSTANCES = [
    *(Row(query=f"select_filters={quote(s, errors='replace')}") for s in SELECT),
    *(Row(query=f"order_by={quote(s, errors='replace')}") for s in (*SELECT[:1], *SELECT[2:], '[{"col":"x"}]', "[1]")),
    *(Row(query=wrong) for wrong in (*QUERIES, "after_token=-1", "after_token=x")),
]
ROWS: dict[tuple[str, str], list[Row]] = {
    ("POST", "/route"): of(
        {"endpoint": (*TEXTS[:6], "", "x" * 256, "nobody"), "cost": (-1, "x", "nan", [], {}, True, 1e13)}
        | {"request_idx": (-1, 1.5, "x", [], True, 2**60)},
        endpoint="llm",
    ),
    ("POST", "/worker_status"): of({"id": (*NUMBERS, None, 10**9), "mtoken": TEXTS}, id=1),
    ("POST", "/delete_requests"): of({"worker_id": (*NUMBERS, None, 10**9), "mtoken": TEXTS}, worker_id=1),
    ("POST", "/sign_cert"): [
        *(Row(b"x", query=f"instance_id={wrong}") for wrong in (*IDS, "", "1" * 17)),
        Row(b"x", query=""),
        Row(b"x", query="&".join(["instance_id=1"] * 2000)),
        Row(b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 900_000, query="instance_id=1"),
    ],
    ("GET", "/pubkey"): [],
    ("GET", "/static/jvastai_root.cer"): [],
    ("GET", "/healthz"): [],
    ("GET", "/readyz"): [],
    ("GET", "/metrics"): [],
    ("GET", "/docs"): [],
    ("GET", "/docs/{asset}"): [Row(path={"asset": wrong}) for wrong in (*IDS, "..%2f..%2fauth.py", "%2fetc%2fpasswd")],
    ("GET", "/openapi.json"): [],
    ("HEAD", "/openapi.json"): [],
    ("GET", "/"): [],
    ("GET", "/console"): [],
    ("GET", "/console/{path}"): [Row(path={"path": f"assets/{wrong}"}) for wrong in (*IDS, "..%2f..%2ffiles.py")],
    ("POST", "/v1/session"): of({"key": (*TEXTS, "")}),
    ("GET", "/v1/session"): [],
    ("DELETE", "/v1/session"): [],
    ("GET", "/api/v0/users/current"): [],
    ("GET", "/api/v0/endptjobs"): [],
    ("POST", "/api/v0/endptjobs"): of(SCALING),
    ("GET", "/api/v0/endptjobs/{endpoint_id}"): ids("endpoint_id"),
    ("PUT", "/api/v0/endptjobs/{endpoint_id}"): [*ids("endpoint_id"), *of(SCALING | {"endpoint_state": TEXTS})],
    ("DELETE", "/api/v0/endptjobs/{endpoint_id}"): ids("endpoint_id"),
    **{
        (m, f"/api/v0/{name}{p}"): rows for name in ("autojobs", "workergroups") for (m, p), rows in GROUPS_ROWS.items()
    },
    ("GET", "/api/v0/template"): [Row(query=f"select_filters={quote(s, errors='replace')}") for s in SELECT],
    ("POST", "/api/v0/template"): of(TEMPLATE, name="x"),
    ("PUT", "/api/v0/template"): of(TEMPLATE | {"id": NUMBERS}, id=4711),
    ("PUT", "/api/v1/template"): of(TEMPLATE | {"hash_id": TEXTS}, id=4711),
    ("DELETE", "/api/v0/template"): of({"template_id": NUMBERS, "hash_id": (*TEXTS, "", "0" * 32)}),
    ("POST", "/api/v0/bundles"): of(FILTERS),
    ("PUT", "/api/v0/search/asks"): [*of({"q": (7, "x", [], None, True)}), *(Row({"q": r.body}) for r in of(FILTERS))],
    ("GET", "/api/v0/benchmarks"): [],
    ("GET", "/api/v0/instances/{worker_id}"): ids("worker_id"),
    ("GET", "/api/v0/instances"): INSTANCES,
    ("GET", "/api/v1/instances"): INSTANCES,
    ("GET", "/api/v0/secrets"): [],
    ("POST", "/api/v0/secrets"): of(SECRET | {"value": (7, "a\0b", [], None, "x" * 40_000)}, key="A", value="b"),
    ("PUT", "/api/v0/secrets"): of(SECRET, key="NOBODY", value="b"),
    ("DELETE", "/api/v0/secrets"): of(SECRET, key="NOBODY"),
    ("POST", "/update_workers"): of({"workergroup_id": NUMBERS, "cancel_update": (1, "yes", [])}, workergroup_id=1),
    ("POST", "/get_endpoint_workers"): of({"id": NUMBERS}),
    ("POST", "/get_autogroup_workers"): of({"id": NUMBERS}),
    ("POST", "/get_workergroup_workers"): of({"id": NUMBERS}),
    ("POST", "/get_endpoint_logs"): [*of(LOGS, id=1), *of({"endpoint": TEXTS})],
    ("POST", "/get_autogroup_logs"): of(LOGS, id=1),
    ("POST", "/get_workergroup_logs"): of(LOGS, id=1),
    ("GET", "/v1/status"): [],
    ("GET", "/v1/endpoints"): [],
    ("GET", "/v1/endpoints/{endpoint}/explain"): ids("endpoint"),
    ("GET", "/v1/endpoints/{endpoint}/journal"): [
        *ids("endpoint"),
        *(Row(query=wrong, path={"endpoint": "llm"}) for wrong in QUERIES),
    ],
    ("GET", "/v1/endpoints/{endpoint}/history"): [
        *ids("endpoint"),
        *(
            Row(query=wrong.replace("limit", "most").replace("1001", "1441"), path={"endpoint": "llm"})
            for wrong in QUERIES
        ),
        *(Row(query=f"last_s={wrong}", path={"endpoint": "llm"}) for wrong in ("0", "-1", "nan", "inf", "31622401")),
    ],
    ("GET", "/v1/endpoints/{endpoint}/traffic"): [
        *ids("endpoint"),
        *(
            Row(query=f"last_s={wrong}", path={"endpoint": "llm"})
            for wrong in ("0", "-1", "nan", "inf", "1e11", "long")
        ),
    ],
    ("POST", "/v1/endpoints/{endpoint}/rotate-key"): ids("endpoint"),
    ("POST", "/v1/endpoints/{endpoint}/outlook"): ids("endpoint"),
    ("POST", "/v1/endpoints/{endpoint}/what-if"): [
        Row(body={"change": change, "last_s": last_s}, path={"endpoint": "llm"})
        for change, last_s in (
            ({}, 60),
            ({"nonsense": 1}, 60),
            ({"max_workers": -1}, 60),
            (7, 60),
            ({"min_load": 9}, 0),
        )
    ],
    ("POST", "/v1/endpoints/{endpoint}/try"): [
        Row(body=row.body, path={"endpoint": "llm"})
        for row in of(
            {
                "path": (*TEXTS, "", "x", "/a b", "/a\r\nb", "//" * 200),
                "payload": (7, "x", []),
                "cost": (-1, "nan", []),
            },
            path="/",
            payload={},
        )
    ],
    ("GET", "/v1/recipes"): [],
    **{
        ("POST", f"/v1/deployments{what}"): of(
            {"name": (*TEXTS, "", " a"), "recipe": (*TEXTS, "", "nobody"), "template_id": NUMBERS}
            | {"parameters": (7, {"x": 1}, {"slots": "$(id)"}), "scaling": (7, {"x": 1}, {"max_workers": -1})}
            | {"provider": (*TEXTS, "mars"), "gpu": (*TEXTS, "a b"), "gpu_ram_gb": (-1, "x", 1e300)},
            name="x",
            recipe="demo-llm",
        )
        for what in ("", "/estimate")
    },
    ("GET", "/v1/workers"): [Row(query=f"endpoint={wrong}") for wrong in IDS],
    ("GET", "/v1/workers/{worker_id}"): ids("worker_id"),
    ("POST", "/v1/workers/{worker_id}/drain"): ids("worker_id"),
    ("DELETE", "/v1/workers/{worker_id}/drain"): ids("worker_id"),
    ("POST", "/v1/workers/{worker_id}/restart"): ids("worker_id"),
    ("DELETE", "/v1/workers/{worker_id}"): ids("worker_id"),
    ("GET", "/v1/workers/{worker_id}/logs"): [
        *ids("worker_id"),
        *(Row(query=wrong.replace("limit", "tail").replace("1001", "10001")) for wrong in QUERIES),
    ],
    ("GET", "/v1/events"): [],
    ("GET", "/v1/endpoints/{endpoint}/bill"): [
        *ids("endpoint"),
        *(
            Row(query=f"{name}={wrong}", path={"endpoint": "llm"})
            for name in ("days", "wait_s")
            for wrong in ("x", "-1", "nan")
        ),
    ],
    ("GET", "/v1/audit"): [
        Row(query=f"{name}={wrong}")
        for name in ("before", "limit", "since", "until", "endpoint")
        for wrong in ("x", "-1", "%00", "9" * 400)
    ],
    ("GET", "/v1/audit/verify"): [Row(query=f"head={wrong}") for wrong in ("x", "1:", f"{'9' * 40}:{'0' * 64}", "%00")],
    ("GET", "/v1/orphans"): [],
    ("POST", "/v1/orphans/destroy"): of({"instance_id": (*TEXTS, "", "nobody"), "provider": TEXTS}, instance_id="x"),
    ("POST", "/v1/orphans/adopt"): of(
        {"instance_id": (*TEXTS, "", "nobody"), "workergroup_id": NUMBERS}, instance_id="x", workergroup_id=1
    ),
    ("GET", "/v1/providers"): [],
    ("POST", "/v1/providers/{name}/check"): ids("name"),
    ("GET", "/v1/offers"): [
        *(Row(query=f"endpoint={wrong}") for wrong in ("nobody", "llm&search=x", "llm&disk_gb=1", "%00")),
        *(Row(query=f"search={wrong}") for wrong in ("gpu_ram", "x%20about%203", "%3E")),
        *(Row(query=f"disk_gb={wrong}") for wrong in ("-1", "nan", "inf", "1e9", "much")),
        *(Row(query=f"limit={wrong}") for wrong in ("0", "-1", "1001", "1.5", "all")),
        Row(query="provider=nobody"),
    ],
    ("GET", "/v1/accounts"): [],
    ("POST", "/v1/accounts"): of({"name": (*TEXTS, "")}, name="x"),
    ("GET", "/v1/keys"): [],
    ("POST", "/v1/keys"): of(
        {"name": (*TEXTS, ""), "scope": (*TEXTS, "king"), "digest": ("x",), **LIMITS}, name="x", scope="read"
    ),
    ("PUT", "/v1/keys/{key_id}"): [*ids("key_id"), *of({"name": ("", "x" * 256), "scope": ("read",), **LIMITS})],
    ("DELETE", "/v1/keys/{key_id}"): ids("key_id"),
    ("GET", "/v1/users"): [],
    ("POST", "/v1/users"): of(
        {"name": (*TEXTS, "", "x" * 256), "scope": (*TEXTS, "king"), "password": (7, "short", "x" * 2000)},
        name="x",
        scope="read",
        password="a long password",
    ),
    ("PUT", "/v1/users/{name}"): [*ids("name"), *of({"scope": ("king", 7), "password": (7, "short")})],
    ("DELETE", "/v1/users/{name}"): ids("name"),
    ("GET", "/v1/sign-in"): [],
    ("GET", "/v1/oidc/begin"): [],
    ("GET", "/v1/oidc/end"): [Row(query=wrong) for wrong in ("", "code=x", "state=x", "code=x&state=%00")],
    ("GET", "/v1/costs"): [
        *(Row(query=f"by={wrong}") for wrong in ("nobody", "%00")),
        *(Row(query=f"last_s={wrong}") for wrong in ("0", "-1", "nan", "inf", "1e11", "long")),
        Row(query="endpoint=nobody"),
    ],
    ("GET", "/v1/aliases"): [],
    ("PUT", "/v1/aliases/{name}"): ids("name"),
    ("DELETE", "/v1/aliases/{name}"): ids("name"),
    ("GET", "/v1/manifests"): [],
    ("GET", "/v1/manifests/{name}"): ids("name"),
    ("PUT", "/v1/manifests/{name}"): [
        *ids("name"),
        *(Row(path={"name": "x"}, body={"endpoint": "x", "template": "y", **wrong}) for wrong in MANIFESTS),
        Row(path={"name": "x"}, query="dry_run=7", body={"endpoint": "x", "template": {}}),
    ],
    ("DELETE", "/v1/manifests/{name}"): [*ids("name"), Row(path={"name": "x"}, query="dry_run=maybe")],
}


@pytest.fixture
async def server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Running]:
    """A server whose logs, at the level debug, hold no traceback, no key and no token in the end."""
    flags = {**UNLIMITED, "server.route_hold_s": 0.1, "server.max_body_bytes": MAX_BODY_BYTES}
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "aiosqlite")  # it tells of every statement
    with capture_logs() as ours:
        async with live_server(tmp_path / "data", **flags) as server:
            yield server
    keyring = Keyring((tmp_path / "data" / "secret").read_bytes(), [], lambda _: None)
    out, err = capfd.readouterr()
    logged = f"{out}{err}{caplog.text}{ours}"
    assert "Traceback" not in logged
    assert server.admin_key not in logged
    for number in range(1, 10):
        assert keyring.worker_token(number) not in logged
        assert keyring.endpoint_key(number, 1) not in logged


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def complaint(here: Site, method: str, path: str, row: Row, key: str) -> str:
    """What is wrong with the answer to a row; empty if it is a refusal that the wire's peers and people understand."""
    hot = (method, path) in ROUTES
    for name in ("endpoint_id", "group_id", "worker_id", "endpoint", "key_id", "asset", "path", "name"):
        path = path.replace(f"{{{name}}}", row.path.get(name, "4711"))
    body = row.body if isinstance(row.body, bytes) else b"" if row.body is None else json.dumps(row.body).encode()
    case = Case(method, path, row.query, (("authorization", f"Bearer {key}"),), body)
    status, said = await here.answer(case)
    if status < 400:
        clear = row.ignored
    else:
        shape = set(json.loads(said)) if said else set()
        clear = shape == {"success", "error", "msg"} or (hot and shape == {"error"}) or (method == "HEAD" and not said)
        clear = clear and len(said) < 1000  # it does not give back all that it was sent
    return "" if clear else f"{method} {path[:80]}?{row.query[:80]} {body[:80]!r}: {status} {said[:200]!r}"


async def test_every_route_has_rows(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert calls(here.app) | set(ROUTES) == set(ROWS)


@pytest.mark.parametrize("each", [7, long(1)])
async def test_every_wrong_call_is_refused_in_words_and_no_secret_is_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, each: int
) -> None:
    """Every one, or one of so many, which leaves some to every route."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, "aiosqlite")  # it tells of every statement
    public = {path for (_, path), row in ROUTES.items() if row.access.name == "public"}
    public |= {"/docs", "/docs/{asset}", "/openapi.json", "/", "/console", "/console/{path}", "/v1/session"}
    public |= {"/v1/sign-in", "/v1/oidc/begin", "/v1/oidc/end"}
    complaints = []
    async with site(tmp_path) as here:
        keys = here.secrets
        made = {"key": "HF_TOKEN", "value": "hf_a_value_that_nobody_logs"}
        assert (await here.web.call("POST", "/api/v0/secrets", made)).status == 200
        here.secrets["value"] = made["value"]
        wrong = []
        for (method, path), rows in ROWS.items():
            wrong += [(method, path, row, keys["admin"]) for row in rows]
            for body in BODIES.values():
                wrong.append((method, path, Row(body, ignored=True), keys["admin"]))
                if path not in public:
                    wrong.append((method, path, Row(body), keys["wrong"]))
        for method, path, row, key in wrong[::each]:
            complaints.append(await complaint(here, method, path, row, key))
        assert "\n".join(filter(None, complaints)) == ""
        authorized = (("authorization", f"Bearer {keys['endpoint']}"),)
        status, said = await here.answer(Case("POST", "/route/", "", authorized, b'{"endpoint":"llm","cost":1}'))
        assert (status, "url" in json.loads(said)) == (200, True)
        out, err = capfd.readouterr()
        logged = out + err + caplog.text
        assert "Traceback" not in logged
        for role, secret in here.secrets.items():
            assert secret not in logged, role


# -- keys in many places ---------------------------------------------------------------------------------------------

PLACES = list(product(("none", "good", "wrong"), repeat=3))


async def test_keys_in_many_places_that_differ_are_none(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession
) -> None:
    await owner.create_endpoint("llm", min_load=0, cold_workers=0)
    keys = {"none": "", "good": server.admin_key, "wrong": "wrong"}
    for places in PLACES:
        header, body, query = (keys[place] for place in places)
        allowed = set(places) - {"none"} == {"good"}
        for method, path in (("POST", "/route/"), ("GET", "/v1/status"), ("POST", "/get_endpoint_workers/")):
            said: dict[str, Any] = {"endpoint": "llm", "id": 1}
            if body:
                said["api_key"] = body
            async with http.request(
                method,
                f"{server.url}{path}",
                json=said,
                headers={"Authorization": f"Bearer {header}"} if header else {},
                params={"api_key": query} if query else {},
            ) as reply:
                assert reply.status == (200 if allowed else 401), (method, path, places)


NO_KEYS = (
    *("Basic YTpi", "Bearer", "Bearer a b", "Bearer " + "x" * 5000, "bearer\tx", "\x80\xff", "Digest x=1, y=2", "''"),
)


async def test_what_is_no_key_lets_nobody_in(server: Running, owner: AsyncClient, http: aiohttp.ClientSession) -> None:
    await owner.create_endpoint("llm", min_load=0, cold_workers=0)
    wrongs: tuple[Any, ...] = (7, True, None, [], {}, ["x"])
    said = {"endpoint": "llm", "id": 1}
    for path in ("/route/", "/get_endpoint_workers/"):
        for header in NO_KEYS:
            async with http.post(f"{server.url}{path}", json=said, headers={"Authorization": header}) as reply:
                assert reply.status == 401, header
        for wrong in wrongs:
            body = {**said, "api_key": wrong, "api_token": wrong}
            async with http.post(f"{server.url}{path}", json=body) as reply:
                assert reply.status == 401, wrong


# -- what workers tell -----------------------------------------------------------------------------------------------

ABSURD: dict[str, list[Any]] = {
    "max_perf": [-5, -1e308, 1e13, "inf", "nan", "1e999", True, [], {}, "x"],
    "cur_load": ["nan", "-inf", -1e13, 1e13, [1], {"a": 1}, "x"],
    "num_requests_working": [-1, 1.5, 2**60, "x", [1], True],
    "working_request_idxs": [
        "all",
        {"1": 1},
        7,
        [1.5],
        ["x"],
        [None],
        [[1]],
        [True],
        [2**63 + 1],
        [-(2**70)],
        [1] * (MAX_INDEXES + 1),
        [1] * 1_000_000,
    ],
    "url": [7, [], {}, True, "http://" + "x" * 3000],
    "version": [7, [], "x" * 65],
    "error_msg": [7, [], {}, True],
    "id": [None, -1, 1.5, "x", [], {}, True, "1" * 400],
}
HARMLESS: dict[str, list[Any]] = {
    "cur_perf": ["x", [], {}, -5, 1e308],
    "new_load": ["x", [], -5, 1e308],
    "disk_usage": ["x", [], -5, 1e308],
    "additional_disk_usage": ["x", [], -1e308],
    "cur_load": [-5],
    "error_msg": [""],
    "loadtime": ["nan", -1, []],
    "version": ["9" * 64, "x", "\ud83d\ude80"],
    "working_request_idxs": [[-1, 0, 2**63 - 1], list(range(10**15, 10**15 + 1000))],
}
"""Figures that are only shown, and indexes of nobody: taken in, bounded or left out."""


async def test_absurd_reports_change_nothing(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    assert (await puppet.report())[0] == 200
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    before = fleet.workers
    for name, values in ABSURD.items():
        for value in values:
            raw = json.dumps(puppet.form("W4", **{name: value})).encode()
            async with http.post(f"{server.url}/worker_status/", data=io.BytesIO(raw)) as reply:
                status, said = reply.status, await reply.json()
            assert status == 400, (name, str(value)[:60], said)
            assert name in said["error"] or "body" in said["error"], (name, said)
            assert len(said["error"]) < 300
    for literal in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        for name in ("max_perf", "cur_load", "cur_perf", "disk_usage"):
            raw = json.dumps(puppet.form("W4", **{name: "?"})).encode().replace(b'"?"', literal)
            async with http.post(f"{server.url}/worker_status/", data=raw) as reply:
                assert reply.status == 400, (name, literal)
    assert {i: (w.state, w.perf, w.url) for i, w in fleet.workers.items()} == {
        i: (w.state, w.perf, w.url) for i, w in before.items()
    }
    for name, values in HARMLESS.items():
        for value in values:
            assert (await puppet.report(**{name: value}))[0] == 200, (name, str(value)[:60])
    managed = server.hub.named("llm")
    assert managed is not None
    figures = managed.worker_stats(next(iter(fleet.workers)))
    assert all(abs(amount) <= 1e12 for amount in (figures.taken, figures.disk_gb))
    assert fleet.ledger.outstanding() == 0
    assert "url" in (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]


def elsewhere(own: str) -> list[str]:
    """Addresses that are not exactly the worker's own, `http://127.0.0.1:PORT`, however much like it they look."""
    port = own.rpartition(":")[2]
    hosts = (
        *("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[fe80::1%25lo]", "127.0.0.1."),
        *("localhost", "127.0.0.1.nip.io", "localtest.me", "１２７.0.0.1", "127。0。0。1", "127.0.0.2", "10.0.0.1"),
        *("169.254.169.254", "169.254.1.1", "[fd00:ec2::254]", "metadata.google.internal", "100.100.100.200"),
        *("user@127.0.0.1", f"127.0.0.1:{port}@evil.example", "evil.example#127.0.0.1", "evil.example?127.0.0.1"),
        *("127.0.0.1\\@evil.example", "127.0.0.1%00", "127.0.0.1\n", "127.0.0.1\t", " 127.0.0.1", "127.0.0.1\0"),
    )
    return [
        *(f"http://{host}:{port}" for host in hosts),
        *(f"http://{host}" for host in ("169.254.169.254", "127.0.0.1", "[::1]")),
        "http://169.254.169.254/latest/meta-data/",
        *(own + more for more in ("/", "/../x", "?x", "#x", "@evil.example", "\\@evil.example", " ", "\n", "\0", ":1")),
        own.replace(f":{port}", f":0{port}"),
        own.replace(f":{port}", ":1"),
        own.replace("http://", "ftp://"),
        own.replace("http://", "HTTP://"),
        own.replace("http://", "http:"),
        own.replace("http://", "//"),
        own.replace("http://", "http://http://"),
        f"javascript:{own}",
        f"file://127.0.0.1:{port}",
        "x",
        "://",
        "http://",
        "http://:",
    ]


async def test_no_address_but_a_workers_own_is_handed_out_however_it_is_written(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    for ready in (False, True):
        if ready:
            assert (await puppet.report())[0] == 200
        for url in elsewhere(puppet.url):
            counted = fleet.counters.refused_addresses
            assert (await puppet.report(url=url))[0] == 200
            assert fleet.counters.refused_addresses == counted + 1, url
            assert {worker.url for worker in fleet.workers.values()} <= {"", puppet.url}, url
        _, reply = await route(http, server, {"endpoint": "llm", "cost": 1})
        assert reply.get("url", puppet.url) == puppet.url
    assert (await puppet.report())[0] == 200
    assert (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]["url"] == puppet.url


async def test_a_worker_speaks_for_no_other(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    both = await two_ready(server, owner, http, tmp_path / "data")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    _, reply = await route(http, server, {"endpoint": "llm", "cost": 50})
    mine = next(p for p in both if p.url == reply["url"])
    other = next(p for p in both if p.url != reply["url"])
    idx = reply["request_idx"]
    # It says that it works on the other's request, or has ended it.
    assert (await other.report(working_request_idxs=[idx], cur_load=50))[0] == 200
    ends: tuple[dict[str, Any], ...] = (
        {"request_idxs": [idx]},
        {"request_idxs": list(range(idx - 500, idx + 500))},
        {"requests": [{"request_idx": idx, "success": True, "status": "Success"}] * 100},
    )
    for body in ends:
        refused_before = fleet.counters.refused_ends
        ended = {"worker_id": other.id, "mtoken": other.token, **body}
        assert (await other.post("/delete_requests/", ended))[0] == 200
        assert fleet.counters.refused_ends > refused_before
    assert list(fleet.ledger.at) == [mine.id]
    assert fleet.ledger.outstanding() == 50
    # With every mix of tokens but its own alone.
    state = {i: (w.state, w.url, w.perf) for i, w in fleet.workers.items()}
    refusals = [
        await speak(mine, other.token, None),
        await speak(mine, other.token, mine.token),
        await speak(mine, mine.token, other.token),
        await speak(mine, "", ""),
        await speak(mine, "", other.token),
        await speak(mine, mine.token[:-1], None),
        await speak(mine, mine.token + "A", None),
        await speak(mine, mine.token.swapcase(), None),
        await speak(mine, mine.token, mine.token.swapcase()),
        await speak(mine, server.admin_key, None),
        await speak(mine, "é" * 43, None),
    ]
    assert [status for answers in refusals for status in answers] == [401] * 2 * len(refusals)
    assert {i: (w.state, w.url, w.perf) for i, w in fleet.workers.items()} == state
    assert fleet.ledger.outstanding() == 50


async def speak(puppet: Puppet, in_body: str, in_path: str | None) -> list[int]:
    """The answers to a report of failure and to an end, each with these tokens."""
    report = puppet.form("W4", mtoken=in_body, error_msg="I am broken", max_perf=0)
    ended = {"worker_id": puppet.id, "mtoken": in_body, "request_idxs": [1]}
    return [
        (await puppet.post(path, body, in_path))[0]
        for path, body in (("/worker_status/", report), ("/delete_requests/", ended))
    ]


# -- below the calls: what is no HTTP, or hardly ---------------------------------------------------------------------

WIRE = {
    "nothing": b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "another version": b"GET /healthz HTTP/9.9\r\n\r\n",
    "an unknown method": b"STEAL /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}    ",
    "a length and chunks": b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n",
    "a negative length": b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a huge length": b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 60 + b"\r\n\r\n",
    "a chunk of no size": b"POST /route/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunked twice": b"POST /route/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"POST /route/ HTTP/1.1\r\nHost : x\r\n\r\n",
    "a NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "a NUL in the path": b"GET /health\0z HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path of no ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "an escaped NUL": b"GET /v1/endpoints/%00%ff/explain HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path without a slash": b"GET healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a whole address": b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "an upgrade": b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "an upgrade to HTTP/2": b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
    "ways around": b"".join(
        b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path
        for path in (
            b"//v1/keys",
            b"/v1//keys",
            b"/v1/./keys",
            b"/docs/../v1/keys",
            b"/v1/keys;x",
            b"/V1/KEYS",
            b"/w//v1/keys",
            b"/w/x/v1/keys",
            b"/api/v0/v1/keys",
            b"/%76%31/keys",
            b"/v1%2fkeys",
            b"/w/a/b/",
        )
    ),
    "a thousand at once": b"GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
}


async def test_what_is_hardly_http_is_refused_and_the_next_call_is_served(
    server: Running, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host, port = server.url.removeprefix("http://").split(":")
    for what, raw in WIRE.items():
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(raw + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            connection.setblocking(False)
            caller = Reader(connection)
            await until(caller.is_answered, f"{what}: it is answered, or closed")
        for line in caller.said.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                assert int(line.split()[1]) in (200, 400, 401, 403, 404, 405), (what, line)
        assert b"Traceback" not in caller.said, what
        assert b'"digest"' not in caller.said, what
        async with http.get(f"{server.url}/healthz") as reply:
            assert reply.status == 200, what
    assert "Traceback" not in caplog.text


@dataclass
class Reader:
    connection: socket.socket
    said: bytes = b""

    def is_answered(self) -> bool:
        """Reads what has come; true once something has, or the server has closed the connection."""
        with suppress(BlockingIOError):
            try:
                while data := self.connection.recv(1 << 20):
                    self.said += data
            except ConnectionResetError:
                pass
            return True
        return b"HTTP/1.1" in self.said
