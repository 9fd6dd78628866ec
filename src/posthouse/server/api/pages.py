"""Our own calls for who is about to do something: recipes, endpoints made whole, what a change would do, a request to
try."""

from collections.abc import AsyncGenerator, Callable
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, Strict, StringConstraints

from posthouse.engine.management import Management
from posthouse.engine.management.deploy import NewDeployment
from posthouse.engine.management.inputs import EndpointChanges, OwnInput
from posthouse.engine.outlook import outlook
from posthouse.engine.recorder import traffic
from posthouse.engine.what_if import WhatIf
from posthouse.errors import BadRequest, Refused
from posthouse.recipes import names, recipe
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.auth import Keyring
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller
from posthouse.wire import rows

Ask = Callable[[str, str, str, object, float | None], AsyncGenerator[rows.Tried, None]]
"""Sends a request to an endpoint: its name, its key, path, body and cost."""
Path = Annotated[str, Strict(), StringConstraints(pattern=r"^/[!-~]{0,254}$")]
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Attempt(OwnInput):
    """A request for an endpoint's model server, sent by the server to one of its workers."""

    path: Path
    """At the worker, like `/v1/chat/completions`."""
    payload: dict[str, Any]
    """Its body."""
    cost: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    """The work that it is; null: as is usual at the endpoint."""


class Considered(OwnInput, EndpointChanges):
    """A change of an endpoint that is thought about; what is absent or null stays."""


class Supposed(OwnInput):
    """A change of scaling parameters, to be tried on recorded traffic."""

    change: Annotated[dict[str, Any], Field(min_length=1, max_length=64)]
    """Parameters by name."""
    last_s: Annotated[float, Field(ge=60, le=14 * 86_400)] = 86_400.0
    """How much of the record is played, in seconds."""
    goal_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """Longest wait for a worker that is well; null: the endpoint's `target_queue_time`."""


def add_page_routes(app: FastAPI, management: Management, keyring: Keyring, ask: Ask | None) -> None:
    _add_deployment_routes(app, management)
    _add_endpoint_routes(app, management)
    hub = management.hub

    @app.post(
        "/v1/endpoints/{endpoint:path}/try",
        response_model=rows.Tried,
        responses={200: {"content": {"application/x-ndjson": {}}}},
    )
    async def try_endpoint(endpoint: str, attempt: Attempt, caller: Caller) -> Response:
        """Sends a request to a worker of the endpoint and tells what becomes of it, an object a line: why it waits,
        when its answer begins, each piece of it, and its end. For trying: it passes through the server, which has few
        at once. Keys with limits send their requests themselves."""
        found = hub.find(find_endpoint(hub, caller, endpoint))
        if ask is None:
            raise Refused("this server sends no requests")
        if caller.meter is not None:
            raise Forbidden(
                "this key has limits, and requests that the server sends do not count against them: send it yourself"
            )
        key = keyring.endpoint_key(found.id, found.key_version)
        events = ask(found.name, key, attempt.path, attempt.payload, attempt.cost)
        first = await anext(events)  # what is refused is refused before the answer begins

        async def lines() -> AsyncGenerator[bytes, None]:
            try:
                yield msgspec.json.encode(first) + b"\n"
                async for one in events:
                    yield msgspec.json.encode(one) + b"\n"
            finally:
                await events.aclose()

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers=HEADERS)


def _add_deployment_routes(app: FastAPI, management: Management) -> None:
    deployments = management.deployments

    @app.get("/v1/recipes")
    def list_recipes() -> list[rows.Recipe]:
        """What workers can run for an engine, each with its parameters."""
        return _recipes()

    @app.post("/v1/deployments", status_code=201)
    async def deploy(new: NewDeployment, caller: Caller) -> rows.Deployed:
        """Makes an endpoint with all that its workers need: template, endpoint and workergroup, or none of them."""
        return await deployments.create(new, caller.account_id, caller.sees)

    @app.post("/v1/deployments/estimate")
    async def estimate_deployment(new: NewDeployment, caller: Caller) -> rows.Estimate:
        """What such an endpoint would come to: offers that fit, cost and time to start. Nothing is made."""
        return deployments.estimate(new, caller.account_id, caller.sees)


def _add_endpoint_routes(app: FastAPI, management: Management) -> None:
    hub, what_if = management.hub, WhatIf()

    @app.post("/v1/endpoints/{endpoint:path}/outlook")
    async def foresee(endpoint: str, changes: Considered, caller: Caller) -> rows.Outlook:
        """The next decision about the endpoint and what it comes to cost, as it is and with the changes. Nothing is
        changed."""
        managed = hub.managed(find_endpoint(hub, caller, endpoint))
        return outlook(hub, managed, management.endpoints.foreseen(managed.fleet.endpoint, changes))

    @app.post("/v1/endpoints/{endpoint:path}/what-if", response_model=rows.WhatIf)
    async def suppose(endpoint: str, supposed: Supposed, caller: Caller) -> Response:
        """The endpoint's own traffic under two settings: as it is, and with the change; beside what really happened.
        It takes up to three minutes, in a process of its own, one at a time. Nothing is changed."""
        endpoint_id = find_endpoint(hub, caller, endpoint)
        scaling = hub.find(endpoint_id).scaling
        changed = scaling.changed(supposed.change)
        change = {name: getattr(changed, name) for name in supposed.change}
        if changed == scaling:
            raise BadRequest("change: is what the endpoint has; name another value")
        recorded = await traffic(hub, endpoint_id, supposed.last_s)
        goal_s = scaling.target_queue_time if supposed.goal_s is None else supposed.goal_s
        return Response(await what_if.run(recorded, change, goal_s), media_type="application/json")


@lru_cache(1)
def _recipes() -> list[rows.Recipe]:
    return [_recipe(name) for name in names()]


def _recipe(name: str) -> rows.Recipe:
    found = recipe(name)
    return rows.Recipe(
        name=name,
        desc=found.desc,
        image=found.image,
        gpus=bool(found.gpus),
        disk_gb=found.disk_gb,
        gpu_ram_gb=found.gpu_ram_gb,
        parameters=[
            rows.RecipeParameter(
                name=key,
                help=one.help,
                kind=one.kind,
                default=None if one.default is None else str(one.default),
                allowed=one.allowed,
                choices=list(one.choices),
            )
            for key, one in found.parameters.items()
        ],
    )
