"""The OpenAPI document is complete: types for the console and for other languages are made from it."""

from functools import cache
from typing import Any

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
    ("delete", "/v1/workers/{worker_id}/drain"),
    ("post", "/v1/workers/{worker_id}/restart"),
    ("delete", "/v1/session"),
    ("delete", "/v1/keys/{key_id}"),
    ("delete", "/v1/users/{name}"),
    ("delete", "/v1/aliases/{name}"),
    ("delete", "/v1/manifests/{name}"),
    ("post", "/v1/providers/{name}/check"),
}
"""Writing calls whose path says all."""


@cache
def document() -> dict[str, Any]:
    hub = Hub(NOTHING, SystemClock(), {}, "", "test", stabilization_s=0.0)
    return web_app(hub, Keyring(bytes(SECRET_BYTES), [], hub.endpoint), Limits(), explain=NOTHING).openapi()


def schemas() -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"]
    return found


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, call) for path, calls in document()["paths"].items() for method, call in calls.items()]


def named(schema: dict[str, Any]) -> dict[str, Any]:
    """The named schema that this one, or each item of this list, refers to."""
    schema = schema.get("items", schema)
    found: dict[str, Any] = schemas()[schema["$ref"].rpartition("/")[2]]
    return found


def test_every_answer_has_a_type() -> None:
    for method, path, call in operations():
        good = {code: reply for code, reply in call["responses"].items() if code.startswith("2")}
        assert len(good) == 1, (method, path)
        for reply in good.values():
            answer = reply["content"]["application/json"]["schema"]
            for one in answer.get("anyOf", [answer]):  # a stream has events of several kinds
                schema = named(one)
                assert schema["properties"], (method, path)
                assert "additionalProperties" not in schema, (method, path)
        assert set(call["responses"]) - set(good) == {"default"}, (method, path)
        error = call["responses"]["default"]["content"]["application/json"]["schema"]
        assert named(error) == schemas()["Error"], (method, path)


def test_every_body_has_a_type_and_ours_allow_nothing_else() -> None:
    for method, path, call in operations():
        if method == "get" or (method, path) in NO_BODY:
            assert "requestBody" not in call, (method, path)
            continue
        schema = named(call["requestBody"]["content"]["application/json"]["schema"])
        assert all(field.get("type") or field.get("anyOf") or field.get("$ref") or field.get("enum")
                   for name, field in schema["properties"].items() if name not in IGNORED), (path, schema)  # fmt: skip
        if path.startswith("/v1/"):
            assert schema["additionalProperties"] is False, (method, path)


IGNORED = ("order", "disable_bundling", "client_id", "api_key", "api_token")
"""Of a search: taken in any form, as nothing is made of them."""


def test_what_people_speak_of_has_its_name() -> None:
    names = {"Endpoint", "Workergroup", "Template", "Worker", "Decision", "Reason", "Key", "Secret", "Scaling", "Error"}
    assert names <= set(schemas())
    assert not [name for name in schemas() if "-" in name or "_" in name]


def test_a_scaling_parameter_says_what_it_means_and_how_far_it_goes() -> None:
    parameter = schemas()["NewEndpoint"]["properties"]["target_util"]
    assert parameter["anyOf"][0] == {"type": "number", "minimum": 0.01, "maximum": 1}
    assert parameter["description"].endswith("A new endpoint has 0.9.")
