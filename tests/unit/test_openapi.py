"""The OpenAPI document is complete: types for the console and for other languages are made from it."""

from typing import Any

import pytest

from posthouse.config import Limits
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.server.auth import SECRET_BYTES, Keyring
from posthouse.server.web import web_app

NOTHING: Any = None  # no call is made

NO_BODY = {
    ("delete", "/api/v0/endptjobs/{endpoint_id}"),
    ("delete", "/api/v0/autojobs/{group_id}"),
    ("delete", "/api/v0/workergroups/{group_id}"),
    ("post", "/v1/endpoints/{endpoint}/rotate-key"),
    ("delete", "/v1/workers/{worker_id}"),
    ("post", "/v1/workers/{worker_id}/drain"),
    ("post", "/v1/workers/{worker_id}/restart"),
    ("delete", "/v1/session"),
    ("delete", "/v1/keys/{key_id}"),
    ("delete", "/v1/users/{name}"),
    ("delete", "/v1/aliases/{name}"),
    ("post", "/v1/providers/{name}/check"),
}
"""Writing calls whose path says all."""


def document() -> dict[str, Any]:
    hub = Hub(NOTHING, SystemClock(), {}, "", "test", stabilization_s=0.0)
    return web_app(hub, Keyring(bytes(SECRET_BYTES), [], hub.endpoint), Limits(), explain=NOTHING).openapi()


DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [(m, path, call) for path, calls in DOCUMENT["paths"].items() for m, call in calls.items()]
IDS = [f"{method} {path}" for method, path, _ in OPERATIONS]


def named(schema: dict[str, Any]) -> dict[str, Any]:
    """The named schema that this one, or each item of this list, refers to."""
    schema = schema.get("items", schema)
    found: dict[str, Any] = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    return found


@pytest.mark.parametrize(("method", "path", "call"), OPERATIONS, ids=IDS)
def test_every_answer_has_a_type(method: str, path: str, call: dict[str, Any]) -> None:
    good = {code: reply for code, reply in call["responses"].items() if code.startswith("2")}
    assert len(good) == 1
    for reply in good.values():
        answer = reply["content"]["application/json"]["schema"]
        for one in answer.get("anyOf", [answer]):  # a stream has events of several kinds
            schema = named(one)
            assert schema["properties"]
            assert "additionalProperties" not in schema
    assert set(call["responses"]) - set(good) == {"default"}
    assert named(call["responses"]["default"]["content"]["application/json"]["schema"]) == SCHEMAS["Error"]


@pytest.mark.parametrize(("method", "path", "call"), OPERATIONS, ids=IDS)
def test_every_body_has_a_type_and_ours_allow_nothing_else(method: str, path: str, call: dict[str, Any]) -> None:
    if method == "get" or (method, path) in NO_BODY:
        assert "requestBody" not in call
        return
    schema = named(call["requestBody"]["content"]["application/json"]["schema"])
    assert all(field.get("type") or field.get("anyOf") or field.get("$ref") or field.get("enum")
               for name, field in schema["properties"].items() if name not in IGNORED), schema  # fmt: skip
    if path.startswith("/v1/"):
        assert schema["additionalProperties"] is False


IGNORED = ("order", "disable_bundling", "client_id", "api_key", "api_token")
"""Of a search: taken in any form, as nothing is made of them."""


def test_what_people_speak_of_has_its_name() -> None:
    names = {"Endpoint", "Workergroup", "Template", "Worker", "Decision", "Reason", "Key", "Secret", "Scaling", "Error"}
    assert names <= set(SCHEMAS)
    assert not [name for name in SCHEMAS if "-" in name or "_" in name]


def test_a_scaling_parameter_says_what_it_means_and_how_far_it_goes() -> None:
    parameter = SCHEMAS["NewEndpoint"]["properties"]["target_util"]
    assert parameter["anyOf"][0] == {"type": "number", "minimum": 0.01, "maximum": 1}
    assert parameter["description"].endswith("A new endpoint has 0.9.")
