"""What is sent: for each call, what its description allows and much that it does not."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from posthouse.domain.endpoint import PARAMETERS
from posthouse.server.fastpath import ROUTES
from posthouse.template import Template, Workergroup
from tests.fuzz.site import ENDPOINT, WORKER_ID, Case, Site
from tests.kit.bodies import DELETES, ROUTE, STATUS

ROLES = ("none", "wrong", "endpoint", "worker", "route", "read", "operate", "admin")
PLACES = ("bearer", "bare", "body", "query", "everywhere")

ODD_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "0",
        "1",
        "2",
        "-1",
        "1.5",
        "1e999",
        "NaN",
        "null",
        "true",
        "none",
        ENDPOINT,
        "١",
        "é",
        "\0",
        "\r\nX: y",
        "../..",
        "%00",
        "a" * 300,
        "9" * 50,
        "{}",
        "[",
        '{"id":{"eq":1}}',
        "gpu_ram>=24",
        "-e A=b",
        "\ud800",
        "𝟙",
        "U",
    ]
)
TEXTS = ODD_TEXTS | st.text(max_size=20)
NUMBERS = st.sampled_from([0, 1, 2, -1, 0.5, 1e308, -1e308, 2**31, 2**53, 2**63, 2**64, 10**30]) | (
    st.integers() | st.floats()
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=4), max_leaves=10)
FIELDS = sorted(
    {
        *PARAMETERS,
        *(f.name for kind in (Template, Workergroup) for f in fields(kind)),
        *("id", "name", "scope", "key", "value", "q", "limit", "order", "type", "allocated_storage", "gpu_name"),
        *("endpoint", "endpoint_name", "endpoint_state", "endpoint_id", "template_hash", "template_id", "hash_id"),
        *("recommended_disk_space", "workergroup_id", "cancel_update", "tail", "search_params", "gpu_ram", "verified"),
    }
)
"""Names that some call reads."""
GOOD = {"endpoint_name": ENDPOINT, "endpoint": ENDPOINT, "name": "x", "scope": "read", "key": "A", "value": "b"}
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6) | st.fixed_dictionaries(
    {}, optional={name: st.just(GOOD.get(name, 1)) | VALUES for name in FIELDS}
)
RAW = (
    st.binary(max_size=100)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.integers(1, 5000).map(lambda depth: b"[" * depth)
    | st.integers(1, 5000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth)
)
BODIES: dict[str, st.SearchStrategy[Any]] = {
    "/route": ROUTE,
    "/worker_status": STATUS.map(lambda said: {"id": WORKER_ID, **said}) | STATUS,
    "/delete_requests": DELETES.map(lambda said: {**said, "worker_id": WORKER_ID}) | DELETES,
}


def targets(site: Site) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every call: its method, its path, and what the API's own description says of it."""
    for method, path in ROUTES:
        query = [{"name": "instance_id", "in": "query", "schema": {"type": "integer"}}]
        yield method, path, {"parameters": query if path == "/sign_cert" else []}
    described = site.app.openapi()["paths"]
    for path, methods in described.items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def cases(site: Site, method: str, path: str, operation: Mapping[str, Any]) -> st.SearchStrategy[tuple[str, Case]]:
    """Cases of one call, each with the role of who makes it."""
    parameters = {(p["in"], p["name"]): _value(p["schema"]) for p in operation.get("parameters", [])}
    in_path = {name: value for (where, name), value in parameters.items() if where == "path"}
    in_query = {name: value for (where, name), value in parameters.items() if where == "query"}
    bodies = BODIES.get(path, OBJECTS)

    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[str, Case]:
        role, place = draw(st.sampled_from(ROLES)), draw(st.sampled_from(PLACES))
        key = site.secrets.get(role, "")
        filled = path
        for name, value in in_path.items():
            filled = filled.replace(f"{{{name}}}", _quoted(draw(value)))
        if path in FAST_PATHS and draw(st.booleans()):
            filled = draw(st.sampled_from(["/api/v0", f"/w/{key or 'x'}", f"/w/{site.secrets['worker']}"])) + filled
        query = [f"{_quoted(n)}={_quoted(draw(v))}" for n, v in in_query.items() if draw(st.booleans())]
        if draw(st.integers(0, 9)) == 0:
            query.append(f"{_quoted(draw(TEXTS))}={_quoted(draw(TEXTS))}")
        headers = []
        body: Any = draw(bodies) if draw(st.integers(0, 9)) else draw(VALUES)
        if key and place in ("bearer", "everywhere"):
            headers.append(("authorization", f"Bearer {key}"))
        if key and place == "bare":
            headers.append(("authorization", key))
        if key and place in ("query", "everywhere"):
            query.append(f"api_key={key}")
        if isinstance(body, dict) and key and place in ("body", "everywhere"):
            body = {**body, draw(st.sampled_from(["api_key", "api_token", "mtoken"])): key}
        raw = draw(RAW) if draw(st.integers(0, 19)) == 0 else json.dumps(body).encode()
        if draw(st.integers(0, 9)) == 0:
            raw = b""
        slash = "/" if draw(st.booleans()) else ""
        return role, Case(method, filled + slash, "&".join(query), tuple(headers), raw)

    return drawn()


FAST_PATHS = {path for _, path in ROUTES}


def _value(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    if schema.get("type") == "integer":
        return st.sampled_from([1, 2, 3]) | st.integers() | TEXTS
    return st.just(ENDPOINT) | TEXTS


def _quoted(value: object) -> str:
    return quote(str(value), safe="", errors="surrogatepass")


def recorded_bodies() -> list[bytes]:
    """Bodies that peers were seen to send."""
    found = []
    for file in sorted((Path(__file__).parents[1] / "fixtures" / "wire").glob("*.json")):
        found += [json.dumps(r["body"]).encode() for r in json.loads(file.read_text())["requests"] if r.get("body")]
    return found


def mutated(bodies: list[bytes]) -> st.SearchStrategy[bytes]:
    """Those bodies with parts of them replaced, doubled or left out."""
    pieces = st.binary(max_size=4) | st.sampled_from(
        [
            b"",
            b'"',
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"-",
            b"1e999",
            b"NaN",
            b"null",
            b"true",
            b"\\ud800",
            b"\xff",
            b"9" * 30,
            b'"id"',
            b'"url"',
            b'"request_idxs"',
            b'"requests"',
            b"[" * 2000,
            b'"\\u0000"',
        ]
    )
    cut = st.tuples(st.floats(0, 1), st.integers(0, 20), pieces)

    def apply(body: bytes, cuts: list[tuple[float, int, bytes]]) -> bytes:
        for at, length, piece in cuts:
            start = int(at * len(body))
            body = body[:start] + piece + body[start + length :]
        return body

    return st.builds(apply, st.sampled_from(bodies), st.lists(cut, min_size=1, max_size=4))
