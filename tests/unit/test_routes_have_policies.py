"""No call without a policy, no policy without a call."""

from typing import Any

from fastapi import FastAPI

from posthouse.config import Limits
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.server.auth import SECRET_BYTES, Keyring, Scope
from posthouse.server.policies import POLICIES, PUBLIC
from posthouse.server.web import web_app
from tests.kit.routes import calls

NO_STORE: Any = None  # nothing is called here


def app() -> FastAPI:
    hub = Hub(NO_STORE, SystemClock(), {}, "", "test", stabilization_s=0.0)
    return web_app(hub, Keyring(bytes(SECRET_BYTES), [], hub.endpoint), Limits(), explain=NO_STORE)


async def answered(app: FastAPI, **scope: Any) -> dict[str, Any]:
    """The first thing that the application sends back."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    nothing = {"headers": [], "query_string": b"", "root_path": "", "path_params": {}}
    await app({**nothing, **scope}, receive, send)
    return sent[0]


def test_every_route_has_a_policy_and_every_policy_a_route() -> None:
    assert calls(app()) == set(POLICIES)


def test_only_the_documentation_the_console_s_files_and_signing_in_are_public() -> None:
    public = {path for (_, path), least in POLICIES.items() if least is PUBLIC}
    files = {"/", "/console", "/console/{path}"}
    ways = {"/v1/sign-in", "/v1/oidc/begin", "/v1/oidc/end"}
    assert public == {"/docs", "/docs/{asset}", "/openapi.json", "/v1/session"} | ways | files
    assert POLICIES["GET", "/v1/session"] is POLICIES["DELETE", "/v1/session"] is Scope.READ


def test_a_key_that_only_routes_changes_nothing() -> None:
    """An endpoint's key has that scope, and every worker it serves gets to see it."""
    open_to_it = {(method, path) for (method, path), least in POLICIES.items() if least is Scope.ROUTE}
    assert open_to_it == {
        ("GET", "/api/v0/endptjobs/{endpoint_id}"),
        ("GET", "/v1/endpoints"),
        ("GET", "/v1/aliases"),
        ("POST", "/get_endpoint_workers"),
        ("POST", "/get_autogroup_workers"),
        ("POST", "/get_workergroup_workers"),
    }


def test_whatever_changes_something_needs_more_than_reading() -> None:
    listings = {f"/get_{of}_{what}" for of in ("endpoint", "autogroup", "workergroup") for what in ("workers", "logs")}
    listings |= {"/api/v0/bundles", "/api/v0/search/asks", "/v1/session"}  # a session is its own key's
    listings |= {f"/v1/endpoints/{{endpoint}}/{what}" for what in ("outlook", "what-if")} | {"/v1/deployments/estimate"}
    listings |= {"/v1/endpoints/{endpoint}/try"}  # a request, which whoever may read may send to /route/
    for (method, path), least in POLICIES.items():
        if method not in ("GET", "HEAD") and path not in listings:
            assert least is not None
            assert least >= Scope.OPERATE, (method, path)


def test_keys_are_for_admins() -> None:
    assert {least for (_, path), least in POLICIES.items() if path.startswith("/v1/keys")} == {Scope.ADMIN}


def test_secrets_are_for_those_who_may_make_templates() -> None:
    assert {least for (_, path), least in POLICIES.items() if path == "/api/v0/secrets"} == {Scope.OPERATE}


async def test_a_route_without_a_policy_is_refused_to_everybody() -> None:
    careless = app()
    careless.get("/v1/forgotten")(lambda: "secret")
    for path, status in (("/v1/forgotten", 403), ("/v1/forgotten/", 403), ("/v1/unknown", 404)):
        answer = await answered(careless, type="http", method="GET", path=path)
        assert answer["status"] == status


async def test_a_websocket_is_refused() -> None:
    careless = app()
    careless.websocket("/v1/forgotten")(lambda: None)
    answer = await answered(careless, type="websocket", path="/v1/forgotten")
    assert answer == {"type": "websocket.close", "code": 1008}
